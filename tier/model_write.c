/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing .safetensors, one byte string for one content: metadata first and by key, tensors in
 * manifest order, compact JSON, spaces up to a multiple of 8 so that the data are aligned. A model
 * is the one thing, with the journal, that is synced always.
 */
#include "tier/model.h"

#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/named_file.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_ALIGN 8

struct tier_model_writer {
    const struct tier_manifest *manifest;
    struct tier_named_file *file;
    uint64_t next; /* element */
};

static int by_key(const void *a, const void *b) {
    const struct tier_kv *x = a, *y = b;
    return strcmp(x->key, y->key);
}

/* NULL where a string is not UTF-8, a key is there twice, or memory is gone. */
static json_t *metadata_json(const struct tier_kv *metadata, size_t count) {
    struct tier_kv *sorted = malloc((count + 1) * sizeof *sorted);
    json_t *j = json_object();

    for (size_t i = 0; sorted && i < count; i++)
        sorted[i] = metadata[i];
    if (sorted)
        qsort(sorted, count, sizeof *sorted, by_key);
    for (size_t i = 0; sorted && j && i < count; i++)
        if ((i > 0 && strcmp(sorted[i - 1].key, sorted[i].key) == 0) ||
            json_object_set_new(j, sorted[i].key, json_string(sorted[i].value)) != 0) {
            json_decref(j);
            j = NULL;
        }
    if (!sorted) {
        json_decref(j);
        j = NULL;
    }
    free(sorted);
    return j;
}

static json_t *tensor_json(const struct tier_tensor *t) {
    json_t *shape = json_array();

    for (unsigned d = 0; shape && d < t->ndim; d++)
        if (json_array_append_new(shape, json_integer((json_int_t)t->dims[d])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets",
                     (json_int_t)t->at * 4, (json_int_t)(t->at + t->count) * 4);
}

/* The compact JSON text; jansson writes an object in the order in which it was filled. */
static enum tier_status header_text(const struct tier_manifest *manifest,
                                    const struct tier_kv *metadata, size_t metadata_count,
                                    char **text_out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    json_t *root = json_object();
    char *text = NULL;

    if (metadata_count > 0) {
        json_t *j = metadata_json(metadata, metadata_count);
        if (!j || json_object_set_new(root, "__metadata__", j) != 0) {
            st = tier_fail(err, TIER_EARG,
                           "the model's metadata: UTF-8 strings under keys that differ would be "
                           "right");
            goto out;
        }
    }
    for (size_t i = 0; i < manifest->count; i++)
        if (json_object_set_new(root, manifest->tensors[i].name,
                                tensor_json(&manifest->tensors[i])) != 0)
            goto memory;
    text = json_dumps(root, JSON_COMPACT);
    if (!text)
        goto memory;
    *text_out = text;
out:
    json_decref(root);
    return st;
memory:
    st =
        tier_fail(err, TIER_ENOMEM, "no memory for a model header of %zu tensors", manifest->count);
    goto out;
}

static enum tier_status put_header(struct tier_model_writer *w, const struct tier_kv *metadata,
                                   size_t metadata_count, struct tier_err *err) {
    static const char spaces[HEADER_ALIGN + 1] = "        ";
    enum tier_status st = TIER_OK;
    uint8_t prefix[8];
    char *text = NULL;

    if (metadata_count > TIER_MODEL_METADATA_MAX)
        return tier_fail(err, TIER_ELIMIT, "%zu metadata entries, the most is %d", metadata_count,
                         TIER_MODEL_METADATA_MAX);
    TIER_TRY(header_text(w->manifest, metadata, metadata_count, &text, err));
    size_t n = strlen(text), fill = (HEADER_ALIGN - n % HEADER_ALIGN) % HEADER_ALIGN;
    if (n + fill > TIER_MODEL_HEADER_BYTES_MAX) {
        st = tier_fail(err, TIER_ELIMIT, "a model header of %zu bytes, the most is %u", n + fill,
                       TIER_MODEL_HEADER_BYTES_MAX);
        goto out;
    }
    tier_put_u64(prefix, n + fill);
    TIER_TRY_OUT(tier_named_file_put(w->file, prefix, sizeof prefix, err));
    TIER_TRY_OUT(tier_named_file_put(w->file, text, n, err));
    TIER_TRY_OUT(tier_named_file_put(w->file, spaces, fill, err));
out:
    free(text);
    return st;
}

enum tier_status tier_model_writer_begin(const char *dir, const struct tier_manifest *manifest,
                                         const struct tier_kv *metadata, size_t metadata_count,
                                         struct tier_model_writer **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_model_writer *w = calloc(1, sizeof *w);

    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory to write a model");
    w->manifest = manifest;
    TIER_TRY_OUT(tier_named_file_begin(dir, TIER_MODEL_TEMPORARY, &w->file, err));
    TIER_TRY_OUT(put_header(w, metadata, metadata_count, err));
    *out = w;
    w = NULL;
out:
    tier_model_writer_abort(w);
    return st;
}

enum tier_status tier_model_writer_append(struct tier_model_writer *w, const float *x, size_t n,
                                          struct tier_err *err) {
    TIER_TRY(tier_model_writer_write(w, x, n, err));
    tier_hasher_add(tier_model_writer_hasher(w), x, n * sizeof *x);
    return TIER_OK;
}

enum tier_status tier_model_writer_write(struct tier_model_writer *w, const float *x, size_t n,
                                         struct tier_err *err) {
    if (n > w->manifest->elements - w->next)
        return tier_fail(err, TIER_EARG, "more elements than the %" PRIu64 " of the model",
                         w->manifest->elements);
    TIER_TRY(tier_named_file_write(w->file, x, n * sizeof *x, err));
    w->next += n;
    return TIER_OK;
}

struct tier_hasher *tier_model_writer_hasher(struct tier_model_writer *w) {
    return tier_named_file_hasher(w->file);
}

enum tier_status tier_model_writer_finish(struct tier_model_writer *w, struct tier_hash *hash_out,
                                          struct tier_err *err) {
    enum tier_status st;

    if (w->next != w->manifest->elements) {
        st = tier_fail(err, TIER_EARG, "%" PRIu64 " of the model's %" PRIu64 " elements were given",
                       w->next, w->manifest->elements);
    } else {
        st = tier_named_file_finish(w->file, TIER_CONTENT_MODEL, 0644, hash_out, err);
        w->file = NULL;
    }
    tier_model_writer_abort(w);
    return st;
}

void tier_model_writer_abort(struct tier_model_writer *w) {
    if (!w)
        return;
    tier_named_file_abort(w->file);
    free(w);
}
