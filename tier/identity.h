/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who a node is, and where it keeps the proof. A node has a name, a role and an authority, written
 * in its certificate as the URI spiffe://AUTHORITY/ROLE/NAME; the key pair was born in its own data
 * directory and never leaves it. The directory `identity/` below the data directory holds key.pem
 * (mode 0600), cert.pem and ca.pem. Keys, requests and certificates themselves are tier/cert.h.
 *
 * Threads: no shared state; an object belongs to one thread at a time, and a loaded identity may be
 * read by many.
 *
 * Time is an argument (seconds since 1970, UTC), never read here.
 */
#ifndef CONSILIUM_TIER_IDENTITY_H
#define CONSILIUM_TIER_IDENTITY_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

#include <stdint.h>

/* Nodes, then persons: those have no part in a tree but ask hubs (hub/console_roles.h). The numbers
 * are stored by the authority: append only. */
enum tier_role {
    TIER_ROLE_TOP,
    TIER_ROLE_HUB,
    TIER_ROLE_SPOKE,
    TIER_ROLE_OPERATOR,
    TIER_ROLE_REGIONAL_OPERATOR,
    TIER_ROLE_STEWARD,
    TIER_ROLE_RESEARCHER,
    TIER_ROLE_AUDITOR
};
#define TIER_ROLE_COUNT 8
#define TIER_ROLE_TEXT_SIZE 20
#define TIER_ROLE_TEXTS                                                                            \
    "top, hub, spoke, operator, regional-operator, steward, researcher or auditor"

/* "spiffe://" + authority + "/" + role + "/" + name, with the terminator. */
#define TIER_SPIFFE_SIZE (9 + TIER_NAME_LEN_MAX + TIER_ROLE_TEXT_SIZE + 1 + TIER_NAME_LEN_MAX + 1)

#define TIER_SERIAL_SIZE 41

/* What a certificate says. */
struct tier_identity {
    char authority[TIER_NAME_LEN_MAX + 1];
    char name[TIER_NAME_LEN_MAX + 1];
    enum tier_role role;
    int64_t not_before_s;
    int64_t not_after_s;
    char serial[TIER_SERIAL_SIZE]; /* lower-case hex */
    struct tier_hash fingerprint;  /* SHA-256 of the DER certificate */
};

/* ---- names ---------------------------------------------------------------------------------- */

/* "spoke"; "unknown role" outside the enum. */
const char *tier_role_text(enum tier_role role);
/* Exactly one of TIER_ROLE_TEXTS; else TIER_EARG. */
enum tier_status tier_role_parse(const char *text, enum tier_role *out, struct tier_err *err);

/* [a-z0-9]([a-z0-9-]*[a-z0-9])?, at most TIER_NAME_LEN_MAX bytes. */
bool tier_name_valid(const char *name);
/* As tier_name_valid, with TIER_EARG and a sentence that says what a name looks like. `what` is
 * "the node name", "the authority". */
enum tier_status tier_name_check(const char *what, const char *name, struct tier_err *err);

/* Writes spiffe://AUTHORITY/ROLE/NAME; `uri` holds TIER_SPIFFE_SIZE bytes. Returns it. */
const char *tier_identity_spiffe(const struct tier_identity *id, char *uri);
/* Sets authority, role and name only. TIER_EIDENTITY: not such a URI. */
enum tier_status tier_identity_parse_spiffe(const char *uri, struct tier_identity *out,
                                            struct tier_err *err);

/* ---- the node's own identity ----------------------------------------------------------------- */

struct tier_key; /* tier/cert.h */
struct tier_cert;

/* A loaded identity: PEM texts for the transport's credentials, and the same parsed. */
struct tier_node {
    struct tier_identity id;
    char *key_pem; /* secret: wiped when released */
    char *cert_pem;
    char *ca_pem;
    struct tier_key *key;
    struct tier_cert *cert;
    struct tier_cert *ca;
};

/*
 * The key of a node that is about to enroll: reads DATA_DIR/identity/key.pem, or makes one and
 * stores it (directories 0700). A try that failed half-way thus goes on with the same key.
 */
enum tier_status tier_identity_prepare(const char *data_dir, struct tier_key **key_out,
                                       struct tier_err *err);
/*
 * Keeps what the authority answered: checks that the certificate is by this CA, valid at now_s and
 * for the key that is already there, then writes ca.pem and cert.pem, each atomically and synced.
 */
enum tier_status tier_identity_store(const char *data_dir, const char *cert_pem, const char *ca_pem,
                                     int64_t now_s, struct tier_err *err);
/* Encrypts the keys that are there, the storage key too: tier_key_file_protect. */
enum tier_status tier_identity_protect(const char *data_dir, const char *passphrase_file,
                                       struct tier_err *err);
/* Whether the key is there and not encrypted. */
bool tier_identity_is_plain(const char *data_dir);
/* Whether there is a certificate to load (true also when it would be refused). */
bool tier_identity_exists(const char *data_dir);
/*
 * Loads and checks all three files. TIER_EIDENTITY: a key that others may read, a certificate that
 * is expired (with the dates), not yet valid, by another authority, or not for this key;
 * TIER_ENOTFOUND: the node is not enrolled.
 */
enum tier_status tier_identity_load(const char *data_dir, int64_t now_s, struct tier_node *out,
                                    struct tier_err *err);
/* Wipes the key. A zeroed one is fine. */
void tier_identity_release(struct tier_node *node);

#endif
