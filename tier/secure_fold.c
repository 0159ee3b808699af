/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/secure_fold.h"

#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/masked.h"
#include "tier/statistics.h"
#include "tier/task.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static bool is_masked(const struct tier_secure_fold *f, const struct tier_hash *id) {
    for (size_t i = 0; i < f->masked_count; i++)
        if (tier_hash_equal(&f->masked[i], id))
            return true;
    return false;
}

/* What could not be looked at in any one update. */
static enum tier_status check_sum(const struct tier_secure_fold *f, const struct tier_fold *fold,
                                  const struct tier_hash *id, struct tier_err *err) {
    struct tier_update *u = NULL;

    TIER_TRY(tier_spool_update_open(fold->spool, id, &u, err));
    const struct tier_update_header *h = tier_spool_update_header(u);
    enum tier_status st = tier_task_metrics_check(h->metrics, err);
    if (st == TIER_OK)
        st = tier_statistics_check(f->plan, h->metrics, err);
    if (st == TIER_OK && h->weight > f->plan->weight_total_max)
        st = tier_fail(err, TIER_EUPDATE,
                       "the sum weighs %" PRIu64 ", above the plan's weight_total_max", h->weight);
    tier_spool_update_close(u);
    if (st != TIER_OK)
        tier_spool_delete(fold->spool, id, NULL);
    return st == TIER_EUPDATE ? tier_err_prefix(err, "unmasked, of no one child") : st;
}

/* The unmasked sum and those that came in the open. */
static enum tier_status add_others(const struct tier_secure_fold *f, const struct tier_fold *fold,
                                   const struct tier_hash *sum, struct tier_hash *id_out,
                                   struct tier_err *err) {
    struct tier_hash *inputs = need(calloc(fold->count + 1, sizeof *inputs));
    struct tier_fold all = *fold;

    all.inputs = inputs;
    all.count = 0;
    for (size_t i = 0; i < fold->count; i++)
        if (!is_masked(f, &fold->inputs[i]))
            inputs[all.count++] = fold->inputs[i];
    if (all.count == 0) {
        *id_out = *sum;
        free(inputs);
        return TIER_OK;
    }
    inputs[all.count++] = *sum;
    enum tier_status st = tier_fold_run(&all, id_out, err);
    tier_spool_delete(fold->spool, sum, NULL);
    free(inputs);
    return st;
}

enum tier_status tier_secure_fold_run(const struct tier_secure_fold *f,
                                      const struct tier_fold *fold, struct tier_hash *id_out,
                                      struct tier_err *err) {
    const struct tier_masked_fold masked = {.spool = fold->spool,
                                            .manifest = fold->manifest,
                                            .run = fold->run,
                                            .round = fold->round,
                                            .base_model = fold->base_model,
                                            .inputs = f->masked,
                                            .count = f->masked_count,
                                            .terms = f->terms,
                                            .term_count = f->term_count};
    struct tier_hash sum;

    if (f->masked_count == 0)
        return tier_fold_run(fold, id_out, err);
    TIER_TRY(tier_masked_fold(&masked, &sum, err));
    TIER_TRY(check_sum(f, fold, &sum, err));
    return add_others(f, fold, &sum, id_out, err);
}

/* ---- what masks a sum, as a file ---- */

#define MAGIC "consmsk1"
#define HEAD_BYTES 12u
#define TERM_BYTES (TIER_MASK_KEY_BYTES + 1u)

enum tier_status tier_secure_terms_store(const char *dir, const struct tier_mask_term *terms,
                                         size_t count, struct tier_hash *hash_out,
                                         struct tier_err *err) {
    size_t bytes = HEAD_BYTES + count * TERM_BYTES;
    uint8_t *data = need(malloc(bytes));

    memcpy(data, MAGIC, 8);
    tier_put_u32(data + 8, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        uint8_t *at = data + HEAD_BYTES + i * TERM_BYTES;
        memcpy(at, terms[i].key, TIER_MASK_KEY_BYTES);
        at[TIER_MASK_KEY_BYTES] = terms[i].minus;
    }
    enum tier_status st = tier_content_store(dir, TIER_SECURE_TERMS, data, bytes, hash_out, err);
    OPENSSL_cleanse(data, bytes);
    free(data);
    return st;
}

static enum tier_status read_terms(const char *path, FILE *f, struct tier_hash *hash_out,
                                   struct tier_mask_term **out, size_t *count_out,
                                   struct tier_err *err) {
    uint8_t head[HEAD_BYTES], more;

    if (fread(head, 1, sizeof head, f) != sizeof head || memcmp(head, MAGIC, 8) != 0 ||
        tier_get_u32(head + 8) > TIER_SECURE_TERMS_MAX)
        return tier_fail(err, TIER_ECORRUPT, "%s is no file of masks", path);
    size_t count = tier_get_u32(head + 8), bytes = count * TERM_BYTES;
    uint8_t *data = need(malloc(HEAD_BYTES + bytes));
    memcpy(data, head, HEAD_BYTES);
    bool whole = fread(data + HEAD_BYTES, 1, bytes, f) == bytes && fread(&more, 1, 1, f) == 0;
    struct tier_mask_term *terms = need(calloc(count + 1, sizeof *terms));
    for (size_t i = 0; whole && i < count; i++) {
        const uint8_t *at = data + HEAD_BYTES + i * TERM_BYTES;
        memcpy(terms[i].key, at, TIER_MASK_KEY_BYTES);
        terms[i].minus = at[TIER_MASK_KEY_BYTES] != 0;
    }
    tier_hash_data(data, HEAD_BYTES + bytes, hash_out);
    OPENSSL_cleanse(data, HEAD_BYTES + bytes);
    free(data);
    if (!whole) {
        tier_mask_terms_free(terms, count);
        return tier_fail(err, TIER_ECORRUPT, "%s does not hold %zu masks", path, count);
    }
    *out = terms;
    *count_out = count;
    return TIER_OK;
}

enum tier_status tier_secure_terms_load(const char *path, const struct tier_hash *hash,
                                        struct tier_mask_term **out, size_t *count_out,
                                        struct tier_err *err) {
    FILE *f = fopen(path, "rb");
    struct tier_mask_term *terms = NULL;
    struct tier_hash is;
    size_t count = 0;

    if (!f)
        return tier_fail_errno(err, TIER_ENOTFOUND, "%s cannot be read", path);
    enum tier_status st = read_terms(path, f, &is, &terms, &count, err);
    fclose(f);
    if (st == TIER_OK && !tier_hash_equal(&is, hash)) {
        tier_mask_terms_free(terms, count);
        st = tier_fail(err, TIER_ECORRUPT, "%s is not what it is named: it was altered", path);
    }
    if (st == TIER_OK) {
        *out = terms;
        *count_out = count;
    }
    return st;
}
