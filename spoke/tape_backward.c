/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a tape backwards: each step turns the gradient of its result into those of its operands, as
 * the tape decided (enum tape_flow). A kernel that cannot add writes to the step's spare place
 * first. Parameters are always added to.
 */
#include "spoke/tape_run.h"

#include <string.h>

struct kern_vec tape_grad_at(const struct tape_run *run, size_t tensor) {
    const struct tape_tensor *t = &run->tape->tensors[tensor];
    if (t->kind == TAPE_PARAM)
        return (struct kern_vec){run->grads, t->place};
    return tape_buffer_at(run, t->grad);
}

static size_t bytes(size_t floats) {
    return floats * sizeof(float);
}

static enum kern_status copy_flat(struct kern_vec y, struct kern_vec x, size_t n) {
    if (y.buf == x.buf && y.at == x.at)
        return KERN_OK;
    return kern_copy(y.buf, bytes(y.at), x.buf, bytes(x.at), bytes(n));
}

static struct kern_vec dy_of(const struct tape_run *r, const struct tape_step *s) {
    return tape_grad_at(r, s->out[0]);
}

static struct kern_vec dx_of(const struct tape_run *r, const struct tape_step *s, size_t i) {
    return tape_grad_at(r, s->in[i]);
}

static bool flows(const struct tape_step *s, size_t i) {
    return i < s->in_count && s->in[i] != SIZE_MAX && s->flow[i] != TAPE_STOP;
}

/* Where a kernel that cannot add writes operand 0's gradient; settle() then adds it. */
static struct kern_vec target(const struct tape_run *r, const struct tape_step *s) {
    return s->flow[0] == TAPE_ADD ? tape_buffer_at(r, s->temp[0]) : dx_of(r, s, 0);
}

static enum kern_status settle(const struct tape_run *r, const struct tape_step *s) {
    struct kern_vec dx = dx_of(r, s, 0);
    if (s->flow[0] != TAPE_ADD)
        return KERN_OK;
    return kern_add(dx, dx, tape_buffer_at(r, s->temp[0]), tape_in(r, s, 0)->shape.elements);
}

/* Products and convolutions add to weights that are parameters; those that are not begin at 0. */
static enum kern_status clear_if_first(const struct tape_run *r, const struct tape_step *s,
                                       size_t i) {
    struct kern_vec dx = dx_of(r, s, i);
    if (s->flow[i] != TAPE_WRITE)
        return KERN_OK;
    return kern_zero(dx.buf, bytes(dx.at), bytes(tape_in(r, s, i)->shape.elements));
}

static enum kern_status conv(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec dy = dy_of(r, s), db = {NULL, 0};
    bool bias = flows(s, 2);

    if (bias) {
        TAPE_TRY(clear_if_first(r, s, 2));
        db = dx_of(r, s, 2);
    }
    if (flows(s, 1)) {
        TAPE_TRY(clear_if_first(r, s, 1));
        TAPE_TRY(kern_conv_grad_w(s->conv, dx_of(r, s, 1), db, tape_x(r, s, 0), dy));
    } else if (bias) {
        const struct tape_tensor *y = tape_out(r, s);
        size_t cols = y->shape.dims[1];
        TAPE_TRY(kern_bias_grad(db, dy, y->shape.elements / cols, cols));
    }
    return flows(s, 0) ? kern_conv_grad_x(s->conv, dx_of(r, s, 0), dy, tape_x(r, s, 1),
                                          s->flow[0] == TAPE_ADD)
                       : KERN_OK;
}

/*
 * The gradient of an operand that was broadcast: g, as y lies, summed over the dimensions it was
 * broadcast over. `spare` holds the operand's elements.
 */
