/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What robust merges compute over many updates at once (kern.h): one table for each instruction
 * set. The scalar table is the definition; the others give the same bits. merge.c picks the widest
 * the processor has.
 *
 * Threads: any; tables are constant.
 */
#ifndef CONSILIUM_KERN_CPU_MERGE_H
#define CONSILIUM_KERN_CPU_MERGE_H

#include "kernels/cpu/fold.h"

#define KERN_SORT_LANES 16u /* columns that are sorted together */
#define KERN_DOT_LANES 8u   /* partial sums of a dot product */
#define KERN_MIX_LANES 32u  /* columns that are mixed together */

/* Rows [0, ri) of a against rows [0, rj) of b, each ri, rj <= KERN_GRAM_TILE. */
#define KERN_GRAM_TILE 4u

struct kern_merge_ops {
    /* Sorts each of the KERN_SORT_LANES columns of work[rows][lanes], ascending. */
    void (*sort)(float *work, size_t rows);
    /*
     * out[i][j] = the dot product over n elements of a's row i and b's row j, for a full tile.
     * Lane l sums elements l, l + 8, ... in ascending order; kern_dot_tree adds the lanes.
     */
    void (*gram_tile)(double out[KERN_GRAM_TILE][KERN_GRAM_TILE], const float *a, const float *b,
                      size_t stride, size_t n);
    /* acc[l] -= rows[index[k]][l] for k ascending, over KERN_MIX_LANES lanes. */
    void (*minus_rows)(double *acc, const double *rows, const uint32_t *index, size_t count);
};

/* NULL where this processor, or this build, does not have it. */
const struct kern_merge_ops *kern_merge_ops_for(enum kern_isa isa);

extern const struct kern_merge_ops kern_merge_scalar;
#if defined(__x86_64__)
extern const struct kern_merge_ops kern_merge_avx2, kern_merge_avx512;
#endif

/* With the implementation given: what kern_trimmed_mean and kern_gram do with the widest. */
void kern_trimmed_mean_by(const struct kern_merge_ops *ops, float *out, const float *x, size_t rows,
                          size_t stride, size_t n, size_t trim, float *work);
void kern_mix_by(const struct kern_merge_ops *ops, float *out, const float *x, size_t rows,
                 size_t stride, size_t n, const uint32_t *far, size_t far_count, double *work);
void kern_gram_by(const struct kern_merge_ops *ops, double *gram, const float *x, size_t rows,
                  size_t stride, size_t n);

/* Adds what is left of two rows after the lanes' whole steps, [begin, n), and then the lanes. */
static inline double kern_dot_tree(double *lane, const float *a, const float *b, size_t begin,
                                   size_t n) {
    for (size_t e = begin; e < n; e++)
        lane[e % KERN_DOT_LANES] += (double)a[e] * (double)b[e];
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) +
           ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

/*
 * Every comparison of Knuth's merge exchange (The Art of Computer Programming 3, algorithm 5.2.2M,
 * after Batcher 1968) for any number of rows: `exchange(i, j)` leaves the smaller in row i.
 */
#define KERN_SORT_NETWORK(rows, exchange)                                                          \
    do {                                                                                           \
        size_t top_ = 1;                                                                           \
        while (top_ < (rows))                                                                      \
            top_ *= 2;                                                                             \
        for (size_t p_ = top_ / 2; p_ > 0; p_ /= 2) {                                              \
            size_t q_ = top_ / 2, r_ = 0, d_ = p_;                                                 \
            for (;;) {                                                                             \
                for (size_t i_ = 0; i_ + d_ < (rows); i_++)                                        \
                    if ((i_ & p_) == r_)                                                           \
                        exchange(i_, i_ + d_);                                                     \
                if (q_ == p_)                                                                      \
                    break;                                                                         \
                d_ = q_ - p_;                                                                      \
                q_ /= 2;                                                                           \
                r_ = p_;                                                                           \
            }                                                                                      \
        }                                                                                          \
    } while (0)

#endif
