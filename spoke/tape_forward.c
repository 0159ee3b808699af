/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a tape's steps in order. Each is one call, or a few, of kernels/kern.h and kernels/nn.h. */
#include "spoke/tape_run.h"

#include <math.h>
#include <string.h>

struct kern_vec tape_at(const struct tape_run *run, size_t tensor) {
    const struct tape_tensor *t = &run->tape->tensors[tensor];
    switch (t->kind) {
    case TAPE_INPUT:
        return run->x;
    case TAPE_PARAM:
        return (struct kern_vec){run->params, t->place};
    case TAPE_CONST:
        return (struct kern_vec){run->tape->consts, t->place};
    case TAPE_ARRAY:
        break;
    }
    return tape_buffer_at(run, (int32_t)t->place);
}

/* ---- views ----------------------------------------------------------------------------------- */

void tape_dense(const struct tape_tensor *y, kern_strides out) {
    struct kern_nd nd = tape_nd(y);
    kern_nd_dense(&nd, out);
}

void tape_walk_axes(const struct tape_tensor *y, const kern_strides axes, kern_strides out) {
    for (unsigned i = 0; i < y->shape.rank; i++)
        out[i] = axes[tape_axis(y, i)];
}

void tape_walk(const struct tape_tensor *x, const struct tape_tensor *y, kern_strides out) {
    kern_strides own;
    unsigned lead = y->shape.rank - x->shape.rank;
    tape_strides(x, own);
    for (unsigned i = 0; i < y->shape.rank; i++) {
        unsigned axis = tape_axis(y, i);
        out[i] = axis < lead ? 0 : own[axis - lead];
    }
}

unsigned tape_broadcast(const struct tape_tensor *x, const struct tape_tensor *y) {
    unsigned axes = 0, lead = y->shape.rank - x->shape.rank;
    for (unsigned i = 0; i < y->shape.rank; i++) {
        unsigned axis = tape_axis(y, i);
        uint64_t own = axis < lead ? 1 : x->shape.dims[axis - lead];
        if (own != y->shape.dims[axis])
            axes |= 1u << i;
    }
    return axes;
}

bool tape_is_row(const struct tape_tensor *x, const struct tape_tensor *y) {
    unsigned last = y->shape.rank;
    if (last == 0)
        return false;
    uint64_t cols = y->shape.dims[tape_axis(y, last - 1)];
    return x->shape.elements == cols && cols != y->shape.elements &&
           tape_broadcast(x, y) == ((1u << (last - 1)) - 1);
}

enum kern_status tape_drop(const struct tape_run *r, const struct tape_step *s, struct kern_vec y,
                           struct kern_vec x, size_t n) {
    const uint64_t draw = s->draw * UINT64_C(0xd1342543de82ef95);
    size_t parts = r->seed_rows ? r->tape->rows : 1, each = n / parts;

    for (size_t i = 0; i < parts; i++)
        TAPE_TRY(kern_dropout((struct kern_vec){y.buf, y.at + i * each},
                              (struct kern_vec){x.buf, x.at + i * each}, each, s->call->alpha,
                              (r->seed + i * r->seed_rows) ^ draw));
    return KERN_OK;
}

size_t tape_piece(const struct tape_run *r, const struct tape_step *s, size_t i) {
    size_t at = 0;
    for (size_t k = 0; k < i; k++) {
        size_t t = s->op == TIER_OP_SPLIT ? s->out[k] : s->in[k];
        at += r->tape->tensors[t].shape.dims[s->call->axis];
    }
    return at;
}

/* ---- how operations are called --------------------------------------------------------------- */

