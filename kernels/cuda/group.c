/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups of GPUs: by NCCL, or, where that is not here or one GPU is more than one rank, by copies
 * that the caller's thread makes one after the other. Copies go through one piece of memory on the
 * GPU that adds, and wait: they are there to be right, not fast.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/nccl_group.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Elements that a copy brings at a time. */
#define PIECE ((size_t)1 << 20)

struct group {
    size_t ranks, first, count;
    struct kern_nccl *nccl; /* NULL: copies, and all ranks are the caller's */
    atomic_bool aborted;
    struct kern_cuda *cuda[];
};

enum kern_status kern_cuda_group_id(struct kern_ctx *ctx, struct kern_group_id *out) {
    return kern_nccl_id(out, ctx->error, sizeof ctx->error);
}

/* NCCL wants each GPU once. */
static bool all_different(const struct group *g) {
    for (size_t i = 0; i < g->count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (g->cuda[i]->device == g->cuda[j]->device) {
                return false;
            }
        }
    }
    return true;
}

enum kern_status kern_cuda_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                      struct kern_ctx *const *ctx, size_t count, void **out) {
    int device[KERN_GROUP_RANKS_MAX];
    char *why = ctx[0]->error;
    struct group *g = calloc(1, sizeof *g + count * sizeof g->cuda[0]);
    if (g == NULL) {
        return KERN_ENOMEM;
    }
    g->ranks = ranks;
    g->first = first;
    g->count = count;
    for (size_t i = 0; i < count; i++) {
        g->cuda[i] = kern_cuda_of(ctx[i]);
        device[i] = g->cuda[i]->device;
    }
    enum kern_status st = KERN_ENODEV;
    if (ranks > 1 && all_different(g)) {
        st = kern_nccl_open(id, ranks, first, device, count, &g->nccl, why, KERN_TEXT_BYTES);
    } else if (id != NULL && ranks > 1) {
        snprintf(why, KERN_TEXT_BYTES, "one GPU can be one rank of a group of several callers");
    }
    if (st == KERN_ENODEV && (id == NULL || ranks == 1)) {
        st = KERN_OK;
    }
    if (st != KERN_OK) {
        free(g);
        return st;
    }
    *out = g;
    return KERN_OK;
}

void kern_cuda_group_leave(void *state) {
    struct group *g = state;
    for (size_t i = 0; i < g->count && !atomic_load(&g->aborted); i++) {
        (void)cudaSetDevice(g->cuda[i]->device);
        (void)cudaStreamSynchronize(g->cuda[i]->stream); /* communicators outlive their work */
    }
    kern_nccl_close(g->nccl);
    free(g);
}

void kern_cuda_group_abort(void *state) {
    struct group *g = state;
    atomic_store(&g->aborted, true);
    if (g->nccl != NULL) {
        kern_nccl_abort(g->nccl);
    }
}

void kern_cuda_group_each(void *state, void (*fn)(void *arg, size_t i), void *arg) {
    struct group *g = state;
    for (size_t i = 0; i < g->count; i++) {
        fn(arg, i);
    }
}

/* ---- by copies ------------------------------------------------------------------------------ */

struct copying {
    struct group *g;
    const struct kern_group_call *call;
    void *const *parts;
};

static size_t bytes_of(const struct copying *c, size_t n) {
    return n * (c->call->type == KERN_F32 ? sizeof(float) : sizeof(int64_t));
}

static void *place(const struct copying *c, size_t rank, size_t at) {
    return (char *)c->parts[rank] + bytes_of(c, at);
}

static enum kern_status wait_all(struct group *g) {
    for (size_t i = 0; i < g->count; i++) {
        struct kern_cuda *cuda = g->cuda[i];
        ENTER(cuda);
        enum kern_status st = kern_cuda_check(g->cuda[0], cudaStreamSynchronize(cuda->stream),
                                              "cudaStreamSynchronize");
        if (st != KERN_OK) {
            return st;
        }
    }
    return KERN_OK;
}

