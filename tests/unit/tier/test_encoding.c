/* SPDX-License-Identifier: Apache-2.0 */
/* Updates in shorter forms than float32: what is sealed, what it decodes to, and what is refused.
 * Folds over all of them are in test_fold.c. */
#include "kernels/kern.h"
#include "support/merge_fixture.h"
#include "tier/bytes.h"
#include "tier/segment_block.h"

static const enum tier_encoding all[] = {TIER_ENC_F32, TIER_ENC_F16,  TIER_ENC_BF16,  TIER_ENC_Q8,
                                         TIER_ENC_Q4,  TIER_ENC_TOPK, TIER_ENC_ONEBIT};
#define ALL (sizeof all / sizeof all[0])

static struct tier_manifest *manifest_of_clips(uint64_t a, int a_bits, uint64_t b, int b_bits) {
    struct tier_tensor t[] = {tensor_of("a", a, 0, a_bits, false),
                              tensor_of("b", b, 0, b_bits, false)};
    return manifest_of(t, 2);
}

/* Two tensors of clip 8. */
static struct tier_manifest *manifest_of_two(uint64_t a, uint64_t b) {
    return manifest_of_clips(a, 27, b, 27);
}

static struct tier_hash sealed_as(struct tier_spool *spool, const struct tier_manifest *m,
                                  const float *x, const struct tier_seal_as *as) {
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    MUST(tier_update_seal(spool, &h, m, x, false, as, &id, err));
    return id;
}

/* The elements of a sealed update, read in blocks of any size; to be freed. */
static float *decoded(struct tier_spool *spool, const struct tier_manifest *m,
                      const struct tier_hash *id, uint64_t *seed) {
    struct tier_update *u = update_open(spool, id);
    struct tier_segment_cursor cursor;
    float *x = malloc(m->elements * sizeof *x);
    MUST(tier_spool_update_check(u, err));
    MUST(tier_update_verify(u, m, err));
    MUST(tier_segment_cursor_init(&cursor, u, m, err));
    for (uint64_t i = 0; i < tier_manifest_segments(m); i++) {
        struct tier_segment_reader r;
        struct tier_extent extent;
        size_t n = tier_manifest_segment(m, i, NULL);
        MUST(tier_segment_cursor_next(&cursor, &extent, err));
        MUST(tier_segment_reader_begin(&r, u, m, i, extent, err));
        for (size_t at = 0, step; at < n; at += step) {
            step = TIER_BLOCK_ELEMENTS * (1 + rng_below(seed, 70));
            step = step < n - at ? step : n - at;
            MUST(tier_segment_reader_next(&r, x + i * TIER_SEGMENT_ELEMENTS + at, step, err));
        }
    }
    tier_spool_update_close(u);
    return x;
}

Test(tier_encoding, what_is_dropped_is_what_decoding_does_not_give_back, .fini = fixture_down) {
    uint64_t seed = 31;
    for (size_t e = 0; e < ALL; e++) {
        struct tier_spool *spool = spool_up(false);
        struct tier_manifest *m = manifest_of_two(TIER_SEGMENT_ELEMENTS + 1000, 3333);
        float *x = deltas_random(m, 1e-3, &seed), *dropped = malloc(m->elements * sizeof *dropped);
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 77, .share = 0.02, .dropped = dropped, .zip = false};
        struct tier_hash id = sealed_as(spool, m, x, &as);
        float *back = decoded(spool, m, &id, &seed);
        double lost = 0, whole = 0;
        for (size_t i = 0; i < m->elements; i++) {
            CHECK(dropped[i] == x[i] - back[i], "%s, element %zu", tier_encoding_text(all[e]), i);
            lost += (double)dropped[i] * (double)dropped[i];
            whole += (double)x[i] * (double)x[i];
        }
        static const double most[] = {0, 1e-3, 4e-3, 0.02, 0.3, 0.97, 0.7};
        cr_assert(le(dbl, sqrt(lost / whole), most[e]), "%s", tier_encoding_text(all[e]));
        CHECK(e == 0 || lost > 0);
        free(x);
        free(dropped);
        free(back);
        tier_manifest_free(m);
        tier_spool_close(spool);
        fixture_down();
    }
}

