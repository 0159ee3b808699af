/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoder and reader share one function that says what an element becomes (`add`), so that the
 * top and its children cannot differ in it.
 */
#include "tier/delta.h"

#include "kernels/kern.h"
#include "tier/bytes.h"
#include "tier/content.h"
#include "tier/named_file.h"
#include "tier/vault.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define VERSION 1
#define HEAD_BYTES 96
#define AT_VERSION 8
#define AT_FORM 12
#define AT_ELEMENTS 16
#define AT_METADATA 24
#define AT_BASE 32
#define AT_MANIFEST 64
#define PIECE (32 * TIER_BLOCK_ELEMENTS)
#define SEGMENT_BYTES (2 * TIER_SEGMENT_ELEMENTS) /* bfloat16, the longest form */
#define LEVEL 1 /* 9 takes ten times as long for a hundredth of the bytes */

_Static_assert(TIER_SEGMENT_ELEMENTS % PIECE == 0, "a segment is whole pieces");

static const char magic[8] = {'c', 'o', 'n', 's', 'd', 'l', 't', '1'};

struct tier_delta_writer {
    struct tier_named_file *file;
    struct tier_delta_form form;
    uint64_t elements, next;
    uint8_t *segment; /* [SEGMENT_BYTES] encoded and not written yet */
    size_t held;
    uint8_t *packed; /* [ZSTD_compressBound(SEGMENT_BYTES)] */
    ZSTD_CCtx *zstd;
    float difference[PIECE];
    uint16_t encoded[PIECE];
};

static bool is_form(uint32_t encoding) {
    return encoding == TIER_ENC_BF16 || encoding == TIER_ENC_Q8 || encoding == TIER_ENC_Q4;
}

static int bits_of(enum tier_encoding encoding) {
    return encoding == TIER_ENC_Q8 ? 8 : 4;
}

static bool decode(enum tier_encoding encoding, float *x, const void *encoded, size_t n) {
    size_t bad;

    if (encoding != TIER_ENC_BF16)
        return kern_quant_decode(x, encoded, n, bits_of(encoding), &bad);
    kern_bf16_decode(x, encoded, n);
    return true;
}

/* False where an element would be no number. */
static bool add(float *next, const float *base, const float *difference, size_t n) {
    unsigned bad = 0;

    for (size_t i = 0; i < n; i++) {
        next[i] = base[i] + difference[i];
        bad |= !isfinite(next[i]);
    }
    return !bad;
}

/* ---- writing -------------------------------------------------------------------------------- */

static enum tier_status put_head(struct tier_delta_writer *w, const struct tier_manifest *manifest,
                                 const struct tier_hash *base, const struct tier_kv *metadata,
                                 size_t count, struct tier_err *err) {
    uint8_t head[HEAD_BYTES] = {0}, text[TIER_DELTA_METADATA_BYTES_MAX];
    size_t n = 0;

    for (size_t i = 0; i < 2 * count; i++) {
        const char *s = i % 2 ? metadata[i / 2].value : metadata[i / 2].key;
        size_t len = strlen(s) + 1;
        if (len > sizeof text - n)
            return tier_fail(err, TIER_ELIMIT, "metadata of a delta of more than %zu bytes",
                             sizeof text);
        memcpy(text + n, s, len);
        n += len;
    }
    memcpy(head, magic, sizeof magic);
    tier_put_u32(head + AT_VERSION, VERSION);
    tier_put_u32(head + AT_FORM, w->form.encoding);
    tier_put_u64(head + AT_ELEMENTS, manifest->elements);
    tier_put_u32(head + AT_METADATA, (uint32_t)n);
    memcpy(head + AT_BASE, base->b, sizeof base->b);
    memcpy(head + AT_MANIFEST, manifest->hash.b, sizeof manifest->hash.b);
    TIER_TRY(tier_named_file_put(w->file, head, sizeof head, err));
    return tier_named_file_put(w->file, text, n, err);
}

enum tier_status tier_delta_begin(const char *dir, const struct tier_manifest *manifest,
                                  const struct tier_hash *base, const struct tier_delta_form *form,
                                  const struct tier_kv *metadata, size_t metadata_count,
                                  struct tier_delta_writer **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_delta_writer *w = calloc(1, sizeof *w);

    if (!w)
        return tier_fail(err, TIER_ENOMEM, "no memory to write a delta");
    w->form = *form;
    w->elements = manifest->elements;
    if (!is_form(form->encoding)) {
        st = tier_fail(err, TIER_EARG, "a delta of encoding %s; bf16, q8 or q4 would be right",
                       tier_encoding_text(form->encoding));
        goto out;
    }
    w->segment = malloc(SEGMENT_BYTES);
    w->packed = malloc(ZSTD_compressBound(SEGMENT_BYTES));
    w->zstd = ZSTD_createCCtx();
    if (!w->segment || !w->packed || !w->zstd) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to write a delta");
        goto out;
    }
    TIER_TRY_OUT(tier_named_file_begin(dir, TIER_DELTA_TEMPORARY, &w->file, err));
    TIER_TRY_OUT(put_head(w, manifest, base, metadata, metadata_count, err));
    *out = w;
    w = NULL;
