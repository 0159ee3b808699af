/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcyaml maps the file onto struct spoke_schema and refuses unknown keys; its log callback is the
 * only place where it says where, so the first message and the innermost position are taken from
 * there. Malformed YAML has no position there, and is scanned once more by libyaml, which has.
 */
#include "spoke/schema.h"

#include <cyaml/cyaml.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* ---- the shape of the file ----------------------------------------------------------------- */

#define OPT CYAML_FLAG_OPTIONAL
#define OPT_PTR (CYAML_FLAG_OPTIONAL | CYAML_FLAG_POINTER)
#define OPT_ENUM (CYAML_FLAG_OPTIONAL | CYAML_FLAG_STRICT)

static const cyaml_strval_t column_types[] = {
    {"number", SPOKE_COLUMN_NUMBER}, {"category", SPOKE_COLUMN_CATEGORY},
    {"target", SPOKE_COLUMN_TARGET}, {"id", SPOKE_COLUMN_ID},
    {"split", SPOKE_COLUMN_SPLIT},   {"ignore", SPOKE_COLUMN_IGNORE},
};
static const cyaml_strval_t encodes[] = {{"one_hot", SPOKE_ENCODE_ONE_HOT},
                                         {"index", SPOKE_ENCODE_INDEX}};
static const cyaml_strval_t missings[] = {{"error", SPOKE_MISSING_ERROR},
                                          {"drop", SPOKE_MISSING_DROP}};
static const cyaml_strval_t split_bys[] = {{"hash", SPOKE_SPLIT_HASH},
                                           {"column", SPOKE_SPLIT_COLUMN}};

static const cyaml_schema_value_t text_value = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, SPOKE_TEXT_LEN_MAX)};

static const cyaml_schema_field_t column_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct spoke_column, name, 1, 63),
    CYAML_FIELD_ENUM("type", CYAML_FLAG_STRICT, struct spoke_column, type, column_types, 6),
    CYAML_FIELD_ENUM("encode", OPT_ENUM, struct spoke_column, encode, encodes, 2),
    CYAML_FIELD_FLOAT_PTR("min", OPT_PTR, struct spoke_column, min),
    CYAML_FIELD_FLOAT_PTR("max", OPT_PTR, struct spoke_column, max),
    CYAML_FIELD_FLOAT_PTR("mean", OPT_PTR, struct spoke_column, mean),
    CYAML_FIELD_FLOAT_PTR("std", OPT_PTR, struct spoke_column, std),
    CYAML_FIELD_BOOL("standardise", OPT, struct spoke_column, standardise),
    CYAML_FIELD_BOOL("drop_first", OPT, struct spoke_column, drop_first),
    CYAML_FIELD_SEQUENCE("categories", OPT_PTR, struct spoke_column, categories, &text_value, 1,
                         SPOKE_CATEGORIES_MAX),
    CYAML_FIELD_FLOAT_PTR("positive_above", OPT_PTR, struct spoke_column, positive_above),
    CYAML_FIELD_END};
static const cyaml_schema_value_t column_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct spoke_column, column_fields)};

static const cyaml_schema_field_t file_fields[] = {
    CYAML_FIELD_STRING_PTR("delimiter", OPT_PTR, struct spoke_file_format, delimiter, 1, 3),
    CYAML_FIELD_BOOL_PTR("header", OPT_PTR, struct spoke_file_format, header),
    CYAML_FIELD_STRING_PTR("missing", OPT_PTR, struct spoke_file_format, missing, 1, 63),
    CYAML_FIELD_END};
static const cyaml_schema_field_t split_fields[] = {
    CYAML_FIELD_ENUM("by", CYAML_FLAG_STRICT, struct spoke_split_rule, by, split_bys, 2),
    CYAML_FIELD_STRING_PTR("key", OPT_PTR, struct spoke_split_rule, key, 0, SPOKE_TEXT_LEN_MAX),
    CYAML_FIELD_FLOAT_PTR("fraction", OPT_PTR, struct spoke_split_rule, fraction),
    CYAML_FIELD_UINT("fold", OPT, struct spoke_split_rule, fold), CYAML_FIELD_END};

