/* SPDX-License-Identifier: Apache-2.0 */
/* What the rules give: against an independent reference, and the properties they are chosen for. */
#include "support/merge_fixture.h"
#include "support/merge_reference.h"

#define CHILDREN_MAX 24

/* Updates of one round with what they are worth, F32 and (from regions) SUM ones. */
struct world {
    struct tier_spool *spool;
    struct tier_manifest *m;
    struct tier_hash ids[CHILDREN_MAX], previous;
    long double **x, *previous_x;
    size_t count;
    uint64_t weight;
};

static float *near_values(const struct tier_manifest *m, const float *centre, double sigma,
                          uint64_t *seed) {
    float *x = deltas_random(m, sigma, seed);
    for (size_t i = 0; i < m->elements; i++)
        x[i] = (float)(0.5 * (double)centre[i] + (double)x[i]);
    return x;
}

/* The fold of two updates of these weights, whose mean is `mean` within a unit of q. */
static struct tier_hash region(struct world *w, const float *a, const float *b, long double *mean) {
    uint64_t wa = 3, wb = 5;
    struct tier_hash ids[2] = {sealed_values(w->spool, w->m, a, wa),
                               sealed_values(w->spool, w->m, b, wb)},
                     id;
    struct tier_plan_merge none = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_fold f = merge_of(w->spool, w->m, ids, 2, &none).fold;
    f.memory_bytes = tier_fold_memory_min(w->m, 2);
    MUST(tier_fold_run(&f, &id, err));
    for (size_t t = 0; t < w->m->count; t++)
        for (uint64_t i = w->m->tensors[t].at; i < w->m->tensors[t].at + w->m->tensors[t].count;
             i++) {
            int f_bits = w->m->tensors[t].frac_bits + (w->m->tensors[t].wide ? 30 : 0);
            long double qa = rintl(ldexpl((long double)a[i], f_bits)),
                        qb = rintl(ldexpl((long double)b[i], f_bits));
            mean[i] = ldexpl((3 * qa + 5 * qb) / 8, -f_bits);
        }
    return id;
}

static void world_init(struct world *w, size_t count, uint64_t *seed) {
    struct tier_tensor t[] = {
        tensor_of("a", 300, 0, 30, false), tensor_of("b", 1 + rng_below(seed, 700), 0, 27, true),
        tensor_of("c", 20, 10, 33, false), tensor_of("d", 1 + rng_below(seed, 300), 0, 25, true)};
    *w = (struct world){.spool = spool_up(false), .m = manifest_of(t, 4), .count = count};
    w->x = vectors_new(count, w->m->elements);
    w->previous_x = calloc(w->m->elements, sizeof *w->previous_x);
    float *centre = deltas_random(w->m, 0.05, seed);
    struct {
        struct tier_hash root, id;
        long double *x;
    } sorted[CHILDREN_MAX];
    for (size_t i = 0; i < count; i++) {
        float *a = near_values(w->m, centre, 0.02 + 0.01 * (double)i, seed);
        float *b = near_values(w->m, centre, 0.03, seed);
        sorted[i].x = w->x[i];
        if (rng_below(seed, 3) == 0) {
            sorted[i].id = region(w, a, b, w->x[i]);
            w->weight += 8;
        } else {
            uint64_t weight = 1 + rng_below(seed, 1000);
            sorted[i].id = sealed_values(w->spool, w->m, a, weight);
            w->weight += weight;
            for (size_t e = 0; e < w->m->elements; e++)
                w->x[i][e] = (long double)a[e];
        }
        free(a);
        free(b);
    }
    /* As a merge takes them: two nearest neighbours may tie, and then the first is chosen. */
    for (size_t i = 0; i < count; i++) {
        struct tier_update *u = update_open(w->spool, &sorted[i].id);
        sorted[i].root = tier_spool_update_header(u)->root;
        tier_spool_update_close(u);
    }
    qsort(sorted, count, sizeof sorted[0], by_hash);
    for (size_t i = 0; i < count; i++) {
        w->ids[i] = sorted[i].id;
        w->x[i] = sorted[i].x;
    }
    float *p = near_values(w->m, centre, 0.02, seed);
    w->previous = sealed_values(w->spool, w->m, p, 5);
    for (size_t e = 0; e < w->m->elements; e++)
        w->previous_x[e] = (long double)p[e];
    free(p);
    free(centre);
}

static void world_release(struct world *w) {
    vectors_free(w->x, w->count);
    free(w->previous_x);
    tier_manifest_free(w->m);
    tier_spool_close(w->spool);
    fixture_down();
}

static struct reference reference_of(const struct world *w, const struct tier_plan_merge *s) {
    double f = s->byzantine < 1 ? floor(s->byzantine * (double)w->count + 1e-9) : s->byzantine;
    return (struct reference){.count = w->count,
                              .n = w->m->elements,
                              .x = w->x,
                              .byzantine = (size_t)f,
                              .select = s->select,
                              .radius = (long double)s->radius,
                              .smoothing = (long double)s->smoothing,
                              .iterations = s->iterations};
}

