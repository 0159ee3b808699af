/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What operations need of their operands and results, and, from the last step to the first, which
 * gradients flow where and when each array is last read.
 */
#include "spoke/tape_build.h"

static const uint8_t traits[TIER_OP_COUNT + 1] = {
    [TIER_OP_CONV] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_CONV_TRANSPOSE] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_GEMM] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_MATMUL] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_ADD] = TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT,
    [TIER_OP_SUB] = TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT,
    [TIER_OP_MUL] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_DIV] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1 | TAPE_NEEDS_Y,
    [TIER_OP_POW] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_RELU] = TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_LEAKY_RELU] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_PRELU] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1,
    [TIER_OP_ELU] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_SIGMOID] = TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_HARD_SIGMOID] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_TANH] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_GELU] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_ERF] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_SOFTPLUS] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_EXP] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_LOG] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_SQRT] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_RECIPROCAL] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_NEG] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_ABS] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_CLIP] =
        TAPE_NEEDS_X0 | TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_SOFTMAX] = TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_LOG_SOFTMAX] =
        TAPE_NEEDS_Y | TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_BATCH_NORM] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1 | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_INSTANCE_NORM] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1 | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_GROUP_NORM] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1 | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_LAYER_NORM] = TAPE_NEEDS_X0 | TAPE_NEEDS_X1 | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_DROPOUT] = TAPE_MAY_LIE_OVER | TAPE_TAKES_GRADIENT | TAPE_CANNOT_ADD,
    [TIER_OP_RESHAPE] = TAPE_TAKES_GRADIENT,
    [TAPE_OP_TURN] = 0,
};

uint8_t tape_traits(int op) {
    return traits[op];
}

bool tape_is_norm(int op) {
    return op == TIER_OP_BATCH_NORM || op == TIER_OP_INSTANCE_NORM || op == TIER_OP_GROUP_NORM ||
           op == TIER_OP_LAYER_NORM;
}

void tape_touch(struct tape_buffer *buf, size_t time) {
    if (time < buf->first)
        buf->first = time;
    if (time > buf->last)
        buf->last = time;
}

void tape_touch_tensor(struct builder *b, size_t tensor, size_t time) {
    const struct tape_tensor *t = &b->tape->tensors[tensor];
    if (t->kind == TAPE_ARRAY)
        tape_touch(&b->tape->buffers[t->place], time);
}

bool tape_wants_any(const struct builder *b, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        if (s->in[i] != SIZE_MAX && b->tape->tensors[s->in[i]].wants)
            return true;
    return false;
}

/* ---- gradients ------------------------------------------------------------------------------- */

static bool same_place_fits(const struct builder *b, const struct tape_step *s, size_t i) {
    const struct tape_tensor *x = &b->tape->tensors[s->in[i]], *y = &b->tape->tensors[s->out[0]];
    bool first = i == 0 || (s->op == TIER_OP_ADD && i == 1);

    if (s->nothing)
        return true;
    return first && (traits[s->op] & TAPE_TAKES_GRADIENT) &&
           x->shape.elements == y->shape.elements && x->layout == y->layout;
}

/* Where the gradient of operand i goes; *taken says that the result's gradient has a new owner. */
static enum tier_status flow_to(struct builder *b, struct tape_step *s, size_t i, size_t time,
                                bool *taken) {
    struct tape_tensor *x = &b->tape->tensors[s->in[i]];

    s->flow[i] = TAPE_STOP;
    /* A normalisation's kernel has the gradients of scale and bias at once, wanted or not. */
    if (!x->wants && !(x->frozen && tape_is_norm(s->op)))
        return TIER_OK;
    if (x->kind == TAPE_PARAM) {
        s->flow[i] = TAPE_ADD;
        return TIER_OK;
    }
    if (x->grad != TAPE_NONE)
        s->flow[i] = TAPE_ADD;
    else if (!*taken && same_place_fits(b, s, i)) {
        s->flow[i] = TAPE_TAKE;
        x->grad = b->tape->tensors[s->out[0]].grad;
        *taken = true;
    } else {
        s->flow[i] = TAPE_WRITE;
        TIER_TRY(tape_new_buffer(b, x->shape.elements, &x->grad));
    }
    tape_touch(&b->tape->buffers[x->grad], time);
    return TIER_OK;
}

static enum tier_status temps(struct builder *b, struct tape_step *s, size_t time) {
    size_t floats[2] = {0, 0};
    tape_temps(b, s, (traits[s->op] & TAPE_CANNOT_ADD) != 0, floats);
    for (unsigned k = 0; k < 2; k++)
        if (floats[k]) {
            TIER_TRY(tape_new_buffer(b, floats[k], &s->temp[k]));
            tape_touch(&b->tape->buffers[s->temp[k]], time);
        }
    return TIER_OK;
}

/* Of parameters and constants alone. */
static void find_fixed(struct tape *t) {
    for (size_t i = 0; i < t->tensor_count; i++)
        t->tensors[i].fixed = t->tensors[i].kind == TAPE_PARAM || t->tensors[i].kind == TAPE_CONST;
    for (size_t i = 0; i < t->step_count; i++) {
        const struct tape_step *s = &t->steps[i];
        bool fixed = true;
        for (size_t k = 0; k < s->in_count; k++)
            fixed &= s->in[k] == SIZE_MAX || t->tensors[s->in[k]].fixed;
        for (size_t k = 0; k < s->out_count; k++)
            t->tensors[s->out[k]].fixed = fixed;
    }
}

