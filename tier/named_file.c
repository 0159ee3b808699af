/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/named_file.h"

#include "tier/content.h"
#include "tier/vault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RANDOM_CHARACTERS 6
/* The disk begins while the rest is still made, so that the sync at the end has little to wait for.
 */
#define WRITE_BEHIND_BYTES (1 << 20)

struct tier_named_file {
    char *dir, *temp;
    struct tier_hasher *hasher;
    off_t written, begun; /* begun: what the disk was told of */
    int fd;
    struct tier_cipher cipher;
};

enum tier_status tier_named_file_begin(const char *dir, const char *what,
                                       struct tier_named_file **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_named_file *f = calloc(1, sizeof *f);

    if (!f)
        return tier_fail(err, TIER_ENOMEM, "no memory to write a %s", what);
    f->fd = -1;
    f->dir = strdup(dir);
    f->hasher = tier_hasher_new();
    if (asprintf(&f->temp, "%s/%s-XXXXXX", dir, what) < 0)
        f->temp = NULL;
    if (!f->dir || !f->hasher || !f->temp) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to write a %s", what);
        goto out;
    }
    f->fd = mkostemp(f->temp, O_CLOEXEC);
    if (f->fd < 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot make a file in %s", dir);
        goto out;
    }
    TIER_TRY_OUT(tier_cipher_new(f->temp, f->fd, &f->cipher, err));
    *out = f;
    f = NULL;
out:
    tier_named_file_abort(f);
    return st;
}

enum tier_status tier_named_file_put(struct tier_named_file *f, const void *data, size_t n,
                                     struct tier_err *err) {
    tier_hasher_add(f->hasher, data, n);
    return tier_named_file_write(f, data, n, err);
}

struct tier_hasher *tier_named_file_hasher(struct tier_named_file *f) {
    return f->hasher;
}

enum tier_status tier_named_file_write(struct tier_named_file *f, const void *data, size_t n,
                                       struct tier_err *err) {
    const uint8_t *p = data;

    while (n > 0) {
        ssize_t done = tier_cipher_pwrite(&f->cipher, f->fd, p, n, (uint64_t)f->written);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return tier_fail_errno(err, errno == EFBIG ? TIER_EFULL : TIER_EIO, "cannot write %s",
                                   f->temp);
        p += done;
        n -= (size_t)done;
        f->written += done;
    }
    if (f->written - f->begun >= WRITE_BEHIND_BYTES) { /* a hint: what it returns does not matter */
        sync_file_range(f->fd, (off_t)f->cipher.front + f->begun, f->written - f->begun,
                        SYNC_FILE_RANGE_WRITE);
        f->begun = f->written;
    }
    return TIER_OK;
}

static enum tier_status sync_dir(const char *dir, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || fsync(fd) != 0)
        st = tier_fail_errno(err, TIER_EIO, "cannot sync %s", dir);
    if (fd >= 0)
        close(fd);
    return st;
}

enum tier_status tier_named_file_finish(struct tier_named_file *f, const char *suffix, mode_t mode,
                                        struct tier_hash *hash_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_hash hash;

    tier_hasher_finish(f->hasher, &hash);
    char *path = tier_content_path(f->dir, &hash, suffix);
    if (fchmod(f->fd, mode) != 0 || fsync(f->fd) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot sync %s", f->temp);
        goto out;
    }
    if (rename(f->temp, path) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot rename %s to %s", f->temp, path);
        goto out;
    }
    close(f->fd); /* from here on there is no temporary file to remove */
    f->fd = -1;
    TIER_TRY_OUT(sync_dir(f->dir, err));
    *hash_out = hash;
out:
    free(path);
    tier_named_file_abort(f);
    return st;
}

void tier_named_file_abort(struct tier_named_file *f) {
    if (!f)
        return;
    if (f->fd >= 0 && f->temp) {
        close(f->fd);
        unlink(f->temp);
    }
    tier_hasher_free(f->hasher);
    tier_cipher_wipe(&f->cipher);
    free(f->temp);
    free(f->dir);
    free(f);
}

void tier_named_file_sweep(const char *dir, const char *what) {
    size_t n = strlen(what);
    DIR *d = opendir(dir);

    for (const struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (strlen(e->d_name) == n + 1 + RANDOM_CHARACTERS && strncmp(e->d_name, what, n) == 0 &&
            e->d_name[n] == '-')
            unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}
