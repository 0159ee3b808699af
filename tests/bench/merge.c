/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every merge rule over sealed files, as a hub merges them: 8 updates, then --children (64) of
 * --bytes (100 MB), against the exact fold of the same files, and the peak of anonymous memory
 * while the larger set is merged. The files are cached by the kernel where memory allows; the first
 * fold warms it.
 */
#include "tests/bench/bench.h"
#include "tests/bench/resident.h"
#include "tier/contribution.h"
#include "tier/merge.h"
#include "tier/plan.h"
#include "tier/screen.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FEW 8
#define MANY 64
#define THREADS 2
#define BUDGET (64u << 20) /* what a hub of default settings may take for both halves */

static const struct contender {
    const char *name;
    struct tier_plan_merge merge;
} contenders[] = {
    {"median", {.rule.choice = TIER_PLAN_MEDIAN}},
    {"trimmed_mean", {.rule.choice = TIER_PLAN_TRIMMED_MEAN, .byzantine = 0.2}},
    {"krum", {.rule.choice = TIER_PLAN_KRUM, .byzantine = 0.2}},
    {"multi_krum", {.rule.choice = TIER_PLAN_MULTI_KRUM, .byzantine = 0.2}},
    {"geometric_median",
     {.rule.choice = TIER_PLAN_GEOMETRIC_MEDIAN, .iterations = 64, .smoothing = 1e-6}},
    {"centred_clipping", {.rule.choice = TIER_PLAN_CENTRED_CLIPPING, .iterations = 3}},
    {"norm_bound", {.rule.choice = TIER_PLAN_NORM_BOUND}},
    {"nearest+trimmed_mean",
     {.rule.choice = TIER_PLAN_TRIMMED_MEAN, .byzantine = 0.2, .mix = TIER_PLAN_MIX_NEAREST}},
};
#define CONTENDERS (sizeof contenders / sizeof contenders[0])

struct merge_bench {
    struct tier_spool *spool;
    struct tier_manifest *manifest;
    struct tier_hash *ids;
    uint64_t bytes;
};

static struct tier_fold fold_of(const struct merge_bench *b, size_t count, size_t least) {
    return (struct tier_fold){.spool = b->spool,
                              .manifest = b->manifest,
                              .inputs = b->ids,
                              .count = count,
                              .threads = THREADS,
                              .memory_bytes = least < BUDGET / 2 ? BUDGET / 2 : least};
}

/* GB of updates for each second of the clock, and for each second of processor time, kernel's
 * included: what else runs on the machine does not count there. */
struct speed {
    double wall, cpu;
};

static double cpu_now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct speed speed_of(const struct merge_bench *b, size_t count, double wall_s,
                             double cpu_s) {
    double gb = (double)count * (double)b->bytes / 1e9;
    return (struct speed){gb / wall_s, gb / cpu_s};
}

/* The exact fold: what a merge is compared with. */
static enum tier_status time_fold(const struct merge_bench *b, size_t count, struct speed *speed,
                                  struct tier_err *err) {
    const struct tier_fold fold = fold_of(b, count, tier_fold_memory_min(b->manifest, count));
    struct tier_hash id;
    double start = bench_now_s(), cpu = cpu_now_s();

    TIER_TRY(tier_fold_run(&fold, &id, err));
    *speed = speed_of(b, count, bench_now_s() - start, cpu_now_s() - cpu);
    return tier_spool_delete(b->spool, &id, err);
}

static enum tier_status time_merge(const struct merge_bench *b, const struct contender *c,
                                   size_t count, struct speed *speed, struct tier_err *err) {
    const struct tier_merge_ops *rule = tier_merge_rule_of(&c->merge);
    const struct tier_merge merge = {
        .fold = fold_of(b, count, tier_merge_memory_min(b->manifest, rule, &c->merge, count)),
        .rule = rule,
        .settings = &c->merge};
    struct tier_hash id;
    double start = bench_now_s(), cpu = cpu_now_s();

    TIER_TRY(tier_merge_run(&merge, &id, err));
    *speed = speed_of(b, count, bench_now_s() - start, cpu_now_s() - cpu);
    return tier_spool_delete(b->spool, &id, err);
}

/* What comes before a fold, where the tier screens, and after it, for contributions. */
static enum tier_status time_look(const struct merge_bench *b, size_t count, bool screens,
                                  struct speed *speed, struct tier_err *err) {
    const struct tier_plan_screen limits = {.norm = 4, .cosine_distance = 1.2};
    const struct tier_screen screen = {.spool = b->spool,
                                       .manifest = b->manifest,
                                       .limits = &limits,
                                       .inputs = b->ids,
                                       .count = count,
                                       .threads = THREADS,
                                       .memory_bytes =
                                           THREADS * tier_screen_memory_min(b->manifest, count)};
    const struct tier_fold fold =
        fold_of(b, count, THREADS * tier_contribution_memory_min(b->manifest, count));
    struct tier_screened *screened = bench_alloc(count, sizeof *screened);
    struct tier_contribution *shares = bench_alloc(count, sizeof *shares);
    struct tier_screen_figures all;
    bool exact;
    double start = bench_now_s(), cpu = cpu_now_s();
    enum tier_status st = screens ? tier_screen_run(&screen, screened, &all, err)
                                  : tier_contribution_run(&fold, 1000, shares, &exact, err);

    if (st == TIER_OK)
        *speed = speed_of(b, count, bench_now_s() - start, cpu_now_s() - cpu);
    free(screened);
    free(shares);
    return st;
}

