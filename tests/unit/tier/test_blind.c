/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums over random trees that are unmasked at the top alone: spokes are lost in every step, with
 * what they were to hear or to say; hubs are lost with their masked sums, are killed and come back
 * with what they had sealed and no memory of anybody; spokes move to another hub, and their updates
 * with them; the top is made of its rows again. What is unmasked is the sum of the updates that
 * counted, or nothing is; and no hub's sum is ever its region's.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "support/mask_round.h"
#include "tier/blind.h"

#define SPOKES_MAX 10
#define HUBS_MAX 7
#define ROWS_MAX 2048
#define QUEUE_MAX 4096
#define NONE UINT32_MAX
#define TOP 0u

struct masked_sum {
    struct tier_members members;
    uint64_t v[RING_VALUES];
};

/* A hub; 0 is the top, which has no relay of its own. */
struct hub {
    char name[16];
    unsigned parent;
    bool dead, folded, arrived; /* its sum was made; its parent has it */
    struct tier_relay *relay;
    struct masked_sum sealed; /* of what its children delivered */
};

struct spoke {
    unsigned hub;
    bool doomed, ready;
    uint64_t own[RING_VALUES]; /* its own mask */
};

struct packet {
    unsigned hub, spoke; /* between the spoke and its hub; NONE: between the hub and its parent */
    bool up;
    struct tier_relay_message m;
    char name[24];
    uint8_t *body;
};

static struct ring g;
static struct hub hubs[HUBS_MAX];
static struct spoke spokes[SPOKES_MAX];
static unsigned hub_count;
static struct tier_blind *top;
static struct {
    struct tier_secure_row r;
    char child[24];
    uint8_t *body;
} rows[ROWS_MAX];
static size_t row_count;
static struct packet queue[QUEUE_MAX];
static size_t queued;
static unsigned conflicts;
static struct tier_err err;

static unsigned number_of(const char *name) {
    return (unsigned)strtoul(strchr(name, '-') + 1, NULL, 10);
}

static bool is_spoke(const char *name) {
    return *name == 'c';
}

static bool spoke_alive(unsigned i) {
    return !g.child[i].gone;
}

/* Whether the node that the spoke attends is there to be attended. */
static bool reaches(unsigned i) {
    return spoke_alive(i) && !hubs[spokes[i].hub].dead;
}

/* ---- packets ---- */

static void post(unsigned hub, unsigned spoke, bool up, const struct tier_relay_message *m) {
    cr_assert(queued < QUEUE_MAX);
    struct packet *p = &queue[queued++];
    *p = (struct packet){hub, spoke, up, *m, "", malloc(m->bytes + 1)};
    snprintf(p->name, sizeof p->name, "%s", m->spoke);
    if (m->bytes)
        memcpy(p->body, m->body, m->bytes);
}

static struct packet take_packet(size_t i) {
    struct packet p = queue[i];
    memmove(queue + i, queue + i + 1, (--queued - i) * sizeof *queue); /* a stream keeps order */
    return p;
}

/* What is on a stream that breaks is lost. */
static void lose_packets(unsigned hub, unsigned spoke) {
    for (size_t i = 0; i < queued;) {
        if (queue[i].hub == hub && queue[i].spoke == spoke)
            free(take_packet(i).body);
        else
            i++;
    }
}

/* The first of a stream's, of a stream by chance. */
static struct packet next_packet(void) {
    size_t i = ring_random(&g) % queued;
    for (size_t k = 0; k < i; k++)
        if (queue[k].hub == queue[i].hub && queue[k].spoke == queue[i].spoke &&
            queue[k].up == queue[i].up)
            return take_packet(k);
    return take_packet(i);
}

/* ---- nodes ---- */

static enum tier_status hub_up(void *arg, const struct tier_relay_message *m, struct tier_err *e) {
    const struct hub *h = arg;
    (void)e;
    if (!hubs[h->parent].dead)
        post((unsigned)(h - hubs), NONE, true, m);
    return TIER_OK;
}

static bool hub_down(void *arg, const char *child, const struct tier_relay_message *m) {
    unsigned i = number_of(child);
    (void)arg;
    if (is_spoke(child) ? !spoke_alive(i) : hubs[i].dead)
        return false;
    post(is_spoke(child) ? spokes[i].hub : i, is_spoke(child) ? i : NONE, false, m);
    return true;
}

