/* SPDX-License-Identifier: Apache-2.0 */
/* The run, through the operator's program, as an operator would: started, followed, kept. */
#include "spoke/sim.h"
#include "tier/loop.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOK_MS 500
#define LINE_BYTES_MAX (64u << 20)
#define BAR_CELLS 24

/* Lines of a program's output. */
struct lines {
    int fd;
    char *data;
    size_t n, room;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* One line into *out (json; NULL: the output has ended). Looks after the nodes while it waits. */
static enum tier_status next_line(struct sim_nodes *nodes, struct lines *l, json_t **out,
                                  struct tier_err *err) {
    *out = NULL;
    for (;;) {
        char *end = l->n ? memchr(l->data, '\n', l->n) : NULL;
        if (end) {
            size_t used = (size_t)(end - l->data) + 1;
            *out = json_loadb(l->data, used - 1, 0, NULL);
            memmove(l->data, l->data + used, l->n -= used);
            return *out ? TIER_OK : tier_fail(err, TIER_EPROTO, "consilium printed no JSON");
        }
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        TIER_TRY(sim_nodes_alive(nodes, err));
        if (poll(&p, 1, LOOK_MS) <= 0)
            continue;
        if (l->n + 65536 > l->room) {
            if (l->room >= LINE_BYTES_MAX)
                return tier_fail(err, TIER_ELIMIT, "consilium prints a line without end");
            l->room = l->room ? 2 * l->room : 1 << 18;
            l->data = need(realloc(l->data, l->room));
        }
        ssize_t k = read(l->fd, l->data + l->n, l->room - l->n);
        if (k < 0 && errno != EINTR)
            return tier_fail_errno(err, TIER_EIO, "cannot hear consilium");
        if (k == 0)
            return TIER_OK;
        l->n += k > 0 ? (size_t)k : 0;
    }
}

static enum tier_status start(struct sim_nodes *nodes, const char *plan, char **run_out,
                              struct tier_err *err) {
    const char *args[] = {"run", "start", plan, "--json", NULL, NULL, NULL};
    struct lines l = {0};
    json_t *said = NULL;
    char *signature = NULL;
    pid_t pid = 0;

    *run_out = NULL;
    TIER_TRY(sim_nodes_sign(nodes, plan, &signature, err));
    if (signature) { /* in place of one beside the plan, which another authority's people made */
        args[4] = "--signature";
        args[5] = signature;
    }
    enum tier_status started = sim_nodes_console(nodes, args, false, &pid, &l.fd, err);
    if (started != TIER_OK) {
        free(signature);
        return started;
    }
    enum tier_status st = next_line(nodes, &l, &said, err);
    const char *run = json_string_value(json_object_get(said, "run"));
    if (st == TIER_OK && !run)
        st = tier_fail(err, TIER_EPLAN, "the run was not started; consilium has said why");
    if (st == TIER_OK)
        *run_out = need(strdup(run));
    json_decref(said);
    close(l.fd);
    free(l.data);
    free(signature);
    waitpid(pid, NULL, 0);
    return st;
}

/* ---- what is told ---- */

static double seconds(const json_t *round) {
    return (double)(json_integer_value(json_object_get(round, "closed_ms")) -
                    json_integer_value(json_object_get(round, "opened_ms"))) /
           1e3;
}

static void say_round(FILE *say, const json_t *round, json_int_t rounds) {
    json_int_t number = json_integer_value(json_object_get(round, "round"));
    json_t *metrics = json_object_get(round, "metrics"), *value;
    const char *name;
    char bar[BAR_CELLS + 1];

    for (json_int_t i = 0; i < BAR_CELLS; i++)
        bar[i] = i * rounds < number * BAR_CELLS ? '#' : '-';
    bar[BAR_CELLS] = '\0';
    fprintf(say, "[%s] round %" JSON_INTEGER_FORMAT "/%" JSON_INTEGER_FORMAT, bar, number, rounds);
    json_object_foreach(metrics, name, value)
        fprintf(say, "  %s %.4f", name, json_real_value(value));
    fprintf(say, "  %" JSON_INTEGER_FORMAT " updates  %.2f s\n",
            json_integer_value(json_object_get(round, "updates")), seconds(round));
    fflush(say);
}

/* The history told so far: round n is at place n - 1. Its model is evaluated in the round that
 * follows, so a round is said when the next is over too. */
struct history {
    json_t *rounds;
    size_t said;
};

static bool over(const struct history *h, size_t place) {
    return json_integer_value(json_object_get(json_array_get(h->rounds, place), "closed_ms")) > 0;
}

static void say_rounds(struct history *h, size_t behind, json_int_t rounds, FILE *say) {
    for (; say && over(h, h->said + behind); h->said++)
        say_round(say, json_array_get(h->rounds, h->said), rounds);
}

static void remember(struct history *h, const json_t *news, json_int_t rounds) {
    size_t i;
    json_t *round;

    json_array_foreach(json_object_get(news, "history"), i, round) {
        json_int_t number = json_integer_value(json_object_get(round, "round"));
        if (number < 1 || number > rounds)
            continue;
        while ((json_int_t)json_array_size(h->rounds) < number)
            json_array_append_new(h->rounds, json_null());
        json_array_set(h->rounds, (size_t)number - 1, round);
    }
}

/* Whoever takes no part for a reason: nobody is there to see to it. */
static enum tier_status none_declined(const json_t *news, struct tier_err *err) {
    size_t i;
    json_t *child;

