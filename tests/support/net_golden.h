/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/golden/net: models as PyTorch exports them, each with one batch and what PyTorch makes of
 * it in float64 (tests/support/make_net_golden.py).
 *
 * Threads: the test's own. Ownership: open_golden gives, close_golden takes.
 */
#ifndef CONSILIUM_TESTS_NET_GOLDEN_H
#define CONSILIUM_TESTS_NET_GOLDEN_H

#include "kernels/kern.h"
#include "tier/graph.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NET_GOLDEN CONSILIUM_SOURCE_DIR "/tests/golden/net"

struct golden {
    int32_t loss, rows, x_count, targets, logits_count, params;
    float *x, *logits;
    void *target;
    double loss_value;
    FILE *file; /* at the first parameter */
};

static inline void take(FILE *f, void *out, size_t bytes) {
    cr_assert(fread(out, 1, bytes, f) == bytes, "the file is too short");
}

static inline void open_golden(const char *name, struct golden *g) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.bin", NET_GOLDEN, name);
    g->file = fopen(path, "rb");
    cr_assert(g->file != NULL, "%s", path);
    take(g->file, &g->loss, 6 * sizeof g->loss);
    g->x = malloc((size_t)g->x_count * 4);
    g->target = malloc((size_t)g->targets * 4);
    g->logits = malloc((size_t)g->logits_count * 4);
    take(g->file, g->x, (size_t)g->x_count * 4);
    take(g->file, g->target, (size_t)g->targets * 4);
    take(g->file, &g->loss_value, sizeof g->loss_value);
    take(g->file, g->logits, (size_t)g->logits_count * 4);
}

static inline void close_golden(struct golden *g) {
    free(g->x);
    free(g->target);
    free(g->logits);
    fclose(g->file);
}

static inline double norm(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (b ? (double)b[i] : 0);
        sum += d * d;
    }
    return sqrt(sum);
}

static inline const struct tier_graph_param *find(const struct tier_graph *g, const char *name) {
    for (size_t i = 0; i < tier_graph_param_count(g); i++)
        if (strcmp(tier_graph_param(g, i)->name, name) == 0)
            return tier_graph_param(g, i);
    return NULL;
}

static inline struct kern_vec put(struct kern_device *dev, const void *data, size_t bytes) {
    struct kern_buf *b;
    cr_assert(eq(int, kern_buf_new(dev, bytes, &b), KERN_OK));
    cr_assert(eq(int, kern_upload(b, 0, data, bytes), KERN_OK));
    return (struct kern_vec){b, 0};
}

#endif