static enum kern_status fold_back(struct tape_run *r, const struct tape_step *s, size_t i,
                                  struct kern_vec g, struct kern_vec spare, float scale) {
    const struct tape_tensor *x = tape_in(r, s, i), *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(y);
    unsigned axes = tape_broadcast(x, y), kept = 0;
    bool add = s->flow[i] == TAPE_ADD;
    kern_strides walk, from;
    ptrdiff_t at = 1;

    for (unsigned k = 0; k < nd.rank; k++)
        kept += (axes >> k & 1u) == 0 && nd.dims[k] > 1;
    /* Where at most one dimension is left there is but one order of what is left. */
    if (kept <= 1 || (x->layout == TAPE_PLAIN && y->layout == TAPE_PLAIN))
        return kern_nd_reduce(dx_of(r, s, i), g, &nd, axes, scale, add);
    TAPE_TRY(kern_nd_reduce(spare, g, &nd, axes, scale, false));
    tape_walk(x, y, walk);
    for (unsigned k = nd.rank; k-- > 0;) {
        bool summed = (axes >> k & 1u) != 0;
        from[k] = summed || nd.dims[k] == 1 ? 0 : at;
        at *= summed ? 1 : (ptrdiff_t)nd.dims[k];
        if (summed)
            nd.dims[k] = 1;
    }
    return kern_nd_copy(dx_of(r, s, i), walk, spare, from, &nd, add);
}

static enum kern_status gemm(struct tape_run *r, const struct tape_step *s) {
    const struct tier_call *c = s->call;
    const struct tape_tensor *y = tape_out(r, s);
    const struct tier_shape *sa = &tape_in(r, s, 0)->shape;
    size_t m = y->shape.dims[0], n = y->shape.dims[1], k = c->trans_a ? sa->dims[0] : sa->dims[1];
    struct kern_vec dy = dy_of(r, s), a = tape_x(r, s, 0), b = tape_x(r, s, 1);
    bool ta = c->trans_a, tb = c->trans_b;

    if (flows(s, 1)) { /* dB = op(A)' dy, or its transpose */
        float beta = s->flow[1] == TAPE_ADD ? 1.0f : 0.0f;
        struct kern_vec db = dx_of(r, s, 1);
        if (tb)
            TAPE_TRY(kern_gemm(db, dy, a, n, k, m, true, ta, c->alpha, beta));
        else
            TAPE_TRY(kern_gemm(db, a, dy, k, n, m, !ta, false, c->alpha, beta));
    }
    if (flows(s, 2) && c->beta != 0.0f) {
        if (c->beta == 1.0f && tape_is_row(tape_in(r, s, 2), y)) {
            TAPE_TRY(clear_if_first(r, s, 2));
            TAPE_TRY(kern_bias_grad(dx_of(r, s, 2), dy, m, n));
        } else
            TAPE_TRY(fold_back(r, s, 2, dy, (struct kern_vec){NULL, 0}, c->beta));
    }
    if (!flows(s, 0))
        return KERN_OK;
    float beta = s->flow[0] == TAPE_ADD ? 1.0f : 0.0f;
    if (ta)
        return kern_gemm(dx_of(r, s, 0), b, dy, k, m, n, tb, true, c->alpha, beta);
    return kern_gemm(dx_of(r, s, 0), dy, b, m, k, n, false, !tb, c->alpha, beta);
}

static enum kern_status matmul(struct tape_run *r, const struct tape_step *s) {
    size_t m, n, k;
    struct kern_gemm_batch p = tape_products(r, s, &m, &n, &k);
    struct kern_vec dy = dy_of(r, s), a = tape_x(r, s, 0), b = tape_x(r, s, 1);

    for (size_t i = 0; i < 2; i++) {
        if (!flows(s, i))
            continue;
        float beta = s->flow[i] == TAPE_ADD ? 1.0f : 0.0f;
        struct kern_vec d = dx_of(r, s, i);
        if (p.count == 1 && i == 0) {
            TAPE_TRY(kern_gemm(d, dy, b, m, k, n, false, true, 1.0f, beta));
        } else if (p.count == 1) {
            TAPE_TRY(kern_gemm(d, a, dy, k, n, m, true, false, 1.0f, beta));
        } else if (i == 0) {
            struct kern_gemm_batch g = {p.count, p.step_a, p.step_y, p.step_b};
            TAPE_TRY(kern_gemm_batch(d, dy, b, m, k, n, false, true, 1.0f, beta, &g));
        } else {
            struct kern_gemm_batch g = {p.count, p.step_b, p.step_a, p.step_y};
            TAPE_TRY(kern_gemm_batch(d, a, dy, k, n, m, true, false, 1.0f, beta, &g));
        }
    }
    return KERN_OK;
}

