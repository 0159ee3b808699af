/* SPDX-License-Identifier: Apache-2.0 */
/* Two operators, at a hub with the authority beside it; a day passes by the argument alone. */
#include "hub/approval.h"
#include "tests/support/tree.h"
#include "tier/log.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY_MS INT64_C(86400000)
#define TIMEOUT_MS 60000

static char work[64];
static struct tree *tree;
static struct tree_node *top;
static int64_t T; /* when a test begins, ms */

static void set_up(void) {
    char dir[128];
    tier_log_init("test", TIER_LOG_ERROR);
    T = tier_wall_ms();
    snprintf(work, sizeof work, "/tmp/consilium-approval-XXXXXX");
    cr_assert(mkdtemp(work) != NULL);
    snprintf(dir, sizeof dir, "%s/tree", work);
    tree = tree_new(dir, true);
    top = tree_hub(tree, "top", NULL, 1);
    tree_stop(top);
    struct tier_config *c = tree_config(top);
    snprintf(c->hub.enroll_listen, sizeof c->hub.enroll_listen, "127.0.0.1:0");
    snprintf(c->hub.authority_dir, sizeof c->hub.authority_dir, "%s/tree/authority", work);
    tree_start(top);
    tree_hub(tree, "north", top, 1); /* whom it is about */
}

static void tear_down(void) {
    char command[128];
    tree_free(tree);
    snprintf(command, sizeof command, "rm -rf %s", work);
    cr_assert(system(command) == 0);
}

TestSuite(hub_approval, .init = set_up, .fini = tear_down);

struct asked {
    struct tier_console_approval_request what;
    const char *caller;
    int64_t at_ms;
    enum tier_status st;
    struct tier_err err;
    struct tier_console_approval got;
};

static bool ask_now(struct hub *hub, void *arg) {
    struct asked *a = arg;
    a->st = hub_approve(hub, &a->what, a->caller, a->at_ms, &a->got, &a->err);
    return true;
}

static struct asked approve(struct tree_node *at, enum tier_console_action action,
                            const char *subject, const char *caller, int64_t at_ms) {
    struct asked a = {.caller = caller, .at_ms = at_ms};
    a.what.action = action;
    snprintf(a.what.subject, sizeof a.what.subject, "%s", subject);
    cr_assert(tree_until(at, ask_now, &a, TIMEOUT_MS));
    return a;
}

static bool is_released(struct hub *hub, void *arg) {
    return hub_model_released(hub, arg);
}

Test(hub_approval, two_of_different_names_within_a_day_do_what_one_cannot) {
    struct asked a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T);
    cr_assert(a.st == TIER_OK && a.got.count == 1 && !a.got.done, "%s", a.err.text);
    cr_assert(eq(i64, a.got.expires_ms, T + DAY_MS));
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T + 1);
    cr_assert(a.st == TIER_ECONFLICT && strstr(a.err.text, "second operator"), "%s", a.err.text);
    tree_stop(top); /* the first approval is kept over a restart */
    tree_start(top);
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "bert", T + DAY_MS);
    cr_assert(a.st == TIER_OK && a.got.count == 2 && a.got.done, "%s", a.err.text);
    cr_assert(eq(str, a.got.by[0], "anna"));
    cr_assert(eq(str, a.got.by[1], "bert"));
    /* It begins anew, and there is nothing left to revoke. */
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T + DAY_MS);
    cr_assert(a.st == TIER_OK && a.got.count == 1);
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "bert", T + DAY_MS);
    cr_assert(a.st == TIER_ENOTFOUND, "%s", a.err.text);
}

Test(hub_approval, an_approval_of_yesterday_counts_for_nothing) {
    struct asked a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T);
    cr_assert(a.st == TIER_OK);
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "bert", T + DAY_MS + 1);
    cr_assert(a.st == TIER_OK && a.got.count == 1 && !a.got.done, "%s", a.err.text);
    cr_assert(eq(str, a.got.by[0], "bert"));
}

Test(hub_approval, an_approval_is_of_one_action_on_one_subject) {
    struct asked a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T);
    cr_assert(a.st == TIER_OK);
    a = approve(top, TIER_CONSOLE_REVOKE, "top", "bert", T);
    cr_assert(a.st == TIER_OK && a.got.count == 1, "anna approved another name");
}

Test(hub_approval, what_cannot_be_done_is_refused_to_the_first_already) {
    struct tier_hash none;
    char hex[TIER_HASH_HEX];
    tier_hash_data("none", 4, &none);
    struct asked a = approve(top, TIER_CONSOLE_RELEASE, tier_hash_hex(&none, hex), "anna", T);
    cr_assert(a.st == TIER_ENOTFOUND && strstr(a.err.text, "no run here"), "%s", a.err.text);
    cr_assert(tree_until(top, is_released, &none, 0) == false);
    tree_stop(top);
    tree_config(top)->hub.enroll_listen[0] = tree_config(top)->hub.authority_dir[0] = '\0';
    tree_start(top);
    a = approve(top, TIER_CONSOLE_REVOKE, "north", "anna", T);
    cr_assert(a.st == TIER_EPOLICY && strstr(a.err.text, "authority_dir"), "%s", a.err.text);
}
