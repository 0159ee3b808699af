/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of a file: constants, which are loaded whole, and parameters, which are read where they
 * lie.
 */
#include "tier/graph_priv.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "raw_data is little-endian");

#define BLOCK 4096

/* ---- constants ----------------------------------------------------------------------------- */

enum tier_status graph_tensor_shape(const tensor_proto *t, const char *name, struct tier_shape *out,
                                    struct tier_err *err) {
    struct tier_shape s = {.elements = 1};

    if (t->n_dims > TIER_DIMS_MAX)
        return tier_fail(err, TIER_EMODEL, "'%s' has %zu dimensions: %d are the most", name,
                         t->n_dims, TIER_DIMS_MAX);
    s.rank = (unsigned)t->n_dims;
    for (size_t d = 0; d < t->n_dims; d++) {
        if (t->dims[d] < 0 ||
            __builtin_mul_overflow(s.elements, (uint64_t)t->dims[d], &s.elements) ||
            s.elements > TIER_ELEMENTS_MAX)
            return tier_fail(err, TIER_EMODEL, "'%s' has an impossible shape", name);
        s.dims[d] = (uint64_t)t->dims[d];
    }
    *out = s;
    return TIER_OK;
}

static size_t element_bytes(int32_t data_type) {
    switch (data_type) {
    case ONNX_FLOAT:
    case ONNX_INT32:
        return 4;
    case ONNX_INT64:
    case ONNX_DOUBLE:
        return 8;
    case ONNX_BOOL:
        return 1;
    default:
        return 0;
    }
}

/* How many elements stand in the field that is meant for the type, and in all such fields. */
static size_t typed_count(const tensor_proto *t, size_t *all) {
    *all = t->n_float_data + t->n_int32_data + t->n_int64_data + t->n_double_data;
    switch (t->data_type) {
    case ONNX_FLOAT:
        return t->n_float_data;
    case ONNX_INT64:
        return t->n_int64_data;
    case ONNX_DOUBLE:
        return t->n_double_data;
    default:
        return t->n_int32_data;
    }
}

static float float_at(const tensor_proto *t, const uint8_t *raw, size_t i) {
    if (t->data_type == ONNX_FLOAT) {
        float v;
        if (!raw)
            return t->float_data[i];
        memcpy(&v, raw + i * sizeof v, sizeof v);
        return v;
    }
    double d;
    if (!raw)
        return (float)t->double_data[i];
    memcpy(&d, raw + i * sizeof d, sizeof d);
    return (float)d;
}

static int64_t int_at(const tensor_proto *t, const uint8_t *raw, size_t i) {
    if (t->data_type == ONNX_INT64) {
        int64_t v;
        if (!raw)
            return t->int64_data[i];
        memcpy(&v, raw + i * sizeof v, sizeof v);
        return v;
    }
    if (t->data_type == ONNX_INT32) {
        int32_t v;
        if (!raw)
            return t->int32_data[i];
        memcpy(&v, raw + i * sizeof v, sizeof v);
        return v;
    }
    return raw ? raw[i] != 0 : t->int32_data[i] != 0;
}

static enum tier_status convert(const tensor_proto *t, const uint8_t *raw, const char *name,
                                struct graph_tensor *out, struct tier_err *err) {
    size_t n = (size_t)out->shape.elements;

    if (out->type == TIER_TYPE_INT) {
        out->i = malloc((n + 1) * sizeof *out->i);
        for (size_t i = 0; out->i && i < n; i++)
            out->i[i] = int_at(t, raw, i);
    } else {
        out->f = malloc((n + 1) * sizeof *out->f);
        for (size_t i = 0; out->f && i < n; i++) {
            out->f[i] = float_at(t, raw, i);
            if (isnan(out->f[i]))
                return tier_fail(err, TIER_EMODEL, "'%s' is not a number at element %zu", name, i);
        }
    }
    if (!graph_constant(out))
        return tier_fail(err, TIER_ENOMEM, "no memory for a constant of %zu elements", n);
    return TIER_OK;
}