static bool alike(const struct tape_tensor *x, const struct tape_tensor *y) {
    return x->shape.elements == y->shape.elements && x->shape.rank == y->shape.rank;
}

/* Hands g, as y lies, to operand i. */
static enum kern_status hand_on(struct tape_run *r, const struct tape_step *s, size_t i,
                                struct kern_vec g) {
    const struct tape_tensor *x = tape_in(r, s, i), *y = tape_out(r, s);
    struct kern_vec dx = dx_of(r, s, i);
    size_t n = y->shape.elements;

    if (!alike(x, y)) {
        if (tape_is_row(x, y) && s->flow[i] == TAPE_ADD)
            return kern_bias_grad(dx, g, n / x->shape.elements, x->shape.elements);
        return fold_back(r, s, i, g, tape_buffer_at(r, s->temp[1]), 1.0f);
    }
    if (x->layout == y->layout)
        return s->flow[i] == TAPE_ADD ? kern_add(dx, dx, g, n) : copy_flat(dx, g, n);
    struct kern_nd nd = tape_nd(y);
    kern_strides to, dense;
    tape_walk(x, y, to);
    tape_dense(y, dense);
    return kern_nd_copy(dx, to, g, dense, &nd, s->flow[i] == TAPE_ADD);
}

/* temp[0] = a op b over y's dimensions. */
static enum kern_status spare_binary(struct tape_run *r, const struct tape_step *s,
                                     enum kern_binary op, struct kern_vec a,
                                     const struct tape_tensor *ta, struct kern_vec b,
                                     const struct tape_tensor *tb) {
    const struct tape_tensor *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(y);
    kern_strides as, bs;
    tape_walk(ta, y, as);
    tape_walk(tb, y, bs);
    return kern_nd_binary(op, tape_buffer_at(r, s->temp[0]), a, as, b, bs, &nd);
}

static enum kern_status sum_or_difference(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec dy = dy_of(r, s), spare = tape_buffer_at(r, s->temp[0]);
    size_t n = tape_out(r, s)->shape.elements;

    /* What changes dy comes last: operand 0 may have taken its place. */
    if (flows(s, 1)) {
        if (s->op == TIER_OP_SUB) {
            TAPE_TRY(copy_flat(spare, dy, n));
            TAPE_TRY(kern_scale(spare, n, -1.0f));
            TAPE_TRY(hand_on(r, s, 1, spare));
        } else if (s->flow[1] != TAPE_TAKE)
            TAPE_TRY(hand_on(r, s, 1, dy));
    }
    return flows(s, 0) && s->flow[0] != TAPE_TAKE ? hand_on(r, s, 0, dy) : KERN_OK;
}

static enum kern_status product(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *a = tape_in(r, s, 0), *b = tape_in(r, s, 1), *y = tape_out(r, s);
    struct kern_vec dy = dy_of(r, s), spare = tape_buffer_at(r, s->temp[0]);
    size_t n = y->shape.elements;

    if (flows(s, 0)) {
        TAPE_TRY(spare_binary(r, s, s->op == TIER_OP_MUL ? KERN_MUL : KERN_DIV, dy, y,
                              tape_x(r, s, 1), b));
        TAPE_TRY(hand_on(r, s, 0, spare));
    }
    if (!flows(s, 1))
        return KERN_OK;
    if (s->op == TIER_OP_MUL) {
        TAPE_TRY(spare_binary(r, s, KERN_MUL, dy, y, tape_x(r, s, 0), a));
        return hand_on(r, s, 1, spare);
    }
    /* d(a / b) / db = -(a / b) / b */
    TAPE_TRY(spare_binary(r, s, KERN_MUL, dy, y, tape_y(r, s), y));
    TAPE_TRY(spare_binary(r, s, KERN_DIV, spare, y, tape_x(r, s, 1), b));
    TAPE_TRY(kern_scale(spare, n, -1.0f));
    return hand_on(r, s, 1, spare);
}

