/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reason is a message without the place it was found at: the messages of this house hold no
 * values, so equal faults have equal texts, and need no list of their own here.
 */
#include "spoke/check.h"
#include "spoke/bids.h"
#include "spoke/dicom.h"

#include <ctype.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_names[SPOKE_PARTS] = {"train", "test", "val"};
static const enum spoke_part part_order[SPOKE_PARTS] = {SPOKE_TRAIN, SPOKE_VAL, SPOKE_TEST};

/* ---- refusals ------------------------------------------------------------------------------ */

/* A message without the names of files that are for this machine alone. */
static void without_names(const char *text, char *out, size_t size) {
    size_t n = 0;

    while (*text && n + 1 < size) {
        if (strncmp(text, SPOKE_DICOM_NAME, strlen(SPOKE_DICOM_NAME)) != 0) {
            out[n++] = *text++;
            continue;
        }
        const char *end = strstr(text, "')");
        text = end ? end + 2 : text + strlen(text);
    }
    out[n] = '\0';
}

/* "PATH:12: what" and "PATH: array 'x': row 3: what" to what a hundred others share. */
static void reason_of(const char *path, const char *text, char *out, size_t size) {
    size_t n = strlen(path);
    char bare[512]; /* as long as a message */

    if (strncmp(text, path, n) == 0 && text[n] == ':') {
        text += n + 1;
        text += strspn(text, "0123456789");
        text += strspn(text, ": ");
    }
    without_names(text, bare, sizeof bare);
    text = bare;
    const char *row = strstr(text, ": row ");
    size_t kept = row ? (size_t)(row - text) : strlen(text);
    const char *rest = row ? row + 6 + strspn(row + 6, "0123456789") : "";
    snprintf(out, size, "%.*s%s", (int)kept, text, rest);
}

struct watch {
    struct spoke_check *check;
    const char *path;
};

