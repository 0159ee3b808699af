/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows are gathered in double, because a mean must be taken off before a value is rounded to float
 * (dates and identifiers of scanners are large numbers with small differences). Means and
 * deviations are two-pass sums in row order, so they are the same wherever the same file is read.
 */
#include "spoke/data.h"

#include "spoke/csv.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define STD_EPSILON 1e-9

struct part {
    size_t rows, cap;
    double *raw; /* [rows x features], only while loading */
    float *x;
    int32_t *labels;
};

struct spoke_data {
    struct spoke_schema *schema;
    size_t features, classes, dropped;
    struct part parts[2];
    double *mean, *std;
};

/* What loading needs besides the result. */
struct loader {
    struct spoke_data *data;
    const struct spoke_schema *schema;
    const char *path;
    struct spoke_csv *csv;
    size_t *place; /* of each schema column among the cells */
    struct spoke_split_rule rule;
    double *row; /* [features] */
    struct tier_err *err;
};

static enum tier_status row_fail(const struct loader *l, const struct spoke_column *c,
                                 const char *what) {
    return tier_fail(l->err, TIER_EDATA, "%s:%" PRIu64 ": column '%s': %s", l->path,
                     spoke_csv_line(l->csv), c->name, what);
}

/* ---- cells --------------------------------------------------------------------------------- */

