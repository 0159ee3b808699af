/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions by oneDNN. Weights are in whatever order oneDNN likes for the pass, so they are
 * reordered around each call, which costs little beside the convolution. Images stay channels-last,
 * but where an element is the sum of many products and images are not large: in that order oneDNN
 * adds them in one chain, in its own blocked one in a chain for each block of channels, which is
 * four times as exact for 512 channels, and up to four times as fast where images have become
 * small. There images are reordered too. An implementation called "ref" is oneDNN's fallback of
 * plain loops, a thousand times too slow, and its weight gradient by "gemm" is slower than our own:
 * neither is used.
 *
 * Primitives belong to one context. oneDNN brings its own threads (OpenMP), as many as the
 * device's; its bits depend on their number.
 */
#include "kernels/cpu/conv.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CHAIN_MAX 500  /* products of an element that may be added in one chain */
#define SPOTS_MAX 4096 /* of an image whose reordering costs less than it saves */

/* An array of a pass, and its reorder into or out of the order that oneDNN likes. */
struct array {
    dnnl_primitive_t reorder; /* NULL: the order is ours already */
    dnnl_memory_t ours, theirs;
    size_t floats; /* of theirs */
};

struct pass {
    dnnl_primitive_t run;
    struct array a, b, w; /* image, slope, weights */
    dnnl_memory_t bias;
    const char *how;
};

struct conv_dnnl {
    dnnl_stream_t stream;
    struct pass pass[CONV_PASSES];
    dnnl_memory_desc_t image, slope, any_image, any_slope, any, ours, bias;
    dnnl_primitive_desc_t hint;
};

/* OpenMP's; its header comes with each compiler's own runtime, which an analyzer may be without. */
void omp_set_num_threads(int threads);

static dnnl_engine_t engine;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void) {
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success) {
        engine = NULL;
    }
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        if ((call) != dnnl_success) {                                                              \
            return false;                                                                          \
        }                                                                                          \
    } while (0)

static bool memory(dnnl_memory_t *out, const dnnl_memory_desc_t *md) {
    return dnnl_memory_create(out, md, engine, DNNL_MEMORY_NONE) == dnnl_success;
}

/* `out`: it comes out of the pass; `add`: it is added to ours then. */
static bool make_array(struct array *v, const dnnl_memory_desc_t *ours,
                       const dnnl_memory_desc_t *theirs, bool out, bool add) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_primitive_desc_t pd = NULL;
    if (!memory(&v->theirs, theirs) || !memory(&v->ours, ours)) {
        return false;
    }
    v->floats = dnnl_memory_desc_get_size(theirs) / sizeof(float);
    if (!add && dnnl_memory_desc_equal(theirs, ours)) {
        return true;
    }
    bool fine =
        dnnl_primitive_attr_create(&attr) == dnnl_success &&
        dnnl_post_ops_create(&sum) == dnnl_success &&
        (!add || dnnl_post_ops_append_sum(sum, 1.0f) == dnnl_success) &&
        dnnl_primitive_attr_set_post_ops(attr, sum) == dnnl_success &&
        dnnl_reorder_primitive_desc_create(&pd, out ? theirs : ours, engine, out ? ours : theirs,
                                           engine, attr) == dnnl_success &&
        dnnl_primitive_create(&v->reorder, pd) == dnnl_success;
    dnnl_primitive_desc_destroy(pd);
    dnnl_post_ops_destroy(sum);
    dnnl_primitive_attr_destroy(attr);
    return fine;
}

static void release_array(struct array *v) {
    dnnl_primitive_destroy(v->reorder);
    dnnl_memory_destroy(v->ours);
    dnnl_memory_destroy(v->theirs);
}

static void release_pass(struct pass *p) {
    dnnl_primitive_destroy(p->run);
    release_array(&p->a);
    release_array(&p->b);
    release_array(&p->w);
    dnnl_memory_destroy(p->bias);
    memset(p, 0, sizeof *p);
}

/* What each pass calls its image, its slope and its weights. */
static const dnnl_query_t queries[CONV_PASSES][3] = {
    [CONV_FORWARD] = {dnnl_query_src_md, dnnl_query_dst_md, dnnl_query_weights_md},
    [CONV_GRAD_X] = {dnnl_query_diff_src_md, dnnl_query_diff_dst_md, dnnl_query_weights_md},
    [CONV_GRAD_W] = {dnnl_query_src_md, dnnl_query_diff_dst_md, dnnl_query_diff_weights_md}};

