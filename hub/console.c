/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operators' side of a hub. A call is one session, whatever its method, so that one place
 * decides who may call, how many at once, and what is released. A watcher is never sent a second
 * message while one is under way, and not more than twenty a second: a change marks it, a timer
 * reads the state when it fires, and so the latest state wins however fast changes come.
 */
#include "hub/approval.h"
#include "hub/console_roles.h"
#include "hub/console_view.h"
#include "hub/contributor.h"
#include "hub/statistics.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/sender.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALLS_MAX 64
#define WATCH_PAUSE_MS 50

struct hub_console_call {
    struct hub_console_call *next;
    struct hub *hub;
    struct tier_rpc_call *call;
    const char *method;
    bool changes; /* something, where it succeeds */
    char caller[TIER_NAME_LEN_MAX + 1];
    enum tier_role role; /* the hub's own certificate and, without TLS, everybody: operator */
    bool person;         /* the certificate is that of one */
    bool over;           /* answered or refused */

    /* StartRun */
    char *plan_text;
    size_t plan_bytes;
    uint8_t signature[TIER_SIGNED_BYTES_MAX];
    size_t signature_bytes;
    struct tier_plan *plan;
    struct tier_content_rx *rx;

    /* WatchRun */
    struct hub_run *watched;
    struct tier_timer *timer;
    bool under_way, changed;
    uint64_t from;       /* next round to tell */
    uint64_t told_round; /* what the history last told was of */
    int told_state;
    uint64_t told_weight;
    uint64_t sent_at_ms;

    /* PullModel */
    struct tier_content content;
    struct tier_sender *sender;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- sessions ---- */

static void answer(struct hub_console_call *s, struct tier_bytes reply) {
    s->over = true;
    tier_rpc_send(s->call, reply.data, reply.n);
    free(reply.data);
    tier_rpc_finish(s->call, TIER_OK, "");
}

/* For the auditor: whoever may not call, and whoever tried to change something. */
static void refuse(struct hub_console_call *s, const struct tier_err *err) {
    bool matters = s->changes || err->status == TIER_EPOLICY || err->status == TIER_EIDENTITY;

    s->over = true;
    tier_log_warn("console: %s by '%s' (%s) refused: %s", s->method, s->caller,
                  tier_rpc_peer_address(s->call), err->text);
    if (matters)
        hub_audit(s->hub, "console.refused", "s:caller", s->caller, "s:from",
                  tier_rpc_peer_address(s->call), "s:method", s->method, "s:reason", err->text);
    tier_rpc_finish(s->call, err->status, err->text);
}

static enum tier_status authorise(struct hub_console_call *s, struct tier_err *err) {
    const struct hub *hub = s->hub;
    struct tier_identity id;

