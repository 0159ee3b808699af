/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/patients.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXAMPLE CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer"
#define LINE_MAX_HERE 1024

enum tier_status bench_patients_deal(const char *dir, size_t spokes, struct tier_err *err) {
    static const char *const measures[] = {
        "radius",      "texture",   "perimeter",      "area",     "smoothness",
        "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension"};
    static const char *const kinds[] = {"mean", "error", "worst"};
    FILE *in = fopen(EXAMPLE "/breast_cancer.csv", "r");
    char line[LINE_MAX_HERE], path[600];

    if (!in)
        return tier_fail_errno(err, TIER_ENOTFOUND, "cannot read %s", EXAMPLE "/breast_cancer.csv");
    for (size_t i = 0; i < spokes; i++) {
        snprintf(path, sizeof path, "%s/spoke-%zu.csv", dir, i + 1);
        FILE *out = fopen(path, "w");
        bool ok = out && fprintf(out, "patient") > 0;
        for (size_t k = 0; ok && k < 30; k++)
            ok = fprintf(out, ",%s_%s", measures[k % 10], kinds[k / 10]) > 0;
        ok = ok && fprintf(out, ",diagnosis\n") > 0;
        rewind(in);
        size_t row = 0;
        ok = ok && fgets(line, sizeof line, in);
        for (; ok && fgets(line, sizeof line, in); row++) {
            char *class = strrchr(line, ',');
            if (row % spokes != i || !class)
                continue;
            bool malignant = class[1] == '0';
            *class = '\0';
            ok = fprintf(out, "wdbc-%zu,%s,%s\n", row + 1, line,
                         malignant ? "malignant" : "benign") > 0;
        }
        if (out && fclose(out) != 0)
            ok = false;
        if (!ok) {
            fclose(in);
            return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
        }
    }
    fclose(in);
    return TIER_OK;
}

void bench_patients_spoke(const char *dir, struct tier_config *c) {
    c->threads = 1;
    c->spoke.accept = TIER_ACCEPT_ALL;
    snprintf(c->spoke.device, sizeof c->spoke.device, "cpu");
    snprintf(c->spoke.schema, sizeof c->spoke.schema, "%s", EXAMPLE "/schema.yaml");
    snprintf(c->spoke.csv, sizeof c->spoke.csv, "%s/%s.csv", dir, c->name);
}

static enum tier_status read_file(const char *path, uint8_t **out, size_t *n_out,
                                  struct tier_err *err) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) {
        if (f)
            fclose(f);
        return tier_fail_errno(err, TIER_ENOTFOUND, "cannot read %s", path);
    }
    *n_out = (size_t)ftell(f);
    *out = bench_alloc(*n_out, 1);
    rewind(f);
    bool ok = fread(*out, 1, *n_out, f) == *n_out;
    fclose(f);
    return ok ? TIER_OK : tier_fail(err, TIER_EIO, "cannot read %s", path);
}

enum tier_status bench_patients_graph(struct tier_plan *plan, const struct tier_config *top,
                                      struct tier_err *err) {
    uint8_t *onnx = NULL;
    size_t n = 0;

    TIER_TRY(read_file(EXAMPLE "/model.onnx", &onnx, &n, err));
    enum tier_status st = bench_plan_graph(plan, top, onnx, n, err);
    free(onnx);
    return st;
}
