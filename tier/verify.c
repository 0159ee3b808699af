/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Signatures are checked as the log is read, by the certificate that it last named for the peer;
 * what needs another log is noted for verify_cross.c.
 */
#include "tier/verify_private.h"
#include "tier/heads.h"
#include "tier/hex.h"
#include "tier/pem_file.h"
#include "tier/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void *verify_list_add(struct verify_list *list, size_t bytes, struct tier_err *err) {
    if (list->count == TIER_VERIFY_ENTRIES_MAX) {
        tier_fail(err, TIER_ELIMIT, "more than %u entries of a kind in these logs: give fewer",
                  TIER_VERIFY_ENTRIES_MAX);
        return NULL;
    }
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        void *at = realloc(list->at, room * bytes);
        if (!at) {
            tier_fail(err, TIER_ENOMEM, "no memory for what these logs say");
            return NULL;
        }
        list->at = at;
        list->room = room;
    }
    void *entry = (char *)list->at + list->count++ * bytes;
    memset(entry, 0, bytes);
    return entry;
}

void verify_found(struct tier_verify *v, size_t node, const char *fmt, ...) {
    char text[900];
    va_list args;
    const struct tier_verify_node *n = verify_node(v, node);

    v->finding_count++;
    if (v->findings.count >= TIER_VERIFY_FINDINGS_MAX)
        return;
    int at = snprintf(text, sizeof text, "%.200s: ", *n->name ? n->name : n->path);
    va_start(args, fmt);
    vsnprintf(text + at, sizeof text - (size_t)at, fmt, args);
    va_end(args);
    char **told = verify_list_add(&v->findings, sizeof *told, NULL);
    if (told && !(*told = strdup(text)))
        v->findings.count--;
}

/* ---- life cycle ---- */

static enum tier_status set_ca(struct tier_verify *v, const char *pem, struct tier_err *err) {
    TIER_TRY(tier_cert_from_pem(pem, &v->ca, err));
    tier_cert_fingerprint(v->ca, &v->ca_hash);
    return TIER_OK;
}

enum tier_status tier_verify_new(const char *ca_pem, struct tier_verify **out,
                                 struct tier_err *err) {
    struct tier_verify *v = calloc(1, sizeof *v);

    if (!v)
        return tier_fail(err, TIER_ENOMEM, "no memory to verify");
    enum tier_status st = ca_pem ? set_ca(v, ca_pem, err) : TIER_OK;
    if (st == TIER_OK)
        *out = v;
    else
        tier_verify_free(v);
    return st;
}

static void forget_certs(struct tier_verify *v) {
    struct verify_cert *certs = v->certs.at;
    for (size_t i = 0; i < v->certs.count; i++)
        tier_cert_free(certs[i].cert);
    v->certs.count = 0;
    v->asked.count = 0;
}

void tier_verify_free(struct tier_verify *v) {
    if (!v)
        return;
    forget_certs(v);
    for (size_t i = 0; i < v->nodes.count; i++) {
        free(verify_node(v, i)->path);
        free(verify_node(v, i)->log);
    }
    for (size_t i = 0; i < v->findings.count; i++)
        free(((char **)v->findings.at)[i]);
    tier_cert_free(v->ca);
    free(v->nodes.at);
    free(v->claims.at);
    free(v->receipts.at);
    free(v->counted.at);
    free(v->facts.at);
    free(v->findings.at);
    free(v->certs.at);
    free(v->asked.at);
    free(v);
}

/* ---- one line's members ---- */

bool verify_text(const json_t *data, const char *key, char *out, size_t size) {
    const char *text = json_string_value(json_object_get(data, key));
    if (!text || strlen(text) >= size)
        return false;
    memcpy(out, text, strlen(text) + 1);
    return true;
}

bool verify_hash(const json_t *data, const char *key, struct tier_hash *out) {
    const char *text = json_string_value(json_object_get(data, key));
    return text && tier_hash_parse(text, out);
}