static const cyaml_schema_field_t schema_fields[] = {
    CYAML_FIELD_STRING_PTR("name", OPT_PTR, struct spoke_schema, name, 1, 63),
    CYAML_FIELD_MAPPING_PTR("file", OPT_PTR, struct spoke_schema, file, file_fields),
    CYAML_FIELD_ENUM("missing_rows", OPT_ENUM, struct spoke_schema, missing_rows, missings, 2),
    CYAML_FIELD_STRING_PTR("codebook", OPT_PTR, struct spoke_schema, codebook, 1, 1023),
    CYAML_FIELD_SEQUENCE("columns", CYAML_FLAG_POINTER, struct spoke_schema, columns, &column_value,
                         1, SPOKE_COLUMNS_MAX),
    CYAML_FIELD_MAPPING_PTR("split", CYAML_FLAG_POINTER, struct spoke_schema, split, split_fields),
    CYAML_FIELD_END};
static const cyaml_schema_value_t schema_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct spoke_schema, schema_fields)};

/* A code-book: category lists by column, in a file that sites share as it is. */
struct book_entry {
    char *name;
    char **categories;
    uint32_t categories_count;
};
struct book {
    struct book_entry *columns;
    uint32_t columns_count;
};
static const cyaml_schema_field_t book_entry_fields[] = {
    CYAML_FIELD_STRING_PTR("name", CYAML_FLAG_POINTER, struct book_entry, name, 1, 63),
    CYAML_FIELD_SEQUENCE("categories", CYAML_FLAG_POINTER, struct book_entry, categories,
                         &text_value, 1, SPOKE_CATEGORIES_MAX),
    CYAML_FIELD_END};
static const cyaml_schema_value_t book_entry_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct book_entry, book_entry_fields)};
static const cyaml_schema_field_t book_fields[] = {
    CYAML_FIELD_SEQUENCE("columns", CYAML_FLAG_POINTER, struct book, columns, &book_entry_value, 1,
                         SPOKE_COLUMNS_MAX),
    CYAML_FIELD_END};
static const cyaml_schema_value_t book_value = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct book, book_fields)};

/* ---- reading YAML -------------------------------------------------------------------------- */

struct yaml_fault {
    char text[160];  /* libcyaml's first message */
    char where[160]; /* the innermost position, "in mapping field 'min' (line: 3, column: 19)" */
    char outer[64];  /* the outermost field */
    bool in_trace;
};

static void yaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list args) {
    struct yaml_fault *fault = ctx;
    char line[256];

    if (level < CYAML_LOG_ERROR)
        return;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\r\n")] = '\0';
    const char *text = line;
    if (strncmp(text, "Load: ", 6) == 0)
        text += 6;
    if (strncmp(text, "Backtrace", 9) == 0) {
        fault->in_trace = true;
    } else if (!fault->in_trace) {
        if (!fault->text[0])
            snprintf(fault->text, sizeof fault->text, "%.150s", text);
    } else {
        if (!fault->where[0])
            snprintf(fault->where, sizeof fault->where, "%.150s", text);
        const char *quote = strstr(text, "field '");
        if (quote)
            snprintf(fault->outer, sizeof fault->outer, "%.60s", quote + strlen("field '"));
    }
}

struct yaml_place {
    const char *problem; /* a constant of libyaml's; NULL where the text is YAML */
    size_t line, column; /* from 1; of the problem, or of the key looked for; 0: not found */
};

static bool is_key(const yaml_event_t *event, const char *key) {
    return event->type == YAML_SCALAR_EVENT && event->data.scalar.length == strlen(key) &&
           memcmp(event->data.scalar.value, key, event->data.scalar.length) == 0;
}

/*
 * Scans the text as libyaml sees it, up to its end or problem, for the first scalar `key` that
 * stands after the given position: libcyaml knows only where the value before an unknown key
 * stands.
 */
