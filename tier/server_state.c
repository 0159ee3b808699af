/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes are hashed as they are read, in the one pass that publishing makes anyway, and compared
 * with the name before anything that was computed from them gets a name of its own.
 */
#include "tier/server_state.h"

#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/named_file.h"
#include "tier/vault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x534d545349534e43) /* "CNSISTMS" */
#define VERSION 1
#define HEAD_BYTES 128
#define AT_VERSION 8
#define AT_KIND 16
#define AT_ELEMENTS 24
#define AT_ROUND 32
#define AT_RUN 40
#define AT_MANIFEST 72

struct tier_server_state_writer {
    struct tier_server_state_id id;
    struct tier_named_file *file;
    uint64_t next; /* element */
};

struct tier_server_state {
    struct tier_server_state_id id;
    struct tier_hash hash;
    struct tier_hasher *hasher;
    char *path;
    uint64_t next;
    off_t at;
    int fd;
    struct tier_cipher cipher;
};

static void put_head(uint8_t head[HEAD_BYTES], const struct tier_server_state_id *id) {
    memset(head, 0, HEAD_BYTES);
    tier_put_u64(head, MAGIC);
    tier_put_u64(head + AT_VERSION, VERSION);
    tier_put_u64(head + AT_KIND, id->kind);
    tier_put_u64(head + AT_ELEMENTS, id->elements);
    tier_put_u64(head + AT_ROUND, id->round);
    memcpy(head + AT_RUN, id->run.b, sizeof id->run.b);
    memcpy(head + AT_MANIFEST, id->manifest.b, sizeof id->manifest.b);
}

/* ---- writing -------------------------------------------------------------------------------- */

enum tier_status tier_server_state_begin(const char *dir, const struct tier_server_state_id *id,
                                         struct tier_server_state_writer **out,
                                         struct tier_err *err) {
    enum tier_status st = TIER_OK;
    uint8_t head[HEAD_BYTES];
    struct tier_server_state_writer *w = calloc(1, sizeof *w);

    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory to write the optimiser's state");
    w->id = *id;
    put_head(head, id);
    TIER_TRY_OUT(tier_named_file_begin(dir, TIER_SERVER_STATE_TEMPORARY, &w->file, err));
    TIER_TRY_OUT(tier_named_file_put(w->file, head, sizeof head, err));
    *out = w;
    w = NULL;
out:
    tier_server_state_abort(w);
    return st;
}

enum tier_status tier_server_state_append(struct tier_server_state_writer *w, const double *m,
                                          const double *v, size_t n, struct tier_err *err) {
    if (n > w->id.elements - w->next)
        return tier_fail(err, TIER_EARG, "more elements than the state's %" PRIu64, w->id.elements);
    TIER_TRY(tier_named_file_put(w->file, m, n * sizeof *m, err));
    if (kern_server_has_v(w->id.kind))
        TIER_TRY(tier_named_file_put(w->file, v, n * sizeof *v, err));
    w->next += n;
    return TIER_OK;
}

enum tier_status tier_server_state_finish(struct tier_server_state_writer *w,
                                          const struct tier_hash *model, struct tier_hash *hash_out,
                                          struct tier_err *err) {
    enum tier_status st = TIER_OK;

    if (w->next != w->id.elements) {
        st = tier_fail(err, TIER_EARG, "%" PRIu64 " of the state's %" PRIu64 " elements were given",
                       w->next, w->id.elements);
        goto out;
    }
    TIER_TRY_OUT(tier_named_file_put(w->file, model->b, sizeof model->b, err));
    st = tier_named_file_finish(w->file, TIER_SERVER_STATE_SUFFIX, 0600, hash_out, err);
    w->file = NULL;
out:
    tier_server_state_abort(w);
    return st;
}

void tier_server_state_abort(struct tier_server_state_writer *w) {
    if (!w)
        return;
    tier_named_file_abort(w->file);
    free(w);
}

/* ---- reading -------------------------------------------------------------------------------- */

static enum tier_status read_at(const struct tier_server_state *s, void *out, size_t n, off_t at,
                                struct tier_err *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k =
            tier_cipher_pread(&s->cipher, s->fd, (char *)out + done, n - done, (uint64_t)at + done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read %s", s->path);
        if (k == 0)
            return tier_fail(err, TIER_EMODEL, "%s is shorter than its head says", s->path);
        done += (size_t)k;
    }
    return TIER_OK;
}

static enum tier_status read_next(struct tier_server_state *s, void *out, size_t n,
                                  struct tier_err *err) {
    TIER_TRY(read_at(s, out, n, s->at, err));
    tier_hasher_add(s->hasher, out, n);
    s->at += (off_t)n;
    return TIER_OK;
}

static off_t tail_at(const struct tier_server_state_id *id) {
    uint64_t moments = kern_server_has_v(id->kind) ? 2 : 1;
    return HEAD_BYTES + (off_t)(id->elements * moments * sizeof(double));
}