static json_t *table(json_t *detail, const char *name, size_t count) {
    char key[40];
    json_t *object = json_object();

    snprintf(key, sizeof key, "%s_%zu", name, count);
    json_object_set_new(detail, key, object);
    return object;
}

/* All rules over the first `count` updates; the speed of the median and of the fold. */
static enum tier_status measure(const struct merge_bench *b, size_t count, json_t *detail,
                                struct speed *median, struct speed *fold, struct tier_err *err) {
    json_t *wall = table(detail, "gb_s", count), *cpu = table(detail, "gb_cpu_s", count),
           *peaks = table(detail, "anon_bytes", count);
    struct bench_watch *watch = NULL;
    enum tier_status st = TIER_OK;

    TIER_TRY(time_fold(b, count, fold, err));
    TIER_TRY(time_fold(b, count, fold, err));
    json_object_set_new(wall, "mean", json_real(fold->wall));
    json_object_set_new(cpu, "mean", json_real(fold->cpu));
    watch = bench_watch_new(0);
    for (size_t i = 0; i < CONTENDERS && st == TIER_OK; i++) {
        const char *name = contenders[i].name;
        struct speed speed = {NAN, NAN};
        bench_watch_peak(watch);
        st = time_merge(b, &contenders[i], count, &speed, err);
        json_object_set_new(wall, name, json_real(speed.wall));
        json_object_set_new(cpu, name, json_real(speed.cpu));
        json_object_set_new(peaks, name, json_integer((json_int_t)bench_watch_peak(watch)));
        if (i == 0)
            *median = speed;
    }
    for (int screens = 0; screens < 2 && st == TIER_OK; screens++) {
        const char *name = screens ? "screen" : "contribution";
        struct speed speed = {NAN, NAN};
        bench_watch_peak(watch);
        st = time_look(b, count, screens, &speed, err);
        json_object_set_new(wall, name, json_real(speed.wall));
        json_object_set_new(cpu, name, json_real(speed.cpu));
        json_object_set_new(peaks, name, json_integer((json_int_t)bench_watch_peak(watch)));
    }
    bench_watch_free(watch);
    return st;
}

static enum tier_status seal(struct merge_bench *b, const char *spool_dir, size_t count,
                             struct tier_err *err) {
    for (size_t i = 0; i < count; i++) {
        struct bench_resident update;
        TIER_TRY(bench_resident_seal(b->spool, spool_dir, b->manifest, i + 1, &update, err));
        bench_resident_release(&update);
        b->ids[i] = update.id;
    }
    return TIER_OK;
}

enum tier_status bench_merge(const struct bench_options *o, struct bench_result *r,
                             struct tier_err *err) {
    size_t many = o->children ? (size_t)o->children : MANY, few = many < FEW ? many : FEW;
    uint64_t elements = (o->bytes ? o->bytes : 100000000) / sizeof(float);
    struct tier_tensor tensor = {.name = "w", .ndim = 1, .dims = {elements}, .frac_bits = 30};
    struct merge_bench b = {.ids = bench_alloc(many, sizeof *b.ids),
                            .bytes = elements * sizeof(float)};
    char path[600];
    struct speed median = {NAN, NAN}, fold = {NAN, NAN};
    enum tier_status st;

    snprintf(path, sizeof path, "%s/spool", o->work);
    TIER_TRY_OUT(tier_manifest_new(&tensor, 1, &b.manifest, err));
    TIER_TRY_OUT(tier_spool_open(path, false, &b.spool, err));
    json_object_set_new(r->detail, "bytes", json_integer((json_int_t)b.bytes));
    json_object_set_new(r->detail, "threads", json_integer(THREADS));
    TIER_TRY_OUT(seal(&b, path, many, err));
    TIER_TRY_OUT(measure(&b, few, r->detail, &median, &fold, err));
    if (many > few)
        TIER_TRY_OUT(measure(&b, many, r->detail, &median, &fold, err));
    r->value = median.cpu;
    r->unit = "GB of updates into the median, a second of processor time";
    r->against = "the exact fold of the same files";
    r->ratio = median.cpu / fold.cpu;
out:
    tier_spool_close(b.spool);
    tier_manifest_free(b.manifest);
    free(b.ids);
    return st;
}