static struct yaml_place yaml_scan(const uint8_t *bytes, size_t len, const char *key, size_t line,
                                   size_t column) {
    struct yaml_place place = {0};
    yaml_parser_t parser;
    yaml_event_t event;
    bool end = false;

    if (!yaml_parser_initialize(&parser))
        return place;
    yaml_parser_set_input_string(&parser, bytes, len);
    while (!end) {
        if (!yaml_parser_parse(&parser, &event)) {
            place.problem = parser.problem ? parser.problem : "it cannot be read";
            place.line = parser.problem_mark.line + 1;
            place.column = parser.problem_mark.column + 1;
            break;
        }
        size_t at = event.start_mark.line + 1, across = event.start_mark.column + 1;
        if (!place.line && is_key(&event, key) && (at > line || (at == line && across > column))) {
            place.line = at;
            place.column = across;
        }
        end = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return place;
}

/* What would be right, for the field or mapping a fault is in. */
static const char *yaml_hint(const struct yaml_fault *fault) {
    static const struct {
        const char *field, *hint;
    } words[] = {
        {"'type'", "; one of number, category, target, id, split, ignore"},
        {"'by'", "; hash or column"},
        {"'encode'", "; one_hot or index"},
        {"'missing_rows'", "; error or drop"},
    };

    if (strstr(fault->text, "nexpected key")) {
        if (strncmp(fault->outer, "columns'", 8) == 0)
            return "; keys of a column: name, type, min, max, standardise, mean, std, categories, "
                   "encode, drop_first, positive_above";
        if (strncmp(fault->outer, "file'", 5) == 0)
            return "; keys of file: delimiter, header, missing";
        if (strncmp(fault->outer, "split'", 6) == 0)
            return "; keys of split: by, key, fraction, fold";
        return "; keys: name, file, missing_rows, codebook, columns, split";
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strstr(fault->text, "nvalid") && strstr(fault->where, words[i].field))
            return words[i].hint;
    return "";
}

static enum tier_status yaml_fail(const char *path, const uint8_t *bytes, size_t len,
                                  const struct yaml_fault *fault, cyaml_err_t code,
                                  struct tier_err *err) {
    const char *text = fault->text[0] ? fault->text : cyaml_strerror(code);
    const char *mark = strstr(fault->where, "(line: "), *key = "";
    size_t line = 0, column = 0;

    if (mark) {
        char *end;
        line = strtoul(mark + strlen("(line: "), &end, 10);
        if (strncmp(end, ", column: ", 10) == 0)
            column = strtoul(end + 10, NULL, 10);
    }
    if (strstr(text, "key: "))
        key = strstr(text, "key: ") + strlen("key: ");
    else if (strstr(text, "already seen: "))
        key = strstr(text, "already seen: ") + strlen("already seen: ");
    struct yaml_place place = yaml_scan(bytes, len, key, line, column);
    if (place.problem)
        return tier_fail(err, TIER_ECONFIG, "%s:%zu:%zu: this is not YAML: %s", path, place.line,
                         place.column, place.problem);
    if (*key && place.line) {
        line = place.line;
        column = place.column;
    }
    if (line)
        return tier_fail(err, TIER_ECONFIG, "%s:%zu:%zu: %s%s", path, line, column, text,
                         yaml_hint(fault));
    return tier_fail(err, TIER_ECONFIG, "%s: %s%s", path, text, yaml_hint(fault));
}

static enum tier_status read_text(const char *path, uint8_t **bytes_out, size_t *len_out,
                                  struct tier_err *err) {
    enum tier_status st = TIER_OK;
    FILE *f = fopen(path, "rb");
    uint8_t *bytes = NULL;

    if (!f)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO,
                               "%s: cannot be read", path);
    bytes = malloc(SPOKE_SCHEMA_BYTES_MAX + 1);
    if (!bytes) {
        st = tier_fail(err, TIER_ENOMEM, "%s: no memory to read it", path);
        goto out;
    }
    size_t len = fread(bytes, 1, SPOKE_SCHEMA_BYTES_MAX + 1, f);
    if (ferror(f)) {
        st = tier_fail_errno(err, TIER_EIO, "%s: cannot be read", path);
        goto out;
    }
    if (len > SPOKE_SCHEMA_BYTES_MAX) {
        st = tier_fail(err, TIER_ELIMIT, "%s: longer than %u bytes", path, SPOKE_SCHEMA_BYTES_MAX);
        goto out;
    }
    *bytes_out = bytes;
    *len_out = len;
    bytes = NULL;
out:
    free(bytes);
    fclose(f);
    return st;
}

static cyaml_config_t yaml_config(struct yaml_fault *fault) {
    return (cyaml_config_t){.log_fn = yaml_log,
                            .log_ctx = fault,
                            .log_level = CYAML_LOG_ERROR,
                            .mem_fn = cyaml_mem,
                            .flags = CYAML_CFG_NO_ALIAS}; /* aliases can grow without bound */
}