bool tape_unary(const struct tape_step *s, enum kern_unary *op, float *alpha, float *beta) {
    *alpha = s->call->alpha;
    *beta = s->call->beta;
    switch (s->op) {
    case TIER_OP_LEAKY_RELU:
        *op = KERN_LEAKY_RELU;
        return true;
    case TIER_OP_ELU:
        *op = KERN_ELU;
        return true;
    case TIER_OP_HARD_SIGMOID:
        *op = KERN_HARD_SIGMOID;
        return true;
    case TIER_OP_TANH:
        *op = KERN_TANH;
        return true;
    case TIER_OP_GELU:
        *op = s->call->tanh_form ? KERN_GELU_TANH : KERN_GELU;
        return true;
    case TIER_OP_ERF:
        *op = KERN_ERF;
        return true;
    case TIER_OP_SOFTPLUS:
        *op = KERN_SOFTPLUS;
        return true;
    case TIER_OP_EXP:
        *op = KERN_EXP;
        return true;
    case TIER_OP_LOG:
        *op = KERN_LOG;
        return true;
    case TIER_OP_SQRT:
        *op = KERN_SQRT;
        return true;
    case TIER_OP_RECIPROCAL:
        *op = KERN_RECIPROCAL;
        return true;
    case TIER_OP_ABS:
        *op = KERN_ABS;
        return true;
    case TIER_OP_CLIP:
        *op = KERN_CLIP;
        return true;
    case TIER_OP_POW:
        *op = KERN_POW;
        return true;
    case TIER_OP_NEG:
        *op = KERN_AFFINE;
        *alpha = -1;
        *beta = 0;
        return true;
    default:
        return false;
    }
}

struct kern_batch_norm tape_batch_norm(const struct tape_run *r, const struct tape_step *s) {
    const struct tier_shape *x = &tape_in(r, s, 0)->shape;
    return (struct kern_batch_norm){.rows = x->elements / x->dims[1],
                                    .channels = x->dims[1],
                                    .epsilon = s->call->epsilon,
                                    .momentum = s->call->momentum,
                                    .relu = s->relu};
}

struct kern_group_norm tape_group_norm(const struct tape_run *r, const struct tape_step *s) {
    const struct tier_shape *x = &tape_in(r, s, 0)->shape;
    struct kern_group_norm n = {
        .batch = x->dims[0], .spots = 1, .epsilon = s->call->epsilon, .relu = s->relu};
    if (s->op == TIER_OP_LAYER_NORM) {
        n.batch = 1;
        for (unsigned i = 0; i < s->call->axis; i++)
            n.batch *= x->dims[i];
        n.channels = x->elements / n.batch;
        n.groups = 1;
        return n;
    }
    n.channels = x->dims[1];
    n.groups = s->groups;
    n.spots = x->elements / (n.batch * n.channels);
    return n;
}

struct kern_gemm_batch tape_products(const struct tape_run *r, const struct tape_step *s, size_t *m,
                                     size_t *n, size_t *k) {
    const struct tier_shape *a = &tape_in(r, s, 0)->shape, *b = &tape_in(r, s, 1)->shape;
    *k = a->dims[a->rank - 1];
    *n = b->dims[b->rank - 1];
    *m = a->elements / *k;
    if (b->rank == 2)
        return (struct kern_gemm_batch){.count = 1};
    *m = a->dims[a->rank - 2];
    return (struct kern_gemm_batch){
        .count = a->elements / (*m * *k), .step_y = *m * *n, .step_a = *m * *k, .step_b = *k * *n};
}

/* ---- steps ----------------------------------------------------------------------------------- */

static size_t bytes(size_t floats) {
    return floats * sizeof(float);
}

static enum kern_status copy_flat(struct kern_vec y, struct kern_vec x, size_t n) {
    return kern_copy(y.buf, bytes(y.at), x.buf, bytes(x.at), bytes(n));
}

static enum kern_status gemm(struct tape_run *r, const struct tape_step *s) {
    const struct tier_call *c = s->call;
    const struct tape_tensor *y = tape_out(r, s);
    const struct tier_shape *a = &tape_in(r, s, 0)->shape;
    size_t m = y->shape.dims[0], n = y->shape.dims[1], k = c->trans_a ? a->dims[0] : a->dims[1];
    struct kern_vec to = tape_y(r, s), bias = tape_x(r, s, 2);
    bool row = bias.buf && tape_is_row(tape_in(r, s, 2), y) && c->beta == 1.0f;
    float beta = 0;