static void count_refusal(void *arg, const struct tier_err *err) {
    struct watch *w = arg;
    struct spoke_check *c = w->check;
    char text[sizeof c->reasons[0].text];
    size_t i = 0;

    if (c->lines)
        fprintf(c->lines, "%s\n", err->text);
    c->refused++;
    reason_of(w->path, err->text, text, sizeof text);
    while (i < c->reasons_count && strcmp(c->reasons[i].text, text) != 0)
        i++;
    if (i == SPOKE_CHECK_REASONS_MAX) {
        i--;
        snprintf(c->reasons[i].text, sizeof c->reasons[i].text, "other reasons");
    } else if (i == c->reasons_count) {
        c->reasons_count++;
        snprintf(c->reasons[i].text, sizeof c->reasons[i].text, "%s", text);
    }
    c->reasons[i].rows++;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Every pair of the masks of a row; `masks` has room for all. */
static enum tier_status compare_masks(struct spoke_check *c, enum spoke_part part, size_t row,
                                      int32_t *masks, struct tier_err *err) {
    size_t n = spoke_data_target_size(c->data), count = 0;

    for (size_t reader = 0; reader < c->agreement.readers; reader++) {
        bool there = false;
        TIER_TRY(spoke_data_read_mask(c->data, part, row, reader, masks + count * n, &there, err));
        count += there;
    }
    for (size_t a = 0; a < count; a++)
        for (size_t b = a + 1; b < count; b++)
            TIER_TRY(
                spoke_agreement_add_masks(&c->agreement, masks + a * n, masks + b * n, n, err));
    return TIER_OK;
}

static enum tier_status agree_on(struct spoke_check *c, enum spoke_part part, size_t row,
                                 int32_t *masks, struct tier_err *err) {
    const int32_t *votes = spoke_data_votes(c->data, part);

    if (c->agreement.readers == 0)
        return TIER_OK;
    if (!votes)
        return compare_masks(c, part, row, masks, err);
    spoke_agreement_add(&c->agreement, votes + row * c->agreement.readers);
    return TIER_OK;
}

static enum tier_status look_through(struct spoke_check *c, struct watch *w, enum spoke_part part,
                                     float *x, int32_t *labels, struct tier_err *err) {
    size_t target = spoke_data_target_size(c->data), rows = spoke_data_rows(c->data, part);

    for (int32_t row = 0; (size_t)row < rows; row++) {
        enum tier_status st = spoke_data_read(c->data, part, &row, 1, x, labels, err);
        if (st == TIER_EDATA || st == TIER_ELIMIT) {
            count_refusal(w, err);
            continue;
        }
        TIER_TRY(st);
        c->rows[part]++;
        TIER_TRY(agree_on(c, part, (size_t)row, labels + target, err));
        for (size_t i = 0; i < target; i++) {
            int32_t class = spoke_data_soft(c->data)
                                ? spoke_votes_majority(labels[i], spoke_data_classes(c->data))
                                : labels[i];
            c->classes[(size_t) class * SPOKE_PARTS + part]++;
        }
    }
    return TIER_OK;
}

enum tier_status spoke_check_data(const char *schema_path, const char *path, struct spoke_check *c,
                                  struct tier_err *err) {
    struct watch w = {.check = c, .path = path};
    struct spoke_data_options o = {
        .refused = count_refusal, .refused_arg = &w, .named = c->lines != NULL};
    float *x = NULL;
    int32_t *labels = NULL;
    enum tier_status st;

    TIER_TRY(spoke_data_open(schema_path, path, &o, &c->data, err));
    c->left_out = spoke_data_dropped(c->data);
    size_t classes = spoke_data_classes(c->data), target = spoke_data_target_size(c->data);
    x = malloc(spoke_data_features(c->data) * sizeof *x);
    size_t readers = spoke_data_readers(c->data);
    if (readers > 1)
        TIER_TRY_OUT(spoke_agreement_init(&c->agreement, readers, classes, err));
    /* What is learnt of a row, and what each reader says. */
    labels = calloc(1 + readers, (target ? target : 1) * sizeof *labels);
    c->classes = calloc((classes ? classes : 1) * SPOKE_PARTS, sizeof *c->classes);
    if (!x || !labels || !c->classes) {
        st = tier_fail(err, TIER_ENOMEM, "%s: no memory for a row", path);
        goto out;
    }
    for (int part = 0; part < SPOKE_PARTS; part++)
        TIER_TRY_OUT(look_through(c, &w, (enum spoke_part)part, x, labels, err));
    st = TIER_OK;
out:
    free(labels);
    free(x);
    return st;
}

void spoke_check_release(struct spoke_check *c) {
    spoke_data_free(c->data);
    free(c->classes);
    spoke_agreement_release(&c->agreement);
    *c = (struct spoke_check){0};
}

/* ---- small counts -------------------------------------------------------------------------- */

#define CELL_BYTES 24

static bool is_small(const struct spoke_check *c, uint64_t n) {
    return n > 0 && n < c->cells_min;
}

/* "17", "< 5". */
static const char *cell(const struct spoke_check *c, uint64_t n, char out[CELL_BYTES]) {
    if (is_small(c, n))
        snprintf(out, CELL_BYTES, "< %" PRIu64, c->cells_min);
    else
        snprintf(out, CELL_BYTES, "%" PRIu64, n);
    return out;
}

/* The same of a class of a part, or ">= 5" where it would give another one away. */
static const char *class_cell(const struct spoke_check *c, size_t class, enum spoke_part part,
                              char out[CELL_BYTES]) {
    uint64_t here = c->classes[class * SPOKE_PARTS + part];
    size_t small = 0, least = SIZE_MAX;

    for (size_t k = 0; k < spoke_data_classes(c->data); k++) {
        uint64_t n = c->classes[k * SPOKE_PARTS + part];
        small += is_small(c, n);
        if (n > 0 && !is_small(c, n) &&
            (least == SIZE_MAX || n < c->classes[least * SPOKE_PARTS + part]))
            least = k;
    }
    if (small != 1 || class != least)
        return cell(c, here, out);
    snprintf(out, CELL_BYTES, ">= %" PRIu64, c->cells_min);
    return out;
}

static json_t *cell_json(const struct spoke_check *c, uint64_t n) {
    char text[CELL_BYTES];
    return is_small(c, n) ? json_string(cell(c, n, text)) : json_integer((json_int_t)n);
}

/* ---- what is printed ----------------------------------------------------------------------- */

static const char *kind_name(const struct spoke_data *d) {
    static const char *const names[] = {"table", "npz", "images", "nifti", "dicom", "bids"};
    return names[spoke_data_schema(d)->kind];
}

/* NAN over so few rows that it would say who said what. */
static double kappa_told(const struct spoke_check *c) {
    return is_small(c, c->agreement.rows) ? (double)NAN : spoke_agreement_kappa(&c->agreement);
}

static void print_agreement(const struct spoke_check *c, FILE *out) {
    const struct spoke_agreement *a = &c->agreement;

    char text[CELL_BYTES];

    if (a->readers == 0)
        return;
    fprintf(out, "%zu annotators\n", a->readers);
    if (spoke_data_target(c->data) != SPOKE_TARGET_MASK) {
        if (is_small(c, a->equal) || is_small(c, a->pairs) || is_small(c, a->pairs - a->equal))
            fprintf(out, "  pairs of labels of one row: too few to be told\n");
        else
            fprintf(out,
                    "  pairs of labels of one row: %" PRIu64 ", equal: %" PRIu64 " (%.1f %%)\n",
                    a->pairs, a->equal,
                    a->pairs ? 100.0 * (double)a->equal / (double)a->pairs : (double)NAN);
        fprintf(out, "  %s kappa over %s rows of all: %.4f\n",
                a->readers == 2 ? "Cohen's" : "Fleiss'", cell(c, a->rows, text), kappa_told(c));
    }
    for (size_t k = 0; spoke_data_target(c->data) == SPOKE_TARGET_MASK && k < a->classes; k++)
        fprintf(out, "  Dice of %-22.22s %.4f over %" PRIu64 " pairs of masks\n",
                spoke_schema_class_name(spoke_data_schema(c->data), k), spoke_agreement_dice(a, k),
                a->dice_pairs[k]);
    fputc('\n', out);
}

static void print_text(const struct spoke_check *c, FILE *out) {
    const struct spoke_data *d = c->data;
    struct tier_hash hash;
    char hex[TIER_HASH_HEX], text[CELL_BYTES];

    if (d) {
        const struct spoke_schema *s = spoke_data_schema(d);
        struct spoke_shape shape = spoke_data_shape(d);
        spoke_schema_hash(s, &hash);
        fprintf(out, "contract %s, %.12s, %s of %zu", s->name ? s->name : "without a name",
                tier_hash_hex(&hash, hex), kind_name(d), shape.channels);
        for (size_t i = 0; i < shape.axes; i++)
            fprintf(out, " x %zu", shape.side[i]);
        fprintf(out, "\n\n%-32s %12s %12s %12s\n", "", "train", "val", "test");
        fprintf(out, "%-32s", "rows");
        for (int i = 0; i < SPOKE_PARTS; i++)
            fprintf(out, " %12s", cell(c, c->rows[part_order[i]], text));
        fputc('\n', out);
        for (size_t k = 0; k < spoke_data_classes(d); k++) {
            fprintf(out, "  %-30.30s", spoke_schema_class_name(spoke_data_schema(d), k));
            for (int i = 0; i < SPOKE_PARTS; i++)
                fprintf(out, " %12s", class_cell(c, k, part_order[i], text));
            fputc('\n', out);
        }
        if (spoke_data_target(d) == SPOKE_TARGET_MASK)
            fputs("(classes in pixels or voxels)\n", out);
        fputc('\n', out);
        print_agreement(c, out);
    }
    fprintf(out, "left out, a value missing: %" PRIu64 "\n", c->left_out);
    fprintf(out, "refused: %" PRIu64 "\n", c->refused);
    for (size_t i = 0; i < c->reasons_count; i++)
        fprintf(out, "%8" PRIu64 "  %s\n", c->reasons[i].rows, c->reasons[i].text);
}

static json_t *rows_json(const struct spoke_check *c) {
    json_t *o = json_object();
    for (int i = 0; i < SPOKE_PARTS; i++)
        json_object_set_new(o, part_names[part_order[i]], cell_json(c, c->rows[part_order[i]]));
    return o;
}

/* A number, or a text where it is not told. */
static json_t *class_json(const struct spoke_check *c, size_t class) {
    json_t *o = json_object();
    for (int i = 0; i < SPOKE_PARTS; i++) {
        enum spoke_part part = part_order[i];
        char text[CELL_BYTES];
        bool told = isdigit((unsigned char)class_cell(c, class, part, text)[0]);
        json_object_set_new(o, part_names[part],
                            told ? json_integer((json_int_t)c->classes[class * SPOKE_PARTS + part])
                                 : json_string(text));
    }
    return o;
}

static json_t *defined(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *agreement_json(const struct spoke_check *c) {
    const struct spoke_agreement *a = &c->agreement;
    json_t *o = json_object(), *dice = json_array();
    bool masks = spoke_data_target(c->data) == SPOKE_TARGET_MASK;

    json_object_set_new(o, "annotators", json_integer((json_int_t)a->readers));
    if (!masks) {
        bool few = is_small(c, a->equal) || is_small(c, a->pairs - a->equal);
        json_object_set_new(o, "pairs", few ? json_null() : cell_json(c, a->pairs));
        json_object_set_new(o, "equal", few ? json_null() : cell_json(c, a->equal));
        json_object_set_new(o, "rows_of_all", cell_json(c, a->rows));
        json_object_set_new(o, "kappa", defined(kappa_told(c)));
    }
    for (size_t k = 0; masks && k < a->classes; k++)
        json_array_append_new(dice,
                              json_pack("{s:s,s:o,s:I}", "name",
                                        spoke_schema_class_name(spoke_data_schema(c->data), k),
                                        "dice", defined(spoke_agreement_dice(a, k)), "pairs",
                                        (json_int_t)a->dice_pairs[k]));
    if (masks)
        json_object_set(o, "dice", dice);
    json_decref(dice);
    return o;
}

static void print_json(const struct spoke_check *c, FILE *out) {
    const struct spoke_data *d = c->data;
    json_t *o = json_object(), *classes = json_array(), *reasons = json_array();
    struct tier_hash hash;
    char hex[TIER_HASH_HEX];

    if (d) {
        const struct spoke_schema *s = spoke_data_schema(d);
        struct spoke_shape shape = spoke_data_shape(d);
        json_t *sides = json_array();
        spoke_schema_hash(s, &hash);
        json_array_append_new(sides, json_integer((json_int_t)shape.channels));
        for (size_t i = 0; i < shape.axes; i++)
            json_array_append_new(sides, json_integer((json_int_t)shape.side[i]));
        json_object_set_new(o, "contract", s->name ? json_string(s->name) : json_null());
        json_object_set_new(o, "schema_sha256", json_string(tier_hash_hex(&hash, hex)));
        json_object_set_new(o, "kind", json_string(kind_name(d)));
        json_object_set_new(o, "shape", sides);
        json_object_set_new(o, "rows", rows_json(c));
        for (size_t k = 0; k < spoke_data_classes(d); k++)
            json_array_append_new(classes,
                                  json_pack("{s:s,s:o}", "name",
                                            spoke_schema_class_name(spoke_data_schema(d), k),
                                            "count", class_json(c, k)));
    }
    for (size_t i = 0; i < c->reasons_count; i++)
        json_array_append_new(reasons, json_pack("{s:s,s:I}", "reason", c->reasons[i].text, "rows",
                                                 (json_int_t)c->reasons[i].rows));
    if (c->agreement.readers)
        json_object_set_new(o, "agreement", agreement_json(c));
    json_object_set_new(o, "classes", classes);
    json_object_set_new(o, "left_out", json_integer((json_int_t)c->left_out));
    json_object_set_new(o, "refused", json_integer((json_int_t)c->refused));
    json_object_set_new(o, "reasons", reasons);
    json_dumpf(o, out, JSON_COMPACT);
    fputc('\n', out);
    json_decref(o);
}

/* ---- the command --------------------------------------------------------------------------- */

static const char usage[] =
    "Usage: consilium-spoke check-data [--json] [--lines] [--table] [--cells-min N] SCHEMA DATA\n\n"
    "Reads all of a hospital's data under its schema and prints counts alone: rows and classes by\n"
    "part, and refused rows by reason. DATA is what the schema's kind says: a table, a table that\n"
    "names images, an .npz file or a folder of .npy files. With --lines each refusal is told on\n"
    "stderr with its file, line and column, and the files of DICOM series by name. Counts of rows\n"
    "below N (5; 1: none) are told as \"< N\". With --table the rows that a BIDS folder has are\n"
    "printed instead, as the table by whose lines they are counted. Exits with 1 where a row was "
    "refused. Nothing leaves\n"
    "this machine, and no network is used.\n";

static int print_table(const char *schema_path, const char *root, FILE *out, FILE *errors) {
    struct spoke_schema *schema = NULL;
    struct tier_err err = {0};
    enum tier_status st = spoke_schema_open(schema_path, &schema, &err);

    if (st == TIER_OK && schema->kind != SPOKE_KIND_BIDS)
        st = tier_fail(&err, TIER_ECONFIG, "%s: --table is for kind: bids", schema_path);
    if (st == TIER_OK)
        st = spoke_bids_table(schema, root, true, true, out, &err);
    if (st != TIER_OK)
        fprintf(errors, "consilium-spoke: %s\n", err.text);
    spoke_schema_free(schema);
    return st != TIER_OK;
}

int spoke_check_main(int argc, char **argv, FILE *out, FILE *errors) {
    static const struct option longs[] = {
        {"json", no_argument, NULL, 'j'},  {"lines", no_argument, NULL, 'l'},
        {"table", no_argument, NULL, 't'}, {"cells-min", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},  {NULL, 0, NULL, 0}};
    struct spoke_check *c = NULL;
    struct tier_err err = {0};
    bool json = false, lines = false, table = false;
    long cells_min = SPOKE_CHECK_CELLS_MIN;
    char *end = NULL;
    int option;

    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        json = json || option == 'j';
        lines = lines || option == 'l';
        table = table || option == 't';
        if (option == 'c') {
            cells_min = strtol(optarg, &end, 10);
            if (end == optarg || *end || cells_min < 1 || cells_min > 1000000)
                option = '?';
        }
        if (option == 'h' || option == '?') {
            fputs(usage, option == 'h' ? out : errors);
            return option == 'h' ? 0 : 2;
        }
    }
    if (argc - optind != 2) {
        fputs(usage, errors);
        return 2;
    }
    if (table)
        return print_table(argv[optind], argv[optind + 1], out, errors);
    c = calloc(1, sizeof *c);
    if (!c) {
        fputs("consilium-spoke: no memory\n", errors);
        return 1;
    }
    c->lines = lines ? errors : NULL;
    c->cells_min = (uint64_t)cells_min;
    enum tier_status st = spoke_check_data(argv[optind], argv[optind + 1], c, &err);
    if (st != TIER_OK)
        fprintf(errors, "consilium-spoke: %s\n", err.text);
    if (st == TIER_OK || c->refused)
        (json ? print_json : print_text)(c, out);
    bool failed = st != TIER_OK || c->refused > 0;
    spoke_check_release(c);
    free(c);
    return failed;
}
