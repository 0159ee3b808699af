/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes ONNX files for tests, bytes by hand: a second opinion on the field numbers, and a way to
 * write files that no ONNX library would. Messages are built inside out: a node or tensor is
 * written to a buffer of its own and then added to the graph as a field.
 *
 * Threads: none. Buffers are fixed; a test that outgrows them aborts.
 */
#ifndef CONSILIUM_TESTS_ONNX_WRITER_H
#define CONSILIUM_TESTS_ONNX_WRITER_H

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct onnx_msg {
    uint8_t b[65536];
    size_t n;
};

static inline void onnx_byte(struct onnx_msg *m, uint8_t byte) {
    assert(m->n < sizeof m->b);
    m->b[m->n++] = byte;
}

static inline void onnx_varint(struct onnx_msg *m, uint64_t v) {
    for (; v >= 0x80; v >>= 7)
        onnx_byte(m, (uint8_t)(v | 0x80));
    onnx_byte(m, (uint8_t)v);
}

static inline void onnx_int(struct onnx_msg *m, unsigned field, int64_t v) {
    onnx_varint(m, field << 3);
    onnx_varint(m, (uint64_t)v);
}

static inline void onnx_bytes(struct onnx_msg *m, unsigned field, const void *data, size_t n) {
    onnx_varint(m, field << 3 | 2);
    onnx_varint(m, n);
    for (size_t i = 0; i < n; i++)
        onnx_byte(m, ((const uint8_t *)data)[i]);
}

static inline void onnx_text(struct onnx_msg *m, unsigned field, const char *text) {
    onnx_bytes(m, field, text, strlen(text));
}

static inline void onnx_float(struct onnx_msg *m, unsigned field, float v) {
    uint8_t raw[4];
    memcpy(raw, &v, sizeof raw);
    onnx_varint(m, field << 3 | 5);
    for (int i = 0; i < 4; i++)
        onnx_byte(m, raw[i]);
}

static inline void onnx_sub(struct onnx_msg *m, unsigned field, const struct onnx_msg *sub) {
    onnx_bytes(m, field, sub->b, sub->n);
}

/* A node's attribute: type FLOAT or INT. */
static inline void onnx_attr_float(struct onnx_msg *node, const char *name, float v) {
    static struct onnx_msg a;
    a.n = 0;
    onnx_text(&a, 1, name);
    onnx_float(&a, 2, v);
    onnx_int(&a, 20, 1);
    onnx_sub(node, 5, &a);
}

static inline void onnx_attr_int(struct onnx_msg *node, const char *name, int64_t v) {
    static struct onnx_msg a;
    a.n = 0;
    onnx_text(&a, 1, name);
    onnx_int(&a, 3, v);
    onnx_int(&a, 20, 2);
    onnx_sub(node, 5, &a);
}

static inline void onnx_attr_ints(struct onnx_msg *node, const char *name, size_t n,
                                  const int64_t *v) {
    static struct onnx_msg a;
    a.n = 0;
    onnx_text(&a, 1, name);
    for (size_t i = 0; i < n; i++)
        onnx_int(&a, 8, v[i]);
    onnx_int(&a, 20, 7);
    onnx_sub(node, 5, &a);
}

static inline void onnx_attr_text(struct onnx_msg *node, const char *name, const char *v) {
    static struct onnx_msg a;
    a.n = 0;
    onnx_text(&a, 1, name);
    onnx_text(&a, 4, v);
    onnx_int(&a, 20, 3);
    onnx_sub(node, 5, &a);
}

/* Inputs in one string, separated by spaces; "-" is an input that is left out. Outputs too. */
static inline void onnx_node(struct onnx_msg *node, const char *op, const char *inputs,
                             const char *output) {
    const char *lists[] = {inputs, output};
    node->n = 0;
    for (unsigned field = 1; field <= 2; field++) {
        for (const char *p = lists[field - 1]; *p;) {
            size_t n = strcspn(p, " ");
            onnx_bytes(node, field, p, n == 1 && *p == '-' ? 0 : n);
            p += n + (p[n] == ' ');
        }
    }
    onnx_text(node, 4, op);
}

static inline void onnx_add_node(struct onnx_msg *graph, const char *op, const char *inputs,
                                 const char *output) {
    static struct onnx_msg node;
    onnx_node(&node, op, inputs, output);
    onnx_sub(graph, 1, &node);
}