static enum kern_status prelu(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *slope = tape_in(r, s, 1), *y = tape_out(r, s);
    struct kern_vec dy = dy_of(r, s), x = tape_x(r, s, 0);
    struct kern_vec pos = tape_buffer_at(r, s->temp[0]), neg = tape_buffer_at(r, s->temp[1]);
    size_t n = y->shape.elements;
    struct kern_nd nd = tape_nd(y);
    kern_strides dense, ss;

    tape_dense(y, dense);
    tape_walk(slope, y, ss);
    TAPE_TRY(kern_relu_grad(pos, dy, x, n)); /* dy where x > 0 */
    TAPE_TRY(kern_nd_binary(KERN_SUB, neg, dy, dense, pos, dense, &nd));
    if (flows(s, 0)) {
        struct kern_vec dx = dx_of(r, s, 0);
        struct kern_vec g = tape_buffer_at(r, s->aux[0]);
        TAPE_TRY(kern_nd_binary(KERN_MUL, g, neg, dense, tape_x(r, s, 1), ss, &nd));
        TAPE_TRY(kern_add(g, g, pos, n));
        TAPE_TRY(s->flow[0] == TAPE_ADD ? kern_add(dx, dx, g, n) : copy_flat(dx, g, n));
    }
    if (!flows(s, 1))
        return KERN_OK;
    TAPE_TRY(kern_nd_binary(KERN_MUL, neg, neg, dense, x, dense, &nd));
    if (tape_broadcast(slope, y) == 0)
        return hand_on(r, s, 1, neg);
    return fold_back(r, s, 1, neg, pos, 1.0f);
}

static enum kern_status norm(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec none = {NULL, 0};
    struct kern_vec dx = flows(s, 0) ? target(r, s) : none;
    struct kern_vec dscale = flows(s, 1) ? dx_of(r, s, 1) : none;
    struct kern_vec dbias = flows(s, 2) ? dx_of(r, s, 2) : none;
    struct kern_vec y = s->relu ? tape_y(r, s) : none;
    struct kern_vec mean = tape_buffer_at(r, s->aux[0]), inv = tape_buffer_at(r, s->aux[1]);

    for (size_t i = 1; i < 3; i++)
        if (flows(s, i))
            TAPE_TRY(clear_if_first(r, s, i));
    if (s->op == TIER_OP_BATCH_NORM) {
        struct kern_batch_norm n = tape_batch_norm(r, s);
        if (!dscale.buf || !dbias.buf)
            return KERN_EARG;
        TAPE_TRY(kern_batch_norm_grad(dx, dscale, dbias, dy_of(r, s), tape_x(r, s, 0), y,
                                      tape_x(r, s, 1), mean, inv, &n));
    } else {
        struct kern_group_norm n = tape_group_norm(r, s);
        TAPE_TRY(kern_group_norm_grad(dx, dscale, dbias, dy_of(r, s), tape_x(r, s, 0), y,
                                      tape_x(r, s, 1), mean, inv, &n));
    }
    return flows(s, 0) ? settle(r, s) : KERN_OK;
}

static enum kern_status concat(struct tape_run *r, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        if (flows(s, i))
            TAPE_TRY(tape_copy_piece(tape_out(r, s), dy_of(r, s), tape_in(r, s, i), dx_of(r, s, i),
                                     s->call->axis, tape_piece(r, s, i), false,
                                     s->flow[i] == TAPE_ADD));
    return KERN_OK;
}

static enum kern_status split(struct tape_run *r, const struct tape_step *s) {
    bool whole = true;
    for (size_t i = 0; i < s->out_count; i++)
        whole &= r->tape->tensors[s->out[i]].grad != TAPE_NONE;
    if (!whole)
        TAPE_TRY(clear_if_first(r, s, 0));
    for (size_t i = 0; i < s->out_count; i++) {
        const struct tape_tensor *y = &r->tape->tensors[s->out[i]];
        if (y->grad != TAPE_NONE)
            TAPE_TRY(tape_copy_piece(tape_in(r, s, 0), dx_of(r, s, 0), y,
                                     tape_grad_at(r, s->out[i]), s->call->axis, tape_piece(r, s, i),
                                     true, s->flow[0] == TAPE_ADD));
    }
    return KERN_OK;
}

