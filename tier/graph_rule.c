/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allow-list: each operator that a graph may use, with its inputs, outputs and attributes in
 * each range of operator sets. Whatever stands not in the table is refused by node and name.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define WINDOW "s:auto_pad I:kernel_shape I:pads I:strides"
#define LAST GRAPH_OPSET_MAX
#define FOLDED TIER_OP_COUNT
#define RULE(name) .shape = graph_shape_##name
#define FOLD(name) .fold = graph_fold_##name

/* HardSwish is x * HardSigmoid(x) with slope 1/6. */
static const struct graph_rule hard_swish_gate = {
    "HardSwish", TIER_OP_HARD_SIGMOID, 14, LAST, 1, 1, 1, 1, 1, "", RULE(hard_swish_gate)};

/* name, operator, operator sets, inputs, outputs named and made, inputs executed on, attributes */
static const struct graph_rule rules[] = {
    {"Conv", TIER_OP_CONV, 1, LAST, 2, 3, 1, 1, 7, WINDOW " I:dilations i:group", RULE(conv)},
    {"ConvTranspose", TIER_OP_CONV_TRANSPOSE, 1, LAST, 2, 3, 1, 1, 7,
     WINDOW " I:dilations i:group I:output_padding I:output_shape", RULE(conv_transpose)},
    {"Gemm", TIER_OP_GEMM, 1, LAST, 2, 3, 1, 1, 7, "f:alpha f:beta i:transA i:transB", RULE(gemm)},
    {"MatMul", TIER_OP_MATMUL, 1, LAST, 2, 2, 1, 1, 3, "", RULE(matmul)},
    {"Add", TIER_OP_ADD, 1, LAST, 2, 2, 1, 1, 3, "", RULE(binary), FOLD(binary)},
    {"Sub", TIER_OP_SUB, 1, LAST, 2, 2, 1, 1, 3, "", RULE(binary), FOLD(binary)},
    {"Mul", TIER_OP_MUL, 1, LAST, 2, 2, 1, 1, 3, "", RULE(binary), FOLD(binary)},
    {"Div", TIER_OP_DIV, 1, LAST, 2, 2, 1, 1, 3, "", RULE(binary), FOLD(binary)},
    {"Pow", TIER_OP_POW, 1, LAST, 2, 2, 1, 1, 1, "", RULE(pow), FOLD(binary)},
    {"Relu", TIER_OP_RELU, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu)},
    {"LeakyRelu", TIER_OP_LEAKY_RELU, 1, LAST, 1, 1, 1, 1, 1, "f:alpha", RULE(alpha)},
    {"PRelu", TIER_OP_PRELU, 1, LAST, 2, 2, 1, 1, 3, "", RULE(prelu)},
    {"Elu", TIER_OP_ELU, 1, LAST, 1, 1, 1, 1, 1, "f:alpha", RULE(alpha)},
    {"Sigmoid", TIER_OP_SIGMOID, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu)},
    {"HardSigmoid", TIER_OP_HARD_SIGMOID, 1, LAST, 1, 1, 1, 1, 1, "f:alpha f:beta",
     RULE(hard_sigmoid)},
    {"HardSwish", TIER_OP_MUL, 14, LAST, 1, 1, 1, 1, 1, "", RULE(binary),
     .gated = &hard_swish_gate},
    {"Tanh", TIER_OP_TANH, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu)},
    {"Gelu", TIER_OP_GELU, 20, LAST, 1, 1, 1, 1, 1, "s:approximate", RULE(gelu)},
    {"Erf", TIER_OP_ERF, 9, LAST, 1, 1, 1, 1, 1, "", RULE(relu)},
    {"Softplus", TIER_OP_SOFTPLUS, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu)},
    {"Exp", TIER_OP_EXP, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu), FOLD(unary)},
    {"Log", TIER_OP_LOG, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu), FOLD(unary)},
    {"Sqrt", TIER_OP_SQRT, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu), FOLD(unary)},
    {"Reciprocal", TIER_OP_RECIPROCAL, 1, LAST, 1, 1, 1, 1, 1, "", RULE(relu), FOLD(unary)},
    {"Neg", TIER_OP_NEG, 1, LAST, 1, 1, 1, 1, 1, "", RULE(same), FOLD(unary)},
    {"Abs", TIER_OP_ABS, 1, LAST, 1, 1, 1, 1, 1, "", RULE(same), FOLD(unary)},
    {"Clip", TIER_OP_CLIP, 1, 10, 1, 1, 1, 1, 1, "f:min f:max", RULE(clip)},
    {"Clip", TIER_OP_CLIP, 11, LAST, 1, 3, 1, 1, 1, "", RULE(clip)},
    {"Softmax", TIER_OP_SOFTMAX, 1, LAST, 1, 1, 1, 1, 1, "i:axis", RULE(softmax)},
    {"LogSoftmax", TIER_OP_LOG_SOFTMAX, 1, LAST, 1, 1, 1, 1, 1, "i:axis", RULE(softmax)},
    {"MaxPool", TIER_OP_MAX_POOL, 1, LAST, 1, 1, 2, 1, 1,
     WINDOW " i:ceil_mode I:dilations i:storage_order", RULE(pool)},
    {"AveragePool", TIER_OP_AVERAGE_POOL, 1, LAST, 1, 1, 1, 1, 1,
     WINDOW " i:ceil_mode i:count_include_pad I:dilations", RULE(pool)},
    {"GlobalAveragePool", TIER_OP_REDUCE_MEAN, 1, LAST, 1, 1, 1, 1, 1, "", RULE(global_average)},
    {"GlobalMaxPool", TIER_OP_MAX_POOL, 1, LAST, 1, 1, 1, 1, 1, "", RULE(global_max)},
    {"BatchNormalization", TIER_OP_BATCH_NORM, 7, 8, 5, 5, 5, 1, 31,
     "f:epsilon f:momentum i:spatial", RULE(batch_norm)},
    {"BatchNormalization", TIER_OP_BATCH_NORM, 9, 13, 5, 5, 5, 1, 31, "f:epsilon f:momentum",
     RULE(batch_norm)},
    {"BatchNormalization", TIER_OP_BATCH_NORM, 14, LAST, 5, 5, 3, 1, 31,
     "f:epsilon f:momentum i:training_mode", RULE(batch_norm)},
    {"InstanceNormalization", TIER_OP_INSTANCE_NORM, 1, LAST, 3, 3, 1, 1, 7, "f:epsilon",
     RULE(instance_norm)},
    {"GroupNormalization", TIER_OP_GROUP_NORM, 18, LAST, 3, 3, 1, 1, 7,
     "f:epsilon i:num_groups i:stash_type", RULE(group_norm)},
    {"LayerNormalization", TIER_OP_LAYER_NORM, 17, LAST, 2, 3, 3, 1, 7,
     "i:axis f:epsilon i:stash_type", RULE(layer_norm)},
    {"Dropout", TIER_OP_DROPOUT, 1, 11, 1, 1, 2, 1, 1, "f:ratio", RULE(dropout)},
    {"Dropout", TIER_OP_DROPOUT, 12, LAST, 1, 3, 2, 1, 1, "i:seed", RULE(dropout)},
    {"Concat", TIER_OP_CONCAT, 4, LAST, 1, GRAPH_MANY, 1, 1, GRAPH_ALL, "i:axis", RULE(concat),
     FOLD(concat)},
    {"Split", TIER_OP_SPLIT, 2, 12, 1, 1, GRAPH_MANY, GRAPH_MANY, 1, "i:axis I:split", RULE(split),
     FOLD(split)},
    {"Split", TIER_OP_SPLIT, 13, LAST, 1, 2, GRAPH_MANY, GRAPH_MANY, 1, "i:axis i:num_outputs",
     RULE(split), FOLD(split)},
    {"Slice", TIER_OP_SLICE, 1, 9, 1, 1, 1, 1, 1, "I:axes I:starts I:ends", RULE(slice),
     FOLD(slice)},
    {"Slice", TIER_OP_SLICE, 10, LAST, 3, 5, 1, 1, 1, "", RULE(slice), FOLD(slice)},
    {"Pad", TIER_OP_PAD, 2, 10, 1, 1, 1, 1, 1, "s:mode I:pads f:value", RULE(pad)},
    {"Pad", TIER_OP_PAD, 11, LAST, 2, 4, 1, 1, 1, "s:mode", RULE(pad)},
    {"Reshape", TIER_OP_RESHAPE, 5, LAST, 2, 2, 1, 1, 1, "i:allowzero", RULE(reshape), FOLD(copy)},
    {"Flatten", TIER_OP_RESHAPE, 1, LAST, 1, 1, 1, 1, 1, "i:axis", RULE(flatten), FOLD(copy)},
    {"Squeeze", TIER_OP_RESHAPE, 1, 12, 1, 1, 1, 1, 1, "I:axes", RULE(squeeze), FOLD(copy)},
    {"Squeeze", TIER_OP_RESHAPE, 13, LAST, 1, 2, 1, 1, 1, "", RULE(squeeze), FOLD(copy)},
    {"Unsqueeze", TIER_OP_RESHAPE, 1, 12, 1, 1, 1, 1, 1, "I:axes", RULE(unsqueeze), FOLD(copy)},
    {"Unsqueeze", TIER_OP_RESHAPE, 13, LAST, 2, 2, 1, 1, 1, "", RULE(unsqueeze), FOLD(copy)},
    {"Identity", TIER_OP_RESHAPE, 1, LAST, 1, 1, 1, 1, 1, "", RULE(same), FOLD(copy)},
    {"Cast", TIER_OP_RESHAPE, 6, LAST, 1, 1, 1, 1, 1, "i:to i:saturate s:round_mode", RULE(cast),
     FOLD(cast)},
    {"CastLike", TIER_OP_RESHAPE, 15, LAST, 2, 2, 1, 1, 1, "i:saturate s:round_mode",
     RULE(cast_like), FOLD(cast), .unread = 2},
    {"Expand", TIER_OP_EXPAND, 8, LAST, 2, 2, 1, 1, 1, "", RULE(expand), FOLD(expand)},
    {"Transpose", TIER_OP_TRANSPOSE, 1, LAST, 1, 1, 1, 1, 1, "I:perm", RULE(transpose),
     FOLD(transpose)},
    {"Gather", TIER_OP_GATHER, 1, LAST, 2, 2, 1, 1, 3, "i:axis", RULE(gather), FOLD(gather)},
    {"Resize", TIER_OP_RESIZE, 10, 10, 2, 2, 1, 1, 1, "s:mode", RULE(resize)},
    {"Resize", TIER_OP_RESIZE, 11, LAST, 1, 4, 1, 1, 1,
     "s:coordinate_transformation_mode f:cubic_coeff_a i:exclude_outside f:extrapolation_value "
     "s:mode s:nearest_mode i:antialias I:axes s:keep_aspect_ratio_policy",
     RULE(resize)},
    {"Upsample", TIER_OP_RESIZE, 7, 8, 1, 1, 1, 1, 1, "s:mode F:scales", RULE(resize)},
    {"Upsample", TIER_OP_RESIZE, 9, 9, 2, 2, 1, 1, 1, "s:mode", RULE(resize)},
    {"ReduceSum", TIER_OP_REDUCE_SUM, 1, 12, 1, 1, 1, 1, 1, "I:axes i:keepdims", RULE(reduce),
     FOLD(reduce)},
    {"ReduceSum", TIER_OP_REDUCE_SUM, 13, LAST, 1, 2, 1, 1, 1, "i:keepdims i:noop_with_empty_axes",
     RULE(reduce), FOLD(reduce)},
    {"ReduceMean", TIER_OP_REDUCE_MEAN, 1, 17, 1, 1, 1, 1, 1, "I:axes i:keepdims", RULE(reduce),
     FOLD(reduce)},
    {"ReduceMean", TIER_OP_REDUCE_MEAN, 18, LAST, 1, 2, 1, 1, 1,
     "i:keepdims i:noop_with_empty_axes", RULE(reduce), FOLD(reduce)},
    /* Only on shapes and settings. */
    {"Shape", FOLDED, 1, LAST, 1, 1, 1, 1, 0, "i:start i:end", RULE(shape_of), FOLD(shape_of),
     .unread = 1},
    {"Size", FOLDED, 1, LAST, 1, 1, 1, 1, 0, "", RULE(size_of), FOLD(size_of), .unread = 1},
    {"Constant", FOLDED, 1, LAST, 0, 0, 1, 1, 0,
     "t:value f:value_float i:value_int F:value_floats I:value_ints", RULE(constant),
     FOLD(constant)},
    {"ConstantOfShape", FOLDED, 9, LAST, 1, 1, 1, 1, 0, "t:value", RULE(constant_of_shape),
     FOLD(constant_of_shape)},
    {"Range", FOLDED, 11, LAST, 3, 3, 1, 1, 0, "i:stash_type", RULE(range), FOLD(range)},
    {"Where", FOLDED, 9, LAST, 3, 3, 1, 1, 0, "", RULE(where), FOLD(where)},
    {"Equal", FOLDED, 7, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(compare)},
    {"Greater", FOLDED, 7, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(compare)},
    {"GreaterOrEqual", FOLDED, 12, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(compare)},
    {"Less", FOLDED, 7, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(compare)},
    {"LessOrEqual", FOLDED, 12, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(compare)},
    {"And", FOLDED, 7, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(logic)},
    {"Or", FOLDED, 7, LAST, 2, 2, 1, 1, 0, "", RULE(compare), FOLD(logic)},
    {"Not", FOLDED, 1, LAST, 1, 1, 1, 1, 0, "", RULE(same), FOLD(unary)},
    {"Floor", FOLDED, 1, LAST, 1, 1, 1, 1, 0, "", RULE(same), FOLD(unary)},
    {"Ceil", FOLDED, 1, LAST, 1, 1, 1, 1, 0, "", RULE(same), FOLD(unary)},
    {"Round", FOLDED, 11, LAST, 1, 1, 1, 1, 0, "", RULE(same), FOLD(unary)},
    {"Mod", FOLDED, 10, LAST, 2, 2, 1, 1, 0, "i:fmod", RULE(binary), FOLD(binary)},
    {"Min", FOLDED, 8, LAST, 2, 2, 1, 1, 0, "", RULE(binary), FOLD(binary)},
    {"Max", FOLDED, 8, LAST, 2, 2, 1, 1, 0, "", RULE(binary), FOLD(binary)},
    {"ReduceProd", FOLDED, 1, 17, 1, 1, 1, 1, 0, "I:axes i:keepdims", RULE(reduce), FOLD(reduce)},
    {"ReduceProd", FOLDED, 18, LAST, 1, 2, 1, 1, 0, "i:keepdims i:noop_with_empty_axes",
     RULE(reduce), FOLD(reduce)},
};
#define RULES (sizeof rules / sizeof rules[0])

