/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/schema_read.h"
#include "tier/yaml.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum field_kind {
    FIELD_TEXT,   /* char *, at most text_max bytes */
    FIELD_TEXTS,  /* char **, and its uint32_t count at count_at */
    FIELD_REAL,   /* double * */
    FIELD_REALS,  /* struct spoke_reals */
    FIELD_FLAG,   /* bool */
    FIELD_FLAG_P, /* bool * */
    FIELD_UINT,   /* uint32_t */
    FIELD_CHOICE, /* an enum: the index in choices */
    FIELD_NODE,   /* const struct tier_yaml_node *: a map or list read by the caller */
};

struct field {
    const char *name;
    enum field_kind kind;
    size_t at;
    size_t count_at, text_max;
    const char *const *choices;
    bool required;
};

struct reader {
    const char *path;
    const char *what; /* "a column", for messages */
    const struct field *fields;
    size_t count;
};

static void *need(void *p) {
    if (!p)
        abort(); /* bounded by TIER_YAML_BYTES_MAX */
    return p;
}

static enum tier_status wrong(const struct reader *r, const struct tier_yaml_node *node,
                              const char *right, struct tier_err *err) {
    return tier_fail(err, TIER_ECONFIG, "%s:%d: '%s' of %s must be %s", r->path, node->line,
                     node->key ? node->key : "item", r->what, right);
}

/* "name, type, min" */
static const char *list_words(char *text, size_t size, const struct field *fields,
                              const char *const *words, size_t count) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < count && used < size; i++) {
        int n = snprintf(text + used, size - used, "%s%s", i ? ", " : "",
                         fields ? fields[i].name : words[i]);
        used += n > 0 ? (size_t)n : 0;
    }
    return text;
}

static bool take_real(const struct tier_yaml_node *node, double *out) {
    char *end;
    *out = strtod(node->text, &end);
    return node->kind == TIER_YAML_TEXT && node->text[0] && *end == '\0';
}

static bool take_bool(const struct tier_yaml_node *node, bool *out) {
    *out = node->kind == TIER_YAML_TEXT && strcmp(node->text, "true") == 0;
    return *out || (node->kind == TIER_YAML_TEXT && strcmp(node->text, "false") == 0);
}

static enum tier_status take_text(const struct reader *r, const struct tier_yaml_node *node,
                                  size_t text_max, char **out, struct tier_err *err) {
    char right[64];
    snprintf(right, sizeof right, "text of 1 to %zu bytes", text_max);
    if (node->kind != TIER_YAML_TEXT || !node->text[0] || strlen(node->text) > text_max)
        return wrong(r, node, right, err);
    *out = need(strdup(node->text));
    return TIER_OK;
}

static enum tier_status take_texts(const struct reader *r, const struct tier_yaml_node *node,
                                   const struct field *f, char *base, struct tier_err *err) {
    uint32_t *count = (uint32_t *)(void *)(base + f->count_at);
    char ***texts = (char ***)(void *)(base + f->at);

    if (node->kind != TIER_YAML_LIST || !node->child)
        return wrong(r, node, "a list of texts: [a, b]", err);
    *texts = need(calloc(SPOKE_CATEGORIES_MAX, sizeof **texts));
    for (const struct tier_yaml_node *item = node->child; item; item = item->next) {
        if (*count == SPOKE_CATEGORIES_MAX)
            return tier_fail(err, TIER_ECONFIG, "%s:%d: more than %u items", r->path, item->line,
                             SPOKE_CATEGORIES_MAX);
        TIER_TRY(take_text(r, item, f->text_max, &(*texts)[*count], err));
        (*count)++;
    }
    return TIER_OK;
}

static enum tier_status take_reals(const struct reader *r, const struct tier_yaml_node *node,
                                   struct spoke_reals *out, struct tier_err *err) {
    if (node->kind != TIER_YAML_LIST || !node->child)
        return wrong(r, node, "a list of numbers: [1, 2]", err);
    for (const struct tier_yaml_node *item = node->child; item; item = item->next) {
        if (out->count == SPOKE_CHANNELS_MAX)
            return tier_fail(err, TIER_ECONFIG, "%s:%d: more than %u items", r->path, item->line,
                             SPOKE_CHANNELS_MAX);
        if (item->kind != TIER_YAML_TEXT || !take_real(item, &out->at[out->count]))
            return wrong(r, node, "a list of numbers: [1, 2]", err);
        out->count++;
    }
    return TIER_OK;
}