static enum tier_status yaml_load(const char *path, const cyaml_schema_value_t *shape, void **out,
                                  struct tier_err *err) {
    struct yaml_fault fault = {0};
    cyaml_config_t config = yaml_config(&fault);
    uint8_t *bytes = NULL;
    size_t len = 0;
    enum tier_status st = TIER_OK;
    cyaml_data_t *data = NULL;

    TIER_TRY(read_text(path, &bytes, &len, err));
    cyaml_err_t code = cyaml_load_data(bytes, len, &config, shape, &data, NULL);
    if (code != CYAML_OK)
        st = yaml_fail(path, bytes, len, &fault, code, err);
    else if (!data)
        st = tier_fail(err, TIER_ECONFIG, "%s: the file is empty", path);
    else
        *out = data;
    free(bytes);
    return st;
}

static void yaml_free(const cyaml_schema_value_t *shape, void *data) {
    struct yaml_fault fault = {0};
    cyaml_config_t config = yaml_config(&fault);
    if (data)
        cyaml_free(&config, shape, data, 0);
}

/* ---- what YAML cannot say ------------------------------------------------------------------ */

static bool text_ok(const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static enum tier_status check_categories(const char *path, const struct spoke_column *c,
                                         struct tier_err *err) {
    for (uint32_t i = 0; c->categories && i < c->categories_count; i++) {
        if (!text_ok(c->categories[i]))
            return tier_fail(err, TIER_ECONFIG,
                             "%s: column '%s': category %u holds a control character", path,
                             c->name, i + 1);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->categories[i], c->categories[j]) == 0)
                return tier_fail(err, TIER_ECONFIG,
                                 "%s: column '%s': category '%.64s' is listed twice", path, c->name,
                                 c->categories[i]);
    }
    return TIER_OK;
}

/* Keys that mean nothing for the column's type are refused rather than ignored. */
static enum tier_status check_keys(const char *path, const struct spoke_column *c,
                                   struct tier_err *err) {
    bool number = c->type == SPOKE_COLUMN_NUMBER, category = c->type == SPOKE_COLUMN_CATEGORY;
    bool target = c->type == SPOKE_COLUMN_TARGET;
    const char *extra = NULL;

    if ((c->min || c->max) && !number)
        extra = "min and max belong to numbers";
    else if ((c->mean || c->std) && (!number || !c->standardise || !c->mean || !c->std))
        extra = "mean and std go together, with standardise: true, and belong to numbers";
    else if (c->mean && (!isfinite(*c->mean) || !isfinite(*c->std) || !(*c->std > 0.0)))
        extra = "mean must be finite, and std finite and above 0";
    else if (c->standardise && !number && !category)
        extra = "standardise belongs to numbers and categories";
    else if ((c->drop_first || c->encode != SPOKE_ENCODE_ONE_HOT) && !category)
        extra = "encode and drop_first belong to categories";
    else if (c->drop_first && c->encode != SPOKE_ENCODE_ONE_HOT)
        extra = "drop_first needs encode: one_hot";
    else if (c->categories && !category && !target)
        extra = "categories belong to a category or the target";
    else if (c->positive_above && !target)
        extra = "positive_above belongs to the target";
    else if (number && ((c->min && !isfinite(*c->min)) || (c->max && !isfinite(*c->max)) ||
                        (c->min && c->max && *c->min > *c->max)))
        extra = "min and max must be finite, and min at most max";
    else if (category && !c->categories)
        extra = "a category needs its list of categories, here or in the code-book";
    else if (category && c->drop_first && c->categories_count < 2)
        extra = "drop_first leaves no feature of a single category";
    else if (target && (c->positive_above != NULL) == (c->categories != NULL))
        extra = "the target needs either positive_above or categories";
    else if (target && c->categories && c->categories_count < 2)
        extra = "the target needs at least two categories";
    else if (target && c->positive_above && !isfinite(*c->positive_above))
        extra = "positive_above must be finite";
    if (extra)
        return tier_fail(err, TIER_ECONFIG, "%s: column '%s': %s", path, c->name, extra);
    return check_categories(path, c, err);
}

