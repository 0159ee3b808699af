/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files known by their SHA-256 in a node's models directory: ONNX graphs (<hash>.onnx) and
 * published models (<hash>.safetensors) and what they differ by (<hash>.delta); a root's optimiser
 * keeps its state there too (<hash>.state). Receiving is resumable and verified before the file
 * gets its name, so whatever carries a name is whole.
 *
 * Threads: an object belongs to one thread at a time; calls block on the disk.
 */
#ifndef CONSILIUM_TIER_CONTENT_H
#define CONSILIUM_TIER_CONTENT_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/vault.h"

#include <stdint.h>
#include <sys/uio.h>

#define TIER_CONTENT_GRAPH ".onnx"
#define TIER_CONTENT_MODEL ".safetensors"
#define TIER_CONTENT_DELTA ".delta"
#define TIER_CONTENT_CARD ".card" /* of a released model (tier/card.h) */

/* "<dir>/<hash><suffix>", the caller's to free. */
char *tier_content_path(const char *dir, const struct tier_hash *hash, const char *suffix);
bool tier_content_has(const char *dir, const struct tier_hash *hash, const char *suffix);

/* TIER_ENOTFOUND where it is not there, TIER_ECORRUPT and deletes it where its bytes are not those
 * of its name: nobody takes it for whole then. */
enum tier_status tier_content_check(const char *dir, const struct tier_hash *hash,
                                    const char *suffix, struct tier_err *err);
/*
 * Once at start: where the machine has been started anew since the last time, or the directory came
 * from another one, reads every file through and deletes those that are not what their name says.
 */
enum tier_status tier_content_sweep(const char *dir, struct tier_err *err);

/* An open file, by whichever suffix. */
struct tier_content {
    int fd; /* -1 when closed */
    uint64_t bytes;
    struct tier_cipher cipher;
};
enum tier_status tier_content_open(const char *dir, const struct tier_hash *hash,
                                   struct tier_content *out, struct tier_err *err);
void tier_content_close(struct tier_content *c);
/* A tier_sender_read over a struct tier_content. */
enum tier_status tier_content_read(void *content, uint64_t offset, void *out, size_t n,
                                   struct tier_err *err);

/* Receiving one file into "<dir>/<hash>.part". */
struct tier_content_rx;
enum tier_status tier_content_rx_open(const char *dir, const struct tier_hash *hash,
                                      const char *suffix, struct tier_content_rx **out,
                                      struct tier_err *err);
/* Bytes that are here already: the next write begins there. */
uint64_t tier_content_rx_offset(const struct tier_content_rx *rx);
enum tier_status tier_content_rx_writev(struct tier_content_rx *rx, const struct iovec *slices,
                                        size_t count, struct tier_err *err);
/*
 * Names the file if its hash is right (TIER_ECORRUPT and deletes it if not). Ends rx either way.
 * The disk is not waited for: tier_content_sweep finds what a machine's crash took.
 */
enum tier_status tier_content_rx_finish(struct tier_content_rx *rx, struct tier_err *err);
/* Keeps the partial file. NULL is fine. */
void tier_content_rx_close(struct tier_content_rx *rx);
/* As close, and what has come is deleted: the next attempt begins anew. */
void tier_content_rx_discard(struct tier_content_rx *rx);

/* Stores bytes held in memory under their hash, synced; a file that is there already is kept. */
enum tier_status tier_content_store(const char *dir, const char *suffix, const void *data,
                                    size_t bytes, struct tier_hash *hash_out, struct tier_err *err);

#endif
