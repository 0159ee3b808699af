/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/cli.h"
#include "tier/identity.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cli_hub {
    const char *address;
    struct tier_node node;
    struct tier_loop *loop;
    struct tier_rpc_channel *channel;
};

enum tier_status cli_hub_open(const struct cli_connection *c, struct cli_hub **out,
                              struct tier_err *err) {
    struct cli_hub *h = calloc(1, sizeof *h);
    struct tier_rpc_tls tls = {0};
    const char *own_name = "operator"; /* without TLS nobody checks it */
    enum tier_status st = TIER_OK;

    if (!h)
        return tier_fail(err, TIER_ENOMEM, "no memory for a connection");
    h->address = c->hub;
    if (!c->insecure) {
        if (!c->identity || !c->hub_name) {
            st = tier_fail(err, TIER_EARG,
                           "%s is missing: over TLS both sides must know who the other is "
                           "(--insecure for a hub that runs with tls: off)",
                           c->identity ? "--hub-name" : "--identity");
            goto out;
        }
        TIER_TRY_OUT(tier_identity_load(c->identity, tier_wall_ms() / 1000, &h->node, err));
        tls = (struct tier_rpc_tls){
            .ca_pem = h->node.ca_pem, .cert_pem = h->node.cert_pem, .key_pem = h->node.key_pem};
        own_name = h->node.id.name;
    }
    TIER_TRY_OUT(tier_loop_new(&h->loop, err));
    TIER_TRY_OUT(tier_rpc_channel_new(h->loop, c->hub, c->hub_name, own_name,
                                      c->insecure ? NULL : &tls, NULL, &h->channel, err));
    *out = h;
    return TIER_OK;
out:
    cli_hub_close(h);
    return st;
}

void cli_hub_close(struct cli_hub *h) {
    if (!h)
        return;
    tier_rpc_channel_free(h->channel);
    if (h->loop)
        tier_loop_free(h->loop);
    tier_identity_release(&h->node);
    free(h);
}

const struct tier_node *cli_hub_node(const struct cli_hub *h) {
    return h->node.key ? &h->node : NULL;
}

/* ---- calls ---- */

struct exchange {
    const struct cli_call *call;
    bool all_sent, over;
    struct tier_err failure; /* our own */
    struct tier_err result;  /* the hub's */
};

static void fail(struct tier_rpc_call *call, struct exchange *x) {
    x->all_sent = true;
    if (x->failure.status == TIER_OK)
        x->failure.status = TIER_EINTERNAL;
    tier_rpc_cancel(call);
}

/* Keeps one message queued, so that memory does not grow with what is sent. */
static void send_more(struct tier_rpc_call *call) {
    struct exchange *x = tier_rpc_user(call);

    while (!x->all_sent && tier_rpc_waiting(call) == 0) {
        struct tier_bytes b = {0};
        if (x->call->next(x->call->arg, &b, &x->failure) != TIER_OK) {
            fail(call, x);
            return;
        }
        if (b.data) {
            tier_rpc_send(call, b.data, b.n);
            free(b.data);
        } else {
            x->all_sent = true;
            tier_rpc_half_close(call);
        }
    }
}

static void on_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct exchange *x = tier_rpc_user(call);
    if (x->failure.status != TIER_OK)
        return;
    if (x->call->message(x->call->arg, m, &x->failure) != TIER_OK)
        fail(call, x);
    else
        tier_rpc_read(call);
}

static void on_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct exchange *x = tier_rpc_user(call);
    x->over = true;
    if (status != TIER_OK)
        tier_fail(&x->result, status, "%s", *text ? text : tier_status_text(status));
}

static const struct tier_rpc_handler handler = {
    .message = on_message, .sent = send_more, .closed = on_closed};

static bool is_over(void *arg) {
    return ((struct exchange *)arg)->over;
}

enum tier_status cli_hub_call(struct cli_hub *hub, const char *path, const struct cli_call *c,
                              struct tier_err *err) {
    struct exchange x = {.call = c};
    struct tier_rpc_call *call =
        tier_rpc_call_new(hub->channel, path, &handler, &x, c->deadline_ms);

    tier_rpc_read(call);
    send_more(call);
    while (!x.over)
        tier_loop_run_until(hub->loop, is_over, &x, 60000);
    if (x.failure.status != TIER_OK)
        return tier_fail(err, x.failure.status, "%s", x.failure.text);
    if (x.result.status != TIER_OK)
        return tier_fail(err, x.result.status, "%s: %s", hub->address, x.result.text);
    return TIER_OK;
}

struct one {
    struct tier_bytes request;
    void *arg;
    enum tier_status (*message)(void *arg, struct tier_rpc_message *m, struct tier_err *err);
};

static enum tier_status one_next(void *arg, struct tier_bytes *out, struct tier_err *err) {
    struct one *o = arg;
    (void)err;
    *out = o->request;
    o->request = (struct tier_bytes){0};
    return TIER_OK;
}

static enum tier_status one_message(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct one *o = arg;
    return o->message(o->arg, m, err);
}

enum tier_status cli_hub_ask(struct cli_hub *hub, const char *path, struct tier_bytes request,
                             uint64_t deadline_ms,
                             enum tier_status (*message)(void *arg, struct tier_rpc_message *m,
                                                         struct tier_err *err),
                             void *arg, struct tier_err *err) {
    struct one o = {request, arg, message};
    const struct cli_call call = {&o, one_next, one_message, deadline_ms};
    enum tier_status st = cli_hub_call(hub, path, &call, err);
    free(o.request.data); /* where the call was over before it was sent */
    return st;
}

enum tier_status cli_take_run(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct tier_console_run run;
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub answered with %zu bytes", n);
    TIER_TRY(tier_console_run(bytes, n, &run, err));
    tier_console_run_release(arg);
    memcpy(arg, &run, sizeof run);
    return TIER_OK;
}

enum tier_status cli_run_prefix(const char *typed, char out[TIER_HASH_HEX], struct tier_err *err) {
    size_t n = typed ? strlen(typed) : 0;

    if (n >= TIER_HASH_HEX || (typed && typed[strspn(typed, "0123456789abcdef")]))
        return tier_fail(err, TIER_EARG,
                         "'%s' is not a run: its id is 64 hex digits, of which the first few do",
                         typed);
    if (n)
        memcpy(out, typed, n);
    out[n] = '\0';
    return TIER_OK;
}

static enum tier_status take_approval(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_CONSOLE_REQUEST_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "an answer of %zu bytes", n);
    return tier_console_approval(bytes, n, arg, err);
}

enum tier_status cli_approve(const struct cli_connection *c, enum tier_console_action action,
                             const char *subject, struct tier_err *err) {
    struct tier_console_approval_request request = {.action = action};
    struct tier_console_approval a = {.count = 0};
    struct cli_hub *hub = NULL;
    char until[CLI_TIME_SIZE];
    enum tier_status st;

    snprintf(request.subject, sizeof request.subject, "%s", subject);
    TIER_TRY(cli_hub_open(c, &hub, err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_APPROVE,
                             tier_console_approval_request_bytes(&request), CLI_DEADLINE_MS,
                             take_approval, &a, err));
    if (a.done)
        printf("done: approved by %s and %s\n", a.by[0], a.by[1]);
    else
        printf("approved by %s; a second operator is needed before %s UTC\n", a.by[0],
               cli_time(a.expires_ms, until));
out:
    cli_hub_close(hub);
    return st;
}
