/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables: the source that is one, and those of images whose files a table names. Rows of features
 * are gathered in double, because a mean must be taken off before a value is rounded to float
 * (dates and identifiers of scanners are large numbers with small differences).
 */
#include "spoke/annotators.h"
#include "spoke/csv.h"
#include "spoke/data_private.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What reading the file needs besides the loader. */
struct table {
    struct spoke_loader *l;
    const struct spoke_schema *schema;
    struct spoke_csv *csv;
    size_t *place;                        /* of each schema column among the cells; SIZE_MAX: it
                                             is not there, nor needed */
    size_t cells;                         /* of a row */
    double *row;                          /* [features] of a table */
    const char *files[SPOKE_COLUMNS_MAX]; /* of images and masks, in this row */
};

/* What a row is to be learnt. */
struct label {
    int32_t class;
    int32_t votes[SPOKE_READERS_MAX]; /* where several readers say it */
    double value;
    bool event;
};

static enum tier_status row_fail(const struct table *t, const struct spoke_column *c,
                                 const char *what) {
    return tier_fail(t->l->err, TIER_EDATA, "%s:%" PRIu64 ": column '%s': %s", t->l->path,
                     spoke_csv_line(t->csv), c->name, what);
}

/* ---- cells --------------------------------------------------------------------------------- */

/* "1", "1.0" and "01" are one category where the list has one of them. */
static int category_find(const struct spoke_column *c, const char *cell) {
    double value, listed;

    for (uint32_t i = 0; i < c->categories_count; i++)
        if (strcmp(c->categories[i], cell) == 0)
            return (int)i;
    if (!spoke_number_parse(cell, &value))
        return -1;
    for (uint32_t i = 0; i < c->categories_count; i++)
        if (spoke_number_parse(c->categories[i], &listed) && listed == value)
            return (int)i;
    return -1;
}

static bool is_missing(const struct spoke_schema *s, const char *cell) {
    return !*cell || (s->file && s->file->missing && strcmp(cell, s->file->missing) == 0);
}

static enum tier_status read_number(const struct table *t, const struct spoke_column *c,
                                    const char *cell, double *out) {
    double v;
    if (!spoke_number_parse(cell, &v) || fabs(v) > (double)FLT_MAX)
        return row_fail(t, c,
                        "this cell is not a finite number; correct it, or write the schema's "
                        "missing marker");
    if ((c->min && v < *c->min) || (c->max && v > *c->max))
        return tier_fail(t->l->err, TIER_EDATA,
                         "%s:%" PRIu64 ": column '%s': this cell is outside the range the schema "
                         "gives, %g to %g%s%s",
                         t->l->path, spoke_csv_line(t->csv), c->name, c->min ? *c->min : -INFINITY,
                         c->max ? *c->max : INFINITY, c->unit ? " " : "", c->unit ? c->unit : "");
    *out = v;
    return TIER_OK;
}

static enum tier_status read_category(const struct table *t, const struct spoke_column *c,
                                      const char *cell, int *index) {
    *index = category_find(c, cell);
    if (*index < 0)
        return row_fail(t, c, "this cell is none of the categories the schema lists");
    return TIER_OK;
}

/* Writes the column's features and returns how many there are through *at. */
static enum tier_status read_feature(struct table *t, const struct spoke_column *c,
                                     const char *cell, size_t *at) {
    size_t n = spoke_column_features(c);
    int index;

    if (c->type == SPOKE_COLUMN_NUMBER) {
        TIER_TRY(read_number(t, c, cell, &t->row[*at]));
    } else {
        TIER_TRY(read_category(t, c, cell, &index));
        if (c->encode == SPOKE_ENCODE_INDEX)
            t->row[*at] = index;
        else
            for (size_t i = 0; i < n; i++)
                t->row[*at + i] = i + c->drop_first == (size_t)index ? 1.0 : 0.0;
    }
    *at += n;
    return TIER_OK;
}