static enum kern_status slice(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(y);
    struct kern_vec dx = dx_of(r, s, 0);
    kern_strides view, dense;
    size_t first;

    TAPE_TRY(clear_if_first(r, s, 0));
    tape_slice(r, s, view, &first);
    tape_dense(y, dense);
    dx.at += first;
    return kern_nd_copy(dx, view, dy_of(r, s), dense, &nd, s->flow[0] == TAPE_ADD);
}

static enum kern_status pad(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec dy = dy_of(r, s);
    struct kern_nd nd = tape_nd(tape_in(r, s, 0));
    kern_strides xs, ys;
    size_t first;

    tape_pad(r, s, xs, ys, &first);
    dy.at += first;
    return kern_nd_copy(dx_of(r, s, 0), xs, dy, ys, &nd, s->flow[0] == TAPE_ADD);
}

static enum kern_status transpose(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *y = tape_out(r, s);
    kern_strides axes, to, dense, turned;
    struct kern_nd nd = tape_nd(y);
    tape_strides(tape_in(r, s, 0), axes);
    for (unsigned i = 0; i < nd.rank; i++)
        turned[i] = axes[s->call->perm[i]];
    tape_walk_axes(y, turned, to);
    tape_dense(y, dense);
    return kern_nd_copy(dx_of(r, s, 0), to, dy_of(r, s), dense, &nd, s->flow[0] == TAPE_ADD);
}

static enum kern_status turn(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0), *y = tape_out(r, s);
    struct kern_nd nd = tape_nd(x);
    kern_strides from, dense;
    tape_walk(y, x, from);
    tape_dense(x, dense);
    return kern_nd_copy(dx_of(r, s, 0), dense, dy_of(r, s), from, &nd, s->flow[0] == TAPE_ADD);
}

static enum kern_status reduce(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0);
    struct kern_nd nd = tape_nd(x);
    struct kern_vec dy = dy_of(r, s);
    size_t n = tape_out(r, s)->shape.elements;
    kern_strides from, dense;
    ptrdiff_t at = 1;
    float share;
    unsigned axes = tape_reduced(x, s->call, &share);

    if (s->op == TIER_OP_REDUCE_MEAN) {
        struct kern_vec spare = tape_buffer_at(r, s->temp[0]);
        TAPE_TRY(copy_flat(spare, dy, n));
        TAPE_TRY(kern_scale(spare, n, share));
        dy = spare;
    }
    for (unsigned i = nd.rank; i-- > 0;) {
        bool summed = (axes >> i & 1u) != 0;
        from[i] = summed || nd.dims[i] == 1 ? 0 : at;
        at *= summed ? 1 : (ptrdiff_t)nd.dims[i];
    }
    tape_dense(x, dense);
    return kern_nd_copy(dx_of(r, s, 0), dense, dy, from, &nd, s->flow[0] == TAPE_ADD);
}

static enum kern_status mix(struct tape_run *r, const struct tape_step *s) {
    struct kern_vec from = dy_of(r, s);
    if (s->mix_count == 0)
        return hand_on(r, s, 0, from);
    for (size_t i = s->mix_count; i-- > 0;) {
        const struct tape_mix *m = &s->mix[i];
        struct kern_vec to = i == 0 ? dx_of(r, s, 0) : tape_buffer_at(r, s->mix[i - 1].slope);
        TAPE_TRY(kern_axis_mix(to, from, (struct kern_vec){m->back_start, 0},
                               (struct kern_vec){m->back_from, 0},
                               (struct kern_vec){m->back_weight, 0}, m->outer, m->out, m->in,
                               m->inner, m->taps, i == 0 && s->flow[0] == TAPE_ADD));
        from = to;
    }
    return KERN_OK;
}

static enum kern_status gather(struct tape_run *r, const struct tape_step *s) {
    size_t outer, len, count, inner;
    struct kern_vec index =
        s->index ? (struct kern_vec){s->index, 0} : tape_buffer_at(r, s->aux[0]);
    tape_gather(r, s, &outer, &len, &count, &inner);
    TAPE_TRY(clear_if_first(r, s, 0));
    return kern_gather_grad(dx_of(r, s, 0), dy_of(r, s), index, outer, len, count, inner);
}