static enum tier_status check_columns(const char *path, const struct spoke_schema *s,
                                      struct tier_err *err) {
    size_t count[SPOKE_COLUMN_IGNORE + 1] = {0};

    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        if (!text_ok(c->name))
            return tier_fail(err, TIER_ECONFIG, "%s: column %u: the name holds a control character",
                             path, i + 1);
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(c->name, s->columns[j].name) == 0)
                return tier_fail(err, TIER_ECONFIG, "%s: column '%s' is listed twice", path,
                                 c->name);
        TIER_TRY(check_keys(path, c, err));
        count[c->type]++;
    }
    if (count[SPOKE_COLUMN_TARGET] != 1)
        return tier_fail(err, TIER_ECONFIG, "%s: %zu columns are the target: exactly one must be",
                         path, count[SPOKE_COLUMN_TARGET]);
    if (count[SPOKE_COLUMN_ID] > 1 || count[SPOKE_COLUMN_SPLIT] > 1)
        return tier_fail(err, TIER_ECONFIG, "%s: two columns have the type %s: one may", path,
                         count[SPOKE_COLUMN_ID] > 1 ? "id" : "split");
    size_t features = spoke_schema_features(s);
    if (features == 0 || features > SPOKE_FEATURES_MAX)
        return tier_fail(err, TIER_ECONFIG, "%s: the columns make %zu features: 1 to %u may be",
                         path, features, SPOKE_FEATURES_MAX);
    return TIER_OK;
}

static enum tier_status check_file(const char *path, const struct spoke_schema *s,
                                   struct tier_err *err) {
    const char *d = s->file ? s->file->delimiter : NULL;

    if (d && strcmp(d, "tab") != 0 && (strlen(d) != 1 || !strchr(",;|:\t ", d[0])))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: file: delimiter must be one of , ; | : a space or the word tab",
                         path);
    return TIER_OK;
}

static enum tier_status check_split(const char *path, const struct spoke_schema *s,
                                    struct tier_err *err) {
    const struct spoke_split_rule *r = s->split;

    if (r->by == SPOKE_SPLIT_COLUMN && !spoke_schema_only(s, SPOKE_COLUMN_SPLIT))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: column needs a column of type split, which holds train "
                         "or test",
                         path);
    if (r->by == SPOKE_SPLIT_HASH && (!r->key || !r->fraction))
        return tier_fail(err, TIER_ECONFIG, "%s: split: by: hash needs key and fraction", path);
    if (r->by == SPOKE_SPLIT_HASH && !spoke_schema_only(s, SPOKE_COLUMN_ID))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: by: hash needs a column of type id (the patient)", path);
    if (r->key && strlen(r->key) < 8)
        return tier_fail(err, TIER_ECONFIG, "%s: split: key must be at least 8 bytes", path);
    if (r->fraction && !(*r->fraction > 0.0 && *r->fraction < 1.0))
        return tier_fail(err, TIER_ECONFIG,
                         "%s: split: fraction is the share of test rows, between 0 and 1", path);
    return TIER_OK;
}

/* ---- the code-book ------------------------------------------------------------------------- */

/* Moves the book's list into the column it is for; lists in the schema itself stay. */
static enum tier_status fill_from_book(const char *book_path, const struct spoke_schema *s,
                                       struct book *book, struct tier_err *err) {
    for (uint32_t b = 0; b < book->columns_count; b++) {
        struct book_entry *e = &book->columns[b];
        for (uint32_t i = 0; i < s->columns_count; i++) {
            struct spoke_column *c = &s->columns[i];
            if (strcmp(c->name, e->name) != 0 ||
                (c->type != SPOKE_COLUMN_CATEGORY && c->type != SPOKE_COLUMN_TARGET))
                continue;
            if (c->categories)
                return tier_fail(err, TIER_ECONFIG,
                                 "%s: column '%s' has its categories in the schema or in an "
                                 "earlier entry already: one place may list them",
                                 book_path, c->name);
            c->categories = e->categories;
            c->categories_count = e->categories_count;
            e->categories = NULL;
            e->categories_count = 0;
        }
    }
    return TIER_OK;
}

static enum tier_status read_book(const char *path, const struct spoke_schema *s,
                                  struct tier_err *err) {
    char book_path[2048];
    struct book *book = NULL;
    void *loaded = NULL;

    if (!s->codebook)
        return TIER_OK;
    /* Relative to the schema, so that the two files can be moved together. */
    const char *slash = s->codebook[0] == '/' ? NULL : strrchr(path, '/');
    int dir = slash ? (int)(slash - path + 1) : 0;
    int n = snprintf(book_path, sizeof book_path, "%.*s%s", dir, path, s->codebook);
    if (n < 0 || (size_t)n >= sizeof book_path)
        return tier_fail(err, TIER_ECONFIG, "%s: codebook: the path is too long", path);
    TIER_TRY(yaml_load(book_path, &book_value, &loaded, err));
    book = loaded;
    enum tier_status st = fill_from_book(book_path, s, book, err);
    yaml_free(&book_value, book);
    return st;
}

