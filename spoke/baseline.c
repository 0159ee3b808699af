/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-baseline: what a federation is compared with. Trains a plan's recipe, with the budget
 * of all its rounds together, at each hospital alone and on everybody's rows pooled, and evaluates
 * every model on the test rows of all hospitals. It needs all tables on one machine, which is what
 * a federation is there to avoid: for examples and studies only.
 */
#include "spoke/eval.h"
#include "spoke/spoke.h"
#include "tier/metric.h"
#include "tier/model.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLES_MAX 256

struct options {
    const char *plan, *schema, *model;
    const char *csv[TABLES_MAX];
    size_t count;
    bool json;
    int fold; /* -1: the plan's */
};

struct bench {
    struct tier_plan plan;
    struct tier_graph *graph;
    struct kern_device *device;
    struct spoke_recipe recipe;
};

static const char usage[] =
    "Usage: consilium-baseline --plan FILE --schema FILE --csv FILE [--csv FILE ...]\n"
    "                          [--model FILE] [--fold N] [--json]\n\n"
    "Trains the plan's recipe at each table alone and on all of them pooled, and prints how each\n"
    "model does on the test rows of all tables. With --model nothing is trained: a published\n"
    "model is evaluated on the pooled test rows, standardised like the pooled training rows.\n";

static enum spoke_loss loss_of(const struct bench *b) {
    return b->plan.loss == TIER_PLAN_BCE ? SPOKE_LOSS_BCE : SPOKE_LOSS_CE;
}

/* Opens a table; with `like` its rows are standardised with that table's statistics. */
static enum tier_status open_table(const struct options *o, const struct bench *b, const char *csv,
                                   const struct spoke_data *like, struct spoke_data **out,
                                   struct tier_err *err) {
    struct spoke_data_options options = {0};
    options.fold_set = b->plan.fold != 0;
    options.fold = (uint32_t)b->plan.fold;
    if (like) {
        options.stats_count = spoke_data_features(like);
        options.mean = spoke_data_mean(like);
        options.std = spoke_data_std(like);
    }
    return spoke_data_open(o->schema, csv, &options, out, err);
}

/* Trains on one table and evaluates on the test rows of all. */
static enum tier_status train_and_test(const struct options *o, const struct bench *b,
                                       const char *csv, const char *name,
                                       struct tier_task_figures *out, struct tier_err *err) {
    struct spoke_data *data = NULL, *other = NULL;
    struct spoke_net *net = NULL;
    struct spoke_sums *sums = malloc(sizeof *sums);
    struct tier_metrics *metrics = tier_metrics_new();
    struct spoke_train_stats stats;
    char seed[32];
    enum tier_status st = TIER_OK;

    if (!sums || !metrics) {
        st = tier_fail(err, TIER_ENOMEM, "no memory");
        goto out;
    }
    TIER_TRY_OUT(open_table(o, b, csv, NULL, &data, err));
    TIER_TRY_OUT(spoke_net_new(b->device, b->graph, loss_of(b), b->plan.batch, &net, err));
    snprintf(seed, sizeof seed, "%" PRIu64, b->plan.seed);
    TIER_TRY_OUT(spoke_train(net, data, &b->recipe, spoke_train_seed(seed, 0, name), &stats, err));
    for (size_t i = 0; i < o->count; i++) {
        TIER_TRY_OUT(open_table(o, b, o->csv[i], data, &other, err));
        TIER_TRY_OUT(spoke_evaluate(net, other, SPOKE_TEST, sums, err));
        TIER_TRY_OUT(spoke_sums_add(sums, metrics, err));
        spoke_data_free(other);
        other = NULL;
    }
    *out = tier_task_figures(metrics);
out:
    spoke_data_free(other);
    spoke_data_free(data);
    spoke_net_free(net);
    tier_metrics_free(metrics);
    free(sums);
    return st;
}

/* A published model's parameters into the net. */
static enum tier_status load_model(const struct bench *b, const char *path, struct spoke_net *net,
                                   struct tier_err *err) {
    struct tier_manifest *manifest = NULL;
    struct tier_model *model = NULL;
    float *values = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_task_manifest(&b->plan, b->graph, &manifest, err));
    TIER_TRY_OUT(tier_model_open(path, &model, err));
    TIER_TRY_OUT(tier_model_matches(model, manifest, err));
    values = malloc(manifest->elements * sizeof *values);
    if (!values) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model");
        goto out;
    }
    TIER_TRY_OUT(tier_model_read(model, 0, manifest->elements, values, err));
    TIER_TRY_OUT(spoke_net_set(net, values, err));
out:
    free(values);
    tier_model_close(model);
    tier_manifest_free(manifest);
    return st;
}

static enum tier_status test_model(const struct options *o, const struct bench *b,
                                   const char *pooled, struct tier_task_figures *out,
                                   struct tier_err *err) {
    struct spoke_data *data = NULL;
    struct spoke_net *net = NULL;
    struct tier_metrics *metrics = tier_metrics_new();
    struct spoke_sums *sums = malloc(sizeof *sums);
    enum tier_status st = TIER_OK;

    if (!sums || !metrics) {
        st = tier_fail(err, TIER_ENOMEM, "no memory");
        goto out;
    }
    TIER_TRY_OUT(open_table(o, b, pooled, NULL, &data, err));
    TIER_TRY_OUT(spoke_net_new(b->device, b->graph, loss_of(b), b->plan.batch, &net, err));
    TIER_TRY_OUT(load_model(b, o->model, net, err));
    TIER_TRY_OUT(spoke_evaluate(net, data, SPOKE_TEST, sums, err));
    TIER_TRY_OUT(spoke_sums_add(sums, metrics, err));
    *out = tier_task_figures(metrics);
out:
    spoke_net_free(net);
    spoke_data_free(data);
    tier_metrics_free(metrics);
    free(sums);
    return st;
}