    if (!tier_home_tls(&hub->home)) { /* loading the configuration warned of it */
        const char *claim = tier_rpc_peer_claim(s->call);
        snprintf(s->caller, sizeof s->caller, "%s", *claim ? claim : "anybody");
        return TIER_OK;
    }
    TIER_TRY(tier_identity_parse_spiffe(tier_rpc_peer_uri(s->call), &id, err));
    memcpy(s->caller, id.name, sizeof id.name);
    if (strcmp(id.name, hub->config->name) == 0)
        return TIER_OK;
    s->role = id.role;
    s->person = true;
    return hub_console_may(s->method, id.name, id.role, err);
}

/* NULL: the call is refused already. */
static struct hub_console_call *session_new(struct tier_rpc_call *call, const char *method,
                                            bool changes) {
    struct hub *hub = tier_serve_owner(tier_rpc_user(call));
    struct hub_console_call *s = need(calloc(1, sizeof *s));
    struct tier_err err = {0};
    size_t count = 0;

    for (const struct hub_console_call *c = hub->console_calls; c; c = c->next)
        count++;
    s->hub = hub;
    s->call = call;
    s->method = method;
    s->changes = changes;
    s->content.fd = -1;
    s->role = TIER_ROLE_OPERATOR;
    s->next = hub->console_calls;
    hub->console_calls = s;
    tier_rpc_set_user(call, s);
    enum tier_status st = authorise(s, &err);
    if (st == TIER_OK && hub->console_closed)
        st = tier_fail(&err, TIER_EUNAVAILABLE, "the hub is stopping");
    if (st == TIER_OK && count >= CALLS_MAX)
        st = tier_fail(&err, TIER_ELIMIT, "%d operators' calls are open: try again later",
                       CALLS_MAX);
    if (st != TIER_OK) {
        refuse(s, &err);
        return NULL;
    }
    return s;
}

/* What an upload that broke off leaves is not resumed: a graph begins at its beginning. */
static void discard_part(const struct hub *hub, const char *model_sha256) {
    struct tier_hash graph;
    if (!tier_hash_parse(model_sha256, &graph))
        return;
    char *part = tier_content_path(hub->home.models_dir, &graph, ".part");
    unlink(part);
    free(part);
}

static void session_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct hub_console_call **at = &s->hub->console_calls;
    (void)status;
    (void)text;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    if (s->rx)
        discard_part(s->hub, s->plan->model_sha256);
    tier_content_rx_close(s->rx);
    free(s->plan);
    free(s->plan_text);
    tier_timer_free(s->timer);
    tier_sender_free(s->sender);
    tier_content_close(&s->content);
    free(s);
}

/* `prefix` is hex digits; "" is the newest run. */
static enum tier_status find_run(const struct hub *hub, const char *prefix, struct hub_run **out,
                                 struct tier_err *err) {
    struct hub_run *found = NULL;

    for (struct hub_run *run = hub->runs; run; run = run->next) {
        if (strncmp(run->hex, prefix, strlen(prefix)) != 0)
            continue;
        if (found)
            return tier_fail(err, TIER_EARG, "'%s' begins more than one run: give more digits",
                             prefix);
        found = run;
        if (!*prefix)
            break;
    }
    if (!found && *prefix)
        return tier_fail(err, TIER_ENOTFOUND, "no run here begins with '%s'", prefix);
    if (!found)
        return tier_fail(err, TIER_ENOTFOUND, "there is no run here yet");
    *out = found;
    return TIER_OK;
}

/* The one message of a call that takes one. */
static enum tier_status take_request(struct tier_rpc_message *m, const uint8_t **bytes, size_t *n,
                                     struct tier_err *err) {
    *n = tier_rpc_message_bytes(m);
    *bytes = tier_rpc_message_flat(m, TIER_CONSOLE_REQUEST_BYTES_MAX);
    if (!*bytes)
        return tier_fail(err, TIER_ELIMIT, "a request of %zu bytes, at most %d are allowed", *n,
                         TIER_CONSOLE_REQUEST_BYTES_MAX);
    return TIER_OK;
}

static enum tier_status take_run(struct hub_console_call *s, struct tier_rpc_message *m,
                                 struct hub_run **out, struct tier_err *err) {
    struct tier_console_run_request request;
    const uint8_t *bytes;
    size_t n;

    TIER_TRY(take_request(m, &bytes, &n, err));
    TIER_TRY(tier_console_run_request(bytes, n, &request, err));
    return find_run(s->hub, request.run, out, err);
}

static enum tier_status top_only(const struct hub *hub, const char *what, struct tier_err *err) {
    if (hub_is_top(hub))
        return TIER_OK;
    return tier_fail(err, TIER_EPOLICY,
                     "runs are %s at the top of the tree; '%s' is a hub below it", what,
                     hub->config->name);
}

static void view_children(const struct hub_console_call *s, const struct hub_run *run,
                          struct tier_console_run *view) {
    hub_view_children(run, view);
    if (!hub_console_sees_children(s->role, hub_is_top(s->hub)))
        view->child_count = 0; /* how many there are is still told */
}