out:
    tier_delta_abort(w);
    return st;
}

static enum tier_status flush(struct tier_delta_writer *w, struct tier_err *err) {
    uint8_t length[4];
    size_t n = ZSTD_compressCCtx(w->zstd, w->packed, ZSTD_compressBound(SEGMENT_BYTES), w->segment,
                                 w->held, LEVEL);
    bool shorter = !ZSTD_isError(n) && n < w->held;

    tier_put_u32(length, (uint32_t)(shorter ? n : w->held));
    TIER_TRY(tier_named_file_put(w->file, length, sizeof length, err));
    n = shorter ? n : w->held;
    w->held = 0;
    return tier_named_file_put(w->file, shorter ? w->packed : w->segment, n, err);
}

static enum tier_status append_piece(struct tier_delta_writer *w, const float *base, float *next,
                                     size_t n, struct tier_err *err) {
    float *difference = w->difference;

    for (size_t i = 0; i < n; i++)
        difference[i] = next[i] - base[i];
    for (size_t i = 0; i < n; i++)
        if (!isfinite(difference[i]))
            return tier_fail(err, TIER_EMODEL,
                             "element %" PRIu64 " of the model changes from %g to %g, which no "
                             "delta can say",
                             w->next + i, (double)base[i], (double)next[i]);
    if (w->form.encoding == TIER_ENC_BF16)
        kern_bf16_encode(w->encoded, difference, n);
    else
        kern_quant_encode((uint8_t *)w->encoded, difference, n, bits_of(w->form.encoding),
                          w->form.key, w->next / TIER_BLOCK_ELEMENTS);
    if (!decode(w->form.encoding, difference, w->encoded, n) || !add(next, base, difference, n))
        return tier_fail(err, TIER_EMODEL,
                         "an element from %" PRIu64 " on changes by more than a delta can say",
                         w->next);
    size_t bytes = (size_t)tier_encoding_bytes(w->form.encoding, n);
    memcpy(w->segment + w->held, w->encoded, bytes);
    w->held += bytes;
    w->next += n;
    return w->next % TIER_SEGMENT_ELEMENTS == 0 || w->next == w->elements ? flush(w, err) : TIER_OK;
}

enum tier_status tier_delta_append(struct tier_delta_writer *w, const float *base, float *next,
                                   size_t n, struct tier_err *err) {
    if (n > w->elements - w->next)
        return tier_fail(err, TIER_EARG, "more elements than the %" PRIu64 " of the model",
                         w->elements);
    for (size_t i = 0; i < n; i += PIECE)
        TIER_TRY(append_piece(w, base + i, next + i, n - i < PIECE ? n - i : PIECE, err));
    return TIER_OK;
}

enum tier_status tier_delta_finish(struct tier_delta_writer *w, struct tier_hash *hash_out,
                                   struct tier_err *err) {
    enum tier_status st;

    if (w->next != w->elements) {
        st = tier_fail(err, TIER_EARG, "%" PRIu64 " of the delta's %" PRIu64 " elements were given",
                       w->next, w->elements);
    } else {
        st = tier_named_file_finish(w->file, TIER_CONTENT_DELTA, 0644, hash_out, err);
        w->file = NULL;
    }
    tier_delta_abort(w);
    return st;
}

void tier_delta_abort(struct tier_delta_writer *w) {
    if (!w)
        return;
    tier_named_file_abort(w->file);
    ZSTD_freeCCtx(w->zstd);
    free(w->segment);
    free(w->packed);
    free(w);
}

/* ---- applying ------------------------------------------------------------------------------- */

struct reader {
    const char *path;
    int fd;
    struct tier_cipher cipher;
    uint64_t at;
    enum tier_encoding encoding;
    char metadata[TIER_DELTA_METADATA_BYTES_MAX];
    struct tier_kv kv[TIER_MODEL_METADATA_MAX];
    size_t kv_count;
    float base[PIECE], difference[PIECE];
    uint8_t segment[SEGMENT_BYTES], packed[SEGMENT_BYTES];
    size_t segment_at; /* of the next piece in it */
};

