/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source that is arrays of numpy: a row is the i-th element along the first axis of each. Which
 * arrays belong to which part is either said by their names (train_images, test_images, as MedMNIST
 * has them) or worked out from an array of ids, or from the row's number where there is none.
 */
#include "spoke/data_private.h"
#include "spoke/npz.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_AT_ONCE 1024u
#define ELEMENTS_AT_ONCE 4096u

struct arrays {
    struct spoke_array *image, *target, *id;
};

struct npz_source {
    struct spoke_npz *npz;
    struct arrays parts[SPOKE_PARTS]; /* split by hash: the same in all */
};

static enum tier_status array_fail(const char *path, const struct spoke_array *a, uint64_t row,
                                   const char *what, struct tier_err *err) {
    return tier_fail(err, TIER_EDATA, "%s: array '%s': row %" PRIu64 ": %s", path,
                     spoke_array_name(a), row, what);
}

/* ---- shapes -------------------------------------------------------------------------------- */

/* Whether the axes from `from` on are the contract's size. */
static bool sides_match(const struct spoke_npy *npy, uint32_t from, const struct spoke_image *m) {
    if (npy->axes < from + m->size.count)
        return false;
    for (uint32_t i = 0; i < m->size.count; i++)
        if (npy->side[from + i] != (uint64_t)m->size.at[i])
            return false;
    return true;
}

/* rows x channels x size or rows x size x channels; one channel needs no axis of its own. */
static bool shape_matches(const struct spoke_npy *npy, const struct spoke_image *m,
                          uint32_t channels, bool either) {
    uint32_t axes = m->size.count;

    if (npy->axes == axes + 1)
        return channels == 1 && sides_match(npy, 1, m);
    if (npy->axes != axes + 2)
        return false;
    bool first = npy->side[1] == channels && sides_match(npy, 2, m);
    bool last = npy->side[axes + 1] == channels && sides_match(npy, 1, m);
    return either ? first || last : m->layout == SPOKE_LAYOUT_LAST ? last : first;
}