static struct tier_bytes run_bytes(const struct hub_console_call *s, const struct hub_run *run) {
    struct tier_console_run view;
    hub_view_run(run, &view);
    view_children(s, run, &view);
    struct tier_bytes bytes = tier_console_run_bytes(&view);
    tier_console_run_release(&view);
    return bytes;
}

/* ---- StartRun ---- */

static enum tier_status start_plan(struct hub_console_call *s, const struct tier_console_part *part,
                                   struct tier_err *err) {
    struct tier_hash graph;

    if (!part->is_plan)
        return tier_fail(err, TIER_EPROTO, "a run begins with its plan; a piece of a graph came");
    s->plan = need(calloc(1, sizeof *s->plan));
    s->plan_text = need(malloc(part->bytes));
    memcpy(s->plan_text, part->data, part->bytes);
    s->plan_bytes = part->bytes;
    s->signature_bytes = part->signature_bytes;
    if (part->signature_bytes)
        memcpy(s->signature, part->signature, part->signature_bytes);
    TIER_TRY(tier_plan_parse(s->plan_text, s->plan_bytes, s->plan, err));
    tier_hash_parse(s->plan->model_sha256, &graph);
    for (const struct hub_console_call *c = s->hub->console_calls; c; c = c->next)
        if (c->rx && strcmp(c->plan->model_sha256, s->plan->model_sha256) == 0)
            return tier_fail(err, TIER_ECONFLICT,
                             "'%s' is uploading the same graph at this moment: try again",
                             c->caller);
    discard_part(s->hub, s->plan->model_sha256);
    return tier_content_rx_open(s->hub->home.models_dir, &graph, TIER_CONTENT_GRAPH, &s->rx, err);
}

static enum tier_status start_piece(struct hub_console_call *s,
                                    const struct tier_console_part *part, struct tier_err *err) {
    if (part->is_plan)
        return tier_fail(err, TIER_EPROTO, "a second plan in one start");
    if (part->bytes > s->plan->model_bytes - tier_content_rx_offset(s->rx))
        return tier_fail(err, TIER_ELIMIT,
                         "the graph is longer than the %" PRIu64 " bytes its plan states",
                         s->plan->model_bytes);
    const struct iovec slice = {(void *)part->data, part->bytes};
    return tier_content_rx_writev(s->rx, &slice, 1, err);
}

static void start_opened(struct tier_rpc_call *call) {
    struct hub_console_call *s = session_new(call, "StartRun", true);
    struct tier_err err = {0};
    if (!s)
        return;
    if (top_only(s->hub, "started", &err) != TIER_OK)
        refuse(s, &err);
    else
        tier_rpc_read(call);
}

static void start_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_console_part part = {0};
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);
    enum tier_status st = bytes ? tier_console_part(bytes, n, &part, &err)
                                : tier_fail(&err, TIER_ELIMIT, "a message of %zu bytes", n);

    if (st == TIER_OK)
        st = s->plan ? start_piece(s, &part, &err) : start_plan(s, &part, &err);
    tier_console_part_release(&part);
    if (st != TIER_OK)
        refuse(s, &err);
    else
        tier_rpc_read(call);
}

static enum tier_status start_run(struct hub_console_call *s, struct hub_run **out,
                                  struct tier_err *err) {
    if (!s->rx)
        return tier_fail(err, TIER_EPROTO, "a run begins with its plan, and none came");
    if (tier_content_rx_offset(s->rx) != s->plan->model_bytes)
        return tier_fail(err, TIER_EPROTO, "%" PRIu64 " bytes of the graph's %" PRIu64 " came",
                         tier_content_rx_offset(s->rx), s->plan->model_bytes);
    struct tier_content_rx *rx = s->rx;
    s->rx = NULL;
    TIER_TRY(tier_content_rx_finish(rx, err));
    const struct hub_plan plan = {s->plan_text, s->plan_bytes, s->signature, s->signature_bytes};
    return hub_run_begin(s->hub, NULL, &plan, out, err);
}