static enum tier_status read_next(struct reader *r, void *out, size_t n, struct tier_err *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k =
            tier_cipher_pread(&r->cipher, r->fd, (char *)out + done, n - done, r->at + done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot read %s", r->path);
        if (k == 0)
            return tier_fail(err, TIER_EMODEL, "%s is shorter than its head says", r->path);
        done += (size_t)k;
    }
    r->at += n;
    return TIER_OK;
}

static enum tier_status read_metadata(struct reader *r, size_t n, struct tier_err *err) {
    TIER_TRY(read_next(r, r->metadata, n, err));
    if (n > 0 && r->metadata[n - 1] != '\0')
        return tier_fail(err, TIER_EMODEL, "%s: its metadata do not end with a NUL", r->path);
    for (size_t at = 0; at < n; r->kv_count++) {
        struct tier_kv *kv = &r->kv[r->kv_count];
        if (r->kv_count == TIER_MODEL_METADATA_MAX)
            return tier_fail(err, TIER_ELIMIT, "%s: more than %d entries of metadata", r->path,
                             TIER_MODEL_METADATA_MAX);
        kv->key = r->metadata + at;
        at += strlen(kv->key) + 1;
        if (at >= n)
            return tier_fail(err, TIER_EMODEL, "%s: a key of metadata without a value", r->path);
        kv->value = r->metadata + at;
        at += strlen(kv->value) + 1;
    }
    return TIER_OK;
}

static enum tier_status read_head(struct reader *r, const struct tier_hash *base,
                                  const struct tier_manifest *manifest, struct tier_err *err) {
    uint8_t head[HEAD_BYTES];

    TIER_TRY(read_next(r, head, sizeof head, err));
    uint32_t form = tier_get_u32(head + AT_FORM), metadata = tier_get_u32(head + AT_METADATA);
    if (memcmp(head, magic, sizeof magic) != 0 || tier_get_u32(head + AT_VERSION) != VERSION ||
        tier_get_u32(head + AT_METADATA + 4) != 0 || !is_form(form))
        return tier_fail(err, TIER_EMODEL, "%s is not a delta that this node knows", r->path);
    if (memcmp(head + AT_BASE, base->b, sizeof base->b) != 0 ||
        memcmp(head + AT_MANIFEST, manifest->hash.b, sizeof manifest->hash.b) != 0 ||
        tier_get_u64(head + AT_ELEMENTS) != manifest->elements)
        return tier_fail(err, TIER_EMODEL, "%s is the delta of another model", r->path);
    if (metadata > TIER_DELTA_METADATA_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "%s: metadata of %u bytes, the most is %u", r->path,
                         metadata, TIER_DELTA_METADATA_BYTES_MAX);
    r->encoding = (enum tier_encoding)form;
    return read_metadata(r, metadata, err);
}

/* The next segment, `n` elements. */
static enum tier_status read_segment(struct reader *r, uint64_t first, size_t n,
                                     struct tier_err *err) {
    size_t bytes = (size_t)tier_encoding_bytes(r->encoding, n);
    uint8_t length[4];

    TIER_TRY(read_next(r, length, sizeof length, err));
    uint32_t packed = tier_get_u32(length);
    r->segment_at = 0;
    if (packed == bytes)
        return read_next(r, r->segment, bytes, err);
    if (packed > bytes)
        return tier_fail(err, TIER_EMODEL,
                         "%s: the segment at element %" PRIu64 " has %u bytes, the most is %zu",
                         r->path, first, packed, bytes);
    TIER_TRY(read_next(r, r->packed, packed, err));
    if (ZSTD_decompress(r->segment, bytes, r->packed, packed) != bytes)
        return tier_fail(err, TIER_EMODEL,
                         "%s: the segment at element %" PRIu64 " is no zstd frame of %zu bytes",
                         r->path, first, bytes);
    return TIER_OK;
}

/* The next piece of the difference, of `elements` in all; *n_out of them. */
static enum tier_status read_piece(struct reader *r, uint64_t first, uint64_t elements,
                                   size_t *n_out, struct tier_err *err) {
    uint64_t left = elements - first;
    size_t n = left < PIECE ? (size_t)left : PIECE;

    if (first % TIER_SEGMENT_ELEMENTS == 0)
        TIER_TRY(read_segment(
            r, first, left < TIER_SEGMENT_ELEMENTS ? (size_t)left : TIER_SEGMENT_ELEMENTS, err));
    *n_out = n;
    const uint8_t *encoded = r->segment + r->segment_at;
    r->segment_at += (size_t)tier_encoding_bytes(r->encoding, n);
    if (!decode(r->encoding, r->difference, encoded, n))
        return tier_fail(err, TIER_EMODEL,
                         "%s: a block at element %" PRIu64 " or behind it is none that an encoder "
                         "writes",
                         r->path, first);
    return TIER_OK;
}

static enum tier_status at_end(const struct reader *r, struct tier_err *err) {
    uint8_t more;

