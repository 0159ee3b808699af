/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors are kept in an array sorted by name: there are few, they are merged name by name, and the
 * canonical encoding is then a walk.
 *
 * Encoding: varint number of names; for each, in ascending order: varint length, the name, varint
 * bins, then, until all bins are covered: varint zeros (at least 1, but for the first), and unless
 * that was the end varint values (at least 1) and these values, none of them zero, as zigzag
 * varints. Adjacent runs are as long as they can be because a value run holds no zero.
 */
#include "tier/metric.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct vector {
    char name[TIER_NAME_LEN_MAX + 1];
    size_t bins;
    int64_t *values;
};

struct tier_metrics {
    struct vector *vectors;
    size_t count, room;
    size_t bins; /* of all vectors */
};

struct tier_metrics *tier_metrics_new(void) {
    return calloc(1, sizeof(struct tier_metrics));
}

void tier_metrics_free(struct tier_metrics *m) {
    if (!m)
        return;
    for (size_t i = 0; i < m->count; i++)
        free(m->vectors[i].values);
    free(m->vectors);
    free(m);
}

static bool name_ok(const char *name) {
    size_t n = strnlen(name, TIER_NAME_LEN_MAX + 1);

    if (n == 0 || n > TIER_NAME_LEN_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
              strchr("_.:/-", c)))
            return false;
    }
    return true;
}

