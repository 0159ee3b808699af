/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys are known to the whole process by the directories they are of, so that whoever opens a file
 * need not carry one: a writer finds the key by the path, a reader by what the file names. Counter
 * mode, because offsets stay what they are; a key for each file, because a counter must not come
 * twice, and files are as long as models.
 */
#include "tier/vault.h"

#include "tier/cert_private.h"
#include "tier/key_file.h"
#include "tier/pem_file.h"

#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "consilium-file 1" /* no file of ours begins so */
#define MAGIC_BYTES 16u
#define ID_BYTES 16u
#define NONCE_BYTES 32u
#define HEAD_BYTES (MAGIC_BYTES + ID_BYTES + NONCE_BYTES)
#define KEY_BYTES 32u
#define AES_BLOCK 16u
#define SCRATCH_BYTES 65536u
#define ONCE_BYTES (1u << 30) /* what OpenSSL takes in an int */

_Static_assert(HEAD_BYTES == TIER_VAULT_SEAL_BYTES, "a sealed text begins as a file does");

struct tier_vault {
    struct tier_vault *next;
    char *dir;
    bool writes;
    uint8_t key[KEY_BYTES], id[ID_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list */
static struct tier_vault *vaults;

static void derive(const uint8_t *key, const char *what, const uint8_t *salt, size_t salt_bytes,
                   uint8_t out[KEY_BYTES]) {
    uint8_t text[64 + NONCE_BYTES];
    size_t n = strlen(what);
    unsigned length = KEY_BYTES;

    memcpy(text, what, n);
    if (salt_bytes)
        memcpy(text + n, salt, salt_bytes);
    if (!HMAC(EVP_sha256(), key, KEY_BYTES, text, n + salt_bytes, out, &length))
        abort();
}

/* ---- the storage key ---- */

static void hex_of(const uint8_t id[ID_BYTES], char hex[2 * ID_BYTES + 1]) {
    for (size_t i = 0; i < ID_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", id[i]);
}

static enum tier_status read_key(struct tier_vault *v, const char *folder, struct tier_err *err) {
    struct tier_key *key = NULL;
    uint8_t id[KEY_BYTES];

    TIER_TRY(tier_key_file_read(folder, TIER_VAULT_KEY_FILE, &key, NULL, err));
    enum tier_status st = tier_key_secret(key, "consilium storage 1", v->key, err);
    tier_key_free(key);
    TIER_TRY(st);
    derive(v->key, "consilium storage id 1", NULL, 0, id);
    memcpy(v->id, id, ID_BYTES);
    return TIER_OK;
}

static enum tier_status make_key(const char *folder, struct tier_err *err) {
    struct tier_key *key = NULL;

    if (!tier_key_file_sealing())
        return tier_fail(err, TIER_ECONFIG,
                         "storage.encrypt needs a passphrase (key_passphrase_file, or systemd's "
                         "credential " TIER_PASSPHRASE_CREDENTIAL
                         "): the key would lie beside what it opens");
    TIER_TRY(tier_pem_dir_make(folder, err));
    TIER_TRY(tier_key_generate(&key, err));
    enum tier_status st = tier_key_file_write(folder, TIER_VAULT_KEY_FILE, key, false, err);
    tier_key_free(key);
    return st;
}

/* The name of the key that is needed, or TIER_ENOTFOUND. */
static enum tier_status read_id(const char *data_dir, char hex[2 * ID_BYTES + 1],
                                struct tier_err *err) {
    char *text = NULL;

    TIER_TRY(tier_pem_read(data_dir, TIER_VAULT_ID_FILE, false, &text, err));
    snprintf(hex, 2 * ID_BYTES + 1, "%s", text);
    free(text);
    return TIER_OK;
}

static enum tier_status load(struct tier_vault *v, struct tier_err *err) {
    char folder[PATH_MAX], needed[2 * ID_BYTES + 1] = "", is[2 * ID_BYTES + 1], line[64];
    enum tier_status st = read_id(v->dir, needed, err);
    bool named = st == TIER_OK;

    if (st != TIER_OK && st != TIER_ENOTFOUND)
        return st;
    int n = snprintf(folder, sizeof folder, "%s/identity", v->dir);
    if (n < 0 || (size_t)n >= sizeof folder)
        return tier_fail(err, TIER_EARG, "%s: the path is too long", v->dir);
    bool there = tier_pem_exists(folder, TIER_VAULT_KEY_FILE);
    if (named && !there)
        return tier_fail(err, TIER_EIDENTITY,
                         "the files of %s are encrypted with the key %.8s, and "
                         "identity/" TIER_VAULT_KEY_FILE
                         " is not there: without it nothing of them can be read",
                         v->dir, needed);
    if (!there)
        TIER_TRY(make_key(folder, err));
    TIER_TRY(read_key(v, folder, err));
    hex_of(v->id, is);
    if (named && strcmp(is, needed) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the files of %s are encrypted with the key %.8s, and %s is another, "
                         "%.8s: that of this directory would be right",
                         v->dir, needed, TIER_VAULT_KEY_FILE, is);
    if (named)
        return TIER_OK;
    snprintf(line, sizeof line, "%s\n", is); /* the key is on the disk by now */
    return tier_pem_write(v->dir, TIER_VAULT_ID_FILE, line, false, true, err);
}

enum tier_status tier_vault_open(const char *data_dir, bool writes, struct tier_vault **out,
                                 struct tier_err *err) {
    struct tier_vault *v;

    if (!writes && !tier_pem_exists(data_dir, TIER_VAULT_ID_FILE)) {
        *out = NULL;
        return TIER_OK;
    }
    v = calloc(1, sizeof *v);
    if (!v || !(v->dir = strdup(data_dir))) {
        free(v);
        return tier_fail(err, TIER_ENOMEM, "no memory for a storage key");
    }
    for (size_t n = strlen(v->dir); n > 1 && v->dir[n - 1] == '/';)
        v->dir[--n] = '\0';
    v->writes = writes;
    enum tier_status st = load(v, err);
    if (st != TIER_OK) {
        OPENSSL_cleanse(v->key, sizeof v->key);
        free(v->dir);
        free(v);
        return st;
    }
    pthread_mutex_lock(&lock);
    v->next = vaults;
    vaults = v;
    pthread_mutex_unlock(&lock);
    *out = v;
    return TIER_OK;
}

void tier_vault_close(struct tier_vault *v) {
    if (!v)
        return;
    pthread_mutex_lock(&lock);
    for (struct tier_vault **at = &vaults; *at; at = &(*at)->next)
        if (*at == v) {
            *at = v->next;
            break;
        }
    pthread_mutex_unlock(&lock);
    OPENSSL_cleanse(v->key, sizeof v->key);
    free(v->dir);
    free(v);
}

enum tier_status tier_vault_protect(const char *data_dir, const char *path, struct tier_err *err) {
    char folder[PATH_MAX];

    int n = snprintf(folder, sizeof folder, "%s/identity", data_dir);
    if (n < 0 || (size_t)n >= sizeof folder)
        return tier_fail(err, TIER_EARG, "%s: the path is too long", data_dir);
    if (!tier_pem_exists(folder, TIER_VAULT_KEY_FILE))
        return TIER_OK;
    return tier_key_file_protect(folder, TIER_VAULT_KEY_FILE, path, err);
}

/* ---- finding one ---- */

/* Whether the path lies in the directory, by its text: both come from one configuration. */
static bool lies_in(const char *path, const char *dir) {
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool find_writing(const char *path, uint8_t key[KEY_BYTES], uint8_t id[ID_BYTES]) {
    const struct tier_vault *best = NULL;

    pthread_mutex_lock(&lock);
    for (const struct tier_vault *v = vaults; v; v = v->next)
        if (v->writes && lies_in(path, v->dir) && (!best || strlen(v->dir) > strlen(best->dir)))
            best = v;
    if (best) {
        memcpy(key, best->key, KEY_BYTES);
        memcpy(id, best->id, ID_BYTES);
    }
    pthread_mutex_unlock(&lock);
    return best != NULL;
}

static bool find_reading(const uint8_t id[ID_BYTES], uint8_t key[KEY_BYTES]) {
    bool found = false;

    pthread_mutex_lock(&lock);
    for (const struct tier_vault *v = vaults; v && !found; v = v->next)
        if (memcmp(v->id, id, ID_BYTES) == 0) {
            memcpy(key, v->key, KEY_BYTES);
            found = true;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Of DATA_DIR/FILE, with at most two folders between. For programs that work beside a node; stays
 * open. */
static bool open_beside(const char *path, struct tier_err *err) {
    struct tier_vault *v = NULL;
    char dir[PATH_MAX];

    snprintf(dir, sizeof dir, "%s", path);
    for (int up = 0; up < 3; up++) {
        char *slash = strrchr(dir, '/');
        if (!slash)
            return false;
        *slash = '\0';
        if (tier_vault_open(*dir ? dir : "/", false, &v, err) != TIER_OK || v)
            return v != NULL;
    }
    return false;
}

static enum tier_status key_for(const char *path, const uint8_t *head, uint8_t out[KEY_BYTES],
                                struct tier_err *err) {
    const uint8_t *id = head + MAGIC_BYTES;
    uint8_t key[KEY_BYTES];
    char hex[2 * ID_BYTES + 1];
    struct tier_err why = {0};

    if (!find_reading(id, key) && !(open_beside(path, &why) && find_reading(id, key))) {
        hex_of(id, hex);
        return tier_fail(err, TIER_EIDENTITY,
                         "%s is encrypted with the key %.8s, which is not here%s%s", path, hex,
                         why.status ? ": " : "", why.status ? why.text : "");
    }
    derive(key, "consilium file 1", head + MAGIC_BYTES + ID_BYTES, NONCE_BYTES, out);
    OPENSSL_cleanse(key, sizeof key);
    return TIER_OK;
}

/* A head with a number of its own, and the key that it makes; false: nothing is encrypted there. */
static bool new_head(const char *path, uint8_t head[HEAD_BYTES], uint8_t out[KEY_BYTES]) {
    uint8_t key[KEY_BYTES];

    if (!find_writing(path, key, head + MAGIC_BYTES))
        return false;
    memcpy(head, MAGIC, MAGIC_BYTES);
    if (RAND_bytes(head + MAGIC_BYTES + ID_BYTES, NONCE_BYTES) != 1)
        abort();
    derive(key, "consilium file 1", head + MAGIC_BYTES + ID_BYTES, NONCE_BYTES, out);
    OPENSSL_cleanse(key, sizeof key);
    return true;
}

/* ---- counter mode ---- */

static void crypt_bytes(const uint8_t *key, const uint8_t *in, uint8_t *out, size_t n,
                        uint64_t at) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint8_t iv[AES_BLOCK] = {0}, none[AES_BLOCK] = {0};
    int done;

    for (unsigned i = 0; i < 8; i++)
        iv[15 - i] = (uint8_t)(at / AES_BLOCK >> 8 * i);
    bool good = ctx && EVP_EncryptInit_ex(ctx, EVP_aes_256_ctr(), NULL, key, iv) == 1;
    if (good && at % AES_BLOCK) /* what lies before it in its block */
        good = EVP_EncryptUpdate(ctx, none, &done, none, (int)(at % AES_BLOCK)) == 1;
    while (good && n > 0) {
        size_t m = n < ONCE_BYTES ? n : ONCE_BYTES;
        good = EVP_EncryptUpdate(ctx, out, &done, in, (int)m) == 1;
        in += m;
        out += m;
        n -= m;
    }
    if (!good)
        abort(); /* it has nothing to fail on but memory, and half of a file must not be plain */
    EVP_CIPHER_CTX_free(ctx);
}

/* ---- files ---- */

static enum tier_status write_front(const char *path, int fd, const uint8_t head[HEAD_BYTES],
                                    struct tier_err *err) {
    uint8_t front[TIER_CIPHER_FRONT] = {0};

    memcpy(front, head, HEAD_BYTES);
    for (size_t done = 0; done < sizeof front;) {
        ssize_t k = pwrite(fd, front + done, sizeof front - done, (off_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, errno == EFBIG ? TIER_EFULL : TIER_EIO, "cannot write %s",
                                   path);
        done += (size_t)k;
    }
    return TIER_OK;
}

enum tier_status tier_cipher_new(const char *path, int fd, struct tier_cipher *out,
                                 struct tier_err *err) {
    struct tier_cipher c = {.front = 0};
    uint8_t head[HEAD_BYTES];

    if (new_head(path, head, c.key)) {
        TIER_TRY(write_front(path, fd, head, err));
        c.front = TIER_CIPHER_FRONT;
    }
    *out = c;
    return TIER_OK;
}

bool tier_cipher_wanted(const char *path) {
    uint8_t key[KEY_BYTES], id[ID_BYTES];
    bool wanted = find_writing(path, key, id);

    OPENSSL_cleanse(key, sizeof key);
    return wanted;
}

enum tier_status tier_cipher_of(const char *path, int fd, struct tier_cipher *out,
                                struct tier_err *err) {
    struct tier_cipher c = {.front = 0};
    uint8_t head[HEAD_BYTES];
    ssize_t n;

    do
        n = pread(fd, head, sizeof head, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != ESPIPE && errno != EISDIR) /* what is no file is plain */
        return tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    if (n == (ssize_t)sizeof head && memcmp(head, MAGIC, MAGIC_BYTES) == 0) {
        TIER_TRY(key_for(path, head, c.key, err));
        c.front = TIER_CIPHER_FRONT;
    }
    *out = c;
    return TIER_OK;
}

void tier_cipher_wipe(struct tier_cipher *c) {
    OPENSSL_cleanse(c, sizeof *c);
}

uint64_t tier_cipher_bytes(const struct tier_cipher *c, uint64_t size) {
    return size > c->front ? size - c->front : 0;
}

ssize_t tier_cipher_pread(const struct tier_cipher *c, int fd, void *out, size_t n, uint64_t at) {
    ssize_t k = pread(fd, out, n, (off_t)(c->front + at));

    if (c->front && k > 0)
        crypt_bytes(c->key, out, out, (size_t)k, at);
    return k;
}

ssize_t tier_cipher_pwrite(const struct tier_cipher *c, int fd, const void *data, size_t n,
                           uint64_t at) {
    const struct iovec slice = {(void *)data, n};
    return tier_cipher_pwritev(c, fd, &slice, 1, at);
}

/* As much of the slices as fits, or SCRATCH_BYTES; encrypted slice by slice where it comes to lie.
 */
static size_t gather(const struct tier_cipher *c, const struct iovec *slices, int count,
                     size_t *skip, int *first, uint64_t at, uint8_t *out) {
    size_t n = 0;

    while (*first < count && n < SCRATCH_BYTES) {
        size_t left = slices[*first].iov_len - *skip;
        size_t m = left < SCRATCH_BYTES - n ? left : SCRATCH_BYTES - n;
        if (m > 0)
            crypt_bytes(c->key, (const uint8_t *)slices[*first].iov_base + *skip, out + n, m,
                        at + n);
        n += m;
        *skip += m;
        if (*skip == slices[*first].iov_len) {
            *skip = 0;
            ++*first;
        }
    }
    return n;
}

ssize_t tier_cipher_pwritev(const struct tier_cipher *c, int fd, const struct iovec *slices,
                            int count, uint64_t at) {
    static _Thread_local uint8_t scratch[SCRATCH_BYTES];
    size_t total = 0, skip = 0;
    int first = 0;

    if (!c->front)
        return pwritev(fd, slices, count, (off_t)at);
    for (;;) {
        size_t n = gather(c, slices, count, &skip, &first, at + total, scratch);
        if (n == 0)
            return (ssize_t)total;
        ssize_t k = pwrite(fd, scratch, n, (off_t)(c->front + at + total));
        if (k < 0)
            return total > 0 ? (ssize_t)total : k;
        total += (size_t)k;
        if ((size_t)k < n)
            return (ssize_t)total;
    }
}

/* ---- a few bytes ---- */

bool tier_vault_seal(const char *path, const void *bytes, size_t n, uint8_t *sealed) {
    uint8_t key[KEY_BYTES];

    if (!new_head(path, sealed, key))
        return false;
    crypt_bytes(key, bytes, sealed + HEAD_BYTES, n, 0);
    OPENSSL_cleanse(key, sizeof key);
    return true;
}

enum tier_status tier_vault_unseal(const char *path, const uint8_t *sealed, size_t n, void *bytes,
                                   struct tier_err *err) {
    uint8_t key[KEY_BYTES];

    if (memcmp(sealed, MAGIC, MAGIC_BYTES) != 0)
        return tier_fail(err, TIER_ECORRUPT, "%s: what should be encrypted there is not", path);
    TIER_TRY(key_for(path, sealed, key, err));
    crypt_bytes(key, sealed + HEAD_BYTES, bytes, n, 0);
    OPENSSL_cleanse(key, sizeof key);
    return TIER_OK;
}