static void start_half_closed(struct tier_rpc_call *call) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct hub_run *run = NULL;
    struct tier_err err = {0};

    if (s->over)
        return;
    if (start_run(s, &run, &err) != TIER_OK) {
        refuse(s, &err);
        return;
    }
    hub_audit(s->hub, "console.start", "s:caller", s->caller, "h:run", &run->id);
    hub_run_first_round(run);
    answer(s, run_bytes(s, run));
}

static const struct tier_rpc_handler start_handler = {.opened = start_opened,
                                                      .message = start_message,
                                                      .half_closed = start_half_closed,
                                                      .closed = session_closed};

/* ---- StopRun, ListRuns, ListNodes ---- */

static void stop_opened(struct tier_rpc_call *call) {
    if (session_new(call, "StopRun", true))
        tier_rpc_read(call);
}

static enum tier_status stop(struct hub_console_call *s, struct tier_rpc_message *m,
                             struct hub_run **out, struct tier_err *err) {
    struct hub_run *run = NULL;
    char reason[TIER_REASON_LEN_MAX + 1];

    TIER_TRY(top_only(s->hub, "stopped", err));
    TIER_TRY(take_run(s, m, &run, err));
    if (run->state != HUB_RUN_OPEN)
        return tier_fail(err, TIER_ECONFLICT, "run %.12s is not open any more: it is %s", run->hex,
                         hub_run_state_text(run->state));
    snprintf(reason, sizeof reason, "stopped by %s", s->caller);
    hub_audit(s->hub, "console.stop", "s:caller", s->caller, "h:run", &run->id);
    hub_run_finish(run, HUB_RUN_STOPPED, reason);
    *out = run;
    return TIER_OK;
}

static void stop_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct hub_run *run = NULL;
    struct tier_err err = {0};

    if (stop(s, m, &run, &err) != TIER_OK)
        refuse(s, &err);
    else
        answer(s, run_bytes(s, run));
}

static void runs_opened(struct tier_rpc_call *call) {
    if (session_new(call, "ListRuns", false))
        tier_rpc_read(call);
}

static void runs_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_console_runs list = {.count = 0};
    (void)m; /* empty by definition */

    list.item = need(calloc(TIER_CONSOLE_RUNS_MAX, sizeof *list.item));
    for (struct hub_run *run = s->hub->runs; run && list.count < TIER_CONSOLE_RUNS_MAX;
         run = run->next)
        hub_view_run(run, &list.item[list.count++]);
    answer(s, tier_console_runs_bytes(&list));
    tier_console_runs_release(&list);
}

static void nodes_opened(struct tier_rpc_call *call) {
    if (session_new(call, "ListNodes", false))
        tier_rpc_read(call);
}

static void nodes_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_console_nodes nodes;
    (void)m; /* empty by definition */

    hub_view_nodes(s->hub, &nodes);
    if (!hub_console_sees_children(s->role, hub_is_top(s->hub)))
        nodes.count = 0;
    answer(s, tier_console_nodes_bytes(&nodes));
    tier_console_nodes_release(&nodes);
}

static const struct tier_rpc_handler stop_handler = {
    .opened = stop_opened, .message = stop_message, .closed = session_closed};
static const struct tier_rpc_handler runs_handler = {
    .opened = runs_opened, .message = runs_message, .closed = session_closed};
static const struct tier_rpc_handler nodes_handler = {
    .opened = nodes_opened, .message = nodes_message, .closed = session_closed};

/* ---- WatchRun ---- */

