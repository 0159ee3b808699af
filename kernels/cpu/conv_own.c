/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions by patches: the inputs that an output spot sees are laid side by side, tap after tap
 * and its channels together, SLAB output spots at a time, and multiplied by the weights in the same
 * order. A slab of patches stays in a core's second-level cache; memory does not grow with the
 * image.
 */
#include "kernels/cpu/conv.h"

#include <string.h>

#define SLAB_FLOATS (48u << 10)
#define SLAB_ROWS_MIN 16
#define PARTS_MAX 8
#define PARTS_BYTES_MAX ((size_t)64 << 20)
/* From so many weights on a product that adds to them moves more bytes than it multiplies, unless
 * it is of many rows at once. */
#define SHARED_WEIGHTS (64u << 10)
#define SHARED_ROWS 256

struct own_job {
    const struct conv_plan *p;
    size_t width, slab; /* floats of a patch of one group, spots of a slab */
    size_t parts, slabs, first;
    float *y, *dx, *dw;
    const float *x, *dy, *b, *weights;
    float *w;       /* [groups][out_group][taps][in_group] */
    float *patches; /* [tasks at once][slab][width] */
    float *sum;     /* [parts][as w]: the gradient of w */
    bool add;
};

/* Where kept tap `t` lies among all taps of the weights. */
static size_t whole_tap(const struct conv_plan *p, size_t t) {
    size_t at = 0, step = 1;
    for (unsigned i = p->s.window.spatial; i-- > 0;) {
        at += (t % p->s.window.kernel[i] + p->first_tap[i]) * step;
        t /= p->s.window.kernel[i];
        step *= p->whole_kernel[i];
    }
    return at;
}

/* [out][in_group][whole_taps] <-> [out][taps][in_group], outputs `begin` to `end`. */
static void pack_range(const void *job, size_t begin, size_t end) {
    const struct own_job *j = job;
    const struct conv_plan *p = j->p;
    for (size_t t = 0; t < p->taps; t++) {
        size_t from = whole_tap(p, t);
        for (size_t o = begin; o < end; o++) {
            const float *w = j->weights + o * p->in_group * p->whole_taps + from;
            float *to = j->w + (o * p->taps + t) * p->in_group;
            for (size_t c = 0; c < p->in_group; c++) {
                to[c] = w[c * p->whole_taps];
            }
        }
    }
}

static void unpack_add_range(const void *job, size_t begin, size_t end) {
    const struct own_job *j = job;
    const struct conv_plan *p = j->p;
    for (size_t t = 0; t < p->taps; t++) {
        size_t at = whole_tap(p, t);
        for (size_t o = begin; o < end; o++) {
            float *dw = j->dw + o * p->in_group * p->whole_taps + at;
            const float *from = j->sum + (o * p->taps + t) * p->in_group;
            for (size_t c = 0; c < p->in_group; c++) {
                dw[c * p->whole_taps] += from[c];
            }
        }
    }
}

/* Which input spot tap `tap` of output spot `o` sees; false in the padding. */
static bool sees(const struct kern_window *w, size_t o, size_t tap, size_t *spot_out) {
    size_t at[KERN_SPATIAL_MAX], spot = 0;
    for (unsigned i = w->spatial; i-- > 0;) {
        size_t place = o % w->out[i] * w->stride[i] + tap % w->kernel[i] * w->dilation[i];
        o /= w->out[i];
        tap /= w->kernel[i];
        if (place < w->pad[i] || place - w->pad[i] >= w->in[i]) {
            return false;
        }
        at[i] = place - w->pad[i];
    }
    for (unsigned i = 0; i < w->spatial; i++) {
        spot = spot * w->in[i] + at[i];
    }
    *spot_out = spot;
    return true;
}

/* The same without the last dimension: where the line of inputs begins. */
static bool sees_line(const struct kern_window *w, size_t o, size_t tap, size_t *spot_out) {
    size_t at[KERN_SPATIAL_MAX], spot = 0;
    unsigned last = w->spatial - 1;
    o /= w->out[last];
    tap /= w->kernel[last];
    for (unsigned i = last; i-- > 0;) {
        size_t place = o % w->out[i] * w->stride[i] + tap % w->kernel[i] * w->dilation[i];
        o /= w->out[i];
        tap /= w->kernel[i];
        if (place < w->pad[i] || place - w->pad[i] >= w->in[i]) {
            return false;
        }
        at[i] = place - w->pad[i];
    }
    for (unsigned i = 0; i < last; i++) {
        spot = spot * w->in[i] + at[i];
    }
    *spot_out = spot * w->in[last];
    return true;
}

