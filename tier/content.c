/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Received files are not synced: they can be fetched again, and a sync would hold up the loop. What
 * a crash of the machine leaves of them is found at the next start by the boot's id: while the
 * machine stays up, the page cache holds whatever was written, whoever was killed.
 */
#include "tier/content.h"
#include "tier/limits.h"
#include "tier/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLICES_MAX 64
#define BOOT_ID_BYTES 36

struct tier_content_rx {
    int fd;
    struct tier_cipher cipher;
    uint64_t offset;
    struct tier_hash hash;
    struct tier_hasher *hasher;
    char *dir, *part, *path;
};

char *tier_content_path(const char *dir, const struct tier_hash *hash, const char *suffix) {
    char hex[TIER_HASH_HEX], *path;
    if (asprintf(&path, "%s/%s%s", dir, tier_hash_hex(hash, hex), suffix) < 0)
        abort();
    return path;
}

bool tier_content_has(const char *dir, const struct tier_hash *hash, const char *suffix) {
    char *path = tier_content_path(dir, hash, suffix);
    bool has = access(path, R_OK) == 0;
    free(path);
    return has;
}

enum tier_status tier_content_open(const char *dir, const struct tier_hash *hash,
                                   struct tier_content *out, struct tier_err *err) {
    static const char *const suffixes[] = {TIER_CONTENT_MODEL, TIER_CONTENT_DELTA,
                                           TIER_CONTENT_GRAPH, TIER_CONTENT_CARD};
    char hex[TIER_HASH_HEX];
    struct tier_cipher cipher = {.front = 0};
    enum tier_status st = TIER_OK;
    struct stat info;
    int fd = -1;

    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes && fd < 0; i++) {
        char *path = tier_content_path(dir, hash, suffixes[i]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            st = tier_cipher_of(path, fd, &cipher, err);
        free(path);
    }
    if (st != TIER_OK) {
        close(fd);
        return st;
    }
    if (fd < 0)
        return tier_fail(err, TIER_ENOTFOUND, "no content with SHA-256 %s here",
                         tier_hash_hex(hash, hex));
    if (fstat(fd, &info) != 0) {
        close(fd);
        return tier_fail_errno(err, TIER_EIO, "cannot read content %s", tier_hash_hex(hash, hex));
    }
    *out = (struct tier_content){fd, tier_cipher_bytes(&cipher, (uint64_t)info.st_size), cipher};
    return TIER_OK;
}

void tier_content_close(struct tier_content *c) {
    if (c->fd >= 0)
        close(c->fd);
    tier_cipher_wipe(&c->cipher);
    c->fd = -1;
}

enum tier_status tier_content_read(void *content, uint64_t offset, void *out, size_t n,
                                   struct tier_err *err) {
    const struct tier_content *c = content;
    for (size_t done = 0; done < n;) {
        ssize_t k =
            tier_cipher_pread(&c->cipher, c->fd, (char *)out + done, n - done, offset + done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read content");
        if (k == 0)
            return tier_fail(err, TIER_ECORRUPT, "content is shorter than it was");
        done += (size_t)k;
    }
    return TIER_OK;
}

/* ---- after a crash of the machine ---- */

static bool read_text(const char *path, char *text, size_t n) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && read(fd, text, n) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    return ok;
}

static enum tier_status hash_file(const char *path, struct tier_hash *out, struct tier_err *err) {
    uint8_t *buffer = malloc(TIER_CHUNK_BYTES);
    struct tier_hasher *hasher = tier_hasher_new();
    struct tier_cipher cipher = {.front = 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum tier_status st = TIER_OK;
    uint64_t at = 0;
    ssize_t k = 1;

    if (!buffer || !hasher) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to check %s", path);
        goto out;
    }
    if (fd >= 0)
        TIER_TRY_OUT(tier_cipher_of(path, fd, &cipher, err));
    for (; fd >= 0 && (k = tier_cipher_pread(&cipher, fd, buffer, TIER_CHUNK_BYTES, at)) > 0;
         at += (uint64_t)k)
        tier_hasher_add(hasher, buffer, (size_t)k);
    if (fd < 0 || k < 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    else
        tier_hasher_finish(hasher, out);
out:
    if (fd >= 0)
        close(fd);
    tier_cipher_wipe(&cipher);
    tier_hasher_free(hasher);
    free(buffer);
    return st;
}

enum tier_status tier_content_check(const char *dir, const struct tier_hash *hash,
                                    const char *suffix, struct tier_err *err) {
    char *path = tier_content_path(dir, hash, suffix);
    struct tier_hash actual;
    enum tier_status st = access(path, F_OK) == 0
                              ? hash_file(path, &actual, err)
                              : tier_fail(err, TIER_ENOTFOUND, "%s is not there", path);

    if (st == TIER_OK && !tier_hash_equal(hash, &actual)) {
        tier_log_error("%s is damaged, and is deleted", path);
        st = unlink(path) == 0 ? tier_fail(err, TIER_ECORRUPT, "%s was damaged", path)
                               : tier_fail_errno(err, TIER_EIO, "cannot delete %s", path);
    }
    free(path);
    return st;
}

static enum tier_status check_entry(const char *dir, const char *name, struct tier_err *err) {
    char hex[TIER_HASH_HEX];
    struct tier_hash named;