/* History is read from the journal only where something of it may be new. */
static enum tier_status watch_history(struct hub_console_call *s, struct tier_console_run *view,
                                      struct tier_err *err) {
    const struct tier_round *round = &s->watched->round;
    int state = (int)round->state + 100 * (int)s->watched->state;

    if (s->told_state == state && s->told_round == view->round && s->told_weight == round->weight)
        return TIER_OK;
    TIER_TRY(hub_view_history(s->watched, s->from, view, err));
    s->told_state = state;
    s->told_round = view->round;
    s->told_weight = round->weight;
    s->from = view->round ? view->round - 1 : 0; /* its figures come with the next round */
    return TIER_OK;
}

static void watch_tell(void *arg) {
    struct hub_console_call *s = arg;
    struct tier_console_run view;
    struct tier_err err = {0};

    if (s->over || s->under_way || !s->changed)
        return;
    hub_view_run(s->watched, &view);
    view_children(s, s->watched, &view);
    if (watch_history(s, &view, &err) != TIER_OK) {
        tier_console_run_release(&view);
        refuse(s, &err);
        return;
    }
    struct tier_bytes bytes = tier_console_run_bytes(&view);
    tier_console_run_release(&view);
    s->changed = false;
    s->under_way = true;
    s->sent_at_ms = tier_clock_ms();
    if (s->watched->state != HUB_RUN_OPEN) {
        answer(s, bytes);
        return;
    }
    tier_rpc_send(s->call, bytes.data, bytes.n);
    free(bytes.data);
}

static void watch_schedule(struct hub_console_call *s) {
    uint64_t now = tier_clock_ms(), next = s->sent_at_ms + WATCH_PAUSE_MS;
    if (!s->over && !s->under_way && s->changed)
        tier_timer_set(s->timer, s->sent_at_ms && next > now ? next - now : 0);
}

void hub_console_changed(struct hub *hub, struct hub_run *run) {
    for (struct hub_console_call *s = hub->console_calls; s; s = s->next) {
        if (s->watched != run)
            continue;
        bool first = !s->changed; /* else its timer runs */
        s->changed = true;
        if (first)
            watch_schedule(s);
    }
}

static void watch_opened(struct tier_rpc_call *call) {
    if (session_new(call, "WatchRun", false))
        tier_rpc_read(call);
}

static void watch_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_err err = {0};

    if (take_run(s, m, &s->watched, &err) != TIER_OK) {
        refuse(s, &err);
        return;
    }
    s->told_state = -1;
    s->timer = tier_timer_new(s->hub->loop, watch_tell, s);
    s->changed = true;
    watch_schedule(s);
}

static void watch_sent(struct tier_rpc_call *call) {
    struct hub_console_call *s = tier_rpc_user(call);
    s->under_way = false;
    if (s->timer)
        watch_schedule(s);
}

static const struct tier_rpc_handler watch_handler = {
    .opened = watch_opened, .message = watch_message, .sent = watch_sent, .closed = session_closed};

/* ---- PullModel ---- */

/* A researcher gets graphs, which hold nothing that was learnt, and what two operators released. */
static enum tier_status may_pull(const struct hub_console_call *s, const struct tier_hash *file,
                                 struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    if (s->role != TIER_ROLE_RESEARCHER || hub_model_released(s->hub, file))
        return TIER_OK;
    tier_hash_hex(file, hex);
    for (const struct hub_run *run = s->hub->runs; run; run = run->next)
        if (strcmp(run->plan.model_sha256, hex) == 0)
            return TIER_OK;
    return tier_fail(err, TIER_EPOLICY,
                     "model %.12s is not released: two operators release it (consilium model "
                     "release)",
                     hex);
}

