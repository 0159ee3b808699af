/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions by oneDNN. Images stay channels-last; weights are in whatever order oneDNN likes for
 * the pass, so they are reordered around each call, which costs little beside the convolution. An
 * implementation called "ref" is oneDNN's fallback of plain loops, a thousand times too slow, and
 * its weight gradient by "gemm" is slower than our own: neither is used.
 *
 * Primitives belong to one context. oneDNN brings its own threads (OpenMP), as many as the
 * device's; its bits depend on their number.
 */
#include "kernels/cpu/conv.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* One pass: its primitive, and a reorder of the weights into or out of its own order. */
struct pass {
    dnnl_primitive_t run, reorder; /* reorder NULL: the order is ours already */
    dnnl_memory_t a, b, w, w_ours, bias;
    size_t w_floats;
    const char *how;
};

struct conv_dnnl {
    dnnl_stream_t stream;
    struct pass pass[CONV_PASSES];
    dnnl_memory_desc_t image, slope, any, ours, bias;
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

/* The memories of a pass and its reorder. `add`: what comes out is added to ours. */
static bool finish_pass(struct conv_dnnl *c, struct pass *p, dnnl_primitive_desc_t pd,
                        dnnl_query_t weights, bool out) {
    const dnnl_memory_desc_t *w = dnnl_primitive_desc_query_md(pd, weights, 0);
    const char *how = NULL;
    TRY(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &how));
    TRY(dnnl_primitive_create(&p->run, pd));
    if (!memory(&p->a, &c->image) || !memory(&p->b, &c->slope) || !memory(&p->w, w) ||
        !memory(&p->w_ours, &c->ours) || !memory(&p->bias, &c->bias)) {
        return false;
    }
    p->w_floats = dnnl_memory_desc_get_size(w) / sizeof(float);
    if (out || !dnnl_memory_desc_equal(w, &c->ours)) {
        dnnl_primitive_attr_t attr = NULL;
        dnnl_post_ops_t sum = NULL;
        dnnl_primitive_desc_t rpd = NULL;
        bool fine =
            dnnl_primitive_attr_create(&attr) == dnnl_success &&
            dnnl_post_ops_create(&sum) == dnnl_success &&
            (!out || dnnl_post_ops_append_sum(sum, 1.0f) == dnnl_success) &&
            dnnl_primitive_attr_set_post_ops(attr, sum) == dnnl_success &&
            dnnl_reorder_primitive_desc_create(&rpd, out ? w : &c->ours, engine, out ? &c->ours : w,
                                               engine, attr) == dnnl_success &&
            dnnl_primitive_create(&p->reorder, rpd) == dnnl_success;
        dnnl_primitive_desc_destroy(rpd);
        dnnl_post_ops_destroy(sum);
        dnnl_primitive_attr_destroy(attr);
        if (!fine) {
            return false;
        }
    }
    p->how = how;
    return true;
}

/* Makes a pass of `desc`, or leaves it to our own. */
static void make_pass(struct conv_dnnl *c, enum conv_pass which,
                      const dnnl_convolution_desc_t *desc, dnnl_query_t weights) {
    dnnl_primitive_desc_t pd = NULL;
    const char *how = "ref";
    if (dnnl_primitive_desc_create(&pd, desc, NULL, engine, c->hint) != dnnl_success) {
        return;
    }
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &how);
    bool slow = strstr(how, "ref") != NULL || (which == CONV_GRAD_W && strstr(how, "gemm") != NULL);
    if (!slow && !finish_pass(c, &c->pass[which], pd, weights, which == CONV_GRAD_W)) {
        c->pass[which].how = NULL;
    }
    if (which == CONV_FORWARD) {
        c->hint = pd; /* the gradients are chosen to go with it */
        return;
    }
    dnnl_primitive_desc_destroy(pd);
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
    TRY(dnnl_dilated_convolution_forward_desc_init(
        &d, dnnl_forward_training, dnnl_convolution_direct, &c->image, &c->any, &c->bias, &c->slope,
        stride, dilation, pad, pad_end));
    make_pass(c, CONV_FORWARD, &d, dnnl_query_weights_md);
    TRY(dnnl_dilated_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &c->image,
                                                         &c->any, &c->slope, stride, dilation, pad,
                                                         pad_end));
    make_pass(c, CONV_GRAD_X, &d, dnnl_query_weights_md);
    TRY(dnnl_dilated_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &c->image,
                                                            &c->any, NULL, &c->slope, stride,
                                                            dilation, pad, pad_end));
    make_pass(c, CONV_GRAD_W, &d, dnnl_query_diff_weights_md);
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
        struct pass *p = &conv->pass[i];
        dnnl_primitive_destroy(p->run);
        dnnl_primitive_destroy(p->reorder);
        dnnl_memory_destroy(p->a);
        dnnl_memory_destroy(p->b);
        dnnl_memory_destroy(p->w);
        dnnl_memory_destroy(p->w_ours);
        dnnl_memory_destroy(p->bias);
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

