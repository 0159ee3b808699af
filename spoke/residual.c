/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file: "consres1", u64 round, run[32], manifest[32], update[32], u64 elements, little-endian;
 * float32[elements]; the SHA-256 of all before it. Only the header is read for a commit.
 */
#include "spoke/residual.h"

#include "tier/bytes.h"
#include "tier/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are written as they are");

static const char magic[8] = "consres1";

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

/* "<data_dir>/residual/<run><suffix>" */
static void path_of(const char *data_dir, const struct tier_hash *run, const char *suffix,
                    char *out) {
    char hex[TIER_HASH_HEX];

    snprintf(out, PATH_BYTES, "%s/residual/%s%s", data_dir, tier_hash_hex(run, hex), suffix);
}

static void make_head(const struct tier_hash *run, const struct tier_manifest *manifest,
                      uint64_t round, const struct tier_hash *id, uint8_t *head) {
    memcpy(head, magic, sizeof magic);
    tier_put_u64(head + AT_ROUND, round);
    memcpy(head + AT_RUN, run->b, TIER_HASH_BYTES);
    memcpy(head + AT_MANIFEST, manifest->hash.b, TIER_HASH_BYTES);
    memcpy(head + AT_UPDATE, id->b, TIER_HASH_BYTES);
    tier_put_u64(head + AT_ELEMENTS, manifest->elements);
}

static enum tier_status damaged(const char *path, const char *what, struct tier_err *err) {
    return tier_fail(err, TIER_ECORRUPT,
                     "%s %s; deleting it gives up what earlier rounds dropped, and the run goes on",
                     path, what);
}

static enum tier_status read_all(FILE *f, const char *path, const struct tier_hash *run,
                                 const struct tier_manifest *manifest, float *out,
                                 struct tier_err *err) {
    uint8_t head[HEAD_BYTES];
    struct tier_hash hash, stored;
    size_t n = manifest->elements;
    struct tier_hasher *hasher = tier_hasher_new();
    enum tier_status st = TIER_OK;

    if (!hasher)
        return tier_fail(err, TIER_ENOMEM, "no memory to read %s", path);
    if (fread(head, 1, sizeof head, f) != sizeof head || memcmp(head, magic, sizeof magic) != 0 ||
        memcmp(head + AT_RUN, run->b, TIER_HASH_BYTES) != 0 ||
        memcmp(head + AT_MANIFEST, manifest->hash.b, TIER_HASH_BYTES) != 0 ||
        tier_get_u64(head + AT_ELEMENTS) != n) {
        st = damaged(path, "is not of this run", err);
        goto out;
    }
    tier_hasher_add(hasher, head, sizeof head);
    for (size_t at = 0, m; at < n; at += m) {
        m = n - at < PIECE ? n - at : PIECE;
        if (fread(out + at, sizeof *out, m, f) != m) {
            st = damaged(path, "is cut short", err);
            goto out;
        }
        tier_hasher_add(hasher, out + at, m * sizeof *out);
    }
    tier_hasher_finish(hasher, &hash);
    if (fread(stored.b, 1, TIER_HASH_BYTES, f) != TIER_HASH_BYTES || fgetc(f) != EOF ||
        !tier_hash_equal(&hash, &stored))
        st = damaged(path, "is damaged", err);
out:
    tier_hasher_free(hasher);
    return st;
}

enum tier_status spoke_residual_read(const char *data_dir, const struct tier_hash *run,
                                     const struct tier_manifest *manifest, float *out,
                                     struct tier_err *err) {
    char path[PATH_BYTES];

    path_of(data_dir, run, ".now", path);
    FILE *f = fopen(path, "rbe");
    if (!f && errno != ENOENT)
        return tier_fail_errno(err, TIER_EIO, "cannot open %s", path);
    if (!f) {
        memset(out, 0, manifest->elements * sizeof *out);
        return TIER_OK;
    }
    enum tier_status st = read_all(f, path, run, manifest, out, err);
    fclose(f);
    return st;
}

static bool write_all(FILE *f, const uint8_t *head, const float *dropped, size_t n) {
    struct tier_hash hash;
    struct tier_hasher *hasher = tier_hasher_new();
    bool ok = hasher && fwrite(head, 1, HEAD_BYTES, f) == HEAD_BYTES &&
              fwrite(dropped, sizeof *dropped, n, f) == n;

    if (ok) {
        tier_hasher_add(hasher, head, HEAD_BYTES);
        tier_hasher_add(hasher, dropped, n * sizeof *dropped);
        tier_hasher_finish(hasher, &hash);
        ok = fwrite(hash.b, 1, TIER_HASH_BYTES, f) == TIER_HASH_BYTES;
    }
    tier_hasher_free(hasher);
    return ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
}

enum tier_status spoke_residual_write(const char *data_dir, const struct tier_hash *run,
                                      const struct tier_manifest *manifest, uint64_t round,
                                      const struct tier_hash *id, const float *dropped,
                                      struct tier_err *err) {
    char path[PATH_BYTES], tmp[PATH_BYTES];
    uint8_t head[HEAD_BYTES];

    snprintf(path, sizeof path, "%s/residual", data_dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    path_of(data_dir, run, ".next", path);
    path_of(data_dir, run, ".tmp", tmp);
    FILE *f = fopen(tmp, "wbe");
    if (!f)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", tmp);
    make_head(run, manifest, round, id, head);
    bool ok = write_all(f, head, dropped, manifest->elements);
    ok = fclose(f) == 0 && ok;
    if (ok && rename(tmp, path) == 0)
        return TIER_OK;
    enum tier_status st = errno == ENOSPC ? TIER_EFULL : TIER_EIO;
    tier_fail_errno(err, st, "cannot write %s", path);
    unlink(tmp);
    return st;
}

/* Whether the file says that it is what this update dropped. */
static bool is_of(const char *path, const struct tier_hash *run, uint64_t round,
                  const struct tier_hash *id) {
    uint8_t head[HEAD_BYTES];
    FILE *f = fopen(path, "rbe");
    bool whole = f && fread(head, 1, sizeof head, f) == sizeof head;

    if (f)
        fclose(f);
    return whole && memcmp(head, magic, sizeof magic) == 0 &&
           tier_get_u64(head + AT_ROUND) == round &&
           memcmp(head + AT_RUN, run->b, TIER_HASH_BYTES) == 0 &&
           memcmp(head + AT_UPDATE, id->b, TIER_HASH_BYTES) == 0;
}

enum tier_status spoke_residual_commit(const char *data_dir, const struct tier_hash *run,
                                       uint64_t round, const struct tier_hash *id,
                                       struct tier_err *err) {
    char next[PATH_BYTES], now[PATH_BYTES], dir[PATH_BYTES];

    path_of(data_dir, run, ".next", next);
    path_of(data_dir, run, ".now", now);
    if (!is_of(next, run, round, id))
        return TIER_OK;
    if (rename(next, now) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot rename %s to %s", next, now);
    snprintf(dir, sizeof dir, "%s/residual", data_dir);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    enum tier_status st = TIER_OK;
    if (fd < 0 || fsync(fd) != 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot sync %s", dir);
    if (fd >= 0)
        close(fd);
    return st;
}

void spoke_residual_drop(const char *data_dir, const struct tier_hash *run) {
    static const char *const suffixes[] = {".now", ".next", ".tmp"};
    char path[PATH_BYTES];

    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        path_of(data_dir, run, suffixes[i], path);
        unlink(path);
    }
}