    if (strlen(name) < TIER_HASH_HEX)
        return TIER_OK;
    memcpy(hex, name, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    const char *suffix = name + TIER_HASH_HEX - 1;
    if (!tier_hash_parse(hex, &named) ||
        (strcmp(suffix, TIER_CONTENT_GRAPH) != 0 && strcmp(suffix, TIER_CONTENT_MODEL) != 0 &&
         strcmp(suffix, TIER_CONTENT_CARD) != 0))
        return TIER_OK;
    enum tier_status st = tier_content_check(dir, &named, suffix, err);
    if (st == TIER_EIDENTITY) /* it looks encrypted, as a parent may make a file look */
        tier_log_warn("%s/%s is left alone: %s", dir, name, err->text);
    return st == TIER_ECORRUPT || st == TIER_EIDENTITY ? TIER_OK : st;
}

enum tier_status tier_content_sweep(const char *dir, struct tier_err *err) {
    char now[BOOT_ID_BYTES] = {0}, then[BOOT_ID_BYTES], *mark = NULL;
    enum tier_status st = TIER_OK;
    DIR *d = NULL;

    if (asprintf(&mark, "%s/.boot", dir) < 0)
        abort();
    /* Where the system gives no id, every start checks. */
    bool known = read_text("/proc/sys/kernel/random/boot_id", now, sizeof now);
    if (known && read_text(mark, then, sizeof then) && memcmp(now, then, sizeof now) == 0)
        goto out;
    d = opendir(dir);
    if (!d) {
        st = tier_fail_errno(err, TIER_EIO, "cannot list %s", dir);
        goto out;
    }
    for (const struct dirent *e; (e = readdir(d)) != NULL;)
        TIER_TRY_OUT(check_entry(dir, e->d_name, err));
    int fd = known ? open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (known && (fd < 0 || write(fd, now, sizeof now) != (ssize_t)sizeof now))
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", mark);
    if (fd >= 0)
        close(fd);
out:
    if (d)
        closedir(d);
    free(mark);
    return st;
}

/* ---- receiving ---- */

static enum tier_status rehash(struct tier_content_rx *rx, struct tier_err *err) {
    uint8_t *buffer = malloc(TIER_CHUNK_BYTES);
    enum tier_status st = buffer ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory to resume");

    while (st == TIER_OK) {
        ssize_t k = tier_cipher_pread(&rx->cipher, rx->fd, buffer, TIER_CHUNK_BYTES, rx->offset);
        if (k < 0)
            st = tier_fail_errno(err, TIER_EIO, "cannot read %s", rx->part);
        if (k <= 0)
            break;
        tier_hasher_add(rx->hasher, buffer, (size_t)k);
        rx->offset += (uint64_t)k;
    }
    free(buffer);
    return st;
}

/* What came is gone on with where it is stored as a new file would be; else it comes again. */
static enum tier_status rx_cipher(struct tier_content_rx *rx, struct tier_err *err) {
    bool sealed = tier_cipher_wanted(rx->part);
    struct stat info;