/*
 * Within: half a unit of float32; the values' own rounding (2^-24 of them, where they are sums);
 * 2^-30 of the largest value a coefficient, and as much for the rounding to q.
 */
static void like(const struct world *w, const float *got, const long double *want,
                 const char *what) {
    for (size_t t = 0; t < w->m->count; t++) {
        const struct tier_tensor *tensor = &w->m->tensors[t];
        long double clip = ldexpl(1, 30 - tensor->frac_bits);
        for (uint64_t e = tensor->at; e < tensor->at + tensor->count; e++) {
            long double off = fabsl((long double)got[e] - want[e]);
            CHECK(off <= ldexpl(fabsl(want[e]), -22) + ldexpl(clip, -26),
                  "%s: %s[%llu] is %.9g, not %.9Lg", what, tensor->name,
                  (unsigned long long)(e - tensor->at), (double)got[e], want[e]);
        }
    }
}

static void against_reference(size_t count, uint64_t seed, bool mix) {
    struct world w;
    world_init(&w, count, &seed);
    long double *want = calloc(w.m->elements, sizeof *want);
    for (size_t k = 0; k < RULES; k++) {
        double f = (double)rng_below(&seed, count / 4 + 1);
        struct tier_plan_merge s = settings_of(all_rules[k], f, mix);
        if (f == 0)
            s.byzantine = 1e-9; /* none */
        if (all_rules[k] == TIER_PLAN_MULTI_KRUM)
            s.select = rng_below(&seed, 3);
        struct tier_merge merge = merge_of(w.spool, w.m, w.ids, count, &s);
        struct reference r = reference_of(&w, &s);
        bool needs_three = all_rules[k] == TIER_PLAN_KRUM || all_rules[k] == TIER_PLAN_MULTI_KRUM;
        if (needs_three && count < 2 * r.byzantine + 3)
            continue;
        if (all_rules[k] == TIER_PLAN_CENTRED_CLIPPING && seed % 2) {
            merge.previous = w.previous;
            r.previous = w.previous_x;
        }
        struct tier_hash id = merged(&merge);
        float *got = elements_of(w.spool, w.m, &id);
        reference_merge(&r, &s, want);
        like(&w, got, want, tier_plan_rule_text(&s));
        free(got);
    }
    free(want);
    world_release(&w);
}

Test(tier_merge, every_rule_gives_what_its_paper_says) {
    for (uint64_t seed = 1; seed <= 24; seed++)
        against_reference(seed, seed, false);
}

Test(tier_merge, every_rule_does_so_behind_nearest_neighbour_mixing) {
    for (uint64_t seed = 1; seed <= 24; seed++)
        against_reference(seed, seed + 100, true);
}

Test(tier_merge, given_radius_steps_and_smoothing_are_those_of_the_plan) {
    uint64_t seed = 77;
    struct world w;
    world_init(&w, 9, &seed);
    long double *want = calloc(w.m->elements, sizeof *want);
    for (size_t k = 0; k < RULES; k++) {
        struct tier_plan_merge s = settings_of(all_rules[k], 0, false);
        s.radius = s.radius == 0 ? 1.25 : s.radius;
        s.iterations = s.iterations > 0 ? 2 : 0;
        s.smoothing = s.smoothing > 0 ? 3.5 : 0;
        struct tier_merge merge = merge_of(w.spool, w.m, w.ids, w.count, &s);
        struct reference r = reference_of(&w, &s);
        struct tier_hash id = merged(&merge);
        float *got = elements_of(w.spool, w.m, &id);
        reference_merge(&r, &s, want);
        like(&w, got, want, tier_plan_rule_text(&s));
        free(got);
    }
    free(want);
    world_release(&w);
}

/* ---- properties ---- */

#define N 9

/* Children at `centre` + small noise, the last `bad` of them at `far`. */
static void make_children(struct tier_spool *spool, const struct tier_manifest *m, double centre,
                          double far, size_t bad, uint64_t seed, struct tier_hash *ids) {
    float *x = malloc(m->elements * sizeof *x);
    for (size_t i = 0; i < N; i++) {
        for (size_t e = 0; e < m->elements; e++) {
            double noise = rint(rng_normal(&seed) * 0x1p16) * 0x1p-26; /* shifts exactly */
            x[e] = (float)(i + bad < N ? centre + noise : far + noise);
        }
        ids[i] = sealed_values(spool, m, x, 1 + i);
    }
    free(x);
}

static struct tier_manifest *manifest_one(void) {
    struct tier_tensor t = tensor_of("w", 500, 0, 26, false); /* clip 16 */
    return manifest_of(&t, 1);
}