/* Index of that name, or of where it would be inserted. */
static size_t find(const struct tier_metrics *m, const char *name, bool *found_out) {
    size_t low = 0, high = m->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(m->vectors[middle].name, name);
        if (order == 0) {
            *found_out = true;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found_out = false;
    return low;
}

/* May src's vector be added to m? Changes nothing. */
static enum tier_status addable(const struct tier_metrics *m, const char *name, size_t bins,
                                const int64_t *values, bool *new_out, struct tier_err *err) {
    bool found;
    size_t at = find(m, name, &found);

    *new_out = !found;
    if (!found)
        return TIER_OK;
    const struct vector *v = &m->vectors[at];
    if (v->bins != bins)
        return tier_fail(err, TIER_ECONFLICT,
                         "metric %s has %zu bins here and %zu in what is to be added; all of a run "
                         "must have the same",
                         name, v->bins, bins);
    for (size_t i = 0; i < bins; i++) {
        int64_t sum;
        if (__builtin_add_overflow(v->values[i], values[i], &sum))
            return tier_fail(err, TIER_ELIMIT, "metric %s: the sum of bin %zu passes 64 bits", name,
                             i);
    }
    return TIER_OK;
}

/* Is there room for that many more names and bins? Then makes room for the names. */
static enum tier_status reserve(struct tier_metrics *m, size_t names, size_t bins,
                                struct tier_err *err) {
    if (names > TIER_METRICS_MAX - m->count)
        return tier_fail(err, TIER_ELIMIT, "%zu metrics, the most is %d", m->count + names,
                         TIER_METRICS_MAX);
    if (bins > TIER_METRIC_BINS_MAX - m->bins)
        return tier_fail(err, TIER_ELIMIT, "metrics of %zu bins in all, the most is %u",
                         m->bins + bins, TIER_METRIC_BINS_MAX);
    if (m->count + names > m->room) {
        size_t room = m->count + names + 8;
        struct vector *grown = realloc(m->vectors, room * sizeof *grown);
        if (!grown)
            return tier_fail(err, TIER_ENOMEM, "no memory for %zu metrics", room);
        m->vectors = grown;
        m->room = room;
    }
    return TIER_OK;
}

/* After reserve: takes `values`. */
static void insert(struct tier_metrics *m, const char *name, size_t bins, int64_t *values) {
    bool found;
    size_t at = find(m, name, &found);

    assert(m->room > m->count && m->vectors);
    memmove(m->vectors + at + 1, m->vectors + at, (m->count - at) * sizeof *m->vectors);
    struct vector *v = &m->vectors[at];
    memset(v, 0, sizeof *v);
    memcpy(v->name, name, strlen(name));
    v->bins = bins;
    v->values = values;
    m->count++;
    m->bins += bins;
}

static void add_values(struct tier_metrics *m, const char *name, const int64_t *values) {
    bool found;
    struct vector *v = &m->vectors[find(m, name, &found)];

    for (size_t i = 0; i < v->bins; i++)
        v->values[i] += values[i];
}

static enum tier_status copy_values(const int64_t *values, size_t bins, int64_t **out,
                                    struct tier_err *err) {
    int64_t *copy = malloc(bins * sizeof *copy);

    if (!copy)
        return tier_fail(err, TIER_ENOMEM, "no memory for a metric of %zu bins", bins);
    memcpy(copy, values, bins * sizeof *copy);
    *out = copy;
    return TIER_OK;
}

enum tier_status tier_metrics_add(struct tier_metrics *m, const char *name, size_t bins,
                                  const int64_t *values, struct tier_err *err) {
    bool is_new;
    int64_t *copy = NULL;

    if (!name_ok(name))
        return tier_fail(err, TIER_EARG,
                         "\"%.80s\" cannot name a metric: 1 to %d letters, digits and _.:/- would "
                         "be right",
                         name, TIER_NAME_LEN_MAX);
    if (bins == 0)
        return tier_fail(err, TIER_EARG, "metric %s has no bins; at least 1 would be right", name);
    TIER_TRY(addable(m, name, bins, values, &is_new, err));
    if (!is_new) {
        add_values(m, name, values);
        return TIER_OK;
    }
    TIER_TRY(reserve(m, 1, bins, err));
    TIER_TRY(copy_values(values, bins, &copy, err));
    insert(m, name, bins, copy);
    return TIER_OK;
}

enum tier_status tier_metrics_merge(struct tier_metrics *dst, const struct tier_metrics *src,
                                    struct tier_err *err) {
    enum tier_status st = TIER_OK;
    int64_t *copies[TIER_METRICS_MAX] = {NULL};
    size_t names = 0, bins = 0;
    bool is_new;

    for (size_t i = 0; i < src->count; i++) {
        const struct vector *v = &src->vectors[i];
        TIER_TRY_OUT(addable(dst, v->name, v->bins, v->values, &is_new, err));
        if (is_new) {
            TIER_TRY_OUT(copy_values(v->values, v->bins, &copies[i], err));
            names++;
            bins += v->bins;
        }
    }
    TIER_TRY_OUT(reserve(dst, names, bins, err));
    for (size_t i = 0; i < src->count; i++) { /* nothing fails from here on */
        const struct vector *v = &src->vectors[i];
        if (copies[i])
            insert(dst, v->name, v->bins, copies[i]);
        else
            add_values(dst, v->name, v->values);
        copies[i] = NULL;
    }
out:
    for (size_t i = 0; i < TIER_METRICS_MAX; i++)
        free(copies[i]);
    return st;
}

void tier_metrics_cut(struct tier_metrics *m, const char *name, int64_t most) {
    bool found;
    size_t at = find(m, name, &found);

    for (size_t i = 0; found && i < m->vectors[at].bins; i++)
        if (m->vectors[at].values[i] > most)
            m->vectors[at].values[i] = most;
}

size_t tier_metrics_count(const struct tier_metrics *m) {
    return m->count;
}

const int64_t *tier_metrics_get(const struct tier_metrics *m, const char *name, size_t *bins_out) {
    bool found;
    size_t at = find(m, name, &found);

    if (!found)
        return NULL;
    if (bins_out)
        *bins_out = m->vectors[at].bins;
    return m->vectors[at].values;
}

const int64_t *tier_metrics_at(const struct tier_metrics *m, size_t i, const char **name_out,
                               size_t *bins_out) {
    if (i >= m->count)
        return NULL;
    *name_out = m->vectors[i].name;
    *bins_out = m->vectors[i].bins;
    return m->vectors[i].values;
}

int64_t tier_metrics_scalar(const struct tier_metrics *m, const char *name) {
    const int64_t *values = tier_metrics_get(m, name, NULL);
    return values ? values[0] : 0;
}

/* ---- encoding ------------------------------------------------------------------------------- */

/* Appends to `at`, or with at NULL only counts: one walk measures, the next one writes. */
struct sink {
    uint8_t *at;
    size_t used;
};

static void put_bytes(struct sink *s, const void *data, size_t n) {
    if (s->at)
        memcpy(s->at + s->used, data, n);
    s->used += n;
}

static void put_varint(struct sink *s, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    put_bytes(s, bytes, n);
}

static uint64_t zigzag(int64_t v) {
    return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}

static int64_t unzigzag(uint64_t v) {
    return (int64_t)(v >> 1 ^ (0 - (v & 1)));
}

static void put_vector(struct sink *s, const struct vector *v) {
    size_t length = strlen(v->name);

    put_varint(s, length);
    put_bytes(s, v->name, length);
    put_varint(s, v->bins);
    for (size_t i = 0; i < v->bins;) {
        size_t zeros = i, values;
        while (zeros < v->bins && v->values[zeros] == 0)
            zeros++;
        put_varint(s, zeros - i);
        i = zeros;
        if (i == v->bins)
            break;
        for (values = i; values < v->bins && v->values[values] != 0;)
            values++;
        put_varint(s, values - i);
        for (; i < values; i++)
            put_varint(s, zigzag(v->values[i]));
    }
}

static void put_all(struct sink *s, const struct tier_metrics *m) {
    put_varint(s, m->count);
    for (size_t i = 0; i < m->count; i++)
        put_vector(s, &m->vectors[i]);
}

enum tier_status tier_metrics_encode(const struct tier_metrics *m, uint8_t **bytes_out,
                                     size_t *len_out, struct tier_err *err) {
    struct sink s = {NULL, 0};

    if (!m || m->count == 0) { /* none and empty are the same metrics, so the same bytes */
        *bytes_out = NULL;
        *len_out = 0;
        return TIER_OK;
    }
    put_all(&s, m);
    size_t len = s.used;
    s = (struct sink){malloc(len), 0};
    if (!s.at)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu bytes of metrics", len);
    put_all(&s, m);
    *bytes_out = s.at;
    *len_out = len;
    return TIER_OK;
}

struct source {
    const uint8_t *bytes;
    size_t len, used;
};

static enum tier_status bad(const struct source *s, const char *what, struct tier_err *err) {
    return tier_fail(err, TIER_EPROTO, "metrics, byte %zu of %zu: %s", s->used, s->len, what);
}

/* Shortest varints only, at most `max`. */
static enum tier_status get_varint(struct source *s, uint64_t max, const char *what, uint64_t *out,
                                   struct tier_err *err) {
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (s->used == s->len)
            return bad(s, "they end within a number", err);
        uint8_t b = s->bytes[s->used++];
        if ((shift == 63 && b > 1) || (shift > 0 && b == 0))
            return bad(s, "a number in more bytes than it needs", err);
        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            if (v > max)
                return bad(s, what, err);
            *out = v;
            return TIER_OK;
        }
    }
    return bad(s, "a number of more than 64 bits", err);
}