static enum tier_status read_target(const struct table *t, const struct spoke_column *c,
                                    const char *cell, struct label *label) {
    double v = 0.0;
    int index;

    if (c->positive_above || c->value) {
        TIER_TRY(read_number(t, c, cell, &v));
        index = c->positive_above && v > *c->positive_above;
        label->value = c->value ? v : label->value;
    } else {
        TIER_TRY(read_category(t, c, cell, &index));
    }
    if (c->type == SPOKE_COLUMN_EVENT)
        label->event = index == 1;
    else
        label->class = index;
    return TIER_OK;
}

/* ---- rows ---------------------------------------------------------------------------------- */

static enum tier_status split_cell(const struct table *t, const struct spoke_column *c,
                                   const char *cell, enum spoke_part *out) {
    if (strcmp(cell, "train") == 0)
        *out = SPOKE_TRAIN;
    else if (strcmp(cell, "test") == 0)
        *out = SPOKE_TEST;
    else if (strcmp(cell, "val") == 0)
        *out = SPOKE_VAL;
    else
        return row_fail(t, c, "this cell must hold train, val or test");
    return TIER_OK;
}

static enum tier_status split_hash(const struct table *t, const struct spoke_column *c,
                                   const char *id, enum spoke_part *out) {
    if (strlen(id) > SPOKE_ID_BYTES_MAX)
        return row_fail(t, c, "the id is too long to be one");
    return spoke_load_split(t->l, id, out);
}

static bool column_used(const struct table *t, const struct spoke_column *c) {
    bool divided = !t->l->options->undivided;

    switch (c->type) {
    case SPOKE_COLUMN_ID:
        return divided && t->l->rule.by == SPOKE_SPLIT_HASH;
    case SPOKE_COLUMN_SPLIT:
        return divided && t->l->rule.by == SPOKE_SPLIT_COLUMN;
    case SPOKE_COLUMN_TARGET:
    case SPOKE_COLUMN_EVENT:
    case SPOKE_COLUMN_MASK:
        return !t->l->options->unlabelled;
    case SPOKE_COLUMN_IGNORE:
        return false;
    default:
        return true;
    }
}

static bool is_readers(const struct spoke_column *c) {
    return c->type == SPOKE_COLUMN_TARGET || c->type == SPOKE_COLUMN_MASK;
}

/* With several readers a value is missing where all of theirs are. */
static bool nobody_says(const struct table *t, char *const *cells) {
    bool nobody = true;

    for (uint32_t i = 0; i < t->schema->columns_count; i++)
        if (is_readers(&t->schema->columns[i]))
            nobody = nobody && is_missing(t->schema, cells[t->place[i]]);
    return nobody;
}

/* What the row's column of type id holds, or NULL. */
static const char *id_of(const struct table *t, char *const *cells) {
    for (uint32_t i = 0; i < t->schema->columns_count; i++)
        if (t->schema->columns[i].type == SPOKE_COLUMN_ID && t->place[i] != SIZE_MAX)
            return cells[t->place[i]];
    return NULL;
}

static enum tier_status keep_row(struct table *t, enum spoke_part which, const struct label *label,
                                 char *const *cells) {
    struct spoke_data *d = t->l->data;
    struct spoke_rows *p = &d->parts[which];
    size_t row;

    if (spoke_load_row(t->l, which, &row) != TIER_OK)
        return tier_err_prefix(t->l->err, "%s:%" PRIu64, t->l->path, spoke_csv_line(t->csv));
    if (t->schema->kind == SPOKE_KIND_TABLE)
        memcpy(p->raw + row * d->features, t->row, d->features * sizeof *t->row);
    if (p->votes)
        memcpy(p->votes + row * d->readers, label->votes, d->readers * sizeof *p->votes);
    if (d->target == SPOKE_TARGET_SURVIVAL)
        p->events[row] = label->event ? 1.0f : 0.0f;
    if (d->target == SPOKE_TARGET_VALUE || d->target == SPOKE_TARGET_SURVIVAL)
        p->values[row] = (float)label->value;
    else if (d->target == SPOKE_TARGET_CLASS)
        p->labels[row] = label->class;
    TIER_TRY(spoke_load_identity(t->l, which, row, spoke_csv_line(t->csv), id_of(t, cells)));
    if (t->schema->kind == SPOKE_KIND_TABLE)
        return TIER_OK;
    enum tier_status st = spoke_load_case(t->l, which, row, spoke_csv_line(t->csv), t->files);
    if (st != TIER_OK) {
        p->rows--;
        if (p->ids)
            free(p->ids[p->rows]);
    }
    return st;
}

