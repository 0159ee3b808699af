/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/identity.h"

#include "tier/cert.h"
#include "tier/key_file.h"
#include "tier/pem_file.h"
#include "tier/vault.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_FILE "key.pem"
#define CERT_FILE "cert.pem"
#define CA_FILE "ca.pem"

/* ---- names ---------------------------------------------------------------------------------- */

static const char *const role_names[TIER_ROLE_COUNT] = {
    [TIER_ROLE_TOP] = "top",
    [TIER_ROLE_HUB] = "hub",
    [TIER_ROLE_SPOKE] = "spoke",
    [TIER_ROLE_OPERATOR] = "operator",
    [TIER_ROLE_REGIONAL_OPERATOR] = "regional-operator",
    [TIER_ROLE_STEWARD] = "steward",
    [TIER_ROLE_RESEARCHER] = "researcher",
    [TIER_ROLE_AUDITOR] = "auditor",
};

const char *tier_role_text(enum tier_role role) {
    return (unsigned)role < TIER_ROLE_COUNT ? role_names[role] : "unknown role";
}

enum tier_status tier_role_parse(const char *text, enum tier_role *out, struct tier_err *err) {
    for (int i = 0; text && i < TIER_ROLE_COUNT; i++)
        if (strcmp(text, role_names[i]) == 0) {
            *out = (enum tier_role)i;
            return TIER_OK;
        }
    return tier_fail(err, TIER_EARG, "'%.32s' is not a role; " TIER_ROLE_TEXTS " is wanted",
                     text ? text : "");
}

static bool alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool name_bytes_valid(const char *name, size_t bytes) {
    if (bytes == 0 || bytes > TIER_NAME_LEN_MAX || !alnum(name[0]) || !alnum(name[bytes - 1]))
        return false;
    for (size_t i = 0; i < bytes; i++)
        if (!alnum(name[i]) && name[i] != '-')
            return false;
    return true;
}

bool tier_name_valid(const char *name) {
    return name && name_bytes_valid(name, strnlen(name, TIER_NAME_LEN_MAX + 1));
}

enum tier_status tier_name_check(const char *what, const char *name, struct tier_err *err) {
    if (tier_name_valid(name))
        return TIER_OK;
    return tier_fail(err, TIER_EARG,
                     "%s '%.80s': a name is 1 to %d of a-z, 0-9 and '-', and begins and ends with "
                     "a letter or digit",
                     what, name ? name : "", TIER_NAME_LEN_MAX);
}

const char *tier_identity_spiffe(const struct tier_identity *id, char *uri) {
    snprintf(uri, TIER_SPIFFE_SIZE, "spiffe://%s/%s/%s", id->authority, tier_role_text(id->role),
             id->name);
    return uri;
}

enum tier_status tier_identity_parse_spiffe(const char *uri, struct tier_identity *out,
                                            struct tier_err *err) {
    static const char scheme[] = "spiffe://";
    size_t bytes = uri ? strnlen(uri, TIER_SPIFFE_SIZE) : 0;
    char role_text[TIER_ROLE_TEXT_SIZE];
    enum tier_role role = TIER_ROLE_SPOKE;

    if (bytes == 0 || bytes >= TIER_SPIFFE_SIZE || strncmp(uri, scheme, sizeof scheme - 1) != 0)
        goto refuse;
    const char *authority = uri + sizeof scheme - 1;
    size_t authority_bytes = strcspn(authority, "/");
    if (!name_bytes_valid(authority, authority_bytes) || authority[authority_bytes] != '/')
        goto refuse;
    const char *second = authority + authority_bytes + 1;
    size_t role_bytes = strcspn(second, "/");
    if (role_bytes >= sizeof role_text || second[role_bytes] != '/')
        goto refuse;
    memcpy(role_text, second, role_bytes);
    role_text[role_bytes] = '\0';
    const char *name = second + role_bytes + 1;
    if (tier_role_parse(role_text, &role, NULL) != TIER_OK || !tier_name_valid(name))
        goto refuse;
    memcpy(out->authority, authority, authority_bytes);
    out->authority[authority_bytes] = '\0';
    out->role = role;
    memcpy(out->name, name, strlen(name) + 1);
    return TIER_OK;
refuse:
    return tier_fail(err, TIER_EIDENTITY, "'%.160s' is not spiffe://AUTHORITY/ROLE/NAME",
                     uri ? uri : "");
}

/* ---- the node's own identity ----------------------------------------------------------------- */

static enum tier_status identity_dir(const char *data_dir, char *dir, struct tier_err *err) {
    int n = snprintf(dir, PATH_MAX, "%s/identity", data_dir);
    return n > 0 && n < PATH_MAX
               ? TIER_OK
               : tier_fail(err, TIER_EARG, "data directory %.100s...: path too long", data_dir);
}

static enum tier_status load_cert(const char *dir, const char *file, char **pem_out,
                                  struct tier_cert **out, struct tier_err *err) {
    char *pem = NULL;

    TIER_TRY(tier_pem_read(dir, file, false, &pem, err));
    enum tier_status st = tier_cert_from_pem(pem, out, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "%s/%s", dir, file);
        free(pem);
        return st;
    }
    *pem_out = pem;
    return TIER_OK;
}