const char *tier_op_text(enum tier_op op) {
    for (size_t i = 0; i < RULES && op != TIER_OP_COUNT; i++)
        if (rules[i].op == op)
            return rules[i].text;
    return "unknown operator";
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n > k && strcmp(text + n - k, end) == 0;
}

/* Those that are executed, each once: "... Batch- Instance- Group- LayerNormalization ..." */
static void say_rules(char *text, size_t room) {
    static const char *const ends[] = {"Normalization", "Pool"};
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; rules[i].op != TIER_OP_COUNT && used < room; i++) {
        const char *name = rules[i].text, *next = rules[i + 1].text;
        size_t cut = 0;
        if (strcmp(name, next) == 0 || strcmp(name, "Upsample") == 0 ||
            strcmp(name, "CastLike") == 0)
            continue;
        for (size_t e = 0; e < sizeof ends / sizeof ends[0]; e++)
            if (ends_in(name, ends[e]) && ends_in(next, ends[e]))
                cut = strlen(ends[e]);
        used += (size_t)snprintf(text + used, room - used, "%s%.*s%s", used ? " " : "",
                                 (int)(strlen(name) - cut), name, cut ? "-" : "");
    }
}

/* The type that `attrs` gives an attribute of this name, or '\0'. */
static char attr_type(const char *attrs, const char *name) {
    size_t len = strlen(name);

    for (const char *p = attrs; *p;) {
        size_t n = strcspn(p, " ");
        if (n == len + 2 && memcmp(p + 2, name, len) == 0)
            return p[0];
        p += n + (p[n] == ' ');
    }
    return '\0';
}

