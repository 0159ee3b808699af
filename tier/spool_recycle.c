/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why deleted files are used again: a new file's pages cost the kernel more than the bytes in them
 * (0.21 s/GB on the machine this was measured on, 1.2 where the host maps them first; 0.05 to write
 * over what is there). So the last few large files that were deleted wait under a name of their
 * own, "N.old", for whoever writes next. They are never more than were in use at once before, and
 * of models so large that no page would still be in memory none is kept: those would only take
 * room.
 *
 * A reader may still have the file open that it asked for. It holds a shared lock on it, and
 * whoever writes over a file has an exclusive one: what somebody reads is not used again.
 */
#include "tier/spool_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES_MIN TIER_CHUNK_BYTES
#define ASIDE_BYTES_MIN (UINT64_C(256) << 20)
#define STACK_BYTES (64u << 10)

static void old_name(uint64_t number, char name[TIER_SPOOL_NAME]) {
    snprintf(name, TIER_SPOOL_NAME, "%" PRIu64 "%s", number, TIER_SPOOL_OLD);
}

/* With the lock held, both. */
static bool has_room(const struct tier_spool *spool, uint64_t bytes) {
    return spool->old_count < TIER_SPOOL_OLD_MAX && bytes <= TIER_SPOOL_OLD_BYTES_MAX &&
           spool->old_bytes <= TIER_SPOOL_OLD_BYTES_MAX - bytes;
}

static void add(struct tier_spool *spool, struct tier_spool_old file) {
    spool->old[spool->old_count++] = file;
    spool->old_bytes += file.bytes;
}

struct doomed {
    int dirfd; /* its own: the spool may be closed meanwhile */
    char name[TIER_SPOOL_NAME];
};

static void *unlink_main(void *arg) {
    struct doomed *d = arg;
    unlinkat(d->dirfd, d->name, 0);
    close(d->dirfd);
    free(d);
    return NULL;
}

/* To free the blocks of gigabytes takes a second, for which no loop has time. What a kill leaves of
 * it is deleted at the next start. */
static void unlink_aside(const struct tier_spool *spool, const char old[TIER_SPOOL_NAME]) {
    struct doomed *d = malloc(sizeof *d);
    pthread_attr_t attr;
    pthread_t thread;
    bool begun = false;

    if (d) {
        d->dirfd = fcntl(spool->dirfd, F_DUPFD_CLOEXEC, 0);
        memcpy(d->name, old, sizeof d->name);
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, STACK_BYTES);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        begun = d->dirfd >= 0 && pthread_create(&thread, &attr, unlink_main, d) == 0;
        pthread_attr_destroy(&attr);
    }
    if (begun)
        return;
    unlinkat(spool->dirfd, old, 0);
    if (d && d->dirfd >= 0)
        close(d->dirfd);
    free(d);
}

bool tier_spool_recycle(struct tier_spool *spool, const char *name) {
    char old[TIER_SPOOL_NAME] = "";
    struct stat info;
    bool renamed = false;

    if (fstatat(spool->dirfd, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode) ||
        info.st_nlink != 1 || (uint64_t)info.st_size < BYTES_MIN)
        return false;
    pthread_mutex_lock(&spool->lock);
    bool room = has_room(spool, (uint64_t)info.st_size);
    if (room || (uint64_t)info.st_size >= ASIDE_BYTES_MIN) {
        old_name(spool->old_next, old);
        renamed = renameat(spool->dirfd, name, spool->dirfd, old) == 0;
        if (renamed && room)
            add(spool, (struct tier_spool_old){spool->old_next, (uint64_t)info.st_size});
        spool->old_next += renamed;
    }
    pthread_mutex_unlock(&spool->lock);
    if (renamed && !room)
        unlink_aside(spool, old);
    return renamed;
}

/* The newest is the likeliest to be in memory still. */
static bool take(struct tier_spool *spool, struct tier_spool_old *out) {
    pthread_mutex_lock(&spool->lock);
    bool any = spool->old_count > 0;
    if (any) {
        *out = spool->old[--spool->old_count];
        spool->old_bytes -= out->bytes;
    }
    pthread_mutex_unlock(&spool->lock);
    return any;
}

static void put_back(struct tier_spool *spool, struct tier_spool_old file) {
    pthread_mutex_lock(&spool->lock);
    bool room = has_room(spool, file.bytes);
    if (room)
        add(spool, file);
    pthread_mutex_unlock(&spool->lock);
    if (!room) {
        char old[TIER_SPOOL_NAME];
        old_name(file.number, old);
        unlinkat(spool->dirfd, old, 0);
    }
}

int tier_spool_reuse(struct tier_spool *spool, const char *name, uint64_t bytes) {
    char old[TIER_SPOOL_NAME];
    struct stat info;
    struct tier_spool_old file;

    while (bytes >= BYTES_MIN && take(spool, &file)) {
        old_name(file.number, old);
        int fd = openat(spool->dirfd, old, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        bool ours = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &info) == 0 &&
                    ((uint64_t)info.st_size <= bytes || ftruncate(fd, (off_t)bytes) == 0);
        if (ours && renameat2(spool->dirfd, old, spool->dirfd, name, RENAME_NOREPLACE) == 0)
            return fd;
        bool taken = ours && errno == EEXIST;
        if (fd >= 0)
            close(fd);
        if (taken) {
            put_back(spool, file);
            return -1;
        }
        unlinkat(spool->dirfd, old, 0); /* somebody reads it */
    }
    return -1;
}

void tier_spool_forget_old(struct tier_spool *spool) {
    char old[TIER_SPOOL_NAME];
    struct tier_spool_old file;

    while (take(spool, &file)) {
        old_name(file.number, old);
        unlinkat(spool->dirfd, old, 0);
    }
}
