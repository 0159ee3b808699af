/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Payloads of a hostile child: sealed correctly, whatever they hold. Verifying must refuse them or
 * find sums that fold; a fold of what was verified must succeed, and so must every other merge.
 * A payload may be zipped: the first byte's bit 3. What float16, bfloat16 and the largest elements
 * decode to seals to the same update again.
 */
#include "fuzz/fuzz.h"
#include "kernels/kern.h"
#include "tier/codec.h"
#include "tier/decode.h"
#include "tier/merge.h"
#include "tier/spool.h"
#include "tier/zip.h"

#include <string.h>
#include <unistd.h>

#define NARROW 700
#define WIDE 40
#define ALL (NARROW + WIDE)

static struct tier_spool *spool;
static struct tier_manifest *with_wide, *narrow;
static char dir[] = "/tmp/consilium-fuzz-XXXXXX";

static void down(void) {
    tier_spool_close(spool);
    tier_manifest_free(with_wide);
    tier_manifest_free(narrow);
    rmdir(dir);
}

static void up(void) {
    struct tier_tensor t[2] = {{.name = "a", .ndim = 1, .dims = {NARROW}, .frac_bits = 30},
                               {.name = "b", .ndim = 1, .dims = {WIDE}, .frac_bits = 20}};
    t[1].wide = true;
    FUZZ_CHECK(mkdtemp(dir) != NULL);
    FUZZ_CHECK(tier_spool_open(dir, false, &spool, NULL) == TIER_OK);
    FUZZ_CHECK(tier_manifest_new(t, 2, &with_wide, NULL) == TIER_OK);
    t[1].wide = false;
    t[1].frac_bits = t[0].frac_bits;
    FUZZ_CHECK(tier_manifest_new(t, 2, &narrow, NULL) == TIER_OK);
    atexit(down);
}

static enum tier_encoding encoding_of(uint8_t byte) {
    return (enum tier_encoding)(TIER_ENC_F32 + byte % 8);
}

static bool zipped_of(uint8_t byte) {
    return (byte & 8) && tier_zip_takes(encoding_of(byte));
}

static const struct tier_manifest *manifest_of(enum tier_encoding encoding) {
    return encoding <= TIER_ENC_SUM ? with_wide : narrow;
}

static struct tier_update_header header_of(enum tier_encoding encoding) {
    return (struct tier_update_header){
        .weight = 3, .manifest = manifest_of(encoding)->hash, .encoding = encoding};
}

static bool sealed(const uint8_t *data, size_t size, struct tier_hash *id) {
    struct tier_update_header h = header_of(encoding_of(data[0]));
    struct tier_spool_writer *w = NULL;

    h.zipped = zipped_of(data[0]);
    FUZZ_CHECK(tier_spool_writer_begin(spool, &h, &w, NULL) == TIER_OK);
    FUZZ_CHECK(tier_spool_writer_append(w, data + 1, size - 1, NULL) == TIER_OK);
    return tier_spool_writer_seal(w, 0, id, NULL) == TIER_OK;
}

/* Decodes an update that was accepted, and seals it again. */
static void check_again(const struct tier_update *u, enum tier_encoding encoding) {
    struct tier_update_header h = header_of(encoding);
    struct tier_segment_cursor cursor;
    struct tier_decoder decoder;
    struct tier_extent extent;
    struct tier_hash again;
    size_t count = 0;
    float x[ALL];

    FUZZ_CHECK(tier_segment_cursor_init(&cursor, u, narrow, NULL) == TIER_OK);
    FUZZ_CHECK(tier_segment_cursor_next(&cursor, &extent, NULL) == TIER_OK);
    FUZZ_CHECK(tier_decoder_begin(&decoder, u, narrow, 0, extent, NULL, NULL) == TIER_OK);
    for (size_t at = 0; at < ALL; at += 256)
        FUZZ_CHECK(tier_decoder_next(&decoder, x + at, ALL - at < 256 ? ALL - at : 256, NULL) ==
                   TIER_OK);
    for (size_t i = 0; i < ALL; i++)
        count += x[i] != 0;
    const struct tier_seal_as as = {.encoding = encoding,
                                    .share = (double)(count > 0 ? count : 1) / ALL};
    FUZZ_CHECK(tier_update_seal(spool, &h, narrow, x, false, &as, &again, NULL) == TIER_OK);
    FUZZ_CHECK(tier_hash_equal(&again, tier_spool_update_id(u)));
}

