/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A published model: one .safetensors file, named by the SHA-256 of all its bytes. Only float32
 * tensors; their data follow one another without gaps in manifest order. The writer gives the same
 * bytes for the same content on every machine, so that two tiers that computed the same model hold
 * the same file name.
 *
 * The reader checks everything before it believes it: the header's size against
 * TIER_MODEL_HEADER_BYTES_MAX, offsets against shapes and the file's length. It keeps a file
 * descriptor and the tensor table; data is read on demand, so memory does not depend on the model's
 * size.
 *
 * Threads: a struct tier_model is immutable and may be read by many threads at once; a writer
 * belongs to one thread at a time. The caller owns both and ends them with _close, _finish or
 * _abort.
 */
#ifndef CONSILIUM_TIER_MODEL_H
#define CONSILIUM_TIER_MODEL_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"
#include "tier/manifest.h"

#define TIER_MODEL_HEADER_BYTES_MAX (64u << 20)
#define TIER_MODEL_METADATA_MAX 256
#define TIER_MODEL_TEMPORARY "model" /* for tier_named_file_sweep */

struct tier_model;

/* One "__metadata__" entry; UTF-8. */
struct tier_kv {
    const char *key, *value;
};

/* TIER_ENOTFOUND without a file, TIER_EMODEL (with the tensor's name) for one that is not such a
 * model. */
enum tier_status tier_model_open(const char *path, struct tier_model **out, struct tier_err *err);
void tier_model_close(struct tier_model *m);

/* In file order, with frac_bits 0 and not wide: a plan decides on those. Lives as long as m. */
const struct tier_tensor *tier_model_tensors(const struct tier_model *m, size_t *count_out);
uint64_t tier_model_elements(const struct tier_model *m);
/* NULL where there is no such key. */
const char *tier_model_metadata(const struct tier_model *m, const char *key);
/* Entries in key order; NULL past the end. */
const struct tier_kv *tier_model_metadata_at(const struct tier_model *m, size_t i);
/* The hash its file name claims; all zero where the file is not named by a hash. Not verified:
 * tier_model_hash_file does that. */
const struct tier_hash *tier_model_named_hash(const struct tier_model *m);
/* Same tensors, shapes and order as the manifest, or TIER_EMODEL naming the first difference. */
enum tier_status tier_model_matches(const struct tier_model *m,
                                    const struct tier_manifest *manifest, struct tier_err *err);

/* Elements [first, first + n) of the concatenation. TIER_EARG past the end; TIER_ECORRUPT where the
 * file has become shorter. */
enum tier_status tier_model_read(const struct tier_model *m, uint64_t first, size_t n, float *out,
                                 struct tier_err *err);

/* Adds the bytes before element 0 to the hasher: whoever reads all elements in order, and adds them
 * too, has the file's hash at the end. */
enum tier_status tier_model_hash_front(const struct tier_model *m, struct tier_hasher *hasher,
                                       struct tier_err *err);

/* "<dir>/<hash>.safetensors", malloc'd; NULL when out of memory. */
char *tier_model_path(const char *dir, const struct tier_hash *hash);
/* SHA-256 of the whole file. */
enum tier_status tier_model_hash_file(const char *path, struct tier_hash *out,
                                      struct tier_err *err);

/*
 * Writes a model of the manifest's tensors into directory `dir`. Elements are appended in the order
 * of the concatenation, in pieces of any size. _finish syncs the file, names it by its hash, syncs
 * the directory and frees the writer; it fails with TIER_EARG unless exactly manifest->elements
 * were appended, and leaves no file behind when it fails. _abort removes the temporary file; NULL
 * is fine. The manifest is borrowed until then. Metadata keys must differ; order does not matter.
 */
struct tier_model_writer;
enum tier_status tier_model_writer_begin(const char *dir, const struct tier_manifest *manifest,
                                         const struct tier_kv *metadata, size_t metadata_count,
                                         struct tier_model_writer **out, struct tier_err *err);
enum tier_status tier_model_writer_append(struct tier_model_writer *w, const float *x, size_t n,
                                          struct tier_err *err);
/* As _append, but for the hash (tier/named_file.h). */
enum tier_status tier_model_writer_write(struct tier_model_writer *w, const float *x, size_t n,
                                         struct tier_err *err);
struct tier_hasher *tier_model_writer_hasher(struct tier_model_writer *w);
/* Ends the writer whether it succeeds or not. */
enum tier_status tier_model_writer_finish(struct tier_model_writer *w, struct tier_hash *hash_out,
                                          struct tier_err *err);
void tier_model_writer_abort(struct tier_model_writer *w);

#endif
