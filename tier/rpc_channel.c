/* SPDX-License-Identifier: Apache-2.0 */
/* The calling end: channels, and calls made on them. */
#include "tier/rpc_private.h"

#include <grpc/support/string_util.h>
#include <stdlib.h>
#include <string.h>

/*
 * Time allowed to one attempt. Where thousands come at once a parent shakes hands with all of them
 * at a time, and whoever gives up early has cost it as much as the others and comes again.
 */
#define ATTEMPT_MS 20000

/* ---- a client that pins its authority instead of holding its certificate ---- */

struct pin {
    grpc_tls_certificate_verifier_external external;
    enum tier_status (*verify)(void *arg, const char *chain_pem, struct tier_err *err);
    void *arg;
};

static int pin_verify(void *user, grpc_tls_custom_verification_check_request *request,
                      grpc_tls_on_custom_verification_check_done_cb callback, void *callback_arg,
                      grpc_status_code *status, char **details) {
    struct pin *pin = user;
    struct tier_err err = {0};
    const char *chain = request->peer_info.peer_cert_full_chain;
    (void)callback;
    (void)callback_arg;

    *status = GRPC_STATUS_OK;
    if (pin->verify(pin->arg, chain ? chain : "", &err) != TIER_OK) {
        *status = GRPC_STATUS_UNAUTHENTICATED;
        *details = gpr_strdup(err.text);
    }
    return 1; /* decided at once */
}

static void pin_cancel(void *user, grpc_tls_custom_verification_check_request *request) {
    (void)user;
    (void)request;
}

static grpc_channel_credentials *pin_credentials(const struct tier_rpc_tls *tls) {
    struct pin *pin = calloc(1, sizeof *pin);
    if (!pin)
        abort();
    pin->external = (grpc_tls_certificate_verifier_external){pin, pin_verify, pin_cancel, free};
    pin->verify = tls->verify_chain;
    pin->arg = tls->verify_arg;
    grpc_tls_certificate_verifier *verifier =
        grpc_tls_certificate_verifier_external_create(&pin->external);
    grpc_tls_credentials_options *options = grpc_tls_credentials_options_create();
    grpc_tls_credentials_options_set_verify_server_cert(options, 0);
    grpc_tls_credentials_options_set_check_call_host(options, 0);
    grpc_tls_credentials_options_set_certificate_verifier(options, verifier);
    grpc_tls_certificate_verifier_release(verifier);
    return grpc_tls_credentials_create(options);
}

static enum tier_status connect_channel(const struct tier_rpc_channel *ch,
                                        const struct tier_rpc_tls *tls, grpc_channel **out,
                                        struct tier_err *err) {
    grpc_channel_credentials *credentials;
    grpc_arg a[RPC_COMMON_ARGS + 8];
    size_t n = rpc_common_args(a, &ch->keepalive);

    a[n++] = rpc_int_arg(GRPC_ARG_ENABLE_RETRIES, 0);
    a[n++] = rpc_int_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    a[n++] = rpc_int_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    a[n++] = rpc_int_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    a[n++] = rpc_int_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, ATTEMPT_MS);
    if (tls) {
        grpc_ssl_pem_key_cert_pair pair = {tls->key_pem, tls->cert_pem};
        if (tls->verify_chain)
            credentials = pin_credentials(tls);
        else
            credentials = grpc_ssl_credentials_create_ex(tls->ca_pem, tls->cert_pem ? &pair : NULL,
                                                         NULL, NULL);
        if (!credentials)
            return tier_fail(err, TIER_EIDENTITY, "the TLS certificate or key cannot be used");
        if (!tls->verify_chain) { /* whoever pins a chain knows no name to ask for */
            a[n] = (grpc_arg){.type = GRPC_ARG_STRING,
                              .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG};
            a[n++].value.string = ch->peer_name;
        }
    } else {
        credentials = grpc_insecure_credentials_create();
    }
    grpc_channel_args args = {n, a};
    *out = grpc_channel_create(ch->address, credentials, &args);
    grpc_channel_credentials_release(credentials);
    return TIER_OK;
}

static void channel_release(struct tier_rpc_channel *ch) {
    free(ch->address);
    free(ch->peer_name);
    free(ch->own_name);
    free(ch);
}

enum tier_status tier_rpc_channel_new(struct tier_loop *loop, const char *address,
                                      const char *peer_name, const char *own_name,
                                      const struct tier_rpc_tls *tls,
                                      const struct tier_rpc_keepalive *keepalive,
                                      struct tier_rpc_channel **out, struct tier_err *err) {
    struct tier_rpc_channel *ch = calloc(1, sizeof *ch);
    if (!ch)
        abort();
    ch->loop = loop;
    ch->address = rpc_dup(address);
    ch->peer_name = rpc_dup(peer_name);
    ch->own_name = rpc_dup(own_name);
    if (keepalive)
        ch->keepalive = *keepalive;
    ch->tls = tls != NULL;
    ch->pins = tls && tls->verify_chain;
    enum tier_status st = connect_channel(ch, tls, &ch->channel, err);
    if (st == TIER_OK)
        *out = ch;
    else
        channel_release(ch);
    return st;
}

enum tier_status tier_rpc_channel_reload(struct tier_rpc_channel *ch,
                                         const struct tier_rpc_tls *tls, struct tier_err *err) {
    grpc_channel *anew = NULL;

    if (!ch->tls || ch->pins || !tls || tls->verify_chain)
        return tier_fail(err, TIER_EARG, "this channel holds no certificate that could change");
    TIER_TRY(connect_channel(ch, tls, &anew, err));
    if (ch->retired) /* two reloads within the life of a call: the oldest calls end */
        grpc_channel_destroy(ch->retired);
    ch->retired = ch->channel;
    ch->channel = anew;
    ch->age++;
    rpc_channel_settle(ch);
    return TIER_OK;
}

