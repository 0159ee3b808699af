/* SPDX-License-Identifier: Apache-2.0 */
/* A file's time of modification is when it came here: it is set then, and nothing writes it later.
 */
#include "tier/retain.h"
#include "tier/content.h"
#include "tier/secure_fold.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY_MS INT64_C(86400000)
#define UPDATE_SUFFIX ".upd"

static void touch(const char *dir, const struct tier_hash *hash, const char *suffix) {
    char *path = tier_content_path(dir, hash, suffix);
    utimensat(AT_FDCWD, path, NULL, 0);
    free(path);
}

enum tier_status tier_retain_update(struct tier_spool *spool, const char *dir,
                                    const struct tier_hash *id, struct tier_err *err) {
    TIER_TRY(tier_spool_give(spool, id, dir, err));
    touch(dir, id, UPDATE_SUFFIX);
    return TIER_OK;
}

enum tier_status tier_retain_model(const char *models_dir, const char *dir,
                                   const struct tier_hash *model, struct tier_err *err) {
    char *from = tier_content_path(models_dir, model, TIER_CONTENT_MODEL);
    char *to = tier_content_path(dir, model, TIER_CONTENT_MODEL);
    enum tier_status st = TIER_OK;

    if (rename(from, to) != 0)
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s cannot go to %s",
                             from, dir);
    else
        touch(dir, model, TIER_CONTENT_MODEL);
    free(from);
    free(to);
    return st;
}

/* ---- expiry ---- */

struct file {
    char name[TIER_HASH_HEX + 16];
    bool update;
    int64_t came_ms;
    uint64_t bytes;
};

struct files {
    struct file *at;
    size_t count, room;
};

static bool of_ours(const char *name, bool *update_out) {
    const char *suffix = strlen(name) >= TIER_HASH_HEX ? name + TIER_HASH_HEX - 1 : "";
    /* What masks a sum of updates goes when they go. */
    *update_out = strcmp(suffix, UPDATE_SUFFIX) == 0 || strcmp(suffix, TIER_SECURE_TERMS) == 0;
    return *update_out || strcmp(suffix, TIER_CONTENT_MODEL) == 0;
}

static enum tier_status list(const char *dir, DIR *d, struct files *f, struct tier_err *err) {
    for (struct dirent *e; (e = readdir(d));) {
        struct stat info;
        bool update;
        if (!of_ours(e->d_name, &update) || fstatat(dirfd(d), e->d_name, &info, 0) != 0)
            continue;
        if (f->count == f->room) {
            size_t room = f->room ? f->room * 2 : 256;
            struct file *at = realloc(f->at, room * sizeof *at);
            if (!at)
                return tier_fail(err, TIER_ENOMEM, "no memory to list %s", dir);
            f->at = at;
            f->room = room;
        }
        struct file *file = &f->at[f->count++];
        *file = (struct file){.update = update,
                              .came_ms = (int64_t)info.st_mtim.tv_sec * 1000 +
                                         info.st_mtim.tv_nsec / 1000000,
                              .bytes = (uint64_t)info.st_size};
        snprintf(file->name, sizeof file->name, "%s", e->d_name);
    }
    return TIER_OK;
}

static int oldest_first(const void *a, const void *b) {
    const struct file *x = a, *y = b;
    if (x->came_ms != y->came_ms)
        return x->came_ms < y->came_ms ? -1 : 1;
    return strcmp(x->name, y->name);
}

enum tier_status tier_retain_expire(const char *dir, const struct tier_retain_rules *rules,
                                    int64_t now_ms, struct tier_retain_expired *out,
                                    struct tier_err *err) {
    struct files f = {0};
    uint64_t total = 0;

    *out = (struct tier_retain_expired){0};
    DIR *d = opendir(dir);
    if (!d)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", dir);
    enum tier_status st = list(dir, d, &f, err);
    if (f.count > 1)
        qsort(f.at, f.count, sizeof *f.at, oldest_first);
    for (size_t i = 0; i < f.count; i++)
        total += f.at[i].bytes;
    for (size_t i = 0; st == TIER_OK && i < f.count; i++) {
        const struct file *file = &f.at[i];
        uint64_t days = file->update ? rules->updates_days : rules->models_days;
        bool old = now_ms - file->came_ms >= (int64_t)days * DAY_MS;
        if (!old && total <= rules->bytes_max)
            continue;
        if (unlinkat(dirfd(d), file->name, 0) != 0) {
            st = tier_fail_errno(err, TIER_EIO, "%s/%s cannot be deleted", dir, file->name);
            break;
        }
        out->for_room = out->for_room || !old;
        out->updates += file->update;
        out->models += !file->update;
        out->bytes += file->bytes;
        total -= file->bytes;
    }
    closedir(d);
    free(f.at);
    return st;
}