/* For whoever counts; errors are those of reading the row. */
static enum tier_status tell_cells(const struct table *t, char *const *cells) {
    for (uint32_t i = 0; i < t->schema->columns_count; i++) {
        const struct spoke_column *c = &t->schema->columns[i];
        struct label label = {0};
        double value = 0;
        int index = 0;

        if (!column_used(t, c) || c->type == SPOKE_COLUMN_ID || c->type == SPOKE_COLUMN_SPLIT ||
            c->type == SPOKE_COLUMN_IMAGE || c->type == SPOKE_COLUMN_MASK)
            continue;
        const char *cell = cells[t->place[i]];
        bool missing = is_missing(t->schema, cell);
        if (!missing && c->type == SPOKE_COLUMN_NUMBER) {
            TIER_TRY(read_number(t, c, cell, &value));
        } else if (!missing && c->type == SPOKE_COLUMN_CATEGORY) {
            TIER_TRY(read_category(t, c, cell, &index));
            value = index;
        } else if (!missing) {
            TIER_TRY(read_target(t, c, cell, &label));
            value = c->type == SPOKE_COLUMN_EVENT ? label.event
                    : c->value                    ? label.value
                                                  : label.class;
        }
        t->l->options->cell(t->l->options->cell_arg, c, missing ? NULL : &value);
    }
    return TIER_OK;
}

static enum tier_status read_row(struct table *t, char *const *cells) {
    const struct spoke_schema *s = t->schema;
    enum spoke_part which = t->l->options->undivided ? SPOKE_TEST : SPOKE_TRAIN;
    struct label label = {0};
    size_t at = 0, files = 0, reader = 0;
    bool several = t->l->data->readers > 1;

    if (!spoke_load_allowed(t->l, id_of(t, cells)))
        return TIER_OK;
    if (t->l->options->cell)
        TIER_TRY(tell_cells(t, cells));
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (!column_used(t, c) || !is_missing(s, cells[t->place[i]]))
            continue;
        if (several && is_readers(c) && !nobody_says(t, cells))
            continue;
        if (s->missing_rows == SPOKE_MISSING_ERROR)
            return row_fail(t, c,
                            "the value is missing; complete it, or set missing_rows: drop in the "
                            "schema");
        t->l->data->dropped++;
        return TIER_OK;
    }
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (!column_used(t, c))
            continue;
        const char *cell = cells[t->place[i]];
        if (c->type == SPOKE_COLUMN_TARGET && several) {
            bool says = !is_missing(s, cell);
            if (says)
                TIER_TRY(read_target(t, c, cell, &label));
            label.votes[reader++] = says ? label.class : -1;
        } else if (c->type == SPOKE_COLUMN_TARGET || c->type == SPOKE_COLUMN_EVENT)
            TIER_TRY(read_target(t, c, cell, &label));
        else if (c->type == SPOKE_COLUMN_ID)
            TIER_TRY(split_hash(t, c, cell, &which));
        else if (c->type == SPOKE_COLUMN_SPLIT)
            TIER_TRY(split_cell(t, c, cell, &which));
        else if (c->type == SPOKE_COLUMN_IMAGE || c->type == SPOKE_COLUMN_MASK)
            t->files[files++] = is_missing(s, cell) ? "" : cell;
        else
            TIER_TRY(read_feature(t, c, cell, &at));
    }
    if (reader > 0)
        label.class = spoke_majority(label.votes, reader, 1);
    if (reader > 0 && label.class >= 0 && spoke_data_soft(t->l->data))
        label.class = spoke_votes_pack(label.votes, reader, 1, spoke_data_classes(t->l->data));
    return keep_row(t, which, &label, cells);
}

