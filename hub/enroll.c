/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The enrollment service: the one port where a caller need not have a certificate, because it comes
 * to get one. It does nothing but redeem one-time tokens against the authority's directory.
 */
#include "hub/hub.h"
#include "tier/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_BYTES_MAX 16384

static void enroll_opened(struct tier_rpc_call *call) {
    tier_rpc_read(call);
}

static enum tier_status redeem(struct hub *hub, const uint8_t *bytes, size_t n,
                               struct tier_bytes *reply, struct tier_err *err) {
    char *token = NULL, *csr = NULL, *cert = NULL, *ca = NULL;

    TIER_TRY(tier_wire_enroll_request(bytes, n, &token, &csr, err));
    enum tier_status st =
        tier_authority_enroll(hub->authority, token, csr, tier_wall_ms() / 1000, &cert, &ca, err);
    if (st == TIER_OK)
        *reply = tier_wire_enroll_reply_bytes(cert, ca);
    explicit_bzero(token, strlen(token));
    free(token);
    free(csr);
    free(cert);
    free(ca);
    return st;
}

static void enroll_message(struct tier_rpc_call *call, struct tier_rpc_message *m) {
    struct hub *hub = tier_rpc_user(call);
    struct tier_bytes reply = {0};
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, REQUEST_BYTES_MAX);
    enum tier_status st =
        bytes ? redeem(hub, bytes, n, &reply, &err)
              : tier_fail(&err, TIER_ELIMIT, "an enrollment request of %zu bytes", n);

    if (st != TIER_OK) {
        tier_log_warn("enrollment from %s refused: %s", tier_rpc_peer_address(call), err.text);
        hub_audit(hub, "enroll.refused", "s:from", tier_rpc_peer_address(call), "s:reason",
                  err.text);
        tier_rpc_finish(call, st, err.text);
        return;
    }
    hub_audit(hub, "enroll.done", "s:from", tier_rpc_peer_address(call));
    tier_rpc_send(call, reply.data, reply.n);
    free(reply.data);
    tier_rpc_finish(call, TIER_OK, "");
}

static const struct tier_rpc_handler enroll_handler = {
    .opened = enroll_opened,
    .message = enroll_message,
};
static const struct tier_rpc_method methods[] = {{TIER_PATH_ENROLL, &enroll_handler}};

/* The authority's certificate goes along, for callers that only know its fingerprint. */
static enum tier_status chain_of(const struct hub *hub, struct tier_rpc_tls *tls, char **chain_out,
                                 struct tier_err *err) {
    *tls = hub->home.tls;
    if (asprintf(chain_out, "%s%s", tls->cert_pem, tls->ca_pem) < 0)
        return tier_fail(err, TIER_ENOMEM, "no memory for a certificate chain");
    tls->cert_pem = *chain_out;
    tls->client_cert_optional = true;
    return TIER_OK;
}

enum tier_status hub_enroll_open(struct hub *hub, struct tier_err *err) {
    const struct tier_config_hub *c = &hub->config->hub;
    struct tier_rpc_tls tls;
    char *chain = NULL;

    if (!c->enroll_listen[0])
        return TIER_OK;
    if (!hub->home.tls.cert_pem)
        return tier_fail(err, TIER_ECONFIG, "enrollment is served over TLS only: set tls: on");
    TIER_TRY(tier_authority_open(c->authority_dir, &hub->authority, err));
    TIER_TRY(chain_of(hub, &tls, &chain, err));
    enum tier_status st =
        tier_rpc_server_new(hub->loop, c->enroll_listen, &tls, &hub->home.keepalive, methods,
                            sizeof methods / sizeof methods[0], hub, &hub->enrollment, err);
    free(chain);
    if (st == TIER_OK)
        tier_log_info("enrollment on port %d", tier_rpc_server_port(hub->enrollment));
    return st;
}

enum tier_status hub_enroll_reload(struct hub *hub, struct tier_err *err) {
    struct tier_rpc_tls tls;
    char *chain = NULL;

    if (!hub->enrollment)
        return TIER_OK;
    TIER_TRY(chain_of(hub, &tls, &chain, err));
    enum tier_status st = tier_rpc_server_reload(hub->enrollment, &tls, err);
    free(chain);
    return st;
}

void hub_enroll_close(struct hub *hub) {
    tier_rpc_server_free(hub->enrollment);
    tier_authority_close(hub->authority);
    hub->enrollment = NULL;
    hub->authority = NULL;
}
