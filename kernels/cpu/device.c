/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CPU as a device: buffers are host memory, work is done when the call returns, so sync has
 * nothing to wait for. The ops table stands at the end.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/group.h"
#include "kernels/cpu/nn.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum kern_status probe(int *count_out, char *why, size_t why_bytes) {
    (void)why;
    (void)why_bytes;
    *count_out = 1;
    return KERN_OK;
}

static void start_once(void) {
    kern_cpu_sgemm_init();
    kern_cpu_nn_init();
}

static enum kern_status open_cpu(int index, int threads, struct kern_ctx **out, char *why,
                                 size_t why_bytes) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)index;
    if (threads == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        threads = online < 1 ? 1 : (int)online;
    }
    pthread_once(&once, start_once);
    struct kern_cpu *cpu = calloc(1, sizeof *cpu);
    struct kern_pool *pool = cpu == NULL ? NULL : kern_pool_new_device(threads);
    if (pool == NULL) {
        free(cpu);
        snprintf(why, why_bytes, "out of host memory");
        return KERN_ENOMEM;
    }
    cpu->pool = pool;
    snprintf(cpu->base.name, sizeof cpu->base.name, "cpu");
    *out = &cpu->base;
    return KERN_OK;
}

static void close_cpu(struct kern_ctx *ctx) {
    struct kern_cpu *cpu = (struct kern_cpu *)ctx;
    for (size_t i = 0; i < sizeof cpu->scratch / sizeof cpu->scratch[0]; i++) {
        free(cpu->scratch[i]);
    }
    kern_pool_free(cpu->pool);
    free(ctx);
}

static enum kern_status products(struct kern_ctx *ctx, enum kern_products allowed) {
    ((struct kern_cpu *)ctx)->products = allowed;
    return KERN_OK;
}

static enum kern_status alloc(struct kern_ctx *ctx, size_t bytes, void **out) {
    void *p = NULL;
    /* A cache line, and AVX-512's width. */
    if (posix_memalign(&p, 64, bytes) != 0) {
        snprintf(ctx->error, sizeof ctx->error, "out of host memory for %zu bytes", bytes);
        return KERN_ENOMEM;
    }
    memset(p, 0, bytes);
    *out = p;
    return KERN_OK;
}

static void free_cpu(struct kern_ctx *ctx, void *p) {
    (void)ctx;
    free(p);
}

static enum kern_status copy(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes) {
    (void)ctx;
    memmove(dst, src, bytes);
    return KERN_OK;
}

static void zero_range(const void *job, size_t begin, size_t end) {
    char *const *dst = job;
    memset(*dst + begin, 0, end - begin);
}

static enum kern_status zero(struct kern_ctx *ctx, void *dst, size_t bytes) {
    char *to = dst;
    kern_cpu_each(ctx, zero_range, &to, bytes, 1);
    return KERN_OK;
}

static enum kern_status sync_cpu(struct kern_ctx *ctx) {
    (void)ctx;
    return KERN_OK;
}

static enum kern_status fold(struct kern_ctx *ctx, int64_t *acc, const float *x, uint64_t *refused,
                             size_t n, int frac_bits, uint32_t w) {
    (void)ctx;
    *refused += kern_fold_f32(acc, x, n, frac_bits, w, NULL);
    return KERN_OK;
}

const struct kern_ops kern_cpu_ops = {
    .abi = KERN_BACKEND_ABI,
    .bytes = sizeof(struct kern_ops),
    .name = "cpu",
    .nn = &kern_cpu_nn,
    .probe = probe,
    .open = open_cpu,
    .close = close_cpu,
    .products = products,
    .alloc = alloc,
    .free = free_cpu,
    .upload = copy,
    .upload_start = copy,
    .upload_beside = copy,
    .upload_wait = sync_cpu,
    .host_alloc = alloc,
    .host_free = free_cpu,
    .download = copy,
    .copy = copy,
    .zero = zero,
    .sync = sync_cpu,
    .gemm = kern_cpu_gemm,
    .bias_add = kern_cpu_bias_add,
    .bias_grad = kern_cpu_bias_grad,
    .add = kern_cpu_add,
    .scale = kern_cpu_scale,
    .relu = kern_cpu_relu,
    .relu_grad = kern_cpu_relu_grad,
    .sigmoid = kern_cpu_sigmoid,
    .sigmoid_grad = kern_cpu_sigmoid_grad,
    .softmax = kern_cpu_softmax,
    .softmax_grad = kern_cpu_softmax_grad,
    .bce_logits = kern_cpu_bce_logits,
    .softmax_ce = kern_cpu_softmax_ce,
    .loss = kern_cpu_loss,
    .prox_grad = kern_cpu_prox_grad,
    .stiff_grad = kern_cpu_stiff_grad,
    .add_square = kern_cpu_add_square,
    .axpby = kern_cpu_axpby,
    .square_sum = kern_cpu_square_sum,
    .clip_norm = kern_cpu_clip_norm,
    .clip_value = kern_cpu_clip_value,
    .sgd_step = kern_cpu_sgd_step,
    .adam_step = kern_cpu_adam_step,
    .standardise = kern_cpu_standardise,
    .gather_rows = kern_cpu_gather_rows,
    .fold_f32 = fold,
    .group_id = kern_cpu_group_id,
    .group_join = kern_cpu_group_join,
    .group_span = kern_cpu_group_span,
    .group_leave = kern_cpu_group_leave,
    .group_abort = kern_cpu_group_abort,
    .group_run = kern_cpu_group_run,
    .group_each = kern_cpu_group_each,
};
