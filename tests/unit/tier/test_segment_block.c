/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/kern.h"
#include "support/tier_fixture.h"
#include "tier/segment_block.h"

/* What tier_segment_add and the one division give, for the whole segment at once. */
static void by_the_fold(const struct tier_update *u, const struct tier_manifest *m,
                        uint64_t segment, struct tier_extent extent, float *out) {
    size_t wide = 0, n = tier_manifest_segment(m, segment, &wide);
    int64_t *hi = calloc(n, sizeof *hi), *lo = calloc(wide + 1, sizeof *lo);
    uint8_t *scratch = malloc(tier_segment_bytes_max(m));
    struct tier_spans it;
    struct tier_span s;
    MUST(tier_segment_add(u, 1, m, segment, extent, NULL, scratch, hi, lo, err));
    memset(out, 0, n * sizeof *out);
    tier_spans_begin(&it, m, segment * TIER_SEGMENT_ELEMENTS, n);
    while (tier_spans_next(&it, &s))
        kern_apply_mean(out + s.at, out + s.at, hi + s.at, s.tensor->wide ? lo + s.wide_at : NULL,
                        s.n, s.tensor->frac_bits, tier_spool_update_header(u)->weight);
    free(hi);
    free(lo);
    free(scratch);
}

static struct tier_hash sum_of_two(struct tier_spool *spool, const struct tier_manifest *m,
                                   uint64_t *seed) {
    struct tier_update_header h = header_for(m, 1);
    struct tier_hash id, ids[2] = {sealed_random(spool, m, 1 + rng_below(seed, 1 << 20), seed),
                                   sealed_random(spool, m, 1 + rng_below(seed, 1 << 20), seed)};
    const struct tier_fold f = {.spool = spool,
                                .manifest = m,
                                .run = h.run,
                                .round = h.round,
                                .base_model = h.base_model,
                                .inputs = ids,
                                .count = 2,
                                .memory_bytes = tier_fold_memory_min(m, 2)};
    MUST(tier_fold_run(&f, &id, err));
    return id;
}

/* Any block sizes; the elements must be those of the fold, and negative zeros gone. */
static void read_through(struct tier_spool *spool, const struct tier_manifest *m,
                         const struct tier_hash *id, uint64_t *seed) {
    struct tier_update *u = update_open(spool, id);
    struct tier_segment_cursor cursor;
    float *want = malloc(tier_segment_elements_max(m) * sizeof *want),
          *got = malloc(tier_segment_elements_max(m) * sizeof *got);
    MUST(tier_segment_cursor_init(&cursor, u, m, err));
    for (uint64_t segment = 0; segment < tier_manifest_segments(m); segment++) {
        struct tier_segment_reader r;
        struct tier_extent extent;
        size_t n = tier_manifest_segment(m, segment, NULL);
        MUST(tier_segment_cursor_next(&cursor, &extent, err));
        by_the_fold(u, m, segment, extent, want);
        MUST(tier_segment_reader_begin(&r, u, m, segment, extent, err));
        for (size_t at = 0, step; at < n; at += step) {
            step = TIER_BLOCK_ELEMENTS * (1 + rng_below(seed, 20));
            step = step < n - at ? step : n - at;
            MUST(tier_segment_reader_next(&r, got + at, step, err));
        }
        for (size_t i = 0; i < n; i++)
            CHECK(got[i] == want[i] && (got[i] != 0 || !signbit(got[i])),
                  "segment %llu, element %zu: %g, not %g", (unsigned long long)segment, i,
                  (double)got[i], (double)want[i]);
    }
    free(want);
    free(got);
    tier_spool_update_close(u);
}

Test(tier_segment_block, sums_read_in_blocks_are_the_means_of_the_fold) {
    for (uint64_t seed = 0; seed < 12; seed++) {
        uint64_t state = seed;
        struct tier_spool *spool = spool_up(false);
        struct tier_tensor t[7];
        for (size_t i = 0; i < 7; i++) {
            char name[8];
            snprintf(name, sizeof name, "t%zu", i);
            uint64_t most = seed < 9 ? 3000 : TIER_SEGMENT_ELEMENTS / 2;
            t[i] = tensor_of(name, 1 + rng_below(&state, most), 0, (int)rng_below(&state, 120) - 60,
                             rng_below(&state, 2) == 0);
        }
        struct tier_manifest *m = manifest_of(t, 7);
        struct tier_hash id = sum_of_two(spool, m, &state);
        read_through(spool, m, &id, &state);
        tier_manifest_free(m);
        tier_spool_close(spool);
        fixture_down();
    }
}

Test(tier_segment_block, float32_read_in_blocks_is_what_was_sealed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", TIER_SEGMENT_ELEMENTS + 777, 0, 30, true),
                              tensor_of("b", 5000, 0, 30, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    struct tier_update_header h = header_for(m, 1); /* of weight 1, so that the fold is the value */
    uint64_t seed = 2;
    float *x = calloc(m->elements, sizeof *x);
    for (size_t i = 0; i < m->elements; i++)
        x[i] = (float)(int)(rng_next(&seed) >> 40) * (i % 2 ? -0x1p-24f : 0x1p-26f);
    x[5] = -0.0f;
    struct tier_hash id;
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    read_through(spool, m, &id, &seed);
    free(x);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_segment_block, damaged_sums_are_refused_by_name, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_tensor t[] = {tensor_of("a", 700, 0, 30, false), tensor_of("b", 700, 0, 30, true)};
    struct tier_manifest *m = manifest_of(t, 2);
    struct tier_update_header h = header_for(m, 4);
    int64_t hi[1400] = {0}, lo[700] = {0};
    uint8_t payload[1 << 15];
    float x[1400];
    h.encoding = TIER_ENC_SUM;
    for (int what = 0; what < 4; what++) {
        static const char *const words[] = {"tensor a, element 650 is the sum",
                                            "tensor b, element 699 is the sum", "left behind",
                                            "wider"};
        struct tier_segment_cursor cursor;
        struct tier_segment_reader r;
        struct tier_extent extent;
        enum tier_status st = TIER_OK;
        struct tier_err why = {0};
        hi[650] = what == 0 ? (INT64_C(4) << 30) + 1 : 12345;
        lo[699] = what == 1 ? -(INT64_C(4) << 30) - 1 : -12345;
        size_t n = tier_segment_pack(hi, 1400, lo, 700, payload);
        if (what == 2)
            payload[n++] = 0;
        if (what == 3)
            payload[0] = 65; /* a width */
        payload[n] = (uint8_t)n;
        payload[n + 1] = (uint8_t)(n >> 8);
        payload[n + 2] = payload[n + 3] = 0;
        struct tier_hash id = sealed_raw(spool, &h, payload, n + 4);
        struct tier_update *u = update_open(spool, &id);
        MUST(tier_segment_cursor_init(&cursor, u, m, err));
        MUST(tier_segment_cursor_next(&cursor, &extent, err));
        st = tier_segment_reader_begin(&r, u, m, 0, extent, &why);
        for (size_t at = 0; at < 1400 && st == TIER_OK; at += 512)
            st = tier_segment_reader_next(&r, x, at + 512 < 1400 ? 512 : 1400 - at, &why);
        CHECK(st == TIER_EUPDATE, "case %d: %s", what, why.text);
        CHECK(what == 3 || strstr(why.text, words[what]) != NULL, "%s", why.text);
        tier_spool_update_close(u);
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}
