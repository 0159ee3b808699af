/* SPDX-License-Identifier: Apache-2.0 */
/* A steward's policy and a decision's file: either is taken whole or refused, and decides. */
#include "fuzz/fuzz.h"
#include "spoke/policy.h"
#include "spoke/steward.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct tier_plan plan = {.rounds = 3, .steps = 5, .model_bytes = 100};
    const struct spoke_asked asked = {&plan, "alice", NULL, 7, INT64_C(1800000000000)};
    struct spoke_decision decision = {0};
    struct spoke_policy *policy = NULL;
    char reason[400];

    if (spoke_decision_parse(data, size, &decision))
        FUZZ_CHECK(*decision.by && decision.deed <= SPOKE_OVERLAP);
    if (spoke_policy_parse("fuzz.yaml", data, size, &policy, NULL, NULL) != TIER_OK)
        return 0;
    enum spoke_verdict verdict = spoke_policy_decide(policy, &asked, reason, sizeof reason);
    FUZZ_CHECK(verdict <= SPOKE_NEEDS_GRAPH && *reason);
    spoke_policy_free(policy);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const seeds[] = {
        "default: refuse\nrules:\n  - {decide: ask, purpose: [quality], hours: 22-06}\n"
        "  - {decide: accept, author: [\"al*\"], days: [mon], rounds_max: 9, operators: [Gemm]}\n",
        "default: ask\nrules:\n  - decide: refuse\n    reason: no\n    epsilon_max: 1.0\n"
        "    model: [0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef]\n",
        "default: ask\nrules:\n  - {decide: accept, mode: untrusted, exceptions: [privacy], "
        "site_epsilon_max: 2.0, cohort_min: 3}\n",
        "approve\nann (sudo: bob)\nthe board agreed\n",
    };
    size_t n = i < sizeof seeds / sizeof *seeds ? strlen(seeds[i]) : 0;

    FUZZ_CHECK(n <= room);
    if (n)
        memcpy(out, seeds[i], n);
    return n;
}
