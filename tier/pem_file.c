/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/pem_file.h"

#include "tier/cert.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum tier_status join(char *path, const char *dir, const char *name, struct tier_err *err) {
    int n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return n > 0 && n < PATH_MAX ? TIER_OK
                                 : tier_fail(err, TIER_EARG, "%s/%s: path too long", dir, name);
}

enum tier_status tier_pem_dir_make(const char *dir, struct tier_err *err) {
    char path[PATH_MAX];
    size_t bytes = strnlen(dir, PATH_MAX);

    if (bytes == 0 || bytes >= PATH_MAX)
        return tier_fail(err, TIER_EARG, "a directory name of %zu bytes", bytes);
    memcpy(path, dir, bytes + 1);
    for (size_t i = 1; i <= bytes; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        char kept = path[i];
        path[i] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return tier_fail_errno(err, TIER_EIO, "%s: cannot make this directory", path);
        path[i] = kept;
    }
    struct stat info;
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode))
        return tier_fail(err, TIER_EIO, "%s: is not a directory", dir);
    return TIER_OK;
}

static enum tier_status write_all(int fd, const char *path, const char *text,
                                  struct tier_err *err) {
    size_t left = strlen(text);

    while (left) {
        ssize_t n = write(fd, text, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return tier_fail_errno(err, TIER_EIO, "%s: cannot be written", path);
        text += n;
        left -= (size_t)n;
    }
    return fsync(fd) == 0 ? TIER_OK : tier_fail_errno(err, TIER_EIO, "%s: cannot be synced", path);
}

static enum tier_status sync_dir(const char *dir, struct tier_err *err) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        enum tier_status st = tier_fail_errno(err, TIER_EIO, "%s: cannot be synced", dir);
        if (fd >= 0)
            close(fd);
        return st;
    }
    close(fd);
    return TIER_OK;
}

enum tier_status tier_pem_write(const char *dir, const char *name, const char *text, bool secret,
                                bool replace, struct tier_err *err) {
    char path[PATH_MAX], temp[PATH_MAX], pattern[NAME_MAX];
    enum tier_status st;
    int fd = -1;

    TIER_TRY(join(path, dir, name, err));
    snprintf(pattern, sizeof pattern, ".%s.XXXXXX", name);
    TIER_TRY(join(temp, dir, pattern, err));
    fd = mkostemp(temp, O_CLOEXEC); /* 0600 */
    if (fd < 0)
        return tier_fail_errno(err, TIER_EIO, "%s: cannot be made", path);
    if (!secret && fchmod(fd, 0644) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "%s: cannot be made readable", path);
        goto out;
    }
    TIER_TRY_OUT(write_all(fd, path, text, err));
    if (replace ? rename(temp, path) != 0 : link(temp, path) != 0) {
        st = errno == EEXIST ? tier_fail(err, TIER_ECONFLICT,
                                         "%s is there already; it is not overwritten", path)
                             : tier_fail_errno(err, TIER_EIO, "%s: cannot be put in place", path);
        goto out;
    }
    st = sync_dir(dir, err);
out:
    close(fd);
    if (st != TIER_OK || !replace)
        unlink(temp);
    return st;
}

/* What is opened is what was checked: the mode is asked of the descriptor. */
static enum tier_status check_file(int fd, const char *path, bool secret, struct tier_err *err) {
    struct stat info;

    if (fstat(fd, &info) != 0)
        return tier_fail_errno(err, TIER_EIO, "%s: cannot be read", path);
    if (!S_ISREG(info.st_mode))
        return tier_fail(err, TIER_EIO, "%s: is not a plain file", path);
    if (secret && (info.st_mode & 077) != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "%s: a private key that others may read (mode %04o); it must be 0600: "
                         "chmod 600 it, or enroll anew if it may have been read",
                         path, (unsigned)(info.st_mode & 07777));
    if (secret && info.st_uid != geteuid() && info.st_uid != 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "%s: a private key that belongs to user %u; it must belong to the user "
                         "that runs this program (%u)",
                         path, (unsigned)info.st_uid, (unsigned)geteuid());
    if (info.st_size <= 0 || info.st_size > TIER_PEM_BYTES_MAX)
        return tier_fail(err, TIER_EIDENTITY, "%s: %lld bytes; a PEM file of 1 to %d is wanted",
                         path, (long long)info.st_size, TIER_PEM_BYTES_MAX);
    return TIER_OK;
}

enum tier_status tier_pem_read(const char *dir, const char *name, bool secret, char **text_out,
                               struct tier_err *err) {
    char path[PATH_MAX];
    char *text = NULL;
    enum tier_status st = TIER_OK;
    size_t used = 0;

    TIER_TRY(join(path, dir, name, err));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return tier_fail(err, TIER_ENOTFOUND, "%s: there is no such file", path);
    if (fd < 0)
        return tier_fail_errno(err, TIER_EIO, "%s: cannot be opened", path);
    TIER_TRY_OUT(check_file(fd, path, secret, err));
    text = calloc(1, TIER_PEM_BYTES_MAX + 2);
    if (!text) {
        st = tier_fail(err, TIER_ENOMEM, "%s: out of memory", path);
        goto out;
    }
    while (used <= TIER_PEM_BYTES_MAX) {
        ssize_t n = read(fd, text + used, TIER_PEM_BYTES_MAX + 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            st = tier_fail_errno(err, TIER_EIO, "%s: cannot be read", path);
            goto out;
        }
        if (n == 0)
            break;
        used += (size_t)n;
    }
    if (used > TIER_PEM_BYTES_MAX || strlen(text) != used) {
        st = tier_fail(err, TIER_EIDENTITY, "%s: not a PEM text", path);
        goto out;
    }
    *text_out = text;
out:
    if (st != TIER_OK && text) {
        OPENSSL_cleanse(text, TIER_PEM_BYTES_MAX + 2);
        free(text);
    }
    close(fd);
    return st;
}

bool tier_pem_exists(const char *dir, const char *name) {
    char path[PATH_MAX];
    struct stat info;
    return join(path, dir, name, NULL) == TIER_OK && lstat(path, &info) == 0;
}
