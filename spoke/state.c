/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file: eight letters that name the kind, u64 round, run[32], manifest[32], update[32], u64
 * elements, little-endian; float32[elements]; the SHA-256 of all before it. Only the header is read
 * for a commit.
 */
#include "spoke/state.h"

#include "tier/bytes.h"
#include "tier/limits.h"
#include "tier/model.h"
#include "tier/named_file.h"
#include "tier/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are written as they are");

static const struct {
    const char *folder, *magic, *lost; /* magic: 8 bytes; lost: what goes with a damaged file */
} kinds[SPOKE_STATE_KINDS] = {
    [SPOKE_STATE_RESIDUAL] = {"residual", "consres1", "what earlier rounds dropped"},
    [SPOKE_STATE_PRIVATE] = {"private", "conspri1", "the tensors that this hospital keeps"},
    [SPOKE_STATE_CONTROL] = {"control", "consctl1", "this hospital's control variate"},
    [SPOKE_STATE_CURVATURE] = {"curvature", "conscur1",
                               "what this hospital knows to be its own of "
                               "the sums of FedCurv"},
};
enum { MAGIC_BYTES = 8 };

enum {
    AT_ROUND = 8,
    AT_RUN = 16,
    AT_MANIFEST = 48,
    AT_UPDATE = 80,
    AT_ELEMENTS = 112,
    HEAD_BYTES = 120,
};
#define PATH_BYTES 4096
#define PIECE (TIER_CHUNK_BYTES / sizeof(float))

/* "<data_dir>/<folder>/<run><suffix>" */
static void path_of(enum spoke_state kind, const char *data_dir, const struct tier_hash *run,
                    const char *suffix, char *out) {
    char hex[TIER_HASH_HEX];

    snprintf(out, PATH_BYTES, "%s/%s/%s%s", data_dir, kinds[kind].folder, tier_hash_hex(run, hex),
             suffix);
}

static void make_head(enum spoke_state kind, const struct tier_hash *run,
                      const struct tier_manifest *manifest, uint64_t round,
                      const struct tier_hash *id, uint8_t *head) {
    memcpy(head, kinds[kind].magic, MAGIC_BYTES);
    tier_put_u64(head + AT_ROUND, round);
    memcpy(head + AT_RUN, run->b, TIER_HASH_BYTES);
    memcpy(head + AT_MANIFEST, manifest->hash.b, TIER_HASH_BYTES);
    memcpy(head + AT_UPDATE, id->b, TIER_HASH_BYTES);
    tier_put_u64(head + AT_ELEMENTS, manifest->elements);
}

/* One of them, open: encrypted where the data directory is (tier/vault.h). */
struct file {
    int fd;
    uint64_t at;
    struct tier_cipher cipher;
};

/* False with errno 0 where its key is not here, of which err tells. */
static bool open_file(const char *path, struct file *f, struct tier_err *err) {
    *f = (struct file){.fd = open(path, O_RDONLY | O_CLOEXEC)};
    if (f->fd < 0)
        return false;
    if (tier_cipher_of(path, f->fd, &f->cipher, err) == TIER_OK)
        return true;
    close(f->fd);
    f->fd = -1;
    errno = 0;
    return false;
}

