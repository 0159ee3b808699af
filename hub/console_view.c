/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A round's figures lie in three tables of the journal: its row says when and which model, its
 * metrics arrive a round later, its updates say how many and how heavy. They are put together here,
 * by number, in one array that begins at the first round asked for.
 */
#include "hub/console_view.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(size_t count, size_t bytes) {
    void *p = calloc(count ? count : 1, bytes);
    if (!p)
        abort();
    return p;
}

/* Bytes of the UTF-8 character at `s`, 0 where there is none or it is a control character. */
static size_t utf8_length(const unsigned char *s) {
    size_t n = s[0] < 0x80                   ? 1
               : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
               : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
               : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
                                             : 0;
    if (s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] >= 0x80 && s[1] < 0xa0))
        return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

/* Cuts at a character; what is no character, or a control one, becomes '?'. */
static void copy_text(char *out, size_t size, const char *in) {
    size_t used = 0;

    while (*in) {
        size_t n = utf8_length((const unsigned char *)in);
        if (used + (n ? n : 1) >= size)
            break;
        if (n)
            memcpy(out + used, in, n);
        else
            out[used] = '?';
        used += n ? n : 1;
        in += n ? n : 1;
    }
    out[used] = '\0';
}

/* Of a run that had ended before this process began, only the journal knows the round. */
static uint64_t round_of(const struct hub_run *run) {
    struct tier_journal_run row;

    if (run->round.number)
        return run->round.number;
    if (tier_journal_run_get(run->hub->home.journal, run->hex, &row, NULL) != TIER_OK)
        return 0;
    return row.round;
}

void hub_view_run(const struct hub_run *run, struct tier_console_run *out) {
    *out = (struct tier_console_run){.run = run->id,
                                     .round = round_of(run),
                                     .rounds = tier_task_rounds(&run->plan),
                                     .model = run->model,
                                     .created_ms = run->created_ms,
                                     .children_total = (uint32_t)run->child_count};
    copy_text(out->name, sizeof out->name, run->plan.name);
    copy_text(out->state, sizeof out->state, hub_run_state_text(run->state));
    copy_text(out->reason, sizeof out->reason, run->reason);
    if (run->round.number)
        copy_text(out->round_state, sizeof out->round_state,
                  tier_round_state_text(run->round.state));
}

static const char *child_state(const struct hub_run *run, uint32_t number) {
    const struct hub_child *c = &run->children[number];
    enum tier_round_child_state state = tier_round_child(&run->round, number)->state;

    if (run->round.number && state != TIER_CHILD_NONE)
        return tier_round_child_state_text(state);
    if (c->declined)
        return "declined";
    if (!c->attending)
        return "away";
    if (c->waiting)
        return "waits";
    return c->accepted ? "accepted" : "asked";
}

void hub_view_children(const struct hub_run *run, struct tier_console_run *out) {
    size_t n =
        run->child_count < TIER_CONSOLE_CHILDREN_MAX ? run->child_count : TIER_CONSOLE_CHILDREN_MAX;
    out->children = need(n, sizeof *out->children);
    out->child_count = n;
    for (uint32_t i = 0; i < n; i++) {
        const struct hub_child *c = &run->children[i];
        struct tier_console_child *view = &out->children[i];
        view->attending = c->attending;
        view->done = c->done;
        view->total = c->total;
        copy_text(view->name, sizeof view->name, c->name);
        copy_text(view->state, sizeof view->state, child_state(run, i));
        copy_text(view->phase, sizeof view->phase, c->phase);
    }
}

/* ---- history ---- */

struct history {
    struct tier_console_round *rounds;
    uint64_t from, to;
    struct tier_console_round *current; /* whose updates are counted */
};

static struct tier_console_round *round_at(const struct history *h, uint64_t number) {
    return number >= h->from && number <= h->to ? &h->rounds[number - h->from] : NULL;
}

static enum tier_status add_round(void *arg, const struct tier_journal_round *row,
                                  struct tier_err *err) {
    struct tier_console_round *r = round_at(arg, row->round);
    struct tier_console_round *first = row->round == 1 ? round_at(arg, 0) : NULL;
    (void)err;

    if (first)
        first->model = row->base_model;
    if (r) {
        r->opened_ms = row->opened_ms;
        r->closed_ms = row->closed_ms;
        r->model = row->result_model;
    }
    return TIER_OK;
}

