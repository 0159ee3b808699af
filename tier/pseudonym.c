/* SPDX-License-Identifier: Apache-2.0 */
/* A name that is the hash of its key needs nobody to give it out, cannot be taken by another, and
 * says nothing: so neither side has to agree with the other on one. */
#include "tier/pseudonym.h"

#include "tier/cert_private.h"
#include "tier/home.h"
#include "tier/key_file.h"
#include "tier/link.h"
#include "tier/pem_file.h"
#include "tier/wire.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define URI_MARK "/pseudonym/"
#define URI_SIZE (9 + 3 * (TIER_NAME_LEN_MAX + 1) + sizeof URI_MARK + TIER_HASH_HEX)
#define ASK_MS 30000
#define REPLY_BYTES_MAX 65536

/* ---- names ---- */

static bool name_of(EVP_PKEY *pkey, char name[TIER_NAME_LEN_MAX + 1]) {
    unsigned char *der = NULL;
    struct tier_hash hash;
    char hex[TIER_HASH_HEX];
    int bytes = i2d_PUBKEY(pkey, &der);

    if (bytes > 0) {
        tier_hash_data(der, (size_t)bytes, &hash);
        snprintf(name, TIER_NAME_LEN_MAX + 1, TIER_PSEUDONYM_PREFIX "%.*s", TIER_PSEUDONYM_DIGITS,
                 tier_hash_hex(&hash, hex));
    }
    OPENSSL_free(der);
    return bytes > 0;
}

/* "spiffe://AUTHORITY/pseudonym/NAME/PARENT/RUN", and nothing else. */
static bool read_uri(char *uri, struct tier_pseudonym_id *out) {
    static const char scheme[] = "spiffe://";
    char *part[5], *next = NULL;
    size_t count = 0;

    if (strncmp(uri, scheme, sizeof scheme - 1) != 0 || strstr(uri + sizeof scheme - 1, "//"))
        return false;
    for (char *at = strtok_r(uri + sizeof scheme - 1, "/", &next); at;
         at = strtok_r(NULL, "/", &next)) {
        if (count == 5)
            return false;
        part[count++] = at;
    }
    if (count != 5 || strcmp(part[1], "pseudonym") != 0 || !tier_name_valid(part[0]) ||
        !tier_name_valid(part[2]) || !tier_name_valid(part[3]) ||
        !tier_hash_parse(part[4], &out->run))
        return false;
    snprintf(out->authority, sizeof out->authority, "%s", part[0]);
    snprintf(out->name, sizeof out->name, "%s", part[2]);
    snprintf(out->parent, sizeof out->parent, "%s", part[3]);
    return true;
}

enum tier_status tier_pseudonym_verify(const struct tier_cert *cert, const struct tier_cert *ca,
                                       const struct tier_revocations *revoked, int64_t now_s,
                                       struct tier_pseudonym_id *out, struct tier_err *err) {
    char cn[TIER_NAME_LEN_MAX + 1], uri[URI_SIZE], authority[TIER_NAME_LEN_MAX + 1];
    char named[TIER_NAME_LEN_MAX + 1] = "";
    struct tier_pseudonym_id id = {.name = ""};
    EVP_PKEY *pkey = X509_get0_pubkey(cert->x509);

    TIER_TRY(tier_cert_authority(ca, authority, err));
    bool good = cert_read_names(cert->x509, cn, uri, sizeof uri, NULL) && read_uri(uri, &id) &&
                pkey && name_of(pkey, named) && strcmp(cn, id.name) == 0 &&
                strcmp(named, id.name) == 0 && strcmp(authority, id.authority) == 0 &&
                X509_check_ca(cert->x509) == 0 &&
                cert_serial(X509_get0_serialNumber(cert->x509), id.serial, sizeof id.serial) &&
                X509_verify(cert->x509, X509_get0_pubkey(ca->x509)) == 1;
    ERR_clear_error();
    if (!good)
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate is not a pseudonym's that this node's authority %s gave",
                         authority);
    id.not_before_s = cert_time(X509_get0_notBefore(cert->x509));
    id.not_after_s = cert_time(X509_get0_notAfter(cert->x509));
    if (now_s < id.not_before_s || now_s > id.not_after_s)
        return tier_fail(err, TIER_EIDENTITY, "the certificate of the pseudonym %s has expired%s",
                         id.name, now_s < id.not_before_s ? ", or is not valid yet" : "");
    if (tier_revocations_has(revoked, id.serial))
        return tier_fail(err, TIER_EIDENTITY, "the pseudonym %s is revoked", id.name);
    *out = id;
    return TIER_OK;
}

