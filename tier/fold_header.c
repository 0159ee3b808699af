/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/fold_header.h"

#include "tier/nova.h"
#include "tier/score.h"
#include "tier/stale.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static int by_bytes(const void *a, const void *b) {
    return memcmp(a, b, TIER_HASH_BYTES);
}

static enum tier_status foreign(const struct tier_hash *id, const char *what,
                                struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    return tier_fail(err, TIER_EUPDATE, "update %.16s is of another %s than this fold",
                     tier_hash_hex(id, hex), what);
}

/* The model that an update of that round was made from; NULL: the fold does not take that round. */
static const struct tier_hash *base_of(const struct tier_fold *fold, uint64_t round) {
    if (round == fold->round)
        return &fold->base_model;
    for (size_t i = 0; fold->stale && i < fold->stale->version_count; i++)
        if (fold->stale->versions[i].round == round && round < fold->round)
            return &fold->stale->versions[i].base_model;
    return NULL;
}

void tier_fold_metrics_cut(struct tier_metrics *sums) {
    for (size_t i = 0; i < tier_metrics_count(sums); i++) {
        const char *name;
        size_t bins;

        tier_metrics_at(sums, i, &name, &bins);
        if (strcmp(name, TIER_NOVA_METRIC) != 0 && strcmp(name, TIER_STALE_METRIC) != 0)
            tier_metrics_cut(sums, name, TIER_SCORE_SUM_MAX);
    }
}

/* What it would weigh were nothing stale, here and further down, and its metrics if they are of
 * this round's model. No more is claimed than this node's own parent takes (tier_stale_check): of
 * each input, so that any grouping gives the same. */
static enum tier_status add_metrics(struct tier_update_header *sum, const struct tier_fold *fold,
                                    const struct tier_update_header *h, bool damped,
                                    uint32_t multiplier, struct tier_err *err) {
    int64_t most = (int64_t)(h->weight * multiplier * TIER_STALE_ONE); /* at most 2^44 */
    int64_t full = (int64_t)tier_stale_full_weight(h); /* at most 2^38, checked where it came */
    bool merge = h->metrics && h->round == fold->round;

    if (merge) {
        TIER_TRY(tier_metrics_merge(sum->metrics, h->metrics, err));
        tier_fold_metrics_cut(sum->metrics);
    }
    if (!fold->stale || h->weight == 0)
        return TIER_OK;
    bool there = merge && tier_metrics_get(h->metrics, TIER_STALE_METRIC, NULL);
    int64_t fresh = full * (damped ? TIER_STALE_ONE : 1);
    int64_t rest = (fresh < most ? fresh : most) - (there ? full : 0);
    return tier_metrics_add(sum->metrics, TIER_STALE_METRIC, 1, &rest, err);
}

enum tier_status tier_fold_header_add(struct tier_update_header *sum, const struct tier_fold *fold,
                                      const struct tier_update *input, uint64_t weight_max,
                                      uint32_t *multiplier_out, struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(input);
    const struct tier_hash *id = tier_spool_update_id(input);
    bool damped = fold->stale && fold->stale->damps && !tier_hash_equal(id, &fold->stale->partial);
    const struct tier_hash *base = base_of(fold, h->round);
    char hex[TIER_HASH_HEX];

    if (!tier_hash_equal(&h->run, &fold->run))
        return foreign(id, "run", err);
    if (!base)
        return foreign(id, "round", err);
    if (!tier_hash_equal(&h->base_model, base))
        return foreign(id, "base model", err);
    uint32_t multiplier = damped ? tier_stale_multiplier(fold->round - h->round) : 1;
    enum tier_status st = tier_update_header_check(h, fold->manifest, err);
    if (st == TIER_OK)
        st = add_metrics(sum, fold, h, damped, multiplier, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "update %.16s", tier_hash_hex(id, hex));
        return st;
    }
    if (h->encoding != TIER_ENC_SUM && h->weight * multiplier > TIER_WEIGHT_MAX)
        return tier_fail(err, TIER_ELIMIT,
                         "the weight %" PRIu64 " of update %.16s, times %u, passes %" PRIu64,
                         h->weight, tier_hash_hex(id, hex), multiplier, TIER_WEIGHT_MAX);
    if (h->weight * multiplier > weight_max - sum->weight)
        return tier_fail(err, TIER_ELIMIT,
                         "the weights of the updates to fold pass %" PRIu64 " at %.16s", weight_max,
                         tier_hash_hex(id, hex));
    sum->weight += h->weight * multiplier;
    *multiplier_out = multiplier;
    /* A number that a child claims, for people: it ends at what a parent takes. */
    sum->saturated = h->saturated > TIER_SATURATED_MAX - sum->saturated
                         ? TIER_SATURATED_MAX
                         : sum->saturated + h->saturated;
    return TIER_OK;
}

void tier_fold_sort(struct tier_hash *ids, size_t count) {
    qsort(ids, count, sizeof *ids, by_bytes);
}

size_t tier_fold_files_open(void) {
    const size_t least = 128, most = TIER_CHILDREN_MAX;
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur / 4 < least)
        return least;
    return files.rlim_cur / 4 < most ? (size_t)files.rlim_cur / 4 : most;
}
