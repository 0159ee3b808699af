/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folding of the operators that compute: int64 and float32 on the host, enough for what exporters
 * write to find out a shape. Integers wrap as they do on the machines that the models come from; a
 * division by zero is an error. Truths are the integers 0 and 1.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_op(const struct graph_at *at, const char *text) {
    return strcmp(at->step->rule->text, text) == 0;
}

/* ---- broadcasting -------------------------------------------------------------------------- */

/* Where each operand is read while the output is written in order. */
struct broadcast {
    const struct tier_shape *out;
    uint64_t index[TIER_DIMS_MAX];
    uint64_t step[3][TIER_DIMS_MAX];
    uint64_t at[3];
};

static void broadcast_begin(struct broadcast *b, const struct graph_at *at, size_t operands) {
    *b = (struct broadcast){.out = &graph_out(at, 0)->shape};
    for (size_t k = 0; k < operands; k++) {
        const struct tier_shape *s = &graph_in(at, k)->shape;
        unsigned more = b->out->rank - s->rank;
        uint64_t stride = 1;
        for (unsigned d = s->rank; d-- > 0; stride *= s->dims[d])
            b->step[k][more + d] = s->dims[d] == 1 ? 0 : stride;
    }
}

static void broadcast_next(struct broadcast *b, size_t operands) {
    for (unsigned d = b->out->rank; d-- > 0;) {
        b->index[d]++;
        for (size_t k = 0; k < operands; k++)
            b->at[k] += b->step[k][d];
        if (b->index[d] < b->out->dims[d])
            return;
        for (size_t k = 0; k < operands; k++)
            b->at[k] -= b->step[k][d] * b->out->dims[d];
        b->index[d] = 0;
    }
}

/* ---- two operands -------------------------------------------------------------------------- */

