/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the spool's parts share: the directory and its sealed files (spool.c), files that are still
 * growing (spool_write.c), and deleted ones that are used again (spool_recycle.c). Threads: as in
 * spool.h.
 */
#ifndef CONSILIUM_TIER_SPOOL_PRIVATE_H
#define CONSILIUM_TIER_SPOOL_PRIVATE_H

#include "tier/spool.h"
#include "tier/vault.h"

#include <pthread.h>
#include <stdatomic.h>

#define TIER_SPOOL_ALIGN 4096u
#define TIER_SPOOL_MARK 16u                 /* how far a partial is; zeros in a sealed file */
#define TIER_SPOOL_NAME (TIER_HASH_HEX + 8) /* "<id>.part" and "N.tmp", terminated */

#define TIER_SPOOL_OLD ".old"
#define TIER_SPOOL_OLD_MAX 16u
#define TIER_SPOOL_OLD_BYTES_MAX (UINT64_C(2) << 30) /* what is larger is in no memory anyway */

struct tier_spool {
    char *dir; /* for messages */
    int dirfd;
    bool strict;
    atomic_uint_fast64_t next_tmp;

    pthread_mutex_t lock; /* guards all below */
    struct tier_spool_old {
        uint64_t number, bytes;
    } old[TIER_SPOOL_OLD_MAX];
    uint64_t old_next, old_bytes; /* old_bytes: of all */
    unsigned old_count;
};

enum tier_spool_kind { TIER_SPOOL_SEALED, TIER_SPOOL_PART };

/* "<id>.upd" or "<id>.part" into name[TIER_SPOOL_NAME]; returns it. */
const char *tier_spool_name(const struct tier_hash *id, enum tier_spool_kind kind, char *name);
/* Where the payload begins behind a header of that length. */
uint64_t tier_spool_payload_at(size_t header_len);
/* Exactly n bytes, or TIER_EIO; TIER_ECORRUPT where the file ends before. `name` is for messages.
 */
enum tier_status tier_spool_pread(const struct tier_spool *spool, const struct tier_cipher *cipher,
                                  int fd, const char *name, void *out, size_t n, uint64_t offset,
                                  struct tier_err *err);
/* How the file is stored, which is there; how a new one is to be, whose front is written. */
enum tier_status tier_spool_cipher_of(const struct tier_spool *spool, int fd, const char *name,
                                      struct tier_cipher *out, struct tier_err *err);
enum tier_status tier_spool_cipher_new(const struct tier_spool *spool, int fd, const char *name,
                                       struct tier_cipher *out, struct tier_err *err);

/* ---- spool_recycle.c ---- */

/* Gives the file another name and keeps it for later, or deletes it aside where it is large and
 * there is enough; false: the caller deletes it. */
bool tier_spool_recycle(struct tier_spool *spool, const char *name);
/*
 * A deleted file as `name`, which must not exist, for a new one of that length: open for reading
 * and writing, locked exclusively, at most as long, full of old bytes. -1: there is none.
 */
int tier_spool_reuse(struct tier_spool *spool, const char *name, uint64_t bytes);

#endif
