/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-baseline: what a federation is compared with. Trains a plan's recipe, with the budget
 * of all its rounds together, at each hospital alone and on everybody's rows pooled, and evaluates
 * every model on the test rows of all hospitals. It needs all tables on one machine, which is what
 * a federation is there to avoid: for examples and studies only.
 */
#include "spoke/csv.h"
#include "spoke/eval.h"
#include "spoke/patch.h"
#include "spoke/spoke.h"
#include "tier/metric.h"
#include "tier/model.h"
#include "tier/share.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TABLES_MAX 256

struct options {
    const char *plan, *schema, *model, *kept;
    const char *csv[TABLES_MAX];
    size_t count;
    bool json, pooled_only;
    int fold; /* -1: the plan's */
    int threads;
};

struct bench {
    struct tier_plan plan;
    struct spoke_schema *schema;
    struct tier_graph *graph;
    struct kern_device *device;
    struct spoke_recipe recipe;
};

static const char usage[] =
    "Usage: consilium-baseline --plan FILE --schema FILE --csv FILE [--csv FILE ...]\n"
    "                          [--model FILE [--kept FILE]] [--fold N] [--threads N]\n"
    "                          [--pooled-only] [--json]\n\n"
    "Trains the plan's recipe at each table alone and on all of them pooled, and prints how each\n"
    "model does on the test rows of all tables; with --pooled-only that of all alone. With --model "
    "nothing is trained: a published\n"
    "model is evaluated on the pooled test rows, standardised like the pooled training rows. Where "
    "the plan\n"
    "keeps tensors at the hospitals, --kept FILE is one hospital's, as its data folder's private/\n"
    "has them, and the tables would be that hospital's. It trains on one thread, as the examples'\n"
    "spokes do, or on --threads N: figures may then differ by rounding.\n";

/* Opens a set of data, or without a path all of them as one; with `like` its rows are standardised
 * with that table's statistics. */
static enum tier_status open_table(const struct options *o, const struct bench *b, const char *csv,
                                   const struct spoke_data *like, struct spoke_data **out,
                                   struct tier_err *err) {
    struct spoke_data_options options = {0};
    options.fold_set = b->plan.fold != 0;
    options.fold = (uint32_t)b->plan.fold;
    options.patch = spoke_patch_of(&b->plan);
    if (like) {
        options.stats_count = spoke_data_stats_count(like);
        options.mean = spoke_data_mean(like);
        options.std = spoke_data_std(like);
    }
    if (!csv) {
        csv = o->csv[0];
        options.more = o->csv + 1;
        options.more_count = o->count - 1;
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
    const struct spoke_objective objective = spoke_objective_for(&b->plan, data);
    TIER_TRY_OUT(spoke_net_new_for(b->device, b->graph, &objective, b->plan.batch, &net, err));
    TIER_TRY_OUT(spoke_round_freeze(&b->plan, b->graph, &net, 1, err));
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

/* A file's tensors, as the manifest has them; the caller frees *out. */
static enum tier_status read_model(const char *path, const struct tier_manifest *manifest,
                                   float **out, struct tier_err *err) {
    struct tier_model *model = NULL;
    float *values = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_model_open(path, &model, err));
    TIER_TRY_OUT(tier_model_matches(model, manifest, err));
    values = malloc(manifest->elements * sizeof *values);
    if (!values) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model");
        goto out;
    }
    TIER_TRY_OUT(tier_model_read(model, 0, manifest->elements, values, err));
    *out = values;
    values = NULL;
out:
    free(values);
    tier_model_close(model);
    return st;
}