static void shape_text(const struct spoke_npy *npy, char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < npy->axes && used < size; i++) {
        int n = snprintf(text + used, size - used, "%s%" PRIu64, i ? " x " : "", npy->side[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

static enum tier_status check_image(const struct spoke_loader *l, const struct spoke_array *a,
                                    uint32_t channels, bool either) {
    const struct spoke_image *m = l->schema->image;
    const struct spoke_npy *npy = spoke_array_npy(a);
    char is[200], right[100] = "";

    if (!spoke_npy_is_number(npy))
        return tier_fail(l->err, TIER_EDATA, "%s: array '%s': it holds texts, not numbers", l->path,
                         spoke_array_name(a));
    if (shape_matches(npy, m, channels, either))
        return TIER_OK;
    shape_text(npy, is, sizeof is);
    for (uint32_t i = 0, used = 0; i < m->size.count; i++)
        used += (uint32_t)snprintf(right + used, sizeof right - used, " x %.0f", m->size.at[i]);
    return tier_fail(l->err, TIER_EDATA,
                     "%s: array '%s' is %s; the schema wants rows%s with %" PRIu32
                     " channels, which are the %s axis",
                     l->path, spoke_array_name(a), is, right, channels,
                     m->layout == SPOKE_LAYOUT_LAST ? "last" : "second");
}

/* One number, or text, a row: rows, or rows x 1. */
static enum tier_status check_rows(const struct spoke_loader *l, const struct spoke_array *a,
                                   uint64_t rows, bool single) {
    const struct spoke_npy *npy = spoke_array_npy(a);

    if (npy->axes == 0 || npy->side[0] != rows)
        return tier_fail(l->err, TIER_EDATA, "%s: array '%s' has not as many rows as the images",
                         l->path, spoke_array_name(a));
    if (single && npy->elements != rows)
        return tier_fail(l->err, TIER_EDATA, "%s: array '%s' has more than one element a row",
                         l->path, spoke_array_name(a));
    return TIER_OK;
}

/* ---- loading ------------------------------------------------------------------------------- */

/* The arrays of the schema's columns; *there is false where a part that may be absent is. */
static enum tier_status find_arrays(struct spoke_loader *l, const char *prefix, bool optional,
                                    struct arrays *out, bool *there) {
    struct npz_source *s = l->data->source;
    char name[512];

    *there = true;
    for (uint32_t i = 0; i < l->schema->columns_count; i++) {
        const struct spoke_column *c = &l->schema->columns[i];
        struct spoke_array **to = c->type == SPOKE_COLUMN_IMAGE ? &out->image
                                  : c->type == SPOKE_COLUMN_ID  ? &out->id
                                                                : &out->target;
        bool wanted = l->rule.by == SPOKE_SPLIT_HASH && !l->options->undivided;
        bool welcome = c->type == SPOKE_COLUMN_ID && l->options->identified && !wanted;
        if (c->type == SPOKE_COLUMN_IGNORE || (c->type == SPOKE_COLUMN_ID && !wanted && !welcome) ||
            (to == &out->target && l->options->unlabelled))
            continue;
        snprintf(name, sizeof name, "%s%s", prefix, c->name);
        enum tier_status st = spoke_npz_array(s->npz, name, to, l->err);
        if (st == TIER_ENOTFOUND && optional && c->type == SPOKE_COLUMN_IMAGE) {
            *there = false;
            return TIER_OK;
        }
        if (st == TIER_ENOTFOUND && welcome)
            continue;
        if (st == TIER_ENOTFOUND) /* the file is there, and is not what the schema says */
            return l->err ? (l->err->status = TIER_EDATA) : TIER_EDATA;
        TIER_TRY(st);
    }
    const struct spoke_npy *image = spoke_array_npy(out->image);
    TIER_TRY(check_image(l, out->image, l->schema->image->channels, false));
    if (image->side[0] > SPOKE_ROWS_MAX)
        return tier_fail(l->err, TIER_ELIMIT, "%s: array '%s' has more than %u rows", l->path,
                         spoke_array_name(out->image), SPOKE_ROWS_MAX);
    bool mask = l->data->target == SPOKE_TARGET_MASK;
    if (out->target && mask)
        TIER_TRY(check_image(l, out->target, 1, true));
    if (out->target)
        TIER_TRY(check_rows(l, out->target, image->side[0], !mask));
    return out->id ? check_rows(l, out->id, image->side[0], true) : TIER_OK;
}

/* What the number of a class or value array means; *missing for NaN. */
static enum tier_status take_target(struct spoke_loader *l, const struct arrays *a, uint64_t row,
                                    double v, int32_t *class, bool *missing) {
    const struct spoke_column *c = spoke_schema_target(l->schema);

    *missing = isnan(v);
    *class = 0;
    if (*missing && l->schema->missing_rows == SPOKE_MISSING_ERROR)
        return array_fail(l->path, a->target, row, "the value is missing", l->err);
    if (*missing)
        return TIER_OK;
    if (c->value) {
        if (!(fabs(v) <= 3.4e38) || (c->min && v < *c->min) || (c->max && v > *c->max))
            return array_fail(l->path, a->target, row,
                              "it is not finite, or outside the range the schema gives", l->err);
    } else if (c->positive_above) {
        *class = v > *c->positive_above;
    } else {
        if (!(v >= 0.0 && v < (double)l->data->classes) || v != floor(v))
            return array_fail(l->path, a->target, row,
                              "it is none of the schema's categories, which are numbered from 0",
                              l->err);
        *class = (int32_t)v;
    }
    return TIER_OK;
}

/* The row's id, or its number where there is none, and where that puts it. */
static enum tier_status part_of(struct spoke_loader *l, const struct arrays *a, uint64_t row,
                                const uint8_t *id, char text[SPOKE_ID_BYTES_MAX + 8],
                                enum spoke_part *part) {
    if (!a->id)
        snprintf(text, SPOKE_ID_BYTES_MAX + 8, "%" PRIu64, row);
    else if (!spoke_npy_text(spoke_array_npy(a->id), id, text, SPOKE_ID_BYTES_MAX + 8) ||
             !text[0] || strlen(text) > SPOKE_ID_BYTES_MAX)
        return array_fail(l->path, a->id, row, "an id must be a whole number or a text", l->err);
    return l->rule.by == SPOKE_SPLIT_HASH && !l->options->undivided
               ? spoke_load_split(l, text, part)
               : TIER_OK;
}

static enum tier_status add_row(struct spoke_loader *l, enum spoke_part part, uint64_t place,
                                int32_t class, double value, const char *id) {
    struct spoke_rows *p = &l->data->parts[part];
    size_t row;

    if (spoke_load_row(l, part, &row) != TIER_OK)
        return tier_err_prefix(l->err, "%s", l->path);
    p->places[row] = (uint32_t)place;
    if (p->labels)
        p->labels[row] = class;
    if (p->values)
        p->values[row] = (float)value;
    return spoke_load_identity(l, part, row, place, id);
}

/* By consent; `text` is room for the id. */
static bool row_allowed(struct spoke_loader *l, const struct arrays *a, const uint8_t *id,
                        char text[SPOKE_ID_BYTES_MAX + 8]) {
    if (!l->options->consent)
        return true;
    bool known = spoke_npy_text(spoke_array_npy(a->id), id, text, SPOKE_ID_BYTES_MAX + 8);
    return spoke_load_allowed(l, known ? text : NULL);
}

/* All rows of some arrays, to `part` or where the hash puts them. */
static enum tier_status add_rows(struct spoke_loader *l, const struct arrays *a,
                                 enum spoke_part part) {
    uint64_t rows = spoke_array_npy(a->image)->side[0];
    bool single = a->target && l->data->target != SPOKE_TARGET_MASK, missing = false;
    const struct spoke_npy *target = a->target ? spoke_array_npy(a->target) : NULL;
    uint32_t id_bytes = a->id ? spoke_array_npy(a->id)->item_bytes : 0;
    uint8_t *raw = malloc((size_t)ROWS_AT_ONCE * (target ? target->item_bytes : 1));
    uint8_t *ids = malloc((size_t)ROWS_AT_ONCE * id_bytes + 1);
    double numbers[ROWS_AT_ONCE] = {0};
    char id[SPOKE_ID_BYTES_MAX + 8];
    enum tier_status st = TIER_OK;

    if (!raw || !ids) {
        st = tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
        goto out;
    }
    if (l->options->consent && !a->id) {
        st = tier_fail(l->err, TIER_ECONFIG,
                       "%s: consents go by patients: it needs a column of type id", l->path);
        goto out;
    }
    for (uint64_t from = 0; from < rows; from += ROWS_AT_ONCE) {
        size_t n = rows - from < ROWS_AT_ONCE ? (size_t)(rows - from) : ROWS_AT_ONCE;
        if (single) {
            TIER_TRY_OUT(spoke_array_read(a->target, from, n, raw, l->err));
            spoke_npy_doubles(target, raw, n, numbers);
        }
        if (a->id)
            TIER_TRY_OUT(spoke_array_read(a->id, from, n, ids, l->err));
        for (size_t i = 0; i < n; i++) {
            int32_t class = 0;
            if (!row_allowed(l, a, ids + i * id_bytes, id))
                continue;
            if (single)
                st = take_target(l, a, from + i, numbers[i], &class, &missing);
            if (missing) {
                l->data->dropped += st == TIER_OK;
            } else {
                st = st ? st : part_of(l, a, from + i, ids + i * id_bytes, id, &part);
                st = st ? st : add_row(l, part, from + i, class, numbers[i], a->id ? id : NULL);
            }
            TIER_TRY_OUT(spoke_load_refuse(l, st));
        }
    }
out:
    free(ids);
    free(raw);
    return st;
}

static enum tier_status check_target(const struct spoke_loader *l, const struct spoke_array *a) {
    if (spoke_npy_is_number(spoke_array_npy(a)))
        return TIER_OK;
    return tier_fail(l->err, TIER_EDATA,
                     "%s: array '%s': it holds texts; the numbers of the schema's categories, from "
                     "0, would be right",
                     l->path, spoke_array_name(a));
}

static enum tier_status open_npz(struct spoke_loader *l) {
    static const char *const usual[SPOKE_PARTS] = {"train_", "test_", "val_"};
    const char *const given[SPOKE_PARTS] = {l->rule.train, l->rule.test, l->rule.val};
    struct npz_source *s = calloc(1, sizeof *s);
    bool hash = l->rule.by == SPOKE_SPLIT_HASH, whole = hash || l->options->undivided, there;

    l->data->source = s; /* closed with the data */
    if (!s)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
    TIER_TRY(spoke_npz_open(l->path, &s->npz, l->err));
    for (int which = 0; which < SPOKE_PARTS; which++) {
        struct arrays *a = &s->parts[which];
        if (whole && which > 0) {
            *a = s->parts[0];
            continue;
        }
        const char *prefix = whole ? "" : given[which] ? given[which] : usual[which];
        TIER_TRY(find_arrays(l, prefix, which == SPOKE_VAL && !given[which], a, &there));
        if (!there)
            continue;
        if (a->target)
            TIER_TRY(check_target(l, a->target));
        TIER_TRY(add_rows(l, a, l->options->undivided ? SPOKE_TEST : (enum spoke_part)which));
    }
    return TIER_OK;
}

/* ---- reading ------------------------------------------------------------------------------- */

static enum tier_status read_floats(const struct spoke_data *d, struct spoke_array *a,
                                    uint64_t place, uint8_t *raw, float *x, struct tier_err *err) {
    const struct spoke_npy *npy = spoke_array_npy(a);
    size_t channels = d->stats_count;

    TIER_TRY(spoke_array_read(a, place * d->features, d->features, raw, err));
    if (d->schema->image->layout == SPOKE_LAYOUT_FIRST || channels == 1) {
        spoke_npy_floats(npy, raw, d->features, x);
        return TIER_OK;
    }
    for (size_t i = 0; i < d->spatial; i++) {
        float pixel[SPOKE_CHANNELS_MAX];
        spoke_npy_floats(npy, raw + i * channels * npy->item_bytes, channels, pixel);
        for (size_t c = 0; c < channels; c++)
            x[c * d->spatial + i] = pixel[c];
    }
    return TIER_OK;
}

static enum tier_status read_mask(const struct spoke_data *d, struct spoke_array *a, uint64_t place,
                                  uint8_t *raw, int32_t *mask, struct tier_err *err) {
    const struct spoke_npy *npy = spoke_array_npy(a);
    double v[ELEMENTS_AT_ONCE];

    TIER_TRY(spoke_array_read(a, place * d->spatial, d->spatial, raw, err));
    for (size_t from = 0; from < d->spatial; from += ELEMENTS_AT_ONCE) {
        size_t n = d->spatial - from < ELEMENTS_AT_ONCE ? d->spatial - from : ELEMENTS_AT_ONCE;
        spoke_npy_doubles(npy, raw + from * npy->item_bytes, n, v);
        for (size_t i = 0; i < n; i++) {
            if (!(v[i] >= 0.0 && v[i] < (double)d->classes) || v[i] != floor(v[i]))
                return array_fail(
                    d->path, a, place,
                    "the mask has an element that is none of the schema's categories, "
                    "which are numbered from 0",
                    err);
            mask[from + i] = (int32_t)v[i];
        }
    }
    return TIER_OK;
}

static enum tier_status read_npz(const struct spoke_data *d, enum spoke_part part, size_t row,
                                 float *x, int32_t *mask, struct tier_err *err) {
    const struct npz_source *s = d->source;
    const struct arrays *a = &s->parts[part];
    uint64_t place = d->parts[part].places[row];
    size_t bytes = x ? d->features * spoke_array_npy(a->image)->item_bytes : 0;
    size_t mask_bytes = mask ? d->spatial * spoke_array_npy(a->target)->item_bytes : 0;
    uint8_t *raw = malloc((bytes > mask_bytes ? bytes : mask_bytes) + 1);
    enum tier_status st = TIER_OK;

    if (!raw)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory for a row", d->path);
    if (x)
        st = read_floats(d, a->image, place, raw, x, err);
    if (st == TIER_OK && mask)
        st = read_mask(d, a->target, place, raw, mask, err);
    free(raw);
    return st;
}

static void where_npz(const struct spoke_data *d, enum spoke_part part, size_t row, char *text,
                      size_t size) {
    const struct npz_source *s = d->source;
    snprintf(text, size, "%s: array '%s': row %" PRIu32, d->path,
             spoke_array_name(s->parts[part].image), d->parts[part].places[row]);
}

static void close_npz(void *source) {
    struct npz_source *s = source;
    if (s)
        spoke_npz_close(s->npz);
    free(s);
}

const struct spoke_source spoke_source_npz = {
    .open = open_npz,
    .read = read_npz,
    .where = where_npz,
    .close = close_npz,
};
