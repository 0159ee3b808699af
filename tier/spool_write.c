/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are still growing: those received from a child and those we write ourselves. Either
 * way a file gets its final name only once its payload's Merkle root is known to be the header's,
 * so what bears a sealed name is complete.
 *
 * A partial is locked by whoever receives into it (flock, so the lock goes with the process). After
 * taking the lock the name is looked up again: another receiver may have sealed the file between
 * our opening and our locking it, and a sealed file must never be written to.
 */
#include "tier/bytes.h"
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

#define SLICES_MAX 64
#define LOCK_TRIES 8

struct tier_spool_rx {
    struct tier_spool *spool;
    struct tier_hash id;
    struct tier_update_header header;
    uint64_t payload_at, offset;
    struct tier_merkle *merkle;
    int fd;
    struct tier_cipher cipher; /* of fd */
    bool sealed, root_checked;
    char part[TIER_SPOOL_NAME];
};

struct tier_spool_writer {
    struct tier_spool *spool;
    uint8_t *bytes; /* the header as far as it is known; its length is final */
    size_t len;
    uint64_t payload_at, offset; /* offset: of what is in the file */
    struct tier_merkle *merkle;
    uint8_t *chunk; /* [TIER_CHUNK_BYTES] what is not in the file yet */
    size_t held;
    int fd;
    struct tier_cipher cipher;
    char name[TIER_SPOOL_NAME];
};

/* A file size limit is a full disk to us; tier_fail_errno knows the other ways of being full. What
 * deleted files still take is room for the next try. */
static enum tier_status write_failed(struct tier_spool *spool, const char *name,
                                     struct tier_err *err) {
    enum tier_status st = tier_fail_errno(err, errno == EFBIG ? TIER_EFULL : TIER_EIO,
                                          "cannot write %s/%s", spool->dir, name);

    if (st == TIER_EFULL)
        tier_spool_forget_old(spool);
    return st;
}