/* A published model's parameters into the net, and a hospital's own where the plan keeps some. */
static enum tier_status load_model(const struct bench *b, const struct options *o,
                                   struct spoke_net *net, struct tier_err *err) {
    struct tier_manifest *manifest = NULL, *kept = NULL;
    float *shared = NULL, *own = NULL, *all = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_task_manifest(&b->plan, b->graph, &manifest, err));
    TIER_TRY_OUT(tier_share_kept(&b->plan, b->graph, &kept, err));
    if (!kept != !o->kept) {
        st = tier_fail(err, TIER_EARG,
                       kept ? "the plan keeps %zu tensors at each hospital: --kept FILE would name "
                              "the file of one, in its data folder's private/"
                            : "--kept is for a plan that keeps tensors at the hospitals; this one "
                              "keeps %zu",
                       kept ? kept->count : 0);
        goto out;
    }
    TIER_TRY_OUT(read_model(o->model, manifest, &shared, err));
    if (kept)
        TIER_TRY_OUT(read_model(o->kept, kept, &own, err));
    all = malloc(tier_graph_elements(b->graph) * sizeof *all);
    if (!all) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model");
        goto out;
    }
    tier_share_put(&b->plan, b->graph, false, shared, all);
    if (kept)
        tier_share_put(&b->plan, b->graph, true, own, all);
    TIER_TRY_OUT(spoke_net_set(net, all, err));
out:
    free(all);
    free(own);
    free(shared);
    tier_manifest_free(kept);
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
    const struct spoke_objective objective = spoke_objective_for(&b->plan, data);
    TIER_TRY_OUT(spoke_net_new_for(b->device, b->graph, &objective, b->plan.batch, &net, err));
    TIER_TRY_OUT(load_model(b, o, net, err));
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

/* ---- all tables as one ---- */

struct pool {
    FILE *to;
    char delimiter;
    char **header; /* the first table's, or NULL before it */
    size_t header_count;
};

static void pool_release(struct pool *p) {
    for (size_t i = 0; i < p->header_count; i++)
        free(p->header[i]);
    free(p->header);
    if (p->to)
        fclose(p->to);
}

static void put_quoted(FILE *to, const char *text) {
    for (const char *c = text; *c; c++) {
        if (*c == '"')
            putc('"', to);
        putc(*c, to);
    }
}

/* Every cell quoted, so that whatever a cell holds is read back as it was. */
static void pool_write(const struct pool *p, char *const *cells, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            putc(p->delimiter, p->to);
        putc('"', p->to);
        put_quoted(p->to, cells[i]);
        putc('"', p->to);
    }
    putc('\n', p->to);
}

/* The first table's header is written, the others' must equal it. */
static enum tier_status pool_header(struct pool *p, const struct options *o, size_t table,
                                    char *const *cells, size_t count, struct tier_err *err) {
    bool same = table == 0 || count == p->header_count;

    for (size_t i = 0; table > 0 && same && i < count; i++)
        same = strcmp(cells[i], p->header[i]) == 0;
    if (!same)
        return tier_fail(err, TIER_EDATA,
                         "%s: its header is not that of %s: pooled tables have the same columns in "
                         "the same order",
                         o->csv[table], o->csv[0]);
    if (table > 0)
        return TIER_OK;
    p->header = calloc(count, sizeof *p->header);
    if (!p->header)
        return tier_fail(err, TIER_ENOMEM, "no memory for a header");
    for (; p->header_count < count; p->header_count++) {
        p->header[p->header_count] = strdup(cells[p->header_count]);
        if (!p->header[p->header_count])
            return tier_fail(err, TIER_ENOMEM, "no memory for a header");
    }
    pool_write(p, cells, count);
    return TIER_OK;
}

static enum tier_status pool_table(struct pool *p, const struct options *o, size_t table,
                                   bool header, struct tier_err *err) {
    struct spoke_csv *csv = NULL;
    char *const *cells = NULL;
    size_t count = 0;
    enum tier_status st;

    TIER_TRY_OUT(spoke_csv_open(o->csv[table], p->delimiter, SPOKE_COLUMNS_MAX, &csv, err));
    for (;;) {
        TIER_TRY_OUT(spoke_csv_next(csv, &cells, &count, err));
        if (count == 0)
            break;
        if (header)
            TIER_TRY_OUT(pool_header(p, o, table, cells, count, err));
        else
            pool_write(p, cells, count);
        header = false;
    }
out:
    spoke_csv_close(csv);
    return st;
}

