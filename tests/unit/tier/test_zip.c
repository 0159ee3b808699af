/* SPDX-License-Identifier: Apache-2.0 */
/* Segments as zstd frames: the same elements and sums, fewer bytes, and nothing believed. */
#include "support/merge_fixture.h"
#include "tier/bytes.h"
#include "tier/decode.h"

#include <zstd.h>

static const enum tier_encoding all[] = {TIER_ENC_F32, TIER_ENC_F16, TIER_ENC_BF16,
                                         TIER_ENC_Q8,  TIER_ENC_Q4,  TIER_ENC_TOPK};
#define ALL (sizeof all / sizeof all[0])

/* Two tensors of clip 8. */
static struct tier_manifest *manifest_of_two(uint64_t a, uint64_t b) {
    struct tier_tensor t[] = {tensor_of("a", a, 0, 27, false), tensor_of("b", b, 0, 27, false)};
    return manifest_of(t, 2);
}

static struct tier_hash sealed_as(struct tier_spool *spool, const struct tier_manifest *m,
                                  const float *x, const struct tier_seal_as *as) {
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    MUST(tier_update_seal(spool, &h, m, x, false, as, &id, err));
    return id;
}

static struct tier_fold fold_of(struct tier_spool *spool, const struct tier_manifest *m,
                                const struct tier_hash *ids, size_t count) {
    struct tier_update_header h = header_for(m, 5);
    return (struct tier_fold){.spool = spool,
                              .manifest = m,
                              .run = h.run,
                              .round = h.round,
                              .base_model = h.base_model,
                              .inputs = ids,
                              .count = count,
                              .threads = 2,
                              .memory_bytes = 2 * tier_fold_memory_min(m, count)};
}