/* A float initialiser as raw data; cols 0 makes it one-dimensional. */
static inline void onnx_add_tensor(struct onnx_msg *graph, const char *name, int64_t rows,
                                   int64_t cols, const float *values) {
    static struct onnx_msg t;
    t.n = 0;
    onnx_int(&t, 1, rows);
    if (cols)
        onnx_int(&t, 1, cols);
    onnx_int(&t, 2, 1);
    onnx_text(&t, 8, name);
    onnx_bytes(&t, 9, values, (size_t)(rows * (cols ? cols : 1)) * sizeof *values);
    onnx_sub(graph, 5, &t);
}

/* Of any shape, as raw data: type 1 is float, 7 int64. */
static inline void onnx_tensor(struct onnx_msg *t, const char *name, size_t rank,
                               const int64_t *dims, int64_t type, const void *values) {
    size_t n = type == 7 ? 8 : 4;
    t->n = 0;
    for (size_t d = 0; d < rank; d++) {
        onnx_int(t, 1, dims[d]);
        n *= (size_t)dims[d];
    }
    onnx_int(t, 2, type);
    onnx_text(t, 8, name);
    onnx_bytes(t, 9, values, n);
}

static inline void onnx_add_dims(struct onnx_msg *graph, const char *name, size_t rank,
                                 const int64_t *dims, int64_t type, const void *values) {
    static struct onnx_msg t;
    onnx_tensor(&t, name, rank, dims, type, values);
    onnx_sub(graph, 5, &t);
}

static inline void onnx_attr_tensor(struct onnx_msg *node, const char *name, size_t rank,
                                    const int64_t *dims, int64_t type, const void *values) {
    static struct onnx_msg a, t;
    a.n = 0;
    onnx_tensor(&t, "", rank, dims, type, values);
    onnx_text(&a, 1, name);
    onnx_sub(&a, 5, &t);
    onnx_int(&a, 20, 4);
    onnx_sub(node, 5, &a);
}

/* A Constant node, as exporters write settings. */
static inline void onnx_add_constant(struct onnx_msg *graph, const char *name, size_t rank,
                                     const int64_t *dims, int64_t type, const void *values) {
    static struct onnx_msg node;
    onnx_node(&node, "Constant", "", name);
    onnx_attr_tensor(&node, "value", rank, dims, type, values);
    onnx_sub(graph, 1, &node);
}

static inline void onnx_add_ints(struct onnx_msg *graph, const char *name, int64_t n,
                                 const int64_t *values) {
    onnx_add_dims(graph, name, 1, &n, 7, values);
}

/* field 11 is an input, 12 an output: [N, dims...], of a type as above. */
static inline void onnx_add_rows(struct onnx_msg *graph, unsigned field, const char *name,
                                 size_t rank, const int64_t *dims, int64_t elements) {
    static struct onnx_msg dim, shape, tensor, type, value;
    shape.n = tensor.n = type.n = value.n = dim.n = 0;
    onnx_text(&dim, 2, "N");
    onnx_sub(&shape, 1, &dim);
    for (size_t d = 0; d < rank; d++) {
        dim.n = 0;
        onnx_int(&dim, 1, dims[d]);
        onnx_sub(&shape, 1, &dim);
    }
    onnx_int(&tensor, 1, elements);
    onnx_sub(&tensor, 2, &shape);
    onnx_sub(&type, 1, &tensor);
    onnx_text(&value, 1, name);
    onnx_sub(&value, 2, &type);
    onnx_sub(graph, field, &value);
}

/* field 11 is an input, 12 an output; batch 0 is symbolic. */
static inline void onnx_add_value(struct onnx_msg *graph, unsigned field, const char *name,
                                  int64_t batch, int64_t cols) {
    static struct onnx_msg dim, shape, tensor, type, value;
    shape.n = tensor.n = type.n = value.n = dim.n = 0;
    if (batch)
        onnx_int(&dim, 1, batch);
    else
        onnx_text(&dim, 2, "N");
    onnx_sub(&shape, 1, &dim);
    dim.n = 0;
    onnx_int(&dim, 1, cols);
    onnx_sub(&shape, 1, &dim);
    onnx_int(&tensor, 1, 1);
    onnx_sub(&tensor, 2, &shape);
    onnx_sub(&type, 1, &tensor);
    onnx_text(&value, 1, name);
    onnx_sub(&value, 2, &type);
    onnx_sub(graph, field, &value);
}

static inline void onnx_model(struct onnx_msg *model, const struct onnx_msg *graph, int64_t opset) {
    static struct onnx_msg set;
    model->n = set.n = 0;
    onnx_int(model, 1, 8);
    onnx_sub(model, 7, graph);
    onnx_text(&set, 1, "");
    onnx_int(&set, 2, opset);
    onnx_sub(model, 8, &set);
}

#endif
