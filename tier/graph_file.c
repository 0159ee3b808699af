/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three messages deep: the model holds the graph, the graph its initialisers, an initialiser its
 * values. Those are walked field by field; every other field is copied as it is. A message that
 * lost something has another length, so each is built before its length is written.
 */
#include "tier/graph_file.h"

#include "tier/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Field numbers of onnx.proto. */
#define MODEL_GRAPH 7
#define GRAPH_INITIALIZER 5
#define TENSOR_FLOAT_DATA 4
#define TENSOR_RAW_DATA 9

#define KEPT_BYTES_MAX 256 /* values that stay in the skeleton: biases, and what is odd */

/* ---- the source ---------------------------------------------------------------------------- */

enum tier_status graph_source_open(struct graph_source *s, const char *path, struct tier_err *err) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    struct tier_cipher cipher = {.front = 0};

    *s = (struct graph_source){.fd = -1};
    if (fd < 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO,
                               "%s: cannot be read", path);
    bool file = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
    enum tier_status st = file ? tier_cipher_of(path, fd, &cipher, err) : TIER_OK;
    if (st != TIER_OK) {
        close(fd);
        return st;
    }
    uint64_t bytes = file ? tier_cipher_bytes(&cipher, (uint64_t)info.st_size) : 0;
    if (bytes < 1 || bytes > TIER_GRAPH_BYTES_MAX) {
        close(fd);
        return tier_fail(err, TIER_EMODEL, "%s: not a file of 1 to %" PRIu64 " bytes", path,
                         TIER_GRAPH_BYTES_MAX);
    }
    *s = (struct graph_source){.fd = fd, .len = bytes, .cipher = cipher};
    return TIER_OK;
}

enum tier_status graph_source_copy(struct graph_source *s, const void *bytes, size_t len,
                                   struct tier_err *err) {
    *s = (struct graph_source){.fd = -1};
    if (len == 0 || len > TIER_GRAPH_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "an ONNX file of %zu bytes: 1 to %" PRIu64 " are read",
                         len, TIER_GRAPH_BYTES_MAX);
    s->bytes = malloc(len);
    if (!s->bytes)
        return tier_fail(err, TIER_ENOMEM, "no memory for an ONNX file of %zu bytes", len);
    memcpy(s->bytes, bytes, len);
    s->len = len;
    return TIER_OK;
}

void graph_source_close(struct graph_source *s) {
    if (s->len > 0 && s->fd >= 0)
        close(s->fd);
    free(s->bytes);
    *s = (struct graph_source){.fd = -1};
}

enum tier_status graph_source_read(const struct graph_source *s, uint64_t at, void *out, size_t n,
                                   struct tier_err *err) {
    if (at > s->len || n > s->len - at)
        return tier_fail(err, TIER_EIO, "the ONNX file ends before byte %" PRIu64, at + n);
    if (s->fd < 0) {
        memcpy(out, s->bytes + at, n);
        return TIER_OK;
    }
    for (size_t done = 0; done < n;) {
        ssize_t k =
            tier_cipher_pread(&s->cipher, s->fd, (uint8_t *)out + done, n - done, at + done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "the ONNX file cannot be read");
        if (k == 0)
            return tier_fail(err, TIER_EIO, "the ONNX file was cut short while it was read");
        done += (size_t)k;
    }
    return TIER_OK;
}

/* ---- walking ------------------------------------------------------------------------------- */

struct walk {
    const struct graph_source *source;
    uint8_t window[4096]; /* of the source, from window_at on */
    uint64_t window_at;
    size_t window_n;
    struct graph_weights *weights;
    size_t count, room;
    bool graph_seen;
    struct tier_err *err;
};

struct text {
    uint8_t *b;
    size_t n, room;
};

struct field {
    uint64_t number;
    unsigned wire;
    uint64_t at;      /* of its key */
    uint64_t payload; /* of what follows key and length */
    uint64_t bytes;   /* of that */
};