/*
 * All tables one after another, in memory: patients' rows are not left on a disk, whatever becomes
 * of this process. The table is the file /proc/self/fd/N while *fd_out is open.
 */
static enum tier_status pool_tables(const struct options *o, const struct bench *b, int *fd_out,
                                    struct tier_err *err) {
    const struct spoke_file_format *format = b->schema->file;
    bool header = !format || !format->header || *format->header;
    struct pool p = {.delimiter = spoke_schema_delimiter(b->schema)};
    int fd = memfd_create("pooled", MFD_CLOEXEC);
    int write_fd = fd < 0 ? -1 : dup(fd);
    enum tier_status st = TIER_OK;

    p.to = write_fd < 0 ? NULL : fdopen(write_fd, "w");
    if (!p.to) {
        st = tier_fail_errno(err, TIER_EIO, "cannot hold the pooled table in memory");
        if (write_fd >= 0)
            close(write_fd);
        goto out;
    }
    for (size_t i = 0; i < o->count; i++)
        TIER_TRY_OUT(pool_table(&p, o, i, header, err));
    if (fflush(p.to) != 0 || ferror(p.to)) {
        st = tier_fail_errno(err, TIER_EIO, "cannot hold the pooled table in memory");
        goto out;
    }
    *fd_out = fd;
    fd = -1;
out:
    pool_release(&p);
    if (fd >= 0)
        close(fd);
    return st;
}

/* ---- what is printed ---- */

/* Accuracy, AUC and loss always, null where they are not defined (the AUC of more than two
 * classes); the figures of masks, values and survival where there are any. */
static void add_row(json_t *rows, const char *name, const struct tier_task_figures *f) {
    json_t *row = json_pack("{s:s}", "name", name);
    const char *figure;
    double value;

    for (size_t i = 0; tier_task_figure(f, i, &figure, &value); i++) {
        bool always = strcmp(figure, "accuracy") == 0 || strcmp(figure, "auc") == 0 ||
                      strcmp(figure, "loss") == 0;
        if (isfinite(value) && strcmp(figure, "count") != 0)
            json_object_set_new(row, figure, json_real(value));
        else if (always)
            json_object_set_new(row, figure, json_null());
    }
    json_array_append_new(rows, row);
}

static enum tier_status compare(const struct options *o, const struct bench *b, json_t *rows,
                                struct tier_err *err) {
    struct tier_task_figures f;
    char path[64];
    int fd = -1;

    for (size_t i = 0; i < o->count && !o->model && !o->pooled_only; i++) {
        const char *name = strrchr(o->csv[i], '/') ? strrchr(o->csv[i], '/') + 1 : o->csv[i];
        TIER_TRY(train_and_test(o, b, o->csv[i], name, &f, err));
        add_row(rows, name, &f);
    }
    bool table = b->schema->kind == SPOKE_KIND_TABLE;
    if (table) {
        TIER_TRY(pool_tables(o, b, &fd, err));
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    const char *pooled = table ? path : NULL;
    enum tier_status st = o->model ? test_model(o, b, pooled, &f, err)
                                   : train_and_test(o, b, pooled, "pooled", &f, err);
    if (fd >= 0)
        close(fd);
    if (st == TIER_OK)
        add_row(rows, o->model ? "model" : "pooled", &f);
    return st;
}

/* One line, of those figures that the last row has. */
static void print_figures(const char *name, const json_t *row, const json_t *like, double divisor) {
    const char *key;
    json_t *value;

    printf("%-24s", name);
    json_object_foreach((json_t *)like, key, value) {
        const json_t *here = json_object_get(row, key);
        if (!json_is_real(value))
            continue;
        if (json_is_real(here))
            printf(" %11.4f", json_real_value(here) / divisor);
        else
            printf(" %11s", "-");
    }
    putchar('\n');
}

/* Adds a row's figures to the sums of those before it. */
static void add_figures(json_t *sums, const json_t *row) {
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)row, key, value) {
        double before = json_real_value(json_object_get(sums, key));
        if (json_is_real(value))
            json_object_set_new(sums, key, json_real(before + json_real_value(value)));
    }
}

