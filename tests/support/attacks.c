/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/support/attacks.h"

#include "spoke/eval.h"
#include "spoke/train.h"
#include "tier/content.h"
#include "tier/graph.h"
#include "tier/task.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXAMPLE "deploy/examples/breast-cancer"
#define BATCH 8
#define EPOCHS 2
#define RATE 0.05f
#define CLIP 1.0
#define SCALE 10.0
#define INNER_PRODUCT 2.0
#define THREADS 1

struct attack_world {
    char dir[512];
    size_t hospitals;
    struct tier_graph *graph;
    struct tier_manifest *manifest;
    struct kern_device *device;
    struct spoke_net *net;
    struct spoke_data **data, **flipped; /* the same patients, ill and healthy exchanged */
    struct tier_spool *spool;
    struct tier_hash first;
    float **delta; /* one a hospital */
    double *mean, *deviation;
};

/* One case as it goes on. */
struct federation {
    struct attack_world *world;
    const struct attack_case *attack;
    struct tier_hash run, model, previous;
    uint64_t round;
    uint64_t random;
    struct attack_accuracy seen;
};

const char *attack_text(enum attack attack) {
    static const char *const text[] = {"none",       "sign flip", "scaled",       "random",
                                       "label flip", "ALIE",      "inner product"};
    return (unsigned)attack < ATTACK_COUNT ? text[attack] : "unknown";
}

/* ---- the hospitals ---- */

static bool copy_row(FILE *out, size_t row, char *line, bool flip) {
    char *class = strrchr(line, ',');

    if (!class)
        return false;
    bool malignant = (class[1] == '0') != flip;
    *class = '\0';
    return fprintf(out, "wdbc-%zu,%s,%s\n", row, line, malignant ? "malignant" : "benign") > 0;
}

/* Patients are dealt in turn, so that hospitals are alike but small. */
static enum tier_status deal(const struct attack_world *w, const char *source, size_t hospital,
                             bool flip, const char *path, struct tier_err *err) {
    static const char *const measures[] = {
        "radius",      "texture",   "perimeter",      "area",     "smoothness",
        "compactness", "concavity", "concave_points", "symmetry", "fractal_dimension"};
    static const char *const kinds[] = {"mean", "error", "worst"};
    char line[1024], table[600];

    snprintf(table, sizeof table, "%s/" EXAMPLE "/breast_cancer.csv", source);
    FILE *in = fopen(table, "r"), *out = fopen(path, "w");
    bool ok = in && out && fgets(line, sizeof line, in) && fputs("patient", out) >= 0;
    for (size_t k = 0; ok && k < 30; k++)
        ok = fprintf(out, ",%s_%s", measures[k % 10], kinds[k / 10]) > 0;
    ok = ok && fputs(",diagnosis\n", out) >= 0;
    for (size_t row = 0; ok && fgets(line, sizeof line, in); row++)
        if (row % w->hospitals == hospital)
            ok = copy_row(out, row + 1, line, flip);
    if (in)
        fclose(in);
    if (out && fclose(out) != 0)
        ok = false;
    return ok ? TIER_OK : tier_fail_errno(err, TIER_EIO, "cannot deal %s to %s", table, path);
}

static enum tier_status open_hospital(struct attack_world *w, const char *source, size_t i,
                                      struct tier_err *err) {
    char path[600], schema[600];

    snprintf(schema, sizeof schema, "%s/" EXAMPLE "/schema.yaml", source);
    for (int flip = 0; flip < 2; flip++) {
        snprintf(path, sizeof path, "%s/table-%zu-%d.csv", w->dir, i, flip);
        TIER_TRY(deal(w, source, i, flip, path, err));
        TIER_TRY(spoke_data_open(schema, path, NULL, flip ? &w->flipped[i] : &w->data[i], err));
        unlink(path);
    }
    return TIER_OK;
}

static enum tier_status open_task(struct attack_world *w, const char *source,
                                  struct tier_err *err) {
    struct tier_plan plan = {.clip = CLIP, .frac_bits = tier_plan_frac_bits(CLIP)};
    char path[600];

    snprintf(path, sizeof path, "%s/" EXAMPLE "/model.onnx", source);
    TIER_TRY(tier_graph_open(path, &w->graph, err));
    TIER_TRY(tier_task_manifest(&plan, w->graph, &w->manifest, err));
    TIER_TRY(tier_task_first_model(w->graph, w->manifest, w->dir, &w->first, err));
    kern_init(NULL);
    if (kern_device_open("cpu", THREADS, &w->device) != KERN_OK)
        return tier_fail(err, TIER_EDEVICE, "the CPU device does not open");
    TIER_TRY(spoke_net_new(w->device, w->graph, SPOKE_LOSS_BCE, 64, &w->net, err));
    snprintf(path, sizeof path, "%s/spool", w->dir);
    return tier_spool_open(path, false, &w->spool, err);
}

