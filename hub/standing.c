/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who still stands: what a hub does about certificates while it runs. The one with the authority
 * beside it looks every second whether there is a new list of the revoked; every hub passes a list
 * on to all its children at once and ends the calls of those who are on it, whatever they were
 * doing. Renewals that the authority is not here for go up, word for word.
 */
#include "hub/hub.h"
#include "hub/secure.h"
#include "tier/cert.h"
#include "tier/log.h"
#include "tier/pseudonym.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS 1000
#define RECHECK_TICKS 5 /* certificates run out while their streams are open */
#define RENEWALS_MAX 64
#define REPLY_BYTES_MAX 65536
#define RELAY_MS 25000 /* less than the child waits: it hears why */

/* ---- revocations ---- */

static void recheck(struct hub *hub) {
    tier_serve_recheck(hub->serve);
    if (hub->console)
        tier_rpc_server_recheck(hub->console);
    if (hub->link)
        tier_link_recheck(hub->link);
}

static struct tier_to_child list_message(const struct hub *hub) {
    struct tier_to_child m = {.type = TIER_TO_REVOCATIONS};
    m.crl = tier_revocations_bytes(hub->home.revoked, &m.crl_bytes);
    return m;
}

void hub_revocations_tell(struct hub *hub, const char *child) {
    if (!hub->home.revoked)
        return;
    struct tier_to_child m = list_message(hub);
    tier_serve_send(hub->serve, child, &m);
}

enum tier_status hub_revocations_came(struct hub *hub, const uint8_t *der, size_t bytes,
                                      struct tier_err *err) {
    bool taken = false;

    TIER_TRY(tier_home_take_revocations(&hub->home, der, bytes, &taken, err));
    if (!taken)
        return TIER_OK;
    const struct tier_revocations *list = hub->home.revoked;
    tier_log_info("revocation list %llu: %zu certificates",
                  (unsigned long long)tier_revocations_number(list), tier_revocations_count(list));
    hub_audit(hub, "revocations.taken", "u:number", tier_revocations_number(list), "u:count",
              (uint64_t)tier_revocations_count(list));
    if (tier_revocations_has(list, hub->home.node.id.serial))
        tier_log_error("this node's own certificate is revoked: nobody takes it any more");
    struct tier_to_child m = list_message(hub);
    tier_serve_send_all(hub->serve, &m);
    recheck(hub);
    hub_run_check_signers(hub);
    return TIER_OK;
}

static void ask_authority(struct hub *hub) {
    uint64_t known = hub->home.revoked ? tier_revocations_number(hub->home.revoked) : 0;
    struct tier_err err = {0};
    uint8_t *der = NULL;
    size_t bytes = 0;
    enum tier_status st = tier_authority_revocations(hub->authority, known, tier_wall_ms() / 1000,
                                                     &der, &bytes, &err);

    if (st == TIER_OK && der)
        st = hub_revocations_came(hub, der, bytes, &err);
    free(der);
    if (st != TIER_OK && !hub->authority_mute) /* once, until it answers again */
        tier_log_error("the authority's revocation list: %s", err.text);
    hub->authority_mute = st != TIER_OK;
}

static void tick(void *arg) {
    struct hub *hub = arg;

    if (hub->authority)
        ask_authority(hub);
    if (++hub->ticks % RECHECK_TICKS == 0)
        recheck(hub);
    tier_timer_set(hub->standing, TICK_MS);
}

/* ---- this node's own certificate ---- */

static void renewed(void *owner) {
    struct hub *hub = owner;
    const struct tier_rpc_tls *tls = tier_home_tls(&hub->home);
    struct tier_err err = {0};
    enum tier_status st = tier_serve_reload(hub->serve, tls, &err);

    if (st == TIER_OK && hub->console)
        st = tier_rpc_server_reload(hub->console, tls, &err);
    if (st == TIER_OK)
        st = hub_enroll_reload(hub, &err);
    if (st != TIER_OK)
        hub_stop_on(hub, &err);
    hub_audit(hub, "certificate.renewed", "s:serial", hub->home.node.id.serial);
}

static void overdue(void *owner, const char *why) {
    hub_audit((struct hub *)owner, "revocations.overdue", "s:why", why);
}

static const struct tier_renewal_events renewal_events = {.renewed = renewed, .overdue = overdue};