static void top_keep(void *arg, const struct tier_secure_row *r) {
    (void)arg;
    cr_assert(row_count < ROWS_MAX);
    snprintf(rows[row_count].child, sizeof rows[0].child, "%s", r->child);
    rows[row_count].body = malloc(r->bytes + 1);
    if (r->bytes)
        memcpy(rows[row_count].body, r->body, r->bytes);
    rows[row_count].r = *r;
    rows[row_count].r.child = rows[row_count].child;
    rows[row_count].r.body = rows[row_count].body;
    row_count++;
}

static void top_turn(void *arg) {
    (void)arg;
}

static void top_begin(void) {
    const struct tier_blind_owner owner = {NULL, top_keep, top_turn, hub_down};
    cr_assert(eq(int, tier_blind_new(&g.round, &g.trust, &owner, &top, &err), TIER_OK));
}

static void relay_begin(unsigned h) {
    const struct tier_relay_owner owner = {&hubs[h], hub_up, hub_down};
    hubs[h].relay = tier_relay_new(&owner);
}

static void joined(unsigned h, const char *child, bool is_hub) {
    if (h == TOP)
        tier_blind_joined(top, child, is_hub);
    else
        tier_relay_joined(hubs[h].relay, child, is_hub);
}

static void lost(unsigned h, const char *child) {
    if (hubs[h].dead)
        return;
    if (h == TOP)
        tier_blind_lost(top, child);
    else
        tier_relay_lost(hubs[h].relay, child);
}

static void left(unsigned h, const char *child) {
    if (hubs[h].dead)
        return;
    if (h == TOP)
        tier_blind_left(top, child);
    else
        tier_relay_left(hubs[h].relay, child);
}

static void advertise(unsigned i) {
    struct tier_relay_message m = {
        .kind = TIER_RELAY_STEP, .spoke = g.child[i].name, .step = TIER_MASK_ADVERT};
    m.body = tier_mask_child_advert(g.child[i].c, &m.bytes);
    post(spokes[i].hub, i, true, &m);
}

/* All children of that hub that are there attend it anew. */
static void all_attend(unsigned h) {
    for (unsigned i = 1; i < hub_count; i++)
        if (hubs[i].parent == h && !hubs[i].dead) {
            lose_packets(i, NONE);
            joined(h, hubs[i].name, true);
            tier_relay_parent_joined(hubs[i].relay);
        }
    for (unsigned i = 0; i < g.count; i++)
        if (spokes[i].hub == h && spoke_alive(i)) {
            lose_packets(h, i);
            joined(h, g.child[i].name, false);
            advertise(i);
        }
    if (h == TOP)
        tier_blind_opened(top);
    else
        tier_relay_opened(hubs[h].relay);
}

static void open_tree(uint64_t seed, unsigned cohort, double threshold) {
    unsigned count = 2 + (unsigned)(seed * 7 % (SPOKES_MAX - 1));

    ring_open(&g, count, cohort, threshold, seed);
    hub_count = 1 + ring_random(&g) % HUBS_MAX;
    row_count = queued = conflicts = 0;
    memset(spokes, 0, sizeof spokes);
    memset(hubs, 0, sizeof hubs);
    for (unsigned h = 0; h < hub_count; h++) {
        snprintf(hubs[h].name, sizeof hubs[h].name, "hub-%u", h);
        hubs[h].parent = h ? ring_random(&g) % h : NONE;
        if (h)
            relay_begin(h);
    }
    top_begin();
    for (unsigned i = 0; i < count; i++)
        spokes[i].hub = ring_random(&g) % hub_count;
    for (unsigned h = hub_count; h-- > 0;) /* the lowest first, as a round opens */
        all_attend(h);
}

static void close_tree(void) {
    tier_blind_free(top);
    top = NULL;
    for (unsigned h = 0; h < hub_count; h++) {
        tier_relay_free(hubs[h].relay);
        tier_members_release(&hubs[h].sealed.members);
    }
    while (queued > 0)
        free(take_packet(0).body);
    while (row_count > 0)
        free(rows[--row_count].body);
    ring_close(&g);
}

/* ---- what goes wrong ---- */

static void lose_spoke(unsigned i) {
    g.child[i].gone = true;
    lose_packets(spokes[i].hub, i);
    if (ring_chance(&g, 50))
        left(spokes[i].hub, g.child[i].name); /* it says so */
    else
        lost(spokes[i].hub, g.child[i].name);
}

static void break_streams(unsigned h) {
    lose_packets(h, NONE);
    for (unsigned i = 1; i < hub_count; i++)
        if (hubs[i].parent == h)
            lose_packets(i, NONE);
    for (unsigned i = 0; i < g.count; i++)
        if (spokes[i].hub == h)
            lose_packets(h, i);
}

