/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a product takes in mixed precision, on a processor that multiplies float32 alone: numbers
 * are rounded to a half precision and back, and multiplied as ever. The products of two such
 * numbers are exact in float32 (8 and 8, or 11 and 11 bits), as they are on a GPU; the sums are
 * float32's. A CPU gains nothing by it but a GPU's training, to the rounding of sums.
 */
#include "kernels/cpu/conv.h"
#include "kernels/half.h"

#define SCRATCH_FIRST 3

struct rounding {
    float *to;
    const float *x;
};

static void to_bf16(const void *job, size_t begin, size_t end) {
    const struct rounding *r = job;
    for (size_t i = begin; i < end; i++) {
        r->to[i] = kern_bf16_value(kern_bf16_of(r->x[i]));
    }
}

static void to_f16(const void *job, size_t begin, size_t end) {
    const struct rounding *r = job;
    for (size_t i = begin; i < end; i++) {
        r->to[i] = kern_f16_value(kern_f16_of(r->x[i]));
    }
}

const float *kern_cpu_taken(struct kern_ctx *ctx, unsigned which, const float *x, size_t n) {
    enum kern_products products = ((struct kern_cpu *)ctx)->products;
    if (products != KERN_BF16 && products != KERN_F16) {
        return x;
    }
    struct rounding r = {kern_cpu_scratch(ctx, SCRATCH_FIRST + which, n), x};
    if (r.to != NULL) {
        kern_cpu_each(ctx, products == KERN_BF16 ? to_bf16 : to_f16, &r, n, 1);
    }
    return r.to;
}
