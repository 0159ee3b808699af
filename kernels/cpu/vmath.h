/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exp, tanh, erf and the logistic function in float32 as arithmetic alone: without a call or a
 * branch a loop over them is widened by the compiler, and since nothing is contracted every
 * instruction set gives the same bits. Polynomials are near-minimax fits of our own (least squares,
 * reweighted after Lawson 1961), of what is stated beside them.
 *
 * Greatest relative errors over all of float32, measured against double (test_vmath.c): exp 1e-7,
 * the logistic function, tanh and erf 2e-7. Results below the least normal number are off by no
 * more than the least number there is; the logistic function is 0 where it would be below 3e-39.
 * NaN stays the same NaN: which of two a product keeps is the compiler's choice, so none may arise.
 */
#ifndef CONSILIUM_KERN_CPU_VMATH_H
#define CONSILIUM_KERN_CPU_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float kern_float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t kern_bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float kern_abs(float x) {
    return kern_float_of(kern_bits_of(x) & 0x7fffffffu);
}

/* x with the sign of `like`; x >= 0. */
static inline float kern_sign_of(float x, float like) {
    return kern_float_of(kern_bits_of(x) | (kern_bits_of(like) & 0x80000000u));
}

/*
 * 2^k e^r with x = k ln 2 + r, |r| <= ln 2 / 2: the polynomial is (e^r - 1 - r) / r^2. Adding 1.5 *
 * 2^23 rounds to a whole number, which then lies in the lowest bits; 2^k is two factors, as it may
 * be below what one can say.
 */
static inline float kern_exp(float value) {
    const float round = 12582912.0f;
    float x = value < -104.0f ? -104.0f : value; /* 0 from here down, */
    x = x > 89.0f ? 89.0f : x;                   /* infinite from here up */
    float shifted = x * 1.44269504f + round, k = shifted - round;
    float r = (x - k * 0.693359375f) -
              k * -2.12194440e-4f; /* ln 2 in two parts: k * the first is exact */
    float p = 0.00138131448f;
    p = p * r + 0.00836941879f;
    p = p * r + 0.041668456f;
    p = p * r + 0.166665152f;
    p = p * r + 0.49999994f;
    float e = (p * r) * r + r + 1.0f;
    int32_t whole = (int32_t)kern_bits_of(shifted) - (int32_t)kern_bits_of(round);
    int32_t half = whole >> 1;
    e *= kern_float_of((uint32_t)(half + 127) << 23);
    e *= kern_float_of((uint32_t)(whole - half + 127) << 23);
    return isnan(value) ? value : e;
}

/* 1 / (1 + e^-x). */
static inline float kern_logistic(float x) {
    float y = 1.0f / (1.0f + kern_exp(-x));
    return isnan(x) ? x : y;
}

/* Below 0.625 x + x^3 times a polynomial of x^2, which is (tanh x - x) / x^3; else 1 - 2 / (e^2x +
 * 1). */
static inline float kern_tanh(float x) {
    float a = kern_abs(x), z = x * x;
    float p = -0.0057170447f;
    p = p * z + 0.0206505861f;
    p = p * z - 0.0537434965f;
    p = p * z + 0.133314908f;
    p = p * z - 0.333332837f;
    float near = (p * z) * x + x, far = 1.0f - 2.0f / (kern_exp(a + a) + 1.0f);
    float y = a < 0.625f ? near : kern_sign_of(far, x);
    return isnan(x) ? x : y;
}

/* Below 1 x times a polynomial of x^2, which is erf x / x; else 1 - e^-q, where q is a polynomial
 * of |x| and -ln(1 - erf |x|) on [1, 4]. */
static inline float kern_erf(float x) {
    float a = kern_abs(x), z = x * x;
    float p = 7.88912294e-05f;
    p = p * z - 0.000802084222f;
    p = p * z + 0.00518953567f;
    p = p * z - 0.0268544443f;
    p = p * z + 0.112836003f;
    p = p * z - 0.37612626f;
    p = p * z + 1.12837911f;
    a = a > 4.0f ? 4.0f : a;
    float q = -0.00018557407f;
    q = q * a + 0.00293960795f;
    q = q * a - 0.0218053199f;
    q = q * a + 0.103037372f;
    q = q * a + 0.638225675f;
    q = q * a + 1.12704003f;
    q = q * a + 0.000353718759f;
    float near = p * x, far = 1.0f - kern_exp(-q);
    float y = a < 1.0f ? near : kern_sign_of(far, x);
    return isnan(x) ? x : y;
}

#endif
