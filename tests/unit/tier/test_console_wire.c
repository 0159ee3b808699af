/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/console_wire.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct tier_err err;

/* The largest run that the bounds allow. */
static struct tier_console_run full_run(void) {
    struct tier_console_run r = {.round = TIER_ROUNDS_MAX,
                                 .rounds = TIER_ROUNDS_MAX,
                                 .created_ms = INT64_MAX,
                                 .children_total = TIER_CHILDREN_MAX,
                                 .child_count = TIER_CONSOLE_CHILDREN_MAX,
                                 .history_count = TIER_CONSOLE_ROUNDS_MAX};
    memset(r.run.b, 0xab, sizeof r.run.b);
    memset(r.model.b, 0xcd, sizeof r.model.b);
    memset(r.name, 'n', sizeof r.name - 1);
    memset(r.state, 's', sizeof r.state - 1);
    memset(r.round_state, 's', sizeof r.round_state - 1);
    memset(r.reason, 'r', sizeof r.reason - 1);
    r.children = calloc(r.child_count, sizeof *r.children);
    for (size_t i = 0; i < r.child_count; i++) {
        struct tier_console_child *c = &r.children[i];
        snprintf(c->name, sizeof c->name, "child-%057zu", i);
        memset(c->state, 's', sizeof c->state - 1);
        memset(c->phase, 'p', sizeof c->phase - 1);
        c->attending = i % 2;
        c->done = c->total = UINT32_MAX;
    }
    r.history = calloc(r.history_count, sizeof *r.history);
    for (size_t i = 0; i < r.history_count; i++) {
        struct tier_console_round *h = &r.history[i];
        *h = (struct tier_console_round){.number = TIER_ROUNDS_MAX - i,
                                         .metric_count = TIER_CONSOLE_METRICS_MAX,
                                         .opened_ms = 1,
                                         .closed_ms = INT64_MAX,
                                         .weight = TIER_WEIGHT_TOTAL_MAX,
                                         .updates = UINT32_MAX};
        memset(h->model.b, (int)i, sizeof h->model.b);
        for (size_t k = 0; k < h->metric_count; k++) {
            memset(h->metrics[k].name, 'a' + (int)k, sizeof h->metrics[k].name - 1);
            h->metrics[k].value = 0.1 * (double)k;
        }
    }
    return r;
}

static struct tier_bytes spoil(struct tier_console_run *r) {
    struct tier_bytes b = tier_console_run_bytes(r);
    tier_console_run_release(r);
    return b;
}

Test(tier_console_wire, the_largest_run_comes_back_as_it_was_and_fits_one_message) {
    struct tier_console_run r = full_run(), back;
    struct tier_bytes b = tier_console_run_bytes(&r);

    cr_assert(le(sz, b.n, TIER_MESSAGE_BYTES_MAX));
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_OK), "%s", err.text);
    cr_assert(tier_hash_equal(&back.run, &r.run));
    cr_assert(eq(sz, back.child_count, r.child_count));
    cr_assert(eq(int, memcmp(back.children, r.children, r.child_count * sizeof *r.children), 0));
    cr_assert(eq(sz, back.history_count, r.history_count));
    cr_assert(eq(int, memcmp(back.history, r.history, r.history_count * sizeof *r.history), 0));
    cr_assert(eq(str, back.reason, r.reason));
    cr_assert(eq(i64, back.created_ms, INT64_MAX));
    free(b.data);
    tier_console_run_release(&r);
    tier_console_run_release(&back);
}

