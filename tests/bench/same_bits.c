/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Do all trees give the same bits? For each seed a random model and random updates are folded flat
 * and published; then again through trees of random depth and shape, in random order, with one or
 * two threads. A tree counts as a mismatch when its sum or its model has another hash.
 */
#include "tests/bench/bench.h"
#include "tier/fold.h"
#include "tier/manifest.h"
#include "tier/model.h"
#include "tier/spool.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UPDATES_MAX 12
#define TENSORS_MAX 6
#define TREES_A_FOREST 8
#define ELEMENTS_MAX 20000

/* One set of updates and what they come to. */
struct forest {
    uint64_t seed;
    struct tier_spool *spool;
    struct tier_manifest *manifest;
    struct tier_hash run, base_model;
    struct tier_hash updates[UPDATES_MAX];
    size_t count;
    struct tier_model *base;
    char dir[512];
};

static uint64_t below(struct forest *f, uint64_t n) {
    return bench_random(&f->seed) % n;
}

static enum tier_status make_manifest(struct forest *f, struct tier_err *err) {
    struct tier_tensor t[TENSORS_MAX];
    size_t n = 1 + below(f, TENSORS_MAX);

    memset(t, 0, sizeof t);
    for (size_t i = 0; i < n; i++) {
        snprintf(t[i].name, sizeof t[i].name, "t%zu", i);
        t[i].ndim = 1;
        t[i].dims[0] = 1 + below(f, i == 0 ? ELEMENTS_MAX : 3000);
        t[i].frac_bits = (int)below(f, 60) - 20;
        t[i].wide = below(f, 3) == 0;
    }
    return tier_manifest_new(t, n, &f->manifest, err);
}

/* Deltas over the whole range that each tensor's clip allows. */
static float *make_deltas(struct forest *f) {
    const struct tier_manifest *m = f->manifest;
    float *x = bench_alloc(m->elements, sizeof *x);

    for (size_t t = 0; t < m->count; t++) {
        double clip = ldexp(1, 30 - m->tensors[t].frac_bits);
        for (uint64_t i = 0; i < m->tensors[t].count; i++) {
            double unit = (double)(bench_random(&f->seed) >> 11) * 0x1p-52 - 1;
            x[m->tensors[t].at + i] = (float)(unit * unit * unit * clip);
        }
    }
    return x;
}

static enum tier_status make_base(struct forest *f, struct tier_err *err) {
    struct tier_model_writer *w = NULL;
    float *x = make_deltas(f);
    enum tier_status st = tier_model_writer_begin(f->dir, f->manifest, NULL, 0, &w, err);

    if (st == TIER_OK)
        st = tier_model_writer_append(w, x, (size_t)f->manifest->elements, err);
    free(x);
    if (st != TIER_OK) {
        tier_model_writer_abort(w);
        return st;
    }
    TIER_TRY(tier_model_writer_finish(w, &f->base_model, err));
    char *path = tier_model_path(f->dir, &f->base_model);
    st = tier_model_open(path, &f->base, err);
    free(path);
    return st;
}

static enum tier_status make_update(struct forest *f, uint64_t weight, struct tier_hash *out,
                                    struct tier_err *err) {
    struct tier_update_header h = {
        .run = f->run, .round = 7, .base_model = f->base_model, .weight = weight};
    int64_t count = (int64_t)bench_random(&f->seed) >> 16;
    float *x = make_deltas(f);

    h.metrics = tier_metrics_new();
    enum tier_status st = tier_metrics_add(h.metrics, "count", 1, &count, err);
    if (st == TIER_OK)
        st = tier_update_seal_f32(f->spool, &h, f->manifest, weight ? x : NULL, false, out, err);
    tier_metrics_free(h.metrics);
    free(x);
    return st;
}

static enum tier_status fold(struct forest *f, const struct tier_hash *ids, size_t n,
                             struct tier_hash *out, struct tier_err *err) {
    unsigned threads = 1 + (unsigned)below(f, 2);
    const struct tier_fold job = {.spool = f->spool,
                                  .manifest = f->manifest,
                                  .run = f->run,
                                  .round = 7,
                                  .base_model = f->base_model,
                                  .inputs = ids,
                                  .count = n,
                                  .threads = threads,
                                  .memory_bytes = threads * tier_fold_memory_min(f->manifest, n)};
    return tier_fold_run(&job, out, err);
}