/* Decimal only: strtod's "nan", "inf" and hexadecimal are not data. */
static bool parse_number(const char *text, double *out) {
    char *end;

    if (!*text || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false;
    double v = strtod(text, &end);
    if (*end != '\0' || !isfinite(v))
        return false;
    *out = v;
    return true;
}

/* "1", "1.0" and "01" are one category where the list has one of them. */
static int category_find(const struct spoke_column *c, const char *cell) {
    double value, listed;

    for (uint32_t i = 0; i < c->categories_count; i++)
        if (strcmp(c->categories[i], cell) == 0)
            return (int)i;
    if (!parse_number(cell, &value))
        return -1;
    for (uint32_t i = 0; i < c->categories_count; i++)
        if (parse_number(c->categories[i], &listed) && listed == value)
            return (int)i;
    return -1;
}

static bool is_missing(const struct spoke_schema *s, const char *cell) {
    return !*cell || (s->file && s->file->missing && strcmp(cell, s->file->missing) == 0);
}

static enum tier_status read_number(const struct loader *l, const struct spoke_column *c,
                                    const char *cell, double *out) {
    double v;
    if (!parse_number(cell, &v) || fabs(v) > (double)FLT_MAX)
        return row_fail(l, c,
                        "this cell is not a finite number; correct it, or write the schema's "
                        "missing marker");
    if ((c->min && v < *c->min) || (c->max && v > *c->max))
        return tier_fail(l->err, TIER_EDATA,
                         "%s:%" PRIu64 ": column '%s': this cell is outside the range the schema "
                         "gives, %g to %g",
                         l->path, spoke_csv_line(l->csv), c->name, c->min ? *c->min : -INFINITY,
                         c->max ? *c->max : INFINITY);
    *out = v;
    return TIER_OK;
}

static enum tier_status read_category(const struct loader *l, const struct spoke_column *c,
                                      const char *cell, int *index) {
    *index = category_find(c, cell);
    if (*index < 0)
        return row_fail(l, c, "this cell is none of the categories the schema lists");
    return TIER_OK;
}

/* Writes the column's features and returns how many there are through *at. */
static enum tier_status read_feature(struct loader *l, const struct spoke_column *c,
                                     const char *cell, size_t *at) {
    size_t n = spoke_column_features(c);
    int index;

    if (c->type == SPOKE_COLUMN_NUMBER) {
        TIER_TRY(read_number(l, c, cell, &l->row[*at]));
    } else {
        TIER_TRY(read_category(l, c, cell, &index));
        if (c->encode == SPOKE_ENCODE_INDEX)
            l->row[*at] = index;
        else
            for (size_t i = 0; i < n; i++)
                l->row[*at + i] = i + c->drop_first == (size_t)index ? 1.0 : 0.0;
    }
    *at += n;
    return TIER_OK;
}

static enum tier_status read_target(const struct loader *l, const struct spoke_column *c,
                                    const char *cell, int32_t *label) {
    double v;
    int index;

    if (c->positive_above) {
        TIER_TRY(read_number(l, c, cell, &v));
        *label = v > *c->positive_above;
        return TIER_OK;
    }
    TIER_TRY(read_category(l, c, cell, &index));
    *label = index;
    return TIER_OK;
}

/* ---- the split ----------------------------------------------------------------------------- */

/*
 * HMAC-SHA-256(key, fold || id) as a fraction of 2^53; the key keeps outsiders from working out
 * from an identity which side a patient is on, and is the same at all sites of a plan.
 */
static enum tier_status split_hash(const struct loader *l, const char *id, enum spoke_part *out) {
    uint8_t text[4 + SPOKE_CSV_RECORD_BYTES_MAX / 256], mac[EVP_MAX_MD_SIZE];
    size_t len = strlen(id);
    unsigned mac_len = 0;
    uint32_t fold = l->rule.fold;

    if (len > sizeof text - 4)
        return row_fail(l, spoke_schema_only(l->schema, SPOKE_COLUMN_ID),
                        "the id is too long to be one");
    for (int i = 0; i < 4; i++)
        text[i] = (uint8_t)(fold >> (24 - 8 * i));
    memcpy(text + 4, id, len);
    if (!HMAC(EVP_sha256(), l->rule.key, (int)strlen(l->rule.key), text, len + 4, mac, &mac_len))
        return tier_fail(l->err, TIER_EINTERNAL, "libcrypto has no HMAC-SHA-256");
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | mac[i];
    *out = ldexp((double)(v >> 11), -53) < *l->rule.fraction ? SPOKE_TEST : SPOKE_TRAIN;
    return TIER_OK;
}

static enum tier_status split_cell(const struct loader *l, const struct spoke_column *c,
                                   const char *cell, enum spoke_part *out) {
    if (strcmp(cell, "train") == 0)
        *out = SPOKE_TRAIN;
    else if (strcmp(cell, "test") == 0)
        *out = SPOKE_TEST;
    else
        return row_fail(l, c, "this cell must hold train or test");
    return TIER_OK;
}

/* ---- rows ---------------------------------------------------------------------------------- */

static bool column_used(const struct loader *l, const struct spoke_column *c) {
    switch (c->type) {
    case SPOKE_COLUMN_ID:
        return l->rule.by == SPOKE_SPLIT_HASH;
    case SPOKE_COLUMN_SPLIT:
        return l->rule.by == SPOKE_SPLIT_COLUMN;
    case SPOKE_COLUMN_IGNORE:
        return false;
    default:
        return true;
    }
}

static enum tier_status keep_row(struct loader *l, enum spoke_part which, int32_t label) {
    struct spoke_data *d = l->data;
    struct part *p = &d->parts[which];
    size_t total = d->parts[0].rows + d->parts[1].rows;

    if (total >= SPOKE_ROWS_MAX || (uint64_t)(total + 1) * d->features > SPOKE_CELLS_MAX)
        return tier_fail(l->err, TIER_ELIMIT,
                         "%s:%" PRIu64 ": more rows than one table may have, %u rows and %" PRIu64
                         " values",
                         l->path, spoke_csv_line(l->csv), SPOKE_ROWS_MAX, SPOKE_CELLS_MAX);
    if (p->rows == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        double *raw = realloc(p->raw, cap * d->features * sizeof *raw);
        if (raw)
            p->raw = raw;
        int32_t *labels = raw ? realloc(p->labels, cap * sizeof *labels) : NULL;
        if (labels)
            p->labels = labels;
        if (!raw || !labels)
            return tier_fail(l->err, TIER_ENOMEM, "%s: no memory for %zu rows", l->path, cap);
        p->cap = cap;
    }
    memcpy(p->raw + p->rows * d->features, l->row, d->features * sizeof *l->row);
    p->labels[p->rows++] = label;
    return TIER_OK;
}

static enum tier_status read_row(struct loader *l, char *const *cells) {
    const struct spoke_schema *s = l->schema;
    enum spoke_part which = SPOKE_TRAIN;
    int32_t label = 0;
    size_t at = 0;

    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (!column_used(l, c) || !is_missing(s, cells[l->place[i]]))
            continue;
        if (s->missing_rows == SPOKE_MISSING_ERROR)
            return row_fail(l, c,
                            "the value is missing; complete it, or set missing_rows: drop in the "
                            "schema");
        l->data->dropped++;
        return TIER_OK;
    }
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        const char *cell = cells[l->place[i]];
        if (!column_used(l, c))
            continue;
        if (c->type == SPOKE_COLUMN_TARGET)
            TIER_TRY(read_target(l, c, cell, &label));
        else if (c->type == SPOKE_COLUMN_ID)
            TIER_TRY(split_hash(l, cell, &which));
        else if (c->type == SPOKE_COLUMN_SPLIT)
            TIER_TRY(split_cell(l, c, cell, &which));
        else
            TIER_TRY(read_feature(l, c, cell, &at));
    }
    return keep_row(l, which, label);
}

/*
 * Where each column stands. A header's cells are not quoted in messages: where the file has none,
 * they are a patient's.
 */
static enum tier_status read_header(struct loader *l, char *const *cells, size_t count) {
    const struct spoke_schema *s = l->schema;