void rpc_channel_settle(struct tier_rpc_channel *ch) {
    if (!ch->retired)
        return;
    for (const struct tier_rpc_call *c = ch->calls; c; c = c->next)
        if (c->age != ch->age)
            return;
    grpc_channel_destroy(ch->retired);
    ch->retired = NULL;
}

static bool channel_down(void *arg) {
    struct tier_rpc_channel *ch = arg;
    return !ch->calls;
}

void tier_rpc_channel_free(struct tier_rpc_channel *ch) {
    if (!ch)
        return;
    for (struct tier_rpc_call *c = ch->calls; c; c = c->next)
        tier_rpc_cancel(c);
    tier_loop_run_until(ch->loop, channel_down, ch, 30000);
    if (ch->retired)
        grpc_channel_destroy(ch->retired);
    grpc_channel_destroy(ch->channel);
    channel_release(ch);
}

static void on_client_open(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    if (ok && !c->ended) {
        rpc_learn_peer(c);
        c->opened = true;
        if (c->handler->opened)
            c->handler->opened(c);
        if (c->read_wanted && !c->reading && !c->ended)
            rpc_post_recv(c);
        rpc_pump(c);
    }
    rpc_unref(c);
}

static void on_client_end(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    (void)ok;
    char *text = rpc_slice_text(c->status_details);
    rpc_ended(c, tier_status_from_grpc((int)c->status), text);
    free(text);
    rpc_unref(c);
}

struct tier_rpc_call *tier_rpc_call_new(struct tier_rpc_channel *ch, const char *path,
                                        const struct tier_rpc_handler *handler, void *user,
                                        uint64_t deadline_ms) {
    struct tier_rpc_call *c = rpc_call_alloc(ch->loop);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);

    if (deadline_ms)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                gpr_time_from_millis((int64_t)deadline_ms, GPR_TIMESPAN));
    c->channel = ch;
    c->age = ch->age;
    c->handler = handler;
    c->user = user;
    c->on_open = (struct call_tag){{on_client_open}, c};
    c->on_end = (struct call_tag){{on_client_end}, c};
    rpc_list_add(&ch->calls, c);
    grpc_slice method = grpc_slice_from_copied_string(path);
    c->call = grpc_channel_create_call(ch->channel, NULL, GRPC_PROPAGATE_DEFAULTS,
                                       tier_loop_queue(ch->loop), method, NULL, deadline, NULL);
    grpc_slice_unref(method);

    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};
    op.data.recv_status_on_client.trailing_metadata = &c->trailing_md;
    op.data.recv_status_on_client.status = &c->status;
    op.data.recv_status_on_client.status_details = &c->status_details;
    op.data.recv_status_on_client.error_string = &c->error_string;
    rpc_start(c, &op, 1, &c->on_end);

    grpc_metadata claim = {.key = grpc_slice_from_static_string(RPC_CLAIM_KEY),
                           .value = grpc_slice_from_copied_string(rpc_or_empty(ch->own_name))};
    grpc_op ops[2];
    memset(ops, 0, sizeof ops);
    ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
    ops[0].data.send_initial_metadata.count = 1;
    ops[0].data.send_initial_metadata.metadata = &claim;
    ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
    ops[1].data.recv_initial_metadata.recv_initial_metadata = &c->initial_md;
    rpc_start(c, ops, 2, &c->on_open);
    grpc_slice_unref(claim.value);
    c->refs--; /* the creator's reference: from here the outstanding tags keep the call */
    return c;
}

/* ---- one request, one answer ---- */

struct asking {
    struct tier_err result; /* ours, which the call's own end does not know */
    uint8_t *bytes;
    size_t n, reply_max;
    tier_rpc_answered done;
    void *arg;
};

static void ask_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct asking *a = tier_rpc_user(call);
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, a->reply_max);

    if (!bytes) {
        tier_fail(&a->result, TIER_ELIMIT, "an answer of %zu bytes, at most %zu are right", n,
                  a->reply_max);
    } else if (!a->bytes) {
        a->bytes = malloc(n + 1);
        if (!a->bytes)
            abort();
        memcpy(a->bytes, bytes, n);
        a->n = n;
    }
    tier_rpc_read(call);
}

static void ask_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct asking *a = tier_rpc_user(call);

    if (status != TIER_OK)
        tier_fail(&a->result, status, "%s", *text ? text : tier_status_text(status));
    else if (!a->bytes && a->result.status == TIER_OK)
        tier_fail(&a->result, TIER_EPROTO, "no answer came");
    a->done(a->arg, &a->result, a->bytes, a->n);
    free(a->bytes);
    free(a);
}

static const struct tier_rpc_handler ask_handler = {.message = ask_message, .closed = ask_closed};

void tier_rpc_ask(struct tier_rpc_channel *ch, const char *path, const void *request, size_t n,
                  size_t reply_max, uint64_t deadline_ms, tier_rpc_answered done, void *arg) {
    struct asking *a = calloc(1, sizeof *a);
    if (!a)
        abort();
    *a = (struct asking){.reply_max = reply_max, .done = done, .arg = arg};
    struct tier_rpc_call *call = tier_rpc_call_new(ch, path, &ask_handler, a, deadline_ms);
    tier_rpc_send(call, request, n);
    tier_rpc_half_close(call);
    tier_rpc_read(call);
}