static enum tier_status get_values(struct source *s, int64_t *values, size_t bins,
                                   struct tier_err *err) {
    for (size_t i = 0; i < bins;) {
        uint64_t zeros = 0, run = 0, v = 0;
        TIER_TRY(get_varint(s, bins - i, "a run of zeros past the last bin", &zeros, err));
        if (zeros == 0 && i > 0)
            return bad(s, "an empty run of zeros", err);
        i += zeros;
        if (i == bins)
            break;
        TIER_TRY(get_varint(s, bins - i, "a run of values past the last bin", &run, err));
        if (run == 0)
            return bad(s, "an empty run of values", err);
        for (uint64_t end = i + run; i < end; i++) {
            TIER_TRY(get_varint(s, UINT64_MAX, "", &v, err));
            if (v == 0)
                return bad(s, "a zero in a run of values", err);
            values[i] = unzigzag(v);
        }
    }
    return TIER_OK;
}

static enum tier_status get_vector(struct source *s, struct tier_metrics *m, struct tier_err *err) {
    char name[TIER_NAME_LEN_MAX + 1] = "";
    uint64_t length = 0, bins = 0;

    TIER_TRY(get_varint(s, TIER_NAME_LEN_MAX, "a name that is too long", &length, err));
    if (length > s->len - s->used)
        return bad(s, "they end within a name", err);
    memcpy(name, s->bytes + s->used, length);
    if (strlen(name) != length || !name_ok(name))
        return bad(s, "an ill-formed name", err);
    if (m->count > 0 && strcmp(m->vectors[m->count - 1].name, name) >= 0)
        return bad(s, "names that do not ascend", err);
    s->used += length;
    TIER_TRY(get_varint(s, TIER_METRIC_BINS_MAX - m->bins, "too many bins in all", &bins, err));
    if (bins == 0)
        return bad(s, "a metric without bins", err);
    TIER_TRY(reserve(m, 1, bins, err));
    int64_t *values = calloc(bins, sizeof *values);
    if (!values)
        return tier_fail(err, TIER_ENOMEM, "no memory for a metric of %zu bins", (size_t)bins);
    enum tier_status st = get_values(s, values, bins, err);
    if (st != TIER_OK) {
        free(values);
        return st;
    }
    insert(m, name, bins, values);
    return TIER_OK;
}

enum tier_status tier_metrics_decode(const uint8_t *bytes, size_t len, struct tier_metrics **out,
                                     struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct source s = {bytes, len, 0};
    struct tier_metrics *m = tier_metrics_new();
    uint64_t count = 0;

    if (!m)
        return tier_fail(err, TIER_ENOMEM, "no memory for metrics");
    if (len > 0) {
        TIER_TRY_OUT(get_varint(&s, TIER_METRICS_MAX, "too many names", &count, err));
        if (count == 0) {
            st = bad(&s, "no metrics are no bytes at all", err);
            goto out;
        }
        for (uint64_t i = 0; i < count; i++)
            TIER_TRY_OUT(get_vector(&s, m, err));
        if (s.used != len) {
            st = bad(&s, "bytes after the last metric", err);
            goto out;
        }
    }
    *out = m;
    m = NULL;
out:
    tier_metrics_free(m);
    return st;
}
