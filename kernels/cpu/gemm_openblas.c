/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread's matrix product by OpenBLAS. Its own threads are switched off: gemm.c brings ours.
 */
#include "kernels/cpu/cpu.h"

#include <cblas.h>

void kern_cpu_sgemm_init(void) {
    openblas_set_num_threads(1);
}

void kern_cpu_sgemm(size_t m, size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                    const float *a, size_t lda, const float *b, size_t ldb, float beta, float *y,
                    size_t ldy) {
    /* kern_gemm refused sides beyond int. */
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans,
                trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda, b,
                (int)ldb, beta, y, (int)ldy);
}