static void shuffle(struct forest *f, struct tier_hash *ids, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = below(f, i);
        struct tier_hash other = ids[j];
        ids[j] = ids[i - 1];
        ids[i - 1] = other;
    }
}

/* Tier by tier, regions of one to four; a region of one may hand its child's update up as it is. */
static enum tier_status fold_tree(struct forest *f, struct tier_hash *out, struct tier_err *err) {
    struct tier_hash ids[UPDATES_MAX];
    size_t n = f->count;

    memcpy(ids, f->updates, n * sizeof *ids);
    for (uint64_t tiers = below(f, 4); tiers > 0; tiers--) {
        size_t up = 0;
        shuffle(f, ids, n);
        for (size_t at = 0, k; at < n; at += k) {
            struct tier_hash id = ids[at];
            k = 1 + below(f, n - at < 4 ? n - at : 4);
            if (k > 1 || below(f, 2))
                TIER_TRY(fold(f, ids + at, k, &id, err));
            ids[up++] = id;
        }
        n = up;
    }
    shuffle(f, ids, n);
    return fold(f, ids, n, out, err);
}

static enum tier_status publish(struct forest *f, const struct tier_hash *sum,
                                struct tier_hash *out, struct tier_err *err) {
    struct tier_update *u = NULL;
    TIER_TRY(tier_spool_update_open(f->spool, sum, &u, err));
    enum tier_status st = tier_update_verify(u, f->manifest, err);
    if (st == TIER_OK)
        st = tier_fold_publish(u, f->manifest, f->base, f->dir, NULL, 0, out, err);
    tier_spool_update_close(u);
    return st;
}

static bool drop_all(void *arg, const struct tier_hash *id, bool sealed) {
    (void)arg, (void)id, (void)sealed;
    return false;
}

/* `trees` trees over one set of updates. */
static enum tier_status grow(struct forest *f, uint64_t trees, uint64_t *mismatches,
                             struct tier_err *err) {
    struct tier_hash sum, model, again, other;
    enum tier_status st;

    TIER_TRY_OUT(make_manifest(f, err));
    TIER_TRY_OUT(make_base(f, err));
    f->count = 2 + below(f, UPDATES_MAX - 1);
    for (size_t i = 0; i < f->count; i++) {
        uint64_t weight = i == 0 || below(f, 5) ? 1 + below(f, 1 << 28) : 0;
        TIER_TRY_OUT(make_update(f, weight, &f->updates[i], err));
    }
    TIER_TRY_OUT(fold(f, f->updates, f->count, &sum, err));
    TIER_TRY_OUT(publish(f, &sum, &model, err));
    for (uint64_t i = 0; i < trees; i++) {
        TIER_TRY_OUT(fold_tree(f, &again, err));
        TIER_TRY_OUT(publish(f, &again, &other, err));
        *mismatches += !tier_hash_equal(&sum, &again) || !tier_hash_equal(&model, &other);
    }
    st = tier_spool_sweep(f->spool, drop_all, NULL, err);
out:
    tier_model_close(f->base);
    tier_manifest_free(f->manifest);
    f->base = NULL;
    f->manifest = NULL;
    return st;
}

enum tier_status bench_same_bits(const struct bench_options *o, struct bench_result *r,
                                 struct tier_err *err) {
    uint64_t trees = o->trees ? o->trees : 100, mismatches = 0, forests = 0;
    struct forest f = {.spool = NULL};
    char path[600];
    enum tier_status st;

    snprintf(f.dir, sizeof f.dir, "%s", o->work);
    snprintf(path, sizeof path, "%s/spool", o->work);
    tier_hash_data("run", 3, &f.run);
    TIER_TRY(tier_spool_open(path, false, &f.spool, err));
    for (uint64_t done = 0; done < trees; forests++) {
        uint64_t n = trees - done < TREES_A_FOREST ? trees - done : TREES_A_FOREST;
        f.seed = o->seed * 1000003 + forests;
        TIER_TRY_OUT(grow(&f, n, &mismatches, err));
        done += n;
    }
    r->value = (double)mismatches;
    r->unit = "trees";
    r->against = "the flat fold of the same updates";
    json_object_set_new(r->detail, "trees", json_integer((json_int_t)trees));
    json_object_set_new(r->detail, "sets_of_updates", json_integer((json_int_t)forests));
    json_object_set_new(r->detail, "seed", json_integer((json_int_t)o->seed));
    st = TIER_OK;
out:
    tier_spool_close(f.spool);
    return st;
}
