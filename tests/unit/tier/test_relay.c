/* SPDX-License-Identifier: Apache-2.0 */
/* Which way a blind sum's steps go, and who can turn one aside. Trees of hubs: test_blind.c. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/relay.h"

#include <stdio.h>
#include <string.h>

/* What went up and down last, as text: "KIND SPOKE" and "CHILD KIND SPOKE". */
static char up_said[64][96], down_said[96];
static unsigned ups;
static enum tier_status up_gives;
static bool down_gives;
static struct tier_relay *relay;
static struct tier_err err;

static enum tier_status on_up(void *arg, const struct tier_relay_message *m, struct tier_err *e) {
    (void)arg;
    if (up_gives != TIER_OK)
        return tier_fail(e, up_gives, "the top refuses it");
    cr_assert(ups < 64);
    snprintf(up_said[ups++], sizeof up_said[0], "%d %s", m->kind, m->spoke);
    return TIER_OK;
}

static bool on_down(void *arg, const char *child, const struct tier_relay_message *m) {
    (void)arg;
    snprintf(down_said, sizeof down_said, "%s %d %s", child, m->kind, m->spoke);
    return down_gives;
}

static void start(void) {
    const struct tier_relay_owner owner = {NULL, on_up, on_down};

    ups = 0;
    up_gives = TIER_OK;
    down_gives = true;
    relay = tier_relay_new(&owner);
}

static void stop(void) {
    tier_relay_free(relay);
}

TestSuite(tier_relay, .init = start, .fini = stop);

static enum tier_status step(const char *child, const char *spoke, enum tier_mask_step s) {
    const struct tier_relay_message m = {TIER_RELAY_STEP, spoke, s, (const uint8_t *)"x", 1};
    return tier_relay_from_child(relay, child, &m, &err);
}

static enum tier_status tell(const char *child, enum tier_relay_kind kind, const char *spoke) {
    const struct tier_relay_message m = {.kind = kind, .spoke = spoke};
    return tier_relay_from_child(relay, child, &m, &err);
}

static bool down(const char *spoke, enum tier_mask_step s) {
    const struct tier_relay_message m = {TIER_RELAY_STEP, spoke, s, (const uint8_t *)"x", 1};
    return tier_relay_from_parent(relay, &m);
}

/* The last thing that went up. */
static void went_up(enum tier_relay_kind kind, const char *spoke) {
    char want[96];

    snprintf(want, sizeof want, "%d %s", kind, spoke);
    cr_expect(ups > 0 && strcmp(up_said[ups - 1], want) == 0, "%s, not %s",
              ups ? up_said[ups - 1] : "nothing", want);
}

Test(tier_relay, steps_go_up_and_come_down_by_the_way_that_the_first_one_came) {
    tier_relay_joined(relay, "st-mary", false);
    tier_relay_joined(relay, "south", true);
    cr_assert(not(down("p-1", TIER_MASK_LIST)));
    cr_assert(eq(int, step("st-mary", "p-1", TIER_MASK_ADVERT), TIER_OK), "%s", err.text);
    cr_assert(eq(int, step("south", "p-2", TIER_MASK_ADVERT), TIER_OK), "%s", err.text);
    went_up(TIER_RELAY_STEP, "p-2");
    cr_assert(eq(str, (char *)tier_relay_called(relay, "st-mary"), "p-1"));
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "st-mary 0 p-1"));
    cr_assert(down("p-2", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "south 0 p-2"));
    /* Its update counts once it was handed what it masks by, and not because it was said. */
    cr_assert(not(tier_relay_takes(relay, "st-mary")));
    down_gives = false;
    cr_assert(not(down("p-1", TIER_MASK_DELIVER)));
    cr_assert(not(tier_relay_takes(relay, "st-mary")));
    down_gives = true;
    cr_assert(down("p-1", TIER_MASK_DELIVER));
    cr_assert(tier_relay_takes(relay, "st-mary"));
    tier_relay_left(relay, "st-mary");
    went_up(TIER_RELAY_GONE, "p-1");
    cr_assert(not(tier_relay_takes(relay, "st-mary")));
    cr_assert(not(down("p-1", TIER_MASK_SURVIVORS)));
}