/* For good, and with it all that is not above it yet. */
static void lose_hub(unsigned h) {
    if (hubs[h].dead)
        return;
    break_streams(h);
    hubs[h].dead = true;
    lost(hubs[h].parent, hubs[h].name);
}

/* kill -9, and a start: what is sealed is there, and what it knew of its children is not. */
static void restart_hub(unsigned h) {
    break_streams(h);
    if (hubs[hubs[h].parent].dead)
        return;
    lost(hubs[h].parent, hubs[h].name);
    tier_relay_free(hubs[h].relay);
    relay_begin(h);
    joined(hubs[h].parent, hubs[h].name, true);
    tier_relay_parent_joined(hubs[h].relay);
    all_attend(h);
}

static void restart_top(void) {
    const struct masked_sum *at = &hubs[TOP].sealed;

    tier_blind_free(top);
    break_streams(TOP);
    size_t kept = row_count;
    top_begin();
    for (size_t i = 0; i < kept; i++)
        cr_assert(eq(int, tier_blind_restore(top, &rows[i].r, &err), TIER_OK), "row %zu: %s", i,
                  err.text);
    for (unsigned h = 1; h < hub_count; h++)
        if (hubs[h].parent == TOP && hubs[h].arrived)
            cr_assert(
                eq(int, tier_blind_sum(top, hubs[h].name, &hubs[h].sealed.members, &err), TIER_OK),
                "%s", err.text);
    for (unsigned i = 0; i < g.count; i++) {
        struct tier_members one = {0};
        if (!tier_members_has(&at->members, g.child[i].name) || !g.child[i].came)
            continue;
        cr_assert(eq(int, tier_members_add(&one, g.child[i].name, &err), TIER_OK));
        (void)tier_blind_sum(top, g.child[i].name, &one, &err); /* or it came by a hub */
        tier_members_release(&one);
    }
    tier_blind_resume(top);
    all_attend(TOP);
}

static void move_spoke(unsigned i) {
    unsigned to = ring_random(&g) % hub_count;

    if (hubs[to].dead || to == spokes[i].hub)
        return;
    lose_packets(spokes[i].hub, i);
    lost(spokes[i].hub, g.child[i].name);
    spokes[i].hub = to;
    joined(to, g.child[i].name, false);
    advertise(i);
}

/* ---- what happens ---- */

static void spoke_hears(unsigned i, const struct packet *p) {
    struct tier_relay_message m = {.kind = TIER_RELAY_STEP, .spoke = g.child[i].name};
    uint8_t *answer = NULL;

    if (p->m.kind == TIER_RELAY_ASK) {
        advertise(i);
        return;
    }
    cr_assert(eq(int,
                 tier_mask_child_take(g.child[i].c, p->m.step, p->body, p->m.bytes, &answer,
                                      &m.bytes, &err),
                 TIER_OK),
              "seed %llu: %s: %s", (unsigned long long)g.round.round - 1,
              tier_mask_step_text(p->m.step), err.text);
    spokes[i].ready = spokes[i].ready || p->m.step == TIER_MASK_DELIVER;
    m.step = p->m.step + 1;
    m.body = answer;
    if (answer)
        post(spokes[i].hub, i, true, &m);
    free(answer);
}

static void deliver(struct packet *p) {
    const char *from = p->spoke == NONE ? hubs[p->hub].name : g.child[p->spoke].name;
    unsigned parent = p->spoke == NONE ? hubs[p->hub].parent : p->hub;

    p->m.spoke = p->name;
    p->m.body = p->body;
    if (p->up && parent == TOP)
        (void)tier_blind_said(top, from, &p->m, &err);
    else if (p->up)
        (void)tier_relay_from_child(hubs[parent].relay, from, &p->m, &err);
    else if (p->spoke == NONE)
        (void)tier_relay_from_parent(hubs[p->hub].relay, &p->m);
    else
        spoke_hears(p->spoke, p);
}

static void run_packets(void) {
    while (queued > 0) {
        struct packet p = next_packet();
        if (p.spoke != NONE && spokes[p.spoke].doomed && spoke_alive(p.spoke)) {
            lose_spoke(p.spoke);
            free(p.body);
            continue;
        }
        deliver(&p);
        free(p.body);
    }
}

static void doom(unsigned percent) {
    for (unsigned i = 0; i < g.count; i++)
        spokes[i].doomed = ring_chance(&g, percent);
    for (unsigned h = 1; h < hub_count; h++) {
        if (ring_chance(&g, percent / 8))
            lose_hub(h);
        else if (!hubs[h].dead && percent && ring_chance(&g, 8))
            restart_hub(h);
    }
    if (percent && ring_chance(&g, 15))
        restart_top();
}