enum tier_status hub_standing_open(struct hub *hub, struct tier_err *err) {
    const struct tier_renewal_options options = {.loop = hub->loop,
                                                 .home = &hub->home,
                                                 .link = hub->link,
                                                 .authority = hub->authority,
                                                 .events = &renewal_events,
                                                 .owner = hub};
    if (!tier_home_tls(&hub->home))
        return TIER_OK;
    hub->standing = tier_timer_new(hub->loop, tick, hub);
    tier_timer_set(hub->standing, 0);
    return tier_renewal_new(&options, &hub->renewal, err);
}

void hub_standing_close(struct hub *hub) {
    tier_timer_free(hub->standing);
    tier_renewal_free(hub->renewal);
    hub->standing = NULL;
    hub->renewal = NULL;
}

/* ---- renewals of those below ---- */

struct renewing;
/* What is asked of the authority: a renewal, or a pseudonym. */
struct asked {
    const char *path, *what, *refused; /* "a renewal", "renew.refused" */
    enum tier_status (*check)(struct renewing *r, const uint8_t *bytes, size_t n,
                              struct tier_err *err);
    enum tier_status (*here)(struct renewing *r, const uint8_t *bytes, size_t n,
                             struct tier_err *err);
};

/* A call for one; where it was passed on, until both it and the question above are over. */
struct renewing {
    const struct asked *asks;
    struct hub *hub;
    struct tier_rpc_call *call; /* NULL once it is closed */
    bool asked;
    bool names; /* the answer says what a child of this hub is called: */
    struct hub_secure_name name;
};

static void refuse(struct renewing *r, const struct tier_err *err) {
    const char *from = tier_rpc_peer_address(r->call);

    tier_log_warn("%s for %s was refused: %s", r->asks->what, from, err->text);
    hub_audit(r->hub, r->asks->refused, "s:from", from, "s:reason", err->text);
    tier_rpc_finish(r->call, err->status, err->text);
}

static void above_answered(void *arg, const struct tier_err *result, const uint8_t *bytes,
                           size_t n) {
    struct renewing *r = arg;

    r->hub->renewals--;
    r->asked = false;
    if (!r->call) {
        free(r);
    } else if (result->status != TIER_OK) {
        refuse(r, result);
    } else {
        if (r->names) /* it advertises once it has the answer */
            hub_secure_named(r->hub, &r->name);
        tier_rpc_send(r->call, bytes, n);
        tier_rpc_finish(r->call, TIER_OK, "");
    }
}

static enum tier_status ask_above(struct renewing *r, const uint8_t *bytes, size_t n,
                                  struct tier_err *err) {
    struct hub *hub = r->hub;

    if (!hub->link)
        return tier_fail(err, TIER_EUNAVAILABLE,
                         "no authority beside the top (authority_dir): enroll anew before this "
                         "certificate ends");
    if (hub->renewals >= RENEWALS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%d renewals are on their way: come back later",
                         RENEWALS_MAX);
    r->asked = true;
    hub->renewals++;
    tier_rpc_ask(tier_link_channel(hub->link), r->asks->path, bytes, n, REPLY_BYTES_MAX, RELAY_MS,
                 above_answered, r);
    return TIER_OK;
}

static void audit_renewal(const struct renewing *r, const char *cert_pem) {
    struct tier_cert *cert = NULL;
    struct tier_identity id = {.name = ""};

    if (tier_cert_from_pem(cert_pem, &cert, NULL) == TIER_OK)
        (void)tier_cert_identity(cert, &id, NULL); /* it was made here a moment ago */
    tier_cert_free(cert);
    hub_audit(r->hub, "renew.done", "s:name", id.name, "s:serial", id.serial, "s:from",
              tier_rpc_peer_address(r->call));
}

static void answer(struct renewing *r, char *cert, char *ca) {
    struct tier_bytes reply = tier_wire_enroll_reply_bytes(cert, ca);

    tier_rpc_send(r->call, reply.data, reply.n);
    tier_rpc_finish(r->call, TIER_OK, "");
    free(reply.data);
    free(cert);
    free(ca);
}

static enum tier_status renew_here(struct renewing *r, const uint8_t *bytes, size_t n,
                                   struct tier_err *err) {
    struct tier_renew_request m = {0};
    char *cert = NULL, *ca = NULL;

    TIER_TRY(tier_wire_renew_request(bytes, n, &m, err));
    enum tier_status st =
        tier_authority_renew(r->hub->authority, m.cert_pem, m.csr_pem, m.signature,
                             m.signature_bytes, tier_wall_ms() / 1000, &cert, &ca, err);
    if (st == TIER_OK) {
        audit_renewal(r, cert);
        answer(r, cert, ca);
    }
    tier_wire_renew_request_release(&m);
    return st;
}

