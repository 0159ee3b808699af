/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One timer, asked every second: by the wall clock, because that is what certificates go by, and
 * because a machine that slept must notice. Nodes that were enrolled together do not come back
 * together: each adds up to a twelfth of the life at random.
 */
#include "tier/renewal.h"
#include "tier/cert.h"
#include "tier/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TICK_MS 1000
#define ASK_MS 30000
#define REPLY_BYTES_MAX 65536
#define PAUSE_S_MAX 600
#define REFRESH_S 60 /* so long the stream waits for what is on its way */

struct tier_renewal {
    struct tier_renewal_options o;
    struct tier_timer *tick;
    int64_t due_s;
    int64_t refresh_by_s;
    bool asking;
    char last_reason[512]; /* a reason is logged once, not at every attempt */
};

int64_t tier_renewal_due_s(const struct tier_identity *id) {
    int64_t issued_s = id->not_before_s + TIER_CERT_BACKDATE_S;
    int64_t life_s = id->not_after_s > issued_s ? id->not_after_s - issued_s : 0;
    return issued_s + life_s * 2 / 3;
}

static int64_t life_s(const struct tier_identity *id) {
    return (id->not_after_s - tier_renewal_due_s(id)) * 3;
}

static void schedule(struct tier_renewal *r) {
    const struct tier_identity *id = &r->o.home->node.id;
    int64_t spread_s = life_s(id) / 12;
    uint32_t random = 0;

    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = (uint32_t)tier_clock_ms();
    r->due_s = tier_renewal_due_s(id) + (spread_s > 0 ? random % spread_s : 0);
}

enum tier_status tier_renewal_request(const struct tier_node *node, struct tier_renew_request *out,
                                      struct tier_err *err) {
    struct tier_renew_request m = {0};
    char *text = NULL;
    enum tier_status st;

    _Static_assert(sizeof m.signature >= TIER_SIGNATURE_BYTES_MAX, "it holds a signature");
    TIER_TRY_OUT(tier_csr_new(node->key, node->id.name, node->id.role, &m.csr_pem, err));
    TIER_TRY_OUT(tier_renewal_text(m.csr_pem, &text, err));
    TIER_TRY_OUT(
        tier_key_sign(node->key, text, strlen(text), m.signature, &m.signature_bytes, err));
    m.cert_pem = strdup(node->cert_pem);
    if (!m.cert_pem)
        st = tier_fail(err, TIER_ENOMEM, "no memory for a renewal");
    else
        *out = m;
out:
    free(text);
    if (st != TIER_OK)
        tier_wire_renew_request_release(&m);
    return st;
}

static void failed(struct tier_renewal *r, const struct tier_err *err) {
    const struct tier_identity *id = &r->o.home->node.id;
    int64_t now_s = tier_wall_ms() / 1000, pause_s = life_s(id) / 60;

    pause_s = pause_s < 1 ? 1 : pause_s > PAUSE_S_MAX ? PAUSE_S_MAX : pause_s;
    r->due_s = now_s + pause_s;
    if (strcmp(err->text, r->last_reason) == 0)
        return;
    snprintf(r->last_reason, sizeof r->last_reason, "%s", err->text);
    tier_log_warn(
        "the certificate could not be renewed, it is good for another %lld s; asked again "
        "in %lld s: %s",
        (long long)(id->not_after_s - now_s), (long long)pause_s, err->text);
}

static void got(struct tier_renewal *r, const char *cert_pem, const char *ca_pem) {
    struct tier_home *home = r->o.home;
    struct tier_err err = {0};
    enum tier_status st = tier_home_renew(home, cert_pem, ca_pem, &err);

    if (st == TIER_OK && r->o.link)
        st = tier_link_reload(r->o.link, tier_home_tls(home), &err);
    if (st != TIER_OK) {
        failed(r, &err);
        return;
    }
    int64_t now_s = tier_wall_ms() / 1000;
    tier_log_info("the certificate is renewed: good for another %lld s",
                  (long long)(home->node.id.not_after_s - now_s));
    r->last_reason[0] = '\0';
    r->refresh_by_s = now_s + REFRESH_S;
    schedule(r);
    r->o.events->renewed(r->o.owner);
}

static void answered(void *arg, const struct tier_err *result, const uint8_t *bytes, size_t n) {
    struct tier_renewal *r = arg;
    struct tier_err err = *result;
    char *cert_pem = NULL, *ca_pem = NULL;

    r->asking = false;
    if (err.status == TIER_OK &&
        tier_wire_enroll_reply(bytes, n, &cert_pem, &ca_pem, &err) == TIER_OK)
        got(r, cert_pem, ca_pem);
    else
        failed(r, &err);
    free(cert_pem);
    free(ca_pem);
}

static void ask(struct tier_renewal *r) {
    struct tier_renew_request m = {0};
    struct tier_err err = {0};
    char *cert_pem = NULL, *ca_pem = NULL;
    enum tier_status st = tier_renewal_request(&r->o.home->node, &m, &err);

    if (st == TIER_OK && r->o.authority) {
        st = tier_authority_renew(r->o.authority, m.cert_pem, m.csr_pem, m.signature,
                                  m.signature_bytes, tier_wall_ms() / 1000, &cert_pem, &ca_pem,
                                  &err);
        if (st == TIER_OK)
            got(r, cert_pem, ca_pem);
    } else if (st == TIER_OK && r->o.link) {
        struct tier_bytes b = tier_wire_renew_request_bytes(&m);
        r->asking = true;
        tier_rpc_ask(tier_link_channel(r->o.link), TIER_PATH_RENEW, b.data, b.n, REPLY_BYTES_MAX,
                     ASK_MS, answered, r);
        free(b.data);
    } else if (st == TIER_OK) {
        st = tier_fail(&err, TIER_EUNAVAILABLE,
                       "no authority beside this node (authority_dir): enroll it anew before then");
    }
    if (st != TIER_OK)
        failed(r, &err);
    tier_wire_renew_request_release(&m);
    free(cert_pem);
    free(ca_pem);
}

static void tick(void *arg) {
    struct tier_renewal *r = arg;
    int64_t now_s = tier_wall_ms() / 1000;
    char why[256];

    if (!r->asking && now_s >= r->due_s)
        ask(r);
    if (r->o.link)
        tier_link_refresh(r->o.link, now_s >= r->refresh_by_s);
    if (tier_home_revocations_overdue(r->o.home, now_s, why, sizeof why)) {
        tier_log_warn("%s", why);
        r->o.events->overdue(r->o.owner, why);
    }
    tier_timer_set(r->tick, TICK_MS);
}

enum tier_status tier_renewal_new(const struct tier_renewal_options *options,
                                  struct tier_renewal **out, struct tier_err *err) {
    *out = NULL;
    if (!tier_home_tls(options->home))
        return TIER_OK;
    struct tier_renewal *r = calloc(1, sizeof *r);
    if (!r)
        return tier_fail(err, TIER_ENOMEM, "no memory for renewals");
    r->o = *options;
    schedule(r);
    r->tick = tier_timer_new(options->loop, tick, r);
    tier_timer_set(r->tick, TICK_MS);
    *out = r;
    return TIER_OK;
}

void tier_renewal_free(struct tier_renewal *r) {
    if (!r)
        return;
    tier_timer_free(r->tick);
    free(r);
}