enum binary { ADD, SUB, MUL, DIV, POW, MOD, MIN, MAX };
static const char *const binary_names[] = {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max"};

static int64_t power(int64_t base, int64_t exponent) {
    uint64_t result = 1, factor = (uint64_t)base;

    if (exponent < 0)
        return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    for (; exponent > 0; exponent >>= 1, factor *= factor)
        if (exponent & 1)
            result *= factor;
    return (int64_t)result;
}

static int64_t int_mod(int64_t a, int64_t b, bool fmod_rule) {
    int64_t rest = b == -1 ? 0 : a % b;
    return !fmod_rule && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static int64_t int_binary(enum binary op, int64_t a, int64_t b, bool fmod_rule) {
    switch (op) {
    case ADD:
        return (int64_t)((uint64_t)a + (uint64_t)b);
    case SUB:
        return (int64_t)((uint64_t)a - (uint64_t)b);
    case MUL:
        return (int64_t)((uint64_t)a * (uint64_t)b);
    case DIV:
        return b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b;
    case POW:
        return power(a, b);
    case MOD:
        return int_mod(a, b, fmod_rule);
    case MIN:
        return a < b ? a : b;
    default:
        return a > b ? a : b;
    }
}

static float float_mod(float a, float b, bool fmod_rule) {
    float rest = fmodf(a, b);
    return !fmod_rule && rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

static float float_binary(enum binary op, float a, float b, bool fmod_rule) {
    switch (op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case DIV:
        return a / b;
    case POW:
        return powf(a, b);
    case MOD:
        return float_mod(a, b, fmod_rule);
    case MIN:
        return fminf(a, b);
    default:
        return fmaxf(a, b);
    }
}

/* Pow may have an exponent of another type than its base. */
static float as_float(const struct graph_tensor *t, uint64_t i) {
    return t->f ? t->f[i] : (float)t->i[i];
}

enum tier_status graph_fold_binary(struct graph_at *at) {
    const struct graph_tensor *a = graph_in(at, 0), *b = graph_in(at, 1);
    struct graph_tensor *out = graph_out(at, 0);
    struct broadcast walk;
    enum binary op = ADD;
    bool fmod_rule;

    TIER_TRY(graph_attr_flag(at, "fmod", false, &fmod_rule));
    while (!is_op(at, binary_names[op]))
        op++;
    if (out->type == TIER_TYPE_INT && !b->i)
        return graph_bad(at, "an integer and a float");
    TIER_TRY(graph_fold_room(at, 0));
    broadcast_begin(&walk, at, 2);
    for (uint64_t n = 0; n < out->shape.elements; n++, broadcast_next(&walk, 2)) {
        uint64_t i = walk.at[0], k = walk.at[1];
        if (out->f) {
            out->f[n] = float_binary(op, a->f[i], as_float(b, k), fmod_rule);
            continue;
        }
        if ((op == DIV || op == MOD) && b->i[k] == 0)
            return graph_bad(at, "a division of integers by zero");
        out->i[n] = int_binary(op, a->i[i], b->i[k], fmod_rule);
    }
    return TIER_OK;
}

enum tier_status graph_fold_compare(struct graph_at *at) {
    const struct graph_tensor *a = graph_in(at, 0), *b = graph_in(at, 1);
    struct graph_tensor *out = graph_out(at, 0);
    bool less = is_op(at, "Less") || is_op(at, "LessOrEqual");
    bool greater = is_op(at, "Greater") || is_op(at, "GreaterOrEqual");
    bool equal = !is_op(at, "Less") && !is_op(at, "Greater");
    struct broadcast walk;

    TIER_TRY(graph_fold_room(at, 0));
    broadcast_begin(&walk, at, 2);
    for (uint64_t n = 0; n < out->shape.elements; n++, broadcast_next(&walk, 2)) {
        uint64_t i = walk.at[0], k = walk.at[1];
        bool lt = a->i ? a->i[i] < b->i[k] : a->f[i] < b->f[k];
        bool gt = a->i ? a->i[i] > b->i[k] : a->f[i] > b->f[k];
        bool eq = a->i ? a->i[i] == b->i[k] : a->f[i] == b->f[k];
        out->i[n] = (less && lt) || (greater && gt) || (equal && eq);
    }
    return TIER_OK;
}

enum tier_status graph_fold_logic(struct graph_at *at) {
    const struct graph_tensor *a = graph_in(at, 0), *b = graph_in(at, 1);
    struct graph_tensor *out = graph_out(at, 0);
    bool both = is_op(at, "And");
    struct broadcast walk;

    if (!a->i)
        return graph_bad(at, "floats where truths are needed");
    TIER_TRY(graph_fold_room(at, 0));
    broadcast_begin(&walk, at, 2);
    for (uint64_t n = 0; n < out->shape.elements; n++, broadcast_next(&walk, 2)) {
        bool x = a->i[walk.at[0]] != 0, y = b->i[walk.at[1]] != 0;
        out->i[n] = both ? x && y : x || y;
    }
    return TIER_OK;
}

enum tier_status graph_fold_where(struct graph_at *at) {
    const struct graph_tensor *c = graph_in(at, 0), *a = graph_in(at, 1), *b = graph_in(at, 2);
    struct graph_tensor *out = graph_out(at, 0);
    struct broadcast walk;

    TIER_TRY(graph_fold_room(at, 0));
    broadcast_begin(&walk, at, 3);
    for (uint64_t n = 0; n < out->shape.elements; n++, broadcast_next(&walk, 3)) {
        bool first = c->i[walk.at[0]] != 0;
        uint64_t i = walk.at[first ? 1 : 2];
        if (out->i)
            out->i[n] = first ? a->i[i] : b->i[i];
        else
            out->f[n] = first ? a->f[i] : b->f[i];
    }
    return TIER_OK;
}

/* ---- one operand --------------------------------------------------------------------------- */

enum unary { EXP, LOG, SQRT, RECIPROCAL, NEG, ABS, NOT, FLOOR, CEIL, ROUND, UNARY_COUNT };
static const char *const unary_names[] = {"Exp", "Log", "Sqrt",  "Reciprocal", "Neg",
                                          "Abs", "Not", "Floor", "Ceil",       "Round"};

static float float_unary(enum unary op, float x) {
    switch (op) {
    case EXP:
        return expf(x);
    case LOG:
        return logf(x);
    case SQRT:
        return sqrtf(x);
    case RECIPROCAL:
        return 1 / x;
    case NEG:
        return -x;
    case ABS:
        return fabsf(x);
    case FLOOR:
        return floorf(x);
    case CEIL:
        return ceilf(x);
    default:
        return rintf(x);
    }
}

enum tier_status graph_fold_unary(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    struct graph_tensor *out = graph_out(at, 0);
    enum unary op = EXP;

    while (!is_op(at, unary_names[op]))
        op++;
    if ((op == NOT) != (x->i != NULL) && op != NEG && op != ABS)
        return graph_bad(at, "%s where %s are needed", x->i ? "integers" : "floats",
                         op == NOT ? "truths" : "floats");
    TIER_TRY(graph_fold_room(at, 0));
    for (uint64_t n = 0; n < out->shape.elements; n++) {
        if (x->f)
            out->f[n] = float_unary(op, x->f[n]);
        else if (x->i && op == NOT)
            out->i[n] = x->i[n] == 0;
        else if (x->i)
            out->i[n] = op == NEG || x->i[n] < 0 ? (int64_t)(0 - (uint64_t)x->i[n]) : x->i[n];
    }
    return TIER_OK;
}

/* Towards zero; what no integer is becomes the nearest one, and not a number 0. */
static int64_t to_int(float x) {
    if (isnan(x))
        return 0;
    return x >= 9.2e18f ? INT64_MAX : x <= -9.2e18f ? INT64_MIN : (int64_t)x;
}

enum tier_status graph_fold_cast(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    struct graph_tensor *out = graph_out(at, 0);
    int64_t to = graph_attr_int(at, "to", 0);

    TIER_TRY(graph_fold_room(at, 0));
    for (uint64_t n = 0; n < out->shape.elements; n++) {
        if (out->f)
            out->f[n] = as_float(x, n);
        else if (to == ONNX_BOOL)
            out->i[n] = x->f ? x->f[n] != 0 : x->i[n] != 0;
        else
            out->i[n] = x->f ? to_int(x->f[n]) : x->i[n];
        if (to == ONNX_INT32 && (out->i[n] > INT32_MAX || out->i[n] < INT32_MIN))
            return graph_bad(at, "%" PRId64 " is no int32", out->i[n]);
    }
    return TIER_OK;
}

/* ---- reductions ---------------------------------------------------------------------------- */

static void reduce_into(struct graph_tensor *out, const struct graph_tensor *x, unsigned axes,
                        bool product) {
    uint64_t index[TIER_DIMS_MAX] = {0}, step[TIER_DIMS_MAX] = {0}, to = 0, stride = 1;

    for (unsigned d = x->shape.rank; d-- > 0;) {
        if (axes >> d & 1)
            continue;
        step[d] = stride;
        stride *= x->shape.dims[d];
    }
    for (uint64_t n = 0; n < x->shape.elements; n++) {
        if (out->f && x->f)
            out->f[to] = product ? out->f[to] * x->f[n] : out->f[to] + x->f[n];
        else if (out->i && x->i)
            out->i[to] = int_binary(product ? MUL : ADD, out->i[to], x->i[n], false);
        for (unsigned d = x->shape.rank; d-- > 0;) {
            to += step[d];
            if (++index[d] < x->shape.dims[d])
                break;
            to -= step[d] * x->shape.dims[d];
            index[d] = 0;
        }
    }
}

enum tier_status graph_fold_reduce(struct graph_at *at) {
    const struct graph_tensor *x = graph_in(at, 0);
    struct graph_tensor *out = graph_out(at, 0);
    bool product = is_op(at, "ReduceProd"), mean = is_op(at, "ReduceMean");

    if (mean && (x->i || x->shape.elements == 0))
        return graph_bad(at, "%s", x->i ? "integers where floats are needed" : "of no elements");
    TIER_TRY(graph_fold_room(at, 0));
    for (uint64_t n = 0; n < out->shape.elements && product; n++) {
        if (out->f)
            out->f[n] = 1;
        else
            out->i[n] = 1;
    }
    reduce_into(out, x, at->call->axes, product);
    for (uint64_t n = 0; n < out->shape.elements && mean && out->f; n++)
        out->f[n] /= (float)x->shape.elements / (float)out->shape.elements;
    return TIER_OK;
}

/* ---- made of nothing ----------------------------------------------------------------------- */

enum tier_status graph_fold_range(struct graph_at *at) {
    struct graph_tensor *out = graph_out(at, 0);
    const struct graph_tensor *start = graph_in(at, 0), *step = graph_in(at, 2);

    TIER_TRY(graph_fold_room(at, 0));
    for (uint64_t n = 0; n < out->shape.elements; n++) {
        if (out->f)
            out->f[n] = start->f[0] + (float)n * step->f[0];
        else
            out->i[n] = (int64_t)((uint64_t)start->i[0] + n * (uint64_t)step->i[0]);
    }
    return TIER_OK;
}

enum tier_status graph_fold_shape_of(struct graph_at *at) {
    struct graph_tensor *out = graph_out(at, 0);

    TIER_TRY(graph_fold_room(at, 0));
    for (uint64_t n = 0; n < out->shape.elements; n++)
        out->i[n] = (int64_t)graph_in(at, 0)->shape.dims[at->call->start[0] + (int64_t)n];
    return TIER_OK;
}

enum tier_status graph_fold_size_of(struct graph_at *at) {
    TIER_TRY(graph_fold_room(at, 0));
    graph_out(at, 0)->i[0] = (int64_t)graph_in(at, 0)->shape.elements;
    return TIER_OK;
}

enum tier_status graph_fold_constant(struct graph_at *at) {
    const attr_proto *a = at->step->np->attribute[0];
    struct graph_tensor *out = graph_out(at, 0);
    size_t n = (size_t)out->shape.elements;

    TIER_TRY(graph_fold_room(at, 0));
    if (a->t) {
        struct graph_tensor loaded;
        enum tier_status st =
            graph_tensor_load(&at->graph->source, a->t, NULL, at->node->name, &loaded, at->err);
        if (st != TIER_OK)
            return st;
        free(out->f);
        free(out->i);
        *out = loaded;
    } else if (strcmp(a->name, "value_int") == 0) {
        out->i[0] = a->i;
    } else if (strcmp(a->name, "value_float") == 0) {
        out->f[0] = a->f;
    } else if (out->i && n > 0) {
        memcpy(out->i, a->ints, n * sizeof *out->i);
    } else if (n > 0) {
        memcpy(out->f, a->floats, n * sizeof *out->f);
    }
    return TIER_OK;
}

enum tier_status graph_fold_constant_of_shape(struct graph_at *at) {
    const attr_proto *a = graph_attr(at->step->np, "value");
    struct graph_tensor *out = graph_out(at, 0), value = {0};

    TIER_TRY(graph_fold_room(at, 0));
    if (!a)
        return TIER_OK; /* zeros */
    TIER_TRY(graph_tensor_load(&at->graph->source, a->t, NULL, at->node->name, &value, at->err));
    bool one = value.shape.elements == 1;
    for (uint64_t n = 0; n < out->shape.elements && one; n++) {
        if (out->f)
            out->f[n] = value.f[0];
        else
            out->i[n] = value.i[0];
    }
    free(value.f);
    free(value.i);
    return one ? TIER_OK : graph_bad(at, "the value must have one element");
}