/* Whose it is, and what it is called, the log does not say: it is there to be shown. */
static enum tier_status pseudonym_here(struct renewing *r, const uint8_t *bytes, size_t n,
                                       struct tier_err *err) {
    struct tier_pseudonym_ask m = {0};
    char *cert = NULL, *ca = NULL;

    TIER_TRY(tier_wire_pseudonym(bytes, n, &m, err));
    const struct hub_run *run = hub_run_find(r->hub, &m.run);
    enum tier_status st =
        run && run->state == HUB_RUN_OPEN
            ? tier_authority_pseudonym(r->hub->authority, &m, tier_wall_ms() / 1000, &cert, &ca,
                                       err)
            : tier_fail(err, TIER_ENOTFOUND, "a pseudonym for a run that is not open here");
    if (st == TIER_OK) {
        hub_audit(r->hub, "pseudonym.given", "h:run", &m.run, "s:parent", m.parent);
        if (r->names)
            hub_secure_named(r->hub, &r->name);
        answer(r, cert, ca);
    }
    tier_pseudonym_ask_release(&m);
    return st;
}

/* What goes up is well-formed. */
static enum tier_status check_renewal(struct renewing *r, const uint8_t *bytes, size_t n,
                                      struct tier_err *err) {
    struct tier_renew_request m = {0};
    enum tier_status st = tier_wire_renew_request(bytes, n, &m, err);
    (void)r;
    tier_wire_renew_request_release(&m);
    return st;
}

static enum tier_status check_pseudonym(struct renewing *r, const uint8_t *bytes, size_t n,
                                        struct tier_err *err) {
    struct tier_pseudonym_ask m = {0};
    enum tier_status st = tier_wire_pseudonym(bytes, n, &m, err);
    r->names = st == TIER_OK && hub_secure_asked(r->hub, &m, &r->name);
    tier_pseudonym_ask_release(&m);
    return st;
}

static const struct asked renewal = {TIER_PATH_RENEW, "a renewal", "renew.refused", check_renewal,
                                     renew_here};
static const struct asked pseudonym = {TIER_PATH_PSEUDONYM, "a pseudonym", "pseudonym.refused",
                                       check_pseudonym, pseudonym_here};

static void opened(struct tier_rpc_call *call, const struct asked *asks) {
    struct renewing *r = calloc(1, sizeof *r);
    if (!r)
        abort();
    r->asks = asks;
    r->hub = tier_serve_owner(tier_rpc_user(call));
    r->call = call;
    tier_rpc_set_user(call, r);
    tier_rpc_read(call);
}

static void renew_opened(struct tier_rpc_call *call) {
    opened(call, &renewal);
}

static void pseudonym_opened(struct tier_rpc_call *call) {
    opened(call, &pseudonym);
}

static void renew_message(struct tier_rpc_call *call, struct tier_rpc_message *message) {
    struct renewing *r = tier_rpc_user(call);
    struct tier_err err = {0};
    size_t n = tier_rpc_message_bytes(message);
    const uint8_t *bytes = tier_rpc_message_flat(message, TIER_RENEW_BYTES_MAX);
    enum tier_status st =
        bytes ? TIER_OK : tier_fail(&err, TIER_ELIMIT, "%s of %zu bytes", r->asks->what, n);

    if (st == TIER_OK)
        st = r->asks->check(r, bytes, n, &err);
    if (st == TIER_OK)
        st = r->hub->authority ? r->asks->here(r, bytes, n, &err) : ask_above(r, bytes, n, &err);
    if (st != TIER_OK)
        refuse(r, &err);
}

static void renew_half_closed(struct tier_rpc_call *call) {
    struct renewing *r = tier_rpc_user(call);
    if (!r->asked)
        tier_rpc_finish(call, TIER_EPROTO, "nothing was asked for");
}

static void renew_closed(struct tier_rpc_call *call, enum tier_status status, const char *text) {
    struct renewing *r = tier_rpc_user(call);
    (void)status;
    (void)text;
    r->call = NULL;
    if (!r->asked)
        free(r);
}

static const struct tier_rpc_handler renew_handler = {.opened = renew_opened,
                                                      .message = renew_message,
                                                      .half_closed = renew_half_closed,
                                                      .closed = renew_closed};
static const struct tier_rpc_handler pseudonym_handler = {.opened = pseudonym_opened,
                                                          .message = renew_message,
                                                          .half_closed = renew_half_closed,
                                                          .closed = renew_closed};
const struct tier_rpc_method hub_authority_methods[HUB_AUTHORITY_METHODS] = {
    {TIER_PATH_RENEW, &renew_handler}, {TIER_PATH_PSEUDONYM, &pseudonym_handler}};