/* All tables one after another under the first one's header. */
static enum tier_status pool_tables(const struct options *o, char *path, struct tier_err *err) {
    int fd = mkstemp(path);
    FILE *to = fd < 0 ? NULL : fdopen(fd, "w");
    enum tier_status st = TIER_OK;

    if (!to)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    for (size_t i = 0; i < o->count && st == TIER_OK; i++) {
        FILE *from = fopen(o->csv[i], "r");
        char *line = NULL;
        size_t room = 0;
        ssize_t n;
        if (!from) {
            st = tier_fail_errno(err, TIER_ENOTFOUND, "cannot read %s", o->csv[i]);
            break;
        }
        for (size_t row = 0; (n = getline(&line, &room, from)) > 0; row++)
            if (row > 0 || i == 0)
                fprintf(to, "%s%s", line, line[n - 1] == '\n' ? "" : "\n");
        free(line);
        fclose(from);
    }
    if (fclose(to) != 0 && st == TIER_OK)
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    return st;
}

static json_t *figures_json(const char *name, const struct tier_task_figures *f) {
    return json_pack("{s:s,s:f,s:f,s:f}", "name", name, "accuracy", f->accuracy, "auc", f->auc,
                     "loss", f->loss);
}

static enum tier_status compare(const struct options *o, const struct bench *b, json_t *rows,
                                struct tier_err *err) {
    struct tier_task_figures f;
    char pooled[] = "/tmp/consilium-baseline-XXXXXX";

    for (size_t i = 0; i < o->count && !o->model; i++) {
        const char *name = strrchr(o->csv[i], '/') ? strrchr(o->csv[i], '/') + 1 : o->csv[i];
        TIER_TRY(train_and_test(o, b, o->csv[i], name, &f, err));
        json_array_append_new(rows, figures_json(name, &f));
    }
    enum tier_status st = pool_tables(o, pooled, err);
    if (st == TIER_OK)
        st = o->model ? test_model(o, b, pooled, &f, err)
                      : train_and_test(o, b, pooled, "pooled", &f, err);
    unlink(pooled);
    if (st == TIER_OK)
        json_array_append_new(rows, figures_json(o->model ? "model" : "pooled", &f));
    return st;
}

static void print_rows(const json_t *rows) {
    size_t i;
    json_t *row;
    printf("%-24s %8s %8s %8s\n", "", "accuracy", "auc", "loss");
    json_array_foreach((json_t *)rows, i, row) {
        printf("%-24s %8.4f %8.4f %8.4f\n", json_string_value(json_object_get(row, "name")),
               json_real_value(json_object_get(row, "accuracy")),
               json_real_value(json_object_get(row, "auc")),
               json_real_value(json_object_get(row, "loss")));
    }
}

static int parse(int argc, char **argv, struct options *o) {
    static const struct option longs[] = {
        {"model", required_argument, NULL, 'm'},  {"plan", required_argument, NULL, 'p'},
        {"schema", required_argument, NULL, 's'}, {"csv", required_argument, NULL, 'c'},
        {"fold", required_argument, NULL, 'f'},   {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int c;

    o->fold = -1;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        char *end = NULL;
        switch (c) {
        case 'p':
            o->plan = optarg;
            break;
        case 's':
            o->schema = optarg;
            break;
        case 'c':
            if (o->count == TABLES_MAX)
                return 2;
            o->csv[o->count++] = optarg;
            break;
        case 'f':
            o->fold = (int)strtol(optarg, &end, 10);
            if (*end || o->fold < 0 || o->fold > 999)
                return 2;
            break;
        case 'm':
            o->model = optarg;
            break;
        case 'j':
            o->json = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default:
            return 2;
        }
    }
    return o->plan && o->schema && o->count ? -1 : 2;
}

static enum tier_status run(const struct options *o, json_t *rows, struct tier_err *err) {
    static struct bench b;
    static struct tier_problems problems;
    char model_path[TIER_PLAN_PATH_BYTES];
    enum tier_status st;

    TIER_TRY(tier_plan_load(o->plan, &b.plan, model_path, &problems, err));
    if (o->fold >= 0)
        b.plan.fold = (uint64_t)o->fold;
    TIER_TRY(tier_graph_open(model_path, &b.graph, err));
    kern_init(NULL);
    if (kern_device_open("cpu", 0, &b.device) != KERN_OK) {
        tier_graph_free(b.graph);
        return tier_fail(err, TIER_EDEVICE, "the CPU backend does not open");
    }
    spoke_round_recipe(&b.plan, &b.recipe);
    b.recipe.steps *= b.plan.rounds;
    b.recipe.epochs *= b.plan.rounds;
    st = compare(o, &b, rows, err);
    kern_device_close(b.device);
    tier_graph_free(b.graph);
    return st;
}

int main(int argc, char **argv) {
    static struct options o;
    struct tier_err err = {0};
    json_t *rows = json_array();
    int code = parse(argc, argv, &o);

    if (code >= 0) {
        if (code == 2)
            fputs(usage, stderr);
        json_decref(rows);
        return code;
    }
    if (run(&o, rows, &err) != TIER_OK) {
        fprintf(stderr, "consilium-baseline: %s\n", err.text);
        json_decref(rows);
        return 1;
    }
    if (o.json) {
        json_dumpf(rows, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
        putchar('\n');
    } else {
        print_rows(rows);
    }
    json_decref(rows);
    return 0;
}