    if (bias.buf && !row && c->beta != 0.0f) {
        kern_strides from, dense;
        struct kern_nd nd = tape_nd(y);
        tape_walk(tape_in(r, s, 2), y, from);
        tape_dense(y, dense);
        TAPE_TRY(kern_nd_copy(to, dense, bias, from, &nd, false));
        beta = c->beta;
    }
    TAPE_TRY(kern_gemm(to, tape_x(r, s, 0), tape_x(r, s, 1), m, n, k, c->trans_a, c->trans_b,
                       c->alpha, beta));
    return row ? kern_bias_add(to, bias, m, n) : KERN_OK;
}

static enum kern_status matmul(struct tape_run *r, const struct tape_step *s) {
    size_t m, n, k;
    struct kern_gemm_batch batch = tape_products(r, s, &m, &n, &k);
    if (batch.count == 1)
        return kern_gemm(tape_y(r, s), tape_x(r, s, 0), tape_x(r, s, 1), m, n, k, false, false,
                         1.0f, 0.0f);
    return kern_gemm_batch(tape_y(r, s), tape_x(r, s, 0), tape_x(r, s, 1), m, n, k, false, false,
                           1.0f, 0.0f, &batch);
}

static bool alike(const struct tape_tensor *x, const struct tape_tensor *y) {
    return x->shape.elements == y->shape.elements && x->shape.rank == y->shape.rank &&
           x->layout == y->layout;
}

static enum kern_status binary(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *a = tape_in(r, s, 0), *b = tape_in(r, s, 1), *y = tape_out(r, s);
    struct kern_vec to = tape_y(r, s), va = tape_x(r, s, 0), vb = tape_x(r, s, 1);
    size_t n = y->shape.elements;

    if (s->op == TIER_OP_ADD && alike(a, y) && alike(b, y))
        return kern_add(to, va, vb, n);
    if (s->op == TIER_OP_ADD &&
        ((alike(a, y) && tape_is_row(b, y)) || (alike(b, y) && tape_is_row(a, y)))) {
        bool first = alike(a, y);
        struct kern_vec whole = first ? va : vb, row = first ? vb : va;
        size_t cols = (first ? b : a)->shape.elements;
        if (to.buf != whole.buf || to.at != whole.at)
            TAPE_TRY(copy_flat(to, whole, n));
        return kern_bias_add(to, row, n / cols, cols);
    }
    static const enum kern_binary ops[] = {KERN_ADD, KERN_SUB, KERN_MUL, KERN_DIV};
    kern_strides as, bs;
    struct kern_nd nd = tape_nd(y);
    tape_walk(a, y, as);
    tape_walk(b, y, bs);
    return kern_nd_binary(ops[s->op - TIER_OP_ADD], to, va, as, vb, bs, &nd);
}

/* y = max(0, x) + slope * min(0, x): y holds the first term, and x - y is the second's factor. */
static enum kern_status prelu(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0), *slope = tape_in(r, s, 1), *y = tape_out(r, s);
    struct kern_vec to = tape_y(r, s), vx = tape_x(r, s, 0), neg = tape_buffer_at(r, s->aux[0]);
    size_t n = y->shape.elements;
    struct kern_nd nd = tape_nd(y);
    kern_strides dense, ss;

    tape_dense(y, dense);
    tape_walk(slope, y, ss);
    if (x->layout != y->layout)
        return KERN_EARG;
    TAPE_TRY(kern_relu(to, vx, n));
    TAPE_TRY(kern_nd_binary(KERN_SUB, neg, vx, dense, to, dense, &nd));
    TAPE_TRY(kern_nd_binary(KERN_MUL, neg, neg, dense, tape_x(r, s, 1), ss, &nd));
    return kern_add(to, to, neg, n);
}