Test(tier_relay, nobody_speaks_for_a_spoke_that_takes_part_another_way) {
    tier_relay_joined(relay, "st-mary", false);
    tier_relay_joined(relay, "st-john", false);
    tier_relay_joined(relay, "south", true);
    cr_assert(eq(int, step("st-mary", "p-1", TIER_MASK_ADVERT), TIER_OK));
    cr_assert(eq(int, step("south", "p-2", TIER_MASK_ADVERT), TIER_OK));
    cr_assert(eq(int, step("st-john", "p-1", TIER_MASK_ADVERT), TIER_EIDENTITY));
    cr_assert(eq(int, step("south", "p-1", TIER_MASK_REVEAL), TIER_EIDENTITY));
    cr_assert(eq(int, tell("south", TIER_RELAY_GONE, "p-1"), TIER_EIDENTITY));
    cr_assert(eq(int, step("st-mary", "p-2", TIER_MASK_ADVERT), TIER_EIDENTITY)); /* two names */
    cr_assert(eq(int, step("st-john", "p-9", TIER_MASK_SHARES), TIER_EPOLICY));
    cr_assert(eq(int, step("nobody", "p-9", TIER_MASK_ADVERT), TIER_EPOLICY));
    cr_assert(eq(int, step("st-mary", "p-1", TIER_MASK_LIST), TIER_EPROTO));
    cr_assert(eq(int, step("st-john", "no/name", TIER_MASK_ADVERT), TIER_EPROTO));
    cr_assert(eq(int, tell("st-mary", TIER_RELAY_READY, ""), TIER_EPROTO));
    cr_assert(eq(int, tell("south", TIER_RELAY_ASK, "p-2"), TIER_EPROTO));
    cr_assert(eq(u32, ups, 2)); /* none of it went up */
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "st-mary 0 p-1"));
}

Test(tier_relay, a_spoke_that_moves_has_its_new_way_when_the_old_one_is_known_to_be_lost) {
    tier_relay_joined(relay, "north", true);
    tier_relay_joined(relay, "south", true);
    cr_assert(eq(int, step("north", "p-1", TIER_MASK_ADVERT), TIER_OK));
    /* It is at the other already, and this one has not noticed. */
    cr_assert(eq(int, step("south", "p-1", TIER_MASK_ADVERT), TIER_EIDENTITY));
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "north 0 p-1"));
    cr_assert(eq(int, tell("north", TIER_RELAY_AWAY, "p-1"), TIER_OK));
    went_up(TIER_RELAY_HERE, "p-1");
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "south 0 p-1"));
    /* And back, the other way round. */
    tier_relay_lost(relay, "south");
    went_up(TIER_RELAY_AWAY, "p-1");
    cr_assert(not(down("p-1", TIER_MASK_LIST)));
    cr_assert(eq(int, tell("north", TIER_RELAY_HERE, "p-1"), TIER_OK), "%s", err.text);
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "north 0 p-1"));
}

Test(tier_relay, who_is_refused_above_gets_no_way_by_it) {
    tier_relay_joined(relay, "st-mary", false);
    tier_relay_joined(relay, "south", true);
    up_gives = TIER_EIDENTITY;
    cr_assert(eq(int, step("south", "p-1", TIER_MASK_ADVERT), TIER_EIDENTITY));
    cr_assert(eq(str, err.text, "the top refuses it"));
    up_gives = TIER_OK;
    cr_assert(eq(int, step("st-mary", "p-1", TIER_MASK_ADVERT), TIER_OK), "%s", err.text);
    cr_assert(down("p-1", TIER_MASK_LIST));
    cr_assert(eq(str, down_said, "st-mary 0 p-1"));
}

Test(tier_relay, it_is_ready_when_all_that_it_waits_for_have_spoken_or_left_or_time_is_up) {
    tier_relay_joined(relay, "st-mary", false);
    tier_relay_joined(relay, "st-john", false);
    tier_relay_joined(relay, "south", true);
    cr_assert(eq(int, step("st-mary", "p-1", TIER_MASK_ADVERT), TIER_OK));
    cr_assert(eq(int, tell("south", TIER_RELAY_READY, ""), TIER_OK));
    tier_relay_left(relay, "st-john");
    cr_assert(eq(u32, ups, 1)); /* the round may have more children yet */
    tier_relay_opened(relay);
    went_up(TIER_RELAY_READY, "");
    cr_assert(eq(u32, ups, 2));
    tier_relay_opened(relay);
    cr_assert(eq(u32, ups, 2)); /* once */
    tier_relay_joined(relay, "late", false);
    tier_relay_parent_joined(relay); /* and anew where it may not have been heard */
    cr_assert(eq(u32, ups, 3));
    went_up(TIER_RELAY_HERE, "p-1");
    tier_relay_time_up(relay);
    went_up(TIER_RELAY_READY, "");
}
