/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chooses who computes a convolution's passes, and turns a transposed convolution into the plain
 * one whose gradient it is: its forward pass is that one's gradient of the input, and the other way
 * round.
 */
#include "kernels/cpu/conv.h"

#include <stdlib.h>
#include <string.h>

struct cpu_conv {
    struct conv_plan plan; /* plain */
    bool transposed;
    struct conv_dnnl *dnnl; /* or NULL */
};

float *kern_cpu_scratch(struct kern_ctx *ctx, unsigned which, size_t floats) {
    struct kern_cpu *cpu = (struct kern_cpu *)ctx;
    if (cpu->scratch_floats[which] < floats) {
        void *p = NULL;
        free(cpu->scratch[which]);
        cpu->scratch[which] = NULL;
        cpu->scratch_floats[which] = 0;
        if (posix_memalign(&p, 64, floats * sizeof(float)) != 0) {
            kern_cpu_no_memory(ctx, floats * sizeof(float));
            return NULL;
        }
        cpu->scratch[which] = p;
        cpu->scratch_floats[which] = floats;
    }
    return cpu->scratch[which];
}

/* Tap `tap` of dimension i sees an input from at least one output. */
static bool sees_any(const struct kern_window *w, unsigned i, size_t tap) {
    size_t first = tap * w->dilation[i];
    for (size_t o = 0; o < w->out[i]; o++) {
        size_t at = first + o * w->stride[i];
        if (at >= w->pad[i] && at - w->pad[i] < w->in[i]) {
            return true;
        }
    }
    return false;
}

static void trim(struct conv_plan *p, unsigned i) {
    struct kern_window *w = &p->s.window;
    while (w->kernel[i] > 1 && !sees_any(w, i, w->kernel[i] - 1)) {
        w->kernel[i]--;
    }
    while (w->kernel[i] > 1 && w->pad[i] >= w->dilation[i] && !sees_any(w, i, 0)) {
        w->kernel[i]--;
        w->pad[i] -= w->dilation[i];
        p->first_tap[i]++;
    }
}

static struct conv_plan plan_of(const struct kern_conv_shape *shape) {
    struct conv_plan p = {.s = *shape, .taps = 1, .in_spots = 1, .out_spots = 1, .whole_taps = 1};
    if (shape->transposed) {
        p.s.in_channels = shape->out_channels;
        p.s.out_channels = shape->in_channels;
        p.s.transposed = false;
    }
    for (unsigned i = 0; i < shape->window.spatial; i++) {
        p.whole_kernel[i] = shape->window.kernel[i];
        p.whole_taps *= p.whole_kernel[i];
        trim(&p, i);
        p.taps *= p.s.window.kernel[i];
        p.in_spots *= shape->window.in[i];
        p.out_spots *= shape->window.out[i];
    }
    p.in_group = p.s.in_channels / p.s.groups;
    p.out_group = p.s.out_channels / p.s.groups;
    return p;
}

enum kern_status kern_cpu_conv_new(struct kern_ctx *ctx, const struct kern_conv_shape *shape,
                                   void **state_out) {
    struct cpu_conv *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return kern_cpu_no_memory(ctx, sizeof *c);
    }
    c->plan = plan_of(shape);
    c->transposed = shape->transposed;
    c->dnnl = kern_dnnl_conv_new(ctx, &c->plan);
    *state_out = c;
    return KERN_OK;
}

void kern_cpu_conv_free(struct kern_ctx *ctx, void *state) {
    struct cpu_conv *c = state;
    (void)ctx;
    kern_dnnl_conv_free(c->dnnl);
    free(c);
}

static const char *dnnl_how(const struct cpu_conv *c, enum conv_pass pass) {
    return c->dnnl == NULL ? NULL : kern_dnnl_conv_how(c->dnnl, pass);
}

const char *kern_cpu_conv_how(const void *state) {
    const struct cpu_conv *c = state;
    const char *how = dnnl_how(c, c->transposed ? CONV_GRAD_X : CONV_FORWARD);
    return how == NULL ? "own" : how;
}

static enum kern_status plain_forward(struct kern_ctx *ctx, struct cpu_conv *c, float *y,
                                      const float *x, const float *w, const float *b, bool add) {
    size_t n = c->plan.s.batch * c->plan.out_spots * c->plan.s.out_channels;
    float *to = add ? kern_cpu_scratch(ctx, 0, n) : y;
    if (to == NULL) {
        return KERN_ENOMEM;
    }
    enum kern_status st = dnnl_how(c, CONV_FORWARD) != NULL
                              ? kern_dnnl_conv_forward(ctx, c->dnnl, to, x, w, b)
                              : kern_own_conv_forward(ctx, &c->plan, to, x, w, b);
    return st == KERN_OK && add ? kern_cpu_add(ctx, y, y, to, n) : st;
}