static enum tier_status take_choice(const struct reader *r, const struct tier_yaml_node *node,
                                    const struct field *f, int *out, struct tier_err *err) {
    char words[200], right[220];
    size_t count = 0;
    for (; f->choices[count]; count++) {
        if (node->kind == TIER_YAML_TEXT && strcmp(node->text, f->choices[count]) == 0) {
            *out = (int)count;
            return TIER_OK;
        }
    }
    snprintf(right, sizeof right, "one of %s",
             list_words(words, sizeof words, NULL, f->choices, count));
    return wrong(r, node, right, err);
}

static enum tier_status take_field(const struct reader *r, const struct tier_yaml_node *node,
                                   const struct field *f, char *base, struct tier_err *err) {
    void *at = base + f->at;
    double real;
    bool flag;

    switch (f->kind) {
    case FIELD_TEXT:
        return take_text(r, node, f->text_max, at, err);
    case FIELD_TEXTS:
        return take_texts(r, node, f, base, err);
    case FIELD_REAL:
        if (!take_real(node, &real))
            return wrong(r, node, "a number", err);
        *(double **)at = need(malloc(sizeof real));
        **(double **)at = real;
        return TIER_OK;
    case FIELD_REALS:
        return take_reals(r, node, at, err);
    case FIELD_FLAG:
    case FIELD_FLAG_P:
        if (!take_bool(node, &flag))
            return wrong(r, node, "true or false", err);
        if (f->kind == FIELD_FLAG_P)
            at = *(bool **)at = need(malloc(sizeof flag));
        *(bool *)at = flag;
        return TIER_OK;
    case FIELD_UINT:
        if (!take_real(node, &real) || real < 0 || real > 1e6 || real != (double)(uint32_t)real)
            return wrong(r, node, "a whole number from 0 to 1000000", err);
        *(uint32_t *)at = (uint32_t)real;
        return TIER_OK;
    case FIELD_CHOICE:
        return take_choice(r, node, f, at, err);
    case FIELD_NODE:
        *(const struct tier_yaml_node **)at = node;
        return TIER_OK;
    }
    return TIER_EINTERNAL;
}

static enum tier_status read_map(const struct reader *r, const struct tier_yaml_node *map,
                                 void *base, struct tier_err *err) {
    char words[256];

    if (map->kind != TIER_YAML_MAP)
        return tier_fail(err, TIER_ECONFIG, "%s:%d: %s must be a map of keys: %s", r->path,
                         map->line, r->what,
                         list_words(words, sizeof words, r->fields, NULL, r->count));
    for (const struct tier_yaml_node *node = map->child; node; node = node->next) {
        const struct field *f = NULL;
        for (size_t i = 0; i < r->count && !f; i++)
            if (strcmp(node->key, r->fields[i].name) == 0)
                f = &r->fields[i];
        if (!f)
            return tier_fail(err, TIER_ECONFIG, "%s:%d: unknown key %.64s; keys of %s: %s", r->path,
                             node->line, node->key, r->what,
                             list_words(words, sizeof words, r->fields, NULL, r->count));
        TIER_TRY(take_field(r, node, f, base, err));
    }
    for (size_t i = 0; i < r->count; i++) {
        bool there = !r->fields[i].required;
        for (const struct tier_yaml_node *node = map->child; node && !there; node = node->next)
            there = strcmp(node->key, r->fields[i].name) == 0;
        if (!there)
            return tier_fail(err, TIER_ECONFIG, "%s:%d: %s has no '%s'", r->path, map->line,
                             r->what, r->fields[i].name);
    }
    return TIER_OK;
}

/* ---- the tables ---------------------------------------------------------------------------- */

static const char *const kinds[] = {"table", "npz", "images", "nifti", "dicom", "bids", NULL};
static const char *const layouts[] = {"first", "last", NULL};
static const char *const z_scores[] = {"none", "all", "nonzero", NULL};
static const char *const column_types[] = {"number", "category", "target", "id",    "split",
                                           "ignore", "image",    "mask",   "event", NULL};
static const char *const encodes[] = {"one_hot", "index", NULL};
static const char *const annotators[] = {"one", "majority", "soft", NULL};
static const char *const missings[] = {"error", "drop", NULL};
static const char *const split_bys[] = {"hash", "column", "part", NULL};

