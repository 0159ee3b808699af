/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accepting end. Calls are requested generically and unknown methods answered here: with
 * registered methods only, the core lets a call to an unknown one hang until its deadline.
 */
#include "tier/rpc_private.h"
#include "tier/log.h"

#include <stdlib.h>
#include <string.h>

#define REQUESTS_OUTSTANDING 16
#define HANDSHAKE_MS 30000 /* more than our own channels give an attempt */

static void request_call(struct tier_rpc_server *s);

static void on_server_end(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    (void)ok;
    bool finished = c->finish_sent && !c->cancelled;
    rpc_ended(c, finished ? c->finish_status : TIER_ECANCELLED,
              finished ? c->finish_text : "the peer went away");
    rpc_unref(c);
}

static const struct tier_rpc_handler no_handler = {0};

static void on_server_call(struct tier_tag *tag, bool ok) {
    struct tier_rpc_call *c = ((struct call_tag *)tag)->call;
    struct tier_rpc_server *s = c->server;

    if (!ok) { /* the server is shutting down */
        rpc_unref(c);
        return;
    }
    request_call(s);
    rpc_learn_peer(c);
    for (size_t i = 0; i < c->initial_md.count; i++)
        if (grpc_slice_str_cmp(c->initial_md.metadata[i].key, RPC_CLAIM_KEY) == 0 && !c->claim)
            c->claim = rpc_slice_text(c->initial_md.metadata[i].value);

    grpc_op op = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER};
    op.data.recv_close_on_server.cancelled = &c->cancelled;
    rpc_start(c, &op, 1, &c->on_end);
    c->sending = true;
    memset(&op, 0, sizeof op);
    op.op = GRPC_OP_SEND_INITIAL_METADATA;
    rpc_start(c, &op, 1, &c->on_send);
    c->opened = true;

    c->handler = &no_handler;
    for (size_t i = 0; i < s->method_count; i++)
        if (grpc_slice_str_cmp(c->details.method, s->methods[i].path) == 0)
            c->handler = s->methods[i].handler;
    struct tier_err err = {0};
    if (c->handler == &no_handler) {
        tier_rpc_finish(c, TIER_EUNIMPLEMENTED, "no such method here");
    } else if (s->guard && s->guard(s->guard_arg, c, &err) != TIER_OK) {
        tier_log_warn("a call from %s was refused: %s", tier_rpc_peer_address(c), err.text);
        c->handler = &no_handler;
        tier_rpc_finish(c, err.status, err.text);
    } else {
        c->handler->opened(c);
    }
    rpc_unref(c);
}

void tier_rpc_server_guard(struct tier_rpc_server *s, tier_rpc_guard guard, void *arg) {
    s->guard = guard;
    s->guard_arg = arg;
}

void tier_rpc_server_recheck(struct tier_rpc_server *s) {
    for (struct tier_rpc_call *c = s->calls; c; c = c->next) {
        struct tier_err err = {0};
        if (!c->opened || c->ended || c->finish_wanted || c->handler == &no_handler || !s->guard ||
            s->guard(s->guard_arg, c, &err) == TIER_OK)
            continue;
        tier_log_warn("a call of %s is ended: %s", tier_rpc_peer_address(c), err.text);
        rpc_end_now(c, err.status, err.text);
    }
}

static void request_call(struct tier_rpc_server *s) {
    if (s->stopping)
        return;
    struct tier_rpc_call *c = rpc_call_alloc(s->loop);
    c->server = s;
    c->user = s->user;
    c->on_open = (struct call_tag){{on_server_call}, c};
    c->on_end = (struct call_tag){{on_server_end}, c};
    s->live++;
    rpc_list_add(&s->calls, c);
    grpc_completion_queue *q = tier_loop_queue(s->loop);
    grpc_call_error e = grpc_server_request_call(s->server, &c->call, &c->details, &c->initial_md,
                                                 q, q, &c->on_open);
    if (e != GRPC_CALL_OK) {
        tier_log_error("grpc: cannot take calls: %s", grpc_call_error_to_string(e));
        abort();
    }
}

static grpc_ssl_certificate_config_reload_status
fetch_material(void *user, grpc_ssl_server_certificate_config **config) {
    struct tier_rpc_server *s = user;
    grpc_ssl_certificate_config_reload_status result = GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;

    pthread_mutex_lock(&s->material_lock);
    if (s->material_new) {
        grpc_ssl_pem_key_cert_pair pair = {s->key_pem, s->cert_pem};
        *config = grpc_ssl_server_certificate_config_create(s->ca_pem, &pair, 1);
        s->material_new = false;
        result = *config ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW
                         : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
    }
    pthread_mutex_unlock(&s->material_lock);
    return result;
}