enum kern_status tape_copy_piece(const struct tape_tensor *whole, struct kern_vec at,
                                 const struct tape_tensor *piece, struct kern_vec part,
                                 unsigned axis, size_t first, bool into, bool add) {
    kern_strides axes, ws, ps;
    struct kern_nd nd = tape_nd(piece);
    tape_strides(whole, axes);
    tape_walk_axes(piece, axes, ws);
    tape_dense(piece, ps);
    at.at += first * (size_t)axes[axis];
    return into ? kern_nd_copy(at, ws, part, ps, &nd, add)
                : kern_nd_copy(part, ps, at, ws, &nd, add);
}

static enum kern_status concat(struct tape_run *r, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        TAPE_TRY(tape_copy_piece(tape_out(r, s), tape_y(r, s), tape_in(r, s, i), tape_x(r, s, i),
                                 s->call->axis, tape_piece(r, s, i), true, false));
    return KERN_OK;
}

static enum kern_status split(struct tape_run *r, const struct tape_step *s) {
    for (size_t i = 0; i < s->out_count; i++)
        TAPE_TRY(tape_copy_piece(tape_in(r, s, 0), tape_x(r, s, 0), &r->tape->tensors[s->out[i]],
                                 tape_at(r, s->out[i]), s->call->axis, tape_piece(r, s, i), false,
                                 false));
    return KERN_OK;
}

void tape_slice(const struct tape_run *r, const struct tape_step *s, kern_strides out,
                size_t *first_out) {
    const struct tape_tensor *x = tape_in(r, s, 0);
    kern_strides axes;
    ptrdiff_t first = 0;
    tape_strides(x, axes);
    for (unsigned i = 0; i < x->shape.rank; i++) {
        first += (ptrdiff_t)s->call->start[i] * axes[i];
        axes[i] *= (ptrdiff_t)s->call->step[i];
    }
    tape_walk_axes(tape_out(r, s), axes, out);
    *first_out = (size_t)first;
}

void tape_pad(const struct tape_run *r, const struct tape_step *s, kern_strides xs, kern_strides ys,
              size_t *first_out) {
    const struct tape_tensor *x = tape_in(r, s, 0), *y = tape_out(r, s);
    kern_strides axes;
    *first_out = 0;
    tape_dense(x, xs);
    tape_strides(y, axes);
    for (unsigned i = 0; i < x->shape.rank; i++) {
        unsigned axis = tape_axis(x, i);
        *first_out += (size_t)s->call->start[axis] * (size_t)axes[axis];
        ys[i] = axes[axis];
    }
}

static enum kern_status pad(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec to = tape_y(r, s), from = tape_x(r, s, 0);
    size_t n = tape_out(r, s)->shape.elements, first;
    kern_strides xs, ys;
    struct kern_nd nd = tape_nd(tape_in(r, s, 0));

    TAPE_TRY(kern_zero(to.buf, bytes(to.at), bytes(n)));
    if (s->call->alpha != 0.0f)
        TAPE_TRY(kern_unary(KERN_AFFINE, to, to, n, 0, s->call->alpha));
    tape_pad(r, s, xs, ys, &first);
    to.at += first;
    return kern_nd_copy(to, ys, from, xs, &nd, false);
}

static enum kern_status transpose(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *y = tape_out(r, s);
    kern_strides axes, from, dense, turned;
    struct kern_nd nd = tape_nd(y);
    tape_strides(tape_in(r, s, 0), axes);
    for (unsigned i = 0; i < nd.rank; i++)
        turned[i] = axes[s->call->perm[i]];
    tape_walk_axes(y, turned, from);
    tape_dense(y, dense);
    return kern_nd_copy(tape_y(r, s), dense, tape_x(r, s, 0), from, &nd, false);
}