/* Masks once; the same bytes go wherever it attends. */
static void mask_once(unsigned i) {
    struct ring_child *k = &g.child[i];
    struct tier_mask_term *terms;
    size_t count;

    if (k->came)
        return;
    cr_assert(eq(int, tier_mask_child_terms(k->c, &terms, &count, &err), TIER_OK));
    memcpy(k->masked, k->values, sizeof k->masked);
    ring_apply(terms, count, k->masked);
    ring_apply(terms, 1, spokes[i].own); /* the first is its own */
    tier_mask_terms_free(terms, count);
    k->came = true;
}

static void add_sum(uint64_t *to, const uint64_t *v) {
    for (unsigned n = 0; n < RING_VALUES; n++)
        to[n] += v[n];
}

static void push_update(unsigned i) {
    struct ring_child *k = &g.child[i];
    struct hub *h = &hubs[spokes[i].hub];
    struct tier_members one = {0};
    bool takes = spokes[i].hub == TOP ? tier_secure_takes(tier_blind_secure(top), k->name)
                                      : !h->folded && tier_relay_takes(h->relay, k->name);

    if (!reaches(i) || !takes || tier_members_has(&h->sealed.members, k->name))
        return;
    mask_once(i);
    cr_assert(eq(int, tier_members_add(&one, k->name, &err), TIER_OK));
    if (spokes[i].hub == TOP && tier_blind_sum(top, k->name, &one, &err) != TIER_OK) {
        cr_assert(eq(int, err.status, TIER_ECONFLICT), "%s", err.text);
        conflicts++;
    } else if (tier_members_join(&h->sealed.members, &one, &err) == TIER_OK) {
        add_sum(h->sealed.v, k->masked);
    }
    tier_members_release(&one);
}

/* The hub's round closes: its masked sum goes up, and is part of its parent's or refused. */
static void fold_hub(unsigned h) {
    struct hub *from = &hubs[h], *to = &hubs[from->parent];
    enum tier_status st;

    if (from->dead || from->folded)
        return;
    from->folded = true;
    if (from->sealed.members.count == 0 || to->dead || to->folded)
        return;
    st = from->parent == TOP ? tier_blind_sum(top, from->name, &from->sealed.members, &err)
                             : TIER_OK;
    if (st == TIER_OK)
        st = tier_members_join(&to->sealed.members, &from->sealed.members, &err);
    if (st != TIER_OK) {
        cr_assert(eq(int, st, TIER_ECONFLICT), "%s", err.text);
        conflicts++;
        return;
    }
    add_sum(to->sealed.v, from->sealed.v);
    from->arrived = true;
}

/* Updates are awaited: they come, or not, hub by hub from below, and then the round is closed. */
static void take_updates(unsigned percent) {
    for (unsigned i = 0; i < g.count; i++) {
        if (spokes[i].ready && spoke_alive(i) && !ring_chance(&g, percent))
            push_update(i);
        if (percent && spoke_alive(i) && ring_chance(&g, 3))
            move_spoke(i);
    }
    run_packets();
    for (unsigned i = 0; i < g.count; i++)
        if (spokes[i].ready && spoke_alive(i) && g.child[i].came)
            push_update(i); /* where it has moved to */
    if (percent && ring_chance(&g, 20))
        restart_top();
    run_packets();
    for (unsigned h = hub_count; h-- > 1;) {
        if (ring_chance(&g, percent / 4))
            lose_hub(h);
        fold_hub(h);
    }
    hubs[TOP].folded = true;
    if (hubs[TOP].sealed.members.count > 0)
        tier_blind_unmask(top);
}

static enum tier_secure_state live(unsigned percent) {
    const struct tier_secure *s;
    bool timed;

    for (unsigned n = 0; n < 48; n++) {
        s = tier_blind_secure(top);
        if (tier_secure_step(s, &timed) == 0)
            break;
        doom(percent);
        run_packets();
        s = tier_blind_secure(top); /* another, where it was restarted */
        enum tier_mask_step step = tier_secure_step(s, &timed);
        if (step == TIER_MASK_DELIVER && !hubs[TOP].folded)
            take_updates(percent);
        else if (timed)
            tier_blind_time_up(top);
        else if (step == TIER_MASK_DELIVER)
            break; /* no update has come, and the owner gives the round up */
        for (unsigned h = 1; h < hub_count; h++)
            if (!hubs[h].dead)
                tier_relay_time_up(hubs[h].relay);
        run_packets();
    }
    return tier_secure_state(tier_blind_secure(top), &err);
}