/* ---- public -------------------------------------------------------------------------------- */

enum tier_status spoke_schema_open(const char *path, struct spoke_schema **schema_out,
                                   struct tier_err *err) {
    enum tier_status st;
    void *loaded = NULL;
    struct spoke_schema *s = NULL;

    TIER_TRY(yaml_load(path, &schema_value, &loaded, err));
    s = loaded;
    TIER_TRY_OUT(read_book(path, s, err));
    TIER_TRY_OUT(check_file(path, s, err));
    TIER_TRY_OUT(check_columns(path, s, err));
    TIER_TRY_OUT(check_split(path, s, err));
    *schema_out = s;
    return TIER_OK;
out:
    spoke_schema_free(s);
    return st;
}

void spoke_schema_free(struct spoke_schema *schema) {
    yaml_free(&schema_value, schema);
}

size_t spoke_column_features(const struct spoke_column *c) {
    if (c->type == SPOKE_COLUMN_NUMBER)
        return 1;
    if (c->type != SPOKE_COLUMN_CATEGORY)
        return 0;
    return c->encode == SPOKE_ENCODE_INDEX ? 1 : c->categories_count - (c->drop_first ? 1u : 0u);
}

size_t spoke_schema_features(const struct spoke_schema *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->columns_count; i++)
        n += spoke_column_features(&s->columns[i]);
    return n;
}

size_t spoke_schema_classes(const struct spoke_schema *s) {
    const struct spoke_column *target = spoke_schema_only(s, SPOKE_COLUMN_TARGET);
    return target->positive_above ? 2 : target->categories_count;
}

void spoke_schema_feature_name(const struct spoke_schema *s, size_t feature, char *name,
                               size_t size) {
    for (uint32_t i = 0; i < s->columns_count; i++) {
        const struct spoke_column *c = &s->columns[i];
        size_t n = spoke_column_features(c);
        if (feature >= n) {
            feature -= n;
            continue;
        }
        if (c->type == SPOKE_COLUMN_CATEGORY && c->encode == SPOKE_ENCODE_ONE_HOT)
            snprintf(name, size, "%s=%s", c->name, c->categories[feature + c->drop_first]);
        else
            snprintf(name, size, "%s", c->name);
        return;
    }
    snprintf(name, size, "?");
}

const struct spoke_column *spoke_schema_only(const struct spoke_schema *s,
                                             enum spoke_column_type type) {
    for (uint32_t i = 0; i < s->columns_count; i++)
        if (s->columns[i].type == type)
            return &s->columns[i];
    return NULL;
}

char spoke_schema_delimiter(const struct spoke_schema *s) {
    const char *d = s->file ? s->file->delimiter : NULL;
    if (!d)
        return ',';
    return strcmp(d, "tab") == 0 ? '\t' : d[0];
}

/* Strings with their terminator, so that no two lists of strings look alike. */
static void hash_text(struct tier_hasher *h, const char *text) {
    tier_hasher_add(h, text ? text : "", text ? strlen(text) + 1 : 1);
}

static void hash_number(struct tier_hasher *h, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    hash_text(h, text);
}

static void hash_column(struct tier_hasher *h, const struct spoke_column *c) {
    hash_text(h, c->name);
    hash_number(h, c->type);
    hash_number(h, c->encode);
    hash_number(h, c->drop_first);
    hash_number(h, c->standardise);
    hash_number(h, c->mean ? *c->mean : 0.0);
    hash_number(h, c->std ? *c->std : 0.0);
    hash_number(h, c->categories_count);
    for (uint32_t j = 0; j < c->categories_count; j++)
        hash_text(h, c->categories[j]);
    hash_number(h, c->positive_above ? *c->positive_above : 0.0);
}

void spoke_schema_hash(const struct spoke_schema *s, struct tier_hash *hash_out) {
    struct tier_hasher *h = tier_hasher_new();

    hash_text(h, "consilium schema 1");
    for (uint32_t i = 0; i < s->columns_count; i++)
        if (spoke_column_features(&s->columns[i]) > 0 || s->columns[i].type == SPOKE_COLUMN_TARGET)
            hash_column(h, &s->columns[i]);
    hash_text(h, "split");
    hash_number(h, s->split->by);
    hash_text(h, s->split->key);
    hash_number(h, s->split->fraction ? *s->split->fraction : 0.0);
    hash_number(h, s->split->fold);
    tier_hasher_finish(h, hash_out);
    tier_hasher_free(h);
}
