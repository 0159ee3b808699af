/* SPDX-License-Identifier: Apache-2.0 */
/* What lies beside a log is named by its hash, so it is checked by its name; updates by the header
 * whose hash is their name, and by the Merkle root that this gives. */
#include "tier/home.h"
#include "tier/spool.h"
#include "tier/verify_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES (1u << 20)

struct folder {
    struct tier_verify *v;
    size_t node;
    const char *name; /* "models" */
    char path[4300];
    struct tier_spool *spool; /* opened for the first update */
    uint8_t *buf;
};

static bool file_hash(struct folder *f, const char *file, struct tier_hash *out) {
    char path[sizeof f->path + 300];
    struct tier_hasher *hasher = tier_hasher_new();
    ssize_t n = -1;

    snprintf(path, sizeof path, "%s/%.255s", f->path, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (hasher && fd >= 0 &&
           ((n = read(fd, f->buf, READ_BYTES)) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0)
            tier_hasher_add(hasher, f->buf, (size_t)n);
    if (fd >= 0)
        close(fd);
    if (hasher)
        tier_hasher_finish(hasher, out);
    tier_hasher_free(hasher);
    return n == 0;
}

/* The zeros between header and payload, which no hash covers. */
static bool padding_clean(struct folder *f, const char *file, size_t header_bytes) {
    char path[sizeof f->path + 300];
    uint8_t zeros[8192];
    size_t end = (header_bytes + 16 + 4095) / 4096 * 4096, n = end - header_bytes;
    bool clean = false;

    snprintf(path, sizeof path, "%s/%.255s", f->path, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && pread(fd, zeros, n, (off_t)header_bytes) == (ssize_t)n) {
        clean = true;
        for (size_t i = 0; i < n; i++)
            clean = clean && zeros[i] == 0;
    }
    if (fd >= 0)
        close(fd);
    return clean;
}

static enum tier_status check_update(struct folder *f, const char *file, const struct tier_hash *id,
                                     struct tier_err *err) {
    struct tier_update *u = NULL;
    struct tier_err why = {0};
    size_t header_bytes = 0;

    if (!f->spool)
        TIER_TRY(tier_spool_open(f->path, false, &f->spool, err));
    enum tier_status st = tier_spool_update_open(f->spool, id, &u, &why);
    if (st == TIER_OK) {
        tier_spool_update_header_bytes(u, &header_bytes);
        st = tier_spool_update_check(u, &why);
    }
    tier_spool_update_close(u);
    if (st == TIER_OK && !padding_clean(f, file, header_bytes))
        st = tier_fail(&why, TIER_ECORRUPT, "what lies between header and payload is not zero");
    if (st != TIER_OK)
        verify_found(f->v, f->node, "%s/%s: %s", f->name, file, why.text);
    verify_node(f->v, f->node)->updates++;
    return TIER_OK;
}

static enum tier_status check_file(struct folder *f, const char *file, struct tier_err *err) {
    char hex[TIER_HASH_HEX];
    struct tier_hash named, is;
    const char *suffix = file + TIER_HASH_HEX - 1;

    if (strlen(file) < TIER_HASH_HEX || *suffix != '.' || strcmp(suffix, ".part") == 0)
        return TIER_OK; /* on its way, or nothing of ours */
    memcpy(hex, file, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    if (!tier_hash_parse(hex, &named))
        return TIER_OK;
    if (strcmp(suffix, ".upd") == 0)
        return check_update(f, file, &named, err);
    if (!file_hash(f, file, &is))
        return tier_fail_errno(err, TIER_EIO, "%s/%s cannot be read", f->path, file);
    if (!tier_hash_equal(&is, &named))
        verify_found(f->v, f->node, "%s/%s: its bytes are not those of its name: it was altered",
                     f->name, file);
    verify_node(f->v, f->node)->files++;
    return TIER_OK;
}

static enum tier_status check_folder(struct tier_verify *v, size_t node, const char *name,
                                     uint8_t *buf, struct tier_err *err) {
    struct folder f = {.v = v, .node = node, .name = name, .buf = buf};
    enum tier_status st = TIER_OK;

    snprintf(f.path, sizeof f.path, "%.4000s/%s", verify_node(v, node)->path, name);
    DIR *dir = opendir(f.path);
    if (!dir && errno == ENOENT)
        return TIER_OK;
    if (!dir)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", f.path);
    for (struct dirent *e; st == TIER_OK && (e = readdir(dir));)
        st = check_file(&f, e->d_name, err);
    closedir(dir);
    tier_spool_close(f.spool);
    return st;
}

enum tier_status verify_files(struct tier_verify *v, size_t node, struct tier_err *err) {
    static const char *const names[] = {"models", "spool", TIER_RETAINED_DIR, TIER_QUARANTINE_DIR};
    uint8_t *buf = malloc(READ_BYTES);
    enum tier_status st = buf ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory to verify");

    for (size_t i = 0; st == TIER_OK && i < sizeof names / sizeof *names; i++)
        st = check_folder(v, node, names[i], buf, err);
    free(buf);
    return st;
}