/*
 * Where each column stands. A header's cells are not quoted in messages: where the file has none,
 * they are a patient's.
 */
static enum tier_status read_header(struct table *t, char *const *cells, size_t count) {
    const struct spoke_schema *s = t->schema;

    for (uint32_t i = 0; i < s->columns_count; i++) {
        size_t found = SIZE_MAX;
        for (size_t k = 0; k < count; k++) {
            if (strcmp(cells[k], s->columns[i].name) != 0)
                continue;
            if (found != SIZE_MAX)
                return row_fail(t, &s->columns[i], "the header has this column twice");
            found = k;
        }
        bool asked = t->l->options->consent && s->columns[i].type == SPOKE_COLUMN_ID;
        bool needed = column_used(t, &s->columns[i]) || !t->l->options->unlabelled || asked;
        if (found == SIZE_MAX && needed)
            return row_fail(t, &s->columns[i],
                            "the header does not have it; correct the name there or in the schema, "
                            "or say header: false where the file has no header");
        t->place[i] = found;
    }
    t->cells = count;
    for (size_t k = 0; k < count; k++) {
        bool known = false;
        for (uint32_t i = 0; i < s->columns_count && !known; i++)
            known = t->place[i] == k;
        if (!known)
            return tier_fail(t->l->err, TIER_EDATA,
                             "%s:%" PRIu64 ": cell %zu of the header is no column of the schema: "
                             "list it there, with type: ignore if it is not needed",
                             t->l->path, spoke_csv_line(t->csv), k + 1);
    }
    return TIER_OK;
}

static enum tier_status read_table(struct table *t) {
    const struct spoke_schema *s = t->schema;
    bool header = !s->file || !s->file->header || *s->file->header;
    char *const *cells;
    enum tier_status st;
    size_t count;

    for (uint32_t i = 0; i < s->columns_count; i++)
        t->place[i] = i;
    t->cells = s->columns_count;
    for (;;) {
        TIER_TRY(spoke_csv_next(t->csv, &cells, &count, t->l->err));
        if (count == 0)
            return header ? tier_fail(t->l->err, TIER_EDATA,
                                      "%s: the file is empty; a header with the schema's columns, "
                                      "and a row for each patient, would be right",
                                      t->l->path)
                          : TIER_OK;
        if (header) {
            TIER_TRY(read_header(t, cells, count));
            header = false;
            continue;
        }
        if (count != t->cells)
            st = tier_fail(t->l->err, TIER_EDATA,
                           "%s:%" PRIu64 ": %zu cells where the schema has %zu columns", t->l->path,
                           spoke_csv_line(t->csv), count, t->cells);
        else
            st = read_row(t, cells);
        TIER_TRY(spoke_load_refuse(t->l, st));
    }
}

enum tier_status spoke_load_table(struct spoke_loader *l) {
    struct table *t = calloc(1, sizeof *t);
    size_t features = l->schema->kind == SPOKE_KIND_TABLE ? l->data->features : 1;
    enum tier_status st;

    if (t) {
        t->l = l;
        t->schema = l->schema;
        t->row = calloc(features, sizeof *t->row);
        t->place = calloc(l->schema->columns_count, sizeof *t->place);
    }
    if (!t || !t->row || !t->place) {
        st = tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
        goto out;
    }
    TIER_TRY_OUT(spoke_csv_open(l->table ? l->table : l->path, spoke_schema_delimiter(l->schema),
                                SPOKE_COLUMNS_MAX, &t->csv, l->err));
    st = read_table(t);
out:
    if (t) {
        spoke_csv_close(t->csv);
        free(t->row);
        free(t->place);
        free(t);
    }
    return st;
}

const struct spoke_source spoke_source_table = {.open = spoke_load_table};