enum tier_status graph_tensor_load(const struct graph_source *source, const tensor_proto *t,
                                   const struct graph_weights *apart, const char *name,
                                   struct graph_tensor *out, struct tier_err *err) {
    size_t bytes = element_bytes(t->data_type), all, typed = typed_count(t, &all);
    const uint8_t *raw = t->has_raw_data ? t->raw_data.data : NULL;
    uint64_t raw_bytes = t->has_raw_data ? t->raw_data.len : 0;
    struct graph_tensor made = {.type = TIER_TYPE_INT};
    uint8_t *read = NULL;
    enum tier_status st;

    if (bytes == 0)
        return tier_fail(err, TIER_EMODEL,
                         "'%s' has element type %d: float (1), int32 (6), int64 (7), bool (9) and "
                         "double (11) are read",
                         name, t->data_type);
    if (t->data_type == ONNX_FLOAT || t->data_type == ONNX_DOUBLE)
        made.type = TIER_TYPE_FLOAT;
    TIER_TRY(graph_tensor_shape(t, name, &made.shape, err));
    if (made.shape.elements > GRAPH_CONSTANT_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "the constant '%s' has %" PRIu64 " elements: %" PRIu64 " are the most",
                         name, made.shape.elements, GRAPH_CONSTANT_MAX);
    if (apart && apart->bytes > 0) {
        all += raw_bytes;
        raw_bytes = apart->bytes;
    }
    bool from_raw = all == 0 && raw_bytes == made.shape.elements * bytes;
    if (!from_raw && !(raw_bytes == 0 && typed == all && typed == made.shape.elements))
        return tier_fail(err, TIER_EMODEL,
                         "'%s' does not hold the %" PRIu64 " elements that its shape says", name,
                         made.shape.elements);
    if (apart && apart->bytes > 0) {
        read = malloc((size_t)raw_bytes);
        if (!read)
            return tier_fail(err, TIER_ENOMEM, "no memory for a constant");
        TIER_TRY_OUT(graph_source_read(source, apart->offset, read, (size_t)raw_bytes, err));
        raw = read;
    }
    st = convert(t, all == 0 ? raw : NULL, name, &made, err);
out:
    free(read);
    if (st == TIER_OK) {
        *out = made;
    } else {
        free(made.f);
        free(made.i);
    }
    return st;
}

/* ---- parameters ---------------------------------------------------------------------------- */

enum tier_status graph_param_check(const struct tier_graph *g, size_t index, struct tier_err *err) {
    size_t init = g->param_init[index];
    const tensor_proto *t = g->model->graph->initializer[init];
    const struct tier_graph_param *p = &g->params[index];
    uint64_t apart = g->weights[init].bytes;
    uint64_t raw = apart ? apart : t->has_raw_data ? t->raw_data.len : 0;
    uint64_t have = raw ? raw / sizeof(float) : t->n_float_data;
    bool twice = (t->has_raw_data && t->n_float_data) ||
                 (apart && (t->has_raw_data || t->n_float_data)) || t->n_int32_data ||
                 t->n_int64_data || t->n_double_data;
    float block[BLOCK];

    if (twice || raw % sizeof(float) != 0 || have != p->elements)
        return tier_fail(err, TIER_EMODEL,
                         "initialiser '%s' holds %" PRIu64 " floats where its shape says %" PRIu64,
                         p->name, have, p->elements);
    for (uint64_t at = 0, n; at < p->elements; at += n) {
        n = p->elements - at < BLOCK ? p->elements - at : BLOCK;
        TIER_TRY(tier_graph_read(g, index, at, n, block, err));
        for (uint64_t i = 0; i < n; i++)
            if (!isfinite(block[i]))
                return tier_fail(err, TIER_EMODEL,
                                 "initialiser '%s' is not finite at element %" PRIu64, p->name,
                                 at + i);
    }
    return TIER_OK;
}

enum tier_status tier_graph_read(const struct tier_graph *g, size_t i, uint64_t at, size_t n,
                                 float *out, struct tier_err *err) {
    const tensor_proto *t = g->model->graph->initializer[g->param_init[i]];
    const struct graph_weights *apart = &g->weights[g->param_init[i]];

    if (apart->bytes > 0)
        return graph_source_read(&g->source, apart->offset + at * sizeof *out, out, n * sizeof *out,
                                 err);
    if (t->has_raw_data)
        memcpy(out, t->raw_data.data + at * sizeof *out, n * sizeof *out);
    else
        memcpy(out, t->float_data + at, n * sizeof *out);
    return TIER_OK;
}

enum tier_status tier_graph_values(const struct tier_graph *g, float *values,
                                   struct tier_err *err) {
    for (size_t i = 0; i < g->param_count; i++)
        TIER_TRY(tier_graph_read(g, i, 0, g->params[i].elements, values + g->params[i].at, err));
    return TIER_OK;
}