static enum tier_status no_model(struct walk *w) {
    return tier_fail(w->err, TIER_EMODEL, "this is not an ONNX file, or it is cut short");
}

static enum tier_status put(struct walk *w, struct text *t, const void *data, size_t n) {
    if (n > GRAPH_SKELETON_BYTES_MAX - t->n)
        return tier_fail(w->err, TIER_ELIMIT,
                         "the ONNX file holds more than %u MiB beside the values of its "
                         "initialisers: it is not a model that is read here",
                         GRAPH_SKELETON_BYTES_MAX >> 20);
    if (n == 0) /* an empty message: there may be nothing to copy from, or to */
        return TIER_OK;
    if (n > t->room - t->n) {
        size_t room = t->room ? t->room : 4096;
        while (room < t->n + n)
            room *= 2;
        uint8_t *more = realloc(t->b, room);
        if (!more)
            return tier_fail(w->err, TIER_ENOMEM, "no memory to read an ONNX file");
        t->b = more;
        t->room = room;
    }
    memcpy(t->b + t->n, data, n);
    t->n += n;
    return TIER_OK;
}

static enum tier_status put_varint(struct walk *w, struct text *t, uint64_t v) {
    uint8_t b[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        b[n++] = (uint8_t)(v | 0x80);
    b[n++] = (uint8_t)v;
    return put(w, t, b, n);
}

static enum tier_status get_byte(struct walk *w, uint64_t at, uint8_t *out) {
    if (at < w->window_at || at - w->window_at >= w->window_n) {
        uint64_t left = w->source->len - at;
        w->window_n = 0;
        size_t n = left < sizeof w->window ? (size_t)left : sizeof w->window;
        TIER_TRY(graph_source_read(w->source, at, w->window, n, w->err));
        w->window_at = at;
        w->window_n = n;
    }
    *out = w->window[at - w->window_at];
    return TIER_OK;
}

static enum tier_status get_varint(struct walk *w, uint64_t *at, uint64_t end, uint64_t *out) {
    uint64_t v = 0;
    uint8_t b = 0x80;

    for (unsigned shift = 0; b & 0x80; shift += 7) {
        if (shift > 63 || *at >= end)
            return no_model(w);
        TIER_TRY(get_byte(w, (*at)++, &b));
        v |= (uint64_t)(b & 0x7f) << shift;
    }
    *out = v;
    return TIER_OK;
}

/* The field at `at` of a message that ends at `end`. */
static enum tier_status get_field(struct walk *w, uint64_t at, uint64_t end, struct field *f) {
    uint64_t key, ignored;

    f->at = at;
    TIER_TRY(get_varint(w, &at, end, &key));
    f->number = key >> 3;
    f->wire = (unsigned)(key & 7);
    f->payload = at;
    switch (f->wire) {
    case 0:
        TIER_TRY(get_varint(w, &at, end, &ignored));
        f->bytes = at - f->payload;
        break;
    case 1:
        f->bytes = 8;
        break;
    case 2:
        TIER_TRY(get_varint(w, &at, end, &f->bytes));
        f->payload = at;
        break;
    case 5:
        f->bytes = 4;
        break;
    default:
        return no_model(w);
    }
    return f->number > 0 && f->bytes <= end - f->payload ? TIER_OK : no_model(w);
}

static enum tier_status copy_field(struct walk *w, const struct field *f, struct text *out) {
    uint8_t block[4096];
    uint64_t end = f->payload + f->bytes;

    /* Small fields are there already: a file of nothing else would be a read for each. */
    if (f->at >= w->window_at && end - w->window_at <= w->window_n)
        return put(w, out, w->window + (f->at - w->window_at), (size_t)(end - f->at));
    for (uint64_t at = f->at; at < end;) {
        size_t n = end - at < sizeof block ? (size_t)(end - at) : sizeof block;
        TIER_TRY(graph_source_read(w->source, at, block, n, w->err));
        TIER_TRY(put(w, out, block, n));
        at += n;
    }
    return TIER_OK;
}

typedef enum tier_status walk_fn(struct walk *w, uint64_t at, uint64_t end, struct text *out);

/* A field that is a message, rebuilt by fn. */
static enum tier_status descend(struct walk *w, const struct field *f, walk_fn *fn,
                                struct text *out) {
    struct text inner = {0};
    enum tier_status st;

