/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/appraise.h"
#include "spoke/eval.h"
#include "spoke/loss.h"
#include "spoke/patch.h"
#include "spoke/predict.h"
#include "tier/content.h"
#include "tier/graph.h"
#include "tier/plan.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 8192

struct appraiser {
    struct tier_plan plan;
    struct tier_graph *graph;
    struct kern_device *device;
    struct spoke_data *data;
    struct spoke_net *net;
    struct spoke_sums sums;
    float *values;
};

static enum tier_status read_plan(const char *path, struct tier_plan *out, struct tier_err *err) {
    FILE *f = fopen(path, "rb");
    char *text = f ? malloc(TIER_PLAN_BYTES_MAX + 1) : NULL;
    size_t n = text ? fread(text, 1, TIER_PLAN_BYTES_MAX + 1, f) : 0;
    enum tier_status st = TIER_OK;

    if (!f)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    else if (!text)
        st = tier_fail(err, TIER_ENOMEM, "no memory for a plan");
    else
        st = tier_plan_parse(text, n, out, err);
    if (f)
        fclose(f);
    free(text);
    return st;
}

static enum tier_status open_all(const struct spoke_appraise *w, struct appraiser *a,
                                 struct tier_err *err) {
    TIER_TRY(read_plan(w->plan, &a->plan, err));
    TIER_TRY(tier_graph_open(w->graph, &a->graph, err));
    const struct spoke_data_options o = {.undivided = true, .patch = spoke_patch_of(&a->plan)};
    TIER_TRY(spoke_data_open(w->schema, w->data, &o, &a->data, err));
    kern_init(NULL);
    if (kern_device_open(w->device ? w->device : "cpu", w->threads, &a->device) != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "the device does not open: %s",
                         kern_device_error(NULL));
    const struct spoke_objective objective = spoke_objective_for(&a->plan, a->data);
    TIER_TRY(spoke_net_new_for(a->device, a->graph, &objective, a->plan.batch, &a->net, err));
    TIER_TRY(spoke_eval_fits(a->net, a->data, err));
    if (spoke_data_rows(a->data, SPOKE_TEST) == 0)
        return tier_fail(err, TIER_EDATA, "%s has no row to appraise a model by", w->data);
    a->values = malloc((spoke_net_elements(a->net) + 1) * sizeof *a->values);
    return a->values ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for a model");
}

static enum tier_status appraise(struct appraiser *a, const char *path, struct tier_err *err) {
    TIER_TRY(spoke_predict_values(a->graph, path, NULL, a->values, err));
    TIER_TRY(spoke_net_set(a->net, a->values, err));
    return spoke_evaluate(a->net, a->data, SPOKE_TEST, &a->sums, err);
}

static enum tier_status answer(struct appraiser *a, const char *path, FILE *out,
                               struct tier_err *err) {
    struct tier_err why = {0};
    json_t *said = appraise(a, path, &why) == TIER_OK
                       ? json_pack("{s:I, s:I}", "count", (json_int_t)a->sums.count, "loss",
                                   (json_int_t)a->sums.loss)
                       : json_pack("{s:s}", "error", why.text);

    if (!said || json_dumpf(said, out, JSON_COMPACT) != 0 || putc('\n', out) == EOF ||
        fflush(out) != 0) {
        json_decref(said);
        return tier_fail(err, TIER_EIO, "nobody takes what a model is worth");
    }
    json_decref(said);
    return TIER_OK;
}

enum tier_status spoke_appraise(const struct spoke_appraise *what, FILE *in, FILE *out,
                                struct tier_err *err) {
    struct appraiser *a = calloc(1, sizeof *a);
    char line[LINE_BYTES];
    enum tier_status st;

    if (!a)
        return tier_fail(err, TIER_ENOMEM, "no memory to appraise models");
    TIER_TRY_OUT(open_all(what, a, err));
    while (fgets(line, sizeof line, in)) {
        size_t n = strcspn(line, "\n");
        if (line[n] != '\n') {
            st = tier_fail(err, TIER_EPROTO, "a path of more than %d bytes", LINE_BYTES - 2);
            goto out;
        }
        line[n] = '\0';
        TIER_TRY_OUT(answer(a, line, out, err));
    }
out:
    free(a->values);
    spoke_net_free(a->net);
    spoke_data_free(a->data);
    kern_device_close(a->device);
    tier_graph_free(a->graph);
    free(a);
    return st;
}

static const char usage[] =
    "Usage: consilium-spoke appraise --plan FILE.plan --graph FILE.onnx [--device SPEC]\n"
    "                                [--threads N] SCHEMA DATA\n\n"
    "Reads paths of model files from standard input, one a line, and writes for each one the sum "
    "of\n"
    "its loss over all rows of the data, by the plan, and their number. A hub with validation "
    "data\n"
    "runs this beside itself.\n";

int spoke_appraise_main(int argc, char **argv, FILE *in, FILE *out, FILE *errors) {
    static const struct option longs[] = {
        {"plan", required_argument, NULL, 'p'},   {"graph", required_argument, NULL, 'g'},
        {"device", required_argument, NULL, 'd'}, {"threads", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    struct spoke_appraise w = {0};
    struct tier_err err = {0};
    bool good = true;
    char *end = NULL;
    int option;

    optind = 1;
    opterr = 0;
    while (good && (option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, out);
            return 0;
        }
        if (option == 'p')
            w.plan = optarg;
        else if (option == 'g')
            w.graph = optarg;
        else if (option == 'd')
            w.device = optarg;
        else if (option == 't')
            w.threads = (int)strtol(optarg, &end, 10);
        else
            good = false;
        good = good &&
               (option != 't' || (end != optarg && !*end && w.threads >= 0 && w.threads <= 1024));
    }
    if (!good || argc - optind != 2 || !w.plan || !w.graph) {
        fputs(usage, errors);
        return 2;
    }
    w.schema = argv[optind];
    w.data = argv[optind + 1];
    if (spoke_appraise(&w, in, out, &err) == TIER_OK)
        return 0;
    fprintf(errors, "consilium-spoke: %s\n", err.text);
    return 1;
}
