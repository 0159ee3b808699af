/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A graph as it stands, for tests: every node up to the output is executed, activation functions at
 * the end too, which a net leaves to its loss.
 */
#ifndef CONSILIUM_TESTS_GRAPH_RUN_H
#define CONSILIUM_TESTS_GRAPH_RUN_H

#include "spoke/tape.h"

#include <stdlib.h>

static inline enum tier_status graph_run_on(struct kern_device *dev, const struct tier_graph *graph,
                                            const struct tape *tape, struct kern_buf *bufs[3],
                                            const float *x, float *y, size_t count,
                                            struct tier_err *err) {
    size_t at = (size_t)tier_graph_elements(graph) * sizeof(float);
    size_t x_bytes = tape->rows * (size_t)tier_graph_features(graph) * sizeof(float);
    float *values = malloc(at + 1);
    enum tier_status st = values ? tier_graph_values(graph, values, err) : TIER_ENOMEM;

    if (st == TIER_OK &&
        (kern_buf_new(dev, at + 4, &bufs[0]) != KERN_OK ||
         kern_buf_new(dev, tape->arena_floats * sizeof(float) + 4, &bufs[1]) != KERN_OK ||
         kern_buf_new(dev, x_bytes, &bufs[2]) != KERN_OK ||
         (at && kern_upload(bufs[0], 0, values, at) != KERN_OK) ||
         kern_upload(bufs[2], 0, x, x_bytes) != KERN_OK))
        st = tier_fail(err, TIER_EDEVICE, "the device: %s", kern_device_error(dev));
    free(values);
    if (st != TIER_OK)
        return st;
    struct tape_run run = {
        .tape = tape, .params = bufs[0], .arena = bufs[1], .x = {bufs[2], 0}, .err = err};
    TIER_TRY(tape_forward(&run));
    struct kern_vec z = tape_at(&run, tape->logits);
    if (kern_download(y, z.buf, z.at * sizeof *y, count * sizeof *y) != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "the device: %s", kern_device_error(dev));
    return TIER_OK;
}

/* The output for x, float[rows x features]: *y_out is float[*count_out], the caller's to free,
 * channels last where it has more than two dimensions. In training a batch's own statistics count.
 */
static inline enum tier_status graph_run(struct kern_device *dev, const struct tier_graph *graph,
                                         const float *x, size_t rows, bool training, float **y_out,
                                         size_t *count_out, struct tier_err *err) {
    struct tape *tape = NULL;
    struct kern_buf *bufs[3] = {NULL, NULL, NULL};

    TIER_TRY(tape_new(dev, graph, rows, tier_graph_output(graph), training, NULL, &tape, err));
    size_t count = rows * (size_t)tier_graph_outputs(graph);
    float *y = malloc((count + 1) * sizeof *y);
    enum tier_status st = y ? graph_run_on(dev, graph, tape, bufs, x, y, count, err)
                            : tier_fail(err, TIER_ENOMEM, "no memory for an output");
    for (int i = 0; i < 3; i++)
        kern_buf_free(bufs[i]);
    tape_free(tape);
    if (st != TIER_OK) {
        free(y);
        return st;
    }
    *y_out = y;
    *count_out = count;
    return TIER_OK;
}

#endif
