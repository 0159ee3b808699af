/* SPDX-License-Identifier: Apache-2.0 */
/*
 * There is one spelling of a manifest: the text is parsed leniently enough to name what is wrong,
 * then written again and compared, so nothing that is accepted can hash differently from what the
 * writer makes.
 */
#include "tier/manifest.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_LINE "consilium manifest 1\n"
/* "f=-100 narrow ", dimensions of up to 11 digits each with their x, name, newline, terminator. */
#define LINE_BYTES_MAX (16 + TIER_DIMS_MAX * 21 + TIER_TENSOR_NAME_LEN_MAX + 4)

bool tier_tensor_name_ok(const char *name) {
    size_t n = strnlen(name, TIER_TENSOR_NAME_LEN_MAX + 1);

    if (n == 0 || n > TIER_TENSOR_NAME_LEN_MAX || strcmp(name, "__metadata__") == 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~')
            return false;
    return true;
}

bool tier_tensor_count(struct tier_tensor *t) {
    uint64_t count = 1;

    if (t->ndim > TIER_DIMS_MAX)
        return false;
    for (unsigned d = 0; d < t->ndim; d++) {
        if (t->dims[d] == 0 || t->dims[d] > TIER_ELEMENTS_MAX / count)
            return false;
        count *= t->dims[d];
    }
    t->count = count;
    return true;
}

static int by_name(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

static enum tier_status names_differ(const struct tier_manifest *m, struct tier_err *err) {
    const char **sorted = malloc((m->count + 1) * sizeof *sorted);
    enum tier_status st = TIER_OK;

    if (!sorted)
        return tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu tensors", m->count);
    for (size_t i = 0; i < m->count; i++)
        sorted[i] = m->tensors[i].name;
    qsort(sorted, m->count, sizeof *sorted, by_name);
    for (size_t i = 1; i < m->count && st == TIER_OK; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            st = tier_fail(err, TIER_EARG,
                           "tensor %s is in the manifest twice; each name must be there once",
                           sorted[i]);
    free(sorted);
    return st;
}

/* Checks one tensor, fills in what is derived, and counts it. */
static enum tier_status place(struct tier_manifest *m, struct tier_tensor *t,
                              struct tier_err *err) {
    t->name[TIER_TENSOR_NAME_LEN_MAX] = '\0';
    if (!tier_tensor_name_ok(t->name))
        return tier_fail(err, TIER_EARG,
                         "tensor %zu has an ill-formed name; 1 to %d printable ASCII characters "
                         "without spaces would be right",
                         m->count, TIER_TENSOR_NAME_LEN_MAX);
    if (!tier_tensor_count(t))
        return tier_fail(err, TIER_EARG,
                         "tensor %s: every one of at most %d dimensions must be at least 1, and "
                         "their product at most %" PRIu64,
                         t->name, TIER_DIMS_MAX, TIER_ELEMENTS_MAX);
    for (unsigned d = t->ndim; d < TIER_DIMS_MAX; d++)
        t->dims[d] = 0;
    if (t->frac_bits < TIER_FRAC_BITS_MIN || t->frac_bits > TIER_FRAC_BITS_MAX)
        return tier_fail(err, TIER_EARG, "tensor %s: %d fractional bits, %d to %d are possible",
                         t->name, t->frac_bits, TIER_FRAC_BITS_MIN, TIER_FRAC_BITS_MAX);
    if (t->count > TIER_ELEMENTS_MAX - m->elements)
        return tier_fail(err, TIER_ELIMIT, "tensor %s: the model passes %" PRIu64 " elements",
                         t->name, TIER_ELEMENTS_MAX);
    t->at = m->elements;
    m->elements += t->count;
    m->wide_elements += t->wide ? t->count : 0;
    m->count++;
    return TIER_OK;
}

enum tier_status tier_manifest_new(const struct tier_tensor *tensors, size_t count,
                                   struct tier_manifest **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_manifest *m = NULL;
    char *text = NULL;
    size_t bytes = 0;

    if (count == 0 || count > TIER_TENSORS_MAX)
        return tier_fail(err, TIER_ELIMIT, "a manifest of %zu tensors; 1 to %d are possible", count,
                         TIER_TENSORS_MAX);
    m = calloc(1, sizeof *m);
    if (m)
        m->tensors = malloc(count * sizeof *m->tensors);
    if (!m || !m->tensors) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu tensors", count);
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        m->tensors[i] = tensors[i];
        TIER_TRY_OUT(place(m, &m->tensors[i], err));
    }
    TIER_TRY_OUT(names_differ(m, err));
    TIER_TRY_OUT(tier_manifest_text(m, &text, &bytes, err));
    tier_hash_data(text, bytes, &m->hash);
    *out = m;
    m = NULL;
out:
    free(text);
    tier_manifest_free(m);
    return st;
}

void tier_manifest_free(struct tier_manifest *m) {
    if (!m)
        return;
    free(m->tensors);
    free(m);
}

/* Writes one line into line[LINE_BYTES_MAX]; returns its length. */
static size_t write_line(const struct tier_tensor *t, char *line) {
    size_t used = (size_t)snprintf(line, LINE_BYTES_MAX, "f=%d %s %s", t->frac_bits,
                                   t->wide ? "wide" : "narrow", t->state ? "state " : "");

    if (t->ndim == 0)
        used += (size_t)snprintf(line + used, LINE_BYTES_MAX - used, "scalar");
    for (unsigned d = 0; d < t->ndim; d++)
        used += (size_t)snprintf(line + used, LINE_BYTES_MAX - used, "%s%" PRIu64, d > 0 ? "x" : "",
                                 t->dims[d]);
    used += (size_t)snprintf(line + used, LINE_BYTES_MAX - used, " %s\n", t->name);
    return used;
}

enum tier_status tier_manifest_text(const struct tier_manifest *m, char **text_out,
                                    size_t *bytes_out, struct tier_err *err) {
    char line[LINE_BYTES_MAX];
    size_t bytes = strlen(FIRST_LINE);

    assert(m);
    for (size_t i = 0; i < m->count; i++)
        bytes += write_line(&m->tensors[i], line);
    if (bytes > TIER_MANIFEST_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "the manifest's text has %zu bytes, the most is %u",
                         bytes, TIER_MANIFEST_BYTES_MAX);
    char *text = malloc(bytes + 1);
    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu bytes", bytes);
    size_t used = strlen(FIRST_LINE);
    memcpy(text, FIRST_LINE, used);
    for (size_t i = 0; i < m->count; i++) {
        size_t n = write_line(&m->tensors[i], line);
        memcpy(text + used, line, n);
        used += n;
    }
    text[used] = '\0';
    *text_out = text;
    if (bytes_out)
        *bytes_out = used;
    return TIER_OK;
}

/* Reads "64x3x7" or "scalar" up to the space; NULL where it is something else. */
static const char *parse_dims(const char *p, struct tier_tensor *t) {
    if (strncmp(p, "scalar ", 7) == 0)
        return p + 7;
    for (;;) {
        char *end;
        if (*p < '1' || *p > '9' || t->ndim == TIER_DIMS_MAX)
            return NULL;
        t->dims[t->ndim++] = strtoull(p, &end, 10); /* an overflow is over the limit anyway */
        p = end + 1;
        if (*end == ' ')
            return p;
        if (*end != 'x')
            return NULL;
    }
}

static bool parse_line(const char *p, struct tier_tensor *t) {
    char *end;

    memset(t, 0, sizeof *t);
    if (strncmp(p, "f=", 2) != 0)
        return false;
    long bits = strtol(p + 2, &end, 10);
    if (end == p + 2 || bits < TIER_FRAC_BITS_MIN || bits > TIER_FRAC_BITS_MAX)
        return false;
    t->frac_bits = (int)bits;
    t->wide = strncmp(end, " wide ", 6) == 0;
    if (!t->wide && strncmp(end, " narrow ", 8) != 0)
        return false;
    p = end + (t->wide ? 6 : 8);
    t->state = strncmp(p, "state ", 6) == 0;
    p = parse_dims(p + (t->state ? 6 : 0), t);
    if (!p)
        return false;
    size_t n = strlen(p);
    if (n > TIER_TENSOR_NAME_LEN_MAX)
        return false;
    memcpy(t->name, p, n);
    return true;
}

/* `copy` is the text after its first line, terminated; newlines become terminators. */
static enum tier_status parse_lines(char *copy, struct tier_tensor *tensors, size_t count,
                                    struct tier_err *err) {
    char *p = copy;

    for (size_t i = 0; i < count; i++) {
        char *newline = strchr(p, '\n');
        *newline = '\0';
        if (!parse_line(p, &tensors[i]))
            return tier_fail(err, TIER_EPROTO,
                             "manifest line %zu: \"%.80s\" is not a tensor; \"f=30 narrow 64x3 "
                             "name\" would be right",
                             i + 2, p);
        p = newline + 1;
    }
    return TIER_OK;
}

enum tier_status tier_manifest_parse(const char *text, size_t bytes, struct tier_manifest **out,
                                     struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_manifest *m = NULL;
    struct tier_tensor *tensors = NULL;
    char *copy = NULL, *again = NULL;
    size_t head = strlen(FIRST_LINE), count = 0, again_bytes = 0;

    if (bytes > TIER_MANIFEST_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "a manifest of %zu bytes, the most is %u", bytes,
                         TIER_MANIFEST_BYTES_MAX);
    if (bytes <= head || memcmp(text, FIRST_LINE, head) != 0 || text[bytes - 1] != '\n' ||
        memchr(text, '\0', bytes))
        return tier_fail(err, TIER_EPROTO,
                         "not a manifest: text lines that begin with \"consilium manifest 1\" "
                         "and end with a newline would be right");
    for (size_t i = head; i < bytes; i++)
        count += text[i] == '\n';
    if (count == 0 || count > TIER_TENSORS_MAX)
        return tier_fail(err, TIER_ELIMIT, "a manifest of %zu tensors; 1 to %d are possible", count,
                         TIER_TENSORS_MAX);
    copy = malloc(bytes - head + 1);
    tensors = calloc(count, sizeof *tensors);
    if (!copy || !tensors) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a manifest of %zu tensors", count);
        goto out;
    }
    memcpy(copy, text + head, bytes - head);
    copy[bytes - head] = '\0';
    TIER_TRY_OUT(parse_lines(copy, tensors, count, err));
    TIER_TRY_OUT(tier_manifest_new(tensors, count, &m, err));
    TIER_TRY_OUT(tier_manifest_text(m, &again, &again_bytes, err));
    if (again_bytes != bytes || memcmp(again, text, bytes) != 0) {
        st = tier_fail(err, TIER_EPROTO,
                       "the manifest is not in its canonical spelling (signs, zeros or spaces "
                       "that do not belong there)");
        goto out;
    }
    *out = m;
    m = NULL;
out:
    tier_manifest_free(m);
    free(again);
    free(tensors);
    free(copy);
    return st;
}

enum tier_status tier_frac_bits_for_clip(double clip, int *out, struct tier_err *err) {
    int exponent;

    if (!(clip > 0) || !isfinite(clip))
        return tier_fail(err, TIER_EARG, "clip is %g; a finite number above 0 would be right",
                         clip);
    /* clip = m * 2^exponent with 1/2 <= m < 1: its log2 rounded up is exponent, or one less for a
     * power of two. */
    if (frexp(clip, &exponent) == 0.5)
        exponent--;
    int bits = 30 - exponent;
    if (bits < TIER_FRAC_BITS_MIN || bits > TIER_FRAC_BITS_MAX)
        return tier_fail(err, TIER_EARG, "clip is %g; 2^%d to 2^%d would be right", clip,
                         30 - TIER_FRAC_BITS_MAX, 30 - TIER_FRAC_BITS_MIN);
    *out = bits;
    return TIER_OK;
}

size_t tier_manifest_find(const struct tier_manifest *m, uint64_t element) {
    size_t low = 0, high = m->count; /* tensors[low].at <= element < at of tensors[high] */

    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (m->tensors[middle].at <= element)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint64_t tier_manifest_segments(const struct tier_manifest *m) {
    return (m->elements + TIER_SEGMENT_ELEMENTS - 1) / TIER_SEGMENT_ELEMENTS;
}

size_t tier_manifest_segment(const struct tier_manifest *m, uint64_t segment, size_t *wide_out) {
    uint64_t first = segment * TIER_SEGMENT_ELEMENTS;
    size_t n = m->elements - first < TIER_SEGMENT_ELEMENTS ? (size_t)(m->elements - first)
                                                           : TIER_SEGMENT_ELEMENTS;

    if (wide_out) {
        struct tier_spans it;
        struct tier_span s;
        size_t wide = 0;
        tier_spans_begin(&it, m, first, n);
        while (m->wide_elements > 0 && tier_spans_next(&it, &s))
            wide += s.tensor->wide ? s.n : 0;
        *wide_out = wide;
    }
    return n;
}

void tier_spans_begin(struct tier_spans *it, const struct tier_manifest *m, uint64_t first,
                      size_t n) {
    *it = (struct tier_spans){.manifest = m, .first = first, .next = first, .end = first + n};
    it->tensor = tier_manifest_find(m, first);
}

bool tier_spans_next(struct tier_spans *it, struct tier_span *out) {
    if (it->next >= it->end || it->tensor >= it->manifest->count)
        return false;
    const struct tier_tensor *t = &it->manifest->tensors[it->tensor];
    uint64_t end = t->at + t->count < it->end ? t->at + t->count : it->end;

    out->tensor = t;
    out->index = it->next - t->at;
    out->n = (size_t)(end - it->next);
    out->at = (size_t)(it->next - it->first);
    out->wide_at = it->wide_at;
    it->wide_at += t->wide ? out->n : 0;
    it->next = end;
    it->tensor++;
    return true;
}