    json_array_foreach(json_object_get(news, "children"), i, child) {
        const char *state = json_string_value(json_object_get(child, "state"));
        if (state && strcmp(state, "declined") == 0)
            return tier_fail(err, TIER_EPOLICY, "'%s' declines the plan; the logs say why",
                             json_string_value(json_object_get(child, "name")));
    }
    return TIER_OK;
}

static enum tier_status follow(struct sim_nodes *nodes, struct lines *l, FILE *say, json_t **last,
                               struct tier_err *err) {
    struct history h = {.rounds = need(json_array())};
    enum tier_status st = TIER_OK;
    json_int_t rounds = 0;

    for (;;) {
        json_t *news = NULL;
        st = next_line(nodes, l, &news, err);
        if (st == TIER_OK)
            st = none_declined(news, err);
        if (st != TIER_OK || !news) {
            json_decref(news);
            break;
        }
        rounds = json_integer_value(json_object_get(news, "rounds"));
        remember(&h, news, rounds);
        say_rounds(&h, 1, rounds, say);
        json_decref(*last);
        *last = news;
    }
    say_rounds(&h, 0, rounds, say);
    if (*last)
        json_object_set(*last, "history", h.rounds);
    json_decref(h.rounds);
    return st;
}

enum tier_status sim_watch(struct sim_nodes *nodes, const char *plan, FILE *say, json_t **run_out,
                           struct tier_err *err) {
    struct lines l = {0};
    json_t *last = NULL;
    char *run = NULL;
    pid_t pid = 0;
    int code = 0;

    *run_out = NULL;
    TIER_TRY(start(nodes, plan, &run, err));
    const char *const args[] = {"run", "watch", run, "--json", NULL};
    enum tier_status st = sim_nodes_console(nodes, args, false, &pid, &l.fd, err);
    if (st == TIER_OK) {
        st = follow(nodes, &l, say, &last, err);
        close(l.fd);
        free(l.data);
        if (st != TIER_OK)
            kill(pid, SIGTERM);
        waitpid(pid, &code, 0);
    }
    const char *state = json_string_value(json_object_get(last, "state"));
    const char *reason = json_string_value(json_object_get(last, "reason"));
    if (st == TIER_OK && (!state || code != 0))
        st = tier_fail(err, TIER_ECANCELLED, "run %.12s: %s%s%s", run, state ? state : "unknown",
                       reason && *reason ? ": " : "", reason ? reason : "");
    free(run);
    *run_out = last;
    return st;
}
