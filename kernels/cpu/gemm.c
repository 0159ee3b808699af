/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix product over the pool: y is cut into strips of STRIP rows or columns, whichever there are
 * more of, and each strip is one product on one thread. The cuts follow from the shape alone, so
 * the bits do not depend on the number of threads, which a BLAS with its own threads cannot say.
 * Packing the shared operand once a strip costs under one part in STRIP of the arithmetic.
 */
#include "kernels/cpu/nn.h"

#define STRIP 192

struct gemm_job {
    size_t m, n, k;
    const float *a, *b;
    float *y;
    bool trans_a, trans_b;
    float alpha, beta;
};

static void gemm_strip(const void *job, size_t task) {
    const struct gemm_job *j = job;
    size_t lda = j->trans_a ? j->m : j->k, ldb = j->trans_b ? j->k : j->n;
    size_t m = j->m, n = j->n, at = task * STRIP;
    const float *a = j->a, *b = j->b;
    float *y = j->y;
    if (m >= n) {
        m = m - at < STRIP ? m - at : STRIP;
        a += j->trans_a ? at : at * lda;
        y += at * j->n;
    } else {
        n = n - at < STRIP ? n - at : STRIP;
        b += j->trans_b ? at * ldb : at;
        y += at;
    }
    kern_cpu_sgemm(m, n, j->k, j->trans_a, j->trans_b, j->alpha, a, lda, b, ldb, j->beta, y, j->n);
}

void kern_cpu_multiply(struct kern_ctx *ctx, float *y, const float *a, const float *b, size_t m,
                       size_t n, size_t k, bool trans_a, bool trans_b, float alpha, float beta) {
    struct gemm_job j = {m, n, k, a, b, y, trans_a, trans_b, alpha, beta};
    size_t side = m >= n ? m : n;
    kern_pool_run(kern_cpu_pool(ctx), gemm_strip, &j, (side + STRIP - 1) / STRIP);
}

enum kern_status kern_cpu_gemm(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                               size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                               float alpha, float beta) {
    a = kern_cpu_taken(ctx, 0, a, m * k);
    b = kern_cpu_taken(ctx, 1, b, k * n);
    if (a == NULL || b == NULL) {
        return KERN_ENOMEM;
    }
    kern_cpu_multiply(ctx, y, a, b, m, n, k, trans_a, trans_b, alpha, beta);
    return KERN_OK;
}

/* ---- many at once ---------------------------------------------------------------------------- */

struct batch_job {
    struct gemm_job one;
    struct kern_gemm_batch batch;
};

static void gemm_range(const void *job, size_t begin, size_t end) {
    const struct batch_job *b = job;
    const struct gemm_job *j = &b->one;
    size_t lda = j->trans_a ? j->m : j->k, ldb = j->trans_b ? j->k : j->n;
    for (size_t i = begin; i < end; i++) {
        kern_cpu_sgemm(j->m, j->n, j->k, j->trans_a, j->trans_b, j->alpha,
                       j->a + i * b->batch.step_a, lda, j->b + i * b->batch.step_b, ldb, j->beta,
                       j->y + i * b->batch.step_y, j->n);
    }
}

enum kern_status kern_cpu_gemm_batch(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                                     size_t m, size_t n, size_t k, bool trans_a, bool trans_b,
                                     float alpha, float beta, const struct kern_gemm_batch *batch) {
    if (batch->count == 1) {
        return kern_cpu_gemm(ctx, y, a, b, m, n, k, trans_a, trans_b, alpha, beta);
    }
    a = kern_cpu_taken(ctx, 0, a, (batch->count - 1) * batch->step_a + m * k);
    b = kern_cpu_taken(ctx, 1, b, (batch->count - 1) * batch->step_b + k * n);
    if (a == NULL || b == NULL) {
        return KERN_ENOMEM;
    }
    struct batch_job j = {{m, n, k, a, b, y, trans_a, trans_b, alpha, beta}, *batch};
    return kern_cpu_each(ctx, gemm_range, &j, batch->count, m * n + k);
}
