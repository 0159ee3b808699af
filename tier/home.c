/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/home.h"
#include "tier/cert.h"
#include "tier/content.h"
#include "tier/key_file.h"
#include "tier/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define REVOCATIONS_KEY "revocations" /* in the journal: the newest list, DER */

static enum tier_status make_dir(const char *path, struct tier_err *err) {
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make the directory %s", path);
    return TIER_OK;
}

static void use_node(struct tier_home *h) {
    h->tls = (struct tier_rpc_tls){
        .ca_pem = h->node.ca_pem, .cert_pem = h->node.cert_pem, .key_pem = h->node.key_pem};
}

static enum tier_status open_identity(struct tier_home *h, struct tier_err *err) {
    const struct tier_config *c = h->config;

    if (!c->tls)
        return TIER_OK;
    TIER_TRY(tier_identity_load(c->data_dir, tier_wall_ms() / 1000, &h->node, err));
    if (tier_key_file_sealing() && tier_identity_is_plain(c->data_dir))
        tier_log_warn("the private key in %s/identity is not encrypted, though a passphrase is "
                      "given: consilium key protect",
                      c->data_dir);
    if (strcmp(h->node.id.name, c->name) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the configuration names this node '%s', but its certificate in "
                         "%s/identity is for '%s'",
                         c->name, c->data_dir, h->node.id.name);
    if ((int)h->node.id.role != c->role)
        return tier_fail(err, TIER_EIDENTITY,
                         "this node is started as a %s, but its certificate in %s/identity is that "
                         "of a %s: enroll it again with --role %s",
                         tier_role_text((enum tier_role)c->role), c->data_dir,
                         tier_role_text(h->node.id.role), tier_role_text((enum tier_role)c->role));
    use_node(h);
    return TIER_OK;
}

/* A list of another authority than the node's, which was enrolled anew, means nothing any more. */
static enum tier_status open_revocations(struct tier_home *h, struct tier_err *err) {
    struct tier_journal_blob blob = {0};
    struct tier_err why = {0};

    if (!h->config->tls)
        return TIER_OK;
    enum tier_status st = tier_journal_kv_get(h->journal, REVOCATIONS_KEY, &blob, err);
    if (st == TIER_ENOTFOUND)
        return TIER_OK;
    TIER_TRY(st);
    if (tier_revocations_read(blob.data, blob.bytes, h->node.ca, &h->revoked, &why) != TIER_OK)
        tier_log_warn("the revocation list that was kept here is left out: %s", why.text);
    tier_journal_blob_release(&blob);
    return TIER_OK;
}

static enum tier_status open_all(struct tier_home *h, struct tier_err *err) {
    const struct tier_config *c = h->config;
    char path[TIER_CONFIG_PATH_BYTES + 16];
    bool strict = c->kind == TIER_CONFIG_HUB && c->hub.durability == TIER_DURABILITY_STRICT;

    TIER_TRY(make_dir(c->data_dir, err));
    TIER_TRY(open_identity(h, err));
    TIER_TRY(tier_vault_open(c->data_dir, c->storage_encrypt, &h->vault, err));
    snprintf(h->models_dir, sizeof h->models_dir, "%s/models", c->data_dir);
    TIER_TRY(make_dir(h->models_dir, err));
    TIER_TRY(tier_content_sweep(h->models_dir, err));
    snprintf(h->retained_dir, sizeof h->retained_dir, "%s/" TIER_RETAINED_DIR, c->data_dir);
    TIER_TRY(make_dir(h->retained_dir, err));
    snprintf(h->quarantine_dir, sizeof h->quarantine_dir, "%s/" TIER_QUARANTINE_DIR, c->data_dir);
    if (c->kind == TIER_CONFIG_HUB)
        TIER_TRY(make_dir(h->quarantine_dir, err));
    snprintf(path, sizeof path, "%s/journal.db", c->data_dir);
    TIER_TRY(tier_journal_open(path, &h->journal, err));
    TIER_TRY(open_revocations(h, err));
    TIER_TRY(tier_audit_open(c->data_dir, c->name, TIER_AUDIT_SYNC_NEVER, tier_wall_ms(), &h->audit,
                             err));
    snprintf(path, sizeof path, "%s/spool", c->data_dir);
    return tier_spool_open(path, strict, &h->spool, err);
}

enum tier_status tier_home_open(const struct tier_config *config, struct tier_home *out,
                                struct tier_err *err) {
    memset(out, 0, sizeof *out);
    out->config = config;
    out->keepalive = (struct tier_rpc_keepalive){(uint32_t)config->keepalive_ms,
                                                 (uint32_t)config->keepalive_timeout_ms};
    enum tier_status st = open_all(out, err);
    if (st != TIER_OK)
        tier_home_close(out);
    return st;
}

void tier_home_close(struct tier_home *h) {
    tier_spool_close(h->spool);
    tier_audit_close(h->audit);
    tier_journal_close(h->journal);
    tier_identity_release(&h->node);
    tier_revocations_free(h->revoked);
    tier_vault_close(h->vault);
    tier_tpm_close(h->tpm);
    memset(h, 0, sizeof *h);
}

const struct tier_rpc_tls *tier_home_tls(const struct tier_home *h) {
    return h->tls.cert_pem ? &h->tls : NULL;
}

/* ---- who is still good ---- */

