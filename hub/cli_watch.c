/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Following a run. The hub tells its state and what is new of its rounds; here the rounds are
 * collected, so that each picture is whole. A picture is drawn over the last one, and never taller
 * than the terminal, because what has scrolled away cannot be drawn over.
 */
#include "hub/cli.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define RETRY_MS 500
#define RETRY_FOR_MS 60000
#define BAR_CELLS 24

struct watch {
    enum cli_watch_style style;
    struct tier_console_run now;
    uint64_t told; /* messages so far */
    struct tier_console_round rounds[TIER_CONSOLE_ROUNDS_MAX];
    size_t round_count; /* ascending; the oldest go */
    int lines_drawn;
};

/* ---- rounds ---- */

static void remember(struct watch *w, const struct tier_console_round *r) {
    size_t at = w->round_count;

    while (at > 0 && w->rounds[at - 1].number >= r->number)
        at--;
    if (at < w->round_count && w->rounds[at].number == r->number) {
        w->rounds[at] = *r;
        return;
    }
    if (w->round_count == TIER_CONSOLE_ROUNDS_MAX) {
        if (at == 0)
            return;
        memmove(&w->rounds[0], &w->rounds[1], (w->round_count - 1) * sizeof w->rounds[0]);
        w->round_count--;
        at--;
    }
    memmove(&w->rounds[at + 1], &w->rounds[at], (w->round_count - at) * sizeof w->rounds[0]);
    w->rounds[at] = *r;
    w->round_count++;
}

static const struct tier_console_round *round_known(const struct watch *w, uint64_t number) {
    for (size_t i = 0; i < w->round_count; i++)
        if (w->rounds[i].number == number)
            return &w->rounds[i];
    return NULL;
}

/* ---- lines ---- */

static void line_of_run(const struct tier_console_run *r) {
    char hex[TIER_HASH_HEX], model[TIER_HASH_HEX];

    printf("run %.12s %s: %s", tier_hash_hex(&r->run, hex), r->name, r->state);
    if (r->round)
        printf(", round %" PRIu64 "/%" PRIu64 " %s", r->round, r->rounds, r->round_state);
    if (r->reason[0])
        printf(": %s", r->reason);
    if (strcmp(r->state, "open") != 0 && !tier_hash_is_zero(&r->model))
        printf("; model %s", tier_hash_hex(&r->model, model));
    putchar('\n');
}

static void line_of_child(const struct tier_console_run *r, const struct tier_console_child *c) {
    printf("round %" PRIu64 ": %s %s", r->round, c->name, c->state);
    if (c->phase[0])
        printf(" (%s %u/%u)", c->phase, c->done, c->total);
    printf("%s\n", c->attending ? "" : ", away");
}

static void line_of_round(const struct tier_console_round *r) {
    char hex[TIER_HASH_HEX];

    printf("round %" PRIu64 ":", r->number);
    for (size_t i = 0; i < r->metric_count; i++)
        printf(" %s %.6g", r->metrics[i].name, r->metrics[i].value);
    if (r->number)
        printf(" updates %u weight %" PRIu64, r->updates, r->weight);
    if (!tier_hash_is_zero(&r->model))
        printf(" model %.12s", tier_hash_hex(&r->model, hex));
    putchar('\n');
}

static const struct tier_console_child *child_before(const struct watch *w, const char *name,
                                                     size_t guess) {
    if (guess < w->now.child_count && strcmp(w->now.children[guess].name, name) == 0)
        return &w->now.children[guess]; /* children keep their places but after a restart */
    for (size_t i = 0; i < w->now.child_count; i++)
        if (strcmp(w->now.children[i].name, name) == 0)
            return &w->now.children[i];
    return NULL;
}

/* Says what `next` changes: not every step of a child's progress, but each of its phases. */
static void tell_lines(const struct watch *w, const struct tier_console_run *next) {
    const struct tier_console_run *now = &w->now;

    for (size_t i = 0; i < next->history_count; i++) {
        const struct tier_console_round *r = &next->history[i], *old = round_known(w, r->number);
        bool says = r->metric_count || r->closed_ms;
        if (says &&
            (!old || old->metric_count != r->metric_count || old->closed_ms != r->closed_ms))
            line_of_round(r);
    }
    if (!w->told || now->round != next->round || strcmp(now->state, next->state) != 0 ||
        strcmp(now->round_state, next->round_state) != 0)
        line_of_run(next);
    for (size_t i = 0; i < next->child_count; i++) {
        const struct tier_console_child *c = &next->children[i];
        const struct tier_console_child *old = child_before(w, c->name, i);
        if (!old || old->attending != c->attending || strcmp(old->state, c->state) != 0 ||
            strcmp(old->phase, c->phase) != 0)
            line_of_child(next, c);
    }
    fflush(stdout);
}

/* ---- JSON ---- */