static enum tier_status pull_open(struct hub_console_call *s, struct tier_rpc_message *m,
                                  struct tier_hash *file, struct tier_err *err) {
    struct tier_console_pull request;
    struct hub_run *run = NULL;
    const uint8_t *bytes;
    size_t n;

    TIER_TRY(take_request(m, &bytes, &n, err));
    TIER_TRY(tier_console_pull(bytes, n, &request, err));
    *file = request.file;
    if (tier_hash_is_zero(file)) {
        TIER_TRY(find_run(s->hub, request.run, &run, err));
        if (request.graph)
            tier_hash_parse(run->plan.model_sha256, file);
        else
            *file = run->model;
        if (tier_hash_is_zero(file))
            return tier_fail(err, TIER_ENOTFOUND, "run %.12s has no model here yet", run->hex);
    }
    TIER_TRY(may_pull(s, file, err));
    return tier_content_open(s->hub->home.models_dir, file, &s->content, err);
}

static void pull_opened(struct tier_rpc_call *call) {
    if (session_new(call, "PullModel", false))
        tier_rpc_read(call);
}

static void pull_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_hash file;
    struct tier_err err = {0};

    if (pull_open(s, m, &file, &err) != TIER_OK) {
        refuse(s, &err);
        return;
    }
    s->sender =
        tier_sender_new(call, &file, NULL, tier_content_read, &s->content, s->content.bytes, 0);
    tier_sender_fill(s->sender);
}

static void pull_sent(struct tier_rpc_call *call) {
    struct hub_console_call *s = tier_rpc_user(call);
    if (s->sender)
        tier_sender_fill(s->sender);
}

static const struct tier_rpc_handler pull_handler = {
    .opened = pull_opened, .message = pull_message, .sent = pull_sent, .closed = session_closed};

/* ---- Approve ---- */

static void approve_opened(struct tier_rpc_call *call) {
    if (session_new(call, "Approve", true))
        tier_rpc_read(call);
}

static enum tier_status approve(struct hub_console_call *s, struct tier_rpc_message *m,
                                struct tier_console_approval *out, struct tier_err *err) {
    struct tier_console_approval_request request;
    const uint8_t *bytes;
    size_t n;

    if (!s->person)
        return tier_fail(err, TIER_EPOLICY,
                         "two operators approve, each with a certificate of their own: the hub's, "
                         "or none (tls: off), is nobody's");
    TIER_TRY(take_request(m, &bytes, &n, err));
    TIER_TRY(tier_console_approval_request(bytes, n, &request, err));
    return hub_approve(s->hub, &request, s->caller, tier_wall_ms(), out, err);
}

static void approve_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_console_approval approval;
    struct tier_err err = {0};

    if (approve(s, m, &approval, &err) != TIER_OK)
        refuse(s, &err);
    else
        answer(s, tier_console_approval_bytes(&approval));
}

static const struct tier_rpc_handler approve_handler = {
    .opened = approve_opened, .message = approve_message, .closed = session_closed};

/* ---- GetStatistics ---- */

static void statistics_opened(struct tier_rpc_call *call) {
    if (session_new(call, "GetStatistics", false))
        tier_rpc_read(call);
}

static void statistics_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct tier_console_statistics view = {0};
    struct hub_run *run = NULL;
    struct tier_err err = {0};
    enum tier_status st = take_run(s, m, &run, &err);

    if (st == TIER_OK)
        st = hub_statistics_view(run, &view, &err);
    if (st == TIER_OK)
        answer(s, tier_console_statistics_bytes(&view));
    else
        refuse(s, &err);
    tier_console_statistics_release(&view);
}

static const struct tier_rpc_handler statistics_handler = {
    .opened = statistics_opened, .message = statistics_message, .closed = session_closed};

/* ---- ListContributors, Pardon ---- */

static enum tier_status sees_children(const struct hub_console_call *s, struct tier_err *err) {
    if (hub_console_sees_children(s->role, hub_is_top(s->hub)))
        return TIER_OK;
    return tier_fail(
        err, TIER_EPOLICY,
        "'%s' is enrolled as a %s: at the top, children are for operators and auditors", s->caller,
        tier_role_text(s->role));
}

