/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The directory and its sealed files. There is no index in memory: a name is a hash, so the file
 * system's own lookup is the index, and a spool that was copied elsewhere works as it is.
 */
#include "tier/spool_private.h"

#include "tier/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct tier_update {
    const struct tier_spool *spool;
    struct tier_hash id;
    struct tier_update_header header;
    uint8_t *bytes; /* the encoded header; NULL once trimmed */
    size_t len;
    uint64_t payload_at;
    int fd;                    /* -1 once trimmed without its file */
    struct tier_cipher cipher; /* of fd */
};

enum tier_status tier_spool_open(const char *dir, bool strict, struct tier_spool **out,
                                 struct tier_err *err) {
    struct tier_spool *spool = calloc(1, sizeof *spool);

    if (!spool || !(spool->dir = strdup(dir))) {
        free(spool);
        return tier_fail(err, TIER_ENOMEM, "no memory for the spool %s", dir);
    }
    spool->strict = strict;
    pthread_mutex_init(&spool->lock, NULL);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        enum tier_status st = tier_fail_errno(err, TIER_EIO, "cannot make the spool %s", dir);
        free(spool->dir);
        free(spool);
        return st;
    }
    spool->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (spool->dirfd < 0) {
        enum tier_status st = tier_fail_errno(err, TIER_EIO, "cannot open the spool %s", dir);
        free(spool->dir);
        free(spool);
        return st;
    }
    *out = spool;
    return TIER_OK;
}

void tier_spool_close(struct tier_spool *spool) {
    if (!spool)
        return;
    tier_spool_forget_old(spool);
    close(spool->dirfd);
    pthread_mutex_destroy(&spool->lock);
    free(spool->dir);
    free(spool);
}

static enum tier_status to_folder(struct tier_spool *spool, const struct tier_hash *id,
                                  const char *dir, bool stays, struct tier_err *err) {
    char name[TIER_SPOOL_NAME], path[PATH_MAX];

    tier_spool_name(id, TIER_SPOOL_SEALED, name);
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return tier_fail(err, TIER_EARG, "%s: the path is too long", dir);
    if (stays ? linkat(spool->dirfd, name, AT_FDCWD, path, 0) == 0 || errno == EEXIST
              : renameat(spool->dirfd, name, AT_FDCWD, path) == 0)
        return TIER_OK;
    return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO,
                           "%s/%s cannot go to %s", spool->dir, name, dir);
}

enum tier_status tier_spool_give(struct tier_spool *spool, const struct tier_hash *id,
                                 const char *dir, struct tier_err *err) {
    return to_folder(spool, id, dir, false, err);
}

enum tier_status tier_spool_share(struct tier_spool *spool, const struct tier_hash *id,
                                  const char *dir, struct tier_err *err) {
    return to_folder(spool, id, dir, true, err);
}

const char *tier_spool_name(const struct tier_hash *id, enum tier_spool_kind kind, char *name) {
    tier_hash_hex(id, name);
    snprintf(name + TIER_HASH_HEX - 1, TIER_SPOOL_NAME - TIER_HASH_HEX + 1, "%s",
             kind == TIER_SPOOL_SEALED ? ".upd" : ".part");
    return name;
}

uint64_t tier_spool_payload_at(size_t header_len) {
    size_t least = header_len + TIER_SPOOL_MARK;
    return (least + TIER_SPOOL_ALIGN - 1) / TIER_SPOOL_ALIGN * TIER_SPOOL_ALIGN;
}

typedef enum tier_status cipher_fn(const char *path, int fd, struct tier_cipher *out,
                                   struct tier_err *err);

static enum tier_status cipher_by(cipher_fn *fn, const struct tier_spool *spool, int fd,
                                  const char *name, struct tier_cipher *out, struct tier_err *err) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", spool->dir, name);

    if (n < 0 || (size_t)n >= sizeof path)
        return tier_fail(err, TIER_EARG, "%s: the path is too long", spool->dir);
    return fn(path, fd, out, err);
}

enum tier_status tier_spool_cipher_of(const struct tier_spool *spool, int fd, const char *name,
                                      struct tier_cipher *out, struct tier_err *err) {
    return cipher_by(tier_cipher_of, spool, fd, name, out, err);
}

enum tier_status tier_spool_cipher_new(const struct tier_spool *spool, int fd, const char *name,
                                       struct tier_cipher *out, struct tier_err *err) {
    return cipher_by(tier_cipher_new, spool, fd, name, out, err);
}