/* Leaves the pass's weights where p->w points, in its own order. */
static enum kern_status weights_in(struct kern_ctx *ctx, struct conv_dnnl *c, struct pass *p,
                                   const float *w) {
    if (p->reorder == NULL) {
        point(p->w, w);
        return KERN_OK;
    }
    float *theirs = kern_cpu_scratch(ctx, 1, p->w_floats);
    if (theirs == NULL) {
        return KERN_ENOMEM;
    }
    point(p->w_ours, w);
    point(p->w, theirs);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, p->w_ours}, {DNNL_ARG_TO, p->w}};
    dnnl_status_t st = execute(ctx, c, p->reorder, 2, args);
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}

enum kern_status kern_dnnl_conv_forward(struct kern_ctx *ctx, struct conv_dnnl *conv, float *y,
                                        const float *x, const float *w, const float *b) {
    struct pass *p = &conv->pass[CONV_FORWARD];
    size_t outs = (size_t)conv->bias.dims[0];
    enum kern_status ks = weights_in(ctx, conv, p, w);
    if (ks != KERN_OK) {
        return ks;
    }
    if (b == NULL) { /* a convolution without bias is one with zeros: one primitive for both */
        float *zeros = kern_cpu_scratch(ctx, 2, outs);
        if (zeros == NULL) {
            return KERN_ENOMEM;
        }
        memset(zeros, 0, outs * sizeof *zeros);
        b = zeros;
    }
    point(p->a, x);
    point(p->b, y);
    point(p->bias, b);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->a},
                                    {DNNL_ARG_WEIGHTS, p->w},
                                    {DNNL_ARG_BIAS, p->bias},
                                    {DNNL_ARG_DST, p->b}};
    dnnl_status_t st = execute(ctx, conv, p->run, 4, args);
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}

enum kern_status kern_dnnl_conv_grad_x(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dx,
                                       const float *dy, const float *w) {
    struct pass *p = &conv->pass[CONV_GRAD_X];
    enum kern_status ks = weights_in(ctx, conv, p, w);
    if (ks != KERN_OK) {
        return ks;
    }
    point(p->a, dx);
    point(p->b, dy);
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_DIFF_DST, p->b}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DIFF_SRC, p->a}};
    dnnl_status_t st = execute(ctx, conv, p->run, 3, args);
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}

enum kern_status kern_dnnl_conv_grad_w(struct kern_ctx *ctx, struct conv_dnnl *conv, float *dw,
                                       const float *x, const float *dy) {
    struct pass *p = &conv->pass[CONV_GRAD_W];
    float *theirs = kern_cpu_scratch(ctx, 1, p->w_floats);
    if (theirs == NULL) {
        return KERN_ENOMEM;
    }
    point(p->a, x);
    point(p->b, dy);
    point(p->w, theirs);
    point(p->w_ours, dw);
    const dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->a}, {DNNL_ARG_DIFF_DST, p->b}, {DNNL_ARG_DIFF_WEIGHTS, p->w}};
    dnnl_status_t st = execute(ctx, conv, p->run, 3, args);
    if (st == dnnl_success) {
        const dnnl_exec_arg_t add[] = {{DNNL_ARG_FROM, p->w}, {DNNL_ARG_TO, p->w_ours}};
        st = execute(ctx, conv, p->reorder, 2, add);
    }
    return st == dnnl_success ? KERN_OK : failed(ctx, st);
}