static enum tier_status add_metric(void *arg, uint64_t number, const char *name, double value,
                                   struct tier_err *err) {
    struct tier_console_round *r = round_at(arg, number);
    (void)err;

    if (r && r->metric_count < TIER_CONSOLE_METRICS_MAX && isfinite(value)) {
        struct tier_console_metric *m = &r->metrics[r->metric_count++];
        copy_text(m->name, sizeof m->name, name);
        m->value = value;
    }
    return TIER_OK;
}

static enum tier_status add_update(void *arg, const struct tier_journal_update *row,
                                   struct tier_err *err) {
    struct tier_console_round *r = ((struct history *)arg)->current;
    (void)err;

    if (row->state == TIER_UPDATE_SEALED || row->state == TIER_UPDATE_FOLDED) {
        r->updates++;
        r->weight += row->weight;
    }
    return TIER_OK;
}

enum tier_status hub_view_history(const struct hub_run *run, uint64_t from,
                                  struct tier_console_run *out, struct tier_err *err) {
    struct tier_journal *j = run->hub->home.journal;
    struct history h = {.from = from, .to = round_of(run)};
    enum tier_status st;

    if (h.from > h.to)
        return TIER_OK;
    if (h.to - h.from >= TIER_CONSOLE_ROUNDS_MAX)
        h.from = h.to - TIER_CONSOLE_ROUNDS_MAX + 1;
    size_t count = (size_t)(h.to - h.from + 1);
    h.rounds = need(count, sizeof *h.rounds);
    for (size_t i = 0; i < count; i++)
        h.rounds[i].number = h.from + i;
    TIER_TRY_OUT(tier_journal_round_each(j, run->hex, h.from, add_round, &h, err));
    TIER_TRY_OUT(tier_journal_metric_each(j, run->hex, NULL, add_metric, &h, err));
    for (size_t i = 0; i < count; i++) {
        h.current = &h.rounds[i];
        if (h.current->number)
            TIER_TRY_OUT(tier_journal_update_each(j, run->hex, h.current->number,
                                                  TIER_UPDATE_STATE_ANY, add_update, &h, err));
    }
    out->history = h.rounds;
    out->history_count = count;
    h.rounds = NULL;
out:
    free(h.rounds);
    return st;
}

/* ---- nodes ---- */

static struct tier_console_node *add_node(struct tier_console_nodes *nodes, const char *name) {
    nodes->total++;
    if (nodes->count == TIER_CONSOLE_CHILDREN_MAX)
        return NULL;
    struct tier_console_node *node = &nodes->children[nodes->count++];
    copy_text(node->name, sizeof node->name, name);
    return node;
}

static void add_attending(void *arg, const struct tier_serve_child_info *info) {
    struct tier_console_node *node = add_node(arg, info->name);
    if (!node)
        return;
    copy_text(node->state, sizeof node->state, "attending");
    copy_text(node->address, sizeof node->address, info->address);
    copy_text(node->software, sizeof node->software, info->software);
    node->since_ms = info->since_ms;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A child may be missed by several runs; sorting finds that without comparing all with all. */
static void add_away(const struct hub *hub, struct tier_console_nodes *out) {
    size_t room = 0, count = 0;

    for (const struct hub_run *run = hub->runs; run; run = run->next)
        room += run->state == HUB_RUN_OPEN ? run->child_count : 0;
    const char **names = need(room, sizeof *names);
    for (const struct hub_run *run = hub->runs; run; run = run->next)
        for (size_t i = 0; run->state == HUB_RUN_OPEN && i < run->child_count; i++)
            if (!run->children[i].attending)
                names[count++] = run->children[i].name;
    qsort(names, count, sizeof *names, by_name);
    for (size_t i = 0; i < count; i++) {
        struct tier_console_node *node =
            i && strcmp(names[i - 1], names[i]) == 0 ? NULL : add_node(out, names[i]);
        if (node)
            copy_text(node->state, sizeof node->state, "away");
    }
    free(names);
}

void hub_view_nodes(const struct hub *hub, struct tier_console_nodes *out) {
    *out = (struct tier_console_nodes){.count = 0};
    out->children = need(TIER_CONSOLE_CHILDREN_MAX, sizeof *out->children);
    copy_text(out->self.name, sizeof out->self.name, hub->config->name);
    copy_text(out->self.state, sizeof out->self.state, hub_is_top(hub) ? "top" : "hub");
    copy_text(out->self.address, sizeof out->self.address,
              hub->config->hub.advertise[0] ? hub->config->hub.advertise : hub->config->hub.listen);
    copy_text(out->self.software, sizeof out->self.software, "consilium " CONSILIUM_VERSION);
    tier_serve_each(hub->serve, add_attending, out);
    add_away(hub, out);
}