static json_t *round_json(const struct tier_console_round *r) {
    char hex[TIER_HASH_HEX];
    json_t *metrics = json_object();

    for (size_t i = 0; i < r->metric_count; i++)
        json_object_set_new(metrics, r->metrics[i].name, json_real(r->metrics[i].value));
    tier_hash_hex(&r->model, hex);
    return json_pack("{s:I, s:o, s:I, s:I, s:s, s:I, s:I}", "round", (json_int_t)r->number,
                     "metrics", metrics, "opened_ms", (json_int_t)r->opened_ms, "closed_ms",
                     (json_int_t)r->closed_ms, "model", tier_hash_is_zero(&r->model) ? "" : hex,
                     "weight", (json_int_t)r->weight, "updates", (json_int_t)r->updates);
}

static void tell_json(const struct tier_console_run *r) {
    char hex[TIER_HASH_HEX], model[TIER_HASH_HEX];
    json_t *children = json_array(), *history = json_array();

    for (size_t i = 0; i < r->child_count; i++) {
        const struct tier_console_child *c = &r->children[i];
        json_array_append_new(children, json_pack("{s:s, s:b, s:s, s:s, s:I, s:I}", "name", c->name,
                                                  "attending", (int)c->attending, "state", c->state,
                                                  "phase", c->phase, "done", (json_int_t)c->done,
                                                  "total", (json_int_t)c->total));
    }
    for (size_t i = 0; i < r->history_count; i++)
        json_array_append_new(history, round_json(&r->history[i]));
    tier_hash_hex(&r->model, model);
    cli_print_json(
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:I, s:I, s:o, s:o}", "run",
                  tier_hash_hex(&r->run, hex), "name", r->name, "state", r->state, "round",
                  (json_int_t)r->round, "rounds", (json_int_t)r->rounds, "round_state",
                  r->round_state, "model", tier_hash_is_zero(&r->model) ? "" : model, "reason",
                  r->reason, "created_ms", (json_int_t)r->created_ms, "children_total",
                  (json_int_t)r->children_total, "children", children, "history", history));
}

/* ---- the picture ---- */

static unsigned percent(const struct tier_console_child *c) {
    if (strcmp(c->state, "delivered") == 0)
        return 100;
    if (c->total == 0)
        return 0;
    return (unsigned)((uint64_t)(c->done < c->total ? c->done : c->total) * 100 / c->total);
}

static const char *bar_of(unsigned percent_done, char bar[BAR_CELLS + 1]) {
    for (unsigned i = 0; i < BAR_CELLS; i++)
        bar[i] = i < percent_done * BAR_CELLS / 100 ? '#' : '-';
    bar[BAR_CELLS] = '\0';
    return bar;
}

/* The round as a whole: the mean of the children that take part in it. */
static void draw_round(FILE *f, const struct tier_console_run *r) {
    size_t part = 0, delivered = 0;
    unsigned done = 0;
    char bar[BAR_CELLS + 1];

    for (size_t i = 0; i < r->child_count; i++) {
        const struct tier_console_child *c = &r->children[i];
        if (strcmp(c->state, "declined") == 0 || strcmp(c->state, "absent") == 0)
            continue;
        part++;
        done += percent(c);
        delivered += strcmp(c->state, "delivered") == 0;
    }
    fprintf(f, "  round %" PRIu64 "/%" PRIu64 "      [%s] %3u%%  %s, %zu of %zu delivered",
            r->round, r->rounds, bar_of(part ? done / (unsigned)part : 0, bar),
            part ? done / (unsigned)part : 0, r->round_state, delivered, part);
}

static void draw_child(FILE *f, const struct tier_console_child *c, bool last) {
    char bar[BAR_CELLS + 1];
    unsigned done = percent(c);
    bool phase = c->phase[0] && strcmp(c->phase, c->state) != 0;

    fprintf(f, "%s %-16s [%s] %3u%%  %s%s%s%s\n", last ? "`-" : "|-", c->name, bar_of(done, bar),
            done, c->state, phase ? ": " : "", phase ? c->phase : "",
            c->attending || strcmp(c->state, "away") == 0 ? "" : ", away");
}

static void draw_rounds(FILE *f, const struct watch *w, size_t rows) {
    size_t first = w->round_count > rows ? w->round_count - rows : 0;
    const struct tier_console_round *with = NULL; /* its metrics name the columns */
    char hex[TIER_HASH_HEX];

    for (size_t i = first; i < w->round_count; i++)
        if (!with || w->rounds[i].metric_count > with->metric_count)
            with = &w->rounds[i];
    if (!with || !with->metric_count)
        return;
    fprintf(f, "%6s %8s %10s", "round", "updates", "weight");
    for (size_t k = 0; k < with->metric_count; k++)
        fprintf(f, " %10.10s", with->metrics[k].name);
    fprintf(f, "  model\n");
    for (size_t i = first; i < w->round_count; i++) {
        const struct tier_console_round *r = &w->rounds[i];
        fprintf(f, "%6" PRIu64 " %8u %10" PRIu64, r->number, r->updates, r->weight);
        for (size_t k = 0; k < with->metric_count; k++) {
            size_t at = 0;
            while (at < r->metric_count && strcmp(r->metrics[at].name, with->metrics[k].name) != 0)
                at++;
            if (at < r->metric_count)
                fprintf(f, " %10.5g", r->metrics[at].value);
            else
                fprintf(f, " %10s", "");
        }
        fprintf(f, "  %.12s\n", tier_hash_is_zero(&r->model) ? "" : tier_hash_hex(&r->model, hex));
    }
}