/* ---- what must hold ---- */

static void check_known(void) {
    const struct tier_secure *s = tier_blind_secure(top);
    uint64_t unmasked[RING_VALUES], visible[RING_VALUES] = {0};
    unsigned n = 0;
    size_t count;

    for (unsigned i = 0; i < g.count; i++)
        if (tier_secure_came(s, g.child[i].name)) {
            add_sum(visible, g.child[i].values);
            n++;
        }
    memcpy(unmasked, hubs[TOP].sealed.v, sizeof unmasked);
    const struct tier_mask_term *terms = tier_secure_terms(s, &count);
    ring_apply(terms, count, unmasked);
    cr_assert(memcmp(unmasked, visible, sizeof visible) == 0, "seed %llu: %u of %u",
              (unsigned long long)g.round.round - 1, n, g.count);
    cr_assert(n >= g.round.cohort_min && n == hubs[TOP].sealed.members.count);
    cr_assert(tier_blind_whole(top));
}

/* What a hub has made of its region, and that less the masks of its spokes' own, which those
 * reveal by way of it, are not the region's sum, as long as somebody outside it counts. */
static unsigned check_blind(void) {
    unsigned looked = 0;

    for (unsigned h = 1; h < hub_count; h++) {
        const struct tier_members *m = &hubs[h].sealed.members;
        uint64_t visible[RING_VALUES] = {0}, less[RING_VALUES];
        bool outside = false;
        memcpy(less, hubs[h].sealed.v, sizeof less);
        for (unsigned i = 0; i < g.count; i++) {
            bool in = tier_members_has(m, g.child[i].name);
            outside = outside || (!in && tier_secure_came(tier_blind_secure(top), g.child[i].name));
            for (unsigned v = 0; in && v < RING_VALUES; v++)
                less[v] -= spokes[i].own[v];
            if (in)
                add_sum(visible, g.child[i].values);
        }
        if (m->count == 0)
            continue;
        cr_assert(memcmp(hubs[h].sealed.v, visible, sizeof visible) != 0);
        cr_assert(memcmp(less, visible, sizeof visible) != 0 || !outside);
        looked += outside;
    }
    return looked;
}

/* Of `many` seeds: how many sums were known, and how many hubs' sums were looked at. */
static void live_many(uint64_t from, unsigned many, unsigned percent, unsigned *known_out,
                      unsigned *hubs_out) {
    *known_out = *hubs_out = 0;
    for (uint64_t seed = from; seed < from + many; seed++) {
        size_t count;
        open_tree(seed, 2 + (unsigned)(seed % 2), seed % 3 ? 0.51 : 0.67);
        if (live(percent) == TIER_SECURE_KNOWN) {
            check_known();
            *hubs_out += check_blind();
            ++*known_out;
        } else {
            cr_assert(tier_secure_terms(tier_blind_secure(top), &count) == NULL && count == 0);
            /* Nothing goes wrong by itself: too few there are from the start. */
            cr_assert(percent > 0 || g.count < g.round.cohort_min, "seed %llu: %s",
                      (unsigned long long)seed, err.text);
        }
        close_tree();
    }
}

/* At least `known_least` of the rounds must give a sum. */
static void run_at(unsigned percent, unsigned many, unsigned known_least) {
    unsigned known, regions;

    live_many(1 + 10000 * percent, many, percent, &known, &regions);
    cr_log_info("%u %%: %u of %u rounds known, %u masked sums of regions", percent, known, many,
                regions);
    cr_assert(known >= known_least, "%u %%: %u of %u rounds", percent, known, many);
    cr_assert(regions > 0 || percent > 30);
}

Test(tier_blind, without_losses_every_round_of_enough_spokes_is_known) {
    run_at(0, 300, 280);
}

Test(tier_blind, at_2_of_100_lost_in_each_step_sums_are_right) {
    run_at(2, 500, 425);
}

Test(tier_blind, at_5_of_100_lost_in_each_step_sums_are_right) {
    run_at(5, 500, 400);
}

Test(tier_blind, at_10_of_100_lost_in_each_step_sums_are_right) {
    run_at(10, 600, 430);
}

Test(tier_blind, at_20_of_100_lost_in_each_step_sums_are_right) {
    run_at(20, 600, 280);
}

Test(tier_blind, at_40_of_100_lost_in_each_step_a_sum_is_right_or_nothing_is_known) {
    run_at(40, 700, 70);
}