static void answer_contributors(struct hub_console_call *s, const struct hub_run *run,
                                enum tier_status st, struct tier_err *err) {
    struct tier_console_contributors view = {0};

    if (st == TIER_OK)
        st = hub_contributors_view(run, &view, err);
    if (st == TIER_OK)
        answer(s, tier_console_contributors_bytes(&view));
    else
        refuse(s, err);
    tier_console_contributors_release(&view);
}

static void contributors_opened(struct tier_rpc_call *call) {
    if (session_new(call, "ListContributors", false))
        tier_rpc_read(call);
}

static void contributors_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct hub_run *run = NULL;
    struct tier_err err = {0};
    enum tier_status st = sees_children(s, &err);

    if (st == TIER_OK)
        st = take_run(s, m, &run, &err);
    answer_contributors(s, run, st, &err);
}

static void pardon_opened(struct tier_rpc_call *call) {
    if (session_new(call, "Pardon", true))
        tier_rpc_read(call);
}

static enum tier_status pardon(struct hub_console_call *s, struct tier_rpc_message *m,
                               struct hub_run **run, struct tier_err *err) {
    struct tier_console_pardon request;
    const uint8_t *bytes;
    size_t n;

    TIER_TRY(sees_children(s, err));
    TIER_TRY(take_request(m, &bytes, &n, err));
    TIER_TRY(tier_console_pardon(bytes, n, &request, err));
    TIER_TRY(find_run(s->hub, request.run, run, err));
    return hub_contributor_pardon(*run, request.child, s->caller, err);
}

static void pardon_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub_console_call *s = tier_rpc_user(call);
    struct hub_run *run = NULL;
    struct tier_err err = {0};
    enum tier_status st = pardon(s, m, &run, &err);

    answer_contributors(s, run, st, &err);
}

static const struct tier_rpc_handler contributors_handler = {
    .opened = contributors_opened, .message = contributors_message, .closed = session_closed};
static const struct tier_rpc_handler pardon_handler = {
    .opened = pardon_opened, .message = pardon_message, .closed = session_closed};

/* ---- life cycle ---- */

const struct tier_rpc_method hub_console_methods[] = {
    {TIER_PATH_CONSOLE_START, &start_handler},
    {TIER_PATH_CONSOLE_STOP, &stop_handler},
    {TIER_PATH_CONSOLE_RUNS, &runs_handler},
    {TIER_PATH_CONSOLE_WATCH, &watch_handler},
    {TIER_PATH_CONSOLE_NODES, &nodes_handler},
    {TIER_PATH_CONSOLE_PULL, &pull_handler},
    {TIER_PATH_CONSOLE_APPROVE, &approve_handler},
    {TIER_PATH_CONSOLE_STATISTICS, &statistics_handler},
    {TIER_PATH_CONSOLE_CONTRIBUTORS, &contributors_handler},
    {TIER_PATH_CONSOLE_PARDON, &pardon_handler},
};
const size_t hub_console_method_count = sizeof hub_console_methods / sizeof hub_console_methods[0];

enum tier_status hub_console_open(struct hub *hub, struct tier_err *err) {
    if (!hub->config->hub.console_listen[0])
        return TIER_OK;
    TIER_TRY(tier_rpc_server_new(
        hub->loop, hub->config->hub.console_listen, tier_home_tls(&hub->home), &hub->home.keepalive,
        hub_console_methods, hub_console_method_count, hub->serve, &hub->console, err));
    tier_rpc_server_guard(hub->console, tier_home_admit, &hub->home);
    tier_log_info("console on port %d", tier_rpc_server_port(hub->console));
    return TIER_OK;
}

void hub_console_close(struct hub *hub) {
    hub->console_closed = true;
    for (struct hub_console_call *s = hub->console_calls; s; s = s->next) {
        s->over = true;
        tier_rpc_finish(s->call, TIER_EUNAVAILABLE, "the hub is stopping");
    }
    tier_rpc_server_free(hub->console);
    hub->console = NULL;
}