static void material_release(struct tier_rpc_server *s) {
    free(s->ca_pem);
    free(s->cert_pem);
    if (s->key_pem)
        explicit_bzero(s->key_pem, strlen(s->key_pem));
    free(s->key_pem);
}

enum tier_status tier_rpc_server_reload(struct tier_rpc_server *s, const struct tier_rpc_tls *tls,
                                        struct tier_err *err) {
    if (!tls || !tls->ca_pem || !tls->cert_pem || !tls->key_pem)
        return tier_fail(err, TIER_EARG,
                         "a TLS server needs the authority's certificate, its own, and its key");
    pthread_mutex_lock(&s->material_lock);
    material_release(s);
    s->ca_pem = rpc_dup(tls->ca_pem);
    s->cert_pem = rpc_dup(tls->cert_pem);
    s->key_pem = rpc_dup(tls->key_pem);
    s->material_new = true;
    pthread_mutex_unlock(&s->material_lock);
    return TIER_OK;
}

static enum tier_status server_credentials(struct tier_rpc_server *s,
                                           const struct tier_rpc_tls *tls,
                                           grpc_server_credentials **out, struct tier_err *err) {
    if (!tls) {
        *out = grpc_insecure_server_credentials_create();
        return TIER_OK;
    }
    TIER_TRY(tier_rpc_server_reload(s, tls, err));
    grpc_ssl_server_credentials_options *options =
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            tls->client_cert_optional ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                      : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY,
            fetch_material, s);
    *out = grpc_ssl_server_credentials_create_with_options(options);
    if (!*out)
        return tier_fail(err, TIER_EIDENTITY, "the TLS certificate or key cannot be used");
    return TIER_OK;
}

static void on_server_stopped(struct tier_tag *tag, bool ok) {
    struct tier_rpc_server *s =
        (struct tier_rpc_server *)((char *)tag - offsetof(struct tier_rpc_server, on_stopped));
    (void)ok;
    s->stopped = true;
}

enum tier_status tier_rpc_server_new(struct tier_loop *loop, const char *address,
                                     const struct tier_rpc_tls *tls,
                                     const struct tier_rpc_keepalive *keepalive,
                                     const struct tier_rpc_method *methods, size_t method_count,
                                     void *user, struct tier_rpc_server **out,
                                     struct tier_err *err) {
    grpc_server_credentials *credentials = NULL;
    struct tier_rpc_server *s = calloc(1, sizeof *s);

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory for a server");
    *s = (struct tier_rpc_server){.loop = loop,
                                  .methods = methods,
                                  .method_count = method_count,
                                  .user = user,
                                  .material_lock = PTHREAD_MUTEX_INITIALIZER,
                                  .on_stopped = {on_server_stopped}};
    enum tier_status st = server_credentials(s, tls, &credentials, err);
    if (st != TIER_OK) {
        material_release(s);
        free(s);
        return st;
    }
    grpc_arg a[RPC_COMMON_ARGS + 8];
    size_t n = rpc_common_args(a, keepalive);
    /* Two hubs on one port would each get half of the children. */
    a[n++] = rpc_int_arg(GRPC_ARG_ALLOW_REUSEPORT, 0);
    a[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 200);
    a[n++] = rpc_int_arg(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
    /* Whoever came and gave up holds a file descriptor until then. */
    a[n++] = rpc_int_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS);
    grpc_channel_args args = {n, a};
    s->server = grpc_server_create(&args, NULL);
    grpc_server_register_completion_queue(s->server, tier_loop_queue(loop), NULL);
    s->port = grpc_server_add_http2_port(s->server, address, credentials);
    grpc_server_credentials_release(credentials);
    if (s->port <= 0) {
        st = tier_fail(err, TIER_EUNAVAILABLE,
                       "cannot listen on %s: the port is taken, the address is not this machine's, "
                       "or the certificate and key do not fit together",
                       address);
        s->port = 0;
        grpc_server_start(s->server);
        tier_rpc_server_free(s);
        return st;
    }
    grpc_server_start(s->server);
    for (int i = 0; i < REQUESTS_OUTSTANDING; i++)
        request_call(s);
    *out = s;
    return TIER_OK;
}

int tier_rpc_server_port(const struct tier_rpc_server *s) {
    return s->port;
}

static bool server_down(void *arg) {
    struct tier_rpc_server *s = arg;
    return s->stopped && s->live == 0;
}

void tier_rpc_server_free(struct tier_rpc_server *s) {
    if (!s)
        return;
    s->stopping = true;
    grpc_server_shutdown_and_notify(s->server, tier_loop_queue(s->loop), &s->on_stopped);
    grpc_server_cancel_all_calls(s->server);
    tier_loop_run_until(s->loop, server_down, s, 30000);
    grpc_server_destroy(s->server);
    material_release(s);
    pthread_mutex_destroy(&s->material_lock);
    free(s);
}
