/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why deleted files are used again: a new file's pages cost the kernel more than the bytes in them
 * (0.21 s/GB on the machine this was measured on, 1.2 where the host maps them first; 0.05 to write
 * over what is there). So the last few large files that were deleted wait under a name of their
 * own, "N.old", for whoever writes next. They are never more than were in use at once before, so
 * disk is bounded as without them.
 *
 * A reader may still have the file open that it asked for. It holds a shared lock on it, and
 * whoever writes over a file has an exclusive one: what somebody reads is not used again.
 */
#include "tier/spool_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES_MIN TIER_CHUNK_BYTES

static void old_name(uint64_t number, char name[TIER_SPOOL_NAME]) {
    snprintf(name, TIER_SPOOL_NAME, "%" PRIu64 "%s", number, TIER_SPOOL_OLD);
}

bool tier_spool_recycle(struct tier_spool *spool, const char *name) {
    char old[TIER_SPOOL_NAME];
    struct stat info;
    bool kept = false;

    if (fstatat(spool->dirfd, name, &info, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(info.st_mode) ||
        info.st_nlink != 1 || (uint64_t)info.st_size < BYTES_MIN)
        return false;
    pthread_mutex_lock(&spool->lock);
    if (spool->old_count < TIER_SPOOL_OLD_MAX) {
        old_name(spool->old_next, old);
        kept = renameat(spool->dirfd, name, spool->dirfd, old) == 0;
        if (kept)
            spool->old[spool->old_count++] = spool->old_next++;
    }
    pthread_mutex_unlock(&spool->lock);
    return kept;
}

/* The newest is the likeliest to be in memory still. */
static bool take(struct tier_spool *spool, uint64_t *number) {
    pthread_mutex_lock(&spool->lock);
    bool any = spool->old_count > 0;
    if (any)
        *number = spool->old[--spool->old_count];
    pthread_mutex_unlock(&spool->lock);
    return any;
}

static void put_back(struct tier_spool *spool, uint64_t number) {
    pthread_mutex_lock(&spool->lock);
    bool room = spool->old_count < TIER_SPOOL_OLD_MAX;
    if (room)
        spool->old[spool->old_count++] = number;
    pthread_mutex_unlock(&spool->lock);
    if (!room) {
        char old[TIER_SPOOL_NAME];
        old_name(number, old);
        unlinkat(spool->dirfd, old, 0);
    }
}

int tier_spool_reuse(struct tier_spool *spool, const char *name, uint64_t bytes) {
    char old[TIER_SPOOL_NAME];
    struct stat info;
    uint64_t number;

    while (bytes >= BYTES_MIN && take(spool, &number)) {
        old_name(number, old);
        int fd = openat(spool->dirfd, old, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        bool ours = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &info) == 0 &&
                    ((uint64_t)info.st_size <= bytes || ftruncate(fd, (off_t)bytes) == 0);
        if (ours && renameat2(spool->dirfd, old, spool->dirfd, name, RENAME_NOREPLACE) == 0)
            return fd;
        bool taken = ours && errno == EEXIST;
        if (fd >= 0)
            close(fd);
        if (taken) {
            put_back(spool, number);
            return -1;
        }
        unlinkat(spool->dirfd, old, 0); /* somebody reads it */
    }
    return -1;
}

void tier_spool_forget_old(struct tier_spool *spool) {
    char old[TIER_SPOOL_NAME];
    uint64_t number;

    while (take(spool, &number)) {
        old_name(number, old);
        unlinkat(spool->dirfd, old, 0);
    }
}
