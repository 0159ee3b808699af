/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading .safetensors: eight bytes of header length, a JSON object of name -> {dtype, shape,
 * data_offsets} and "__metadata__" -> {string: string}, then the data. The order of tensors is the
 * order of their data, not of their names in the JSON.
 */
#include "tier/model.h"

#include "tier/bytes.h"
#include "tier/vault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".safetensors"

struct tier_model {
    char *path;
    int fd;
    struct tier_cipher cipher;
    uint64_t data_at, elements;
    struct tier_tensor *tensors;
    size_t count;
    struct tier_kv *metadata; /* key order; strings live in json */
    size_t metadata_count;
    json_t *json;
    struct tier_hash named_hash;
};

static enum tier_status read_at(const struct tier_model *m, void *out, size_t n, uint64_t at,
                                struct tier_err *err) {
    uint8_t *p = out;

    while (n > 0) {
        ssize_t got = tier_cipher_pread(&m->cipher, m->fd, p, n, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read %s", m->path);
        if (got == 0)
            return tier_fail(err, TIER_ECORRUPT,
                             "%s ends at byte %" PRIu64 ", where more should be", m->path, at);
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return TIER_OK;
}

/* ---- the header ----------------------------------------------------------------------------- */

static enum tier_status bad_tensor(const struct tier_model *m, const char *name, const char *what,
                                   struct tier_err *err) {
    return tier_fail(err, TIER_EMODEL, "%s: tensor %.100s: %s", m->path, name, what);
}

static bool get_count(const json_t *j, uint64_t *out) {
    if (!json_is_integer(j) || json_integer_value(j) < 0)
        return false;
    *out = (uint64_t)json_integer_value(j);
    return true;
}

/* `at` is used for the offset in bytes until the order is known. */
static enum tier_status read_tensor(const struct tier_model *m, const char *name, const json_t *j,
                                    struct tier_tensor *t, struct tier_err *err) {
    const json_t *dtype = json_object_get(j, "dtype"), *shape = json_object_get(j, "shape");
    const json_t *offsets = json_object_get(j, "data_offsets");
    uint64_t end;

    memset(t, 0, sizeof *t);
    if (!tier_tensor_name_ok(name))
        return bad_tensor(m, name, "its name must be printable ASCII without spaces, at most 255",
                          err);
    memcpy(t->name, name, strlen(name));
    if (json_object_size(j) != 3)
        return bad_tensor(m, name, "exactly dtype, shape and data_offsets would be right", err);
    if (!json_is_string(dtype) || strcmp(json_string_value(dtype), "F32") != 0)
        return bad_tensor(m, name, "its dtype is not F32, the only one that can be federated", err);
    if (!json_is_array(shape) || json_array_size(shape) > TIER_DIMS_MAX)
        return bad_tensor(m, name, "its shape is not a list of at most 8 dimensions", err);
    t->ndim = (unsigned)json_array_size(shape);
    for (unsigned d = 0; d < t->ndim; d++)
        if (!get_count(json_array_get(shape, d), &t->dims[d]))
            return bad_tensor(m, name, "its shape holds something else than whole numbers", err);
    if (!tier_tensor_count(t))
        return bad_tensor(m, name, "a dimension is 0, or it has too many elements", err);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !get_count(json_array_get(offsets, 0), &t->at) ||
        !get_count(json_array_get(offsets, 1), &end) || end < t->at ||
        end - t->at != t->count * sizeof(float))
        return bad_tensor(m, name, "its data_offsets do not fit its shape", err);
    return TIER_OK;
}

static int by_key(const void *a, const void *b) {
    const struct tier_kv *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static enum tier_status read_metadata(struct tier_model *m, json_t *j, struct tier_err *err) {
    const char *key;
    json_t *value;

    if (!json_is_object(j) || json_object_size(j) > TIER_MODEL_METADATA_MAX)
        return tier_fail(err, TIER_EMODEL,
                         "%s: __metadata__ is not an object of at most %d strings", m->path,
                         TIER_MODEL_METADATA_MAX);
    m->metadata = calloc(json_object_size(j) + 1, sizeof *m->metadata);
    if (!m->metadata)
        return tier_fail(err, TIER_ENOMEM, "no memory for the metadata of %s", m->path);
    json_object_foreach(j, key, value) {
        if (!json_is_string(value))
            return tier_fail(err, TIER_EMODEL, "%s: __metadata__ %.100s is not a string", m->path,
                             key);
        m->metadata[m->metadata_count++] = (struct tier_kv){key, json_string_value(value)};
    }
    qsort(m->metadata, m->metadata_count, sizeof *m->metadata, by_key);
    return TIER_OK;
}

static int by_offset(const void *a, const void *b) {
    const struct tier_tensor *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static enum tier_status read_table(struct tier_model *m, uint64_t data_bytes,
                                   struct tier_err *err) {
    size_t entries = json_object_size(m->json);
    const char *name;
    json_t *j;

    if (!json_is_object(m->json) || entries == 0 || entries > TIER_TENSORS_MAX + 1)
        return tier_fail(err, TIER_EMODEL, "%s: its header is not an object of 1 to %d tensors",
                         m->path, TIER_TENSORS_MAX);
    m->tensors = malloc(entries * sizeof *m->tensors);
    if (!m->tensors)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu tensors", entries);
    json_object_foreach(m->json, name, j) {
        if (strcmp(name, "__metadata__") == 0)
            TIER_TRY(read_metadata(m, j, err));
        else
            TIER_TRY(read_tensor(m, name, j, &m->tensors[m->count++], err));
    }
    if (m->count == 0 || m->count > TIER_TENSORS_MAX)
        return tier_fail(err, TIER_EMODEL, "%s has %zu tensors; 1 to %d are possible", m->path,
                         m->count, TIER_TENSORS_MAX);
    qsort(m->tensors, m->count, sizeof *m->tensors, by_offset);
    for (size_t i = 0; i < m->count; i++) {
        struct tier_tensor *t = &m->tensors[i];
        if (t->at != m->elements * sizeof(float))
            return bad_tensor(m, t->name, "its data do not begin where the tensor before it ends",
                              err);
        if (t->count > TIER_ELEMENTS_MAX - m->elements)
            return bad_tensor(m, t->name, "the model has too many elements", err);
        t->at = m->elements;
        m->elements += t->count;
    }
    if (m->elements * sizeof(float) != data_bytes)
        return tier_fail(err, TIER_EMODEL,
                         "%s has %" PRIu64 " bytes of data, its header speaks of %" PRIu64, m->path,
                         data_bytes, m->elements * sizeof(float));
    return TIER_OK;
}

static enum tier_status read_header(struct tier_model *m, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    uint8_t prefix[8];
    struct stat info;
    json_error_t why;
    char *text = NULL;

    if (fstat(m->fd, &info) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot look at %s", m->path);
    TIER_TRY(tier_cipher_of(m->path, m->fd, &m->cipher, err));
    uint64_t size = tier_cipher_bytes(&m->cipher, (uint64_t)info.st_size);
    if (!S_ISREG(info.st_mode) || size < 8)
        return tier_fail(err, TIER_EMODEL, "%s is no .safetensors file: too short", m->path);
    TIER_TRY(read_at(m, prefix, sizeof prefix, 0, err));
    uint64_t bytes = tier_get_u64(prefix);
    if (bytes < 2 || bytes > TIER_MODEL_HEADER_BYTES_MAX || bytes > size - 8)
        return tier_fail(err, TIER_EMODEL,
                         "%s is no .safetensors file: a header of %" PRIu64
                         " bytes in a file of %" PRIu64 ", and %u are allowed",
                         m->path, bytes, size, TIER_MODEL_HEADER_BYTES_MAX);
    text = malloc(bytes);
    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a header of %" PRIu64 " bytes", bytes);
    TIER_TRY_OUT(read_at(m, text, bytes, 8, err));
    m->data_at = 8 + bytes;
    m->json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (!m->json) {
        st = tier_fail(err, TIER_EMODEL, "%s: its header is not JSON: %s (byte %d)", m->path,
                       why.text, why.position);
        goto out;
    }
    st = read_table(m, size - m->data_at, err);
out:
    free(text);
    return st;
}

/* The hash that a file name of the form <hash>.safetensors claims. */
static void read_name(const char *path, struct tier_hash *out) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char hex[TIER_HASH_HEX];

    if (strlen(name) != TIER_HASH_HEX - 1 + strlen(SUFFIX) ||
        strcmp(name + TIER_HASH_HEX - 1, SUFFIX) != 0)
        return;
    memcpy(hex, name, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    (void)tier_hash_parse(hex, out);
}

enum tier_status tier_model_open(const char *path, struct tier_model **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_model *m = calloc(1, sizeof *m);

    if (!m)
        return tier_fail(err, TIER_ENOMEM, "no memory for the model %s", path);
    m->fd = -1;
    m->path = strdup(path);
    if (!m->path) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for the model %s", path);
        goto out;
    }
    read_name(path, &m->named_hash);
    m->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (m->fd < 0) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "cannot open %s",
                             path);
        goto out;
    }
    TIER_TRY_OUT(read_header(m, err));
    *out = m;
    m = NULL;
out:
    tier_model_close(m);
    return st;
}

void tier_model_close(struct tier_model *m) {
    if (!m)
        return;
    if (m->fd >= 0)
        close(m->fd);
    tier_cipher_wipe(&m->cipher);
    json_decref(m->json);
    free(m->metadata);
    free(m->tensors);
    free(m->path);
    free(m);
}

const struct tier_tensor *tier_model_tensors(const struct tier_model *m, size_t *count_out) {
    *count_out = m->count;
    return m->tensors;
}

uint64_t tier_model_elements(const struct tier_model *m) {
    return m->elements;
}

const char *tier_model_metadata(const struct tier_model *m, const char *key) {
    for (size_t i = 0; i < m->metadata_count; i++)
        if (strcmp(m->metadata[i].key, key) == 0)
            return m->metadata[i].value;
    return NULL;
}

const struct tier_kv *tier_model_metadata_at(const struct tier_model *m, size_t i) {
    return i < m->metadata_count ? &m->metadata[i] : NULL;
}

const struct tier_hash *tier_model_named_hash(const struct tier_model *m) {
    return &m->named_hash;
}

enum tier_status tier_model_matches(const struct tier_model *m,
                                    const struct tier_manifest *manifest, struct tier_err *err) {
    size_t n = m->count < manifest->count ? m->count : manifest->count;

    for (size_t i = 0; i < n; i++) {
        const struct tier_tensor *a = &m->tensors[i], *b = &manifest->tensors[i];
        if (strcmp(a->name, b->name) != 0)
            return tier_fail(err, TIER_EMODEL,
                             "tensor %zu is %.100s in the model and %.100s in the manifest", i,
                             a->name, b->name);
        if (a->ndim != b->ndim || memcmp(a->dims, b->dims, sizeof a->dims) != 0)
            return tier_fail(err, TIER_EMODEL,
                             "tensor %s has another shape in the model than in the manifest",
                             a->name);
    }
    if (m->count != manifest->count)
        return tier_fail(err, TIER_EMODEL, "the model has %zu tensors, the manifest %zu", m->count,
                         manifest->count);
    return TIER_OK;
}

enum tier_status tier_model_read(const struct tier_model *m, uint64_t first, size_t n, float *out,
                                 struct tier_err *err) {
    if (first > m->elements || n > m->elements - first)
        return tier_fail(err, TIER_EARG, "%zu elements from %" PRIu64 " of %s, which has %" PRIu64,
                         n, first, m->path, m->elements);
    return read_at(m, out, n * sizeof *out, m->data_at + first * sizeof *out, err);
}

enum tier_status tier_model_hash_front(const struct tier_model *m, struct tier_hasher *hasher,
                                       struct tier_err *err) {
    uint8_t buffer[4096];

    for (uint64_t at = 0; at < m->data_at;) {
        uint64_t left = m->data_at - at;
        size_t n = left < sizeof buffer ? (size_t)left : sizeof buffer;
        TIER_TRY(read_at(m, buffer, n, at, err));
        tier_hasher_add(hasher, buffer, n);
        at += n;
    }
    return TIER_OK;
}

char *tier_model_path(const char *dir, const struct tier_hash *hash) {
    char hex[TIER_HASH_HEX], *path;

    return asprintf(&path, "%s/%s" SUFFIX, dir, tier_hash_hex(hash, hex)) < 0 ? NULL : path;
}

enum tier_status tier_model_hash_file(const char *path, struct tier_hash *out,
                                      struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_hasher *hasher = tier_hasher_new();
    struct tier_cipher cipher = {.front = 0};
    uint8_t *buffer = malloc(TIER_LEAF_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t at = 0;

    if (fd < 0) {
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "cannot open %s",
                             path);
        goto out;
    }
    if (!hasher || !buffer) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to hash %s", path);
        goto out;
    }
    TIER_TRY_OUT(tier_cipher_of(path, fd, &cipher, err));
    for (;;) {
        ssize_t got = tier_cipher_pread(&cipher, fd, buffer, TIER_LEAF_BYTES, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            st = tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
            goto out;
        }
        if (got == 0)
            break;
        tier_hasher_add(hasher, buffer, (size_t)got);
        at += (uint64_t)got;
    }
    tier_hasher_finish(hasher, out);
out:
    if (fd >= 0)
        close(fd);
    tier_cipher_wipe(&cipher);
    tier_hasher_free(hasher);
    free(buffer);
    return st;
}