/* A rule that sees blocks and one that sees inner products: both read what the fold reads. */
static void merge(const struct tier_fold *fold, enum tier_status folded) {
    static const struct tier_plan_merge rules[] = {{.rule.choice = TIER_PLAN_MEDIAN},
                                                   {.rule.choice = TIER_PLAN_NORM_BOUND}};
    for (size_t i = 0; i < 2; i++) {
        struct tier_merge m = {
            .fold = *fold, .rule = tier_merge_rule_of(&rules[i]), .settings = &rules[i]};
        struct tier_hash id;
        m.fold.memory_bytes = tier_merge_memory_min(fold->manifest, m.rule, m.settings, 1);
        enum tier_status merged = tier_merge_run(&m, &id, NULL);
        FUZZ_CHECK(merged == folded);
        /* What one update merges to may be that very update. */
        if (merged == TIER_OK && !tier_hash_equal(&id, fold->inputs))
            tier_spool_delete(spool, &id, NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_hash id, sum;
    struct tier_update *u = NULL;

    if (!spool)
        up();
    if (size < 2 || !sealed(data, size, &id))
        return 0;
    enum tier_encoding encoding = encoding_of(data[0]);
    const struct tier_manifest *manifest = manifest_of(encoding);
    FUZZ_CHECK(tier_spool_update_open(spool, &id, &u, NULL) == TIER_OK);
    struct tier_fold fold = {.spool = spool,
                             .manifest = manifest,
                             .inputs = &id,
                             .count = 1,
                             .threads = 1,
                             .memory_bytes = tier_fold_memory_min(manifest, 1)};
    enum tier_status verified = tier_update_verify(u, manifest, NULL);
    enum tier_status folded = tier_fold_run(&fold, &sum, NULL);
    FUZZ_CHECK(verified == TIER_OK || verified == TIER_EUPDATE);
    FUZZ_CHECK(folded == verified);
    bool zipped = zipped_of(data[0]);
    /* A sum of one sum is the same sum; it was accepted, so it was canonical already. */
    if (folded == TIER_OK && encoding == TIER_ENC_SUM)
        FUZZ_CHECK(tier_hash_equal(&sum, &id));
    if (folded == TIER_OK && !zipped &&
        (encoding == TIER_ENC_F16 || encoding == TIER_ENC_BF16 || encoding == TIER_ENC_TOPK))
        check_again(u, encoding);
    if (!zipped) /* which merges take none of */
        merge(&fold, folded);
    tier_spool_update_close(u);
    tier_spool_delete(spool, &id, NULL);
    if (folded == TIER_OK)
        tier_spool_delete(spool, &sum, NULL);
    return 0;
}

static size_t seed_sums(unsigned i, uint8_t *out) {
    int64_t hi[ALL], lo[WIDE];
    size_t n = 0;

    for (size_t k = 0; k < ALL; k++) {
        hi[k] = (int64_t)(k * 2654435761u % (UINT64_C(3) << 30)) - (INT64_C(3) << 29);
        lo[k % WIDE] = hi[k] >> i;
    }
    n += tier_pack(hi, ALL, out + n);
    n += tier_pack(lo, WIDE, out + n);
    memcpy(out + n, &(uint32_t){(uint32_t)n}, 4);
    return n + 4;
}

/* Twice each encoding, four times where it may be zipped; of the largest elements once with gaps,
 * once with a bitmap. */
static size_t seed_zipped(enum tier_encoding encoding, uint8_t *out, size_t n) {
    const uint8_t *frame = NULL;
    struct tier_zip *z = NULL;

    if (encoding == TIER_ENC_TOPK)
        n -= 4; /* its directory */
    FUZZ_CHECK(tier_zip_new(n, &z, NULL) == TIER_OK);
    size_t shorter = tier_zip_pack(z, encoding, out, n, &frame);
    if (shorter > 0)
        memcpy(out, frame, shorter);
    uint32_t entry = shorter > 0 ? (uint32_t)shorter | TIER_SEGMENT_ZIPPED : (uint32_t)n;
    n = shorter > 0 ? shorter : n;
    tier_zip_free(z);
    memcpy(out + n, &entry, 4);
    return n + 4;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    enum tier_encoding encoding = encoding_of((uint8_t)i);
    uint16_t halves[ALL];
    float x[ALL];
    size_t n;

    if (i >= 32)
        return 0;
    FUZZ_CHECK(room > 1 + TIER_PACK_BOUND(NARROW + 2 * WIDE) + 16);
    *out++ = (uint8_t)i;
    for (size_t k = 0; k < ALL; k++)
        x[k] = (float)(k * 37 % ALL) / 800;
    n = (size_t)tier_encoding_bytes(encoding, ALL);
    switch (encoding) {
    case TIER_ENC_F32:
        memcpy(out, x, n);
        break;
    case TIER_ENC_SUM:
        n = seed_sums(i, out);
        break;
    case TIER_ENC_F16:
    case TIER_ENC_BF16:
        if (encoding == TIER_ENC_F16)
            kern_f16_encode(halves, x, ALL, 15);
        else
            kern_bf16_encode(halves, x, ALL);
        memcpy(out, halves, n);
        break;
    case TIER_ENC_Q8:
    case TIER_ENC_Q4:
        kern_quant_encode(out, x, ALL, encoding == TIER_ENC_Q8 ? 8 : 4, i, 0);
        break;
    case TIER_ENC_ONEBIT:
        kern_onebit_encode(out, x, ALL, 0);
        break;
    case TIER_ENC_TOPK:
        n = tier_topk_encode(x, ALL, i < 16 ? ALL / 50 : ALL / 2, out);
        memcpy(out + n, &(uint32_t){(uint32_t)n}, 4);
        n += 4;
        break;
    case TIER_ENC_MASKED32:
    case TIER_ENC_MASKED: /* any words are right: none are read */
        break;
    }
    if (zipped_of((uint8_t)i))
        n = seed_zipped(encoding, out, n);
    return 1 + n;
}
