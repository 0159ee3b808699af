/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/content.h"
#include "tier/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct tier_content_rx {
    int fd;
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
    static const char *const suffixes[] = {TIER_CONTENT_MODEL, TIER_CONTENT_GRAPH};
    char hex[TIER_HASH_HEX];
    struct stat info;
    int fd = -1;

    for (size_t i = 0; i < 2 && fd < 0; i++) {
        char *path = tier_content_path(dir, hash, suffixes[i]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        free(path);
    }
    if (fd < 0)
        return tier_fail(err, TIER_ENOTFOUND, "no content with SHA-256 %s here",
                         tier_hash_hex(hash, hex));
    if (fstat(fd, &info) != 0) {
        close(fd);
        return tier_fail_errno(err, TIER_EIO, "cannot read content %s", tier_hash_hex(hash, hex));
    }
    *out = (struct tier_content){fd, (uint64_t)info.st_size};
    return TIER_OK;
}

void tier_content_close(struct tier_content *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

enum tier_status tier_content_read(void *content, uint64_t offset, void *out, size_t n,
                                   struct tier_err *err) {
    const struct tier_content *c = content;
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(c->fd, (char *)out + done, n - done, (off_t)(offset + done));
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

/* ---- receiving ---- */

static enum tier_status rehash(struct tier_content_rx *rx, struct tier_err *err) {
    uint8_t *buffer = malloc(TIER_CHUNK_BYTES);
    enum tier_status st = buffer ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory to resume");

    while (st == TIER_OK) {
        ssize_t k = pread(rx->fd, buffer, TIER_CHUNK_BYTES, (off_t)rx->offset);
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
    enum tier_status st =
        rx->fd < 0 ? tier_fail_errno(err, TIER_EIO, "cannot write %s", rx->part) : rehash(rx, err);
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

static enum tier_status write_all(int fd, const void *data, size_t n, uint64_t offset,
                                  const char *path, struct tier_err *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(fd, (const char *)data + done, n - done, (off_t)(offset + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
        done += (size_t)k;
    }
    return TIER_OK;
}

enum tier_status tier_content_rx_write(struct tier_content_rx *rx, const void *data, size_t n,
                                       struct tier_err *err) {
    TIER_TRY(write_all(rx->fd, data, n, rx->offset, rx->part, err));
    tier_hasher_add(rx->hasher, data, n);
    rx->offset += n;
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
    enum tier_status st;

    tier_hasher_finish(rx->hasher, &got);
    if (tier_hash_equal(&got, &rx->hash)) {
        st = publish(rx->fd, rx->part, rx->path, rx->dir, err);
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
    tier_hasher_free(rx->hasher);
    free(rx->dir);
    free(rx->part);
    free(rx->path);
    free(rx);
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
            st = write_all(fd, data, bytes, 0, part, err);
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
