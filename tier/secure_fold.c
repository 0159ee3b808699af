/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/secure_fold.h"

#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/masked.h"
#include "tier/narrow.h"
#include "tier/segment.h"
#include "tier/site.h"
#include "tier/statistics.h"
#include "tier/task.h"
#include "tier/vault.h"

#include <fcntl.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* ---- norms ---- */

struct norm {
    double squares, slack; /* of the mean's elements; of what rounding adds to each: a unit */
};

/* The parameters among the elements [from, from + n), whose sums are in hi. */
static void add_squares(struct norm *norm, const struct tier_manifest *m, uint64_t from, size_t n,
                        const int64_t *hi, double weight, unsigned shift) {
    for (size_t t = 0; t < m->count; t++) {
        const struct tier_tensor *tensor = &m->tensors[t];
        uint64_t end = tensor->at + tensor->count;
        if (tensor->state || end <= from || tensor->at >= from + n)
            continue;
        double q = ldexp(1, -tensor->frac_bits), unit = ldexp(q, (int)shift);
        uint64_t at = tensor->at > from ? tensor->at : from;
        for (; at < end && at < from + n; at++) {
            double x = (double)hi[at - from] / weight * q;
            norm->squares += x * x;
            norm->slack += unit * unit;
        }
    }
}

static enum tier_status norm_of(const struct tier_update *u, const struct tier_manifest *m,
                                unsigned shift, struct norm *out, struct tier_err *err) {
    size_t n = tier_segment_elements_max(m), wide = tier_segment_wide_max(m);
    int64_t *sums = need(malloc((n + wide) * sizeof *sums));
    uint8_t *scratch = need(malloc(tier_segment_scratch_bytes(m)));
    double weight = (double)tier_spool_update_header(u)->weight;
    struct tier_segment_cursor cursor;
    struct tier_extent extent;
    uint64_t from = 0;
    enum tier_status st;

    *out = (struct norm){0};
    TIER_TRY_OUT(tier_segment_cursor_init(&cursor, u, m, err));
    for (uint64_t i = 0; i < tier_manifest_segments(m); i++) {
        size_t here_wide, here = tier_manifest_segment(m, i, &here_wide);
        memset(sums, 0, (n + wide) * sizeof *sums);
        TIER_TRY_OUT(tier_segment_cursor_next(&cursor, &extent, err));
        TIER_TRY_OUT(tier_segment_add(u, 1, m, i, extent, NULL, scratch, sums, sums + here, err));
        add_squares(out, m, from, here, sums, weight, shift);
        from += here;
    }
out:
    free(sums);
    free(scratch);
    return st;
}

enum tier_status tier_secure_norm_check(const struct tier_plan *plan, const struct tier_update *sum,
                                        const struct tier_manifest *manifest,
                                        struct tier_err *err) {
    double most = plan->secure.norm_max;
    struct norm norm;

    if (!(most > 0) || tier_spool_update_header(sum)->weight == 0)
        return TIER_OK;
    TIER_TRY(norm_of(sum, manifest, tier_narrow_shift(plan), &norm, err));
    double got = sqrt(norm.squares);
    if (got <= most * (1 + 1e-6) + sqrt(norm.slack))
        return TIER_OK;
    return tier_fail(err, TIER_EUPDATE,
                     "the mean of the sum has norm %g, and no mean of changes that keep to the "
                     "plan's secure.norm_max, %g, has",
                     got, most);
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
    if (st == TIER_OK)
        st = tier_site_check(f->plan, h, err);
    if (st == TIER_OK && tier_site_on(f->plan) && h->weight > f->masked_count)
        st = tier_fail(err, TIER_EUPDATE,
                       "the sum over %zu sites weighs %" PRIu64
                       ", and with privacy.site each weighs 1",
                       f->masked_count, h->weight);
    if (st == TIER_OK && h->weight > f->plan->weight_total_max)
        st = tier_fail(err, TIER_EUPDATE,
                       "the sum weighs %" PRIu64 ", above the plan's weight_total_max", h->weight);
    if (st == TIER_OK)
        st = tier_secure_norm_check(f->plan, u, fold->manifest, err);
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
                                            .shift = tier_narrow_shift(f->plan),
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

static enum tier_status read_terms(const char *path, int fd, struct tier_hash *hash_out,
                                   struct tier_mask_term **out, size_t *count_out,
                                   struct tier_err *err) {
    const uint64_t most = HEAD_BYTES + (uint64_t)TIER_SECURE_TERMS_MAX * TERM_BYTES;
    struct tier_cipher cipher;
    struct stat sb;

    if (fstat(fd, &sb) != 0)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    TIER_TRY(tier_cipher_of(path, fd, &cipher, err));
    uint64_t bytes = tier_cipher_bytes(&cipher, (uint64_t)sb.st_size);
    if (bytes < HEAD_BYTES || bytes > most) {
        tier_cipher_wipe(&cipher);
        return tier_fail(err, TIER_ECORRUPT, "%s is no file of masks", path);
    }
    uint8_t *data = need(malloc(bytes));
    ssize_t got = tier_cipher_pread(&cipher, fd, data, bytes, 0);
    tier_cipher_wipe(&cipher);
    bool whole = got == (ssize_t)bytes && memcmp(data, MAGIC, 8) == 0;
    size_t count = whole ? tier_get_u32(data + 8) : 0;
    whole = whole && count <= TIER_SECURE_TERMS_MAX && bytes == HEAD_BYTES + count * TERM_BYTES;
    count = whole ? count : 0;
    struct tier_mask_term *terms = need(calloc(count + 1, sizeof *terms));
    for (size_t i = 0; whole && i < count; i++) {
        const uint8_t *at = data + HEAD_BYTES + i * TERM_BYTES;
        memcpy(terms[i].key, at, TIER_MASK_KEY_BYTES);
        terms[i].minus = at[TIER_MASK_KEY_BYTES] == 1;
        whole = at[TIER_MASK_KEY_BYTES] <= 1;
    }
    tier_hash_data(data, bytes, hash_out);
    OPENSSL_cleanse(data, bytes);
    free(data);
    if (!whole) {
        tier_mask_terms_free(terms, count);
        return tier_fail(err, TIER_ECORRUPT, "%s is no file of masks, or is cut off", path);
    }
    *out = terms;
    *count_out = count;
    return TIER_OK;
}

enum tier_status tier_secure_terms_load(const char *path, const struct tier_hash *hash,
                                        struct tier_mask_term **out, size_t *count_out,
                                        struct tier_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct tier_mask_term *terms = NULL;
    struct tier_hash is;
    size_t count = 0;

    if (fd < 0)
        return tier_fail_errno(err, TIER_ENOTFOUND, "%s cannot be read", path);
    enum tier_status st = read_terms(path, fd, &is, &terms, &count, err);
    close(fd);
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