static enum tier_status write_all(struct tier_spool *spool, const struct tier_cipher *cipher,
                                  int fd, const char *name, const void *data, size_t n,
                                  uint64_t offset, struct tier_err *err) {
    const uint8_t *p = data;

    while (n > 0) {
        ssize_t put = tier_cipher_pwrite(cipher, fd, p, n, offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return write_failed(spool, name, err);
        p += put;
        offset += (uint64_t)put;
        n -= (size_t)put;
    }
    return TIER_OK;
}

/* The last step for both kinds: `name` becomes "<id>.upd". */
static enum tier_status publish(struct tier_spool *spool, int fd, const char *name,
                                const struct tier_hash *id, struct tier_err *err) {
    char sealed[TIER_SPOOL_NAME];

    tier_spool_name(id, TIER_SPOOL_SEALED, sealed);
    if (spool->strict && fdatasync(fd) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot sync %s/%s", spool->dir, name);
    if (renameat(spool->dirfd, name, spool->dirfd, sealed) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot rename %s/%s to %s", spool->dir, name,
                               sealed);
    if (spool->strict && fsync(spool->dirfd) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot sync the spool %s", spool->dir);
    return TIER_OK;
}

/* ---- receiving ------------------------------------------------------------------------------ */

/*
 * How much of a partial's payload is here stands in the file, because its length says nothing where
 * it was another one before: the number, and the same number crossed with the id, since what stood
 * there may be another partial's. A mark that a crash of the machine put on the disk before the
 * payload costs a push: the Merkle root is not the header's then.
 */
static uint64_t mark_of(const struct tier_spool_rx *rx, const uint8_t mark[TIER_SPOOL_MARK]) {
    uint64_t offset = tier_get_u64(mark);
    bool ours = (tier_get_u64(mark + 8) ^ tier_get_u64(rx->id.b)) == offset;

    return ours ? offset : 0;
}

static void mark_put(const struct tier_spool_rx *rx, uint64_t offset,
                     uint8_t mark[TIER_SPOOL_MARK]) {
    tier_put_u64(mark, offset);
    tier_put_u64(mark + 8, offset ^ tier_get_u64(rx->id.b));
}

static enum tier_status mark_write(const struct tier_spool_rx *rx, const uint8_t *mark,
                                   struct tier_err *err) {
    return write_all(rx->spool, &rx->cipher, rx->fd, rx->part, mark, TIER_SPOOL_MARK,
                     rx->payload_at - TIER_SPOOL_MARK, err);
}

/* Opens and locks the partial, or finds that the update is sealed. */
static enum tier_status rx_lock(struct tier_spool_rx *rx, struct tier_err *err) {
    struct tier_spool *spool = rx->spool;

    rx->fd = tier_spool_reuse(spool, rx->part,
                              TIER_CIPHER_FRONT + rx->payload_at + rx->header.payload_bytes);
    if (rx->fd >= 0 && tier_spool_has(rx->spool, &rx->id)) { /* sealed meanwhile */
        unlinkat(rx->spool->dirfd, rx->part, 0);
        close(rx->fd);
        rx->fd = -1;
        rx->sealed = true;
    }
    if (rx->fd >= 0 || rx->sealed)
        return TIER_OK;
    for (int i = 0; i < LOCK_TRIES; i++) {
        struct stat ours, named;
        rx->fd = openat(spool->dirfd, rx->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (rx->fd < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot open %s/%s", spool->dir, rx->part);
        if (flock(rx->fd, LOCK_EX | LOCK_NB) != 0) {
            if (errno == EWOULDBLOCK)
                break;
            return tier_fail_errno(err, TIER_EIO, "cannot lock %s/%s", spool->dir, rx->part);
        }
        if (fstat(rx->fd, &ours) != 0)
            return tier_fail_errno(err, TIER_EIO, "cannot look at %s/%s", spool->dir, rx->part);
        if (fstatat(spool->dirfd, rx->part, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
            ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) {
            if (!tier_spool_has(spool, &rx->id))
                return TIER_OK;
            unlinkat(spool->dirfd, rx->part, 0); /* sealed meanwhile: the partial is needless */
        }
        close(rx->fd);
        rx->fd = -1;
        if (tier_spool_has(spool, &rx->id)) {
            rx->sealed = true;
            return TIER_OK;
        }
    }
    return tier_fail(err, TIER_ECONFLICT,
                     "%s is being received already; pushing again later would be right", rx->part);
}

/* Does the partial begin with this header? Then how much of the payload is worth keeping? */
static uint64_t rx_kept(struct tier_spool_rx *rx, const uint8_t *header, size_t len) {
    struct stat info;
    uint64_t kept = 0, bytes = 0;
    uint8_t *there = malloc(rx->payload_at);

    if (tier_spool_cipher_of(rx->spool, rx->fd, rx->part, &rx->cipher, NULL) == TIER_OK &&
        (rx->cipher.front > 0) == tier_cipher_wanted(rx->spool->dir) && fstat(rx->fd, &info) == 0)
        bytes = tier_cipher_bytes(&rx->cipher, (uint64_t)info.st_size);
    if (there && bytes >= rx->payload_at &&
        tier_spool_pread(rx->spool, &rx->cipher, rx->fd, rx->part, there, rx->payload_at, 0,
                         NULL) == TIER_OK &&
        memcmp(there, header, len) == 0) {
        uint64_t here = bytes - rx->payload_at;
        kept = mark_of(rx, there + rx->payload_at - TIER_SPOOL_MARK);
        if (kept > here)
            kept = here;
        if (kept > rx->header.payload_bytes)
            kept = rx->header.payload_bytes;
        kept -= kept % TIER_CHUNK_BYTES;
    }
    free(there);
    return kept;
}

static enum tier_status rx_rebuild(struct tier_spool_rx *rx, uint64_t kept, struct tier_err *err) {
    uint8_t *buffer = malloc(TIER_LEAF_BYTES);
    enum tier_status st = TIER_OK;

    if (!buffer)
        return tier_fail(err, TIER_ENOMEM, "no memory to resume %s", rx->part);
    for (; rx->offset < kept; rx->offset += TIER_LEAF_BYTES) {
        TIER_TRY_OUT(tier_spool_pread(rx->spool, &rx->cipher, rx->fd, rx->part, buffer,
                                      TIER_LEAF_BYTES, rx->payload_at + rx->offset, err));
        tier_merkle_add(rx->merkle, buffer, TIER_LEAF_BYTES);
    }
out:
    free(buffer);
    return st;
}

/* The header, zeros and the mark, in one write over whatever is there. */
static enum tier_status rx_fresh(struct tier_spool_rx *rx, const uint8_t *header, size_t len,
                                 struct tier_err *err) {
    uint8_t *front = calloc(1, rx->payload_at);

    if (!front)
        return tier_fail(err, TIER_ENOMEM, "no memory to receive %s", rx->part);
    memcpy(front, header, len);
    mark_put(rx, 0, front + rx->payload_at - TIER_SPOOL_MARK);
    enum tier_status st = tier_spool_cipher_new(rx->spool, rx->fd, rx->part, &rx->cipher, err);
    if (st == TIER_OK)
        st = write_all(rx->spool, &rx->cipher, rx->fd, rx->part, front, rx->payload_at, 0, err);
    free(front);
    return st;
}

static enum tier_status rx_begin(struct tier_spool_rx *rx, const uint8_t *header, size_t len,
                                 struct tier_err *err) {
    uint64_t kept = rx_kept(rx, header, len);

    if (kept > 0)
        return rx_rebuild(rx, kept, err);
    enum tier_status st = rx_fresh(rx, header, len, err);
    if (st != TIER_OK) /* nothing of the payload is lost with it */
        unlinkat(rx->spool->dirfd, rx->part, 0);
    return st;
}

/*
 * A sealed file that is damaged is as good as none: the child pushes it again. It is read through,
 * because a crash of the machine can leave another's bytes under a name that was never synced; that
 * a child pushes what is here already is rare.
 */
static enum tier_status rx_look_for_sealed(struct tier_spool_rx *rx, struct tier_err *err) {
    struct tier_update *u = NULL;
    enum tier_status st = tier_spool_update_open(rx->spool, &rx->id, &u, err);

    if (st == TIER_OK)
        st = tier_spool_update_check(u, err);
    tier_spool_update_close(u);
    rx->sealed = st == TIER_OK;
    if (st == TIER_ECORRUPT)
        return tier_spool_delete(rx->spool, &rx->id, err);
    return st == TIER_ENOTFOUND ? TIER_OK : st;
}

enum tier_status tier_spool_receive(struct tier_spool *spool, const uint8_t *header, size_t len,
                                    struct tier_spool_rx **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_spool_rx *rx = calloc(1, sizeof *rx);

    if (!rx)
        return tier_fail(err, TIER_ENOMEM, "no memory to receive an update");
    rx->spool = spool;
    rx->fd = -1;
    TIER_TRY_OUT(tier_update_header_decode(header, len, &rx->header, err));
    tier_hash_data(header, len, &rx->id);
    tier_spool_name(&rx->id, TIER_SPOOL_PART, rx->part);
    rx->payload_at = tier_spool_payload_at(len);
    rx->merkle = tier_merkle_new();
    if (!rx->merkle) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to receive an update");
        goto out;
    }
    TIER_TRY_OUT(rx_look_for_sealed(rx, err));
    if (!rx->sealed)
        TIER_TRY_OUT(rx_lock(rx, err));
    if (rx->sealed)
        rx->offset = rx->header.payload_bytes;
    else
        TIER_TRY_OUT(rx_begin(rx, header, len, err));
    *out = rx;
    rx = NULL;
out:
    tier_spool_rx_close(rx);
    return st;
}

bool tier_spool_rx_sealed(const struct tier_spool_rx *rx) {
    return rx->sealed;
}

uint64_t tier_spool_rx_offset(const struct tier_spool_rx *rx) {
    return rx->offset;
}

const struct tier_update_header *tier_spool_rx_header(const struct tier_spool_rx *rx) {
    return &rx->header;
}

enum tier_status tier_spool_rx_write(struct tier_spool_rx *rx, uint64_t offset, const void *data,
                                     size_t n, struct tier_err *err) {
    struct iovec slice = {(void *)data, n};

    return tier_spool_rx_writev(rx, offset, &slice, 1, err);
}

/* Writes up to SLICES_MAX slices at `at`, however often the system stops half-way. */
static enum tier_status write_slices(const struct tier_spool_rx *rx, uint64_t at,
                                     const struct iovec *slices, size_t count,
                                     struct tier_err *err) {
    struct iovec left[SLICES_MAX];
    size_t first = 0;

    memcpy(left, slices, count * sizeof *left);
    for (;;) {
        while (first < count && left[first].iov_len == 0)
            first++;
        if (first == count)
            return TIER_OK;
        ssize_t put =
            tier_cipher_pwritev(&rx->cipher, rx->fd, left + first, (int)(count - first), at);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return write_failed(rx->spool, rx->part, err);
        at += (uint64_t)put;
        for (size_t done = (size_t)put; done > 0;) {
            size_t n = done < left[first].iov_len ? done : left[first].iov_len;
            left[first].iov_base = (uint8_t *)left[first].iov_base + n;
            left[first].iov_len -= n;
            done -= n;
            if (left[first].iov_len == 0)
                first++;
        }
    }
}

enum tier_status tier_spool_rx_writev(struct tier_spool_rx *rx, uint64_t offset,
                                      const struct iovec *slices, size_t count,
                                      struct tier_err *err) {
    uint64_t total = 0, left = rx->header.payload_bytes - rx->offset;
    uint8_t mark[TIER_SPOOL_MARK];

    if (rx->sealed || offset != rx->offset)
        return tier_fail(err, TIER_EPROTO,
                         "%s: bytes for offset %" PRIu64 " came where %" PRIu64 " is next",
                         rx->part, offset, rx->offset);
    for (size_t i = 0; i < count; i++) {
        if (slices[i].iov_len > left - total)
            return tier_fail(err, TIER_EPROTO, "%s: more bytes than the %" PRIu64 " of its payload",
                             rx->part, rx->header.payload_bytes);
        total += slices[i].iov_len;
    }
    for (size_t i = 0; i < count; i += SLICES_MAX) {
        size_t n = count - i < SLICES_MAX ? count - i : SLICES_MAX;
        TIER_TRY(write_slices(rx, rx->payload_at + offset, slices + i, n, err));
        for (size_t j = i; j < i + n; j++)
            offset += slices[j].iov_len;
    }
    mark_put(rx, rx->offset + total, mark);
    TIER_TRY(mark_write(rx, mark, err));
    for (size_t i = 0; i < count; i++)
        tier_merkle_add(rx->merkle, slices[i].iov_base, slices[i].iov_len);
    rx->offset += total;
    return TIER_OK;
}

enum tier_status tier_spool_rx_seal(struct tier_spool_rx *rx, struct tier_hash *id_out,
                                    struct tier_err *err) {
    struct tier_hash root;

    if (rx->sealed) {
        *id_out = rx->id;
        return TIER_OK;
    }
    if (rx->fd < 0)
        return tier_fail(err, TIER_EUPDATE, "%s was refused already", rx->part);
    if (rx->offset != rx->header.payload_bytes)
        return tier_fail(err, TIER_EUPDATE,
                         "%s is cut short: %" PRIu64 " of %" PRIu64 " payload bytes are here",
                         rx->part, rx->offset, rx->header.payload_bytes);
    if (!rx->root_checked) {
        tier_merkle_finish(rx->merkle, &root);
        if (!tier_hash_equal(&root, &rx->header.root)) {
            unlinkat(rx->spool->dirfd, rx->part, 0);
            close(rx->fd);
            rx->fd = -1;
            return tier_fail(err, TIER_EUPDATE,
                             "%s: the payload's Merkle root is not the one in its header; it was "
                             "damaged on the way and must be pushed again",
                             rx->part);
        }
        rx->root_checked = true; /* so that a seal that fails on the disk can be tried again */
    }
    /* A sealed file has zeros there, and ends with its payload: it may have been longer before. */
    static const uint8_t none[TIER_SPOOL_MARK];
    TIER_TRY(mark_write(rx, none, err));
    if (ftruncate(rx->fd, (off_t)(rx->cipher.front + rx->payload_at + rx->offset)) != 0)
        return write_failed(rx->spool, rx->part, err);
    TIER_TRY(publish(rx->spool, rx->fd, rx->part, &rx->id, err));
    flock(rx->fd, LOCK_UN); /* readers are welcome */
    rx->sealed = true;
    *id_out = rx->id;
    return TIER_OK;
}

void tier_spool_rx_close(struct tier_spool_rx *rx) {
    if (!rx)
        return;
    if (rx->fd >= 0)
        close(rx->fd);
    tier_merkle_free(rx->merkle);
    tier_update_header_release(&rx->header);
    tier_cipher_wipe(&rx->cipher);
    free(rx);
}

void tier_spool_rx_discard(struct tier_spool_rx *rx) {
    if (rx && !rx->sealed && rx->fd >= 0)
        unlinkat(rx->spool->dirfd, rx->part, 0);
    tier_spool_rx_close(rx);
}

/* ---- writing our own ------------------------------------------------------------------------ */

/* How long it becomes shows at the end; one of ours is seldom much longer than the last. */
static enum tier_status writer_create(struct tier_spool_writer *w, bool empty,
                                      struct tier_err *err) {
    do {
        snprintf(w->name, sizeof w->name, "%" PRIuFAST64 ".tmp",
                 atomic_fetch_add(&w->spool->next_tmp, 1));
        w->fd = tier_spool_reuse(w->spool, w->name, empty ? 0 : INT64_MAX);
        if (w->fd < 0)
            w->fd = openat(w->spool->dirfd, w->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    } while (w->fd < 0 && errno == EEXIST); /* left from a crash, until the next sweep */
    if (w->fd < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s/%s", w->spool->dir, w->name);
    return tier_spool_cipher_new(w->spool, w->fd, w->name, &w->cipher, err);
}

enum tier_status tier_spool_writer_begin(struct tier_spool *spool,
                                         const struct tier_update_header *tmpl,
                                         struct tier_spool_writer **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_update_header h = *tmpl;
    struct tier_spool_writer *w = calloc(1, sizeof *w);

    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory to write an update");
    w->spool = spool;
    w->fd = -1;
    h.payload_bytes = h.weight == 0 ? 0 : 4; /* any length its kind may have, until it is known */
    h.saturated = 0;
    TIER_TRY_OUT(tier_update_header_encode(&h, &w->bytes, &w->len, err));
    w->payload_at = tier_spool_payload_at(w->len);
    w->merkle = tier_merkle_new();
    w->chunk = malloc(TIER_CHUNK_BYTES);
    if (!w->merkle || !w->chunk) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to write an update");
        goto out;
    }
    TIER_TRY_OUT(writer_create(w, h.weight == 0, err));
    *out = w;
    w = NULL;
out:
    tier_spool_writer_abort(w);
    return st;
}

/* In whole chunks, which are written at once and hashed as many leaves at a time as there are
 * lanes.
 */
static enum tier_status writer_flush(struct tier_spool_writer *w, struct tier_err *err) {
    TIER_TRY(write_all(w->spool, &w->cipher, w->fd, w->name, w->chunk, w->held,
                       w->payload_at + w->offset, err));
    tier_merkle_add(w->merkle, w->chunk, w->held);
    w->offset += w->held;
    w->held = 0;
    return TIER_OK;
}

enum tier_status tier_spool_writer_append(struct tier_spool_writer *w, const void *data, size_t n,
                                          struct tier_err *err) {
    const uint8_t *p = data;

    while (n > 0) {
        size_t room = TIER_CHUNK_BYTES - w->held, m = n < room ? n : room;
        memcpy(w->chunk + w->held, p, m);
        w->held += m;
        p += m;
        n -= m;
        if (w->held == TIER_CHUNK_BYTES)
            TIER_TRY(writer_flush(w, err));
    }
    return TIER_OK;
}

static void writer_free(struct tier_spool_writer *w) {
    if (w->fd >= 0)
        close(w->fd);
    tier_merkle_free(w->merkle);
    tier_cipher_wipe(&w->cipher);
    free(w->chunk);
    free(w->bytes);
    free(w);
}

/* The header, and zeros over what may have been there; and no more behind the payload. */
static enum tier_status writer_front(const struct tier_spool_writer *w, const uint8_t *header,
                                     size_t len, struct tier_err *err) {
    uint8_t *front = calloc(1, w->payload_at);

    if (!front)
        return tier_fail(err, TIER_ENOMEM, "no memory for the header of an update");
    memcpy(front, header, len);
    enum tier_status st =
        write_all(w->spool, &w->cipher, w->fd, w->name, front, w->payload_at, 0, err);
    free(front);
    if (st == TIER_OK &&
        ftruncate(w->fd, (off_t)(w->cipher.front + w->payload_at + w->offset)) != 0)
        st = write_failed(w->spool, w->name, err);
    return st;
}

enum tier_status tier_spool_writer_seal(struct tier_spool_writer *w, uint64_t saturated,
                                        struct tier_hash *id_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_update_header h = {.round = 0};
    uint8_t *bytes = NULL;
    size_t len = 0;
    struct tier_hash id;

    TIER_TRY_OUT(tier_update_header_decode(w->bytes, w->len, &h, err));
    TIER_TRY_OUT(writer_flush(w, err));
    h.payload_bytes = w->offset;
    h.saturated = saturated;
    tier_merkle_finish(w->merkle, &h.root);
    TIER_TRY_OUT(tier_update_header_encode(&h, &bytes, &len, err));
    TIER_TRY_OUT(writer_front(w, bytes, len, err));
    tier_hash_data(bytes, len, &id);
    TIER_TRY_OUT(publish(w->spool, w->fd, w->name, &id, err));
    *id_out = id;
out:
    if (st != TIER_OK)
        unlinkat(w->spool->dirfd, w->name, 0);
    tier_update_header_release(&h);
    free(bytes);
    writer_free(w);
    return st;
}

void tier_spool_writer_abort(struct tier_spool_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        unlinkat(w->spool->dirfd, w->name, 0);
    writer_free(w);
}