#define AT(type, member) .at = offsetof(struct type, member)
#define TEXTS(type)                                                                                \
    AT(type, categories), .count_at = offsetof(struct type, categories_count),                     \
                          .text_max = SPOKE_TEXT_LEN_MAX

static const struct field column_fields[] = {
    {"name", FIELD_TEXT, AT(spoke_column, name), .text_max = 63, .required = true},
    {"type", FIELD_CHOICE, AT(spoke_column, type), .choices = column_types, .required = true},
    {"unit", FIELD_TEXT, AT(spoke_column, unit), .text_max = SPOKE_UNIT_LEN_MAX},
    {"min", FIELD_REAL, AT(spoke_column, min)},
    {"max", FIELD_REAL, AT(spoke_column, max)},
    {"standardise", FIELD_FLAG, AT(spoke_column, standardise)},
    {"mean", FIELD_REAL, AT(spoke_column, mean)},
    {"std", FIELD_REAL, AT(spoke_column, std)},
    {"categories", FIELD_TEXTS, TEXTS(spoke_column)},
    {"encode", FIELD_CHOICE, AT(spoke_column, encode), .choices = encodes},
    {"drop_first", FIELD_FLAG, AT(spoke_column, drop_first)},
    {"positive_above", FIELD_REAL, AT(spoke_column, positive_above)},
    {"value", FIELD_FLAG, AT(spoke_column, value)},
    {"suffix", FIELD_TEXT, AT(spoke_column, suffix), .text_max = 63},
    {"entities", FIELD_TEXT, AT(spoke_column, entities), .text_max = 127},
    {"datatype", FIELD_TEXT, AT(spoke_column, datatype), .text_max = 63},
    {"derivative", FIELD_TEXT, AT(spoke_column, derivative), .text_max = 127},
};
static const struct field image_fields[] = {
    {"channels", FIELD_UINT, AT(spoke_image, channels)},
    {"size", FIELD_REALS, AT(spoke_image, size), .required = true},
    {"layout", FIELD_CHOICE, AT(spoke_image, layout), .choices = layouts},
    {"modality", FIELD_TEXT, AT(spoke_image, modality), .text_max = SPOKE_MODALITY_LEN_MAX},
    {"orientation", FIELD_TEXT, AT(spoke_image, orientation), .text_max = 3},
    {"spacing", FIELD_REALS, AT(spoke_image, spacing)},
    {"percentiles", FIELD_REALS, AT(spoke_image, percentiles)},
    {"scale", FIELD_REAL, AT(spoke_image, scale)},
    {"offset", FIELD_REAL, AT(spoke_image, offset)},
    {"min", FIELD_REAL, AT(spoke_image, min)},
    {"max", FIELD_REAL, AT(spoke_image, max)},
    {"z_score", FIELD_CHOICE, AT(spoke_image, z_score), .choices = z_scores},
    {"standardise", FIELD_FLAG, AT(spoke_image, standardise)},
    {"mean", FIELD_REALS, AT(spoke_image, mean)},
    {"std", FIELD_REALS, AT(spoke_image, std)},
};
static const struct field file_fields[] = {
    {"delimiter", FIELD_TEXT, AT(spoke_file_format, delimiter), .text_max = 3},
    {"header", FIELD_FLAG_P, AT(spoke_file_format, header)},
    {"missing", FIELD_TEXT, AT(spoke_file_format, missing), .text_max = 63},
};
static const struct field split_fields[] = {
    {"by", FIELD_CHOICE, AT(spoke_split_rule, by), .choices = split_bys, .required = true},
    {"key", FIELD_TEXT, AT(spoke_split_rule, key), .text_max = SPOKE_TEXT_LEN_MAX},
    {"fraction", FIELD_REAL, AT(spoke_split_rule, fraction)},
    {"val_fraction", FIELD_REAL, AT(spoke_split_rule, val_fraction)},
    {"fold", FIELD_UINT, AT(spoke_split_rule, fold)},
    {"train", FIELD_TEXT, AT(spoke_split_rule, train), .text_max = 63},
    {"val", FIELD_TEXT, AT(spoke_split_rule, val), .text_max = 63},
    {"test", FIELD_TEXT, AT(spoke_split_rule, test), .text_max = 63},
};