    TIER_TRY_OUT(fn(w, f->payload, f->payload + f->bytes, &inner));
    TIER_TRY_OUT(put_varint(w, out, f->number << 3 | 2));
    TIER_TRY_OUT(put_varint(w, out, inner.n));
    TIER_TRY_OUT(put(w, out, inner.b, inner.n));
out:
    free(inner.b);
    return st;
}

static enum tier_status walk_tensor(struct walk *w, uint64_t at, uint64_t end, struct text *out) {
    struct graph_weights *weights = &w->weights[w->count - 1];

    while (at < end) {
        struct field f;
        TIER_TRY(get_field(w, at, end, &f));
        at = f.payload + f.bytes;
        bool values = f.wire == 2 && (f.number == TENSOR_RAW_DATA || f.number == TENSOR_FLOAT_DATA);
        if (!values || f.bytes <= KEPT_BYTES_MAX) {
            TIER_TRY(copy_field(w, &f, out));
            continue;
        }
        if (weights->bytes > 0)
            return tier_fail(w->err, TIER_EMODEL, "initialiser %zu is stored in several pieces",
                             w->count - 1);
        *weights = (struct graph_weights){f.payload, f.bytes};
    }
    return TIER_OK;
}

static enum tier_status add_weights(struct walk *w) {
    if (w->count == TIER_TENSORS_MAX)
        return tier_fail(w->err, TIER_ELIMIT, "the graph has more than %d initialisers",
                         TIER_TENSORS_MAX);
    if (w->count == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        struct graph_weights *more = realloc(w->weights, room * sizeof *more);
        if (!more)
            return tier_fail(w->err, TIER_ENOMEM, "no memory to read an ONNX file");
        w->weights = more;
        w->room = room;
    }
    w->weights[w->count++] = (struct graph_weights){0};
    return TIER_OK;
}

static enum tier_status walk_graph(struct walk *w, uint64_t at, uint64_t end, struct text *out) {
    while (at < end) {
        struct field f;
        TIER_TRY(get_field(w, at, end, &f));
        at = f.payload + f.bytes;
        if (f.number != GRAPH_INITIALIZER || f.wire != 2) {
            TIER_TRY(copy_field(w, &f, out));
            continue;
        }
        TIER_TRY(add_weights(w));
        TIER_TRY(descend(w, &f, walk_tensor, out));
    }
    return TIER_OK;
}

static enum tier_status walk_model(struct walk *w, uint64_t at, uint64_t end, struct text *out) {
    while (at < end) {
        struct field f;
        TIER_TRY(get_field(w, at, end, &f));
        at = f.payload + f.bytes;
        if (f.number != MODEL_GRAPH || f.wire != 2) {
            TIER_TRY(copy_field(w, &f, out));
            continue;
        }
        if (w->graph_seen)
            return tier_fail(w->err, TIER_EMODEL, "the ONNX file holds two graphs");
        w->graph_seen = true;
        TIER_TRY(descend(w, &f, walk_graph, out));
    }
    return TIER_OK;
}

enum tier_status graph_skeleton(const struct graph_source *s, uint8_t **bytes_out, size_t *len_out,
                                struct graph_weights **weights_out, size_t *count_out,
                                struct tier_err *err) {
    struct walk w = {.source = s, .err = err};
    struct text out = {0};
    enum tier_status st = walk_model(&w, 0, s->len, &out);

    if (st != TIER_OK) {
        free(out.b);
        free(w.weights);
        return st;
    }
    *bytes_out = out.b;
    *len_out = out.n;
    *weights_out = w.weights;
    *count_out = w.count;
    return TIER_OK;
}