/* Cuts each line to the terminal's columns; a cut may fall inside a character of two bytes, which
 * terminals show as a blank. */
static int put_cut(const char *text, size_t columns) {
    int lines = 0;
    while (*text) {
        size_t n = strcspn(text, "\n");
        printf("%.*s\n", (int)(n < columns ? n : columns), text);
        text += n + (text[n] == '\n');
        lines++;
    }
    return lines;
}

static void draw(struct watch *w) {
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    const struct tier_console_run *r = &w->now;
    char hex[TIER_HASH_HEX], *text = NULL;
    size_t bytes = 0;

    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    size_t rows = size.ws_row > 8 ? size.ws_row : 8;
    FILE *f = open_memstream(&text, &bytes);
    if (!f)
        return;
    fprintf(f, "%s  run %.12s  %s%s%s\n", r->name, tier_hash_hex(&r->run, hex), r->state,
            r->reason[0] ? "  " : "", r->reason);
    if (r->round) {
        draw_round(f, r);
        fprintf(f, "\n");
    }
    size_t shown = r->child_count < (rows - 5) / 2 ? r->child_count : (rows - 5) / 2;
    for (size_t i = 0; i < shown; i++)
        draw_child(f, &r->children[i], i + 1 == r->children_total);
    if (r->children_total > shown)
        fprintf(f, "`- and %zu more\n", r->children_total - shown);
    draw_rounds(f, w, rows - 5 - shown);
    fclose(f);
    if (w->lines_drawn)
        printf("\033[%dA", w->lines_drawn);
    printf("\033[J");
    w->lines_drawn = put_cut(text, size.ws_col ? size.ws_col : 80);
    fflush(stdout);
    free(text);
}

/* ---- following ---- */

static enum tier_status on_state(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct watch *w = arg;
    struct tier_console_run next = {0};

    TIER_TRY(cli_take_run(&next, m, err));
    if (w->style == CLI_WATCH_LINES)
        tell_lines(w, &next);
    else if (w->style == CLI_WATCH_JSON)
        tell_json(&next);
    for (size_t i = 0; i < next.history_count; i++)
        remember(w, &next.history[i]);
    tier_console_run_release(&w->now);
    w->now = next;
    w->told++;
    if (w->style == CLI_WATCH_SCREEN)
        draw(w);
    return TIER_OK;
}

static bool has_ended(const struct watch *w) {
    return w->told && strcmp(w->now.state, "open") != 0;
}

static enum tier_status follow(struct cli_hub *hub, struct watch *w, const char *prefix,
                               struct tier_err *err) {
    struct tier_console_run_request request;
    uint64_t lost_at = 0;

    snprintf(request.run, sizeof request.run, "%s", prefix);
    for (;;) {
        uint64_t before = w->told;
        enum tier_status st =
            cli_hub_ask(hub, TIER_PATH_CONSOLE_WATCH, tier_console_run_request_bytes(&request), 0,
                        on_state, w, err);
        if (has_ended(w))
            return TIER_OK;
        if (st == TIER_OK)
            return tier_fail(err, TIER_EPROTO, "the hub ended the watch of a run that is open");
        if (st != TIER_EUNAVAILABLE || !w->told)
            return st;
        /* A hub that was restarted goes on with the same run. */
        tier_hash_hex(&w->now.run, request.run);
        uint64_t now = tier_clock_ms();
        if (!lost_at || w->told != before)
            lost_at = now;
        if (now - lost_at > RETRY_FOR_MS)
            return st;
        poll(NULL, 0, RETRY_MS);
    }
}

enum tier_status cli_watch(struct cli_hub *hub, const char *prefix, enum cli_watch_style style,
                           bool *completed_out, struct tier_err *err) {
    struct watch *w = calloc(1, sizeof *w);
    char hex[TIER_HASH_HEX];

    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory to follow a run");
    w->style = style;
    enum tier_status st = follow(hub, w, prefix, err);
    if (st == TIER_OK) {
        *completed_out = strcmp(w->now.state, "completed") == 0;
        if (!*completed_out)
            cli_error("run %.12s %s: %s", tier_hash_hex(&w->now.run, hex), w->now.state,
                      w->now.reason);
    }
    tier_console_run_release(&w->now);
    free(w);
    return st;
}
