/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/team_wire.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

static struct tier_err err;

/* There and back. */
static struct tier_team_message again(const struct tier_team_message *m) {
    struct tier_team_message out;
    struct tier_bytes b = tier_team_bytes(m);
    cr_assert(tier_team_message(b.data, b.n, &out, &err) == TIER_OK, "%s", err.text);
    free(b.data);
    cr_assert(out.type == m->type);
    return out;
}

static void refused(const struct tier_team_message *m, const char *field) {
    struct tier_team_message out;
    struct tier_bytes b = tier_team_bytes(m);
    cr_assert(tier_team_message(b.data, b.n, &out, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, field) != NULL, "%s", err.text);
    free(b.data);
}

Test(tier_team_wire, every_message_comes_back_as_it_was) {
    uint8_t data[300];
    memset(data, 0xa5, sizeof data);
    struct tier_team_message m = {.type = TIER_TEAM_HELLO,
                                  .protocol = 1,
                                  .devices = 64,
                                  .software = "0.1",
                                  .backend = "cpu",
                                  .hash = {{1, 2, 3}}};
    struct tier_team_message got = again(&m);
    cr_assert(got.protocol == 1 && got.devices == 64);
    cr_assert(tier_hash_equal(&got.hash, &m.hash));
    cr_assert(eq(str, got.software, "0.1"));
    cr_assert(eq(str, got.backend, "cpu"));

    m = (struct tier_team_message){.type = TIER_TEAM_JOB,
                                   .job = 7,
                                   .round = TIER_ROUNDS_MAX,
                                   .seed = UINT64_MAX,
                                   .ranks = 4,
                                   .first = 3,
                                   .data = data,
                                   .data_bytes = sizeof data};
    got = again(&m);
    cr_assert(got.round == TIER_ROUNDS_MAX);
    cr_assert(got.job == 7 && got.seed == UINT64_MAX && got.ranks == 4 && got.first == 3);
    cr_assert(got.data_bytes == sizeof data && memcmp(got.data, data, sizeof data) == 0);
    tier_team_release(&got);

    m = (struct tier_team_message){.type = TIER_TEAM_PART,
                                   .group = UINT64_MAX,
                                   .from = 63,
                                   .to = 0,
                                   .data = data,
                                   .data_bytes = sizeof data};
    got = again(&m);
    cr_assert(got.group == UINT64_MAX && got.from == 63 && got.to == 0);
    cr_assert(got.data_bytes == sizeof data && memcmp(got.data, data, sizeof data) == 0);
    tier_team_release(&got);

    m = (struct tier_team_message){
        .type = TIER_TEAM_READY, .job = 1, .status = TIER_EDATA, .reason = "no", .elements = 9};
    got = again(&m);
    cr_assert(got.status == TIER_EDATA && got.elements == 9 && !got.want_graph);
    cr_assert(eq(str, got.reason, "no"));

    m = (struct tier_team_message){.type = TIER_TEAM_GO, .job = 1, .group = 2};
    memset(m.id.bytes, 0x11, sizeof m.id.bytes);
    got = again(&m);
    cr_assert(got.group == 2 && memcmp(&got.id, &m.id, sizeof m.id) == 0);

    m = (struct tier_team_message){.type = TIER_TEAM_DONE, .job = 1, .hash = {{9}}};
    got = again(&m);
    cr_assert(got.status == TIER_OK && tier_hash_equal(&got.hash, &m.hash));

    m = (struct tier_team_message){.type = TIER_TEAM_ABORT, .job = 5, .reason = "why"};
    got = again(&m);
    cr_assert(got.job == 5);
    cr_assert(eq(str, got.reason, "why"));

    m = (struct tier_team_message){
        .type = TIER_TEAM_GRAPH, .at = 10, .data = data, .data_bytes = 1};
    got = again(&m);
    cr_assert(got.at == 10 && got.data_bytes == 1);
    tier_team_release(&got);
    m = (struct tier_team_message){.type = TIER_TEAM_WELCOME};
    again(&m);
}

Test(tier_team_wire, what_is_out_of_bounds_is_refused_by_name) {
    uint8_t *data = calloc(1, (1u << 20) + 1);
    refused(&(struct tier_team_message){.type = TIER_TEAM_HELLO, .devices = 0}, "hello.devices");
    refused(&(struct tier_team_message){.type = TIER_TEAM_HELLO, .devices = 65}, "hello.devices");
    refused(&(struct tier_team_message){.type = TIER_TEAM_HELLO, .devices = 1, .backend = "c\n"},
            "hello.backend");
    struct tier_team_message job = {
        .type = TIER_TEAM_JOB, .round = 1, .ranks = 2, .first = 2, .data = data, .data_bytes = 1};
    refused(&job, "job.first");
    job.first = 0; /* the leader's */
    refused(&job, "job.first");
    job.first = 1;
    job.data_bytes = (1u << 20) + 1;
    refused(&job, "job.plan");
    job.ranks = 65;
    refused(&job, "job.ranks");
    job.round = 0;
    refused(&job, "job.round");
    job.round = TIER_ROUNDS_MAX + 1;
    refused(&job, "job.round");
    refused(&(struct tier_team_message){.type = TIER_TEAM_PART, .from = 64}, "part.from");
    refused(&(struct tier_team_message){.type = TIER_TEAM_PART, .to = 64}, "part.to");
    refused(&(struct tier_team_message){.type = TIER_TEAM_PART,
                                        .data = data,
                                        .data_bytes = KERN_GROUP_MESSAGE_BYTES + 1},
            "part.data");
    refused(&(struct tier_team_message){.type = TIER_TEAM_GRAPH}, "graph.data");
    refused(&(struct tier_team_message){.type = TIER_TEAM_READY, .status = TIER_STATUS_COUNT},
            "ready.status");
    refused(&(struct tier_team_message){.type = TIER_TEAM_READY, .elements = UINT64_MAX},
            "ready.elements");
    free(data);
}

Test(tier_team_wire, bytes_that_are_no_message_are_refused) {
    struct tier_team_message out;
    cr_assert(tier_team_message((const uint8_t *)"\xff\xff\xff", 3, &out, &err) == TIER_EPROTO);
    cr_assert(tier_team_message((const uint8_t *)"", 0, &out, &err) == TIER_EPROTO);
}
