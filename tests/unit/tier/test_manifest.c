/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"

Test(tier_manifest, the_text_is_what_the_header_promises) {
    struct tier_manifest *m = manifest_small();
    char *text = NULL;
    size_t bytes = 0;
    struct tier_hash hash;
    MUST(tier_manifest_text(m, &text, &bytes, err));
    cr_assert(eq(str, text,
                 "consilium manifest 1\nf=30 narrow 3x4 body.weight\n"
                 "f=20 wide state 5 bn.running_mean\nf=30 narrow scalar temperature\n"));
    tier_hash_data(text, bytes, &hash);
    CHECK(tier_hash_equal(&hash, &m->hash));
    cr_assert(eq(u64, m->elements, 18));
    cr_assert(eq(u64, m->wide_elements, 5));
    cr_assert(eq(u64, m->tensors[2].at, 17));
    free(text);
    tier_manifest_free(m);
}

Test(tier_manifest, parsing_the_text_gives_the_same_manifest) {
    struct tier_manifest *m = manifest_small(), *back = NULL;
    char *text = NULL;
    size_t bytes = 0;
    MUST(tier_manifest_text(m, &text, &bytes, err));
    MUST(tier_manifest_parse(text, bytes, &back, err));
    CHECK(tier_hash_equal(&m->hash, &back->hash));
    CHECK(memcmp(m->tensors, back->tensors, m->count * sizeof *m->tensors) == 0);
    free(text);
    tier_manifest_free(m);
    tier_manifest_free(back);
}

Test(tier_manifest, any_other_spelling_is_refused) {
    static const char *const bad[] = {
        "",
        "consilium manifest 1\n",
        "consilium manifest 2\nf=30 narrow 3 a\n",
        "consilium manifest 1\nf=30 narrow 3 a",
        "consilium manifest 1\nf=+30 narrow 3 a\n",
        "consilium manifest 1\nf=030 narrow 3 a\n",
        "consilium manifest 1\nf= 30 narrow 3 a\n",
        "consilium manifest 1\nf=101 narrow 3 a\n",
        "consilium manifest 1\nf=30 thick 3 a\n",
        "consilium manifest 1\nf=30 state 3 a\n",
        "consilium manifest 1\nf=30 state narrow 3 a\n",
        "consilium manifest 1\nf=30 narrow state state 3 a\n",
        "consilium manifest 1\nf=30 narrow state  3 a\n",
        "consilium manifest 1\nf=30 narrow 03 a\n",
        "consilium manifest 1\nf=30 narrow 3x a\n",
        "consilium manifest 1\nf=30 narrow 1x1x1x1x1x1x1x1x1 a\n",
        "consilium manifest 1\nf=30 narrow 3  a\n",
        "consilium manifest 1\nf=30 narrow 3 a b\n",
        "consilium manifest 1\nf=30 narrow 3 \n",
        "consilium manifest 1\n\nf=30 narrow 3 a\n",
        "consilium manifest 1\r\nf=30 narrow 3 a\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct tier_manifest *m = NULL;
        CHECK(tier_manifest_parse(bad[i], strlen(bad[i]), &m, NULL) != TIER_OK, "%s", bad[i]);
        CHECK(m == NULL);
    }
}

Test(tier_manifest, a_name_that_is_there_twice_is_refused) {
    struct tier_tensor t[] = {tensor_of("a", 1, 0, 30, false), tensor_of("b", 1, 0, 30, false),
                              tensor_of("a", 2, 0, 30, false)};
    struct tier_manifest *m = NULL;
    REFUSED(TIER_EARG, "tensor a", tier_manifest_new(t, 3, &m, err));
    MUST(tier_manifest_new(t, 2, &m, err));
    tier_manifest_free(m);
}

Test(tier_manifest, shapes_that_overflow_are_refused_before_anything_is_sized) {
    struct tier_tensor t[] = {tensor_of("a", UINT64_C(1) << 36, 0, 30, false),
                              tensor_of("b", 1, 0, 30, false)};
    struct tier_manifest *m = NULL;
    REFUSED(TIER_ELIMIT, "tensor b", tier_manifest_new(t, 2, &m, err));
    t[1] = tensor_of("b", UINT64_C(1) << 33, UINT64_C(1) << 33, 30, false);
    REFUSED(TIER_EARG, "tensor b", tier_manifest_new(t, 2, &m, err));
    t[1] = tensor_of("b", 3, 0, 30, false);
    t[1].dims[0] = 0;
    REFUSED(TIER_EARG, "tensor b", tier_manifest_new(t, 2, &m, err));
    REFUSED(TIER_ELIMIT, "0 tensors", tier_manifest_new(t, 0, &m, err));
    MUST(tier_manifest_new(t, 1, &m, err));
    tier_manifest_free(m);
}

Test(tier_manifest, fractional_bits_cover_the_clip_and_no_more) {
    static const struct {
        double clip;
        int bits;
    } cases[] = {{1, 30},    {0.5, 31},  {0.51, 30},     {1.01, 29},      {2, 29},
                 {1024, 20}, {1025, 19}, {0x1p-70, 100}, {0x1p130, -100}, {0.1, 33}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int bits = 0;
        MUST(tier_frac_bits_for_clip(cases[i].clip, &bits, err));
        cr_assert(eq(int, bits, cases[i].bits), "clip %g", cases[i].clip);
        CHECK(cases[i].clip * ldexp(1, bits) <= (double)TIER_Q_MAX);
    }
    int bits = 5;
    double bad[] = {0, -1, NAN, INFINITY, 0x1p-72, 0x1p131};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSED(TIER_EARG, "clip", tier_frac_bits_for_clip(bad[i], &bits, err));
    cr_assert(eq(int, bits, 5));
}

Test(tier_manifest, spans_cover_every_window_once) {
    struct tier_tensor t[] = {tensor_of("a", 300000, 0, 30, false), tensor_of("b", 10, 0, 20, true),
                              tensor_of("c", 400000, 0, 20, true), tensor_of("d", 5, 0, 30, false)};
    struct tier_manifest *m = manifest_of(t, 4);
    uint64_t seen = 0, wide_seen = 0;
    for (uint64_t s = 0; s < tier_manifest_segments(m); s++) {
        struct tier_spans it;
        struct tier_span span;
        size_t wide = 0, n = tier_manifest_segment(m, s, &wide), at = 0, wide_at = 0;
        tier_spans_begin(&it, m, s * TIER_SEGMENT_ELEMENTS, n);
        while (tier_spans_next(&it, &span)) {
            cr_assert(eq(sz, span.at, at));
            cr_assert(eq(sz, span.wide_at, wide_at));
            cr_assert(eq(u64, span.tensor->at + span.index, s * TIER_SEGMENT_ELEMENTS + at));
            at += span.n;
            wide_at += span.tensor->wide ? span.n : 0;
        }
        cr_assert(eq(sz, at, n));
        cr_assert(eq(sz, wide_at, wide));
        seen += n;
        wide_seen += wide;
    }
    cr_assert(eq(u64, seen, m->elements));
    cr_assert(eq(u64, wide_seen, m->wide_elements));
    cr_assert(eq(sz, tier_manifest_find(m, 299999), 0));
    cr_assert(eq(sz, tier_manifest_find(m, 300000), 1));
    cr_assert(eq(sz, tier_manifest_find(m, m->elements - 1), 3));
    tier_manifest_free(m);
}
