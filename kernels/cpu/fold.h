/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fold's implementations, one table for each instruction set, and what they share. The scalar
 * table is the definition; the others must give the same bits, the same count of refused elements
 * and the same first one, for every input. fold.c picks the widest the processor has, at each call.
 *
 * Threads: any; tables are constant.
 */
#ifndef CONSILIUM_KERN_CPU_FOLD_H
#define CONSILIUM_KERN_CPU_FOLD_H

#include <stddef.h>
#include <stdint.h>

#define KERN_Q_MAX 1073741824 /* 2^30 */

enum kern_isa { KERN_ISA_SCALAR, KERN_ISA_AVX2, KERN_ISA_AVX512, KERN_ISA_COUNT };

/* How many elements were refused, and the first: SIZE_MAX while there is none. */
struct kern_refusal {
    uint64_t count;
    size_t first;
};

static inline void kern_refusal_add(struct kern_refusal *r, uint64_t count, size_t first) {
    r->count += count;
    r->first = first < r->first ? first : r->first;
}

#define KERN_FOLD_GROUP 4

/* Work on elements [begin, n); `scale` is 2^frac_bits, limit = weight * 2^30. */
struct kern_fold_ops {
    void (*f32)(int64_t *acc, const float *x, size_t begin, size_t n, double scale, uint32_t w,
                struct kern_refusal *refusal);
    void (*f32_wide)(int64_t *hi, int64_t *lo, const float *x, size_t begin, size_t n, double scale,
                     uint32_t w, struct kern_refusal *refusal);
    /* KERN_FOLD_GROUP updates in one pass; the refused elements of all. */
    uint64_t (*f32_group)(int64_t *acc, const float *const *x, const uint32_t *w, size_t n,
                          double scale);
    void (*i64)(int64_t *acc, const int64_t *s, size_t begin, size_t n, int64_t limit,
                struct kern_refusal *refusal);
};

/* NULL where this processor, or this build, does not have it. */
const struct kern_fold_ops *kern_fold_ops_for(enum kern_isa isa);

extern const struct kern_fold_ops kern_fold_scalar;
#if defined(__x86_64__)
extern const struct kern_fold_ops kern_fold_avx2, kern_fold_avx512;
#endif

/*
 * Asks for the line of input 2 KiB ahead. With the accumulator's loads and stores in between, the
 * processor alone keeps too few lines of input under way: this takes the fold from 0.57 to 0.87 of
 * the speed of plain reading (accumulator in the first-level cache). Beyond the end it does
 * nothing.
 */
static inline void kern_fold_ahead(const void *p) {
    __builtin_prefetch((const void *)((uintptr_t)p + 2048));
}

/* Elements [begin, n) of a group, for what is left over behind whole vectors. */
static inline uint64_t kern_fold_group_rest(void (*one)(int64_t *acc, const float *x, size_t begin,
                                                        size_t n, double scale, uint32_t w,
                                                        struct kern_refusal *refusal),
                                            int64_t *acc, const float *const *x, const uint32_t *w,
                                            size_t begin, size_t n, double scale) {
    struct kern_refusal refusal = {0, SIZE_MAX};
    for (size_t k = 0; k < KERN_FOLD_GROUP; k++) {
        one(acc, x[k], begin, n, scale, w[k], &refusal);
    }
    return refusal.count;
}

/* Sums within the stated bounds never overflow; beyond them the result is defined, not undefined.
 */
static inline int64_t kern_wrap_add(int64_t a, int64_t b) {
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

#endif
