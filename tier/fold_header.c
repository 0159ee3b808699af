/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/fold_header.h"

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

enum tier_status tier_fold_header_add(struct tier_update_header *sum, const struct tier_fold *fold,
                                      const struct tier_update *input, uint64_t weight_max,
                                      struct tier_err *err) {
    const struct tier_update_header *h = tier_spool_update_header(input);
    const struct tier_hash *id = tier_spool_update_id(input);
    char hex[TIER_HASH_HEX];

    if (!tier_hash_equal(&h->run, &fold->run))
        return foreign(id, "run", err);
    if (h->round != fold->round)
        return foreign(id, "round", err);
    if (!tier_hash_equal(&h->base_model, &fold->base_model))
        return foreign(id, "base model", err);
    enum tier_status st = tier_update_header_check(h, fold->manifest, err);
    if (st == TIER_OK && h->metrics)
        st = tier_metrics_merge(sum->metrics, h->metrics, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "update %.16s", tier_hash_hex(id, hex));
        return st;
    }
    if (h->weight > weight_max - sum->weight)
        return tier_fail(err, TIER_ELIMIT,
                         "the weights of the updates to fold pass %" PRIu64 " at %.16s", weight_max,
                         tier_hash_hex(id, hex));
    if (h->saturated > TIER_SATURATED_MAX - sum->saturated)
        return tier_fail(err, TIER_ELIMIT,
                         "the saturated elements of the updates to fold pass %" PRIu64 " at %.16s",
                         TIER_SATURATED_MAX, tier_hash_hex(id, hex));
    sum->weight += h->weight;
    sum->saturated += h->saturated;
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