Test(tier_merge, up_to_its_breakdown_point_a_rule_stays_with_the_honest, .fini = fixture_down) {
    static const struct {
        int rule;
        size_t bad;
        double within; /* of the honest centre */
    } cases[] = {{TIER_PLAN_MEDIAN, 4, 0.01},
                 {TIER_PLAN_TRIMMED_MEAN, 4, 0.01},
                 {TIER_PLAN_KRUM, 3, 0.01},
                 {TIER_PLAN_MULTI_KRUM, 3, 0.01},
                 {TIER_PLAN_GEOMETRIC_MEDIAN, 4, 0.01},
                 {TIER_PLAN_CENTRED_CLIPPING, 4, 0.6},
                 {TIER_PLAN_NORM_BOUND, 4, 0.95}};
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_one();
    struct tier_hash ids[N];
    for (int sign = -1; sign <= 1; sign += 2) {
        make_children(spool, m, 0.5, sign * 15.5, 4, 5, ids);
        struct tier_hash three[N];
        make_children(spool, m, 0.5, sign * 15.5, 3, 6, three);
        for (size_t k = 0; k < RULES; k++) {
            struct tier_plan_merge s = settings_of(cases[k].rule, 0, false);
            if (s.byzantine > 0)
                s.byzantine = (double)cases[k].bad;
            struct tier_merge merge = merge_of(spool, m, cases[k].bad == 4 ? ids : three, N, &s);
            struct tier_hash id = merged(&merge);
            float *got = elements_of(spool, m, &id);
            for (size_t e = 0; e < m->elements; e++)
                CHECK(fabs((double)got[e] - 0.5) <= cases[k].within, "%s gives %g",
                      tier_plan_rule_text(&s), (double)got[e]);
            free(got);
        }
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge, one_attacker_more_than_half_takes_the_median_with_it, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_one();
    struct tier_hash ids[N];
    make_children(spool, m, 0.5, 15, 5, 7, ids);
    struct tier_plan_merge s = settings_of(TIER_PLAN_MEDIAN, 0, false);
    struct tier_merge merge = merge_of(spool, m, ids, N, &s);
    struct tier_hash id = merged(&merge);
    float *got = elements_of(spool, m, &id);
    CHECK(fabs((double)got[0] - 15) < 0.1);
    free(got);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge, rules_without_an_origin_move_with_their_updates, .fini = fixture_down) {
    static const int rules[] = {TIER_PLAN_MEDIAN, TIER_PLAN_TRIMMED_MEAN, TIER_PLAN_KRUM,
                                TIER_PLAN_MULTI_KRUM, TIER_PLAN_GEOMETRIC_MEDIAN};
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_one();
    struct tier_hash here[N], there[N];
    make_children(spool, m, 0, 1, 2, 8, here);
    make_children(spool, m, 0.25, 1.25, 2, 8, there);
    for (size_t k = 0; k < sizeof rules / sizeof rules[0]; k++)
        for (int mix = 0; mix < 2; mix++) {
            struct tier_plan_merge s = settings_of(rules[k], 0, mix);
            struct tier_merge a = merge_of(spool, m, here, N, &s),
                              b = merge_of(spool, m, there, N, &s);
            struct tier_hash ids[2] = {merged(&a), merged(&b)};
            float *x = elements_of(spool, m, &ids[0]), *y = elements_of(spool, m, &ids[1]);
            for (size_t e = 0; e < m->elements; e++)
                CHECK(fabs((double)y[e] - (double)x[e] - 0.25) < 1e-6, "%s, %g and %g",
                      tier_plan_rule_text(&s), (double)x[e], (double)y[e]);
            free(x);
            free(y);
        }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_merge, a_claimed_weight_gives_no_child_more_say, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_one();
    uint64_t seed = 9;
    struct tier_hash modest[5], boastful[5];
    for (size_t i = 0; i < 5; i++) {
        float *x = deltas_random(m, 0.01, &seed);
        modest[i] = sealed_values(spool, m, x, 1);
        boastful[i] = sealed_values(spool, m, x, i == 4 ? 1000000 : 1);
        free(x);
    }
    for (size_t k = 0; k < RULES; k++) {
        struct tier_plan_merge s = settings_of(all_rules[k], 0, false);
        struct tier_merge a = merge_of(spool, m, modest, 5, &s),
                          b = merge_of(spool, m, boastful, 5, &s);
        struct tier_hash ids[2] = {merged(&a), merged(&b)};
        float *x = elements_of(spool, m, &ids[0]), *y = elements_of(spool, m, &ids[1]);
        for (size_t e = 0; e < m->elements; e++)
            CHECK(fabsf(x[e] - y[e]) < 1e-6f, "%s", tier_plan_rule_text(&s));
        free(x);
        free(y);
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}