Test(tier_console_wire, a_run_without_a_model_has_the_zero_hash) {
    struct tier_console_run r = {.name = "x"}, back;
    struct tier_bytes b = tier_console_run_bytes(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(tier_hash_is_zero(&back.model));
    cr_assert(eq(sz, back.child_count, 0));
    tier_console_run_release(&back);
    free(b.data);
}

Test(tier_console_wire, a_run_with_more_than_its_bounds_is_refused_by_field) {
    struct tier_console_run r = full_run(), back;
    struct tier_console_child *more = calloc(r.child_count + 1, sizeof *more);
    free(r.children);
    r.children = more;
    r.child_count++;
    struct tier_bytes b = spoil(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "run.children") != NULL);
    free(b.data);

    r = full_run();
    r.history[3].metrics[1].value = NAN;
    b = spoil(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "not a finite number") != NULL);
    free(b.data);

    r = full_run();
    r.children[7].phase[0] = '\033';
    b = spoil(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "child.phase holds a control character") != NULL);
    free(b.data);

    r = full_run();
    snprintf(r.reason, sizeof r.reason, "\xc3\xa9 is a letter");
    b = spoil(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_OK), "%s", err.text);
    tier_console_run_release(&back);
    free(b.data);
    r = full_run();
    snprintf(r.reason, sizeof r.reason,
             "\xc2\x9b"
             "2J clears some terminals");
    b = spoil(&r);
    cr_assert(eq(int, tier_console_run(b.data, b.n, &back, &err), TIER_EPROTO));
    free(b.data);
}

Test(tier_console_wire, no_prefix_of_a_run_is_read_past_its_end) {
    struct tier_console_run r = full_run(), back;
    r.child_count = 2;
    r.history_count = 2;
    struct tier_bytes b = spoil(&r);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *cut = malloc(n ? n : 1); /* so that a read past it is one past the allocation */
        memcpy(cut, b.data, n);
        if (tier_console_run(cut, n, &back, &err) == TIER_OK)
            tier_console_run_release(&back);
        free(cut);
    }
    free(b.data);
}

Test(tier_console_wire, runs_and_nodes_come_back_as_they_were) {
    struct tier_console_run two[2] = {{.name = "one", .round = 3}, {.name = "two", .rounds = 4}};
    struct tier_console_runs runs = {two, 2}, runs_back;
    struct tier_bytes b = tier_console_runs_bytes(&runs);
    cr_assert(eq(int, tier_console_runs(b.data, b.n, &runs_back, &err), TIER_OK));
    cr_assert(eq(sz, runs_back.count, 2));
    cr_assert(eq(str, runs_back.item[1].name, "two"));
    cr_assert(eq(u64, runs_back.item[0].round, 3));
    tier_console_runs_release(&runs_back);
    free(b.data);

    struct tier_console_node child = {.name = "north", .state = "attending", .since_ms = -5};
    struct tier_console_nodes nodes = {
        .self = {.name = "top", .address = "[::1]:70"}, .children = &child, .count = 1, .total = 9};
    struct tier_console_nodes nodes_back;
    b = tier_console_nodes_bytes(&nodes);
    cr_assert(eq(int, tier_console_nodes(b.data, b.n, &nodes_back, &err), TIER_OK));
    cr_assert(eq(str, nodes_back.self.address, "[::1]:70"));
    cr_assert(eq(str, nodes_back.children[0].state, "attending"));
    cr_assert(eq(i64, nodes_back.children[0].since_ms, -5));
    cr_assert(eq(u32, nodes_back.total, 9));
    tier_console_nodes_release(&nodes_back);
    free(b.data);
    cr_assert(eq(int, tier_console_nodes((const uint8_t *)"", 0, &nodes_back, &err), TIER_EPROTO));
}

