/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Gradients sample by sample, without a run for each. All rows go forward and back together; where
 * a step has parameters, the squared norm of each row's gradient of them is worked out, and thrown
 * away: the gradients themselves are never there for all rows at once. When the norms, and so each
 * row's factor, are known, the gradients that arrived at these steps (which the tape has kept) are
 * multiplied by their rows' factors, and the parameters' gradients are made of them once, as ever:
 * they are linear in what arrived (Bu et al. 2022, "Scalable and Efficient Training of Large
 * Convolutional Neural Networks with Differential Privacy").
 *
 * A row's norm is worked out in one of two ways. Of a product y[n] = a[k] W with one place in each
 * row, or a convolution that is one, |a' dy|^2 is |a|^2 |dy|^2 ("ghost norms", Goodfellow 2015).
 * Else the step is done backwards for the row alone, with what the tape for one row has prepared,
 * into a spare place; and again when the factors are known, for the sum. A gradient that is a sum
 * over places may cancel to far less than float32 has rounded of its terms: the norm bounds what a
 * row adds only if the very floats that it was worked out of are what is multiplied and added. That
 * is also why ghost norms of several places, a sum over their pairs, are not taken.
 *
 * What is done here is right only where no step mixes rows. That is not assumed: tape_judge knows
 * of each operation it lets pass why rows stay apart in it, and refuses any other.
 */
#include "spoke/tape_run.h"

#include <stdlib.h>
#include <string.h>

#define GHOST_PLACES_MAX 1
/* Added to both factors of a ghost norm, for what squares below float32's range have lost. */
#define GHOST_FLOOR 1e-30f
#define PARTS_MAX 3 /* operands of a step with parameters */

/* In multiply-adds of a core: what takes as long as a float's way from memory, and as a call. */
#define PASS_WORK 10
#define CALL_WORK 20000
#define PASSES_ALONE                                                                               \
    10 /* over the parameters, of a row alone: forward, back, cleared, clipped, added */
#define PASSES_DIRECT 8 /* of a row's norm: cleared, written, read; of its part of the sum, too */

/* ---- do rows stay apart? --------------------------------------------------------------------- */

static const struct tape_tensor *tensor(const struct tape *t, size_t at) {
    return at == SIZE_MAX ? NULL : &t->tensors[at];
}

/* A gradient of the step's operand i is a parameter's, or becomes one's. */
static bool is_own(const struct tape *t, const struct tape_step *s, size_t i) {
    const struct tape_tensor *x = tensor(t, s->in[i]);
    return x && x->fixed && x->wants && s->flow[i] != TAPE_STOP;
}

static bool has_own(const struct tape *t, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        if (is_own(t, s, i))
            return true;
    return false;
}

static bool same_shape(const struct tape_tensor *a, const struct tape_tensor *b, unsigned from) {
    bool same = a->shape.rank == b->shape.rank;
    for (unsigned i = from; same && i < a->shape.rank; i++)
        same = a->shape.dims[i] == b->shape.dims[i];
    return same;
}

static bool alike(const struct tape *many, const struct tape *one) {
    if (many->step_count != one->step_count || many->tensor_count != one->tensor_count ||
        many->buffer_count != one->buffer_count)
        return false;
    for (size_t i = 0; i < many->tensor_count; i++) {
        const struct tape_tensor *a = &many->tensors[i], *b = &one->tensors[i];
        bool rows = !a->fixed;
        if (a->kind != b->kind || a->layout != b->layout || a->place != b->place ||
            a->grad != b->grad || a->fixed != b->fixed || !same_shape(a, b, rows ? 1 : 0))
            return false;
        if (rows && (a->shape.rank == 0 || a->shape.dims[0] != many->rows || b->shape.dims[0] != 1))
            return false;
    }
    for (size_t i = 0; i < many->buffer_count; i++)
        if (many->buffers[i].floats != one->buffers[i].floats &&
            many->buffers[i].floats != many->rows * one->buffers[i].floats)
            return false;
    for (size_t i = 0; i < many->step_count; i++) {
        const struct tape_step *a = &many->steps[i], *b = &one->steps[i];
        bool same = a->op == b->op && a->in_count == b->in_count && a->out_count == b->out_count &&
                    a->nothing == b->nothing;
        for (size_t k = 0; same && k < a->in_count; k++)
            same = a->in[k] == b->in[k] && a->flow[k] == b->flow[k];
        for (size_t k = 0; same && k < a->out_count; k++)
            same = a->out[k] == b->out[k];
        for (size_t k = 0; same && k < 2; k++)
            same = a->aux[k] == b->aux[k] && a->temp[k] == b->temp[k];
        if (!same)
            return false;
    }
    return true;
}

/* Operands with rows have them in the result's first dimension. */
static bool aligned(const struct tape *t, const struct tape_step *s) {
    const struct tape_tensor *y = tensor(t, s->out[0]);
    for (size_t i = 0; i < s->in_count; i++) {
        const struct tape_tensor *x = tensor(t, s->in[i]);
        if (x && !x->fixed && x->shape.rank != y->shape.rank)
            return false;
    }
    return true;
}

/* All operands but the first, or all, are the same for every row. */
static bool fixed_behind(const struct tape *t, const struct tape_step *s) {
    for (size_t i = 1; i < s->in_count; i++) {
        const struct tape_tensor *x = tensor(t, s->in[i]);
        if (x && !x->fixed)
            return false;
    }
    return tensor(t, s->in[0]) && !tensor(t, s->in[0])->fixed;
}

static bool all_with_rows(const struct tape *t, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        if (!tensor(t, s->in[i]) || tensor(t, s->in[i])->fixed)
            return false;
    return true;
}

static bool matmul_apart(const struct tape *t, const struct tape_step *s) {
    const struct tape_tensor *a = tensor(t, s->in[0]), *b = tensor(t, s->in[1]);
    if (a->fixed)
        return b->shape.rank >= 3;
    return b->fixed || (a->shape.rank >= 3 && a->shape.rank == b->shape.rank);
}

static bool gather_apart(const struct tape *t, const struct tape_step *s) {
    if (!tensor(t, s->in[0])->fixed)
        return s->index && s->call->axis != 0;
    return !s->index && s->call->axis == 0;
}

static bool rows_apart(const struct tape *t, const struct tape_step *s) {
    enum kern_unary unary;
    float alpha, beta;

    if (s->op == TAPE_OP_TURN ||
        s->op == TIER_OP_RESHAPE) /* row by row, as the shapes begin alike */
        return true;
    if (tape_unary(s, &unary, &alpha, &beta))
        return fixed_behind(t, s);
    switch (s->op) {
    case TIER_OP_GEMM:
        return !s->call->trans_a && fixed_behind(t, s);
    case TIER_OP_LAYER_NORM:
        return s->call->axis != 0 && fixed_behind(t, s);
    case TIER_OP_CONV:
    case TIER_OP_CONV_TRANSPOSE:
    case TIER_OP_INSTANCE_NORM:
    case TIER_OP_GROUP_NORM:
    case TIER_OP_PRELU:
        return fixed_behind(t, s) && aligned(t, s);
    case TIER_OP_ADD:
    case TIER_OP_SUB:
    case TIER_OP_MUL:
    case TIER_OP_DIV:
        return aligned(t, s);
    case TIER_OP_MATMUL:
        return matmul_apart(t, s);
    case TIER_OP_RELU:
    case TIER_OP_SIGMOID:
    case TIER_OP_DROPOUT:
    case TIER_OP_MAX_POOL:
    case TIER_OP_AVERAGE_POOL:
    case TIER_OP_RESIZE:
        return true;
    case TIER_OP_SOFTMAX:
    case TIER_OP_LOG_SOFTMAX:
        return s->call->axis != 0;
    case TIER_OP_CONCAT:
    case TIER_OP_SPLIT:
        return s->call->axis != 0 && all_with_rows(t, s);
    case TIER_OP_SLICE:
        return s->call->start[0] == 0 && s->call->step[0] == 1;
    case TIER_OP_PAD:
        return s->call->start[0] == 0;
    case TIER_OP_EXPAND:
        return aligned(t, s);
    case TIER_OP_TRANSPOSE:
        return s->call->perm[0] == 0;
    case TIER_OP_GATHER:
        return gather_apart(t, s);
    case TIER_OP_REDUCE_SUM:
    case TIER_OP_REDUCE_MEAN:
        return (s->call->axes & 1u) == 0;
    default: /* BATCH_NORM, and what is not known here */
        return false;
    }
}

/* A parameter's gradient comes from one step alone, and changes no norm on its way there. */
static bool read_once(const struct tape *t) {
    for (size_t i = 0; i < t->step_count; i++) {
        const struct tape_step *s = &t->steps[i];
        if (!tape_flows_any(s) || !has_own(t, s))
            continue;
        if (tensor(t, s->out[0])->fixed && s->op != TIER_OP_TRANSPOSE && s->op != TIER_OP_RESHAPE &&
            s->op != TAPE_OP_TURN)
            return false;
        if (s->in_count > PARTS_MAX)
            return false;
        for (size_t k = 0; k < s->in_count; k++) {
            if (!is_own(t, s, k))
                continue;
            const struct tape_tensor *x = tensor(t, s->in[k]);
            for (size_t j = 0; j <= i; j++)
                for (size_t m = 0; m < (j == i ? k : t->steps[j].in_count); m++) {
                    const struct tape_tensor *o = tensor(t, t->steps[j].in[m]);
                    if (o && is_own(t, &t->steps[j], m) && o->kind == x->kind &&
                        o->place == x->place)
                        return false;
                }
        }
    }
    return true;
}

void tape_judge(struct tape *many, const struct tape *one) {
    many->apart = alike(many, one) && read_once(many);
    for (size_t i = 0; many->apart && i < many->step_count; i++)
        if (!tensor(many, many->steps[i].out[0])->fixed)
            many->apart = rows_apart(many, &many->steps[i]);
}

/* ---- ghost norms ----------------------------------------------------------------------------- */

/* A product of each row: places x inner by outer. */
struct ghost {
    size_t places, inner, outer;
    bool weight, bias; /* whose gradient is wanted */
    bool patches;      /* a must be gathered from the image */
};

static bool plain_bias(const struct tape_step *s, const struct tape *t) {
    return s->call->beta == 1.0f && tape_is_row(tensor(t, s->in[2]), tensor(t, s->out[0]));
}

static bool pointwise(const struct kern_window *w) {
    for (unsigned i = 0; i < w->spatial; i++)
        if (w->kernel[i] != 1 || w->stride[i] != 1 || w->pad[i] != 0 || w->out[i] != w->in[i])
            return false;
    return true;
}

/* Whether the step's parameters have norms of that kind, and it is less work. */
static bool find_ghost(const struct tape *t, const struct tape_step *s, struct ghost *g) {
    const struct tape_tensor *x = tensor(t, s->in[0]), *y = tensor(t, s->out[0]);

    *g = (struct ghost){.weight = s->in_count > 1 && is_own(t, s, 1),
                        .bias = s->in_count > 2 && is_own(t, s, 2)};
    if (x->fixed)
        return false;
    if (s->op == TIER_OP_GEMM) {
        if (s->call->alpha != 1.0f || (g->bias && !plain_bias(s, t)))
            return false;
        g->outer = y->shape.dims[1];
    } else if (s->op == TIER_OP_MATMUL) {
        if (tensor(t, s->in[1])->shape.rank != 2)
            return false;
        g->outer = y->shape.dims[y->shape.rank - 1];
    } else if (s->op == TIER_OP_CONV && s->call->group == 1) {
        g->outer = y->shape.dims[1];
        g->patches = !pointwise(&s->window);
    } else
        return false;
    g->places = y->shape.elements / t->rows / g->outer;
    g->inner = tensor(t, s->in[1])->shape.elements / g->outer;
    return g->places <= GHOST_PLACES_MAX &&
           g->places * (g->inner + g->outer) <= g->inner * g->outer;
}

static size_t ghost_floats(const struct tape *t, const struct ghost *g) {
    return t->rows * (2 * g->places * g->places + (g->patches ? g->places * g->inner : 0));
}

size_t tape_room(const struct tape *many) {
    size_t most = 1;
    struct ghost g;
    for (size_t i = 0; i < many->step_count; i++) {
        const struct tape_step *s = &many->steps[i];
        if (has_own(many, s) && find_ghost(many, s, &g) && ghost_floats(many, &g) > most)
            most = ghost_floats(many, &g);
    }
    return most;
}

/* Multiply-adds of a row's gradient of the step's operand i. */
static uint64_t work_of(const struct tape *t, const struct tape_step *s, size_t i) {
    const struct tape_tensor *x = tensor(t, s->in[0]), *y = tensor(t, s->out[0]);
    uint64_t weights = tensor(t, s->in[i])->shape.elements, places;

    if (i != 1 || (s->op != TIER_OP_GEMM && s->op != TIER_OP_MATMUL && s->op != TIER_OP_CONV &&
                   s->op != TIER_OP_CONV_TRANSPOSE))
        return y->shape.elements / t->rows;
    places = s->op == TIER_OP_CONV ? y->shape.elements / y->shape.dims[1]
             : s->op == TIER_OP_CONV_TRANSPOSE
                 ? x->shape.elements / x->shape.dims[1]
                 : y->shape.elements / y->shape.dims[y->shape.rank - 1];
    return places / t->rows * weights;
}

bool tape_pays(const struct tape *many) {
    uint64_t together = 0, alone = (uint64_t)many->step_count * 3 * CALL_WORK;
    struct ghost g;

    if (strncmp(kern_device_name(many->dev), "cpu", 3) != 0)
        return true; /* a row alone fills no GPU */
    for (size_t i = 0; i < many->step_count; i++) {
        const struct tape_step *s = &many->steps[i];
        bool ghost = has_own(many, s) && find_ghost(many, s, &g);
        if (ghost)
            together += g.places * g.places * (g.inner + g.outer);
        for (size_t k = 0; k < s->in_count; k++) {
            if (!is_own(many, s, k) || tensor(many, s->out[0])->fixed)
                continue;
            uint64_t floats = tensor(many, s->in[k])->shape.elements;
            alone += PASSES_ALONE * PASS_WORK * floats;
            if (!ghost)
                together +=
                    2 * work_of(many, s, k) + PASSES_DIRECT * PASS_WORK * floats + 2 * CALL_WORK;
        }
    }
    return together <= alone;
}

/* The outputs along an axis whose tap k lies in the image. */
static void within(const struct kern_window *w, unsigned axis, size_t k, size_t *first,
                   size_t *count) {
    ptrdiff_t off = (ptrdiff_t)(k * w->dilation[axis]) - (ptrdiff_t)w->pad[axis];
    ptrdiff_t stride = (ptrdiff_t)w->stride[axis], last = (ptrdiff_t)w->in[axis] - 1 - off;
    ptrdiff_t low = off < 0 ? (-off + stride - 1) / stride : 0,
              high = last < 0 ? -1 : last / stride;

    if (high > (ptrdiff_t)w->out[axis] - 1)
        high = (ptrdiff_t)w->out[axis] - 1;
    *first = (size_t)low;
    *count = high < low ? 0 : (size_t)(high - low + 1);
}

/* One tap of all patches: to a[row][place][tap][channel] from x[row][spot][channel]. */
static enum kern_status gather_tap(const struct kern_window *w, size_t rows, size_t channels,
                                   const size_t *tap, size_t at, size_t inner, struct kern_vec a,
                                   struct kern_vec x) {
    struct kern_nd nd = {.rank = w->spatial + 2};
    kern_strides to, from;
    ptrdiff_t step_to = (ptrdiff_t)inner, step_from = (ptrdiff_t)channels;

    a.at += at * channels;
    nd.dims[w->spatial + 1] = channels;
    to[w->spatial + 1] = from[w->spatial + 1] = 1;
    for (unsigned i = w->spatial; i-- > 0;) {
        size_t first, count;
        within(w, i, tap[i], &first, &count);
        if (count == 0)
            return KERN_OK;
        size_t spot = first * w->stride[i] + tap[i] * w->dilation[i] - w->pad[i];
        a.at += first * (size_t)step_to;
        x.at += spot * (size_t)step_from;
        nd.dims[i + 1] = count;
        to[i + 1] = step_to;
        from[i + 1] = step_from * (ptrdiff_t)w->stride[i];
        step_to *= (ptrdiff_t)w->out[i];
        step_from *= (ptrdiff_t)w->in[i];
    }
    nd.dims[0] = rows;
    to[0] = step_to;
    from[0] = step_from;
    return kern_nd_copy(a, to, x, from, &nd, false);
}

static enum kern_status gather_patches(const struct tape_run *r, const struct tape_step *s,
                                       const struct ghost *g, struct kern_vec a) {
    const struct kern_window *w = &s->window;
    size_t channels = tape_in(r, s, 0)->shape.dims[1], taps = g->inner / channels, tap[3] = {0};
    size_t floats = r->tape->rows * g->places * g->inner;

    TAPE_TRY(kern_zero(a.buf, a.at * sizeof(float), floats * sizeof(float)));
    for (size_t at = 0; at < taps; at++) {
        TAPE_TRY(gather_tap(w, r->tape->rows, channels, tap, at, g->inner, a, tape_x(r, s, 0)));
        for (unsigned i = w->spatial; i-- > 0 && ++tap[i] == w->kernel[i];)
            tap[i] = 0;
    }
    return KERN_OK;
}

/* y[row] = the products of all pairs of x[row][places][width]. */
static enum kern_status pairs(struct kern_vec y, struct kern_vec x, size_t rows, size_t places,
                              size_t width) {
    struct kern_gemm_batch b = {rows, places * places, places * width, places * width};
    return kern_gemm_batch(y, x, x, places, places, width, false, true, 1.0f, 0.0f, &b);
}

static enum kern_status ghost_norms(struct tape_run *r, const struct tape_step *s,
                                    const struct ghost *g, struct kern_buf *room,
                                    struct kern_vec squares) {
    size_t rows = r->tape->rows, each = g->places * g->places;
    struct kern_vec of_dy = {room, 0}, of_a = {room, rows * each}, a = tape_x(r, s, 0);
    struct kern_nd nd = {.rank = 2, .dims = {rows, each}};
    kern_strides dense;

    kern_nd_dense(&nd, dense);
    TAPE_TRY(pairs(of_dy, tape_grad_at(r, s->out[0]), rows, g->places, g->outer));
    TAPE_TRY(kern_unary(KERN_AFFINE, of_dy, of_dy, rows * each, 1.0f, GHOST_FLOOR));
    if (g->bias)
        TAPE_TRY(kern_nd_reduce(squares, of_dy, &nd, 2u, 1.0f, true));
    if (!g->weight)
        return KERN_OK;
    if (g->patches) {
        a = (struct kern_vec){room, 2 * rows * each};
        TAPE_TRY(gather_patches(r, s, g, a));
    }
    TAPE_TRY(pairs(of_a, a, rows, g->places, g->inner));
    TAPE_TRY(kern_unary(KERN_AFFINE, of_a, of_a, rows * each, 1.0f, GHOST_FLOOR));
    TAPE_TRY(kern_nd_binary(KERN_MUL, of_a, of_a, dense, of_dy, dense, &nd));
    return kern_nd_reduce(squares, of_a, &nd, 2u, 1.0f, true);
}

/* ---- both ways ------------------------------------------------------------------------------- */

/* The step with the flows to parameters alone, or with the others. */
struct part {
    struct tape_step step;
    enum tape_flow flow[PARTS_MAX];
    bool any;
};

static void take_part(const struct tape *t, const struct tape_step *of, const struct tape_step *s,
                      bool own, struct part *p) {
    p->step = *s;
    p->step.flow = p->flow;
    p->any = false;
    for (size_t i = 0; i < s->in_count; i++) {
        p->flow[i] = is_own(t, of, i) == own ? s->flow[i] : TAPE_STOP;
        p->any |= p->flow[i] != TAPE_STOP;
    }
}

/* Where the gradient of operand i of the row lies. */
static struct kern_vec place_of(struct tape_run *row, const struct tape_step *s, size_t i) {
    return tape_grad_at(row, s->in[i]);
}

/* A run of one row of r, whose parameters' gradients go to a spare place. */
static struct tape_run row_run(const struct tape_run *r, const struct tape *one,
                               struct kern_buf *spare, size_t at) {
    struct tape_run row = *r;

    row.tape = one;
    row.whole = r->tape;
    row.grads = spare;
    row.row = at;
    row.x.at = r->x.at + at * tier_graph_features(one->graph);
    return row;
}

/* The row's gradients of the step's parameters: the same floats each time. */
static enum kern_status row_back(struct tape_run *row, const struct part *p) {
    for (size_t i = 0; i < p->step.in_count; i++) {
        const struct tape_tensor *x = tensor(row->tape, p->step.in[i]);
        struct kern_vec g;
        if (p->flow[i] == TAPE_STOP || x->kind != TAPE_PARAM)
            continue;
        g = place_of(row, &p->step, i);
        TAPE_TRY(kern_zero(g.buf, g.at * sizeof(float), x->shape.elements * sizeof(float)));
    }
    return tape_step_back(row, &p->step);
}

static enum kern_status row_norms(struct tape_run *r, const struct tape *one, size_t at,
                                  struct kern_buf *spare, struct kern_vec squares) {
    const struct tape_step *many = &r->tape->steps[at];
    struct part p;

    take_part(r->tape, many, &one->steps[at], true, &p);
    for (size_t i = 0; i < r->tape->rows; i++) {
        struct kern_vec square = {squares.buf, squares.at + i};
        struct tape_run row = row_run(r, one, spare, i);
        TAPE_TRY(row_back(&row, &p));
        for (size_t k = 0; k < p.step.in_count; k++)
            if (is_own(r->tape, many, k))
                TAPE_TRY(kern_square_sum(square, place_of(&row, &p.step, k),
                                         tensor(one, p.step.in[k])->shape.elements));
    }
    return KERN_OK;
}

/* The parameter that a tensor is, turned or in another shape. */
static const struct tape_tensor *source(const struct tape *t, size_t at) {
    while (tensor(t, at)->kind != TAPE_PARAM) {
        size_t i = 0;
        while (t->steps[i].out[0] != at)
            i++;
        at = t->steps[i].in[0];
    }
    return tensor(t, at);
}

/* Where the operand's gradients of the rows are added up. What is turned first has one place for
 * each row's and for the sum: the sum is made in the parameter's spare place. */
static struct kern_vec sum_at(const struct tape_run *r, const struct tape_step *s, size_t i,
                              struct kern_buf *spare) {
    if (tensor(r->tape, s->in[i])->kind == TAPE_PARAM)
        return tape_grad_at(r, s->in[i]);
    return (struct kern_vec){spare, source(r->tape, s->in[i])->place};
}

/* Row by row, each times its factor. */
static enum kern_status row_sums(struct tape_run *r, const struct tape *one, size_t at,
                                 struct kern_buf *spare, const float *factors) {
    const struct tape_step *s = &r->tape->steps[at];
    struct part p;

    take_part(r->tape, s, &one->steps[at], true, &p);
    for (size_t k = 0; k < s->in_count; k++) {
        struct kern_vec sum;
        if (!is_own(r->tape, s, k) || tensor(r->tape, s->in[k])->kind == TAPE_PARAM)
            continue;
        sum = sum_at(r, s, k, spare);
        TAPE_TRY(kern_zero(sum.buf, sum.at * sizeof(float),
                           tensor(r->tape, s->in[k])->shape.elements * sizeof(float)));
    }
    for (size_t i = 0; i < r->tape->rows; i++) {
        struct tape_run row = row_run(r, one, spare, i);
        if (factors[i] == 0.0f)
            continue;
        TAPE_TRY(row_back(&row, &p));
        for (size_t k = 0; k < s->in_count; k++)
            if (is_own(r->tape, s, k))
                TAPE_TRY(kern_axpby(sum_at(r, s, k, spare), place_of(&row, &p.step, k),
                                    tensor(r->tape, s->in[k])->shape.elements, factors[i], 1.0f));
    }
    for (size_t k = 0; k < s->in_count; k++) {
        struct kern_vec sum, to;
        if (!is_own(r->tape, s, k) || tensor(r->tape, s->in[k])->kind == TAPE_PARAM)
            continue;
        sum = sum_at(r, s, k, spare);
        to = tape_grad_at(r, s->in[k]);
        TAPE_TRY(kern_copy(to.buf, to.at * sizeof(float), sum.buf, sum.at * sizeof(float),
                           tensor(r->tape, s->in[k])->shape.elements * sizeof(float)));
    }
    return KERN_OK;
}

static enum kern_status norms_of(struct tape_run *r, const struct tape *one, size_t at,
                                 struct kern_buf *spare, struct kern_buf *room,
                                 struct kern_vec squares) {
    const struct tape_step *s = &r->tape->steps[at];
    struct ghost g;
    struct part p;

    if (!has_own(r->tape, s))
        return tape_step_back(r, s);
    if (find_ghost(r->tape, s, &g))
        TAPE_TRY(ghost_norms(r, s, &g, room, squares));
    else
        TAPE_TRY(row_norms(r, one, at, spare, squares));
    take_part(r->tape, s, s, false, &p);
    return p.any ? tape_step_back(r, &p.step) : KERN_OK;
}

enum tier_status tape_back_norms(struct tape_run *run, const struct tape *one,
                                 struct kern_buf *spare, struct kern_buf *room,
                                 struct kern_vec squares) {
    const struct tape *t = run->tape;

    for (size_t i = t->step_count; i-- > 0;) {
        const struct tape_step *s = &t->steps[i];
        if (!tape_flows_any(s) || tensor(t, s->out[0])->fixed)
            continue;
        enum kern_status st = norms_of(run, one, i, spare, room, squares);
        if (st != KERN_OK)
            return tape_kern_fail(t->dev, st, s->name, run->err);
    }
    return TIER_OK;
}

static enum kern_status sums_of(struct tape_run *r, const struct tape *one, size_t at,
                                struct kern_buf *spare, struct kern_vec factors,
                                const float *each_factor) {
    const struct tape_step *s = &r->tape->steps[at];
    const struct tape_tensor *y = tape_out(r, s);
    struct kern_vec dy = tape_grad_at(r, s->out[0]);
    struct kern_nd nd = {.rank = 2, .dims = {r->tape->rows, y->shape.elements / r->tape->rows}};
    const kern_strides each = {1, 0};
    kern_strides dense;
    struct ghost g;
    struct part p;

    if (y->fixed) /* of all rows already */
        return tape_step_back(r, s);
    if (!find_ghost(r->tape, s, &g))
        return row_sums(r, one, at, spare, each_factor);
    kern_nd_dense(&nd, dense);
    TAPE_TRY(kern_nd_binary(KERN_MUL, dy, dy, dense, factors, each, &nd));
    take_part(r->tape, s, s, true, &p);
    return tape_step_back(r, &p.step);
}

enum tier_status tape_back_sums(struct tape_run *run, const struct tape *one,
                                struct kern_buf *spare, struct kern_vec factors,
                                const float *each_factor) {
    const struct tape *t = run->tape;

    for (size_t i = t->step_count; i-- > 0;) {
        const struct tape_step *s = &t->steps[i];
        if (!tape_flows_any(s) || !has_own(t, s))
            continue;
        enum kern_status st = sums_of(run, one, i, spare, factors, each_factor);
        if (st != KERN_OK)
            return tape_kern_fail(t->dev, st, s->name, run->err);
    }
    return TIER_OK;
}