/* The step has a gradient to hand to what is the same for all rows. */
static bool has_fixed(const struct tape *t, const struct tape_step *s) {
    for (size_t i = 0; i < s->in_count; i++)
        if (s->in[i] != SIZE_MAX && t->tensors[s->in[i]].fixed && t->tensors[s->in[i]].wants)
            return true;
    return false;
}

/* Such a step is done once more behind the last (tape_back_sums): what it reads lives until then.
 */
static void keep(struct builder *b, const struct tape_step *s, uint8_t need) {
    struct tape *t = b->tape;
    size_t end = 2 * t->step_count + 1;

    for (size_t i = 0; i < s->in_count; i++) {
        if (s->in[i] == SIZE_MAX)
            continue;
        const struct tape_tensor *x = &t->tensors[s->in[i]];
        if (i < 2 && (need & (i == 0 ? TAPE_NEEDS_X0 : TAPE_NEEDS_X1)))
            tape_touch_tensor(b, s->in[i], end);
        if (x->fixed && x->kind == TAPE_ARRAY && x->grad != TAPE_NONE)
            tape_touch(&t->buffers[x->grad], end);
    }
    for (size_t i = 0; i < s->out_count; i++) {
        const struct tape_tensor *y = &t->tensors[s->out[i]];
        if (need & TAPE_NEEDS_Y)
            tape_touch_tensor(b, s->out[i], end);
        if (y->grad != TAPE_NONE)
            tape_touch(&t->buffers[y->grad], end);
    }
    for (unsigned k = 0; k < 2; k++) {
        if (s->aux[k] != TAPE_NONE)
            tape_touch(&t->buffers[s->aux[k]], end);
        if (s->temp[k] != TAPE_NONE)
            tape_touch(&t->buffers[s->temp[k]], end);
    }
    for (size_t k = 0; k < s->mix_count; k++)
        if (s->mix[k].slope != TAPE_NONE)
            tape_touch(&t->buffers[s->mix[k].slope], end);
}

static enum tier_status flow_back(struct builder *b, size_t step) {
    struct tape *t = b->tape;
    struct tape_step *s = &t->steps[step];
    size_t time = 2 * t->step_count - step;
    uint8_t need = traits[s->op] | (s->relu ? TAPE_NEEDS_Y : 0);
    bool kept = t->keeps && has_fixed(t, s), taken = kept && !s->nothing, reached = false;

    for (size_t i = 0; i < s->out_count; i++) {
        struct tape_tensor *y = &t->tensors[s->out[i]];
        if (y->grad != TAPE_NONE) {
            tape_touch(&t->buffers[y->grad], time);
            reached = true;
        }
    }
    if (!reached || !tape_wants_any(b, s))
        return TIER_OK;
    /* A Split's output that nothing reads has no gradient: it is zero. */
    for (size_t i = 0; i < s->out_count; i++) {
        struct tape_tensor *y = &t->tensors[s->out[i]];
        if (y->grad == TAPE_NONE && s->out_count == 1)
            return TIER_OK;
    }
    for (size_t i = 0; i < s->in_count; i++) {
        if (s->in[i] == SIZE_MAX)
            continue;
        TIER_TRY(flow_to(b, s, i, time, &taken));
        if (i < 2 && (need & (i == 0 ? TAPE_NEEDS_X0 : TAPE_NEEDS_X1)))
            tape_touch_tensor(b, s->in[i], time);
    }
    for (size_t i = 0; i < s->out_count && (need & TAPE_NEEDS_Y); i++)
        tape_touch_tensor(b, s->out[i], time);
    for (unsigned k = 0; k < 2; k++)
        if (s->aux[k] != TAPE_NONE)
            tape_touch(&t->buffers[s->aux[k]], time);
    for (size_t k = 0; k < s->mix_count; k++)
        if (s->mix[k].slope != TAPE_NONE)
            tape_touch(&t->buffers[s->mix[k].slope], time);
    TIER_TRY(temps(b, s, time));
    if (kept)
        keep(b, s, need);
    return TIER_OK;
}

enum tier_status tape_flow_back(struct builder *b) {
    struct tape *t = b->tape;
    struct tape_tensor *z = &t->tensors[t->logits];
    if (!z->wants)
        return tier_fail(b->err, TIER_EMODEL,
                         "no trained parameter stands between the model's input and its output");
    if (z->kind != TAPE_ARRAY)
        return tier_fail(b->err, TIER_EMODEL, "the model's output is its input");
    TIER_TRY(tape_new_buffer(b, z->shape.elements, &t->tensors[t->logits].grad));
    tape_touch(&t->buffers[t->tensors[t->logits].grad], t->step_count);
    tape_touch_tensor(b, t->logits, t->step_count);
    find_fixed(t);
    for (size_t i = t->step_count; i-- > 0;)
        TIER_TRY(flow_back(b, i));
    return TIER_OK;
}