/*
 * Calls of one tap over a slab: runs of output spots along the last dimension whose inputs lie at
 * one distance. For each run: fn(spot of the slab, input spot, how many, step of the input).
 */
struct run {
    size_t row, spot, n;
};

/* The longest run of tap `tap` that begins at output spot `o` (n 0: that many in the padding). */
static bool next_run(const struct kern_window *w, size_t o, size_t left, size_t tap,
                     struct run *run) {
    unsigned last = w->spatial - 1;
    size_t line = w->out[last] - o % w->out[last], spot, n;
    n = line < left ? line : left;
    if (!sees(w, o, tap, &spot)) {
        run->n = 1;
        return false;
    }
    size_t column = o % w->out[last] * w->stride[last] + tap % w->kernel[last] * w->dilation[last] -
                    w->pad[last];
    size_t fit = (w->in[last] - 1 - column) / w->stride[last] + 1;
    run->spot = spot;
    run->n = n < fit ? n : fit;
    return true;
}

/*
 * Taps of the last dimension lie side by side in the input as they do in a patch, where there is
 * one group and no dilation: a patch is then a few long pieces, one for each line of the window.
 */
static void gather_lines(const struct own_job *j, float *patches, const float *x, size_t first,
                         size_t n) {
    const struct conv_plan *p = j->p;
    const struct kern_window *w = &p->s.window;
    unsigned last = w->spatial - 1;
    size_t c = p->in_group, taps = w->kernel[last], out = w->out[last], spot = 0;
    for (size_t i = 0, line; i < n; i += line) {
        size_t column = (first + i) % out;
        line = out - column < n - i ? out - column : n - i;
        for (size_t t = 0; t < p->taps; t += taps) {
            /* The line of inputs that these taps see: its first spot, or none. */
            bool there = sees_line(w, first + i, t, &spot);
            for (size_t k = 0; k < line; k++) {
                ptrdiff_t at =
                    (ptrdiff_t)((column + k) * w->stride[last]) - (ptrdiff_t)w->pad[last];
                ptrdiff_t from = at < 0 ? 0 : at, end = at + (ptrdiff_t)taps;
                end = end < (ptrdiff_t)w->in[last] ? end : (ptrdiff_t)w->in[last];
                float *to = patches + (i + k) * j->width + t * c;
                if (!there || end <= from) {
                    memset(to, 0, taps * c * sizeof *to);
                    continue;
                }
                size_t before = (size_t)(from - at) * c, len = (size_t)(end - from) * c;
                memset(to, 0, before * sizeof *to);
                memcpy(to + before, x + (spot + (size_t)from) * c, len * sizeof *to);
                memset(to + before + len, 0, (taps * c - before - len) * sizeof *to);
            }
        }
    }
}

static void gather_patches(const struct own_job *j, float *patches, const float *x, size_t first,
                           size_t n, size_t group) {
    const struct conv_plan *p = j->p;
    const struct kern_window *w = &p->s.window;
    if (p->s.groups == 1 && w->dilation[w->spatial - 1] == 1) {
        gather_lines(j, patches, x, first, n);
        return;
    }
    size_t c = p->in_group, step = w->stride[w->spatial - 1] * p->s.in_channels;
    x += group * c;
    for (size_t t = 0; t < p->taps; t++) {
        float *to = patches + t * c;
        struct run r = {0, 0, 0};
        for (size_t i = 0; i < n; i += r.n) {
            bool there = next_run(w, first + i, n - i, t, &r);
            const float *from = x + r.spot * p->s.in_channels;
            for (size_t k = 0; k < r.n; k++) {
                float *patch = to + (i + k) * j->width;
                for (size_t e = 0; e < c; e++) {
                    patch[e] = there ? from[k * step + e] : 0;
                }
            }
        }
    }
}

/* The same for n spots of the whole batch, from `first` on. */
static void gather_rows(const struct own_job *j, float *patches, size_t first, size_t n,
                        size_t group) {
    const struct conv_plan *p = j->p;
    for (size_t k; n > 0; n -= k, first += k, patches += k * j->width) {
        size_t sample = first / p->out_spots, at = first % p->out_spots;
        k = p->out_spots - at < n ? p->out_spots - at : n;
        gather_patches(j, patches, j->x + sample * p->in_spots * p->s.in_channels, at, k, group);
    }
}

