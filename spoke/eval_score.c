/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Survival is walked from the latest time to the earliest: the hazards of those who lived longer
 * stand in a Fenwick tree by rank, which counts the smaller ones of any patient in log n steps, and
 * the sum of their exponentials is Cox's risk set.
 */
#include "spoke/eval_score.h"

#include <math.h>
#include <stdlib.h>

/* ---- a row ----------------------------------------------------------------------------------- */

static void score_binary(struct spoke_sums *sums, double z, float label) {
    double score = z >= 0.0 ? 1.0 / (1.0 + exp(-z)) : exp(z) / (1.0 + exp(z));

    sums->spots++;
    sums->correct += (z > 0.0) == (label > 0.5f);
    (label > 0.5f ? sums->hist_pos : sums->hist_neg)[tier_score_bin(score)]++;
}

static size_t greatest(const float *z, size_t outputs) {
    size_t best = 0;

    for (size_t c = 1; c < outputs; c++)
        if (z[c] > z[best])
            best = c;
    return best;
}

static void score_classes(struct spoke_sums *sums, const struct spoke_objective *o, const float *z,
                          const int32_t *label, size_t spots, size_t outputs) {
    int64_t both[TIER_SCORE_CLASSES_MAX], sizes[TIER_SCORE_CLASSES_MAX];

    for (size_t c = 0; c < outputs; c++)
        both[c] = sizes[c] = 0;
    for (size_t i = 0; i < spots; i++) {
        if (label[i] < 0 || (size_t)label[i] >= outputs || (o->has_ignore && label[i] == o->ignore))
            continue;
        size_t said = greatest(z + i * outputs, outputs), is = (size_t)label[i];
        sums->spots++;
        sums->correct += said == is;
        both[is] += said == is;
        sizes[is]++;
        sizes[said]++;
    }
    for (size_t c = 0; c < outputs && sums->masks; c++) {
        sums->overlap[c] += both[c];
        sums->sizes[c] += sizes[c];
        if (sizes[c] > 0) {
            sums->case_dice[c] += tier_score_loss_fixed(tier_score_dice(both[c], sizes[c]));
            sums->cases[c]++;
        }
    }
}

/* Whether a class that counts is anywhere in a row; without, there is nothing to score. */
static bool any_counts(const struct spoke_objective *o, const int32_t *label, size_t spots,
                       size_t outputs) {
    for (size_t i = 0; i < spots; i++)
        if (label[i] >= 0 && (size_t)label[i] < outputs && label[i] != o->ignore)
            return true;
    return false;
}

void spoke_score_row(struct spoke_sums *sums, const struct spoke_objective *o, const float *z,
                     const void *target, const int32_t *label, size_t spots, size_t outputs) {
    const float *value = target;

    if (o->has_ignore && !any_counts(o, target, spots, outputs))
        return;
    sums->count++;
    if (o->loss == SPOKE_LOSS_COX)
        return;
    double loss = spoke_objective_row(o, z, target, spots, outputs);
    bool errors = o->loss == SPOKE_LOSS_MSE || o->loss == SPOKE_LOSS_L1;
    sums->loss += errors ? tier_score_error_fixed(loss) : tier_score_loss_fixed(loss);
    if (o->loss == SPOKE_LOSS_BCE) {
        score_binary(sums, (double)z[0], o->soft ? (float)label[0] : value[0]);
    } else if (spoke_objective_by_class(o)) {
        score_classes(sums, o, z, o->soft ? label : target, spots, outputs);
    } else {
        double d = (double)z[0] - (double)value[0];
        sums->squared += tier_score_error_fixed(d * d);
        sums->absolute += tier_score_error_fixed(fabs(d));
    }
}

/* ---- survival -------------------------------------------------------------------------------- */

struct patient {
    float time, hazard;
    bool event;
    size_t rank; /* of the hazard, from 1; equal hazards have equal ranks */
};

static int by_hazard(const void *a, const void *b) {
    const struct patient *p = a, *q = b;
    return (p->hazard > q->hazard) - (p->hazard < q->hazard);
}

static int latest_first(const void *a, const void *b) {
    const struct patient *p = a, *q = b;
    return (p->time < q->time) - (p->time > q->time);
}

static void tree_add(int64_t *tree, size_t n, size_t rank) {
    for (; rank <= n; rank += rank & -rank)
        tree[rank]++;
}

/* Patients in the tree with a rank of at most that. */
static int64_t tree_count(const int64_t *tree, size_t rank) {
    int64_t sum = 0;
    for (; rank > 0; rank -= rank & -rank)
        sum += tree[rank];
    return sum;
}

/* Log of the sum of exponentials, one more at a time. */
struct risk {
    double top, sum;
};

static void risk_add(struct risk *r, double z) {
    if (z > r->top) {
        r->sum = r->sum * exp(r->top - z) + 1;
        r->top = z;
    } else {
        r->sum += exp(z - r->top);
    }
}

/* Patients [from, to) have one time; the tree holds all who lived longer, and those censored at
 * this time. */
static void score_time(struct spoke_sums *sums, const struct patient *p, size_t from, size_t to,
                       const int64_t *tree, int64_t later, const struct risk *risk) {
    for (size_t i = from; i < to; i++) {
        if (!p[i].event)
            continue;
        int64_t below = tree_count(tree, p[i].rank - 1), up_to = tree_count(tree, p[i].rank);
        sums->events++;
        sums->comparable += later;
        sums->concordant += 2 * below + (up_to - below);
        sums->loss += tier_score_loss_fixed(log(risk->sum) + risk->top - (double)p[i].hazard);
    }
}

enum tier_status spoke_score_survival(struct spoke_sums *sums, const float *z, const float *target,
                                      size_t n, struct tier_err *err) {
    struct patient *p = malloc((n + 1) * sizeof *p);
    int64_t *tree = calloc(n + 1, sizeof *tree), later = 0;
    struct risk risk = {-INFINITY, 0};

    if (!p || !tree) {
        free(p);
        free(tree);
        return tier_fail(err, TIER_ENOMEM, "no memory to compare %zu patients", n);
    }
    for (size_t i = 0; i < n; i++)
        p[i] =
            (struct patient){.time = target[2 * i], .hazard = z[i], .event = target[2 * i + 1] > 0};
    qsort(p, n, sizeof *p, by_hazard);
    for (size_t i = 0, rank = 0; i < n; i++)
        p[i].rank = i > 0 && p[i].hazard == p[i - 1].hazard ? rank : (rank = i + 1);
    qsort(p, n, sizeof *p, latest_first);
    for (size_t from = 0, to; from < n; from = to) {
        for (to = from; to < n && p[to].time == p[from].time; to++) {
            risk_add(&risk, (double)p[to].hazard);
            if (!p[to].event) {
                tree_add(tree, n, p[to].rank);
                later++;
            }
        }
        score_time(sums, p, from, to, tree, later, &risk);
        for (size_t i = from; i < to; i++) {
            if (p[i].event) {
                tree_add(tree, n, p[i].rank);
                later++;
            }
        }
    }
    free(tree);
    free(p);
    return TIER_OK;
}