Test(tier_console_wire, a_run_is_named_by_hex_digits_only) {
    struct tier_console_run_request r = {"0123abcd"}, back;
    struct tier_bytes b = tier_console_run_request_bytes(&r);
    cr_assert(eq(int, tier_console_run_request(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(eq(str, back.run, "0123abcd"));
    free(b.data);

    snprintf(r.run, sizeof r.run, "../etc");
    b = tier_console_run_request_bytes(&r);
    cr_assert(eq(int, tier_console_run_request(b.data, b.n, &back, &err), TIER_EPROTO));
    free(b.data);
}

Test(tier_console_wire, a_pull_names_a_file_one_way_only) {
    struct tier_console_pull p = {.run = "ab", .graph = true}, back;
    struct tier_bytes b = tier_console_pull_bytes(&p);
    cr_assert(eq(int, tier_console_pull(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(back.graph);
    cr_assert(tier_hash_is_zero(&back.file));
    free(b.data);

    p = (struct tier_console_pull){.graph = false};
    memset(p.file.b, 1, sizeof p.file.b);
    b = tier_console_pull_bytes(&p);
    cr_assert(eq(int, tier_console_pull(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(tier_hash_equal(&back.file, &p.file));
    free(b.data);

    p.graph = true;
    b = tier_console_pull_bytes(&p);
    cr_assert(eq(int, tier_console_pull(b.data, b.n, &back, &err), TIER_EPROTO));
    free(b.data);
}

Test(tier_console_wire, a_part_holds_a_plan_or_a_piece_and_no_more_than_allowed) {
    uint8_t *data = calloc(1, TIER_CHUNK_BYTES + 1);
    struct tier_console_part p = {.is_plan = true, .data = data, .bytes = TIER_PLAN_BYTES_MAX};
    struct tier_console_part back;
    struct tier_bytes b = tier_console_part_bytes(&p);
    cr_assert(le(sz, b.n, TIER_MESSAGE_BYTES_MAX));
    cr_assert(eq(int, tier_console_part(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(back.is_plan);
    cr_assert(eq(sz, back.bytes, TIER_PLAN_BYTES_MAX));
    tier_console_part_release(&back);
    free(b.data);

    p = (struct tier_console_part){.data = data, .bytes = TIER_CHUNK_BYTES + 1};
    b = tier_console_part_bytes(&p);
    cr_assert(eq(int, tier_console_part(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "part.graph") != NULL);
    free(b.data);
    cr_assert(eq(int, tier_console_part(data, 0, &back, &err), TIER_EPROTO), "neither");
    free(data);
}

Test(tier_console_wire, an_approval_and_its_request_come_back_as_they_were) {
    struct tier_console_approval_request request = {.action = TIER_CONSOLE_REVOKE,
                                                    .subject = "north-1"};
    struct tier_console_approval_request same;
    struct tier_console_approval a = {
        .by = {"anna", "bert"}, .count = 2, .done = true, .expires_ms = -7};
    struct tier_console_approval back;
    struct tier_bytes b = tier_console_approval_request_bytes(&request);
    cr_assert(tier_console_approval_request(b.data, b.n, &same, NULL) == TIER_OK);
    cr_assert(same.action == TIER_CONSOLE_REVOKE);
    cr_assert(eq(str, same.subject, "north-1"));
    free(b.data);
    b = tier_console_approval_bytes(&a);
    cr_assert(tier_console_approval(b.data, b.n, &back, NULL) == TIER_OK);
    cr_assert(back.count == 2 && back.done && back.expires_ms == -7);
    cr_assert(eq(str, back.by[0], "anna"));
    cr_assert(eq(str, back.by[1], "bert"));
    free(b.data);
}

Test(tier_console_wire, an_approval_names_a_hash_or_a_name_and_one_or_two_persons) {
    struct tier_console_approval_request request = {.action = TIER_CONSOLE_RELEASE,
                                                    .subject = "north-1"};
    struct tier_console_approval a = {.count = 0}, back;
    struct tier_bytes b = tier_console_approval_request_bytes(&request);
    cr_assert(tier_console_approval_request(b.data, b.n, &request, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, "SHA-256") != NULL);
    free(b.data);
    request =
        (struct tier_console_approval_request){.action = TIER_CONSOLE_REVOKE, .subject = "North"};
    b = tier_console_approval_request_bytes(&request);
    cr_assert(tier_console_approval_request(b.data, b.n, &request, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, "not a name") != NULL);
    free(b.data);
    request.action = (enum tier_console_action)7;
    b = tier_console_approval_request_bytes(&request);
    cr_assert(tier_console_approval_request(b.data, b.n, &request, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, "approve.action is 7") != NULL);
    free(b.data);
    b = tier_console_approval_bytes(&a);
    cr_assert(tier_console_approval(b.data, b.n, &back, &err) == TIER_EPROTO);
    cr_assert(strstr(err.text, "approval.by has 0") != NULL);
    free(b.data);
}

static struct tier_console_contributors full_contributors(void) {
    struct tier_console_contributors c = {.total = 5000, .count = TIER_CONSOLE_CONTRIBUTORS_MAX};
    memset(c.run.b, 7, sizeof c.run.b);
    memset(c.name, 'n', TIER_NAME_LEN_MAX);
    c.item = calloc(c.count, sizeof *c.item);
    for (size_t i = 0; i < c.count; i++) {
        struct tier_console_contributor *v = &c.item[i];
        memset(v->name, 'c', TIER_NAME_LEN_MAX);
        v->updates = v->weight = v->bytes = v->shares = UINT64_MAX - i;
        v->share = 0.1 * (double)i;
        v->error = 1e-300;
        v->without = -0.25;
        v->quarantined = v->strikes = v->round = UINT64_MAX;
        v->out = i % 2;
        v->update.b[0] = (uint8_t)i;
        memset(v->why, 'w', i % 3 ? TIER_REASON_LEN_MAX : 0);
        memset(v->utility, 'u', TIER_CONSOLE_TEXT_SIZE - 1);
    }
    return c;
}

Test(tier_console_wire, contributors_come_back_as_they_were_and_fit_one_message) {
    struct tier_console_contributors c = full_contributors(), back;
    struct tier_bytes b = tier_console_contributors_bytes(&c);
    cr_assert(le(sz, b.n, TIER_MESSAGE_BYTES_MAX));
    cr_assert(eq(int, tier_console_contributors(b.data, b.n, &back, &err), TIER_OK), "%s",
              err.text);
    cr_assert(eq(sz, back.count, c.count));
    cr_assert(eq(u32, back.total, 5000));
    cr_assert(eq(str, back.name, c.name));
    cr_assert(eq(int, memcmp(back.item, c.item, c.count * sizeof *c.item), 0));
    free(b.data);
    tier_console_contributors_release(&c);
    tier_console_contributors_release(&back);
}

Test(tier_console_wire, contributors_beyond_their_bounds_are_refused_by_field) {
    struct tier_console_contributors c = full_contributors(), back;
    struct tier_bytes b;
    c.count = 1;
    c.item[0].share = NAN;
    b = tier_console_contributors_bytes(&c);
    cr_assert(eq(int, tier_console_contributors(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "a share that is no number") != NULL, "%s", err.text);
    free(b.data);
    c.item[0].share = 0;
    c.item[0].why[3] = '\n';
    c.item[0].why[0] = c.item[0].why[1] = c.item[0].why[2] = 'w';
    b = tier_console_contributors_bytes(&c);
    cr_assert(eq(int, tier_console_contributors(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "contributor.why holds a control character") != NULL);
    free(b.data);
    tier_console_contributors_release(&c);
    c = (struct tier_console_contributors){
        .name = "x",
        .count = TIER_CONSOLE_CONTRIBUTORS_MAX + 1,
        .item = calloc(TIER_CONSOLE_CONTRIBUTORS_MAX + 1, sizeof *c.item)};
    b = tier_console_contributors_bytes(&c);
    cr_assert(eq(int, tier_console_contributors(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "contributors.children has 1025 entries") != NULL);
    free(b.data);
    tier_console_contributors_release(&c);
}

Test(tier_console_wire, a_pardon_names_a_child_and_a_run_by_hex_digits) {
    struct tier_console_pardon p = {.run = "00ff", .child = "north"}, back;
    struct tier_bytes b = tier_console_pardon_bytes(&p);
    cr_assert(eq(int, tier_console_pardon(b.data, b.n, &back, &err), TIER_OK));
    cr_assert(eq(str, back.run, "00ff"));
    cr_assert(eq(str, back.child, "north"));
    free(b.data);
    p.child[0] = '\0';
    b = tier_console_pardon_bytes(&p);
    cr_assert(eq(int, tier_console_pardon(b.data, b.n, &back, &err), TIER_EPROTO));
    cr_assert(strstr(err.text, "pardon.child is empty") != NULL);
    free(b.data);
    p = (struct tier_console_pardon){.run = "xy", .child = "north"};
    b = tier_console_pardon_bytes(&p);
    cr_assert(eq(int, tier_console_pardon(b.data, b.n, &back, &err), TIER_EPROTO));
    free(b.data);
}
