/* SPDX-License-Identifier: Apache-2.0 */
/* The vector functions against double, over every sign and exponent that there is. */
#include "kernels/cpu/vmath.h"

#include <criterion/criterion.h>
#include <math.h>

#define STEP 4099 /* every so many bit patterns: a million of each function */
#define LEAST_NORMAL 1.1754943508222875e-38
#define LEAST 1.401298464324817e-45

static double logistic(double x) {
    return 1 / (1 + exp(-x));
}

static void agrees(const char *name, float (*ours)(float), double (*theirs)(double),
                   double relative, double absolute) {
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += STEP) {
        float x = kern_float_of((uint32_t)bits), y = ours(x);
        double t = theirs((double)x), d = (double)y - t;
        if (isnan(x))
            cr_assert(isnan(y), "%s(NaN) = %g", name, (double)y);
        else if (fabs(t) > (double)3.402823466e38f)
            cr_assert(isinf(y), "%s(%.9g) = %.9g, not infinite", name, (double)x, (double)y);
        else if (fabs(t) < LEAST_NORMAL)
            cr_assert(fabs(d) <= absolute, "%s(%.9g) = %.9g", name, (double)x, (double)y);
        else
            cr_assert(fabs(d) <= relative * fabs(t), "%s(%.9g) = %.9g, off by %.2g of it", name,
                      (double)x, (double)y, fabs(d / t));
    }
}

Test(kern_vmath, exp_is_right_to_the_last_bit_or_so) {
    agrees("exp", kern_exp, exp, 1e-7, LEAST);
    cr_assert_eq(kern_exp(0), 1.0f);
    cr_assert_eq(kern_exp(-INFINITY), 0.0f);
    cr_assert(isinf(kern_exp(INFINITY)));
}

Test(kern_vmath, the_logistic_function_has_both_its_ends) {
    agrees("logistic", kern_logistic, logistic, 2e-7, 3e-39);
    cr_assert_eq(kern_logistic(INFINITY), 1.0f);
    cr_assert_eq(kern_logistic(-INFINITY), 0.0f);
}

Test(kern_vmath, tanh_is_odd_and_stays_within_one) {
    agrees("tanh", kern_tanh, tanh, 2e-7, LEAST);
    cr_assert_eq(kern_tanh(INFINITY), 1.0f);
    cr_assert_eq(kern_tanh(-INFINITY), -1.0f);
    cr_assert_eq(kern_tanh(-0.3f), -kern_tanh(0.3f));
}

Test(kern_vmath, erf_is_odd_and_stays_within_one) {
    agrees("erf", kern_erf, erf, 2e-7, LEAST);
    cr_assert_eq(kern_erf(INFINITY), 1.0f);
    cr_assert_eq(kern_erf(-INFINITY), -1.0f);
    cr_assert_eq(kern_erf(-2.5f), -kern_erf(2.5f));
}