static bool make_file(const char *path, struct file *f) {
    *f = (struct file){.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    return f->fd >= 0 && tier_cipher_new(path, f->fd, &f->cipher, NULL) == TIER_OK;
}

static bool close_file(struct file *f) {
    bool good = f->fd < 0 || close(f->fd) == 0;

    tier_cipher_wipe(&f->cipher);
    f->fd = -1;
    return good;
}

/* How many bytes of n there were. */
static size_t take(struct file *f, void *out, size_t n) {
    size_t done = 0;

    while (done < n) {
        ssize_t k = tier_cipher_pread(&f->cipher, f->fd, (char *)out + done, n - done, f->at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            break;
        done += (size_t)k;
        f->at += (uint64_t)k;
    }
    return done;
}

static bool put(struct file *f, const void *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t k =
            tier_cipher_pwrite(&f->cipher, f->fd, (const char *)data + done, n - done, f->at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return false;
        done += (size_t)k;
        f->at += (uint64_t)k;
    }
    return true;
}

static enum tier_status damaged(enum spoke_state kind, const char *path, const char *what,
                                struct tier_err *err) {
    return tier_fail(err, TIER_ECORRUPT, "%s %s; deleting it gives up %s, and the run goes on",
                     path, what, kinds[kind].lost);
}

static enum tier_status read_all(enum spoke_state kind, struct file *f, const char *path,
                                 const struct tier_hash *run, const struct tier_manifest *manifest,
                                 float *out, struct tier_err *err) {
    uint8_t head[HEAD_BYTES];
    struct tier_hash hash, stored;
    size_t n = manifest->elements;
    struct tier_hasher *hasher = tier_hasher_new();
    enum tier_status st = TIER_OK;

    if (!hasher)
        return tier_fail(err, TIER_ENOMEM, "no memory to read %s", path);
    if (take(f, head, sizeof head) != sizeof head ||
        memcmp(head, kinds[kind].magic, MAGIC_BYTES) != 0 ||
        memcmp(head + AT_RUN, run->b, TIER_HASH_BYTES) != 0 ||
        memcmp(head + AT_MANIFEST, manifest->hash.b, TIER_HASH_BYTES) != 0 ||
        tier_get_u64(head + AT_ELEMENTS) != n) {
        st = damaged(kind, path, "is not of this run", err);
        goto out;
    }
    tier_hasher_add(hasher, head, sizeof head);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < PIECE ? n - at : PIECE;
        if (take(f, out + at, m * sizeof *out) != m * sizeof *out) {
            st = damaged(kind, path, "is cut short", err);
            goto out;
        }
        tier_hasher_add(hasher, out + at, m * sizeof *out);
    }
    tier_hasher_finish(hasher, &hash);
    if (take(f, stored.b, TIER_HASH_BYTES) != TIER_HASH_BYTES || take(f, head, 1) != 0 ||
        !tier_hash_equal(&hash, &stored))
        st = damaged(kind, path, "is damaged", err);
out:
    tier_hasher_free(hasher);
    return st;
}

enum tier_status spoke_state_read(enum spoke_state kind, const char *data_dir,
                                  const struct tier_hash *run, const struct tier_manifest *manifest,
                                  float *out, bool *found_out, struct tier_err *err) {
    char path[PATH_BYTES];

    path_of(kind, data_dir, run, ".now", path);
    struct tier_err why = {0};
    struct file f;
    if (!open_file(path, &f, &why)) {
        if (errno == 0)
            return tier_fail(err, why.status, "%s", why.text);
        if (errno != ENOENT)
            return tier_fail_errno(err, TIER_EIO, "cannot open %s", path);
        *found_out = false;
        return TIER_OK;
    }
    enum tier_status st = read_all(kind, &f, path, run, manifest, out, err);
    close_file(&f);
    if (st == TIER_OK)
        *found_out = true;
    return st;
}

uint64_t spoke_state_round(enum spoke_state kind, const char *data_dir,
                           const struct tier_hash *run) {
    char path[PATH_BYTES];
    uint8_t head[HEAD_BYTES];

    path_of(kind, data_dir, run, ".now", path);
    struct file f;
    bool ours = open_file(path, &f, NULL) && take(&f, head, sizeof head) == sizeof head &&
                memcmp(head, kinds[kind].magic, MAGIC_BYTES) == 0 &&
                memcmp(head + AT_RUN, run->b, TIER_HASH_BYTES) == 0;
    close_file(&f);
    return ours ? tier_get_u64(head + AT_ROUND) : 0;
}

static bool write_all(struct file *f, const uint8_t *head, const float *values, size_t n) {
    struct tier_hash hash;
    struct tier_hasher *hasher = tier_hasher_new();
    bool ok = hasher && put(f, head, HEAD_BYTES) && put(f, values, n * sizeof *values);

    if (ok) {
        tier_hasher_add(hasher, head, HEAD_BYTES);
        tier_hasher_add(hasher, values, n * sizeof *values);
        tier_hasher_finish(hasher, &hash);
        ok = put(f, hash.b, TIER_HASH_BYTES);
    }
    tier_hasher_free(hasher);
    return ok && fsync(f->fd) == 0;
}

enum tier_status spoke_state_write(enum spoke_state kind, const char *data_dir,
                                   const struct tier_hash *run,
                                   const struct tier_manifest *manifest, uint64_t round,
                                   const struct tier_hash *id, const float *values,
                                   struct tier_err *err) {
    char path[PATH_BYTES], tmp[PATH_BYTES];
    uint8_t head[HEAD_BYTES];

    snprintf(path, sizeof path, "%s/%s", data_dir, kinds[kind].folder);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    path_of(kind, data_dir, run, ".next", path);
    path_of(kind, data_dir, run, ".tmp", tmp);
    struct file f;
    bool ok = make_file(tmp, &f);
    if (f.fd < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", tmp);
    make_head(kind, run, manifest, round, id, head);
    ok = ok && write_all(&f, head, values, manifest->elements);
    ok = close_file(&f) && ok;
    if (ok && rename(tmp, path) == 0)
        return TIER_OK;
    enum tier_status st = errno == ENOSPC ? TIER_EFULL : TIER_EIO;
    tier_fail_errno(err, st, "cannot write %s", path);
    unlink(tmp);
    return st;
}

/* Whether the file says that it is what this update values. */
static bool is_of(enum spoke_state kind, const char *path, const struct tier_hash *run,
                  uint64_t round, const struct tier_hash *id) {
    uint8_t head[HEAD_BYTES];
    struct file f;
    bool whole = open_file(path, &f, NULL) && take(&f, head, sizeof head) == sizeof head;

    close_file(&f);
    return whole && memcmp(head, kinds[kind].magic, MAGIC_BYTES) == 0 &&
           tier_get_u64(head + AT_ROUND) == round &&
           memcmp(head + AT_RUN, run->b, TIER_HASH_BYTES) == 0 &&
           memcmp(head + AT_UPDATE, id->b, TIER_HASH_BYTES) == 0;
}

enum tier_status spoke_state_commit(enum spoke_state kind, const char *data_dir,
                                    const struct tier_hash *run, uint64_t round,
                                    const struct tier_hash *id, struct tier_err *err) {
    char next[PATH_BYTES], now[PATH_BYTES], dir[PATH_BYTES];

    path_of(kind, data_dir, run, ".next", next);
    path_of(kind, data_dir, run, ".now", now);
    if (!is_of(kind, next, run, round, id))
        return TIER_OK;
    if (rename(next, now) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot rename %s to %s", next, now);
    snprintf(dir, sizeof dir, "%s/%s", data_dir, kinds[kind].folder);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum tier_status st = TIER_OK;
    if (fd < 0 || fsync(fd) != 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot sync %s", dir);
    if (fd >= 0)
        close(fd);
    return st;
}

void spoke_state_drop(enum spoke_state kind, const char *data_dir, const struct tier_hash *run) {
    static const char *const suffixes[] = {".now", ".next", ".tmp"};
    char path[PATH_BYTES];

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        path_of(kind, data_dir, run, suffixes[i], path);
        unlink(path);
    }
}

static enum tier_status write_model(const char *dir, const struct tier_manifest *kept,
                                    const struct tier_kv *metadata, size_t count,
                                    const float *values, const char *path, struct tier_err *err) {
    struct tier_model_writer *w = NULL;
    struct tier_hash hash;
    enum tier_status st;

    TIER_TRY(tier_model_writer_begin(dir, kept, metadata, count, &w, err));
    st = tier_model_writer_append(w, values, kept->elements, err);
    if (st != TIER_OK) {
        tier_model_writer_abort(w);
        return st;
    }
    TIER_TRY(tier_model_writer_finish(w, &hash, err));
    char *named = tier_model_path(dir, &hash);
    if (!named)
        return tier_fail(err, TIER_ENOMEM, "no memory for a path");
    if (rename(named, path) != 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot rename %s to %s", named, path);
    free(named);
    return st;
}

enum tier_status spoke_state_keep_private(const char *data_dir, const struct tier_hash *run,
                                          const struct tier_manifest *kept,
                                          const struct tier_hash *model, char **path_out,
                                          struct tier_err *err) {
    char dir[PATH_BYTES], path[PATH_BYTES], run_hex[TIER_HASH_HEX], model_hex[TIER_HASH_HEX];
    const struct tier_kv metadata[] = {{"format", "pt"},
                                       {"consilium.run", tier_hash_hex(run, run_hex)},
                                       {"consilium.model", tier_hash_hex(model, model_hex)}};
    float *values = malloc(kept->elements * sizeof *values);
    bool found = false;
    enum tier_status st;

    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory for %" PRIu64 " elements", kept->elements);
    TIER_TRY_OUT(spoke_state_read(SPOKE_STATE_PRIVATE, data_dir, run, kept, values, &found, err));
    if (found) {
        snprintf(dir, sizeof dir, "%s/%s", data_dir, kinds[SPOKE_STATE_PRIVATE].folder);
        path_of(SPOKE_STATE_PRIVATE, data_dir, run, ".safetensors", path);
        TIER_TRY_OUT(write_model(dir, kept, metadata, 3, values, path, err));
    }
    *path_out = found ? strdup(path) : NULL;
out:
    free(values);
    return st;
}

void spoke_state_sweep(const char *data_dir) {
    char dir[PATH_BYTES];

    snprintf(dir, sizeof dir, "%s/%s", data_dir, kinds[SPOKE_STATE_PRIVATE].folder);
    tier_named_file_sweep(dir, TIER_MODEL_TEMPORARY);
}