/* ---- asking ---- */

enum tier_status tier_pseudonym_text(const struct tier_pseudonym_ask *ask, char **text_out,
                                     struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    if (asprintf(text_out, "consilium pseudonym 1\nrun %s\nparent %s\n%s",
                 tier_hash_hex(&ask->run, hex), ask->parent, ask->csr_pem) < 0)
        return tier_fail(err, TIER_ENOMEM, "no memory for a pseudonym");
    return TIER_OK;
}

void tier_pseudonym_ask_release(struct tier_pseudonym_ask *ask) {
    free(ask->cert_pem);
    free(ask->csr_pem);
    *ask = (struct tier_pseudonym_ask){0};
}

struct place {
    char dir[PATH_MAX], key[TIER_HASH_HEX + TIER_NAME_LEN_MAX + 8];
    char cert[TIER_HASH_HEX + TIER_NAME_LEN_MAX + 8];
};

static enum tier_status place_of(const char *data_dir, const struct tier_hash *run,
                                 const char *parent, struct place *out, struct tier_err *err) {
    char hex[TIER_HASH_HEX];
    int n = snprintf(out->dir, sizeof out->dir, "%s/identity/pseudonyms", data_dir);

    if (n < 0 || (size_t)n >= sizeof out->dir)
        return tier_fail(err, TIER_EARG, "%.100s...: the path is too long", data_dir);
    TIER_TRY(tier_name_check("the parent's name", parent, err));
    tier_hash_hex(run, hex);
    snprintf(out->key, sizeof out->key, "%s-%s.key", hex, parent);
    snprintf(out->cert, sizeof out->cert, "%s-%s.pem", hex, parent);
    return TIER_OK;
}

static enum tier_status own_key(const struct place *p, struct tier_key **out,
                                struct tier_err *err) {
    struct tier_key *key = NULL;

    if (tier_pem_exists(p->dir, p->key))
        return tier_key_file_read(p->dir, p->key, out, NULL, err);
    TIER_TRY(tier_pem_dir_make(p->dir, err));
    TIER_TRY(tier_key_generate(&key, err));
    enum tier_status st = tier_key_file_write(p->dir, p->key, key, false, err);
    if (st == TIER_OK)
        *out = key;
    else
        tier_key_free(key);
    return st;
}

enum tier_status tier_pseudonym_prepare(const char *data_dir, const struct tier_node *node,
                                        const struct tier_hash *run, const char *parent,
                                        struct tier_pseudonym_ask *out, struct tier_err *err) {
    struct tier_pseudonym_ask m = {.run = *run};
    char name[TIER_NAME_LEN_MAX + 1], *text = NULL;
    struct tier_key *key = NULL;
    struct place place;
    enum tier_status st;

    _Static_assert(sizeof m.signature >= TIER_SIGNATURE_BYTES_MAX, "it holds a signature");
    TIER_TRY(place_of(data_dir, run, parent, &place, err));
    TIER_TRY(own_key(&place, &key, err));
    snprintf(m.parent, sizeof m.parent, "%s", parent);
    if (!name_of(key->pkey, name)) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a pseudonym");
        goto out;
    }
    TIER_TRY_OUT(tier_csr_new(key, name, TIER_ROLE_SPOKE, &m.csr_pem, err));
    TIER_TRY_OUT(tier_pseudonym_text(&m, &text, err));
    TIER_TRY_OUT(
        tier_key_sign(node->key, text, strlen(text), m.signature, &m.signature_bytes, err));
    m.cert_pem = strdup(node->cert_pem);
    if (!m.cert_pem) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a pseudonym");
        goto out;
    }
    *out = m;
    m = (struct tier_pseudonym_ask){0};