static uint64_t bytes_of(struct tier_spool *spool, const struct tier_hash *id) {
    struct tier_update *u = update_open(spool, id);
    uint64_t bytes = tier_spool_update_header(u)->payload_bytes;
    MUST(tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    return bytes;
}

/* All elements, with one unzip for all segments; to be freed. */
static float *decoded(struct tier_spool *spool, const struct tier_manifest *m,
                      const struct tier_hash *id) {
    struct tier_update *u = update_open(spool, id);
    struct tier_segment_cursor cursor;
    struct tier_unzip unzip = {.room = 0};
    float *x = malloc(m->elements * sizeof *x);
    MUST(tier_update_verify(u, m, err));
    MUST(tier_segment_cursor_init(&cursor, u, m, err));
    for (uint64_t i = 0; i < tier_manifest_segments(m); i++) {
        struct tier_decoder d;
        struct tier_extent extent;
        size_t n = tier_manifest_segment(m, i, NULL);
        MUST(tier_segment_cursor_next(&cursor, &extent, err));
        MUST(tier_decoder_begin(&d, u, m, i, extent, &unzip, err));
        for (size_t at = 0, step; at < n; at += step) {
            step = n - at < 1024 ? n - at : 1024;
            MUST(tier_decoder_next(&d, x + i * TIER_SEGMENT_ELEMENTS + at, step, err));
        }
    }
    if (unzip.zstd) /* what a fold counts for the context is no less than it takes */
        CHECK(ZSTD_sizeof_DCtx(unzip.zstd) <= tier_unzip_memory(0));
    tier_unzip_release(&unzip);
    tier_spool_update_close(u);
    return x;
}

Test(tier_zip, elements_sums_and_what_is_dropped_are_the_same_and_bytes_are_fewer) {
    static const uint64_t sizes[] = {1, 700, TIER_SEGMENT_ELEMENTS, TIER_SEGMENT_ELEMENTS + 1001};
    uint64_t seed = 41;
    struct tier_spool *spool = spool_up(false);
    for (size_t k = 0; k < 4; k++) {
        struct tier_manifest *m = manifest_of_two(sizes[k], 333);
        size_t n = m->elements;
        struct tier_hash zipped[ALL], plain[ALL], sums[2];
        float *dropped = malloc(2 * n * sizeof *dropped);
        for (size_t e = 0; e < ALL; e++) {
            float *x = deltas_random(m, 1e-3, &seed);
            struct tier_seal_as as = {
                .encoding = all[e], .key = 9, .share = 0.1, .dropped = dropped, .zip = true};
            zipped[e] = sealed_as(spool, m, x, &as);
            as.zip = false;
            as.dropped = dropped + n;
            plain[e] = sealed_as(spool, m, x, &as);
            CHECK(memcmp(dropped, dropped + n, n * sizeof *x) == 0);
            CHECK(k < 2 || all[e] == TIER_ENC_Q8 ||
                      bytes_of(spool, &zipped[e]) < bytes_of(spool, &plain[e]),
                  "%s of %zu", tier_encoding_text(all[e]), n);
            float *a = decoded(spool, m, &zipped[e]), *b = decoded(spool, m, &plain[e]);
            CHECK(memcmp(a, b, n * sizeof *x) == 0, "%s", tier_encoding_text(all[e]));
            free(a);
            free(b);
            free(x);
        }
        struct tier_fold f = fold_of(spool, m, zipped, ALL);
        MUST(tier_fold_run(&f, &sums[0], err));
        f = fold_of(spool, m, plain, ALL);
        MUST(tier_fold_run(&f, &sums[1], err));
        CHECK(tier_hash_equal(&sums[0], &sums[1]));
        /* A fold whose budget is the least takes them too. */
        f = fold_of(spool, m, zipped, ALL);
        f.memory_bytes = tier_fold_memory_min(m, ALL);
        MUST(tier_fold_run(&f, &sums[0], err));
        CHECK(tier_hash_equal(&sums[0], &sums[1]));
        free(dropped);
        tier_manifest_free(m);
    }
    tier_spool_close(spool);
    fixture_down();
}

Test(tier_zip, the_same_deltas_give_the_same_file_in_pieces_of_any_size, .fini = fixture_down) {
    uint64_t seed = 42;
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(TIER_SEGMENT_ELEMENTS, 5000);
    struct tier_update_header h = header_for(m, 5);
    float *x = deltas_random(m, 1e-3, &seed);
    for (size_t e = 0; e < ALL; e++) {
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 9, .share = 0.01, .dropped = NULL, .zip = true};
        struct tier_hash whole = sealed_as(spool, m, x, &as), parts;
        struct tier_sealer *s = NULL;
        MUST(tier_sealer_begin_as(spool, &h, m, false, &as, &s, err));
        for (size_t at = 0, n; at < m->elements; at += n) {
            n = 1 + rng_below(&seed, 100000);
            n = n < m->elements - at ? n : m->elements - at;
            MUST(tier_sealer_append(s, x + at, n, err));
        }
        MUST(tier_sealer_finish(s, &parts, err));
        CHECK(tier_hash_equal(&whole, &parts));
    }
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_zip, a_segment_that_does_not_shrink_is_stored_as_it_is, .fini = fixture_down) {
    uint64_t seed = 43;
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(TIER_SEGMENT_ELEMENTS, 9000);
    float *x = malloc(m->elements * sizeof *x);
    for (size_t i = 0; i < m->elements; i++) /* noise, then nothing */
        x[i] = i < TIER_SEGMENT_ELEMENTS ? (float)(2 * rng_unit(&seed) - 1) : 0;
    const struct tier_seal_as as = {
        .encoding = TIER_ENC_Q8, .key = 1, .share = 0, .dropped = NULL, .zip = true};
    struct tier_hash id = sealed_as(spool, m, x, &as);
    struct tier_update *u = update_open(spool, &id);
    struct tier_segment_cursor cursor;
    struct tier_extent first, second;
    MUST(tier_segment_cursor_init(&cursor, u, m, err));
    MUST(tier_segment_cursor_next(&cursor, &first, err));
    MUST(tier_segment_cursor_next(&cursor, &second, err));
    uint64_t raw = tier_encoding_bytes(TIER_ENC_Q8, TIER_SEGMENT_ELEMENTS);
    CHECK(!first.zipped && first.bytes == raw);
    CHECK(second.zipped && second.bytes < 100);
    tier_spool_update_close(u);
    free(decoded(spool, m, &id));
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_zip, sums_and_single_bits_are_never_zipped, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    struct tier_update_header h = header_for(m, 5);
    const struct tier_seal_as as = {
        .encoding = TIER_ENC_ONEBIT, .key = 1, .share = 0, .dropped = NULL, .zip = true};
    float x[1400] = {0};
    struct tier_hash id;
    uint8_t *bytes = NULL;
    size_t n = 0;
    REFUSED(TIER_EARG, "one_bit becomes no shorter",
            tier_update_seal(spool, &h, m, x, false, &as, &id, err));
    h.zipped = true;
    h.payload_bytes = 100;
    h.encoding = TIER_ENC_SUM;
    REFUSED(TIER_EARG, "sum in zstd frames", tier_update_header_encode(&h, &bytes, &n, err));
    /* The word of the encoding in a header that is right otherwise. */
    h.encoding = TIER_ENC_TOPK;
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    cr_assert(eq(u32, tier_get_u32(bytes + 128), TIER_ENC_TOPK | 1u << 16));
    struct tier_update_header back;
    MUST(tier_update_header_decode(bytes, n, &back, err));
    CHECK(back.zipped && back.encoding == TIER_ENC_TOPK);
    tier_update_header_release(&back);
    tier_put_u32(bytes + 128, TIER_ENC_ONEBIT | 1u << 16);
    REFUSED(TIER_EUPDATE, "one_bit in zstd frames",
            tier_update_header_decode(bytes, n, &back, err));
    tier_put_u32(bytes + 128, TIER_ENC_TOPK | 1u << 17);
    REFUSED(TIER_EUPDATE, "encoding 131079", tier_update_header_decode(bytes, n, &back, err));
    free(bytes);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* ---- hostile children ------------------------------------------------------------------------ */

/* Any payload, sealed correctly: verifying and folding refuse it alike. */
static void refused(struct tier_spool *spool, const struct tier_manifest *m,
                    enum tier_encoding encoding, const void *payload, size_t n, const char *word) {
    struct tier_update_header h = header_for(m, 5);
    h.encoding = encoding;
    h.zipped = true;
    struct tier_hash id = sealed_raw(spool, &h, payload, n), sum;
    struct tier_update *u = update_open(spool, &id);
    REFUSED(TIER_EUPDATE, word, tier_update_verify(u, m, err));
    struct tier_fold f = fold_of(spool, m, &id, 1);
    REFUSED(TIER_EUPDATE, word, tier_fold_run(&f, &sum, err));
    tier_spool_update_close(u);
    MUST(tier_spool_delete(spool, &id, err));
}

/* One segment: `n` bytes and a directory of that entry. */
static void segment_refused(struct tier_spool *spool, const struct tier_manifest *m,
                            enum tier_encoding encoding, const uint8_t *bytes, size_t n,
                            uint32_t entry, const char *word) {
    uint8_t payload[8000];
    memcpy(payload, bytes, n);
    tier_put_u32(payload + n, entry);
    refused(spool, m, encoding, payload, n + 4, word);
}

#define ELEMENTS 1400
#define FRAME(n) ((uint32_t)(n) | TIER_SEGMENT_ZIPPED)

Test(tier_zip, a_childs_frames_are_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    uint8_t raw[8 * ELEMENTS] = {0}, f[8 * ELEMENTS], g[8 * ELEMENTS];
    const size_t right = 4 * ELEMENTS;
    for (size_t i = 0; i < right; i++)
        raw[i] = i % 3 ? 0 : (uint8_t)(i * i >> 5 & 0x3f);
    size_t n = ZSTD_compress(f, sizeof f, raw, right, 1);
    struct {
        uint8_t skip[8 + 16];
    } skipped = {{0x50, 0x2a, 0x4d, 0x18, 16}};

    segment_refused(spool, m, TIER_ENC_F32, f, n - 1, FRAME(n - 1), "does not end where");
    segment_refused(spool, m, TIER_ENC_F32, f, 3, FRAME(3), "no zstd frame begins");
    segment_refused(spool, m, TIER_ENC_F32, f, 5, FRAME(5), "segment 0: its zstd frame");
    segment_refused(spool, m, TIER_ENC_F32, raw, 200, FRAME(200), "no zstd frame begins");
    segment_refused(spool, m, TIER_ENC_F32, skipped.skip, sizeof skipped.skip,
                    FRAME(sizeof skipped.skip), "no zstd frame begins");
    /* Behind the frame: a byte, a frame that is skipped, another frame. */
    memcpy(g, f, n);
    g[n] = 0;
    segment_refused(spool, m, TIER_ENC_F32, g, n + 1, FRAME(n + 1), "does not end where");
    memcpy(g + n, skipped.skip, sizeof skipped.skip);
    segment_refused(spool, m, TIER_ENC_F32, g, n + sizeof skipped.skip,
                    FRAME(n + sizeof skipped.skip), "does not end where");
    size_t half = ZSTD_compress(g, sizeof g, raw, right / 2, 1);
    half += ZSTD_compress(g + half, sizeof g - half, raw, right / 2, 1);
    segment_refused(spool, m, TIER_ENC_F32, g, half, FRAME(half), "holds 2800 bytes; 5600 to 5600");
    /* More than it may hold, less, and 4 GiB that it says it holds. */
    size_t k = ZSTD_compress(g, sizeof g, raw, right + 4, 1);
    segment_refused(spool, m, TIER_ENC_F32, g, k, FRAME(k), "holds 5604 bytes");
    k = ZSTD_compress(g, sizeof g, raw, right - 4, 1);
    segment_refused(spool, m, TIER_ENC_F32, g, k, FRAME(k), "holds 5596 bytes");
    static const uint8_t bomb[] = {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff,
                                   0xff, 0xff, 0x03, 0x00, 0x10, 0x00, 0x00};
    segment_refused(spool, m, TIER_ENC_F32, bomb, sizeof bomb, FRAME(sizeof bomb),
                    "holds 4294967295 bytes");
    /* It says 5600 and holds one block of 1400. */
    static const uint8_t liar[] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe0,
                                   0x14, 0xc3, 0x2b, 0x00, 0x07};
    segment_refused(spool, m, TIER_ENC_F32, liar, sizeof liar, FRAME(sizeof liar),
                    "damaged, or holds less");
    /* It says 5600 and holds one block of 8192: what does not fit is not written. */
    static const uint8_t glut[] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xe0,
                                   0x14, 0x03, 0x00, 0x01, 0x07};
    segment_refused(spool, m, TIER_ENC_F32, glut, sizeof glut, FRAME(sizeof glut), "damaged");
    /* No content size: a stream whose end was not known. */
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    k = ZSTD_compress2(c, g, sizeof g, raw, right);
    segment_refused(spool, m, TIER_ENC_F32, g, k, FRAME(k), "does not say how much");
    ZSTD_freeCCtx(c);
    memcpy(g, f, n);
    g[n / 2] ^= 0x55;
    g[n - 2] ^= 0xff;
    struct tier_update_header h = header_for(m, 5);
    tier_put_u32(g + n, FRAME(n));
    h.encoding = TIER_ENC_F32, h.zipped = true;
    struct tier_hash id = sealed_raw(spool, &h, g, n + 4);
    struct tier_update *u = update_open(spool, &id);
    CHECK(tier_update_verify(u, m, NULL) == TIER_EUPDATE);
    tier_spool_update_close(u);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_zip, a_childs_directory_is_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    uint8_t raw[8 * ELEMENTS] = {0}, f[8 * ELEMENTS];
    size_t n = ZSTD_compress(f, sizeof f, raw, 4 * ELEMENTS, 1);
    segment_refused(spool, m, TIER_ENC_F32, f, n, FRAME(n + 1), "past the end of the payload");
    segment_refused(spool, m, TIER_ENC_F32, f, n, FRAME(n - 1), "bytes are left between");
    segment_refused(spool, m, TIER_ENC_F32, f, n, FRAME(4 * ELEMENTS + 1), "more bytes than it");
    segment_refused(spool, m, TIER_ENC_F32, f, n, UINT32_MAX, "more bytes than it");
    /* As it is, but not all of it. */
    segment_refused(spool, m, TIER_ENC_F32, f, n, (uint32_t)n, "has not the bytes it should");
    segment_refused(spool, m, TIER_ENC_F32, raw, 4 * ELEMENTS - 4, 4 * ELEMENTS - 4,
                    "has not the bytes it should");
    refused(spool, m, TIER_ENC_F32, raw, 4, "has 5 to 5604");
    refused(spool, m, TIER_ENC_F32, raw, 4 * ELEMENTS + 5, "has 5 to 5604");
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* A frame whose segment is wrong in itself is refused as the segment would be. */
Test(tier_zip, what_a_frame_holds_is_not_believed_either, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    uint8_t raw[8 * ELEMENTS] = {0}, f[8 * ELEMENTS];
    float nan = NAN;
    for (size_t k = 0; k < 4; k++) /* element 900, its bytes in four planes */
        raw[900 + k * ELEMENTS] = ((const uint8_t *)&nan)[k];
    size_t n = ZSTD_compress(f, sizeof f, raw, 4 * ELEMENTS, 1);
    segment_refused(spool, m, TIER_ENC_F32, f, n, FRAME(n), "tensor b, element 200 is nan");
    /* Of the largest: more values than there are bytes for, and none but too many bytes. */
    memset(raw, 0, sizeof raw);
    tier_put_u32(raw, 1000);
    n = ZSTD_compress(f, sizeof f, raw, 3000, 1);
    segment_refused(spool, m, TIER_ENC_TOPK, f, n, FRAME(n), "too short for its values");
    tier_put_u32(raw, 0);
    n = ZSTD_compress(f, sizeof f, raw, 500, 1);
    segment_refused(spool, m, TIER_ENC_TOPK, f, n, FRAME(n), "does not fit its places");
    n = ZSTD_compress(f, sizeof f, raw, TIER_TOPK_BOUND(ELEMENTS) + 1, 1);
    segment_refused(spool, m, TIER_ENC_TOPK, f, n, FRAME(n), "5 to 5780 are possible");
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_zip, a_rule_that_reads_updates_side_by_side_takes_none, .fini = fixture_down) {
    uint64_t seed = 44;
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    struct tier_plan_merge settings = settings_of(TIER_PLAN_MEDIAN, 0.2, false);
    float *x = deltas_random(m, 1e-3, &seed);
    const struct tier_seal_as as = {
        .encoding = TIER_ENC_F32, .key = 1, .share = 0, .dropped = NULL, .zip = true};
    struct tier_hash id = sealed_as(spool, m, x, &as), out;
    struct tier_merge merge = merge_of(spool, m, &id, 1, &settings);
    REFUSED(TIER_EUPDATE, "a zstd frame, which is for means alone",
            tier_merge_run(&merge, &out, err));
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}