/* The top level: the schema's own scalars, and the nodes of its parts. */
struct top {
    struct spoke_schema schema;
    const struct tier_yaml_node *file, *image, *columns, *split;
};
static const struct field schema_fields[] = {
    {"name", FIELD_TEXT, AT(top, schema.name), .text_max = 63},
    {"kind", FIELD_CHOICE, AT(top, schema.kind), .choices = kinds},
    {"file", FIELD_NODE, AT(top, file)},
    {"image", FIELD_NODE, AT(top, image)},
    {"missing_rows", FIELD_CHOICE, AT(top, schema.missing_rows), .choices = missings},
    {"annotators", FIELD_CHOICE, AT(top, schema.annotators), .choices = annotators},
    {"codebook", FIELD_TEXT, AT(top, schema.codebook), .text_max = 1023},
    {"columns", FIELD_NODE, AT(top, columns), .required = true},
    {"split", FIELD_NODE, AT(top, split)}, /* required: a slip in a column is told first */
};

/* A code-book: category lists by column, in a file that sites share as it is. */
struct book_entry {
    char *name;
    char **categories;
    uint32_t categories_count;
};
static const struct field book_entry_fields[] = {
    {"name", FIELD_TEXT, AT(book_entry, name), .text_max = 63, .required = true},
    {"categories", FIELD_TEXTS, TEXTS(book_entry), .required = true},
};
static const struct field book_fields[] = {
    {"columns", FIELD_NODE, .at = 0, .required = true},
};

#define READER(file_path, name, table)                                                             \
    { .path = file_path, .what = name, .fields = table, .count = sizeof table / sizeof table[0] }

/* ---- reading ------------------------------------------------------------------------------- */

static size_t list_length(const struct tier_yaml_node *list) {
    size_t n = 0;
    for (const struct tier_yaml_node *item = list->child; item; item = item->next)
        n++;
    return n;
}

static enum tier_status read_columns(const char *path, const struct tier_yaml_node *list,
                                     struct spoke_schema *s, struct tier_err *err) {
    const struct reader r = READER(path, "a column", column_fields);
    size_t count = list_length(list);

    if (list->kind != TIER_YAML_LIST || count == 0 || count > SPOKE_COLUMNS_MAX)
        return tier_fail(err, TIER_ECONFIG, "%s:%d: columns must be a list of 1 to %u columns",
                         path, list->line, SPOKE_COLUMNS_MAX);
    s->columns = need(calloc(count, sizeof *s->columns));
    for (const struct tier_yaml_node *item = list->child; item; item = item->next) {
        struct spoke_column *c = &s->columns[s->columns_count++];
        c->line = item->line;
        TIER_TRY(read_map(&r, item, c, err));
    }
    return TIER_OK;
}

/* Moves the book's list into the column it is for; lists in the schema itself stay. */
static enum tier_status fill_from_entry(const char *book_path, int line,
                                        const struct spoke_schema *s, struct book_entry *e,
                                        struct tier_err *err) {
    for (uint32_t i = 0; i < s->columns_count; i++) {
        struct spoke_column *c = &s->columns[i];
        if (!c->name || !e->name || strcmp(c->name, e->name) != 0 ||
            (c->type != SPOKE_COLUMN_CATEGORY && c->type != SPOKE_COLUMN_TARGET &&
             c->type != SPOKE_COLUMN_MASK && c->type != SPOKE_COLUMN_EVENT))
            continue;
        if (c->categories)
            return tier_fail(err, TIER_ECONFIG,
                             "%s:%d: column '%s' has its categories in the schema or in an earlier "
                             "entry already: one place may list them",
                             book_path, line, c->name);
        c->categories = e->categories;
        c->categories_count = e->categories_count;
        e->categories = NULL;
        e->categories_count = 0;
    }
    return TIER_OK;
}

static void free_texts(char **texts, uint32_t count) {
    for (uint32_t i = 0; texts && i < count; i++)
        free(texts[i]);
    free(texts);
}

