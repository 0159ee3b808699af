/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/codec.h"

static struct tier_update_header full_header(struct tier_metrics *metrics) {
    struct tier_update_header h = {.round = 3,
                                   .weight = 12,
                                   .encoding = TIER_ENC_SUM,
                                   .saturated = 5,
                                   .payload_bytes = 999,
                                   .metrics = metrics};
    int64_t v[3] = {1, 0, -7};
    tier_hash_data("a", 1, &h.run);
    tier_hash_data("b", 1, &h.manifest);
    tier_hash_data("c", 1, &h.base_model);
    tier_hash_data("d", 1, &h.root);
    MUST(tier_metrics_add(metrics, "hist", 3, v, err));
    return h;
}

Test(tier_update, a_header_decodes_to_what_was_encoded) {
    struct tier_metrics *metrics = tier_metrics_new();
    struct tier_update_header h = full_header(metrics), back;
    uint8_t *bytes = NULL, *again = NULL;
    size_t n = 0, k = 0;
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    MUST(tier_update_header_decode(bytes, n, &back, err));
    cr_assert(eq(u64, back.round, 3));
    cr_assert(eq(u64, back.weight, 12));
    cr_assert(eq(u64, back.saturated, 5));
    cr_assert(eq(u64, back.payload_bytes, 999));
    CHECK(back.encoding == TIER_ENC_SUM && tier_hash_equal(&back.root, &h.root));
    cr_assert(eq(i64, tier_metrics_get(back.metrics, "hist", NULL)[2], -7));
    MUST(tier_update_header_encode(&back, &again, &k, err));
    CHECK(n == k && memcmp(bytes, again, n) == 0);
    tier_update_header_release(&back);
    tier_metrics_free(metrics);
    free(bytes);
    free(again);
}

Test(tier_update, a_flipped_bit_in_the_header_is_refused_or_changes_the_id) {
    struct tier_metrics *metrics = tier_metrics_new();
    struct tier_update_header h = full_header(metrics);
    uint8_t *bytes = NULL;
    size_t n = 0;
    struct tier_hash id, other;
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    tier_hash_data(bytes, n, &id);
    for (size_t bit = 0; bit < n * 8; bit++) {
        struct tier_update_header back;
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (tier_update_header_decode(bytes, n, &back, NULL) == TIER_OK) {
            uint8_t *again = NULL;
            size_t k = 0;
            MUST(tier_update_header_encode(&back, &again, &k, err));
            CHECK(k == n && memcmp(again, bytes, n) == 0, "bit %zu", bit);
            tier_hash_data(bytes, n, &other);
            CHECK(!tier_hash_equal(&id, &other));
            free(again);
            tier_update_header_release(&back);
        }
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t cut = 0; cut < n; cut++) {
        struct tier_update_header back;
        CHECK(tier_update_header_decode(bytes, cut, &back, NULL) == TIER_EUPDATE);
    }
    tier_metrics_free(metrics);
    free(bytes);
}

Test(tier_update, values_no_update_may_have_are_refused) {
    struct tier_update_header h = {
        .round = 1, .weight = 1, .encoding = TIER_ENC_F32, .payload_bytes = 4};
    uint8_t *bytes = NULL;
    size_t n = 0;
    h.weight = TIER_WEIGHT_MAX + 1;
    REFUSED(TIER_EARG, "weight", tier_update_header_encode(&h, &bytes, &n, err));
    h.weight = 0;
    REFUSED(TIER_EARG, "neither", tier_update_header_encode(&h, &bytes, &n, err));
    h.weight = 1;
    h.payload_bytes = 0;
    REFUSED(TIER_EARG, "neither", tier_update_header_encode(&h, &bytes, &n, err));
    h.payload_bytes = 6;
    REFUSED(TIER_EARG, "whole", tier_update_header_encode(&h, &bytes, &n, err));
    h.payload_bytes = 4;
    h.round = TIER_ROUNDS_MAX + 1;
    REFUSED(TIER_EARG, "round", tier_update_header_encode(&h, &bytes, &n, err));
    h.round = 1;
    h.encoding = (enum tier_encoding)11;
    REFUSED(TIER_EARG, "encoding", tier_update_header_encode(&h, &bytes, &n, err));
    h.encoding = TIER_ENC_SUM;
    h.weight = TIER_WEIGHT_TOTAL_MAX;
    MUST(tier_update_header_encode(&h, &bytes, &n, err));
    free(bytes);
}

Test(tier_update, a_wrong_manifest_or_payload_length_is_refused_before_the_payload) {
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 5);
    h.payload_bytes = 18 * 4;
    MUST(tier_update_header_check(&h, m, err));
    h.payload_bytes += 4;
    REFUSED(TIER_EUPDATE, "payload bytes", tier_update_header_check(&h, m, err));
    h.encoding = TIER_ENC_SUM;
    h.payload_bytes = 1 << 20;
    REFUSED(TIER_EUPDATE, "payload bytes", tier_update_header_check(&h, m, err));
    tier_hash_data("other", 5, &h.manifest);
    REFUSED(TIER_EUPDATE, "manifest", tier_update_header_check(&h, m, err));
    tier_manifest_free(m);
}