    if (tier_cipher_pread(&r->cipher, r->fd, &more, 1, r->at) == 0)
        return TIER_OK;
    return tier_fail(err, TIER_EMODEL, "%s is longer than its head says", r->path);
}

static enum tier_status open_delta(const char *path, const struct tier_hash *base,
                                   const struct tier_manifest *manifest, struct reader **out,
                                   struct tier_err *err) {
    struct reader *r = calloc(1, sizeof *r);
    enum tier_status st;

    if (!r)
        return tier_fail(err, TIER_ENOMEM, "no memory to read a delta");
    r->path = path;
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0)
        st = tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "cannot open %s",
                             path);
    else
        st = tier_cipher_of(path, r->fd, &r->cipher, err);
    if (st == TIER_OK)
        st = read_head(r, base, manifest, err);
    if (st == TIER_OK) {
        *out = r;
        return TIER_OK;
    }
    if (r->fd >= 0)
        close(r->fd);
    free(r);
    return st;
}

static enum tier_status apply(struct reader *r, const struct tier_model *base,
                              const struct tier_manifest *manifest, struct tier_model_writer *out,
                              struct tier_err *err) {
    for (uint64_t at = 0; at < manifest->elements;) {
        size_t n = 0;
        TIER_TRY(read_piece(r, at, manifest->elements, &n, err));
        TIER_TRY(tier_model_read(base, at, n, r->base, err));
        if (!add(r->base, r->base, r->difference, n))
            return tier_fail(err, TIER_EMODEL, "%s makes an element from %" PRIu64 " on no number",
                             r->path, at);
        TIER_TRY(tier_model_writer_append(out, r->base, n, err));
        at += n;
    }
    return at_end(r, err);
}

enum tier_status tier_delta_apply(const char *dir, const struct tier_hash *delta,
                                  const struct tier_hash *base,
                                  const struct tier_manifest *manifest,
                                  const struct tier_hash *want, struct tier_err *err) {
    char *path = tier_content_path(dir, delta, TIER_CONTENT_DELTA);
    char *base_path = tier_content_path(dir, base, TIER_CONTENT_MODEL);
    struct reader *r = NULL;
    struct tier_model *model = NULL;
    struct tier_model_writer *writer = NULL;
    struct tier_hash made;
    enum tier_status st;

    TIER_TRY_OUT(open_delta(path, base, manifest, &r, err));
    TIER_TRY_OUT(tier_model_open(base_path, &model, err));
    TIER_TRY_OUT(tier_model_matches(model, manifest, err));
    TIER_TRY_OUT(tier_model_writer_begin(dir, manifest, r->kv, r->kv_count, &writer, err));
    TIER_TRY_OUT(apply(r, model, manifest, writer, err));
    st = tier_model_writer_finish(writer, &made, err);
    writer = NULL;
    if (st == TIER_OK && !tier_hash_equal(&made, want)) {
        char *wrong = tier_content_path(dir, &made, TIER_CONTENT_MODEL);
        unlink(wrong);
        free(wrong);
        st = tier_fail(err, TIER_EMODEL, "%s makes another model than was announced", path);
    }
out:
    tier_model_writer_abort(writer);
    tier_model_close(model);
    if (r)
        close(r->fd);
    free(r);
    free(base_path);
    free(path);
    return st;
}

enum tier_status tier_delta_read(const char *path, const struct tier_hash *base,
                                 const struct tier_manifest *manifest, struct tier_err *err) {
    struct reader *r = NULL;
    enum tier_status st = open_delta(path, base, manifest, &r, err);

    for (uint64_t at = 0; st == TIER_OK && at < manifest->elements; at += PIECE) {
        size_t n;
        st = read_piece(r, at, manifest->elements, &n, err);
    }
    if (st == TIER_OK)
        st = at_end(r, err);
    if (r)
        close(r->fd);
    free(r);
    return st;
}

/* ---- deleting ------------------------------------------------------------------------------- */

void tier_delta_delete(const char *dir, const struct tier_hash *delta) {
    if (tier_hash_is_zero(delta))
        return;
    char *path = tier_content_path(dir, delta, TIER_CONTENT_DELTA);
    unlink(path);
    free(path);
}

void tier_delta_sweep(const char *dir) {
    DIR *d = opendir(dir);

    for (const struct dirent *e; d && (e = readdir(d)) != NULL;) {
        size_t n = strlen(e->d_name), suffix = strlen(TIER_CONTENT_DELTA);
        if (n == TIER_HASH_HEX - 1 + suffix &&
            strcmp(e->d_name + n - suffix, TIER_CONTENT_DELTA) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
    tier_named_file_sweep(dir, TIER_DELTA_TEMPORARY);
}