/* Functions of one array: to the spare place where they cannot add. */
static enum kern_status one_array(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *t = tape_in(r, s, 0);
    struct kern_vec dx = target(r, s), dy = dy_of(r, s), y = tape_y(r, s);
    size_t n = t->shape.elements;
    enum kern_unary unary;
    float alpha, beta;

    if (tape_unary(s, &unary, &alpha, &beta))
        TAPE_TRY(kern_unary_grad(unary, dx, dy, tape_x(r, s, 0), y, n, alpha, beta));
    else if (s->op == TIER_OP_RELU)
        TAPE_TRY(kern_relu_grad(dx, dy, y, n));
    else if (s->op == TIER_OP_SIGMOID)
        TAPE_TRY(kern_sigmoid_grad(dx, dy, y, n));
    else if (s->op == TIER_OP_DROPOUT)
        TAPE_TRY(tape_drop(r, s, dx, dy, n));
    else {
        size_t cols = t->shape.dims[s->call->axis];
        if (s->op == TIER_OP_SOFTMAX)
            TAPE_TRY(kern_softmax_grad(dx, dy, y, n / cols, cols));
        else if (s->op == TIER_OP_LOG_SOFTMAX)
            TAPE_TRY(kern_log_softmax_grad(dx, dy, y, n / cols, cols));
        else
            return KERN_EARG;
    }
    return settle(r, s);
}

enum kern_status tape_step_back(struct tape_run *r, const struct tape_step *s) {
    const struct tape_tensor *x = tape_in(r, s, 0);
    bool add = s->flow[0] == TAPE_ADD;

    if (s->nothing) {
        if (s->flow[0] != TAPE_ADD)
            return KERN_OK;
        return kern_add(dx_of(r, s, 0), dx_of(r, s, 0), dy_of(r, s), x->shape.elements);
    }
    switch (s->op) {
    case TIER_OP_CONV:
    case TIER_OP_CONV_TRANSPOSE:
        return conv(r, s);
    case TIER_OP_GEMM:
        return gemm(r, s);
    case TIER_OP_MATMUL:
        return matmul(r, s);
    case TIER_OP_ADD:
    case TIER_OP_SUB:
        return sum_or_difference(r, s);
    case TIER_OP_MUL:
    case TIER_OP_DIV:
        return product(r, s);
    case TIER_OP_PRELU:
        return prelu(r, s);
    case TIER_OP_MAX_POOL:
        return kern_max_pool_grad(dx_of(r, s, 0), dy_of(r, s), tape_buffer_at(r, s->aux[0]),
                                  x->shape.dims[0], x->shape.dims[1], &s->window, add);
    case TIER_OP_AVERAGE_POOL:
        return kern_mean_pool_grad(dx_of(r, s, 0), dy_of(r, s), x->shape.dims[0], x->shape.dims[1],
                                   &s->window, s->call->count_pad, add);
    case TIER_OP_BATCH_NORM:
    case TIER_OP_INSTANCE_NORM:
    case TIER_OP_GROUP_NORM:
    case TIER_OP_LAYER_NORM:
        return norm(r, s);
    case TIER_OP_CONCAT:
        return concat(r, s);
    case TIER_OP_SPLIT:
        return split(r, s);
    case TIER_OP_SLICE:
        return slice(r, s);
    case TIER_OP_PAD:
        return s->call->pad_mode == TIER_PAD_CONSTANT ? pad(r, s) : mix(r, s);
    case TIER_OP_EXPAND:
        return hand_on(r, s, 0, dy_of(r, s));
    case TAPE_OP_TURN:
        return turn(r, s);
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
        return one_array(r, s);
    }
}

bool tape_flows_any(const struct tape_step *s) {
    bool any = false;
    for (size_t k = 0; k < s->in_count; k++)
        any |= s->flow[k] != TAPE_STOP;
    return any;
}

enum tier_status tape_backward(struct tape_run *run) {
    for (size_t i = run->tape->step_count; i-- > 0;) {
        const struct tape_step *s = &run->tape->steps[i];
        if (!tape_flows_any(s))
            continue;
        enum kern_status st = tape_step_back(run, s);
        if (st != KERN_OK)
            return tape_kern_fail(run->tape->dev, st, s->name, run->err);
    }
    return TIER_OK;
}