/* The memories of a pass and its reorders. */
static bool finish_pass(struct conv_dnnl *c, enum conv_pass which, dnnl_primitive_desc_t pd) {
    struct pass *p = &c->pass[which];
    const dnnl_query_t *q = queries[which];
    const char *how = NULL;
    TRY(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &how));
    TRY(dnnl_primitive_create(&p->run, pd));
    if (!make_array(&p->a, &c->image, dnnl_primitive_desc_query_md(pd, q[0], 0),
                    which == CONV_GRAD_X, false) ||
        !make_array(&p->b, &c->slope, dnnl_primitive_desc_query_md(pd, q[1], 0),
                    which == CONV_FORWARD, false) ||
        !make_array(&p->w, &c->ours, dnnl_primitive_desc_query_md(pd, q[2], 0),
                    which == CONV_GRAD_W, which == CONV_GRAD_W) ||
        !memory(&p->bias, &c->bias)) {
        return false;
    }
    p->how = how;
    return true;
}

/* Makes a pass of `desc`, or leaves it to our own. */
static void make_pass(struct conv_dnnl *c, enum conv_pass which,
                      const dnnl_convolution_desc_t *desc) {
    dnnl_primitive_desc_t pd = NULL;
    const char *how = "ref";
    if (dnnl_primitive_desc_create(&pd, desc, NULL, engine, c->hint) != dnnl_success) {
        return;
    }
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &how);
    bool slow = strstr(how, "ref") != NULL || (which == CONV_GRAD_W && strstr(how, "gemm") != NULL);
    if (!slow && !finish_pass(c, which, pd)) {
        release_pass(&c->pass[which]);
    }
    if (which == CONV_FORWARD && c->hint == NULL) {
        c->hint = pd; /* the gradients are chosen to go with it */
        return;
    }
    dnnl_primitive_desc_destroy(pd);
}

/* In place of a pass that is there, one in which oneDNN orders images as it likes: where it has
 * one of its compiled kernels for that. */
static void order_freely(struct conv_dnnl *c, enum conv_pass which,
                         const dnnl_convolution_desc_t *desc) {
    struct pass last = c->pass[which];
    if (last.how == NULL) {
        return;
    }
    memset(&c->pass[which], 0, sizeof last);
    make_pass(c, which, desc);
    if (c->pass[which].how != NULL && strncmp(c->pass[which].how, "jit:", 4) == 0) {
        release_pass(&last);
    } else {
        release_pass(&c->pass[which]);
        c->pass[which] = last;
    }
}

static bool describe(struct conv_dnnl *c, const struct conv_plan *plan, dnnl_dims_t stride,
                     dnnl_dims_t dilation, dnnl_dims_t pad, dnnl_dims_t pad_end) {
    static const dnnl_format_tag_t last[] = {dnnl_nwc, dnnl_nhwc, dnnl_ndhwc};
    static const dnnl_format_tag_t ours[2][3] = {{dnnl_oiw, dnnl_oihw, dnnl_oidhw},
                                                 {dnnl_goiw, dnnl_goihw, dnnl_goidhw}};
    const struct kern_conv_shape *s = &plan->s;
    const struct kern_window *win = &s->window;
    unsigned n = win->spatial, g = s->groups > 1;
    dnnl_dims_t x = {(dnnl_dim_t)s->batch, (dnnl_dim_t)s->in_channels};
    dnnl_dims_t y = {(dnnl_dim_t)s->batch, (dnnl_dim_t)s->out_channels};
    dnnl_dims_t w = {(dnnl_dim_t)s->groups, (dnnl_dim_t)plan->out_group,
                     (dnnl_dim_t)plan->in_group};
    dnnl_dims_t b = {(dnnl_dim_t)s->out_channels};
    if (n < 1 || n > KERN_SPATIAL_MAX) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        dnnl_dim_t in = (dnnl_dim_t)win->in[i], out = (dnnl_dim_t)win->out[i];
        x[2 + i] = in;
        y[2 + i] = out;
        w[3 + i] = (dnnl_dim_t)win->kernel[i];
        stride[i] = (dnnl_dim_t)win->stride[i];
        dilation[i] = (dnnl_dim_t)win->dilation[i] - 1;
        pad[i] = (dnnl_dim_t)win->pad[i];
        pad_end[i] = (out - 1) * stride[i] + (w[3 + i] - 1) * (dilation[i] + 1) + 1 - in - pad[i];
        pad_end[i] = pad_end[i] < 0 ? 0 : pad_end[i];
    }
    const dnnl_dim_t *w_dims = g ? w : w + 1;
    int w_rank = (int)(n + 2 + g);
    dnnl_memory_desc_t whole;
    dnnl_dims_t whole_dims, first = {0};
    for (int i = 0; i < w_rank; i++) {
        whole_dims[i] = w_dims[i];
    }
    for (unsigned i = 0; i < n; i++) {
        whole_dims[2 + g + i] = (dnnl_dim_t)plan->whole_kernel[i];
        first[2 + g + i] = (dnnl_dim_t)plan->first_tap[i];
    }
    TRY(dnnl_memory_desc_init_by_tag(&c->image, (int)n + 2, x, dnnl_f32, last[n - 1]));
    TRY(dnnl_memory_desc_init_by_tag(&c->slope, (int)n + 2, y, dnnl_f32, last[n - 1]));
    TRY(dnnl_memory_desc_init_by_tag(&c->any_image, (int)n + 2, x, dnnl_f32, dnnl_format_tag_any));
    TRY(dnnl_memory_desc_init_by_tag(&c->any_slope, (int)n + 2, y, dnnl_f32, dnnl_format_tag_any));
    TRY(dnnl_memory_desc_init_by_tag(&c->any, w_rank, w_dims, dnnl_f32, dnnl_format_tag_any));
    TRY(dnnl_memory_desc_init_by_tag(&whole, w_rank, whole_dims, dnnl_f32, ours[g][n - 1]));
    TRY(dnnl_memory_desc_init_submemory(&c->ours, &whole, w_dims, first));
    TRY(dnnl_memory_desc_init_by_tag(&c->bias, 1, b, dnnl_f32, dnnl_a));
    return true;
}