/* The same value in another layout, or broadcast to another shape. */
static enum kern_status spread(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(y);
    kern_strides from, dense;
    tape_walk(tape_in(r, s, 0), y, from);
    tape_dense(y, dense);
    return kern_nd_copy(tape_y(r, s), dense, tape_x(r, s, 0), from, &nd, false);
}

static enum kern_status slice(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(y);
    struct kern_vec from = tape_x(r, s, 0);
    kern_strides view, dense;
    size_t first;
    tape_slice(r, s, view, &first);
    tape_dense(y, dense);
    from.at += first;
    return kern_nd_copy(tape_y(r, s), dense, from, view, &nd, false);
}

unsigned tape_reduced(const struct tape_tensor *x, const struct tier_call *c, float *share_out) {
    unsigned axes = 0;
    uint64_t n = 1;
    for (unsigned i = 0; i < x->shape.rank; i++)
        if (c->axes >> tape_axis(x, i) & 1u) {
            axes |= 1u << i;
            n *= x->shape.dims[tape_axis(x, i)];
        }
    *share_out = (float)(1.0 / (double)n);
    return axes;
}

static enum kern_status reduce(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0);
    struct kern_nd nd = tape_nd(x);
    float share;
    unsigned axes = tape_reduced(x, s->call, &share);
    return kern_nd_reduce(tape_y(r, s), tape_x(r, s, 0), &nd, axes,
                          s->op == TIER_OP_REDUCE_MEAN ? share : 1.0f, false);
}

static enum kern_status mix(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec from = tape_x(r, s, 0);
    if (s->mix_count == 0)
        return copy_flat(tape_y(r, s), from, tape_out(r, s)->shape.elements);
    for (size_t i = 0; i < s->mix_count; i++) {
        const struct tape_mix *m = &s->mix[i];
        struct kern_vec to = m->result == TAPE_NONE ? tape_y(r, s) : tape_buffer_at(r, m->result);
        TAPE_TRY(kern_axis_mix(to, from, (struct kern_vec){m->start, 0},
                               (struct kern_vec){m->from, 0}, (struct kern_vec){m->weight, 0},
                               m->outer, m->in, m->out, m->inner, m->taps, false));
        from = to;
    }
    return KERN_OK;
}

void tape_gather(const struct tape_run *r, const struct tape_step *s, size_t *outer, size_t *len,
                 size_t *count, size_t *inner) {
    const struct tier_shape *x = &tape_in(r, s, 0)->shape;
    *outer = *inner = 1;
    for (unsigned i = 0; i < x->rank; i++)
        *(i < s->call->axis ? outer : inner) *= i == s->call->axis ? 1 : x->dims[i];
    *len = x->dims[s->call->axis];
    *count = tape_out(r, s)->shape.elements / (*outer * *inner);
}

static enum kern_status gather(struct tape_run *r, const struct tape_step *s) {
    size_t outer, len, count, inner;
    struct kern_vec index = {s->index, 0};
    tape_gather(r, s, &outer, &len, &count, &inner);
    if (!s->index) {
        index = tape_buffer_at(r, s->aux[0]);
        TAPE_TRY(kern_to_index(index, tape_x(r, s, 1), count));
    }
    return kern_gather(tape_y(r, s), tape_x(r, s, 0), index, outer, len, count, inner);
}

static enum kern_status norm(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec y = tape_y(r, s), x = tape_x(r, s, 0), scale = tape_x(r, s, 1),
                    bias = tape_x(r, s, 2);
    struct kern_vec mean = tape_buffer_at(r, s->aux[0]), inv = tape_buffer_at(r, s->aux[1]);

    if (s->op != TIER_OP_BATCH_NORM) {
        struct kern_group_norm n = tape_group_norm(r, s);
        return kern_group_norm(y, mean, inv, x, scale, bias, &n);
    }
    struct kern_batch_norm n = tape_batch_norm(r, s);
    struct kern_vec run_mean = tape_x(r, s, 3), run_var = tape_x(r, s, 4);
    return r->tape->training ? kern_batch_norm(y, mean, inv, run_mean, run_var, x, scale, bias, &n)
                             : kern_batch_norm_apply(y, x, scale, bias, run_mean, run_var, &n);
}