static enum kern_status add_piece(const struct copying *c, size_t to, size_t at, size_t n,
                                  void *between) {
    struct kern_cuda *first = c->g->cuda[0], *cuda = c->g->cuda[to];
    void *sum = place(c, to, at);
    for (size_t i = 0; i < c->g->count; i++) {
        if (i == to) {
            continue;
        }
        CUDA_TRY(first,
                 cudaMemcpyPeerAsync(between, cuda->device, place(c, i, at), c->g->cuda[i]->device,
                                     bytes_of(c, n), cuda->stream),
                 "cudaMemcpyPeerAsync");
        int err = c->call->type == KERN_F32 ? kern_cu_add(sum, sum, between, n, cuda->stream)
                                            : kern_cu_add_i64(sum, between, n, cuda->stream);
        CUDA_TRY(first, (cudaError_t)err, "adding a part");
    }
    return KERN_OK;
}

/* Elements [at, at + n) of rank `to` = the sum of all ranks', the others' added to its own. */
static enum kern_status gather_sum(const struct copying *c, size_t to, size_t at, size_t n) {
    struct kern_cuda *first = c->g->cuda[0], *cuda = c->g->cuda[to];
    void *between = NULL;
    ENTER(cuda);
    enum kern_status st =
        kern_cuda_scratch(cuda, KERN_CUDA_PART, bytes_of(c, n < PIECE ? n : PIECE), &between);
    if (st != KERN_OK && cuda != first) {
        snprintf(first->base.error, sizeof first->base.error, "%s", cuda->base.error);
    }
    for (size_t done = 0; st == KERN_OK && done < n; done += PIECE) {
        st = add_piece(c, to, at + done, n - done < PIECE ? n - done : PIECE, between);
    }
    enum kern_status waited =
        kern_cuda_check(first, cudaStreamSynchronize(cuda->stream), "cudaStreamSynchronize");
    return st != KERN_OK ? st : waited;
}

static enum kern_status spread(const struct copying *c, size_t from, size_t at, size_t n) {
    struct kern_cuda *first = c->g->cuda[0], *cuda = c->g->cuda[from];
    ENTER(cuda);
    for (size_t i = 0; i < c->g->count; i++) {
        if (i != from) {
            CUDA_TRY(first,
                     cudaMemcpyPeerAsync(place(c, i, at), c->g->cuda[i]->device, place(c, from, at),
                                         cuda->device, bytes_of(c, n), cuda->stream),
                     "cudaMemcpyPeerAsync");
        }
    }
    return kern_cuda_check(first, cudaStreamSynchronize(cuda->stream), "cudaStreamSynchronize");
}

static enum kern_status by_copies(struct group *g, const struct kern_group_call *call,
                                  void *const *parts) {
    const struct copying c = {g, call, parts};
    size_t n = call->n;
    enum kern_status st = wait_all(g);
    if (st != KERN_OK) {
        return st;
    }
    switch (call->op) {
    case KERN_GROUP_REDUCE:
        return gather_sum(&c, call->root, 0, n);
    case KERN_GROUP_ALL_REDUCE:
        st = gather_sum(&c, 0, 0, n);
        return st == KERN_OK ? spread(&c, 0, 0, n) : st;
    case KERN_GROUP_REDUCE_SCATTER:
        for (size_t r = 0; st == KERN_OK && r < g->ranks; r++) {
            st = gather_sum(&c, r, r * n, n);
        }
        return st;
    case KERN_GROUP_ALL_GATHER:
        for (size_t r = 0; st == KERN_OK && r < g->ranks; r++) {
            st = spread(&c, r, r * n, n);
        }
        return st;
    case KERN_GROUP_BROADCAST:
        return spread(&c, call->root, 0, n);
    }
    return KERN_EARG;
}

enum kern_status kern_cuda_group_run(void *state, const struct kern_group_call *call,
                                     void *const *parts) {
    struct group *g = state;
    char *why = g->cuda[0]->base.error;
    cudaStream_t stream[KERN_GROUP_RANKS_MAX];
    if (atomic_load(&g->aborted)) {
        snprintf(why, KERN_TEXT_BYTES, "the group was aborted");
        return KERN_EGROUP;
    }
    if (call->n == 0 || g->ranks == 1) {
        return KERN_OK;
    }
    if (g->nccl == NULL) {
        return by_copies(g, call, parts);
    }
    for (size_t i = 0; i < g->count; i++) {
        stream[i] = g->cuda[i]->stream;
    }
    return kern_nccl_run(g->nccl, call, parts, stream, why, KERN_TEXT_BYTES);
}