Test(tier_update, nan_infinity_and_values_beyond_the_clip_are_refused_by_name,
     .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    float x[18] = {0};
    x[12 + 3] = NAN;
    REFUSED(TIER_EUPDATE, "bn.running_mean, element 3 is",
            tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    x[12 + 3] = -INFINITY;
    REFUSED(TIER_EUPDATE, "-inf", tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    x[12 + 3] = 1024; /* that is its clip */
    x[17] = 1.5F;
    REFUSED(TIER_EUPDATE, "temperature, element 0 is 1.5",
            tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    cr_assert(eq(sz, files_in(fixture_path("spool")), 0));
    x[17] = -1;
    MUST(tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    cr_assert(eq(sz, files_in(fixture_path("spool")), 1));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_update, saturation_clamps_and_counts_but_never_takes_nan, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 5);
    struct tier_hash id;
    float x[18] = {[0] = 7, [5] = -INFINITY, [12] = 5000, [13] = 1024}, back[18];
    MUST(tier_update_seal_f32(spool, &h, m, x, true, &id, err));
    struct tier_update *u = update_open(spool, &id);
    cr_assert(eq(u64, tier_spool_update_header(u)->saturated, 3));
    MUST(tier_spool_update_read(u, 0, back, sizeof back, err));
    CHECK(back[0] == 1 && back[5] == -1 && back[12] == 1024 && back[13] == 1024);
    MUST(tier_update_verify(u, m, err));
    tier_spool_update_close(u);
    struct tier_update_header cut_before = h;
    cut_before.saturated = 4;
    MUST(tier_update_seal_f32(spool, &cut_before, m, x, true, &id, err));
    u = update_open(spool, &id);
    cr_assert(eq(u64, tier_spool_update_header(u)->saturated, 4 + 3));
    tier_spool_update_close(u);
    x[1] = NAN;
    REFUSED(TIER_EUPDATE, "body.weight, element 1",
            tier_update_seal_f32(spool, &h, m, x, true, &id, err));
    tier_manifest_free(m);
    tier_spool_close(spool);
}

Test(tier_update, an_evaluation_only_update_has_metrics_and_no_payload, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_metrics *metrics = tier_metrics_new();
    struct tier_update_header h = header_for(m, 0);
    struct tier_hash id;
    int64_t n = 40;
    float x[18] = {0};
    MUST(tier_metrics_add(metrics, "count", 1, &n, err));
    h.metrics = metrics;
    MUST(tier_update_seal_f32(spool, &h, m, NULL, false, &id, err));
    struct tier_update *u = update_open(spool, &id);
    MUST(tier_update_verify(u, m, err));
    cr_assert(eq(i64, tier_metrics_scalar(tier_spool_update_header(u)->metrics, "count"), 40));
    tier_spool_update_close(u);
    REFUSED(TIER_EARG, "deltas", tier_update_seal_f32(spool, &h, m, x, false, &id, err));
    h.weight = 1;
    REFUSED(TIER_EARG, "deltas", tier_update_seal_f32(spool, &h, m, NULL, false, &id, err));
    tier_metrics_free(metrics);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

/* A hostile child: any payload, sealed correctly. */
static void verify_refuses(struct tier_spool *spool, const struct tier_manifest *m,
                           const struct tier_update_header *h, const void *payload, size_t n,
                           const char *word) {
    struct tier_hash id = sealed_raw(spool, h, payload, n);
    struct tier_update *u = update_open(spool, &id);
    REFUSED(TIER_EUPDATE, word, tier_update_verify(u, m, err));
    tier_spool_update_close(u);
}

Test(tier_update, a_childs_elements_are_not_believed, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_update_header h = header_for(m, 5);
    float x[18] = {[13] = 1025};
    verify_refuses(spool, m, &h, x, sizeof x, "bn.running_mean, element 1");

    h.encoding = TIER_ENC_SUM;
    int64_t hi[18] = {0}, lo[5] = {0};
    uint8_t p[4096];
    int64_t limit = 5 * (INT64_C(1) << 30);
    for (int bad = 0; bad < 3; bad++) {
        hi[17] = -limit - (bad == 0);
        lo[4] = limit + (bad == 1);
        size_t n = tier_pack(hi, 18, p);
        n += tier_pack(lo, 5, p + n);
        memcpy(p + n, &(uint32_t){(uint32_t)n}, 4);
        if (bad == 0)
            verify_refuses(spool, m, &h, p, n + 4, "temperature, element 0");
        if (bad == 1)
            verify_refuses(spool, m, &h, p, n + 4, "bn.running_mean, element 4");
        if (bad < 2)
            continue;
        struct tier_hash id = sealed_raw(spool, &h, p, n + 4);
        struct tier_update *u = update_open(spool, &id);
        MUST(tier_update_verify(u, m, err));
        tier_spool_update_close(u);
        p[n]--; /* the directory says one byte less, then one more */
        verify_refuses(spool, m, &h, p, n + 4, "left between");
        p[n] += 2;
        verify_refuses(spool, m, &h, p, n + 4, "past the end");
        p[n + 3] = 0xff;
        verify_refuses(spool, m, &h, p, n + 4, "more bytes than it can take");
    }
    tier_manifest_free(m);
    tier_spool_close(spool);
}
