/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows a peer what the engine makes of a graph, up to its very output and without training it:
 *
 *     node_probe MODEL ROWS X Y [training]
 *
 * X holds float32 [rows][features], Y gets the output's floats. The exit status is 3, with the
 * reason on stderr, where the graph is refused.
 */
#include "tests/support/graph_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSED 3

static void die(const char *what, const char *why) {
    fprintf(stderr, "node_probe: %s: %s\n", what, why);
    exit(1);
}

static float *read_floats(const char *path, size_t count) {
    FILE *f = fopen(path, "rb");
    float *x = malloc((count + 1) * sizeof *x);
    if (!f || !x || fread(x, sizeof *x, count, f) != count)
        die(path, "cannot be read, or is too short");
    fclose(f);
    return x;
}

int main(int argc, char **argv) {
    struct tier_graph *graph = NULL;
    struct kern_device *dev;
    struct tier_err err = {0};
    float *y = NULL;
    size_t count = 0;

    if (argc != 5 && (argc != 6 || strcmp(argv[5], "training") != 0))
        die("usage", "node_probe MODEL ROWS X Y [training]");
    size_t rows = strtoul(argv[2], NULL, 10);
    kern_init(NULL);
    if (kern_device_open("cpu", 2, &dev) != KERN_OK)
        die("cpu", kern_device_error(NULL));
    enum tier_status st = tier_graph_open(argv[1], &graph, &err);
    if (st == TIER_OK) {
        float *x = read_floats(argv[3], rows * (size_t)tier_graph_features(graph));
        st = graph_run(dev, graph, x, rows, argc == 6, &y, &count, &err);
        free(x);
    }
    if (st != TIER_OK) {
        fprintf(stderr, "%s\n", err.text);
        return st == TIER_EMODEL || st == TIER_ELIMIT ? REFUSED : 1;
    }
    FILE *f = fopen(argv[4], "wb");
    if (!f || fwrite(y, sizeof *y, count, f) != count || fclose(f) != 0)
        die(argv[4], "cannot be written");
    free(y);
    tier_graph_free(graph);
    kern_device_close(dev);
    return 0;
}
