/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The passphrase is read anew each time and wiped at once: what stays in memory is the key itself,
 * which the transport needs all the time.
 */
#include "tier/key_file.h"

#include "tier/cert.h"
#include "tier/pem_file.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SEALED_BEGIN "-----BEGIN ENCRYPTED PRIVATE KEY-----"

static char passphrase_path[PATH_MAX];

void tier_key_file_passphrase(const char *path) {
    snprintf(passphrase_path, sizeof passphrase_path, "%s", path ? path : "");
}

/* "" where none is configured. */
static const char *source(char path[PATH_MAX]) {
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    struct stat info;

    path[0] = '\0';
    if (*passphrase_path)
        return passphrase_path;
    if (!folder || !*folder)
        return path;
    int n = snprintf(path, PATH_MAX, "%s/" TIER_PASSPHRASE_CREDENTIAL, folder);
    if (n < 0 || n >= PATH_MAX || stat(path, &info) != 0)
        path[0] = '\0';
    return path;
}

bool tier_key_file_sealing(void) {
    char path[PATH_MAX];
    return *source(path) != '\0';
}

/* The first line of the file, on the heap: tier_secret_free. */
static enum tier_status read_passphrase(const char *path, char **out, struct tier_err *err) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    char *text = NULL;

    if (slash == path)
        snprintf(folder, sizeof folder, "/");
    else
        snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1,
                 slash ? path : ".");
    enum tier_status st = tier_pem_read(folder, slash ? slash + 1 : path, true, &text, err);
    if (st != TIER_OK) {
        tier_err_prefix(err, "the key's passphrase");
        return st;
    }
    text[strcspn(text, "\r\n")] = '\0';
    size_t n = strlen(text);
    if (n < TIER_PASSPHRASE_BYTES_MIN || n > TIER_PASSPHRASE_BYTES_MAX) {
        tier_secret_free(text);
        return tier_fail(err, TIER_EIDENTITY,
                         "%s: its first line has %zu bytes; a passphrase has %d to %d", path, n,
                         TIER_PASSPHRASE_BYTES_MIN, TIER_PASSPHRASE_BYTES_MAX);
    }
    *out = text;
    return TIER_OK;
}

static bool is_sealed(const char *pem) {
    return strstr(pem, SEALED_BEGIN) != NULL;
}

static enum tier_status open_sealed(const char *pem, struct tier_key **out, struct tier_err *err) {
    char path[PATH_MAX];
    const char *from = source(path);
    char *passphrase = NULL;

    if (!*from)
        return tier_fail(err, TIER_EIDENTITY,
                         "the key is encrypted, and no passphrase is given: name its file in "
                         "key_passphrase_file (CONSILIUM_KEY_PASSPHRASE_FILE), or load the "
                         "credential " TIER_PASSPHRASE_CREDENTIAL " with systemd");
    TIER_TRY(read_passphrase(from, &passphrase, err));
    enum tier_status st = tier_key_from_sealed(pem, passphrase, out, err);
    if (st != TIER_OK)
        tier_err_prefix(err, "with the passphrase of %s", from);
    tier_secret_free(passphrase);
    return st;
}

enum tier_status tier_key_file_read(const char *dir, const char *name, struct tier_key **key_out,
                                    char **plain_out, struct tier_err *err) {
    struct tier_key *key = NULL;
    char *pem = NULL;

    TIER_TRY(tier_pem_read(dir, name, true, &pem, err));
    enum tier_status st =
        is_sealed(pem) ? open_sealed(pem, &key, err) : tier_key_from_pem(pem, &key, err);
    if (st != TIER_OK)
        tier_err_prefix(err, "%s/%s", dir, name);
    else if (plain_out)
        st = tier_key_to_pem(key, plain_out, err);
    tier_secret_free(pem);
    if (st == TIER_OK)
        *key_out = key;
    else
        tier_key_free(key);
    return st;
}

static enum tier_status write_sealed(const char *dir, const char *name, const struct tier_key *key,
                                     const char *path, bool replace, struct tier_err *err) {
    char *passphrase = NULL, *pem = NULL;
    enum tier_status st;

    TIER_TRY_OUT(read_passphrase(path, &passphrase, err));
    TIER_TRY_OUT(tier_key_to_sealed(key, passphrase, &pem, err));
    st = tier_pem_write(dir, name, pem, true, replace, err);
out:
    tier_secret_free(passphrase);
    tier_secret_free(pem);
    return st;
}

enum tier_status tier_key_file_write(const char *dir, const char *name, const struct tier_key *key,
                                     bool replace, struct tier_err *err) {
    char path[PATH_MAX];
    const char *from = source(path);
    char *pem = NULL;

    if (*from)
        return write_sealed(dir, name, key, from, replace, err);
    TIER_TRY(tier_key_to_pem(key, &pem, err));
    enum tier_status st = tier_pem_write(dir, name, pem, true, replace, err);
    tier_secret_free(pem);
    return st;
}

bool tier_key_file_is_sealed(const char *dir, const char *name) {
    char *pem = NULL;

    if (tier_pem_read(dir, name, true, &pem, NULL) != TIER_OK)
        return false;
    bool sealed = is_sealed(pem);
    tier_secret_free(pem);
    return sealed;
}

/* Whether the key is encrypted with the passphrase in `path` already. */
static bool is_under(const char *dir, const char *name, const char *path) {
    struct tier_key *key = NULL;
    char *pem = NULL, *passphrase = NULL;
    bool under = tier_pem_read(dir, name, true, &pem, NULL) == TIER_OK && is_sealed(pem) &&
                 read_passphrase(path, &passphrase, NULL) == TIER_OK &&
                 tier_key_from_sealed(pem, passphrase, &key, NULL) == TIER_OK;

    tier_key_free(key);
    tier_secret_free(passphrase);
    tier_secret_free(pem);
    return under;
}

enum tier_status tier_key_file_protect(const char *dir, const char *name, const char *path,
                                       struct tier_err *err) {
    char configured[PATH_MAX];
    struct tier_key *key = NULL;

    if (!path || !*path)
        path = source(configured);
    if (!*path)
        return tier_fail(err, TIER_EARG, "no file with a passphrase is named");
    enum tier_status st = tier_key_file_read(dir, name, &key, NULL, err);
    if (st == TIER_EIDENTITY && is_under(dir, name, path))
        return TIER_OK; /* a kill came between several keys of one node */
    TIER_TRY(st);
    st = write_sealed(dir, name, key, path, true, err);
    tier_key_free(key);
    return st;
}