static bool make_passes(struct conv_dnnl *c, const struct conv_plan *plan) {
    dnnl_dims_t stride, dilation, pad, pad_end;
    dnnl_convolution_desc_t d;
    if (!describe(c, plan, stride, dilation, pad, pad_end)) {
        return false;
    }
    TRY(dnnl_stream_create(&c->stream, engine, dnnl_stream_default_flags));
    bool small = plan->in_spots <= SPOTS_MAX;
    bool wide = small && plan->in_group * plan->taps > CHAIN_MAX;
    bool wide_x = small && plan->out_group * plan->taps > CHAIN_MAX;
    for (int freely = 0; freely <= (wide ? 1 : 0); freely++) {
        TRY(dnnl_dilated_convolution_forward_desc_init(
            &d, dnnl_forward_training, dnnl_convolution_direct, freely ? &c->any_image : &c->image,
            &c->any, &c->bias, freely ? &c->any_slope : &c->slope, stride, dilation, pad, pad_end));
        (freely ? order_freely : make_pass)(c, CONV_FORWARD, &d);
    }
    for (int freely = 0; freely <= (wide_x ? 1 : 0); freely++) {
        TRY(dnnl_dilated_convolution_backward_data_desc_init(
            &d, dnnl_convolution_direct, freely ? &c->any_image : &c->image, &c->any,
            freely ? &c->any_slope : &c->slope, stride, dilation, pad, pad_end));
        (freely ? order_freely : make_pass)(c, CONV_GRAD_X, &d);
    }
    TRY(dnnl_dilated_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &c->image,
                                                            &c->any, NULL, &c->slope, stride,
                                                            dilation, pad, pad_end));
    make_pass(c, CONV_GRAD_W, &d);
    return true;
}

struct conv_dnnl *kern_dnnl_conv_new(struct kern_ctx *ctx, const struct conv_plan *plan) {
    pthread_once(&once, start);
    /* A primitive is planned for the threads there are when it is made. */
    omp_set_num_threads(kern_pool_threads(kern_cpu_pool(ctx)));
    struct conv_dnnl *c = engine == NULL ? NULL : calloc(1, sizeof *c);
    if (c != NULL && !make_passes(c, plan)) {
        kern_dnnl_conv_free(c);
        c = NULL;
    }
    return c;
}

void kern_dnnl_conv_free(struct conv_dnnl *conv) {
    if (conv == NULL) {
        return;
    }
    for (unsigned i = 0; i < CONV_PASSES; i++) {
        release_pass(&conv->pass[i]);
    }
    dnnl_primitive_desc_destroy(conv->hint);
    dnnl_stream_destroy(conv->stream);
    free(conv);
}

const char *kern_dnnl_conv_how(const struct conv_dnnl *conv, enum conv_pass pass) {
    return conv->pass[pass].how;
}

static enum kern_status failed(struct kern_ctx *ctx, dnnl_status_t st) {
    snprintf(ctx->error, sizeof ctx->error, "oneDNN failed with status %d", (int)st);
    return st == dnnl_out_of_memory ? KERN_ENOMEM : KERN_EDEVICE;
}

static dnnl_status_t execute(struct kern_ctx *ctx, struct conv_dnnl *c, dnnl_primitive_t what,
                             int n, const dnnl_exec_arg_t *args) {
    omp_set_num_threads(kern_pool_threads(kern_cpu_pool(ctx)));
    dnnl_status_t st = dnnl_primitive_execute(what, c->stream, n, args);
    return st == dnnl_success ? dnnl_stream_wait(c->stream) : st;
}