static enum kern_status softmax(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0);
    size_t cols = x->shape.dims[s->call->axis], rows = x->shape.elements / cols;
    return s->op == TIER_OP_SOFTMAX ? kern_softmax(tape_y(r, s), tape_x(r, s, 0), rows, cols)
                                    : kern_log_softmax(tape_y(r, s), tape_x(r, s, 0), rows, cols);
}

static enum kern_status forward_step(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec x = tape_x(r, s, 0), y = tape_y(r, s);
    const struct tape_tensor *tx = tape_in(r, s, 0);
    size_t n = tape_out(r, s)->shape.elements;
    enum kern_unary unary;
    float alpha, beta;

    if (s->nothing)
        return KERN_OK;
    if (s->op != TAPE_OP_TURN && tape_unary(s, &unary, &alpha, &beta))
        return kern_unary(unary, y, x, n, alpha, beta);
    switch (s->op) {
    case TIER_OP_CONV:
    case TIER_OP_CONV_TRANSPOSE:
        return kern_conv_forward(s->conv, y, x, tape_x(r, s, 1), tape_x(r, s, 2));
    case TIER_OP_GEMM:
        return gemm(r, s);
    case TIER_OP_MATMUL:
        return matmul(r, s);
    case TIER_OP_ADD:
    case TIER_OP_SUB:
    case TIER_OP_MUL:
    case TIER_OP_DIV:
        return binary(r, s);
    case TIER_OP_RELU:
        return kern_relu(y, x, n);
    case TIER_OP_PRELU:
        return prelu(r, s);
    case TIER_OP_SIGMOID:
        return kern_sigmoid(y, x, n);
    case TIER_OP_SOFTMAX:
    case TIER_OP_LOG_SOFTMAX:
        return softmax(r, s);
    case TIER_OP_MAX_POOL:
        return kern_max_pool(y, tape_buffer_at(r, s->aux[0]), x, tx->shape.dims[0],
                             tx->shape.dims[1], &s->window);
    case TIER_OP_AVERAGE_POOL:
        return kern_mean_pool(y, x, tx->shape.dims[0], tx->shape.dims[1], &s->window,
                              s->call->count_pad);
    case TIER_OP_BATCH_NORM:
    case TIER_OP_INSTANCE_NORM:
    case TIER_OP_GROUP_NORM:
    case TIER_OP_LAYER_NORM:
        return norm(r, s);
    case TIER_OP_DROPOUT:
        return tape_drop(r, s, y, x, n);
    case TIER_OP_CONCAT:
        return concat(r, s);
    case TIER_OP_SPLIT:
        return split(r, s);
    case TIER_OP_SLICE:
        return slice(r, s);
    case TIER_OP_PAD:
        return s->call->pad_mode == TIER_PAD_CONSTANT ? pad(r, s) : mix(r, s);
    case TIER_OP_EXPAND:
    case TAPE_OP_TURN:
        return spread(r, s);
    case TIER_OP_TRANSPOSE:
        return transpose(r, s);
    case TIER_OP_GATHER:
        return gather(r, s);
    case TIER_OP_RESIZE:
        return mix(r, s);
    case TIER_OP_REDUCE_SUM:
    case TIER_OP_REDUCE_MEAN:
        return reduce(r, s);
    default:
        return KERN_EARG;
    }
}

enum tier_status tape_forward(struct tape_run *run) {
    for (size_t i = 0; i < run->tape->step_count; i++) {
        const struct tape_step *s = &run->tape->steps[i];
        enum kern_status st = forward_step(run, s);
        if (st != KERN_OK)
            return tape_kern_fail(run->tape->dev, st, s->name, run->err);
    }
    return TIER_OK;
}
