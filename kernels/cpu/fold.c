/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exact fold of the federation (kern.h): checks, choice of instruction set, the scalar
 * definition, and the one division at the root. This file is compiled without fused multiply-add,
 * and x * 2^f has at most float32's 24 significant bits, so no step but the stated roundings
 * rounds.
 */
#include "kernels/cpu/fold.h"
#include "kernels/kern.h"

#include <math.h>

static void scalar_f32(int64_t *acc, const float *x, size_t begin, size_t n, double scale,
                       uint32_t w, struct kern_refusal *refusal) {
    for (size_t i = begin; i < n; i++) {
        double q = rint((double)x[i] * scale);
        if (!(fabs(q) <= KERN_Q_MAX)) { /* so written, NaN is refused too */
            kern_refusal_add(refusal, 1, i);
            continue;
        }
        acc[i] = kern_wrap_add(acc[i], (int64_t)w * (int64_t)q);
    }
}

static void scalar_f32_wide(int64_t *hi, int64_t *lo, const float *x, size_t begin, size_t n,
                            double scale, uint32_t w, struct kern_refusal *refusal) {
    for (size_t i = begin; i < n; i++) {
        double v = (double)x[i] * scale, q = rint(v);
        if (!(fabs(q) <= KERN_Q_MAX)) {
            kern_refusal_add(refusal, 1, i);
            continue;
        }
        double r = rint((v - q) * KERN_Q_MAX); /* |v - q| <= 1/2, exact */
        hi[i] = kern_wrap_add(hi[i], (int64_t)w * (int64_t)q);
        lo[i] = kern_wrap_add(lo[i], (int64_t)w * (int64_t)r);
    }
}

static uint64_t scalar_f32_group(int64_t *acc, const float *const *x, const uint32_t *w, size_t n,
                                 double scale) {
    return kern_fold_group_rest(scalar_f32, acc, x, w, 0, n, scale);
}

static void scalar_i64(int64_t *acc, const int64_t *s, size_t begin, size_t n, int64_t limit,
                       struct kern_refusal *refusal) {
    for (size_t i = begin; i < n; i++) {
        if (s[i] > limit || s[i] < -limit) {
            kern_refusal_add(refusal, 1, i);
            continue;
        }
        acc[i] = kern_wrap_add(acc[i], s[i]);
    }
}

const struct kern_fold_ops kern_fold_scalar = {scalar_f32, scalar_f32_wide, scalar_f32_group,
                                               scalar_i64};

const struct kern_fold_ops *kern_fold_ops_for(enum kern_isa isa) {
    switch (isa) {
    case KERN_ISA_SCALAR:
        return &kern_fold_scalar;
#if defined(__x86_64__)
    case KERN_ISA_AVX2:
        return __builtin_cpu_supports("avx2") ? &kern_fold_avx2 : NULL;
    case KERN_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl")
                   ? &kern_fold_avx512
                   : NULL;
#endif
    default:
        return NULL;
    }
}

static const struct kern_fold_ops *widest(void) {
    const struct kern_fold_ops *ops = kern_fold_ops_for(KERN_ISA_AVX512);
    if (ops == NULL) {
        ops = kern_fold_ops_for(KERN_ISA_AVX2);
    }
    return ops != NULL ? ops : &kern_fold_scalar;
}

static uint64_t told(const struct kern_refusal *refusal, size_t *first_out) {
    if (refusal->count != 0 && first_out != NULL) {
        *first_out = refusal->first;
    }
    return refusal->count;
}

/* Out of range, everything is refused: the caller's bug then shows as a refused update. */
static uint64_t refuse_all(size_t n, size_t *first_out) {
    struct kern_refusal refusal = {n, 0};
    return told(&refusal, first_out);
}

static bool fold_fits(int frac_bits, uint32_t w) {
    return frac_bits >= -100 && frac_bits <= 100 && w >= 1 && w <= INT32_MAX;
}

uint64_t kern_fold_f32(int64_t *acc, const float *x, size_t n, int frac_bits, uint32_t w,
                       size_t *first_out) {
    if (!fold_fits(frac_bits, w)) {
        return refuse_all(n, first_out);
    }
    struct kern_refusal refusal = {0, SIZE_MAX};
    widest()->f32(acc, x, 0, n, ldexp(1, frac_bits), w, &refusal);
    return told(&refusal, first_out);
}

uint64_t kern_fold_f32_many(int64_t *acc, const float *const *x, const uint32_t *w, size_t count,
                            size_t n, int frac_bits) {
    const struct kern_fold_ops *ops = widest();
    double scale = ldexp(1, frac_bits);
    uint64_t refused = 0;

    for (size_t k = 0; k < count; k++) {
        if (!fold_fits(frac_bits, w[k])) {
            return (uint64_t)n * count;
        }
    }
    for (; count >= KERN_FOLD_GROUP; count -= KERN_FOLD_GROUP) {
        refused += ops->f32_group(acc, x, w, n, scale);
        x += KERN_FOLD_GROUP;
        w += KERN_FOLD_GROUP;
    }
    struct kern_refusal rest = {0, SIZE_MAX};
    for (size_t k = 0; k < count; k++) {
        ops->f32(acc, x[k], 0, n, scale, w[k], &rest);
    }
    return refused + rest.count;
}

uint64_t kern_fold_f32_wide(int64_t *hi, int64_t *lo, const float *x, size_t n, int frac_bits,
                            uint32_t w, size_t *first_out) {
    if (!fold_fits(frac_bits, w)) {
        return refuse_all(n, first_out);
    }
    struct kern_refusal refusal = {0, SIZE_MAX};
    widest()->f32_wide(hi, lo, x, 0, n, ldexp(1, frac_bits), w, &refusal);
    return told(&refusal, first_out);
}

uint64_t kern_fold_i64(int64_t *acc, const int64_t *s, size_t n, uint64_t weight,
                       size_t *first_out) {
    if (weight < 1 || weight > UINT64_C(1) << 32) {
        return refuse_all(n, first_out);
    }
    struct kern_refusal refusal = {0, SIZE_MAX};
    widest()->i64(acc, s, 0, n, (int64_t)(weight << 30), &refusal);
    return told(&refusal, first_out);
}

void kern_apply_mean(float *y, const float *x, const int64_t *hi, const int64_t *lo, size_t n,
                     int frac_bits, uint64_t weight) {
    double scale = ldexp(1, lo == NULL ? -frac_bits : -(frac_bits + 30)), w = (double)weight;
    if (lo == NULL) {
        for (size_t i = 0; i < n; i++) {
            double delta = (double)hi[i] / w * scale;
            y[i] = (float)((double)x[i] + delta);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        __int128 s = (__int128)hi[i] * KERN_Q_MAX + lo[i];
        double delta = (double)s / w * scale;
        y[i] = (float)((double)x[i] + delta);
    }
}
