/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { HAS_X = 1, HAS_MASK = 2 };

struct spoke_spill {
    int fd;
    uint64_t left_bytes; /* to whatever else the node writes there */
    size_t rows, x_bytes, mask_bytes;
    atomic_bool broken;
    atomic_uchar *has; /* [rows]: what is whole in the file */
};

/* A file without a name; where the file system has none of these, one that is unlinked at once. */
static int open_unnamed(const char *folder) {
    char path[4096];
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0)
        return fd;
    int n = snprintf(path, sizeof path, "%s/rows-XXXXXX", folder);
    if (n < 0 || (size_t)n >= sizeof path)
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* 0 where it cannot be told. */
static uint64_t free_bytes(int fd) {
    struct statvfs v;
    return fstatvfs(fd, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : 0;
}

enum tier_status spoke_spill_open(const char *folder, size_t rows, size_t floats, size_t classes,
                                  struct spoke_spill **spill_out, struct tier_err *err) {
    struct spoke_spill *s = calloc(1, sizeof *s);

    if (s)
        s->has = calloc(rows ? rows : 1, sizeof *s->has);
    if (!s || !s->has) {
        free(s);
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu rows", rows);
    }
    s->fd = open_unnamed(folder);
    if (s->fd < 0) {
        enum tier_status st = tier_fail_errno(err, TIER_EIO, "%s: no file for rows", folder);
        free(s->has);
        free(s);
        return st;
    }
    s->left_bytes = free_bytes(s->fd) / 2;
    s->rows = rows;
    s->x_bytes = floats * sizeof(float);
    s->mask_bytes = classes * sizeof(int32_t);
    *spill_out = s;
    return TIER_OK;
}

void spoke_spill_close(struct spoke_spill *s) {
    if (!s)
        return;
    close(s->fd);
    free(s->has);
    free(s);
}

static bool move_all(int fd, void *at, size_t n, off_t from, bool put) {
    uint8_t *b = at;

    while (n > 0) {
        ssize_t moved = put ? pwrite(fd, b, n, from) : pread(fd, b, n, from);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return false;
        b += moved;
        n -= (size_t)moved;
        from += moved;
    }
    return true;
}

static off_t place_of(const struct spoke_spill *s, size_t row, bool mask) {
    return (off_t)(row * (s->x_bytes + s->mask_bytes) + (mask ? s->x_bytes : 0));
}

bool spoke_spill_take(struct spoke_spill *s, size_t row, float *x, int32_t *mask) {
    unsigned has = row < s->rows ? atomic_load_explicit(&s->has[row], memory_order_acquire) : 0;

    if ((x && !(has & HAS_X)) || (mask && !(has & HAS_MASK)))
        return false;
    return (!x || move_all(s->fd, x, s->x_bytes, place_of(s, row, false), false)) &&
           (!mask || move_all(s->fd, mask, s->mask_bytes, place_of(s, row, true), false));
}

void spoke_spill_put(struct spoke_spill *s, size_t row, const float *x, const int32_t *mask) {
    unsigned has = (x ? HAS_X : 0) | (mask ? HAS_MASK : 0);

    if (row >= s->rows || atomic_load(&s->broken) ||
        free_bytes(s->fd) < s->left_bytes + s->x_bytes + s->mask_bytes)
        return;
    /* What is written is not written to: pread and pwrite share a loop. */
    bool ok =
        !x || move_all(s->fd, (void *)(uintptr_t)x, s->x_bytes, place_of(s, row, false), true);
    ok = ok && (!mask || move_all(s->fd, (void *)(uintptr_t)mask, s->mask_bytes,
                                  place_of(s, row, true), true));
    if (ok)
        atomic_fetch_or_explicit(&s->has[row], (unsigned char)has, memory_order_release);
    else
        atomic_store(&s->broken, true);
}