static bool attr_fits(const attr_proto *a, char type) {
    switch (type) {
    case 'f':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT && a->has_f &&
               isfinite(a->f);
    case 'i':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT && a->has_i;
    case 's':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING && a->has_s;
    case 't':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR && a->t;
    case 'F':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOATS;
    case 'I':
        return a->type == CONSILIUM__ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
    default:
        return false;
    }
}

const attr_proto *graph_attr(const node_proto *np, const char *name) {
    for (size_t i = 0; i < np->n_attribute; i++)
        if (strcmp(np->attribute[i]->name, name) == 0)
            return np->attribute[i];
    return NULL;
}

static enum tier_status check_attributes(const node_proto *np, const struct graph_rule *rule,
                                         const char *name, struct tier_err *err) {
    for (size_t i = 0; i < np->n_attribute; i++) {
        const attr_proto *a = np->attribute[i];
        if (!graph_name_ok(a->name))
            return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has an attribute without a name",
                             name, rule->text);
        if (!attr_fits(a, attr_type(rule->attrs, a->name)))
            return tier_fail(err, TIER_EMODEL,
                             "node '%s' (%s) has the attribute '%.64s', which is not allowed "
                             "there or has the wrong type",
                             name, rule->text, a->name);
        for (size_t k = 0; k < i; k++) /* at most as many as there are in `attrs` */
            if (strcmp(np->attribute[k]->name, a->name) == 0)
                return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has the attribute '%.64s' twice",
                                 name, rule->text, a->name);
    }
    return TIER_OK;
}