static enum tier_status make_key(const char *dir, struct tier_key **key_out, struct tier_err *err) {
    struct tier_key *key = NULL;

    TIER_TRY(tier_key_generate(&key, err));
    enum tier_status st = tier_key_file_write(dir, KEY_FILE, key, false, err);
    if (st == TIER_OK)
        *key_out = key;
    else
        tier_key_free(key);
    return st;
}

enum tier_status tier_identity_prepare(const char *data_dir, struct tier_key **key_out,
                                       struct tier_err *err) {
    char dir[PATH_MAX];

    TIER_TRY(identity_dir(data_dir, dir, err));
    TIER_TRY(tier_pem_dir_make(dir, err));
    if (!tier_pem_exists(dir, KEY_FILE))
        return make_key(dir, key_out, err);
    return tier_key_file_read(dir, KEY_FILE, key_out, NULL, err);
}

static enum tier_status check_pair(const struct tier_cert *cert, const struct tier_cert *ca,
                                   const struct tier_key *key, int64_t now_s,
                                   struct tier_identity *id, struct tier_err *err) {
    TIER_TRY(tier_cert_verify(cert, ca, now_s, id, err));
    if (!tier_cert_matches(cert, key))
        return tier_fail(err, TIER_EIDENTITY,
                         "the certificate of %s is for another key than " KEY_FILE, id->name);
    return TIER_OK;
}

enum tier_status tier_identity_store(const char *data_dir, const char *cert_pem, const char *ca_pem,
                                     int64_t now_s, struct tier_err *err) {
    char dir[PATH_MAX];
    struct tier_key *key = NULL;
    struct tier_cert *cert = NULL, *ca = NULL;
    struct tier_identity id;
    enum tier_status st;

    TIER_TRY(identity_dir(data_dir, dir, err));
    TIER_TRY_OUT(tier_key_file_read(dir, KEY_FILE, &key, NULL, err));
    TIER_TRY_OUT(tier_cert_from_pem(cert_pem, &cert, err));
    TIER_TRY_OUT(tier_cert_from_pem(ca_pem, &ca, err));
    TIER_TRY_OUT(check_pair(cert, ca, key, now_s, &id, err));
    /* cert.pem last: where it stands, the node is enrolled. */
    TIER_TRY_OUT(tier_pem_write(dir, CA_FILE, ca_pem, false, true, err));
    TIER_TRY_OUT(tier_pem_write(dir, CERT_FILE, cert_pem, false, true, err));
out:
    tier_cert_free(ca);
    tier_cert_free(cert);
    tier_key_free(key);
    return st;
}

enum tier_status tier_identity_protect(const char *data_dir, const char *passphrase_file,
                                       struct tier_err *err) {
    char dir[PATH_MAX];

    TIER_TRY(identity_dir(data_dir, dir, err));
    TIER_TRY(tier_vault_protect(data_dir, passphrase_file, err));
    return tier_key_file_protect(dir, KEY_FILE, passphrase_file, err);
}

bool tier_identity_is_plain(const char *data_dir) {
    char dir[PATH_MAX];
    return identity_dir(data_dir, dir, NULL) == TIER_OK && tier_pem_exists(dir, KEY_FILE) &&
           !tier_key_file_is_sealed(dir, KEY_FILE);
}

bool tier_identity_exists(const char *data_dir) {
    char dir[PATH_MAX];
    return identity_dir(data_dir, dir, NULL) == TIER_OK && tier_pem_exists(dir, CERT_FILE);
}

enum tier_status tier_identity_load(const char *data_dir, int64_t now_s, struct tier_node *out,
                                    struct tier_err *err) {
    char dir[PATH_MAX];
    struct tier_node node = {0};
    enum tier_status st;

    TIER_TRY(identity_dir(data_dir, dir, err));
    if (!tier_pem_exists(dir, CERT_FILE))
        return tier_fail(err, TIER_ENOTFOUND,
                         "%s holds no certificate: this node is not enrolled (consilium enroll)",
                         dir);
    TIER_TRY_OUT(tier_key_file_read(dir, KEY_FILE, &node.key, &node.key_pem, err));
    TIER_TRY_OUT(load_cert(dir, CERT_FILE, &node.cert_pem, &node.cert, err));
    TIER_TRY_OUT(load_cert(dir, CA_FILE, &node.ca_pem, &node.ca, err));
    st = check_pair(node.cert, node.ca, node.key, now_s, &node.id, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "%s", dir);
        goto out;
    }
    *out = node;
    return TIER_OK;
out:
    tier_identity_release(&node);
    return st;
}

void tier_identity_release(struct tier_node *node) {
    tier_key_free(node->key);
    tier_cert_free(node->cert);
    tier_cert_free(node->ca);
    tier_secret_free(node->key_pem);
    free(node->cert_pem);
    free(node->ca_pem);
    *node = (struct tier_node){0};
}