enum tier_status tier_home_take_revocations(struct tier_home *h, const uint8_t *der, size_t bytes,
                                            bool *taken_out, struct tier_err *err) {
    struct tier_revocations *list = NULL;
    enum tier_status st = TIER_OK;

    if (!h->node.ca)
        return tier_fail(err, TIER_EPROTO, "a revocation list, where there are no certificates");
    TIER_TRY(tier_revocations_read(der, bytes, h->node.ca, &list, err));
    uint64_t number = tier_revocations_number(list);
    uint64_t known = h->revoked ? tier_revocations_number(h->revoked) : 0;
    if (number < known)
        st = tier_fail(err, TIER_ELATE,
                       "revocation list %llu is older than %llu, which is known here",
                       (unsigned long long)number, (unsigned long long)known);
    if (number > known)
        st = tier_journal_kv_put(h->journal, REVOCATIONS_KEY, der, bytes, err);
    if (st != TIER_OK || number <= known) {
        tier_revocations_free(list);
    } else {
        tier_revocations_free(h->revoked);
        h->revoked = list;
        h->overdue = false;
    }
    if (st == TIER_OK)
        *taken_out = number > known;
    return st;
}

enum tier_status tier_home_admit(void *home, struct tier_rpc_call *call, struct tier_err *err) {
    const struct tier_home *h = home;
    const struct tier_identity *id = NULL;

    if (!h->tls.cert_pem)
        return TIER_OK;
    TIER_TRY(tier_rpc_peer_identity(call, &id, err));
    if (tier_revocations_has(h->revoked, id->serial))
        return tier_fail(
            err, TIER_EIDENTITY, "the certificate of '%s' was revoked (list %llu of authority %s)",
            id->name, (unsigned long long)tier_revocations_number(h->revoked), id->authority);
    if (tier_wall_ms() / 1000 > id->not_after_s)
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate of '%s' has expired: a node renews it in time, or "
                         "enrolls anew",
                         id->name);
    return TIER_OK;
}

bool tier_home_revocations_overdue(struct tier_home *h, int64_t now_s, char *why, size_t size) {
    if (!h->revoked || h->overdue || now_s <= tier_revocations_next_s(h->revoked))
        return false;
    snprintf(why, size,
             "revocation list %llu is %lld s past the time at which a newer one was due: who was "
             "revoked since is not known here; is the authority's hub reached?",
             (unsigned long long)tier_revocations_number(h->revoked),
             (long long)(now_s - tier_revocations_next_s(h->revoked)));
    return h->overdue = true;
}

enum tier_status tier_home_renew(struct tier_home *h, const char *cert_pem, const char *ca_pem,
                                 struct tier_err *err) {
    int64_t now_s = tier_wall_ms() / 1000;
    struct tier_node node = {0};

    if (strcmp(ca_pem, h->node.ca_pem) != 0)
        return tier_fail(err, TIER_EIDENTITY, "another authority's certificate came with it");
    TIER_TRY(tier_identity_store(h->config->data_dir, cert_pem, ca_pem, now_s, err));
    TIER_TRY(tier_identity_load(h->config->data_dir, now_s, &node, err));
    tier_identity_release(&h->node);
    h->node = node;
    use_node(h);
    return TIER_OK;
}

enum tier_status tier_home_sign(const struct tier_home *h, struct tier_receipt *r,
                                struct tier_err *err) {
    char text[512];

    r->signature_bytes = 0;
    if (!h->node.key)
        return TIER_OK;
    static_assert(sizeof r->signature >= TIER_SIGNATURE_BYTES_MAX, "a receipt holds a signature");
    size_t n = tier_receipt_text(r, text, sizeof text);
    return tier_key_sign(h->node.key, text, n, r->signature, &r->signature_bytes, err);
}

static enum tier_status check_update(const struct tier_home *h, const struct tier_receipt *r,
                                     struct tier_err *err) {
    struct tier_update *u = NULL;

    if (tier_spool_update_open(h->spool, &r->update, &u, NULL) != TIER_OK)
        return TIER_OK; /* counted and gone: there is nothing to compare with */
    const struct tier_update_header *own = tier_spool_update_header(u);
    bool same =
        tier_hash_equal(&own->run, &r->run) && own->round == r->round && own->weight == r->weight;
    tier_spool_update_close(u);
    return same ? TIER_OK
                : tier_fail(err, TIER_EPROTO,
                            "it is for another run, round or weight than the update has");
}

enum tier_status tier_home_check_receipt(const struct tier_home *h, const char *parent_cert_pem,
                                         const struct tier_receipt *r, struct tier_err *err) {
    struct tier_cert *cert = NULL;
    char text[512];

    if (strcmp(r->child, h->config->name) != 0 || strcmp(r->parent, h->config->parent_name) != 0)
        return tier_fail(err, TIER_EIDENTITY, "it is from '%s' to '%s'; from '%s' to '%s' is right",
                         r->parent, r->child, h->config->parent_name, h->config->name);
    TIER_TRY(check_update(h, r, err));
    if (!h->config->tls)
        return TIER_OK;
    size_t n = tier_receipt_text(r, text, sizeof text);
    enum tier_status st = tier_cert_from_pem(parent_cert_pem, &cert, err);
    if (st == TIER_OK)
        st = tier_cert_check_signature(cert, text, n, r->signature, r->signature_bytes, err);
    tier_cert_free(cert);
    return st;
}