/* With more than one table, the mean of those alone stands before the pooled row. */
static void print_rows(json_t *rows) {
    size_t n = json_array_size(rows);
    const json_t *last = json_array_get(rows, n - 1);
    json_t *sums = json_object();
    const char *key;
    json_t *value;

    printf("%-24s", "");
    json_object_foreach((json_t *)last, key, value) {
        if (json_is_real(value))
            printf(" %11s", key);
    }
    putchar('\n');
    for (size_t row = 0; row < n; row++) {
        const json_t *item = json_array_get(rows, row);
        if (row == n - 1 && n > 2)
            print_figures("alone, mean", sums, last, (double)(n - 1));
        print_figures(json_string_value(json_object_get(item, "name")), item, last, 1);
        add_figures(sums, item);
    }
    json_decref(sums);
}

static int parse(int argc, char **argv, struct options *o) {
    static const struct option longs[] = {{"model", required_argument, NULL, 'm'},
                                          {"plan", required_argument, NULL, 'p'},
                                          {"schema", required_argument, NULL, 's'},
                                          {"csv", required_argument, NULL, 'c'},
                                          {"fold", required_argument, NULL, 'f'},
                                          {"kept", required_argument, NULL, 'k'},
                                          {"pooled-only", no_argument, NULL, 'o'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;

    o->fold = -1;
    o->threads = 1;
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
            if (end == optarg || *end || o->fold < 0 || o->fold > 999)
                return 2;
            break;
        case 't':
            o->threads = (int)strtol(optarg, &end, 10);
            if (end == optarg || *end || o->threads < 1 || o->threads > 256)
                return 2;
            break;
        case 'm':
            o->model = optarg;
            break;
        case 'k':
            o->kept = optarg;
            break;
        case 'o':
            o->pooled_only = true;
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
    return o->plan && o->schema && o->count && optind == argc && (o->model || !o->kept) ? -1 : 2;
}

static enum tier_status run(const struct options *o, json_t *rows, struct tier_err *err) {
    static struct bench b; /* a plan is large */
    char model_path[TIER_PLAN_PATH_BYTES];
    enum tier_status st;

    TIER_TRY_OUT(tier_plan_load(o->plan, &b.plan, model_path, NULL, err));
    if (o->fold >= 0)
        b.plan.fold = (uint64_t)o->fold;
    TIER_TRY_OUT(spoke_schema_open(o->schema, &b.schema, err));
    TIER_TRY_OUT(tier_graph_open(model_path, &b.graph, err));
    TIER_TRY_OUT(tier_plan_patch_fits(&b.plan, b.graph, err));
    kern_init(NULL);
    if (kern_device_open("cpu", o->threads, &b.device) != KERN_OK) {
        st = tier_fail(err, TIER_EDEVICE, "the CPU backend does not open: %s",
                       kern_device_error(NULL));
        goto out;
    }
    spoke_round_recipe(&b.plan, 1, &b.recipe); /* and all that follow */
    b.recipe.schedule.span = b.plan.rounds;
    b.recipe.sample_clip = b.recipe.sample_noise =
        0; /* nothing of it leaves: no privacy is spent */
    b.recipe.steps *= b.plan.rounds;
    b.recipe.epochs *= b.plan.rounds;
    st = compare(o, &b, rows, err);
out:
    kern_device_close(b.device);
    tier_graph_free(b.graph);
    spoke_schema_free(b.schema);
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