static void point(dnnl_memory_t m, const float *p) {
    dnnl_memory_set_data_handle(m, (void *)(uintptr_t)p);
}

/* Where in the scratch an array in their order lies: weights and bias have their own. */
enum { SCRATCH_W = 1, SCRATCH_BIAS = 2, SCRATCH_A = 5, SCRATCH_B = 6 };

/* Room for an array in their order, where that is not ours; `in`: with what ours holds. */
static enum kern_status give(struct kern_ctx *ctx, struct conv_dnnl *c, struct array *v,
                             unsigned scratch, const float *ours, bool in) {
    if (v->reorder == NULL) {
        point(v->theirs, ours);
        return KERN_OK;
    }
    float *theirs = kern_cpu_scratch(ctx, scratch, v->floats);
    if (theirs == NULL) {
        return KERN_ENOMEM;
    }
    point(v->ours, ours);
    point(v->theirs, theirs);
    if (!in) {
        return KERN_OK;
    }
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, v->ours}, {DNNL_ARG_TO, v->theirs}};
    dnnl_status_t st = execute(ctx, c, v->reorder, 2, args);
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}

/* Runs the pass, and brings what it made into our order. */
static enum kern_status run_pass(struct kern_ctx *ctx, struct conv_dnnl *c, struct pass *p, int n,
                                 const dnnl_exec_arg_t *args, const struct array *made) {
    dnnl_status_t st = execute(ctx, c, p->run, n, args);
    if (st == dnnl_success && made->reorder != NULL) {
        const dnnl_exec_arg_t back[] = {{DNNL_ARG_FROM, made->theirs}, {DNNL_ARG_TO, made->ours}};
        st = execute(ctx, c, made->reorder, 2, back);
    }
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}

/* All three arrays of a pass; the one that it makes is not read. */
static enum kern_status give_all(struct kern_ctx *ctx, struct conv_dnnl *c, enum conv_pass which,
                                 const float *a, const float *b, const float *w) {
    struct pass *p = &c->pass[which];
    enum kern_status ks = give(ctx, c, &p->w, SCRATCH_W, w, which != CONV_GRAD_W);
    if (ks == KERN_OK) {
        ks = give(ctx, c, &p->a, SCRATCH_A, a, which != CONV_GRAD_X);
    }
    return ks != KERN_OK ? ks : give(ctx, c, &p->b, SCRATCH_B, b, which != CONV_FORWARD);
}

enum kern_status kern_dnnl_conv_forward(struct kern_ctx *ctx, struct conv_dnnl *conv, float *y,
                                        const float *x, const float *w, const float *b) {
    struct pass *p = &conv->pass[CONV_FORWARD];
    size_t outs = (size_t)conv->bias.dims[0];
    enum kern_status ks = give_all(ctx, conv, CONV_FORWARD, x, y, w);
    if (ks != KERN_OK) {
        return ks;
    }
    if (b == NULL) { /* a convolution without bias is one with zeros: one primitive for both */
        float *zeros = kern_cpu_scratch(ctx, SCRATCH_BIAS, outs);
        if (zeros == NULL) {
            return KERN_ENOMEM;
        }
        memset(zeros, 0, outs * sizeof *zeros);
        b = zeros;
    }
    point(p->bias, b);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a.theirs},
                                    {DNNL_ARG_WEIGHTS, p->w.theirs},
                                    {DNNL_ARG_BIAS, p->bias},
                                    {DNNL_ARG_DST, p->b.theirs}};
    return run_pass(ctx, conv, p, 4, args, &p->b);
}

enum kern_status kern_dnnl_conv_grad_x(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dx,
                                       const float *dy, const float *w) {
    struct pass *p = &conv->pass[CONV_GRAD_X];
    enum kern_status ks = give_all(ctx, conv, CONV_GRAD_X, dx, dy, w);
    if (ks != KERN_OK) {
        return ks;
    }
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_DIFF_DST, p->b.theirs},
                                    {DNNL_ARG_WEIGHTS, p->w.theirs},
                                    {DNNL_ARG_DIFF_SRC, p->a.theirs}};
    return run_pass(ctx, conv, p, 3, args, &p->a);
}

enum kern_status kern_dnnl_conv_grad_w(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dw,
                                       const float *x, const float *dy) {
    struct pass *p = &conv->pass[CONV_GRAD_W];
    enum kern_status ks = give_all(ctx, conv, CONV_GRAD_W, x, dy, dw);
    if (ks != KERN_OK) {
        return ks;
    }
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a.theirs},
                                    {DNNL_ARG_DIFF_DST, p->b.theirs},
                                    {DNNL_ARG_DIFF_WEIGHTS, p->w.theirs}};
    return run_pass(ctx, conv, p, 3, args, &p->w);
}