enum tier_status tier_spool_pread(const struct tier_spool *spool, const struct tier_cipher *cipher,
                                  int fd, const char *name, void *out, size_t n, uint64_t offset,
                                  struct tier_err *err) {
    uint8_t *p = out;

    while (n > 0) {
        ssize_t got = tier_cipher_pread(cipher, fd, p, n, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read %s/%s", spool->dir, name);
        if (got == 0)
            return tier_fail(err, TIER_ECORRUPT,
                             "%s/%s ends at byte %" PRIu64 ", where more should be", spool->dir,
                             name, offset);
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return TIER_OK;
}

bool tier_spool_has(const struct tier_spool *spool, const struct tier_hash *id) {
    char name[TIER_SPOOL_NAME];

    return faccessat(spool->dirfd, tier_spool_name(id, TIER_SPOOL_SEALED, name), F_OK, 0) == 0;
}

enum tier_status tier_spool_delete(struct tier_spool *spool, const struct tier_hash *id,
                                   struct tier_err *err) {
    for (int kind = TIER_SPOOL_SEALED; kind <= TIER_SPOOL_PART; kind++) {
        char name[TIER_SPOOL_NAME];
        tier_spool_name(id, (enum tier_spool_kind)kind, name);
        if (kind == TIER_SPOOL_SEALED && tier_spool_recycle(spool, name))
            continue;
        if (unlinkat(spool->dirfd, name, 0) != 0 && errno != ENOENT)
            return tier_fail_errno(err, TIER_EIO, "cannot delete %s/%s", spool->dir, name);
    }
    return TIER_OK;
}

enum tier_status tier_spool_sync(const struct tier_spool *spool, const struct tier_hash *id,
                                 struct tier_err *err) {
    char name[TIER_SPOOL_NAME];
    enum tier_status st = TIER_OK;

    tier_spool_name(id, TIER_SPOOL_SEALED, name);
    int fd = openat(spool->dirfd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0 || fsync(spool->dirfd) != 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot sync %s/%s", spool->dir, name);
    if (fd >= 0)
        close(fd);
    return st;
}

/* ---- walking the directory ------------------------------------------------------------------- */

enum entry_kind { ENTRY_FOREIGN, ENTRY_SEALED, ENTRY_PART, ENTRY_TMP };

static enum entry_kind entry_kind_of(const char *name, struct tier_hash *id) {
    char hex[TIER_HASH_HEX];
    size_t n = strlen(name);

    if (n > 4 && strspn(name, "0123456789") == n - 4 &&
        (strcmp(name + n - 4, ".tmp") == 0 || strcmp(name + n - 4, TIER_SPOOL_OLD) == 0))
        return ENTRY_TMP;
    if (n < TIER_HASH_HEX)
        return ENTRY_FOREIGN;
    memcpy(hex, name, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    if (!tier_hash_parse(hex, id))
        return ENTRY_FOREIGN;
    if (strcmp(name + TIER_HASH_HEX - 1, ".upd") == 0)
        return ENTRY_SEALED;
    return strcmp(name + TIER_HASH_HEX - 1, ".part") == 0 ? ENTRY_PART : ENTRY_FOREIGN;
}

typedef enum tier_status walk_step(void *arg, const char *name, enum entry_kind kind,
                                   const struct tier_hash *id, struct tier_err *err);

static enum tier_status walk(const struct tier_spool *spool, walk_step *step, void *arg,
                             struct tier_err *err) {
    enum tier_status st = TIER_OK;
    int fd = openat(spool->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        st = tier_fail_errno(err, TIER_EIO, "cannot list the spool %s", spool->dir);
        if (fd >= 0)
            close(fd);
        return st;
    }
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e) {
            if (errno != 0)
                st = tier_fail_errno(err, TIER_EIO, "cannot list the spool %s", spool->dir);
            break;
        }
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        struct tier_hash id = {{0}};
        enum entry_kind kind = entry_kind_of(e->d_name, &id);
        TIER_TRY_OUT(step(arg, e->d_name, kind, &id, err));
    }
out:
    closedir(dir);
    return st;
}

struct sweep {
    struct tier_spool *spool;
    tier_spool_keep *keep;
    void *arg;
};

static enum tier_status sweep_step(void *arg, const char *name, enum entry_kind kind,
                                   const struct tier_hash *id, struct tier_err *err) {
    const struct sweep *s = arg;

    if (kind == ENTRY_FOREIGN) {
        tier_log_warn("%s/%s is not a spool's file and is left alone", s->spool->dir, name);
        return TIER_OK;
    }
    if (kind != ENTRY_TMP && s->keep(s->arg, id, kind == ENTRY_SEALED))
        return TIER_OK;
    if (unlinkat(s->spool->dirfd, name, 0) != 0 && errno != ENOENT)
        return tier_fail_errno(err, TIER_EIO, "cannot delete %s/%s", s->spool->dir, name);
    return TIER_OK;
}

enum tier_status tier_spool_sweep(struct tier_spool *spool, tier_spool_keep *keep, void *arg,
                                  struct tier_err *err) {
    struct sweep s = {spool, keep, arg};

    return walk(spool, sweep_step, &s, err);
}

struct total {
    const struct tier_spool *spool;
    uint64_t bytes;
};

static enum tier_status total_step(void *arg, const char *name, enum entry_kind kind,
                                   const struct tier_hash *id, struct tier_err *err) {
    struct total *t = arg;
    struct stat info;

    (void)id;
    if (kind == ENTRY_FOREIGN)
        return TIER_OK;
    if (fstatat(t->spool->dirfd, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) /* sealed or deleted since it was listed */
            return TIER_OK;
        return tier_fail_errno(err, TIER_EIO, "cannot look at %s/%s", t->spool->dir, name);
    }
    t->bytes += (uint64_t)info.st_size;
    return TIER_OK;
}

enum tier_status tier_spool_bytes(const struct tier_spool *spool, uint64_t *out,
                                  struct tier_err *err) {
    struct total t = {spool, 0};

    TIER_TRY(walk(spool, total_step, &t, err));
    *out = t.bytes;
    return TIER_OK;
}

/* ---- sealed files --------------------------------------------------------------------------- */

/* A refusal of bytes that we stored ourselves means that they changed since. */
static enum tier_status damaged(const struct tier_update *u, enum tier_status st,
                                struct tier_err *err) {
    char hex[TIER_HASH_HEX];

    if (st != TIER_EUPDATE)
        return st;
    if (err) {
        tier_err_prefix(err, "the header of %s/%s.upd is damaged", u->spool->dir,
                        tier_hash_hex(&u->id, hex));
        err->status = TIER_ECORRUPT;
    }
    return TIER_ECORRUPT;
}

static enum tier_status read_header(struct tier_update *u, const char *name, struct tier_err *err) {
    uint8_t fixed[TIER_UPDATE_HEADER_BYTES_MIN];
    struct tier_hash actual;
    size_t len;

    TIER_TRY(tier_spool_pread(u->spool, &u->cipher, u->fd, name, fixed, sizeof fixed, 0, err));
    enum tier_status st = tier_update_header_length(fixed, sizeof fixed, &len, err);
    if (st != TIER_OK)
        return damaged(u, st, err);
    u->bytes = malloc(len);
    if (!u->bytes)
        return tier_fail(err, TIER_ENOMEM, "no memory for an update header of %zu bytes", len);
    u->len = len;
    TIER_TRY(tier_spool_pread(u->spool, &u->cipher, u->fd, name, u->bytes, len, 0, err));
    tier_hash_data(u->bytes, len, &actual);
    if (!tier_hash_equal(&actual, &u->id))
        return tier_fail(err, TIER_ECORRUPT,
                         "the header of %s/%s is damaged: it hashes to another "
                         "id",
                         u->spool->dir, name);
    return damaged(u, tier_update_header_decode(u->bytes, len, &u->header, err), err);
}

/* Open for reading, so that nobody writes over it; -1 with ENOENT where it is being deleted. */
static int open_shared(const struct tier_spool *spool, const char *name) {
    int fd = openat(spool->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0) {
        int why = errno == EWOULDBLOCK ? ENOENT : errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

enum tier_status tier_spool_update_open(const struct tier_spool *spool, const struct tier_hash *id,
                                        struct tier_update **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    char name[TIER_SPOOL_NAME];
    struct stat info;
    struct tier_update *u = calloc(1, sizeof *u);

    if (!u)
        return tier_fail(err, TIER_ENOMEM, "no memory for an update");
    u->spool = spool;
    u->id = *id;
    u->fd = open_shared(spool, tier_spool_name(id, TIER_SPOOL_SEALED, name));
    if (u->fd < 0) {
        st = errno == ENOENT
                 ? tier_fail(err, TIER_ENOTFOUND, "no update %s in %s", name, spool->dir)
                 : tier_fail_errno(err, TIER_EIO, "cannot open %s/%s", spool->dir, name);
        goto out;
    }
    TIER_TRY_OUT(tier_spool_cipher_of(spool, u->fd, name, &u->cipher, err));
    TIER_TRY_OUT(read_header(u, name, err));
    if (fstat(u->fd, &info) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot look at %s/%s", spool->dir, name);
        goto out;
    }
    u->payload_at = tier_spool_payload_at(u->len);
    uint64_t bytes = tier_cipher_bytes(&u->cipher, (uint64_t)info.st_size);
    if (bytes != u->payload_at + u->header.payload_bytes) {
        st = tier_fail(err, TIER_ECORRUPT,
                       "%s/%s has %" PRIu64 " bytes; by its header it should have %" PRIu64,
                       spool->dir, name, bytes, u->payload_at + u->header.payload_bytes);
        goto out;
    }
    *out = u;
    u = NULL;
out:
    tier_spool_update_close(u);
    return st;
}

void tier_spool_update_close(struct tier_update *u) {
    if (!u)
        return;
    if (u->fd >= 0)
        close(u->fd);
    tier_update_header_release(&u->header);
    tier_cipher_wipe(&u->cipher);
    free(u->bytes);
    free(u);
}

void tier_spool_update_trim(struct tier_update *u, bool keep_file) {
    tier_metrics_free(u->header.metrics);
    u->header.metrics = NULL;
    free(u->bytes);
    u->bytes = NULL;
    if (!keep_file && u->fd >= 0) {
        close(u->fd);
        u->fd = -1;
    }
}

const struct tier_update_header *tier_spool_update_header(const struct tier_update *u) {
    return &u->header;
}

const struct tier_hash *tier_spool_update_id(const struct tier_update *u) {
    return &u->id;
}

const uint8_t *tier_spool_update_header_bytes(const struct tier_update *u, size_t *len_out) {
    *len_out = u->bytes ? u->len : 0;
    return u->bytes;
}

enum tier_status tier_spool_update_read(const struct tier_update *u, uint64_t offset, void *out,
                                        size_t n, struct tier_err *err) {
    struct tier_cipher cipher = u->cipher;
    enum tier_status st = TIER_OK;
    char name[TIER_SPOOL_NAME];
    int fd = u->fd;

    tier_spool_name(&u->id, TIER_SPOOL_SEALED, name);
    if (offset > u->header.payload_bytes || n > u->header.payload_bytes - offset)
        return tier_fail(err, TIER_EARG,
                         "bytes %" PRIu64 " to %" PRIu64 " of %s, whose payload has %" PRIu64,
                         offset, offset + n, name, u->header.payload_bytes);
    if (fd < 0) {
        fd = open_shared(u->spool, name);
        if (fd < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot open %s/%s", u->spool->dir, name);
        st = tier_spool_cipher_of(u->spool, fd, name, &cipher, err);
    }
    if (st == TIER_OK)
        st = tier_spool_pread(u->spool, &cipher, fd, name, out, n, u->payload_at + offset, err);
    tier_cipher_wipe(&cipher);
    if (fd != u->fd)
        close(fd);
    return st;
}

enum tier_status tier_spool_update_check(const struct tier_update *u, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    char hex[TIER_HASH_HEX];
    struct tier_hash root;
    struct tier_merkle *merkle = tier_merkle_new();
    uint8_t *buffer = malloc(TIER_LEAF_BYTES);

    if (!merkle || !buffer) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to check an update");
        goto out;
    }
    for (uint64_t at = 0; at < u->header.payload_bytes;) {
        uint64_t left = u->header.payload_bytes - at;
        size_t n = left < TIER_LEAF_BYTES ? (size_t)left : TIER_LEAF_BYTES;
        TIER_TRY_OUT(tier_spool_update_read(u, at, buffer, n, err));
        tier_merkle_add(merkle, buffer, n);
        at += n;
    }
    tier_merkle_finish(merkle, &root);
    if (!tier_hash_equal(&root, &u->header.root))
        st = tier_fail(err, TIER_ECORRUPT, "the payload of %s/%s.upd is damaged", u->spool->dir,
                       tier_hash_hex(&u->id, hex));
out:
    tier_merkle_free(merkle);
    free(buffer);
    return st;
}