out:
    tier_pseudonym_ask_release(&m);
    tier_key_free(key);
    free(text);
    return st;
}

/* The certificate as one of this run and parent, for this key. */
static enum tier_status check_own(const char *cert_pem, const struct tier_key *key,
                                  const struct tier_node *node, const struct tier_hash *run,
                                  const char *parent, int64_t now_s, struct tier_pseudonym_id *id,
                                  struct tier_err *err) {
    struct tier_cert *cert = NULL;

    TIER_TRY(tier_cert_from_pem(cert_pem, &cert, err));
    enum tier_status st = tier_pseudonym_verify(cert, node->ca, NULL, now_s, id, err);
    if (st == TIER_OK && (!tier_cert_matches(cert, key) || !tier_hash_equal(&id->run, run) ||
                          strcmp(id->parent, parent) != 0))
        st = tier_fail(err, TIER_EIDENTITY,
                       "the certificate of the pseudonym %s is for another key, run or parent",
                       id->name);
    tier_cert_free(cert);
    return st;
}

enum tier_status tier_pseudonym_store(const char *data_dir, const struct tier_node *node,
                                      const struct tier_hash *run, const char *parent,
                                      const char *cert_pem, int64_t now_s, struct tier_err *err) {
    struct tier_pseudonym_id id;
    struct tier_key *key = NULL;
    struct place place;

    TIER_TRY(place_of(data_dir, run, parent, &place, err));
    TIER_TRY(tier_key_file_read(place.dir, place.key, &key, NULL, err));
    enum tier_status st = check_own(cert_pem, key, node, run, parent, now_s, &id, err);
    if (st == TIER_OK)
        st = tier_pem_write(place.dir, place.cert, cert_pem, false, true, err);
    tier_key_free(key);
    return st;
}

enum tier_status tier_pseudonym_load(const char *data_dir, const struct tier_node *node,
                                     const struct tier_hash *run, const char *parent, int64_t now_s,
                                     struct tier_pseudonym *out, struct tier_err *err) {
    struct tier_pseudonym p = {.run = *run};
    struct tier_pseudonym_id id;
    struct place place;
    enum tier_status st;

    TIER_TRY(place_of(data_dir, run, parent, &place, err));
    TIER_TRY(tier_pem_read(place.dir, place.cert, false, &p.cert_pem, err));
    TIER_TRY_OUT(tier_key_file_read(place.dir, place.key, &p.key, NULL, err));
    TIER_TRY_OUT(check_own(p.cert_pem, p.key, node, run, parent, now_s, &id, err));
    memcpy(p.name, id.name, sizeof p.name);
    memcpy(p.parent, id.parent, sizeof p.parent);
    p.not_before_s = id.not_before_s;
    p.not_after_s = id.not_after_s;
    *out = p;
    p = (struct tier_pseudonym){.key = NULL};
out:
    tier_pseudonym_release(&p);
    return st;
}

void tier_pseudonym_release(struct tier_pseudonym *p) {
    tier_key_free(p->key);
    free(p->cert_pem);
    *p = (struct tier_pseudonym){.key = NULL};
}

void tier_pseudonym_forget(const char *data_dir, const struct tier_hash *run, const char *parent) {
    char path[PATH_MAX + sizeof(struct place)];
    struct place place;

    if (place_of(data_dir, run, parent, &place, NULL) != TIER_OK)
        return;
    snprintf(path, sizeof path, "%s/%s", place.dir, place.key);
    unlink(path);
    snprintf(path, sizeof path, "%s/%s", place.dir, place.cert);
    unlink(path);
}

/* ---- by way of the parent ---- */

struct getting {
    const struct tier_home *home;
    struct tier_hash run;
    tier_pseudonym_done done;
    void *arg;
};

static void answered(void *arg, const struct tier_err *result, const uint8_t *bytes, size_t n) {
    struct getting *g = arg;
    struct tier_err err = *result;
    char *cert_pem = NULL, *ca_pem = NULL;

    if (err.status == TIER_OK &&
        tier_wire_enroll_reply(bytes, n, &cert_pem, &ca_pem, &err) == TIER_OK)
        tier_pseudonym_store(g->home->config->data_dir, &g->home->node, &g->run,
                             g->home->config->parent_name, cert_pem, tier_wall_ms() / 1000, &err);
    g->done(g->arg, err.status, err.text);
    free(cert_pem);
    free(ca_pem);
    free(g);
}