static struct tier_hash root_of(struct tier_spool *spool, const struct tier_hash *id) {
    struct tier_update *u = update_open(spool, id);
    struct tier_hash root = tier_spool_update_header(u)->root;
    tier_spool_update_close(u);
    return root;
}

Test(tier_encoding, folds_and_merges_take_what_is_decoded_as_if_it_had_come_so) {
    uint64_t seed = 37;
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(3000, TIER_SEGMENT_ELEMENTS);
    struct tier_hash coded[ALL], plain[ALL], sums[2], id[2];
    for (size_t e = 0; e < ALL; e++) {
        float *x = deltas_random(m, 0.05, &seed);
        const struct tier_seal_as as = {.encoding = all[e],
                                        .key = 77,
                                        .share = 0.02,
                                        .dropped = NULL,
                                        .zip = false},
                                  f32 = {.encoding = TIER_ENC_F32};
        coded[e] = sealed_as(spool, m, x, &as);
        float *back = decoded(spool, m, &coded[e], &seed);
        plain[e] = sealed_as(spool, m, back, &f32);
        free(back);
        free(x);
    }
    for (int k = 0; k < 2; k++) {
        struct tier_fold f = merge_of(spool, m, k ? plain : coded, ALL,
                                      &(struct tier_plan_merge){.rule = {.choice = 1}})
                                 .fold;
        f.threads = 1 + (unsigned)k;
        f.memory_bytes = 2 * tier_fold_memory_min(m, ALL);
        MUST(tier_fold_run(&f, &sums[k], err));
    }
    CHECK(tier_hash_equal(&sums[0], &sums[1]));
    for (size_t rule = 0; rule < RULES; rule++) {
        struct tier_plan_merge settings = settings_of(all_rules[rule], 0.2, false);
        for (int k = 0; k < 2; k++) {
            struct tier_merge merge = merge_of(spool, m, k ? plain : coded, ALL, &settings);
            struct tier_hash result = merged(&merge);
            id[k] = root_of(spool, &result);
        }
        /* The others add in the order of the payloads' hashes, which are not the same here. */
        bool any_order = all_rules[rule] == TIER_PLAN_MEDIAN ||
                         all_rules[rule] == TIER_PLAN_TRIMMED_MEAN ||
                         all_rules[rule] == TIER_PLAN_KRUM;
        CHECK(!any_order || tier_hash_equal(&id[0], &id[1]), "rule %d", all_rules[rule]);
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
    fixture_down();
}

Test(tier_encoding, the_same_deltas_and_key_give_the_same_file_in_pieces_of_any_size,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(40000, TIER_SEGMENT_ELEMENTS);
    uint64_t seed = 32;
    float *x = deltas_random(m, 0.1, &seed);
    struct tier_update_header h = header_for(m, 5);
    for (size_t e = 0; e < ALL; e++) {
        struct tier_seal_as as = {
            .encoding = all[e], .key = 5, .share = 0.1, .dropped = NULL, .zip = false};
        struct tier_hash id = sealed_as(spool, m, x, &as), pieces, other;
        struct tier_sealer *s = NULL;
        MUST(tier_sealer_begin_as(spool, &h, m, false, &as, &s, err));
        for (size_t at = 0, n; at < m->elements; at += n) {
            n = 1 + rng_below(&seed, 50000);
            n = n < m->elements - at ? n : m->elements - at;
            MUST(tier_sealer_append(s, x + at, n, err));
        }
        MUST(tier_sealer_finish(s, &pieces, err));
        CHECK(tier_hash_equal(&id, &pieces), "%s", tier_encoding_text(all[e]));
        as.key++;
        other = sealed_as(spool, m, x, &as);
        bool drawn = all[e] == TIER_ENC_Q8 || all[e] == TIER_ENC_Q4;
        CHECK(tier_hash_equal(&id, &other) == !drawn, "only stochastic rounding has a key");
    }
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, a_payload_is_as_long_as_its_header_check_expects, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(1000, 333);
    uint64_t seed = 33;
    float *x = deltas_random(m, 0.1, &seed);
    static const uint64_t bytes[] = {5332, 2666, 2666, 1333 + 6 * 4, 667 + 6 * 4, 0, 6 * 36};
    for (size_t e = 0; e < ALL; e++) {
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 5, .share = 1, .dropped = NULL, .zip = false};
        struct tier_hash id = sealed_as(spool, m, x, &as);
        struct tier_update *u = update_open(spool, &id);
        struct tier_update_header h = *tier_spool_update_header(u);
        MUST(tier_update_header_check(&h, m, err));
        CHECK(all[e] == TIER_ENC_TOPK || h.payload_bytes == bytes[e]);
        uint64_t whole = h.payload_bytes;
        uint64_t step = all[e] == TIER_ENC_F32 ? 4 : all[e] <= TIER_ENC_BF16 ? 2 : 1;
        h.payload_bytes = whole + step;
        REFUSED(TIER_EUPDATE, "payload bytes", tier_update_header_check(&h, m, err));
        h.payload_bytes = all[e] == TIER_ENC_TOPK ? 8 : whole - step;
        REFUSED(TIER_EUPDATE, "payload bytes", tier_update_header_check(&h, m, err));
        tier_spool_update_close(u);
    }
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, wide_tensors_travel_at_full_precision, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    float x[18] = {0};
    for (size_t e = 1; e < ALL; e++) {
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 5, .share = 0.5, .dropped = NULL, .zip = false};
        REFUSED(TIER_EARG, "full precision",
                tier_update_seal(spool, &h, m, x, false, &as, &id, err));
        h.encoding = all[e];
        h.payload_bytes = 40;
        REFUSED(TIER_EUPDATE, "full precision", tier_update_header_check(&h, m, err));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* A block has one scale: what is small in one tensor's clip could round to beyond another's. */
Test(tier_encoding, blocks_need_one_clip_for_all_tensors, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_clips(4, 30, 4, 20);
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    float x[8] = {[1] = 0.5f, [7] = 1000};
    for (size_t e = 0; e < ALL; e++) {
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 5, .share = 0.5, .dropped = NULL, .zip = false};
        if (all[e] == TIER_ENC_Q8 || all[e] == TIER_ENC_Q4 || all[e] == TIER_ENC_ONEBIT)
            REFUSED(TIER_EARG, "one clip", tier_update_seal(spool, &h, m, x, false, &as, &id, err));
        else
            MUST(tier_update_seal(spool, &h, m, x, false, &as, &id, err));
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, nan_and_values_beyond_the_clip_are_refused_where_they_are_sealed,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    for (size_t e = 0; e < ALL; e++) {
        const struct tier_seal_as as = {
            .encoding = all[e], .key = 5, .share = 0.5, .dropped = NULL, .zip = false};
        float x[1400] = {[900] = NAN, [1] = 0.5f};
        REFUSED(TIER_EUPDATE, "tensor b, element 200 is nan",
                tier_update_seal(spool, &h, m, x, true, &as, &id, err));
        x[900] = -8.5f;
        REFUSED(TIER_EUPDATE, "tensor b, element 200 is -8.5",
                tier_update_seal(spool, &h, m, x, false, &as, &id, err));
        MUST(tier_update_seal(spool, &h, m, x, true, &as, &id, err));
        struct tier_update *u = update_open(spool, &id);
        cr_assert(eq(u64, tier_spool_update_header(u)->saturated, 1));
        MUST(tier_update_verify(u, m, err)); /* no form decodes beyond what it was given */
        tier_spool_update_close(u);
    }
    cr_assert(eq(sz, files_in(fixture_path("spool")), ALL));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, binary16_uses_its_range_for_that_of_the_clip, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_clips(4, 30, 4, 27);
    const float x[8] = {1, 0x1p-30f, -0x1.8p-29f, 0x1p-40f, -8, 0x1p-27f, 0x1.004p-3f, 0x1.006p-3f};
    const struct tier_seal_as as = {
        .encoding = TIER_ENC_F16, .key = 0, .share = 0, .dropped = NULL, .zip = false};
    uint64_t seed = 34;
    struct tier_hash id = sealed_as(spool, m, x, &as);
    float *back = decoded(spool, m, &id, &seed);
    /* What the sums can tell apart is kept; ten bits behind the first, ties to even. */
    const float want[8] = {1, 0x1p-30f, -0x1.8p-29f, 0, -8, 0x1p-27f, 0x1.004p-3f, 0x1.008p-3f};
    for (size_t i = 0; i < 8; i++)
        CHECK(back[i] == want[i], "element %zu: %a", i, (double)back[i]);
    free(back);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* A hostile child: any payload, sealed correctly. Verifying, folding and merging refuse it alike.
 */
static void refused(struct tier_spool *spool, const struct tier_manifest *m,
                    enum tier_encoding encoding, const void *payload, size_t n, const char *word) {
    struct tier_update_header h = header_for(m, 5);
    h.encoding = encoding;
    struct tier_hash id = sealed_raw(spool, &h, payload, n), sum;
    struct tier_update *u = update_open(spool, &id);
    REFUSED(TIER_EUPDATE, word, tier_update_verify(u, m, err));
    const struct tier_fold f = {.spool = spool,
                                .manifest = m,
                                .run = h.run,
                                .round = h.round,
                                .base_model = h.base_model,
                                .inputs = &id,
                                .count = 1,
                                .memory_bytes = tier_fold_memory_min(m, 1)};
    REFUSED(TIER_EUPDATE, word, tier_fold_run(&f, &sum, err));
    struct tier_segment_cursor cursor;
    struct tier_segment_reader r;
    struct tier_extent extent;
    enum tier_status st = tier_segment_cursor_init(&cursor, u, m, NULL);
    float x[2048];
    if (st == TIER_OK)
        st = tier_segment_cursor_next(&cursor, &extent, NULL);
    if (st == TIER_OK)
        st = tier_segment_reader_begin(&r, u, m, 0, extent, NULL);
    for (size_t at = 0; at < m->elements && st == TIER_OK; at += 512)
        st = tier_segment_reader_next(&r, x, m->elements - at < 512 ? m->elements - at : 512, NULL);
    CHECK(st == TIER_EUPDATE);
    tier_spool_update_close(u);
    MUST(tier_spool_delete(spool, &id, err));
}

static struct wire_bytes honest(struct tier_spool *spool, const struct tier_manifest *m,
                                enum tier_encoding encoding, double share) {
    uint64_t seed = 35;
    float *x = deltas_random(m, 0.1, &seed);
    const struct tier_seal_as as = {
        .encoding = encoding, .key = 5, .share = share, .dropped = NULL, .zip = false};
    struct tier_hash id = sealed_as(spool, m, x, &as);
    free(x);
    return wire_of(spool, &id);
}

Test(tier_encoding, a_childs_single_bits_are_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    struct wire_bytes w = honest(spool, m, TIER_ENC_ONEBIT, 0);
    tier_put_u32(w.payload + 3 * 36, 0x3f800001);
    refused(spool, m, TIER_ENC_ONEBIT, w.payload, w.payload_len, "tensor b, element 68");
    tier_put_u32(w.payload + 3 * 36, 0x43000000); /* 128: some elements pass the clip of 8 */
    refused(spool, m, TIER_ENC_ONEBIT, w.payload, w.payload_len, "a number within +-2^3");
    tier_put_u32(w.payload + 3 * 36, 0);
    refused(spool, m, TIER_ENC_ONEBIT, w.payload, w.payload_len, "no encoder writes");
    wire_free(&w);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, a_childs_half_precisions_are_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    static const struct {
        enum tier_encoding encoding;
        uint16_t bad;
        const char *word;
    } cases[] = {{TIER_ENC_F16, 0x7e00, "tensor b, element 200 is nan"},
                 {TIER_ENC_F16, 0xfc00, "tensor b, element 200 is -inf"},
                 {TIER_ENC_F16, 0x7801, "tensor b, element 200 is 8.0"},
                 {TIER_ENC_BF16, 0x7fc0, "tensor b, element 200 is nan"},
                 {TIER_ENC_BF16, 0x4101, "tensor b, element 200 is 8.0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct wire_bytes w = honest(spool, m, cases[i].encoding, 0);
        memcpy(w.payload + 2 * 900, &cases[i].bad, 2);
        refused(spool, m, cases[i].encoding, w.payload, w.payload_len, cases[i].word);
        wire_free(&w);
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, a_childs_blocks_are_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    for (int bits = 4; bits <= 8; bits += 4) {
        enum tier_encoding encoding = bits == 8 ? TIER_ENC_Q8 : TIER_ENC_Q4;
        struct wire_bytes w = honest(spool, m, encoding, 0);
        size_t block = kern_quant_bytes(256, bits), third = 3 * block;
        uint8_t kept[8];
        memcpy(kept, w.payload + third, 8);
        tier_put_u32(w.payload + third, 0x7fc00000);
        refused(spool, m, encoding, w.payload, w.payload_len, "tensor b, element 68");
        tier_put_u32(w.payload + third, 0x80000000);
        refused(spool, m, encoding, w.payload, w.payload_len, "tensor b, element 68");
        tier_put_u32(w.payload + third, 0x42000000); /* 32: every value passes the clip of 8 */
        refused(spool, m, encoding, w.payload, w.payload_len, "a number within +-2^3");
        memcpy(w.payload + third, kept, 8);
        w.payload[third + 4] = bits == 8 ? 0x80 : 0x08;
        refused(spool, m, encoding, w.payload, w.payload_len, "no encoder writes");
        refused(spool, m, encoding, w.payload, w.payload_len - 1, "payload bytes");
        wire_free(&w);
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* One segment, put together by hand, and its directory. */
struct segment {
    uint8_t b[8192];
    size_t n;
};

static void put(struct segment *s, const void *data, size_t n) {
    memcpy(s->b + s->n, data, n);
    s->n += n;
}

static struct segment segment_of(uint32_t count, uint8_t kind, const void *places, size_t n,
                                 const float *values, size_t values_n) {
    struct segment s = {.n = 0};
    put(&s, &count, 4);
    put(&s, &kind, 1);
    put(&s, places, n);
    put(&s, values, values_n * sizeof *values);
    uint32_t length = (uint32_t)s.n;
    put(&s, &length, 4);
    return s;
}

Test(tier_encoding, top_k_is_the_bytes_its_header_says, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    float x[1400] = {[3] = 0.5f, [4] = -0.25f, [600] = 0.125f, [601] = -0.125f, [1399] = 4};
    struct tier_seal_as as = {
        .encoding = TIER_ENC_TOPK, .key = 0, .share = 4.0 / 1400, .dropped = NULL, .zip = false};
    struct tier_hash id = sealed_as(spool, m, x, &as);
    struct wire_bytes w = wire_of(spool, &id);
    /* Of the two equal ones the first; gaps of 3, 0, 595, 798. */
    const uint8_t gaps[] = {3, 0, 0x80 | (595 & 127), 595 >> 7, 0x80 | (798 & 127), 798 >> 7};
    const float values[] = {0.5f, -0.25f, 0.125f, 4};
    struct segment want = segment_of(4, 0, gaps, sizeof gaps, values, 4);
    CHECK(w.payload_len == want.n && memcmp(w.payload, want.b, want.n) == 0);
    wire_free(&w);

    for (size_t i = 0; i < 1400; i++)
        x[i] = i % 4 < 3 ? 1.0f / (float)(i + 1) : 0;
    as.share = 1;
    id = sealed_as(spool, m, x, &as);
    w = wire_of(spool, &id);
    CHECK(tier_get_u32(w.payload) == 1050 && w.payload[4] == 1, "zeros are left out, of a bitmap");
    for (size_t i = 0; i < 175; i++)
        cr_assert(eq(int, w.payload[5 + i], 0x77));
    cr_assert(eq(sz, w.payload_len, 5 + 175 + 4200 + 4));
    wire_free(&w);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, a_childs_top_k_is_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_of_two(700, 700);
    static const float values[1400] = {0.5f, 0.25f, 0.125f, [3] = 1};
    static const float zero[] = {0.5f, 0}, nan[] = {0.5f, NAN}, large[] = {0.5f, 8.5f};
    uint8_t map[176] = {[0] = 1}, over[176] = {0};
    memset(over, 0x77, 175);
    const struct {
        struct segment s;
        const char *word;
    } cases[] = {
        {segment_of(2, 0, "\3\2", 2, zero, 2), "is 0"},
        {segment_of(2, 0, "\3\2", 2, nan, 2), "tensor a, element 6 is nan"},
        {segment_of(2, 0, "\3\2", 2, large, 2), "tensor a, element 6 is 8.5"},
        {segment_of(1401, 0, "\3", 1, values, 1400), "count of places"},
        {segment_of(2, 2, "\3\2", 2, values, 2), "count of places"},
        {segment_of(2, 0, "\3", 1, values, 2), "length"},
        {segment_of(200, 0, "\3\2", 2, values, 2), "too short for its values"},
        {segment_of(2, 0, "\3\2\1", 3, values, 2), "fewer places"},
        {segment_of(2, 0, "\3\x80", 2, values, 2), "cut short"},
        {segment_of(2, 0, "\3\x82\0", 3, values, 2), "longer than it need be"},
        {segment_of(2, 0, "\3\xf5\x0a", 3, values, 2), "behind its last element"},
        {segment_of(2, 0, "\3\xff\xff\x7f", 4, values, 2), "behind its last element"},
        {segment_of(1, 1, map, 175, values, 1), "where gaps would be shorter"},
        {segment_of(2, 1, map, 175, values, 2), "fewer places"},
        {segment_of(1, 1, over, 175, values + 3, 1), "more places"},
        {segment_of(1, 1, map, 174, values, 1), "length"},
        {segment_of(175, 0, over, 175, values, 175), "length"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(spool, m, TIER_ENC_TOPK, cases[i].s.b, cases[i].s.n, cases[i].word);
    struct segment good = segment_of(2, 0, "\3\2", 2, values, 2);
    tier_put_u32(good.b + good.n - 4, (uint32_t)good.n - 5);
    refused(spool, m, TIER_ENC_TOPK, good.b, good.n, "left between");
    tier_put_u32(good.b + good.n - 4, (uint32_t)good.n);
    refused(spool, m, TIER_ENC_TOPK, good.b, good.n, "past the end");
    tier_put_u32(good.b + good.n - 4, UINT32_MAX);
    refused(spool, m, TIER_ENC_TOPK, good.b, good.n, "more bytes than it can take");
    tier_put_u32(good.b + good.n - 4, 4);
    refused(spool, m, TIER_ENC_TOPK, good.b, good.n, "segment 0");
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_encoding, the_largest_are_kept_whatever_they_are, .fini = fixture_down) {
    uint64_t seed = 36;
    for (int round = 0; round < 60; round++) {
        struct tier_spool *spool = spool_up(false);
        struct tier_manifest *m = manifest_of_two(1 + rng_below(&seed, 3000), 1);
        float *x = deltas_random(m, 0.1, &seed);
        float *dropped = malloc(m->elements * sizeof *dropped), least = INFINITY, most = 0;
        for (size_t i = 0; i < m->elements; i++)
            x[i] = round % 3 ? x[i] : (float)rng_below(&seed, 3) * -0.25f;
        const struct tier_seal_as as = {.encoding = TIER_ENC_TOPK,
                                        .key = 0,
                                        .share = rng_unit(&seed) * 0.99 + 0.01,
                                        .dropped = dropped,
                                        .zip = false};
        struct tier_hash id = sealed_as(spool, m, x, &as);
        float *back = decoded(spool, m, &id, &seed);
        size_t kept = 0, want = (size_t)ceil(as.share * (double)m->elements), any = 0;
        for (size_t i = 0; i < m->elements; i++) {
            CHECK(back[i] == 0 || back[i] == x[i]);
            least = back[i] != 0 ? fminf(least, fabsf(back[i])) : least;
            most = fmaxf(most, fabsf(dropped[i]));
            kept += back[i] != 0;
            any += x[i] != 0;
        }
        cr_assert(eq(sz, kept, want < any ? want : any));
        CHECK(most <= least, "%g was dropped, %g kept", (double)most, (double)least);
        free(x);
        free(back);
        free(dropped);
        tier_manifest_free(m);
        tier_spool_close(spool);
        fixture_down();
    }
}
