/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/trainer_wire.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static struct tier_err err;

/* There and back. */
static struct tier_from_trainer from_again(const struct tier_from_trainer *m) {
    struct tier_from_trainer out;
    struct tier_bytes b = tier_from_trainer_bytes(m);
    cr_assert(tier_from_trainer(b.data, b.n, &out, &err) == TIER_OK, "%s", err.text);
    free(b.data);
    cr_assert(out.type == m->type);
    return out;
}

static void from_refused(const struct tier_from_trainer *m, const char *field) {
    struct tier_from_trainer out;
    struct tier_bytes b = tier_from_trainer_bytes(m);
    cr_assert(tier_from_trainer(b.data, b.n, &out, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, field) != NULL, "%s", err.text);
    free(b.data);
}

static struct tier_to_trainer to_again(const struct tier_to_trainer *m) {
    struct tier_to_trainer out;
    struct tier_bytes b = tier_to_trainer_bytes(m);
    cr_assert(tier_to_trainer(b.data, b.n, &out, &err) == TIER_OK, "%s", err.text);
    free(b.data);
    cr_assert(out.type == m->type);
    return out;
}

static void to_refused(const struct tier_to_trainer *m, const char *field) {
    struct tier_to_trainer out;
    struct tier_bytes b = tier_to_trainer_bytes(m);
    cr_assert(tier_to_trainer(b.data, b.n, &out, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, field) != NULL, "%s", err.text);
    free(b.data);
}

Test(tier_trainer_wire, a_hello_comes_back_as_it_was) {
    struct tier_from_trainer m = {.type = TIER_TRAINER_HELLO, .protocol = 7, .software = "monai"};
    struct tier_from_trainer got = from_again(&m);
    cr_assert(eq(u32, got.protocol, 7));
    cr_assert(eq(str, got.software, "monai"));
}

Test(tier_trainer_wire, a_result_comes_back_as_it_was) {
    const int64_t bins[3] = {INT64_MAX, 0, -1}, one = 31;
    struct tier_from_trainer m = {.type = TIER_TRAINER_RESULT,
                                  .job = UINT64_MAX,
                                  .weight = TIER_WEIGHT_MAX,
                                  .steps = 9,
                                  .metrics = tier_metrics_new()};
    size_t n;
    tier_metrics_add(m.metrics, "hist", 3, bins, NULL);
    tier_metrics_add(m.metrics, "count", 1, &one, NULL);
    struct tier_from_trainer got = from_again(&m);
    cr_assert(got.job == UINT64_MAX && got.weight == TIER_WEIGHT_MAX && got.steps == 9);
    cr_assert(got.failed == false && *got.reason == '\0');
    cr_assert(eq(sz, tier_metrics_count(got.metrics), 2));
    cr_assert(memcmp(tier_metrics_get(got.metrics, "hist", &n), bins, sizeof bins) == 0 && n == 3);
    cr_assert(eq(i64, tier_metrics_scalar(got.metrics, "count"), 31));
    tier_from_trainer_release(&got);
    tier_metrics_free(m.metrics);

    m = (struct tier_from_trainer){
        .type = TIER_TRAINER_RESULT, .job = 1, .failed = true, .reason = "no memory"};
    got = from_again(&m);
    cr_assert(got.failed && got.metrics == NULL && got.weight == 0);
    cr_assert(eq(str, got.reason, "no memory"));
}

Test(tier_trainer_wire, what_a_trainer_says_out_of_bounds_is_refused_by_name) {
    const int64_t one = 1;
    struct tier_from_trainer m = {.type = TIER_TRAINER_RESULT, .weight = TIER_WEIGHT_MAX + 1};
    from_refused(&m, "result.weight");
    m = (struct tier_from_trainer){.type = TIER_TRAINER_RESULT, .reason = "a\nb"};
    from_refused(&m, "result.reason");
    m = (struct tier_from_trainer){.type = TIER_TRAINER_HELLO, .software = "\x7f"};
    from_refused(&m, "hello.software");
    m = (struct tier_from_trainer){.type = TIER_TRAINER_RESULT, .metrics = tier_metrics_new()};
    for (int i = 0; i <= TIER_TRAINER_METRICS_MAX; i++)
        tier_metrics_add(m.metrics, (char[]){(char)('a' + i), 0}, 1, &one, NULL);
    from_refused(&m, "result.metrics");
    tier_metrics_free(m.metrics);
}

