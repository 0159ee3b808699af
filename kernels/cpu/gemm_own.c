/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread's matrix product where there is no OpenBLAS: blocks of both operands are packed so
 * that the innermost loop runs over TILE_N adjacent floats with TILE_M rows of sums in registers.
 * A fraction of OpenBLAS's speed, and nothing to install.
 * Each y is a sum over k in ascending order within blocks of BLOCK_K, the blocks ascending too.
 */
#include "kernels/cpu/cpu.h"

#include <string.h>

#define TILE_M 4
#define TILE_N 16
#define LANES (TILE_N / 2)
#define BLOCK_K 256
#define BLOCK_N 64

void kern_cpu_sgemm_init(void) {}

static float at(const float *p, size_t ld, bool trans, size_t row, size_t col) {
    return trans ? p[col * ld + row] : p[row * ld + col];
}

/* pack[kk][j] = b[k0 + kk][n0 + j], zero beyond the matrix so that the tile loop has no edges. */
static void pack_b(float pack[BLOCK_K][BLOCK_N], const float *b, size_t ldb, bool trans, size_t k0,
                   size_t kb, size_t n0, size_t nb) {
    for (size_t kk = 0; kk < kb; kk++) {
        for (size_t j = 0; j < BLOCK_N; j++) {
            pack[kk][j] = j < nb ? at(b, ldb, trans, k0 + kk, n0 + j) : 0;
        }
    }
}

/* Eight floats as the compiler's own vector: two registers of SSE, one of AVX. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

/* sum[i][j] = sum over kk of a[i][kk] * b[kk][j]; multiplied, then added, so every width of vector
 * gives the same bits. */
static inline __attribute__((always_inline)) void tile(float sum[TILE_M][TILE_N],
                                                       const float a[BLOCK_K][TILE_M],
                                                       const float pack[BLOCK_K][BLOCK_N],
                                                       size_t kb, size_t j0) {
    lanes s[TILE_M][2] = {{{0}}};
    for (size_t kk = 0; kk < kb; kk++) {
        lanes low, high;
        memcpy(&low, &pack[kk][j0], sizeof low);
        memcpy(&high, &pack[kk][j0 + LANES], sizeof high);
        for (size_t i = 0; i < TILE_M; i++) {
            s[i][0] += a[kk][i] * low;
            s[i][1] += a[kk][i] * high;
        }
    }
    memcpy(sum, s, sizeof s);
}

static void tile_plain(float sum[TILE_M][TILE_N], const float a[BLOCK_K][TILE_M],
                       const float pack[BLOCK_K][BLOCK_N], size_t kb, size_t j0) {
    tile(sum, a, pack, kb, j0);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void tile_avx2(float sum[TILE_M][TILE_N],
                                                      const float a[BLOCK_K][TILE_M],
                                                      const float pack[BLOCK_K][BLOCK_N], size_t kb,
                                                      size_t j0) {
    tile(sum, a, pack, kb, j0);
}
#endif

typedef void (*tile_fn)(float sum[TILE_M][TILE_N], const float a[BLOCK_K][TILE_M],
                        const float pack[BLOCK_K][BLOCK_N], size_t kb, size_t j0);

static tile_fn tile_here(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        return tile_avx2;
    }
#endif
    return tile_plain;
}

struct block {
    float pack[BLOCK_K][BLOCK_N], a[BLOCK_K][TILE_M];
};

static void scale_y(float *y, size_t ldy, size_t m, size_t n, float beta) {
    for (size_t i = 0; i < m; i++) {
        for (size_t j = 0; j < n; j++) {
            y[i * ldy + j] = beta == 0 ? 0 : beta * y[i * ldy + j];
        }
    }
}

void kern_cpu_sgemm(size_t m, size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                    const float *a, size_t lda, const float *b, size_t ldb, float beta, float *y,
                    size_t ldy) {
    struct block blk; /* 68 KiB of stack */
    tile_fn sum_tile = tile_here();
    scale_y(y, ldy, m, n, beta);
    for (size_t n0 = 0; n0 < n; n0 += BLOCK_N) {
        size_t nb = n - n0 < BLOCK_N ? n - n0 : BLOCK_N;
        for (size_t k0 = 0; k0 < k; k0 += BLOCK_K) {
            size_t kb = k - k0 < BLOCK_K ? k - k0 : BLOCK_K;
            pack_b(blk.pack, b, ldb, trans_b, k0, kb, n0, nb);
            for (size_t m0 = 0; m0 < m; m0 += TILE_M) {
                size_t mb = m - m0 < TILE_M ? m - m0 : TILE_M;
                for (size_t kk = 0; kk < kb; kk++) {
                    for (size_t i = 0; i < TILE_M; i++) {
                        blk.a[kk][i] = i < mb ? at(a, lda, trans_a, m0 + i, k0 + kk) : 0;
                    }
                }
                for (size_t j0 = 0; j0 < nb; j0 += TILE_N) {
                    float sum[TILE_M][TILE_N];
                    sum_tile(sum, blk.a, blk.pack, kb, j0);
                    for (size_t i = 0; i < mb; i++) {
                        for (size_t j = 0; j < TILE_N && j0 + j < nb; j++) {
                            y[(m0 + i) * ldy + n0 + j0 + j] += alpha * sum[i][j];
                        }
                    }
                }
            }
        }
    }
}