enum tier_status attack_world_new(const char *dir, const char *source, size_t hospitals,
                                  struct attack_world **out, struct tier_err *err) {
    struct attack_world *w = calloc(1, sizeof *w);
    enum tier_status st;

    if (!w)
        abort();
    snprintf(w->dir, sizeof w->dir, "%s", dir);
    w->hospitals = hospitals;
    w->data = calloc(hospitals, sizeof *w->data);
    w->flipped = calloc(hospitals, sizeof *w->flipped);
    w->delta = calloc(hospitals, sizeof *w->delta);
    if (!w->data || !w->flipped || !w->delta)
        abort();
    TIER_TRY_OUT(open_task(w, source, err));
    w->mean = calloc(w->manifest->elements, sizeof *w->mean);
    w->deviation = calloc(w->manifest->elements, sizeof *w->deviation);
    for (size_t i = 0; i < hospitals; i++) {
        w->delta[i] = calloc(w->manifest->elements, sizeof *w->delta[i]);
        if (!w->delta[i] || !w->mean || !w->deviation)
            abort();
        TIER_TRY_OUT(open_hospital(w, source, i, err));
    }
    *out = w;
out:
    if (st != TIER_OK)
        attack_world_free(w);
    return st;
}

void attack_world_free(struct attack_world *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->hospitals; i++) {
        spoke_data_free(w->data[i]);
        spoke_data_free(w->flipped[i]);
        free(w->delta[i]);
    }
    spoke_net_free(w->net);
    kern_device_close(w->device);
    tier_graph_free(w->graph);
    tier_manifest_free(w->manifest);
    tier_spool_close(w->spool);
    free(w->data);
    free(w->flipped);
    free(w->delta);
    free(w->mean);
    free(w->deviation);
    free(w);
}

/* ---- one round ---- */

static enum tier_status read_model(struct attack_world *w, const struct tier_hash *id, float *out,
                                   struct tier_err *err) {
    struct tier_model *model = NULL;
    char *path = tier_content_path(w->dir, id, TIER_CONTENT_MODEL);
    enum tier_status st = tier_model_open(path, &model, err);

    if (st == TIER_OK)
        st = tier_model_read(model, 0, w->manifest->elements, out, err);
    tier_model_close(model);
    free(path);
    return st;
}

/* The last hospitals are the attackers'. */
static bool attacks(const struct federation *f, size_t hospital) {
    return hospital + f->attack->attackers >= f->world->hospitals;
}

static enum tier_status train_all(struct federation *f, const float *base, struct tier_err *err) {
    struct attack_world *w = f->world;
    const struct spoke_recipe recipe = {
        .optimiser = SPOKE_OPT_SGD, .lr = RATE, .batch = BATCH, .epochs = EPOCHS};
    char stream[32];

    snprintf(stream, sizeof stream, "%" PRIu64, f->attack->seed);
    for (size_t i = 0; i < w->hospitals; i++) {
        bool flips = attacks(f, i) && f->attack->attack == ATTACK_LABEL_FLIP;
        char name[32];
        snprintf(name, sizeof name, "hospital-%zu", i);
        TIER_TRY(spoke_net_set(w->net, base, err));
        TIER_TRY(spoke_train(w->net, flips ? w->flipped[i] : w->data[i], &recipe,
                             spoke_train_seed(stream, f->round, name), NULL, err));
        TIER_TRY(spoke_net_get(w->net, w->delta[i], err));
        for (size_t e = 0; e < w->manifest->elements; e++)
            w->delta[i][e] -= base[e];
    }
    return TIER_OK;
}