static void scatter_patches(const struct own_job *j, const float *patches, float *dx, size_t first,
                            size_t n, size_t group) {
    const struct conv_plan *p = j->p;
    const struct kern_window *w = &p->s.window;
    size_t c = p->in_group, step = w->stride[w->spatial - 1] * p->s.in_channels;
    dx += group * c;
    for (size_t t = 0; t < p->taps; t++) {
        const float *from = patches + t * c;
        struct run r = {0, 0, 0};
        for (size_t i = 0; i < n; i += r.n) {
            if (!next_run(w, first + i, n - i, t, &r)) {
                continue;
            }
            float *to = dx + r.spot * p->s.in_channels;
            for (size_t k = 0; k < r.n; k++) {
                for (size_t e = 0; e < c; e++) {
                    to[k * step + e] += from[(i + k) * j->width + e];
                }
            }
        }
    }
}

static size_t weights_of(const struct conv_plan *p) {
    return p->s.out_channels * p->taps * p->in_group;
}

/* Slabs of at least `least` of `rows` spots, each task's own, and `more` floats behind them. */
static enum kern_status take_memory(struct kern_ctx *ctx, struct own_job *j, size_t rows,
                                    size_t least, size_t tasks, size_t more) {
    const struct conv_plan *p = j->p;
    size_t weights = weights_of(p);
    j->width = p->taps * p->in_group;
    j->slab = SLAB_FLOATS / j->width;
    j->slab = j->slab < least ? least : j->slab;
    j->slab = j->slab > rows ? rows : j->slab;
    j->slabs = (rows + j->slab - 1) / j->slab;
    j->w = kern_cpu_scratch(ctx, 1, weights + tasks * j->slab * j->width + more);
    if (j->w == NULL) {
        return KERN_ENOMEM;
    }
    j->patches = j->w + weights;
    return KERN_OK;
}

static void pack(struct kern_ctx *ctx, struct own_job *j, const float *w) {
    j->weights = w;
    kern_cpu_each(ctx, pack_range, j, j->p->s.out_channels, j->width);
}