/* The head must be the one we would have written, but for the round; the tail names the model. */
static enum tier_status check_head(struct tier_server_state *s, const struct tier_hash *model,
                                   struct tier_err *err) {
    uint8_t head[HEAD_BYTES], want[HEAD_BYTES];
    char theirs[TIER_HASH_HEX], ours[TIER_HASH_HEX];
    struct tier_hash beside;

    TIER_TRY(read_next(s, head, sizeof head, err));
    uint64_t round = tier_get_u64(head + AT_ROUND);
    put_head(want, &s->id);
    memcpy(want + AT_ROUND, head + AT_ROUND, sizeof round);
    if (memcmp(head, want, sizeof head) != 0)
        return tier_fail(err, TIER_EMODEL,
                         "%s is not a state of this run, its manifest and its optimiser", s->path);
    if (round >= s->id.round)
        return tier_fail(err, TIER_EMODEL,
                         "%s is of round %" PRIu64 ", which is not before %" PRIu64, s->path, round,
                         s->id.round);
    TIER_TRY(read_at(s, beside.b, sizeof beside.b, tail_at(&s->id), err));
    if (!tier_hash_equal(&beside, model))
        return tier_fail(err, TIER_EMODEL,
                         "%s stands beside model %.16s, and the round is based on %.16s", s->path,
                         tier_hash_hex(&beside, theirs), tier_hash_hex(model, ours));
    return TIER_OK;
}

enum tier_status tier_server_state_open(const char *dir, const struct tier_hash *hash,
                                        const struct tier_server_state_id *id,
                                        const struct tier_hash *model,
                                        struct tier_server_state **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_server_state *s = calloc(1, sizeof *s);

    if (!s)
        return tier_fail(err, TIER_ENOMEM, "no memory to read the optimiser's state");
    s->id = *id;
    s->hash = *hash;
    s->path = tier_content_path(dir, hash, TIER_SERVER_STATE_SUFFIX);
    s->hasher = tier_hasher_new();
    s->fd = open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO,
                             "cannot open the optimiser's state %s", s->path);
        goto out;
    }
    if (!s->hasher) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to read the optimiser's state");
        goto out;
    }
    TIER_TRY_OUT(tier_cipher_of(s->path, s->fd, &s->cipher, err));
    TIER_TRY_OUT(check_head(s, model, err));
    *out = s;
    s = NULL;
out:
    tier_server_state_close(s);
    return st;
}

enum tier_status tier_server_state_next(struct tier_server_state *s, double *m, double *v, size_t n,
                                        struct tier_err *err) {
    if (n > s->id.elements - s->next)
        return tier_fail(err, TIER_EARG, "more elements than the state's %" PRIu64, s->id.elements);
    TIER_TRY(read_next(s, m, n * sizeof *m, err));
    if (kern_server_has_v(s->id.kind))
        TIER_TRY(read_next(s, v, n * sizeof *v, err));
    s->next += n;
    return TIER_OK;
}

enum tier_status tier_server_state_check(struct tier_server_state *s, struct tier_err *err) {
    struct tier_hash got;
    uint8_t tail[sizeof got.b], past;

    if (s->next != s->id.elements)
        return tier_fail(err, TIER_EARG,
                         "%" PRIu64 " of the state's %" PRIu64 " elements were read", s->next,
                         s->id.elements);
    TIER_TRY(read_next(s, tail, sizeof tail, err));
    tier_hasher_finish(s->hasher, &got);
    if (!tier_hash_equal(&got, &s->hash) ||
        tier_cipher_pread(&s->cipher, s->fd, &past, 1, (uint64_t)s->at) != 0)
        return tier_fail(err, TIER_EMODEL,
                         "%s is damaged: its SHA-256 is another than its name says", s->path);
    return TIER_OK;
}

void tier_server_state_close(struct tier_server_state *s) {
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    tier_hasher_free(s->hasher);
    free(s->path);
    free(s);
}

/* ---- deleting ------------------------------------------------------------------------------- */

void tier_server_state_delete(const char *dir, const struct tier_hash *hash) {
    char *path = tier_content_path(dir, hash, TIER_SERVER_STATE_SUFFIX);
    unlink(path);
    free(path);
}

void tier_server_state_sweep(const char *dir, bool (*keep)(void *arg, const struct tier_hash *hash),
                             void *arg) {
    DIR *d = opendir(dir);

    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        char hex[TIER_HASH_HEX];
        struct tier_hash hash;
        if (strlen(e->d_name) != TIER_HASH_HEX - 1 + strlen(TIER_SERVER_STATE_SUFFIX) ||
            strcmp(e->d_name + TIER_HASH_HEX - 1, TIER_SERVER_STATE_SUFFIX) != 0)
            continue;
        memcpy(hex, e->d_name, TIER_HASH_HEX - 1);
        hex[TIER_HASH_HEX - 1] = '\0';
        if (tier_hash_parse(hex, &hash) && !keep(arg, &hash))
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    tier_named_file_sweep(dir, TIER_SERVER_STATE_TEMPORARY);
}