    if (fstat(rx->fd, &info) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot look at %s", rx->part);
    if (info.st_size > 0 && tier_cipher_of(rx->part, rx->fd, &rx->cipher, NULL) == TIER_OK &&
        (rx->cipher.front > 0) == sealed)
        return TIER_OK;
    if (ftruncate(rx->fd, 0) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", rx->part);
    return tier_cipher_new(rx->part, rx->fd, &rx->cipher, err);
}

enum tier_status tier_content_rx_open(const char *dir, const struct tier_hash *hash,
                                      const char *suffix, struct tier_content_rx **out,
                                      struct tier_err *err) {
    struct tier_content_rx *rx = calloc(1, sizeof *rx);
    if (!rx)
        return tier_fail(err, TIER_ENOMEM, "no memory to receive content");
    rx->hash = *hash;
    rx->dir = strdup(dir);
    rx->path = tier_content_path(dir, hash, suffix);
    rx->part = tier_content_path(dir, hash, ".part");
    rx->hasher = tier_hasher_new();
    if (!rx->dir || !rx->hasher)
        abort();
    rx->fd = open(rx->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    enum tier_status st = rx->fd < 0 ? tier_fail_errno(err, TIER_EIO, "cannot write %s", rx->part)
                                     : rx_cipher(rx, err);
    if (st == TIER_OK)
        st = rehash(rx, err);
    if (st != TIER_OK) {
        tier_content_rx_close(rx);
        return st;
    }
    *out = rx;
    return TIER_OK;
}

uint64_t tier_content_rx_offset(const struct tier_content_rx *rx) {
    return rx->offset;
}

static enum tier_status write_all(int fd, const void *data, size_t n, const char *path,
                                  struct tier_err *err) {
    struct tier_cipher cipher;

    TIER_TRY(tier_cipher_new(path, fd, &cipher, err));
    for (size_t done = 0; done < n;) {
        ssize_t k = tier_cipher_pwrite(&cipher, fd, (const char *)data + done, n - done, done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
        done += (size_t)k;
    }
    return TIER_OK;
}

enum tier_status tier_content_rx_writev(struct tier_content_rx *rx, const struct iovec *slices,
                                        size_t count, struct tier_err *err) {
    struct iovec left[SLICES_MAX];

    for (size_t at = 0; at < count; at += SLICES_MAX) {
        size_t n = count - at < SLICES_MAX ? count - at : SLICES_MAX, first = 0;
        memcpy(left, slices + at, n * sizeof *left);
        while (first < n) {
            ssize_t k = tier_cipher_pwritev(&rx->cipher, rx->fd, left + first, (int)(n - first),
                                            rx->offset);
            if (k < 0 && errno == EINTR)
                continue;
            if (k < 0)
                return tier_fail_errno(err, TIER_EIO, "cannot write %s", rx->part);
            for (rx->offset += (uint64_t)k; first < n && left[first].iov_len <= (size_t)k; first++)
                k -= (ssize_t)left[first].iov_len;
            if (first < n) {
                left[first].iov_base = (uint8_t *)left[first].iov_base + k;
                left[first].iov_len -= (size_t)k;
            }
        }
        for (size_t i = at; i < at + n; i++)
            tier_hasher_add(rx->hasher, slices[i].iov_base, slices[i].iov_len);
    }
    return TIER_OK;
}

static enum tier_status publish(int fd, const char *part, const char *path, const char *dir,
                                struct tier_err *err) {
    if (fsync(fd) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot sync %s", part);
    if (rename(part, path) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot rename %s", part);
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 || fsync(dir_fd) != 0) {
        enum tier_status st = tier_fail_errno(err, TIER_EIO, "cannot sync %s", dir);
        if (dir_fd >= 0)
            close(dir_fd);
        return st;
    }
    close(dir_fd);
    return TIER_OK;
}

enum tier_status tier_content_rx_finish(struct tier_content_rx *rx, struct tier_err *err) {
    struct tier_hash got;
    char hex[TIER_HASH_HEX];
    enum tier_status st = TIER_OK;

    tier_hasher_finish(rx->hasher, &got);
    if (tier_hash_equal(&got, &rx->hash)) {
        if (rename(rx->part, rx->path) != 0)
            st = tier_fail_errno(err, TIER_EIO, "cannot rename %s", rx->part);
    } else {
        unlink(rx->part);
        st = tier_fail(err, TIER_ECORRUPT,
                       "content %s arrived damaged and was thrown away: its SHA-256 is another",
                       tier_hash_hex(&rx->hash, hex));
    }
    tier_content_rx_close(rx);
    return st;
}

void tier_content_rx_close(struct tier_content_rx *rx) {
    if (!rx)
        return;
    if (rx->fd >= 0)
        close(rx->fd);
    tier_cipher_wipe(&rx->cipher);
    tier_hasher_free(rx->hasher);
    free(rx->dir);
    free(rx->part);
    free(rx->path);
    free(rx);
}

void tier_content_rx_discard(struct tier_content_rx *rx) {
    if (rx)
        unlink(rx->part);
    tier_content_rx_close(rx);
}

enum tier_status tier_content_store(const char *dir, const char *suffix, const void *data,
                                    size_t bytes, struct tier_hash *hash_out,
                                    struct tier_err *err) {
    struct tier_hash hash;
    enum tier_status st = TIER_OK;

    tier_hash_data(data, bytes, &hash);
    char *path = tier_content_path(dir, &hash, suffix);
    char *part = tier_content_path(dir, &hash, ".tmp");
    if (access(path, R_OK) != 0) {
        int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0)
            st = tier_fail_errno(err, TIER_EIO, "cannot write %s", part);
        else
            st = write_all(fd, data, bytes, part, err);
        if (st == TIER_OK)
            st = publish(fd, part, path, dir, err);
        if (fd >= 0)
            close(fd);
        if (st != TIER_OK)
            unlink(part);
    }
    free(part);
    free(path);
    if (st == TIER_OK)
        *hash_out = hash;
    return st;
}