/* Tasks run at once at most; each has patches of its own, so more tasks than these take turns. */
static size_t lanes_of(struct kern_ctx *ctx, size_t tasks) {
    size_t threads = (size_t)kern_pool_threads(kern_cpu_pool(ctx));
    return tasks < threads ? tasks : threads;
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Lane `lane` takes every lanes-th slab: no result depends on which lane it was. */
static void forward_lane(const void *job, size_t lane) {
    const struct own_job *j = job;
    const struct conv_plan *p = j->p;
    float *patches = j->patches + lane * j->slab * j->width;
    size_t out = p->s.out_channels, rows = p->s.batch * p->out_spots;
    for (size_t task = lane; task < j->slabs; task += j->parts) {
        size_t first = task * j->slab, n = rows - first < j->slab ? rows - first : j->slab;
        float *y = j->y + first * out;
        for (size_t g = 0; g < p->s.groups; g++) {
            gather_rows(j, patches, first, n, g);
            kern_cpu_sgemm(n, p->out_group, j->width, false, true, 1.0f, patches, j->width,
                           j->w + g * p->out_group * j->width, j->width, 0.0f, y + g * p->out_group,
                           out);
        }
        for (size_t i = 0; j->b != NULL && i < n; i++) {
            for (size_t o = 0; o < out; o++) {
                y[i * out + o] += j->b[o];
            }
        }
    }
}

enum kern_status kern_own_conv_forward(struct kern_ctx *ctx, const struct conv_plan *plan, float *y,
                                       const float *x, const float *w, const float *b) {
    struct own_job j = {.p = plan, .y = y, .x = x, .b = b};
    j.parts = (size_t)kern_pool_threads(kern_cpu_pool(ctx));
    enum kern_status st =
        take_memory(ctx, &j, plan->s.batch * plan->out_spots, SLAB_ROWS_MIN, j.parts, 0);
    if (st != KERN_OK) {
        return st;
    }
    pack(ctx, &j, w);
    kern_pool_run(kern_cpu_pool(ctx), forward_lane, &j, j.parts);
    return KERN_OK;
}

/* ---- the gradient of the input --------------------------------------------------------------- */

static void grad_x_lane(const void *job, size_t lane) {
    const struct own_job *j = job;
    const struct conv_plan *p = j->p;
    float *patches = j->patches + lane * j->slab * j->width;
    size_t in = p->in_spots * p->s.in_channels, out = p->s.out_channels;
    for (size_t sample = lane; sample < p->s.batch; sample += j->parts) {
        float *dx = j->dx + sample * in;
        if (!j->add) {
            memset(dx, 0, in * sizeof *dx);
        }
        for (size_t first = 0; first < p->out_spots; first += j->slab) {
            size_t n = p->out_spots - first < j->slab ? p->out_spots - first : j->slab;
            const float *dy = j->dy + (sample * p->out_spots + first) * out;
            for (size_t g = 0; g < p->s.groups; g++) {
                kern_cpu_sgemm(n, j->width, p->out_group, false, false, 1.0f, dy + g * p->out_group,
                               out, j->w + g * p->out_group * j->width, j->width, 0.0f, patches,
                               j->width);
                scatter_patches(j, patches, dx, first, n, g);
            }
        }
    }
}

enum kern_status kern_own_conv_grad_x(struct kern_ctx *ctx, const struct conv_plan *plan, float *dx,
                                      const float *dy, const float *w, bool add) {
    struct own_job j = {.p = plan, .dx = dx, .dy = dy, .add = add};
    j.parts = lanes_of(ctx, plan->s.batch);
    enum kern_status st = take_memory(ctx, &j, plan->out_spots, SLAB_ROWS_MIN, j.parts, 0);
    if (st != KERN_OK) {
        return st;
    }
    pack(ctx, &j, w);
    kern_pool_run(kern_cpu_pool(ctx), grad_x_lane, &j, j.parts);
    return KERN_OK;
}

/* ---- the gradient of the weights ------------------------------------------------------------- */

/*
 * Few weights: part `part` adds up its share of all slabs, and the parts are added at the end. They
 * follow from the shape alone.
 */
static void grad_w_part(const void *job, size_t part) {
    const struct own_job *j = job;
    const struct conv_plan *p = j->p;
    size_t weights = weights_of(p), out = p->s.out_channels, rows = p->s.batch * p->out_spots;
    float *patches = j->patches + part * j->slab * j->width;
    float *sum = j->sum + part * weights;
    memset(sum, 0, weights * sizeof *sum);
    for (size_t task = kern_cpu_part_begin(j->slabs, j->parts, part);
         task < kern_cpu_part_begin(j->slabs, j->parts, part + 1); task++) {
        size_t first = task * j->slab, n = rows - first < j->slab ? rows - first : j->slab;
        for (size_t g = 0; g < p->s.groups; g++) {
            gather_rows(j, patches, first, n, g);
            kern_cpu_sgemm(p->out_group, j->width, n, true, false, 1.0f,
                           j->dy + first * out + g * p->out_group, out, patches, j->width, 1.0f,
                           sum + g * p->out_group * j->width, j->width);
        }
    }
}

static void gather_range(const void *job, size_t begin, size_t end) {
    const struct own_job *j = job;
    gather_rows(j, j->patches + begin * j->width, j->first + begin, end - begin, 0);
}

/* Many weights: slab after slab, and all threads share the weights of each. */
static void grad_w_shared(struct kern_ctx *ctx, struct own_job *j) {
    size_t out = j->p->s.out_channels, rows = j->p->s.batch * j->p->out_spots, n;
    for (j->first = 0; j->first < rows; j->first += n) {
        n = rows - j->first < j->slab ? rows - j->first : j->slab;
        kern_cpu_each(ctx, gather_range, j, n, j->width);
        kern_cpu_multiply(ctx, j->sum, j->dy + j->first * out, j->patches, out, j->width, n, true,
                          false, 1.0f, j->first == 0 ? 0.0f : 1.0f);
    }
}

enum kern_status kern_own_conv_grad_w(struct kern_ctx *ctx, const struct conv_plan *plan, float *dw,
                                      const float *x, const float *dy) {
    struct own_job j = {.p = plan, .x = x, .dy = dy, .dw = dw};
    size_t weights = weights_of(plan), rows = plan->s.batch * plan->out_spots;
    bool shared = plan->s.groups == 1 && weights >= SHARED_WEIGHTS;
    size_t fit = PARTS_BYTES_MAX / (weights * sizeof(float));
    j.parts = shared || fit < 1 ? 1 : fit < PARTS_MAX ? fit : PARTS_MAX;
    enum kern_status st = take_memory(ctx, &j, rows, shared ? SHARED_ROWS : SLAB_ROWS_MIN, j.parts,
                                      j.parts * weights);
    if (st != KERN_OK) {
        return st;
    }
    j.sum = j.patches + j.parts * j.slab * j.width;
    if (shared) {
        grad_w_shared(ctx, &j);
    } else {
        kern_pool_run(kern_cpu_pool(ctx), grad_w_part, &j, j.parts);
        for (size_t part = 1; part < j.parts; part++) {
            for (size_t i = 0; i < weights; i++) {
                j.sum[i] += j.sum[part * weights + i];
            }
        }
    }
    kern_cpu_each(ctx, unpack_add_range, &j, plan->s.out_channels, j.width);
    return KERN_OK;
}
