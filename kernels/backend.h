/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backend is, seen from inside kernels/: one table of operations over raw addresses of one
 * kind of device. The dispatch of kern.c has checked every handle, extent, alias and value before
 * an entry is called, so entries check nothing again; they fail only for memory or for the device.
 * Operations mean what the function of the same name in kern.h says.
 *
 * The table crosses a dlopen, so it opens with its ABI number and its size: a plugin built from
 * other sources is refused and never called.
 *
 * Threads: a context belongs to one thread at a time, as its device does. Entries may share no
 * state between contexts that is not locked.
 * Ownership: open makes a context, close frees it and whatever device memory is left on it.
 */
#ifndef CONSILIUM_KERN_BACKEND_H
#define CONSILIUM_KERN_BACKEND_H

#include "kernels/group.h"
#include "kernels/loss.h"

#define KERN_BACKEND_ABI 7u
#define KERN_TEXT_BYTES 256

/* The head of every backend's own context. An entry that fails writes here, in words, why. */
struct kern_ctx {
    char error[KERN_TEXT_BYTES];
    char name[KERN_TEXT_BYTES]; /* "cpu", "cuda:0 NVIDIA H200" */
};

/* One call of a group, as each of its ranks makes it. */
enum kern_group_op {
    KERN_GROUP_REDUCE,
    KERN_GROUP_ALL_REDUCE,
    KERN_GROUP_REDUCE_SCATTER,
    KERN_GROUP_ALL_GATHER,
    KERN_GROUP_BROADCAST,
};
struct kern_group_call {
    enum kern_group_op op;
    enum kern_type type;
    enum kern_way way;
    size_t n; /* of a share, where the operation has shares; may be 0 */
    size_t root;
};

struct kern_nn_ops;

struct kern_ops {
    uint32_t abi;
    uint32_t bytes; /* sizeof(struct kern_ops) where the backend was compiled */
    const char *name;
    const struct kern_nn_ops *nn; /* kernels/nn_ops.h; NULL where the backend has none of them */

    /* Counts the devices that can be opened; KERN_ENODEV with a reason in `why` where there are
     * none. */
    enum kern_status (*probe)(int *count_out, char *why, size_t why_bytes);
    enum kern_status (*open)(int index, int threads, struct kern_ctx **out, char *why,
                             size_t why_bytes);
    void (*close)(struct kern_ctx *ctx);
    enum kern_status (*products)(struct kern_ctx *ctx, enum kern_products products);