static bool count_of(const json_t *data, const char *key, uint64_t *out) {
    const json_t *value = json_object_get(data, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

/* "signature", in hex; absent or "" is none. */
static bool signature_of(const json_t *data, uint8_t *out, size_t room, size_t *bytes_out) {
    const char *text = json_string_value(json_object_get(data, "signature"));
    return tier_hex_read(text ? text : "", out, room, bytes_out);
}

/* ---- signatures ---- */

struct reading {
    struct tier_verify *v;
    size_t node;
    int64_t time_ms; /* of the line */
    uint64_t seq;
    struct tier_tree_edge edge;
};

static struct verify_cert *cert_of(struct tier_verify *v, const char *peer) {
    struct verify_cert *certs = v->certs.at;
    for (size_t i = 0; i < v->certs.count; i++)
        if (strcmp(certs[i].peer, peer) == 0)
            return &certs[i];
    return NULL;
}

/* The key that the peer has at this line; zero where the log has named none. */
static struct tier_hash key_of(struct reading *r, const char *peer) {
    const struct verify_cert *c = cert_of(r->v, peer);
    return c ? c->key : (struct tier_hash){{0}};
}

static void check_signature(struct reading *r, const char *peer, const char *text, size_t bytes,
                            const uint8_t *sig, size_t sig_bytes, const char *what) {
    const struct verify_cert *c = cert_of(r->v, peer);
    struct tier_err why = {0};

    if (!c || sig_bytes == 0) {
        verify_node(r->v, r->node)->unsigned_count++;
        return;
    }
    if (tier_cert_check_signature(c->cert, text, bytes, sig, sig_bytes, &why) != TIER_OK)
        verify_found(r->v, r->node, "line %" PRIu64 ": the %s of %s is not signed by it: %s",
                     r->seq, what, peer, why.text);
}

/* The PEM of a certificate whose DER is given in base 64. */
static char *pem_of(const char *der) {
    size_t n = strlen(der), lines = n / 64 + 1;
    char *pem = malloc(n + lines + 80);
    size_t at = 0;

    if (!pem)
        return NULL;
    at += (size_t)snprintf(pem, 80, "-----BEGIN CERTIFICATE-----\n");
    for (size_t i = 0; i < n; i += 64) {
        size_t part = n - i < 64 ? n - i : 64;
        memcpy(pem + at, der + i, part);
        at += part;
        pem[at++] = '\n';
    }
    snprintf(pem + at, 40, "-----END CERTIFICATE-----\n");
    return pem;
}

static enum tier_status on_certificate(struct reading *r, const json_t *data,
                                       struct tier_err *err) {
    struct tier_verify *v = r->v;
    const char *der = json_string_value(json_object_get(data, "der"));
    char peer[TIER_NAME_LEN_MAX + 1];
    struct tier_cert *cert = NULL;
    struct tier_hash key;
    struct tier_identity id;
    struct tier_err why = {0};

    if (!der || !verify_text(data, "peer", peer, sizeof peer)) {
        verify_found(v, r->node, "line %" PRIu64 ": a certificate without a peer", r->seq);
        return TIER_OK;
    }
    char *pem = pem_of(der);
    if (!pem)
        return tier_fail(err, TIER_ENOMEM, "no memory for a certificate");
    enum tier_status st = tier_cert_from_pem(pem, &cert, &why);
    if (st == TIER_OK)
        st = tier_heads_key(pem, &key, &why);
    free(pem);
    if (st == TIER_OK && v->ca)
        st = tier_cert_verify(cert, v->ca, r->time_ms / 1000, &id, &why);
    else if (st == TIER_OK)
        st = tier_cert_identity(cert, &id, &why);
    if (st == TIER_OK && strcmp(id.name, peer) != 0)
        st = tier_fail(&why, TIER_EIDENTITY, "it is that of %s", id.name);
    if (st != TIER_OK) {
        verify_found(v, r->node, "line %" PRIu64 ": the certificate of %s: %s", r->seq, peer,
                     why.text);
        tier_cert_free(cert);
        return TIER_OK;
    }
    struct verify_cert *known = cert_of(v, peer);
    if (!known && !(known = verify_list_add(&v->certs, sizeof *known, err))) {
        tier_cert_free(cert);
        return err->status;
    }
    tier_cert_free(known->cert);
    known->cert = cert;
    known->key = key;
    memcpy(known->peer, peer, sizeof peer);
    return TIER_OK;
}

/* ---- events ---- */

static void malformed(const struct reading *r, const char *event) {
    verify_found(r->v, r->node, "line %" PRIu64 ": %s lacks what it must say", r->seq, event);
}

static enum tier_status on_head(struct reading *r, const json_t *data, struct tier_err *err) {
    struct tier_head head = {0};
    char peer[TIER_NAME_LEN_MAX + 1], text[512];

    if (!verify_text(data, "peer", peer, sizeof peer) || !count_of(data, "size", &head.size) ||
        !verify_hash(data, "root", &head.root) ||
        !json_is_integer(json_object_get(data, "time_ms")) ||
        !signature_of(data, head.signature, sizeof head.signature, &head.signature_bytes)) {
        malformed(r, "peer.head");
        return TIER_OK;
    }
    head.time_ms = json_integer_value(json_object_get(data, "time_ms"));
    verify_node(r->v, r->node)->heads++;
    size_t n = tier_head_text(peer, &head, text, sizeof text);
    check_signature(r, peer, text, n, head.signature, head.signature_bytes, "head");
    struct verify_claim *c = verify_list_add(&r->v->claims, sizeof *c, err);
    if (!c)
        return err->status;
    *c = (struct verify_claim){
        .size = head.size, .line = r->seq, .root = head.root, .node = r->node};
    c->key = key_of(r, peer);
    memcpy(c->peer, peer, sizeof peer);
    return TIER_OK;
}

/* Only another key begins another history: what the peer showed under the one that it has now still
 * holds. `size` and `root` are the head that the new history contradicts. */
static void on_began_anew(struct reading *r, const json_t *data) {
    struct verify_claim *claims = r->v->claims.at;
    char peer[TIER_NAME_LEN_MAX + 1];
    struct tier_hash root, key;
    uint64_t size;
    bool same = false;

    if (!verify_text(data, "peer", peer, sizeof peer) || !count_of(data, "size", &size) ||
        !verify_hash(data, "root", &root)) {
        malformed(r, "peer.began_anew");
        return;
    }
    key = key_of(r, peer);
    for (size_t i = 0; i < r->v->claims.count; i++) {
        struct verify_claim *c = &claims[i];
        if (c->node != r->node || strcmp(c->peer, peer) != 0)
            continue;
        c->past = !tier_hash_equal(&c->key, &key);
        same = same || (!c->past && c->size == size && tier_hash_equal(&c->root, &root));
    }
    if (same)
        verify_found(r->v, r->node, "line %" PRIu64 ": %s began a new history under the same key",
                     r->seq, peer);
}

static enum tier_status on_counted(struct reading *r, const json_t *data, bool receipt,
                                   struct tier_err *err) {
    struct tier_verify *v = r->v;
    const char *own = verify_node(v, r->node)->name;
    struct verify_counted c = {.line = r->seq, .node = r->node};
    struct tier_receipt full = {0};
    char text[512];

    memcpy(receipt ? c.child : c.parent, own, sizeof c.child);
    if (!verify_hash(data, "run", &c.run) || !verify_hash(data, "update", &c.update) ||
        !count_of(data, "round", &c.round) || !count_of(data, "weight", &c.weight) ||
        !verify_text(data, receipt ? "parent" : "child", receipt ? c.parent : c.child,
                     sizeof c.child)) {
        malformed(r, receipt ? "receipt" : "update.counted");
        return TIER_OK;
    }
    struct verify_counted *kept =
        verify_list_add(receipt ? &v->receipts : &v->counted, sizeof *kept, err);
    if (!kept)
        return err->status;
    *kept = c;
    if (!receipt)
        return TIER_OK;
    verify_node(v, r->node)->receipts++;
    full.run = c.run;
    full.update = c.update;
    full.round = c.round;
    full.weight = c.weight;
    memcpy(full.child, c.child, sizeof full.child);
    memcpy(full.parent, c.parent, sizeof full.parent);
    full.time_ms = json_integer_value(json_object_get(data, "time_ms"));
    (void)count_of(data, "counted", &full.counted);
    if (!signature_of(data, full.signature, sizeof full.signature, &full.signature_bytes)) {
        malformed(r, "receipt");
        return TIER_OK;
    }
    size_t n = tier_receipt_text(&full, text, sizeof text);
    check_signature(r, c.parent, text, n, full.signature, full.signature_bytes, "receipt");
    return TIER_OK;
}

/* `key` holds what all must say alike of the run, or of its round. */
static enum tier_status on_fact(struct reading *r, const json_t *data, const char *key,
                                bool of_round, struct tier_err *err) {
    struct verify_fact f = {.line = r->seq, .node = r->node};

    if (!json_object_get(data, key)) /* an older log does not say it */
        return TIER_OK;
    if (!verify_hash(data, "run", &f.run) || !verify_hash(data, key, &f.value) ||
        (of_round && (!count_of(data, "round", &f.round) || f.round == 0))) {
        malformed(r, "an event of a run");
        return TIER_OK;
    }
    struct verify_fact *kept = verify_list_add(&r->v->facts, sizeof *kept, err);
    if (!kept)
        return err->status;
    *kept = f;
    return TIER_OK;
}

static enum tier_status on_line(void *arg, uint64_t seq, const json_t *record,
                                const struct tier_tree_edge *edge, struct tier_err *err) {
    struct reading *r = arg;
    const char *event = json_string_value(json_object_get(record, "event"));
    const json_t *data = json_object_get(record, "data");
    struct tier_verify_node *node = verify_node(r->v, r->node);

    r->seq = seq;
    r->edge = *edge;
    r->time_ms = json_integer_value(json_object_get(record, "time_ms"));
    if (seq == 1 && (strcmp(event, "audit.created") != 0 ||
                     !verify_text(data, "node", node->name, sizeof node->name)))
        verify_found(r->v, r->node, "line 1: a log begins with audit.created and the node's name");
    if (strcmp(event, "peer.certificate") == 0)
        return on_certificate(r, data, err);
    if (strcmp(event, "peer.head") == 0)
        return on_head(r, data, err);
    if (strcmp(event, "peer.began_anew") == 0)
        on_began_anew(r, data);
    if (strcmp(event, "peer.equivocates") == 0) {
        const char *peer = json_string_value(json_object_get(data, "peer"));
        verify_found(r->v, r->node, "line %" PRIu64 ": %.63s showed it two histories", seq,
                     peer ? peer : "a peer");
    }
    if (strcmp(event, "receipt") == 0 || strcmp(event, "update.counted") == 0)
        return on_counted(r, data, *event == 'r', err);
    if (strcmp(event, "run.begun") == 0 || strcmp(event, "plan.accepted") == 0)
        return on_fact(r, data, "plan", false, err);
    if (strcmp(event, "round.opened") == 0)
        return on_fact(r, data, "base", true, err);
    return verify_attest(r->v, r->node, seq, event, data, err);
}

/* ---- a node ---- */

/* The authority's certificate in the directory, where there is one; and the node's own. */
static void check_identity(struct tier_verify *v, size_t node, int64_t now_s) {
    const struct tier_verify_node *n = verify_node(v, node);
    char dir[4200];
    char *pem = NULL;
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    struct tier_hash hash;
    struct tier_err why = {0};

    snprintf(dir, sizeof dir, "%.4000s/identity", n->path);
    if (tier_pem_read(dir, "ca.pem", false, &pem, NULL) == TIER_OK) {
        if (!v->ca && set_ca(v, pem, &why) != TIER_OK)
            verify_found(v, node, "identity/ca.pem: %s", why.text);
        if (v->ca && tier_cert_from_pem(pem, &cert, &why) != TIER_OK)
            verify_found(v, node, "identity/ca.pem: %s", why.text);
        if (cert)
            tier_cert_fingerprint(cert, &hash);
        if (cert && !tier_hash_equal(&hash, &v->ca_hash))
            verify_found(v, node, "identity/ca.pem: another authority's than the other nodes'");
        tier_cert_free(cert);
        cert = NULL;
        tier_secret_free(pem);
    }
    if (!v->ca || now_s == 0 || tier_pem_read(dir, "cert.pem", false, &pem, NULL) != TIER_OK)
        return;
    enum tier_status st = tier_cert_from_pem(pem, &cert, &why);
    if (st == TIER_OK)
        st = tier_cert_verify(cert, v->ca, now_s, &id, &why);
    if (st == TIER_OK && strcmp(id.name, n->name) != 0)
        st = tier_fail(&why, TIER_EIDENTITY, "it is that of %s", id.name);
    if (st != TIER_OK)
        verify_found(v, node, "identity/cert.pem: %s", why.text);
    tier_cert_free(cert);
    tier_secret_free(pem);
}

static enum tier_status name_log(struct tier_verify_node *n, const char *path,
                                 struct tier_err *err) {
    struct stat info;
    size_t room = strlen(path) + sizeof "/audit/audit.log";

    if (stat(path, &info) != 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", path);
    n->is_dir = S_ISDIR(info.st_mode);
    n->path = strdup(path);
    n->log = malloc(room);
    if (!n->path || !n->log)
        return tier_fail(err, TIER_ENOMEM, "no memory to verify");
    snprintf(n->log, room, "%s%s", path, n->is_dir ? "/audit/audit.log" : "");
    return TIER_OK;
}

enum tier_status tier_verify_add(struct tier_verify *v, const char *path, struct tier_err *err) {
    struct reading r = {.v = v, .node = v->nodes.count};
    struct tier_err why = {0};

    if (v->nodes.count == TIER_VERIFY_NODES_MAX)
        return tier_fail(err, TIER_ELIMIT, "more than %d nodes", TIER_VERIFY_NODES_MAX);
    struct tier_verify_node *n = verify_list_add(&v->nodes, sizeof *n, err);
    if (!n)
        return err->status;
    TIER_TRY(name_log(n, path, err));
    if (n->is_dir)
        check_identity(v, r.node, 0); /* whom to believe, before the log is read */
    enum tier_status st = tier_audit_walk(n->log, on_line, &r, &n->lines, &n->head, &why);
    if (st == TIER_ENOMEM || st == TIER_ELIMIT || st == TIER_EIO || st == TIER_ENOTFOUND)
        return tier_fail(err, st, "%s", why.text);
    if (st != TIER_OK)
        verify_found(v, r.node, "%s", why.text);
    tier_tree_edge_root(&r.edge, &n->root);
    forget_certs(v);
    if (!n->is_dir)
        return TIER_OK;
    check_identity(v, r.node, r.time_ms / 1000);
    return verify_files(v, r.node, err);
}

size_t tier_verify_node_count(const struct tier_verify *v) {
    return v->nodes.count;
}

const struct tier_verify_node *tier_verify_node_at(const struct tier_verify *v, size_t i) {
    return i < v->nodes.count ? (const struct tier_verify_node *)v->nodes.at + i : NULL;
}

uint64_t tier_verify_finding_count(const struct tier_verify *v) {
    return v->finding_count;
}

const char *tier_verify_finding(const struct tier_verify *v, size_t i) {
    return i < v->findings.count ? ((char *const *)v->findings.at)[i] : NULL;
}