/* Half of its life is left, or more. */
static bool have_one(const struct tier_home *home, const struct tier_hash *run) {
    struct tier_pseudonym p = {.key = NULL};
    int64_t now_s = tier_wall_ms() / 1000;
    bool good = tier_pseudonym_load(home->config->data_dir, &home->node, run,
                                    home->config->parent_name, now_s, &p, NULL) == TIER_OK &&
                now_s - p.not_before_s < p.not_after_s - now_s;
    tier_pseudonym_release(&p);
    return good;
}

void tier_pseudonym_get(struct tier_link *link, const struct tier_home *home,
                        const struct tier_hash *run, tier_pseudonym_done done, void *arg) {
    struct tier_pseudonym_ask ask = {0};
    struct tier_err err = {0};
    struct getting *g = NULL;
    enum tier_status st = TIER_OK;

    if (!home->node.key) {
        st = tier_fail(&err, TIER_EIDENTITY, "without TLS there are no pseudonyms");
    } else if (have_one(home, run)) {
        done(arg, TIER_OK, "");
        return;
    }
    if (st == TIER_OK)
        st = tier_pseudonym_prepare(home->config->data_dir, &home->node, run,
                                    home->config->parent_name, &ask, &err);
    if (st == TIER_OK && !(g = malloc(sizeof *g)))
        st = tier_fail(&err, TIER_ENOMEM, "no memory for a pseudonym");
    if (st != TIER_OK) {
        tier_pseudonym_ask_release(&ask);
        done(arg, st, err.text);
        return;
    }
    *g = (struct getting){.home = home, .run = *run, .done = done, .arg = arg};
    struct tier_bytes b = tier_wire_pseudonym_bytes(&ask);
    tier_rpc_ask(tier_link_channel(link), TIER_PATH_PSEUDONYM, b.data, b.n, REPLY_BYTES_MAX, ASK_MS,
                 answered, g);
    free(b.data);
    tier_pseudonym_ask_release(&ask);
}

/* ---- in secure sums ---- */

static enum tier_status pseudonym_sign(void *arg, const void *data, size_t bytes, uint8_t *sig,
                                       size_t *sig_bytes_out, struct tier_err *err) {
    const struct tier_mask_pseudonym *p = arg;
    return tier_key_sign(p->own->key, data, bytes, sig, sig_bytes_out, err);
}

static enum tier_status pseudonym_check(void *arg, const char *name, const char *cert_pem,
                                        const void *data, size_t bytes, const uint8_t *sig,
                                        size_t sig_bytes, struct tier_err *err) {
    const struct tier_mask_pseudonym *p = arg;
    struct tier_pseudonym_id who;
    struct tier_cert *cert = NULL;
    enum tier_status st;

    TIER_TRY(tier_cert_from_pem(cert_pem, &cert, err));
    TIER_TRY_OUT(tier_pseudonym_verify(cert, p->ca, p->revoked, p->now_s, &who, err));
    if (strcmp(who.name, name) != 0 || !tier_hash_equal(&who.run, &p->run) ||
        strcmp(who.parent, p->parent) != 0)
        st =
            tier_fail(err, TIER_EIDENTITY,
                      "the pseudonym %s is of another name, run or parent than this sum", who.name);
    else
        st = tier_cert_check_signature(cert, data, bytes, sig, sig_bytes, err);
out:
    tier_cert_free(cert);
    return st == TIER_OK ? st : tier_err_prefix(err, "secure sum: child '%s'", name);
}

struct tier_mask_trust tier_mask_trust_of_pseudonym(struct tier_mask_pseudonym *p) {
    return (struct tier_mask_trust){.arg = p,
                                    .cert = p->own ? p->own->cert_pem : NULL,
                                    .sign = p->own ? pseudonym_sign : NULL,
                                    .check = pseudonym_check};
}
