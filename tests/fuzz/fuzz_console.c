/* SPDX-License-Identifier: Apache-2.0 */
/* What consoles and hubs say to each other: what is accepted encodes to bytes that mean the same.
 */
#include "fuzz/fuzz.h"
#include "tier/console_wire.h"

#include <string.h>

/* Decodes, encodes, and again: the second bytes are the first. */
#define AGAIN(type, decode, encode, release)                                                       \
    do {                                                                                           \
        type m_, n_;                                                                               \
        if (decode(data, size, &m_, NULL) != TIER_OK)                                              \
            break;                                                                                 \
        struct tier_bytes a_ = encode(&m_);                                                        \
        FUZZ_CHECK(decode(a_.data, a_.n, &n_, NULL) == TIER_OK);                                   \
        struct tier_bytes b_ = encode(&n_);                                                        \
        FUZZ_CHECK(a_.n == b_.n && memcmp(a_.data, b_.data, a_.n) == 0);                           \
        free(a_.data);                                                                             \
        free(b_.data);                                                                             \
        release(&m_);                                                                              \
        release(&n_);                                                                              \
    } while (0)
#define NOTHING(m) (void)(m)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    AGAIN(struct tier_console_run, tier_console_run, tier_console_run_bytes,
          tier_console_run_release);
    AGAIN(struct tier_console_runs, tier_console_runs, tier_console_runs_bytes,
          tier_console_runs_release);
    AGAIN(struct tier_console_nodes, tier_console_nodes, tier_console_nodes_bytes,
          tier_console_nodes_release);
    AGAIN(struct tier_console_run_request, tier_console_run_request, tier_console_run_request_bytes,
          NOTHING);
    AGAIN(struct tier_console_pull, tier_console_pull, tier_console_pull_bytes, NOTHING);
    AGAIN(struct tier_console_approval_request, tier_console_approval_request,
          tier_console_approval_request_bytes, NOTHING);
    AGAIN(struct tier_console_approval, tier_console_approval, tier_console_approval_bytes,
          NOTHING);
    AGAIN(struct tier_console_contributors, tier_console_contributors,
          tier_console_contributors_bytes, tier_console_contributors_release);
    AGAIN(struct tier_console_pardon, tier_console_pardon, tier_console_pardon_bytes, NOTHING);
    AGAIN(struct tier_console_part, tier_console_part, tier_console_part_bytes,
          tier_console_part_release);
    return 0;
}

static struct tier_bytes seed_of(unsigned i) {
    struct tier_console_child child = {.name = "north", .state = "training", .total = 9};
    struct tier_console_round round = {.number = 1, .metric_count = 1, .weight = 7};
    struct tier_console_run run = {.name = "wdbc",
                                   .state = "open",
                                   .round_state = "open",
                                   .rounds = 3,
                                   .children_total = 1,
                                   .children = &child,
                                   .child_count = 1,
                                   .history = &round,
                                   .history_count = 1};
    struct tier_console_runs runs = {.item = &run, .count = 1};
    struct tier_console_node node = {.name = "north", .state = "attending", .address = "[::1]:7"};
    struct tier_console_nodes nodes = {.self = node, .children = &node, .count = 1, .total = 1};
    struct tier_console_part part = {.is_plan = true, .data = (const uint8_t *)"{}", .bytes = 2};

    struct tier_console_contributor one = {.name = "north",
                                           .updates = 3,
                                           .shares = 3,
                                           .share = 0.5,
                                           .without = -0.125,
                                           .round = 2,
                                           .update = {{1}},
                                           .why = "too long"};
    struct tier_console_contributors contributors = {
        .name = "wdbc", .total = 1, .item = &one, .count = 1};

    run.run.b[0] = 1;
    snprintf(round.metrics[0].name, sizeof round.metrics[0].name, "loss");
    switch (i) {
    case 0:
        return tier_console_run_bytes(&run);
    case 1:
        run.child_count = run.history_count = 0;
        return tier_console_runs_bytes(&runs);
    case 2:
        return tier_console_nodes_bytes(&nodes);
    case 3:
        return tier_console_run_request_bytes(&(struct tier_console_run_request){.run = "0a"});
    case 4:
        return tier_console_pull_bytes(&(struct tier_console_pull){.run = "0a", .graph = true});
    case 5:
        return tier_console_approval_request_bytes(&(struct tier_console_approval_request){
            .action = TIER_CONSOLE_REVOKE, .subject = "north"});
    case 6:
        return tier_console_approval_bytes(&(struct tier_console_approval){
            .by = {"anna", "bert"}, .count = 2, .done = true, .expires_ms = 1});
    case 7:
        return tier_console_contributors_bytes(&contributors);
    case 8:
        return tier_console_pardon_bytes(
            &(struct tier_console_pardon){.run = "0a", .child = "north"});
    default:
        return tier_console_part_bytes(&part);
    }
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    if (i > 9)
        return 0;
    struct tier_bytes b = seed_of(i);
    FUZZ_CHECK(b.n <= room);
    memcpy(out, b.data, b.n);
    size_t n = b.n;
    free(b.data);
    return n;
}