static enum kern_status plain_grad_x(struct kern_ctx *ctx, struct cpu_conv *c, float *dx,
                                     const float *dy, const float *w, bool add) {
    size_t n = c->plan.s.batch * c->plan.in_spots * c->plan.s.in_channels;
    if (dnnl_how(c, CONV_GRAD_X) == NULL) {
        return kern_own_conv_grad_x(ctx, &c->plan, dx, dy, w, add);
    }
    float *to = add ? kern_cpu_scratch(ctx, 0, n) : dx;
    if (to == NULL) {
        return KERN_ENOMEM;
    }
    enum kern_status st = kern_dnnl_conv_grad_x(ctx, c->dnnl, to, dy, w);
    return st == KERN_OK && add ? kern_cpu_add(ctx, dx, dx, to, n) : st;
}

/* x[n] as the convolution takes it: where a group is one input channel it is no product. */
static const float *taken(struct kern_ctx *ctx, const struct cpu_conv *c, unsigned which,
                          const float *x, size_t n) {
    bool product = c->plan.s.groups == 1 || c->plan.in_group > 1;
    return product ? kern_cpu_taken(ctx, which, x, n) : x;
}

static size_t weights_of(const struct cpu_conv *c) {
    return c->plan.s.out_channels * c->plan.in_group * c->plan.whole_taps;
}

/* Elements of the plain convolution's image, and of what it makes. */
static size_t image_of(const struct cpu_conv *c) {
    return c->plan.s.batch * c->plan.in_spots * c->plan.s.in_channels;
}

static size_t slope_of(const struct cpu_conv *c) {
    return c->plan.s.batch * c->plan.out_spots * c->plan.s.out_channels;
}

enum kern_status kern_cpu_conv_forward(struct kern_ctx *ctx, void *state, float *y, const float *x,
                                       const float *w, const float *b) {
    struct cpu_conv *c = state;
    x = taken(ctx, c, 0, x, c->transposed ? slope_of(c) : image_of(c));
    w = taken(ctx, c, 1, w, weights_of(c));
    if (x == NULL || w == NULL) {
        return KERN_ENOMEM;
    }
    if (!c->transposed) {
        return plain_forward(ctx, c, y, x, w, b, false);
    }
    enum kern_status st = plain_grad_x(ctx, c, y, x, w, false);
    if (st != KERN_OK || b == NULL) {
        return st;
    }
    return kern_cpu_bias_add(ctx, y, b, c->plan.s.batch * c->plan.in_spots, c->plan.s.in_channels);
}

enum kern_status kern_cpu_conv_grad_x(struct kern_ctx *ctx, void *state, float *dx, const float *dy,
                                      const float *w, bool add) {
    struct cpu_conv *c = state;
    dy = taken(ctx, c, 0, dy, c->transposed ? image_of(c) : slope_of(c));
    w = taken(ctx, c, 1, w, weights_of(c));
    if (dy == NULL || w == NULL) {
        return KERN_ENOMEM;
    }
    return c->transposed ? plain_forward(ctx, c, dx, dy, w, NULL, add)
                         : plain_grad_x(ctx, c, dx, dy, w, add);
}

enum kern_status kern_cpu_conv_grad_w(struct kern_ctx *ctx, void *state, float *dw, float *db,
                                      const float *x, const float *dy) {
    struct cpu_conv *c = state;
    const struct conv_plan *p = &c->plan;
    const float *image = taken(ctx, c, 0, c->transposed ? dy : x, image_of(c));
    const float *slope = taken(ctx, c, 1, c->transposed ? x : dy, slope_of(c));
    if (image == NULL || slope == NULL) {
        return KERN_ENOMEM;
    }
    enum kern_status st = dnnl_how(c, CONV_GRAD_W) != NULL
                              ? kern_dnnl_conv_grad_w(ctx, c->dnnl, dw, image, slope)
                              : kern_own_conv_grad_w(ctx, p, dw, image, slope);
    if (st != KERN_OK || db == NULL) {
        return st;
    }
    size_t spots = c->transposed ? p->in_spots : p->out_spots;
    size_t channels = c->transposed ? p->s.in_channels : p->s.out_channels;
    const struct kern_nd nd = {.rank = 2, .dims = {p->s.batch * spots, channels}};
    return kern_cpu_nn.nd_reduce(ctx, db, dy, &nd, 1, 1.0f, true);
}
