/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/enroll.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/rpc.h"
#include "tier/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLY_BYTES_MAX 65536

struct attempt {
    const char *token;
    bool over;
    struct tier_err result;
    char *cert_pem, *ca_pem;
};

/* The chain is the server's certificate, then the authority's: the one the token names. */
static enum tier_status verify_chain(void *arg, const char *chain, struct tier_err *err) {
    static const char end[] = "-----END CERTIFICATE-----";
    const struct attempt *a = arg;
    struct tier_cert *leaf = NULL, *ca = NULL;
    struct tier_identity id;
    enum tier_status st;

    const char *cut = strstr(chain, end);
    if (!cut || !(cut = strchr(cut, '\n')) || !strstr(cut, end))
        return tier_fail(err, TIER_EIDENTITY,
                         "the enrollment service did not send its authority's certificate");
    char *leaf_pem = strndup(chain, (size_t)(cut + 1 - chain));
    const char *ca_begin = cut + 1;
    const char *ca_end = strstr(ca_begin, end) + sizeof end - 1;
    char *ca_pem = NULL;
    if (leaf_pem && asprintf(&ca_pem, "%.*s\n", (int)(ca_end - ca_begin), ca_begin) < 0)
        ca_pem = NULL;
    if (!ca_pem) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a certificate chain");
        goto out;
    }
    TIER_TRY_OUT(tier_token_check_ca(a->token, ca_pem, err));
    TIER_TRY_OUT(tier_cert_from_pem(ca_pem, &ca, err));
    TIER_TRY_OUT(tier_cert_from_pem(leaf_pem, &leaf, err));
    TIER_TRY_OUT(tier_cert_verify(leaf, ca, tier_wall_ms() / 1000, &id, err));
    if (id.role != TIER_ROLE_TOP && id.role != TIER_ROLE_HUB)
        st = tier_fail(err, TIER_EIDENTITY, "the enrollment service is run by '%s', a %s", id.name,
                       tier_role_text(id.role));
out:
    tier_cert_free(leaf);
    tier_cert_free(ca);
    free(leaf_pem);
    free(ca_pem);
    return st;
}

static void answered(void *arg, const struct tier_err *result, const uint8_t *bytes, size_t n) {
    struct attempt *a = arg;

    a->over = true;
    a->result = *result;
    if (result->status == TIER_OK)
        tier_wire_enroll_reply(bytes, n, &a->cert_pem, &a->ca_pem, &a->result);
}

static bool is_over(void *arg) {
    return ((struct attempt *)arg)->over;
}

static enum tier_status exchange(struct attempt *a, const char *address, const char *csr_pem,
                                 uint64_t timeout_ms, struct tier_err *err) {
    struct tier_loop *loop = NULL;
    struct tier_rpc_channel *channel = NULL;
    const struct tier_rpc_tls tls = {.verify_chain = verify_chain, .verify_arg = a};
    enum tier_status st;

    TIER_TRY(tier_loop_new(&loop, err));
    TIER_TRY_OUT(tier_rpc_channel_new(loop, address, "authority", "", &tls, NULL, &channel, err));
    struct tier_bytes b = tier_wire_enroll_request_bytes(a->token, csr_pem);
    tier_rpc_ask(channel, TIER_PATH_ENROLL, b.data, b.n, REPLY_BYTES_MAX, timeout_ms, answered, a);
    explicit_bzero(b.data, b.n);
    free(b.data);
    tier_loop_run_until(loop, is_over, a, timeout_ms + 1000);
    if (!a->over)
        st = tier_fail(err, TIER_ETIMEOUT, "no answer from %s", address);
    else if (a->result.status != TIER_OK)
        st = tier_fail(err, a->result.status, "%s: %s", address, a->result.text);
out:
    tier_rpc_channel_free(channel);
    tier_loop_free(loop);
    return st;
}

enum tier_status tier_enroll(const char *address, const char *token, const char *name,
                             enum tier_role role, const char *data_dir, uint64_t timeout_ms,
                             struct tier_err *err) {
    struct attempt a = {.token = token};
    struct tier_token parsed;
    struct tier_key *key = NULL;
    char *csr_pem = NULL;
    enum tier_status st;

    TIER_TRY(tier_token_parse(token, &parsed, err));
    TIER_TRY(tier_name_check("the node name", name, err));
    TIER_TRY_OUT(tier_identity_prepare(data_dir, &key, err));
    TIER_TRY_OUT(tier_csr_new(key, name, role, &csr_pem, err));
    TIER_TRY_OUT(exchange(&a, address, csr_pem, timeout_ms, err));
    TIER_TRY_OUT(tier_token_check_ca(token, a.ca_pem, err));
    TIER_TRY_OUT(tier_identity_store(data_dir, a.cert_pem, a.ca_pem, tier_wall_ms() / 1000, err));
out:
    tier_key_free(key);
    free(csr_pem);
    free(a.cert_pem);
    free(a.ca_pem);
    return st;
}

/* ---- without a network ---- */

enum tier_status tier_enroll_local(struct tier_authority *a, const char *name, enum tier_role role,
                                   const char *data_dir, bool replace, int64_t now_s,
                                   struct tier_err *err) {
    char token[TIER_TOKEN_SIZE] = "", *csr = NULL, *cert = NULL, *ca = NULL;
    struct tier_key *key = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_authority_token_create(a, name, role, 600, replace, now_s, token, err));
    TIER_TRY_OUT(tier_identity_prepare(data_dir, &key, err));
    TIER_TRY_OUT(tier_csr_new(key, name, role, &csr, err));
    TIER_TRY_OUT(tier_authority_enroll(a, token, csr, now_s, &cert, &ca, err));
    TIER_TRY_OUT(tier_identity_store(data_dir, cert, ca, now_s, err));
out:
    explicit_bzero(token, sizeof token);
    tier_key_free(key);
    free(csr);
    free(cert);
    free(ca);
    return st;
}
