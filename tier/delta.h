/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way down, shorter: what the next model differs from the one before by, for children that hold
 * that one. A form that rounds is applied where the model is published: the model IS base + what
 * the file decodes to, so whoever applies the file gets the very same bytes, and the SHA-256 that
 * the parent announced says so. Whoever cannot fetches the model whole.
 *
 * A file, "<hash>.delta" in the models directory, little-endian: a head of 96 bytes (magic
 * "consdlt1", u32 version, u32 form, u64 elements, u32 metadata bytes, u32 zero, hashes of base and
 * manifest), the new model's metadata (each key and value with a NUL behind it), and the elements
 * of the concatenation in blocks of TIER_BLOCK_ELEMENTS, as an update of that encoding has them
 * (tier/segment.h), TIER_SEGMENT_ELEMENTS at a time: a u32 length and a zstd frame, or the bytes
 * as they are where that is no longer.
 *
 * Threads: a writer belongs to one thread; calls block on the disk. Memory does not depend on the
 * model's size.
 */
#ifndef CONSILIUM_TIER_DELTA_H
#define CONSILIUM_TIER_DELTA_H

#include "tier/model.h"
#include "tier/update.h"

#define TIER_DELTA_TEMPORARY "delta" /* for tier_named_file_sweep */
#define TIER_DELTA_METADATA_BYTES_MAX 4096u

/* BF16, Q8 or Q4, whose rounding is a function of `key` and an element's place; F32: there is no
 * delta, models travel whole. */
struct tier_delta_form {
    enum tier_encoding encoding;
    uint64_t key;
};

struct tier_delta_writer;
/* TIER_ELIMIT for metadata that is too long. Copies all but the manifest. */
enum tier_status tier_delta_begin(const char *dir, const struct tier_manifest *manifest,
                                  const struct tier_hash *base, const struct tier_delta_form *form,
                                  const struct tier_kv *metadata, size_t metadata_count,
                                  struct tier_delta_writer **out, struct tier_err *err);
/*
 * The next n elements of the concatenation, a whole number of blocks or the last: writes
 * next - base, and makes next what base and that come to. TIER_EMODEL where a difference has no
 * number in the form.
 */
enum tier_status tier_delta_append(struct tier_delta_writer *w, const float *base, float *next,
                                   size_t n, struct tier_err *err);
/* Ends the writer whether it succeeds or not. */
enum tier_status tier_delta_finish(struct tier_delta_writer *w, struct tier_hash *hash_out,
                                   struct tier_err *err);
/* NULL is fine. */
void tier_delta_abort(struct tier_delta_writer *w);

/*
 * Makes the model `want` of a delta and its base, all in `dir`. TIER_ENOTFOUND where one of the two
 * is not there; TIER_EMODEL where the file is no delta of that manifest and base, or what it makes
 * has another hash: then no model is left.
 */
enum tier_status tier_delta_apply(const char *dir, const struct tier_hash *delta,
                                  const struct tier_hash *base,
                                  const struct tier_manifest *manifest,
                                  const struct tier_hash *want, struct tier_err *err);
/* Of a file by its path, for fuzzing: whatever it makes is thrown away. */
enum tier_status tier_delta_read(const char *path, const struct tier_hash *base,
                                 const struct tier_manifest *manifest, struct tier_err *err);

/* A file that is not there is fine. */
void tier_delta_delete(const char *dir, const struct tier_hash *delta);
/* At start: deletes them all; a child that misses one fetches the model. */
void tier_delta_sweep(const char *dir);

#endif