enum tier_status graph_rule_find(const node_proto *np, const char *name, int opset,
                                 const struct graph_rule **out, struct tier_err *err) {
    const struct graph_rule *rule = NULL;
    bool known = false;

    if (!graph_name_ok(np->op_type))
        return tier_fail(err, TIER_EMODEL, "node '%s' names no operator", name);
    for (size_t i = 0; i < RULES && !rule; i++) {
        if (strcmp(rules[i].text, np->op_type) != 0)
            continue;
        known = true;
        if (opset >= rules[i].since && opset <= rules[i].until)
            rule = &rules[i];
    }
    if (known && !graph_domain_ok(np->domain))
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' uses the operator %.64s of a domain of its own, which is not "
                         "allowed",
                         name, np->op_type);
    if (!known) {
        char all[sizeof err->text];
        say_rules(all, sizeof all);
        return tier_fail(err, TIER_EMODEL,
                         "node '%.60s' uses the operator %.40s, which is not allowed: %s are", name,
                         np->op_type, all);
    }
    if (!rule)
        return tier_fail(err, TIER_EMODEL,
                         "node '%s' uses the operator %s, which operator set %d does not have",
                         name, np->op_type, opset);
    if (np->n_input < rule->in_min || np->n_input > rule->in_max)
        return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has %zu inputs: %zu to %zu are needed",
                         name, rule->text, np->n_input, rule->in_min, rule->in_max);
    if (np->n_output < 1 || np->n_output > rule->out_max)
        return tier_fail(err, TIER_EMODEL, "node '%s' (%s) has %zu outputs: 1 to %zu are allowed",
                         name, rule->text, np->n_output, rule->out_max);
    TIER_TRY(check_attributes(np, rule, name, err));
    *out = rule;
    return TIER_OK;
}