static enum tier_status read_book(const char *path, const struct spoke_schema *s,
                                  struct tier_err *err) {
    char book_path[2048];
    const struct reader top = READER(book_path, "the code-book", book_fields);
    const struct reader entry = READER(book_path, "an entry", book_entry_fields);
    const struct tier_yaml_node *columns = NULL;
    struct tier_yaml *doc = NULL;
    enum tier_status st = TIER_OK;

    if (!s->codebook)
        return TIER_OK;
    /* Relative to the schema, so that the two files can be moved together. */
    const char *slash = s->codebook[0] == '/' ? NULL : strrchr(path, '/');
    int dir = slash ? (int)(slash - path + 1) : 0;
    int n = snprintf(book_path, sizeof book_path, "%.*s%s", dir, path, s->codebook);
    if (n < 0 || (size_t)n >= sizeof book_path)
        return tier_fail(err, TIER_ECONFIG, "%s: codebook: the path is too long", path);
    TIER_TRY(tier_yaml_load(book_path, &doc, err));
    TIER_TRY_OUT(read_map(&top, tier_yaml_root(doc), &columns, err));
    for (const struct tier_yaml_node *item = columns->child; item; item = item->next) {
        struct book_entry e = {0};
        st = read_map(&entry, item, &e, err);
        if (st == TIER_OK)
            st = fill_from_entry(book_path, item->line, s, &e, err);
        free(e.name);
        free_texts(e.categories, e.categories_count);
        if (st != TIER_OK)
            goto out;
    }
out:
    tier_yaml_free(doc);
    return st;
}

static enum tier_status read_parts(const char *path, const struct top *top, struct spoke_schema *s,
                                   struct tier_err *err) {
    const struct reader file = READER(path, "file", file_fields);
    const struct reader image = READER(path, "image", image_fields);
    const struct reader split = READER(path, "split", split_fields);

    if (top->image) {
        s->image = need(calloc(1, sizeof *s->image));
        TIER_TRY(read_map(&image, top->image, s->image, err));
        s->image->channels += s->image->channels == 0;
    }
    if (top->file) {
        s->file = need(calloc(1, sizeof *s->file));
        TIER_TRY(read_map(&file, top->file, s->file, err));
    }
    TIER_TRY(read_columns(path, top->columns, s, err));
    if (!top->split)
        return tier_fail(err, TIER_ECONFIG,
                         "%s: the schema has no 'split': by: hash with key and fraction, or by: "
                         "column",
                         path);
    s->split = need(calloc(1, sizeof *s->split));
    TIER_TRY(read_map(&split, top->split, s->split, err));
    return read_book(path, s, err);
}

enum tier_status spoke_schema_read(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err) {
    const struct reader r = READER(path, "the schema", schema_fields);
    struct tier_yaml *doc = NULL;
    struct top top = {0};

    enum tier_status st = tier_yaml_load(path, &doc, err);
    if (st == TIER_EARG || st == TIER_ELIMIT)
        return err ? (err->status = TIER_ECONFIG) : TIER_ECONFIG;
    if (st != TIER_OK)
        return st;
    struct spoke_schema *s = need(calloc(1, sizeof *s));
    st = read_map(&r, tier_yaml_root(doc), &top, err);
    *s = top.schema;
    if (st == TIER_OK)
        st = read_parts(path, &top, s, err);
    tier_yaml_free(doc);
    if (st == TIER_OK)
        *schema_out = s;
    else
        spoke_schema_free(s);
    return st;
}

void spoke_schema_free(struct spoke_schema *s) {
    if (!s)
        return;
    for (uint32_t i = 0; i < s->columns_count; i++) {
        struct spoke_column *c = &s->columns[i];
        free_texts(c->categories, c->categories_count);
        free(c->name);
        free(c->unit);
        free(c->min);
        free(c->max);
        free(c->mean);
        free(c->std);
        free(c->positive_above);
        free(c->suffix);
        free(c->entities);
        free(c->datatype);
        free(c->derivative);
    }
    if (s->file) {
        free(s->file->delimiter);
        free(s->file->header);
        free(s->file->missing);
    }
    if (s->split) {
        free(s->split->key);
        free(s->split->fraction);
        free(s->split->val_fraction);
        free(s->split->train);
        free(s->split->val);
        free(s->split->test);
    }
    if (s->image) {
        free(s->image->modality);
        free(s->image->orientation);
        free(s->image->scale);
        free(s->image->offset);
        free(s->image->min);
        free(s->image->max);
    }
    free(s->columns);
    free(s->file);
    free(s->image);
    free(s->split);
    free(s->name);
    free(s->codebook);
    free(s);
}