    enum kern_status (*alloc)(struct kern_ctx *ctx, size_t bytes, void **out); /* zeroed */
    void (*free)(struct kern_ctx *ctx, void *p);
    enum kern_status (*upload)(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    /* May return before src is read; src is host_alloc's, and stays until the next sync. */
    enum kern_status (*upload_start)(struct kern_ctx *ctx, void *dst, const void *src,
                                     size_t bytes);
    /* The same, beside the work; upload_wait until src was read. */
    enum kern_status (*upload_beside)(struct kern_ctx *ctx, void *dst, const void *src,
                                      size_t bytes);
    enum kern_status (*upload_wait)(struct kern_ctx *ctx);
    enum kern_status (*host_alloc)(struct kern_ctx *ctx, size_t bytes, void **out);
    void (*host_free)(struct kern_ctx *ctx, void *p); /* waits */
    enum kern_status (*download)(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    /* Ranges may overlap. */
    enum kern_status (*copy)(struct kern_ctx *ctx, void *dst, const void *src, size_t bytes);
    enum kern_status (*zero)(struct kern_ctx *ctx, void *dst, size_t bytes);
    enum kern_status (*sync)(struct kern_ctx *ctx);
    /* Writes *out where it knows better than the buffers' sum; NULL where it does not. */
    enum kern_status (*memory)(struct kern_ctx *ctx, struct kern_memory *out);

    /* Recordings; all NULL where the backend has none. What fails in between is KERN_EARG. */
    enum kern_status (*record_begin)(struct kern_ctx *ctx);
    enum kern_status (*record_end)(struct kern_ctx *ctx, void **out);
    bool (*record_holds)(struct kern_ctx *ctx, const void *record);
    enum kern_status (*replay)(struct kern_ctx *ctx, void *record, uint64_t turn);
    void (*record_free)(struct kern_ctx *ctx, void *record);

    enum kern_status (*gemm)(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                             size_t m, size_t n, size_t k, bool trans_a, bool trans_b, float alpha,
                             float beta);
    enum kern_status (*bias_add)(struct kern_ctx *ctx, float *y, const float *bias, size_t rows,
                                 size_t cols);
    enum kern_status (*bias_grad)(struct kern_ctx *ctx, float *dbias, const float *dy, size_t rows,
                                  size_t cols);
    enum kern_status (*add)(struct kern_ctx *ctx, float *y, const float *a, const float *b,
                            size_t n);
    enum kern_status (*scale)(struct kern_ctx *ctx, float *y, size_t n, float alpha);
    enum kern_status (*relu)(struct kern_ctx *ctx, float *y, const float *x, size_t n);
    enum kern_status (*relu_grad)(struct kern_ctx *ctx, float *dx, const float *dy, const float *y,
                                  size_t n);
    enum kern_status (*sigmoid)(struct kern_ctx *ctx, float *y, const float *x, size_t n);
    enum kern_status (*sigmoid_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                     const float *y, size_t n);
    enum kern_status (*softmax)(struct kern_ctx *ctx, float *y, const float *x, size_t rows,
                                size_t cols);
    enum kern_status (*softmax_grad)(struct kern_ctx *ctx, float *dx, const float *dy,
                                     const float *y, size_t rows, size_t cols);
    /* dz may be NULL. */
    enum kern_status (*bce_logits)(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                   const float *t, size_t n);
    enum kern_status (*softmax_ce)(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                                   const int32_t *label, size_t rows, size_t cols);
    /* kernels/loss.h; weight may be NULL. */
    enum kern_status (*loss)(struct kern_ctx *ctx, float *loss, float *dz, const float *z,
                             const void *target, const float *weight,
                             const struct kern_loss_spec *spec);
    enum kern_status (*prox_grad)(struct kern_ctx *ctx, float *g, const float *w, const float *w0,
                                  size_t n, float mu);
    enum kern_status (*stiff_grad)(struct kern_ctx *ctx, float *g, const float *w, const float *c,
                                   const float *a, size_t n, float mu);
    enum kern_status (*add_square)(struct kern_ctx *ctx, float *y, const float *x, size_t n);
    enum kern_status (*axpby)(struct kern_ctx *ctx, float *y, const float *x, size_t n, float alpha,
                              float beta);
    enum kern_status (*square_sum)(struct kern_ctx *ctx, float *sum, const float *x, size_t n);
    enum kern_status (*clip_norm)(struct kern_ctx *ctx, float *g, const float *squares, size_t n,
                                  float max_norm);
    enum kern_status (*clip_value)(struct kern_ctx *ctx, float *g, size_t n, float most);
    /* v may be NULL where momentum is 0. */
    enum kern_status (*sgd_step)(struct kern_ctx *ctx, float *w, const float *g, float *v, size_t n,
                                 const struct kern_sgd *opt);
    enum kern_status (*adam_step)(struct kern_ctx *ctx, float *w, const float *g, float *m,
                                  float *v, size_t n, const struct kern_adam *opt);
    enum kern_status (*standardise)(struct kern_ctx *ctx, float *x, const float *mean,
                                    const float *inv_std, size_t rows, size_t cols);
    enum kern_status (*gather_rows)(struct kern_ctx *ctx, float *y, const float *x,
                                    const int32_t *index, size_t rows, size_t cols, size_t x_rows);
    enum kern_status (*fold_f32)(struct kern_ctx *ctx, int64_t *acc, const float *x,
                                 uint64_t *refused, size_t n, int frac_bits, uint32_t w);

    /* Groups (kernels/group.h). `id` is NULL where all ranks are the caller's. A state is the
     * caller's ranks of a group; errors stand in the context of the first of them. */
    enum kern_status (*group_id)(struct kern_ctx *ctx, struct kern_group_id *out);
    enum kern_status (*group_join)(const struct kern_group_id *id, size_t ranks, size_t first,
                                   struct kern_ctx *const *ctx, size_t count, void **state_out);
    /* The same over a link; NULL where ranks of several processes meet by id alone. */
    enum kern_status (*group_span)(const struct kern_group_link *link, size_t ranks, size_t first,
                                   struct kern_ctx *const *ctx, size_t count, void **state_out);
    void (*group_leave)(void *state);
    void (*group_abort)(void *state); /* from any thread */
    /* parts[i] may be NULL where n is 0. */
    enum kern_status (*group_run)(void *state, const struct kern_group_call *call,
                                  void *const *parts);
    void (*group_each)(void *state, void (*fn)(void *arg, size_t i), void *arg);
};

/* The CPU backend, always linked in. */
extern const struct kern_ops kern_cpu_ops;

/*
 * The CUDA backend as the registry sees it: cuda_loader.c finds the plugin, cuda_stub.c is linked
 * in its place where no CUDA toolkit was there at build time. NULL with the reason in `why`.
 */
const struct kern_ops *kern_cuda_load(const char *plugin_dir, char *why, size_t why_bytes);

/* The one symbol a plugin exports. NULL where it does not speak this ABI. */
#define KERN_PLUGIN_SYMBOL "kern_plugin_ops_v1"
typedef const struct kern_ops *(*kern_plugin_fn)(uint32_t abi);

/* ---- registry.c ---------------------------------------------------------------------------- */

/* Finds "cpu", "cuda", "cuda:N" or "auto"; *ops_out and *index_out say what to open. */
enum kern_status kern_registry_find(const char *spec, const struct kern_ops **ops_out,
                                    int *index_out);
/* Puts a backend in the place of CUDA, as a loaded plugin would be: for tests that bring their own.
 */
void kern_registry_set_cuda(const struct kern_ops *ops);
/* True where a table of this ABI and size came from sources like ours. */
bool kern_ops_fit(const struct kern_ops *ops);

#endif