/* splitmix64 (Steele, Lea, Flood 2014); the sum of twelve uniforms is near enough to a Gaussian. */
static double gaussian(uint64_t *state) {
    double sum = -6;

    for (int i = 0; i < 12; i++) {
        uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        sum += (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
    }
    return sum;
}

/* The value below which a share p of a Gaussian lies, by bisection. */
static double quantile(double p) {
    double low = -8, high = 8;

    while (high - low > 1e-9) {
        double middle = (low + high) / 2;
        if (erfc(-middle / sqrt(2)) / 2 < p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* How many deviations an attacker of "a little is enough" can hide behind. */
static double alie_z(size_t hospitals, size_t attackers) {
    size_t honest = hospitals - attackers, supporters = hospitals / 2 + 1 - attackers;
    double p = (double)(honest - supporters) / (double)honest;

    return p > 0 ? quantile(p) : 0;
}

/* Mean and deviation of the honest updates; returns the mean's length. */
static double honest_moments(const struct federation *f) {
    const struct attack_world *w = f->world;
    double n = (double)(w->hospitals - f->attack->attackers), square = 0;

    for (size_t e = 0; e < w->manifest->elements; e++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < w->hospitals - f->attack->attackers; i++) {
            double x = (double)w->delta[i][e];
            sum += x;
            squares += x * x;
        }
        w->mean[e] = sum / n;
        w->deviation[e] = sqrt(fmax(0, squares / n - w->mean[e] * w->mean[e]));
        square += w->mean[e] * w->mean[e];
    }
    return sqrt(square);
}

static double attacked(struct federation *f, double own, size_t e, double length) {
    const struct attack_world *w = f->world;

    switch (f->attack->attack) {
    case ATTACK_SIGN_FLIP:
        return -own;
    case ATTACK_SCALED:
        return -SCALE * own;
    case ATTACK_RANDOM:
        return gaussian(&f->random) * SCALE * length / sqrt((double)w->manifest->elements);
    case ATTACK_ALIE:
        return w->mean[e] - alie_z(w->hospitals, f->attack->attackers) * w->deviation[e];
    case ATTACK_INNER_PRODUCT:
        return -INNER_PRODUCT * w->mean[e];
    default:
        return own;
    }
}

static void attack_all(struct federation *f) {
    struct attack_world *w = f->world;
    double length = honest_moments(f);

    for (size_t i = 0; i < w->hospitals; i++)
        for (size_t e = 0; attacks(f, i) && e < w->manifest->elements; e++) {
            double x = attacked(f, (double)w->delta[i][e], e, length);
            w->delta[i][e] = (float)fmax(-CLIP, fmin(CLIP, x)); /* what a hub would refuse */
        }
}

/* Leaves those that pass, in their order; ids holds all of them afterwards too. */
static enum tier_status screen_all(struct federation *f, const struct tier_hash *ids,
                                   struct tier_hash *passed, size_t *count_out,
                                   struct tier_err *err) {
    struct attack_world *w = f->world;
    struct tier_screened *screened = calloc(w->hospitals, sizeof *screened);
    struct tier_screen_figures all;
    const struct tier_screen screen = {.spool = w->spool,
                                       .manifest = w->manifest,
                                       .limits = &f->attack->screen,
                                       .inputs = ids,
                                       .count = w->hospitals,
                                       .threads = THREADS,
                                       .memory_bytes =
                                           tier_screen_memory_min(w->manifest, w->hospitals)};

    if (!screened)
        abort();
    enum tier_status st = tier_screen_run(&screen, screened, &all, err);
    *count_out = 0;
    for (size_t i = 0; st == TIER_OK && i < w->hospitals; i++) {
        if (!screened[i].fails)
            passed[(*count_out)++] = ids[i];
        f->seen.caught += attacks(f, i) && screened[i].fails;
        f->seen.missed += attacks(f, i) && !screened[i].fails;
        f->seen.wronged += !attacks(f, i) && screened[i].fails;
    }
    free(screened);
    return st;
}

static enum tier_status merge_all(struct federation *f, struct tier_hash *ids,
                                  struct tier_hash *id_out, struct tier_err *err) {
    struct attack_world *w = f->world;
    const struct tier_plan_merge *settings = &f->attack->merge;
    struct tier_hash *passed = calloc(w->hospitals, sizeof *passed);
    struct tier_merge merge = {
        .rule = tier_merge_rule_of(settings), .settings = settings, .previous = f->previous};
    size_t count = w->hospitals;
    enum tier_status st = TIER_OK;

    if (!passed)
        abort();
    for (size_t i = 0; i < w->hospitals; i++) {
        struct tier_update_header h = {.run = f->run,
                                       .round = f->round,
                                       .base_model = f->model,
                                       .weight = spoke_data_rows(w->data[i], SPOKE_TRAIN)};
        struct tier_metrics *name = tier_metrics_new(); /* tells equal updates of attackers apart */
        int64_t number = (int64_t)i;
        h.metrics = name;
        st = tier_metrics_add(name, "hospital", 1, &number, err);
        if (st == TIER_OK)
            st = tier_update_seal_f32(w->spool, &h, w->manifest, w->delta[i], true, &ids[i], err);
        tier_metrics_free(name);
        if (st != TIER_OK)
            goto out;
    }
    memcpy(passed, ids, count * sizeof *passed);
    if (tier_screen_on(&f->attack->screen))
        TIER_TRY_OUT(screen_all(f, ids, passed, &count, err));
    merge.fold = (struct tier_fold){.spool = w->spool,
                                    .manifest = w->manifest,
                                    .run = f->run,
                                    .round = f->round,
                                    .base_model = f->model,
                                    .inputs = passed,
                                    .count = count,
                                    .threads = THREADS};
    if (!merge.rule) {
        merge.fold.memory_bytes = tier_fold_memory_min(w->manifest, count);
        st = tier_fold_run(&merge.fold, id_out, err);
        goto out;
    }
    merge.fold.memory_bytes = tier_merge_memory_min(w->manifest, merge.rule, settings, count);
    st = tier_merge_run(&merge, id_out, err);
out:
    free(passed);
    return st;
}

static enum tier_status publish(struct federation *f, const struct tier_hash *merged,
                                struct tier_err *err) {
    struct attack_world *w = f->world;
    struct tier_update *u = NULL;
    struct tier_model *base = NULL;
    struct tier_hash next;
    char *path = tier_content_path(w->dir, &f->model, TIER_CONTENT_MODEL);
    enum tier_status st;

    TIER_TRY_OUT(tier_spool_update_open(w->spool, merged, &u, err));
    TIER_TRY_OUT(tier_model_open(path, &base, err));
    TIER_TRY_OUT(tier_fold_publish(u, w->manifest, base, w->dir, NULL, 0, &next, err));
    if (!tier_hash_equal(&f->model, &w->first) && !tier_hash_equal(&f->model, &next))
        unlink(path);
    f->model = next;
out:
    tier_model_close(base);
    tier_spool_update_close(u);
    free(path);
    return st;
}

static enum tier_status play_round(struct federation *f, float *base, struct tier_hash *ids,
                                   struct tier_err *err) {
    struct attack_world *w = f->world;
    struct tier_hash merged;

    TIER_TRY(read_model(w, &f->model, base, err));
    TIER_TRY(train_all(f, base, err));
    if (f->attack->attackers > 0)
        attack_all(f);
    TIER_TRY(merge_all(f, ids, &merged, err));
    TIER_TRY(publish(f, &merged, err));
    for (size_t i = 0; i < w->hospitals; i++)
        TIER_TRY(tier_spool_delete(w->spool, &ids[i], err));
    TIER_TRY(tier_spool_delete(w->spool, &f->previous, err));
    f->previous = merged;
    return TIER_OK;
}

static enum tier_status evaluate(struct federation *f, float *model, double *accuracy_out,
                                 struct tier_err *err) {
    struct attack_world *w = f->world;
    struct spoke_sums *sums = calloc(1, sizeof *sums);
    int64_t count = 0, correct = 0;
    enum tier_status st;

    TIER_TRY_OUT(read_model(w, &f->model, model, err));
    TIER_TRY_OUT(spoke_net_set(w->net, model, err));
    for (size_t i = 0; i < w->hospitals; i++) {
        TIER_TRY_OUT(spoke_evaluate(w->net, w->data[i], SPOKE_TEST, sums, err));
        count += sums->count;
        correct += sums->correct;
    }
    *accuracy_out = tier_score_accuracy(correct, count);
out:
    free(sums);
    return st;
}

enum tier_status attack_run(struct attack_world *w, const struct attack_case *attack,
                            struct attack_accuracy *out, struct tier_err *err) {
    struct federation f = {.world = w, .attack = attack, .model = w->first, .random = attack->seed};
    float *values = calloc(w->manifest->elements, sizeof *values);
    struct tier_hash *ids = calloc(w->hospitals, sizeof *ids);
    enum tier_status st = TIER_OK;

    if (!values || !ids)
        abort();
    tier_hash_data("attacked", 8, &f.run);
    f.seen.low = 1;
    for (f.round = 1; f.round <= attack->rounds; f.round++) {
        TIER_TRY_OUT(play_round(&f, values, ids, err));
        if (2 * f.round <= attack->rounds)
            continue;
        TIER_TRY_OUT(evaluate(&f, values, &f.seen.final, err));
        f.seen.low = fmin(f.seen.low, f.seen.final);
    }
    *out = f.seen;
out:
    tier_spool_delete(w->spool, &f.previous, NULL);
    free(values);
    free(ids);
    return st;
}