    for (uint32_t i = 0; i < s->columns_count; i++) {
        size_t found = SIZE_MAX;
        for (size_t k = 0; k < count; k++) {
            if (strcmp(cells[k], s->columns[i].name) != 0)
                continue;
            if (found != SIZE_MAX)
                return row_fail(l, &s->columns[i], "the header has this column twice");
            found = k;
        }
        if (found == SIZE_MAX)
            return row_fail(l, &s->columns[i],
                            "the header does not have it; correct the name there or in the schema, "
                            "or say header: false where the file has no header");
        l->place[i] = found;
    }
    if (count == s->columns_count)
        return TIER_OK;
    for (size_t k = 0; k < count; k++) {
        bool known = false;
        for (uint32_t i = 0; i < s->columns_count && !known; i++)
            known = l->place[i] == k;
        if (!known)
            return tier_fail(l->err, TIER_EDATA,
                             "%s:%" PRIu64 ": cell %zu of the header is no column of the schema: "
                             "list it there, with type: ignore if it is not needed",
                             l->path, spoke_csv_line(l->csv), k + 1);
    }
    return TIER_OK;
}

static enum tier_status read_table(struct loader *l) {
    const struct spoke_schema *s = l->schema;
    bool header = !s->file || !s->file->header || *s->file->header;
    char *const *cells;
    size_t count;

    for (uint32_t i = 0; i < s->columns_count; i++)
        l->place[i] = i;
    for (;;) {
        TIER_TRY(spoke_csv_next(l->csv, &cells, &count, l->err));
        if (count == 0)
            return header ? tier_fail(l->err, TIER_EDATA,
                                      "%s: the file is empty; a header with the schema's columns, "
                                      "and a row for each patient, would be right",
                                      l->path)
                          : TIER_OK;
        if (header) {
            TIER_TRY(read_header(l, cells, count));
            header = false;
            continue;
        }
        if (count != s->columns_count)
            return tier_fail(l->err, TIER_EDATA,
                             "%s:%" PRIu64 ": %zu cells where the schema has %u columns", l->path,
                             spoke_csv_line(l->csv), count, s->columns_count);
        TIER_TRY(read_row(l, cells));
    }
}

/* ---- standardisation ----------------------------------------------------------------------- */

static void local_stats(const struct spoke_data *d, size_t f) {
    const struct part *p = &d->parts[SPOKE_TRAIN];
    double sum = 0.0, squares = 0.0;

    for (size_t r = 0; r < p->rows; r++)
        sum += p->raw[r * d->features + f];
    double mean = sum / (double)p->rows;
    for (size_t r = 0; r < p->rows; r++) {
        double off = p->raw[r * d->features + f] - mean;
        squares += off * off;
    }
    d->mean[f] = mean;
    d->std[f] = sqrt(squares / (double)(p->rows - 1));
}

static enum tier_status set_stats(struct loader *l, const struct spoke_data_options *o) {
    struct spoke_data *d = l->data;
    size_t f = 0;

    if (o->stats_count && o->stats_count != d->features)
        return tier_fail(l->err, TIER_EARG,
                         "statistics of %zu features were given for a table that has %zu",
                         o->stats_count, d->features);
    for (uint32_t i = 0; i < l->schema->columns_count; i++) {
        const struct spoke_column *c = &l->schema->columns[i];
        for (size_t n = spoke_column_features(c); n > 0; n--, f++) {
            d->mean[f] = 0.0;
            d->std[f] = 1.0;
            if (!c->standardise)
                continue;
            if (o->stats_count) {
                d->mean[f] = o->mean[f];
                d->std[f] = o->std[f];
                if (!isfinite(o->mean[f]) || !isfinite(o->std[f]) || o->std[f] < 0.0)
                    return tier_fail(l->err, TIER_EARG,
                                     "the given statistics of column '%s' are not finite", c->name);
            } else if (c->mean) {
                d->mean[f] = *c->mean;
                d->std[f] = *c->std;
            } else if (d->parts[SPOKE_TRAIN].rows < 2) {
                return tier_fail(l->err, TIER_EDATA,
                                 "%s: column '%s' is standardised, which takes at least 2 training "
                                 "rows: there are %zu",
                                 l->path, c->name, d->parts[SPOKE_TRAIN].rows);
            } else {
                local_stats(d, f);
            }
        }
    }
    return TIER_OK;
}

static enum tier_status make_floats(struct loader *l) {
    struct spoke_data *d = l->data;

