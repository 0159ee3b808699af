/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ONNX file without its weights. Weights are nearly all of a file and lie in it as they are
 * used, so they are left there: what remains, a few KiB, is unpacked by protobuf-c, and a weight is
 * read when it is wanted. Memory does not depend on the model's size, nor is a file bounded by the
 * 2 GiB that one protobuf message may have.
 *
 * Threads: reads of one source may be made by several at once.
 */
#ifndef CONSILIUM_TIER_GRAPH_FILE_H
#define CONSILIUM_TIER_GRAPH_FILE_H

#include "tier/err.h"
#include "tier/vault.h"

#include <stddef.h>
#include <stdint.h>

/* What is left of a file without its weights. */
#define GRAPH_SKELETON_BYTES_MAX (64u << 20)

/* A file, or bytes in memory. */
struct graph_source {
    int fd; /* -1: in memory */
    struct tier_cipher cipher;
    uint8_t *bytes;
    uint64_t len;
};
/* Zero-fills what is closed. */
enum tier_status graph_source_open(struct graph_source *s, const char *path, struct tier_err *err);
enum tier_status graph_source_copy(struct graph_source *s, const void *bytes, size_t len,
                                   struct tier_err *err);
void graph_source_close(struct graph_source *s);
/* All n bytes, which must be there: TIER_EIO where the file has become shorter. */
enum tier_status graph_source_read(const struct graph_source *s, uint64_t at, void *out, size_t n,
                                   struct tier_err *err);

/* Where the values of one initialiser lie, as little-endian float32; bytes 0: in the skeleton. */
struct graph_weights {
    uint64_t offset, bytes;
};

/*
 * The file as a protobuf message without the values of its larger initialisers, and where those
 * are, by initialiser. TIER_EMODEL where it is no such message, TIER_ELIMIT where more than
 * GRAPH_SKELETON_BYTES_MAX or TIER_TENSORS_MAX initialisers are left. The caller frees both.
 */
enum tier_status graph_skeleton(const struct graph_source *s, uint8_t **bytes_out, size_t *len_out,
                                struct graph_weights **weights_out, size_t *count_out,
                                struct tier_err *err);

#endif