/* Messages that no encoder of ours makes: field by field. */
static void bytes_refused(const void *bytes, size_t n, const char *text) {
    struct tier_from_trainer out;
    cr_assert(tier_from_trainer(bytes, n, &out, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, text) != NULL, "%s", err.text);
}

Test(tier_trainer_wire, metrics_that_are_none_are_refused) {
    /* Result 2 { Metric 6 { name 1: "a", values 2: [1] } }, and again. */
    static const uint8_t twice[] = {0x12, 16,   0x32, 6,    0x0a, 1,   'a',  0x12, 1,
                                    2,    0x32, 6,    0x0a, 1,    'a', 0x12, 1,    2};
    static const uint8_t empty[] = {0x12, 5, 0x32, 3, 0x0a, 1, 'a'};
    static const uint8_t bad_name[] = {0x12, 8, 0x32, 6, 0x0a, 1, ' ', 0x12, 1, 2};
    bytes_refused(twice, sizeof twice, "twice");
    bytes_refused(empty, sizeof empty, "no metric");
    bytes_refused(bad_name, sizeof bad_name, "no metric");
    bytes_refused("", 0, "no known kind");
    bytes_refused("\x12", 1, "not a valid protobuf message");
    uint8_t *large = calloc(1, TIER_TRAINER_SAID_BYTES + 1);
    bytes_refused(large, TIER_TRAINER_SAID_BYTES + 1, "not a valid protobuf message");
    free(large);
}

static struct tier_to_trainer a_round(void) {
    static char plan[] = "{\"plan\":1}";
    return (struct tier_to_trainer){.type = TIER_TRAINER_ROUND,
                                    .job = 3,
                                    .run = {{1, 2, 3}},
                                    .round = 2,
                                    .seed = UINT64_MAX,
                                    .bytes = 4096,
                                    .weight_max = 17,
                                    .train = true,
                                    .evaluate = true,
                                    .model = "0102-2-3.model",
                                    .result = "0102-2-3.result",
                                    .graph = "/data/models/a.onnx",
                                    .plan = plan,
                                    .plan_bytes = sizeof plan - 1};
}

Test(tier_trainer_wire, what_a_trainer_is_told_comes_back_as_it_was) {
    struct tier_to_trainer m = {
        .type = TIER_TRAINER_WELCOME, .spoke = "north-1", .contract = "heart"};
    struct tier_to_trainer got = to_again(&m);
    cr_assert(eq(str, got.spoke, "north-1"));
    cr_assert(eq(str, got.contract, "heart"));

    m = a_round();
    got = to_again(&m);
    cr_assert(got.job == 3 && got.round == 2 && got.seed == UINT64_MAX && got.bytes == 4096);
    cr_assert(got.weight_max == 17 && got.train && got.evaluate);
    cr_assert(tier_hash_equal(&got.run, &m.run));
    cr_assert(eq(str, got.model, m.model));
    cr_assert(eq(str, got.result, m.result));
    cr_assert(eq(str, got.graph, m.graph));
    cr_assert(got.plan_bytes == m.plan_bytes && memcmp(got.plan, m.plan, m.plan_bytes) == 0);
    tier_to_trainer_release(&got);

    m = (struct tier_to_trainer){.type = TIER_TRAINER_OVER, .job = 8, .why = "NaN"};
    got = to_again(&m);
    cr_assert(got.job == 8 && !got.taken);
    cr_assert(eq(str, got.why, "NaN"));
}

Test(tier_trainer_wire, a_round_out_of_bounds_is_refused_by_name) {
    struct tier_to_trainer m = a_round();
    m.round = 0;
    to_refused(&m, "round.round");
    m = a_round();
    m.train = m.evaluate = false;
    to_refused(&m, "round.train");
    m = a_round();
    m.plan_bytes = 0;
    to_refused(&m, "round.plan");
    m = a_round();
    memcpy(m.model, "../model", 9);
    to_refused(&m, "round.model");
    m = a_round();
    memcpy(m.result, ".", 2);
    to_refused(&m, "round.result");
}