    for (int which = 0; which < 2; which++) {
        struct part *p = &d->parts[which];
        if (p->rows == 0)
            continue;
        p->x = malloc(p->rows * d->features * sizeof *p->x);
        if (!p->x)
            return tier_fail(l->err, TIER_ENOMEM, "%s: no memory for %zu rows", l->path, p->rows);
        for (size_t i = 0; i < p->rows * d->features; i++) {
            size_t f = i % d->features;
            /* mean 0 and std 1 exactly: not standardised. A constant column is only centred. */
            bool plain = d->mean[f] == 0.0 && d->std[f] == 1.0;
            double scale = plain || d->std[f] == 0.0 ? 1.0 : d->std[f] + STD_EPSILON;
            p->x[i] = (float)((p->raw[i] - d->mean[f]) / scale);
        }
        free(p->raw);
        p->raw = NULL;
    }
    return TIER_OK;
}

/* ---- public -------------------------------------------------------------------------------- */

static enum tier_status effective_rule(struct loader *l, const char *schema_path,
                                       const struct spoke_data_options *o) {
    l->rule = *l->schema->split;
    if (o->split_set)
        l->rule.by = o->split;
    if (o->fold_set)
        l->rule.fold = o->fold;
    bool hash = l->rule.by == SPOKE_SPLIT_HASH;
    if (hash &&
        (!l->rule.key || !l->rule.fraction || !spoke_schema_only(l->schema, SPOKE_COLUMN_ID)))
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: a split by hash was asked for: it needs split.key, split.fraction "
                         "and a column of type id",
                         schema_path);
    if (!hash && !spoke_schema_only(l->schema, SPOKE_COLUMN_SPLIT))
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: a split by column was asked for: it needs a column of type split",
                         schema_path);
    if (!hash && o->fold_set && o->fold != l->schema->split->fold)
        return tier_fail(l->err, TIER_ECONFIG,
                         "%s: fold %u was asked for: a split by column has no folds", schema_path,
                         o->fold);
    return TIER_OK;
}

static enum tier_status allocate(struct loader *l) {
    struct spoke_data *d = l->data;

    d->features = spoke_schema_features(l->schema);
    d->classes = spoke_schema_classes(l->schema);
    d->mean = calloc(d->features, sizeof *d->mean);
    d->std = calloc(d->features, sizeof *d->std);
    l->row = calloc(d->features, sizeof *l->row);
    l->place = calloc(l->schema->columns_count, sizeof *l->place);
    if (!d->mean || !d->std || !l->row || !l->place)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
    return TIER_OK;
}

enum tier_status spoke_data_open(const char *schema_path, const char *csv_path,
                                 const struct spoke_data_options *options,
                                 struct spoke_data **data_out, struct tier_err *err) {
    static const struct spoke_data_options as_schema;
    const struct spoke_data_options *o = options ? options : &as_schema;
    struct loader l = {.path = csv_path, .err = err};
    enum tier_status st;

    l.data = calloc(1, sizeof *l.data);
    if (!l.data)
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", csv_path);
    TIER_TRY_OUT(spoke_schema_open(schema_path, &l.data->schema, err));
    l.schema = l.data->schema;
    TIER_TRY_OUT(effective_rule(&l, schema_path, o));
    TIER_TRY_OUT(allocate(&l));
    TIER_TRY_OUT(
        spoke_csv_open(csv_path, spoke_schema_delimiter(l.schema), SPOKE_COLUMNS_MAX, &l.csv, err));
    TIER_TRY_OUT(read_table(&l));
    if (l.data->parts[0].rows + l.data->parts[1].rows == 0) {
        st = tier_fail(err, TIER_EDATA, "%s: no row is left (%zu had a missing value)", csv_path,
                       l.data->dropped);
        goto out;
    }
    TIER_TRY_OUT(set_stats(&l, o));
    TIER_TRY_OUT(make_floats(&l));
    *data_out = l.data;
    l.data = NULL;
out:
    spoke_csv_close(l.csv);
    free(l.row);
    free(l.place);
    spoke_data_free(l.data);
    return st;
}

void spoke_data_free(struct spoke_data *d) {
    if (!d)
        return;
    for (int which = 0; which < 2; which++) {
        free(d->parts[which].raw);
        free(d->parts[which].x);
        free(d->parts[which].labels);
    }
    free(d->mean);
    free(d->std);
    spoke_schema_free(d->schema);
    free(d);
}

const struct spoke_schema *spoke_data_schema(const struct spoke_data *d) {
    return d->schema;
}

size_t spoke_data_features(const struct spoke_data *d) {
    return d->features;
}

size_t spoke_data_classes(const struct spoke_data *d) {
    return d->classes;
}

size_t spoke_data_rows(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].rows;
}

size_t spoke_data_dropped(const struct spoke_data *d) {
    return d->dropped;
}

const float *spoke_data_x(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].x;
}

const int32_t *spoke_data_labels(const struct spoke_data *d, enum spoke_part part) {
    return d->parts[part].labels;
}

const double *spoke_data_mean(const struct spoke_data *d) {
    return d->mean;
}

const double *spoke_data_std(const struct spoke_data *d) {
    return d->std;
}
