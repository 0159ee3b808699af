/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/bids.h"
#include "spoke/csv.h"
#include "spoke/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS_MAX 32
#define NAME_MAX_BYTES 256

/* ---- names --------------------------------------------------------------------------------- */

/* "sub-01_run-1_T1w.nii.gz" as sub-01, run-1, T1w: entities, and the suffix last. */
struct name {
    char text[NAME_MAX_BYTES];
    const char *token[TOKENS_MAX];
    size_t n;
};

/* Splits at '_'; false where it is too long. */
static bool split(const char *text, size_t length, struct name *out) {
    if (length == 0 || length >= sizeof out->text)
        return false;
    memcpy(out->text, text, length);
    out->text[length] = '\0';
    out->n = 0;
    for (char *at = out->text, *next; at; at = next) {
        next = strchr(at, '_');
        if (next)
            *next++ = '\0';
        if (out->n == TOKENS_MAX)
            return false;
        out->token[out->n++] = at;
    }
    return true;
}

static bool split_file(const char *file, struct name *out) {
    size_t n = strlen(file);

    if (n > 7 && strcmp(file + n - 7, ".nii.gz") == 0)
        return split(file, n - 7, out);
    return n > 4 && strcmp(file + n - 4, ".nii") == 0 && split(file, n - 4, out);
}

/* Whether the name has that suffix, and each of the entities ("run-1_acq-iso") of the column. */
static bool is_of_column(const struct name *name, const struct spoke_column *c) {
    struct name wanted = {.n = 0};

    if (strcmp(name->token[name->n - 1], c->suffix) != 0)
        return false;
    if (c->entities && !split(c->entities, strlen(c->entities), &wanted))
        return false;
    for (size_t i = 0; i < wanted.n; i++) {
        bool there = false;
        for (size_t k = 0; k + 1 < name->n && !there; k++)
            there = strcmp(name->token[k], wanted.token[i]) == 0;
        if (!there)
            return false;
    }
    return true;
}

/* No entity that both have differs. */
static bool agree(const struct name *a, const struct name *b) {
    for (size_t i = 0; i + 1 < a->n; i++) {
        const char *dash = strchr(a->token[i], '-');
        size_t key = dash ? (size_t)(dash - a->token[i]) + 1 : 0;
        for (size_t k = 0; key && k + 1 < b->n; k++)
            if (strncmp(a->token[i], b->token[k], key) == 0 &&
                strcmp(a->token[i], b->token[k]) != 0)
                return false;
    }
    return true;
}

/* ---- participants.tsv ---------------------------------------------------------------------- */

/* The cells that the schema wants, by participant. */
struct participant {
    char **cells; /* the participant's id, then one for each column of the schema, or NULL */
};

struct people {
    struct participant *at;
    size_t n, cap, cells;
};

struct layout {
    const struct spoke_schema *schema;
    const char *path;
    int root;
    bool labelled, divided;
    FILE *to;
    struct people people;
    uint64_t line; /* of the table */
    struct tier_err *err;
};

static bool is_file(const struct layout *l, const struct spoke_column *c) {
    return c->type == SPOKE_COLUMN_IMAGE || (c->type == SPOKE_COLUMN_MASK && l->labelled);
}

static bool is_cell(const struct layout *l, const struct spoke_column *c) {
    bool label = c->type == SPOKE_COLUMN_TARGET || c->type == SPOKE_COLUMN_EVENT;
    return (label && l->labelled) || (c->type == SPOKE_COLUMN_SPLIT && l->divided);
}

static void people_release(struct people *p) {
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; p->at[i].cells && k < p->cells; k++)
            free(p->at[i].cells[k]);
        free(p->at[i].cells);
    }
    free(p->at);
}

static int by_id(const void *a, const void *b) {
    return strcmp(((const struct participant *)a)->cells[0],
                  ((const struct participant *)b)->cells[0]);
}

static enum tier_status no_memory(struct tier_err *err) {
    return tier_fail(err, TIER_ENOMEM, "no memory for participants.tsv");
}

static enum tier_status add_person(struct layout *l, char *const *cells, const size_t *place) {
    struct people *p = &l->people;

    if (p->n == SPOKE_BIDS_SUBJECTS_MAX)
        return tier_fail(l->err, TIER_ELIMIT, "%s/participants.tsv: more than %u participants",
                         l->path, SPOKE_BIDS_SUBJECTS_MAX);
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 64;
        struct participant *more = realloc(p->at, cap * sizeof *more);
        if (!more)
            return no_memory(l->err);
        p->at = more;
        p->cap = cap;
    }
    struct participant *one = &p->at[p->n];
    one->cells = calloc(p->cells, sizeof *one->cells);
    if (!one->cells)
        return no_memory(l->err);
    p->n++;
    for (size_t k = 0; k < p->cells; k++) {
        if (place[k] == SIZE_MAX)
            continue;
        const char *text = cells[place[k]];
        one->cells[k] = strdup(strcmp(text, "n/a") == 0 ? "" : text); /* BIDS: missing */
        if (!one->cells[k])
            return no_memory(l->err);
    }
    return TIER_OK;
}

static enum tier_status find_cells(const struct layout *l, char *const *header, size_t count,
                                   size_t *place) {
    const struct spoke_schema *s = l->schema;

    for (size_t k = 0; k <= s->columns_count; k++) {
        const char *name = k == 0 ? "participant_id" : s->columns[k - 1].name;
        place[k] = SIZE_MAX;
        if (k > 0 && !is_cell(l, &s->columns[k - 1]))
            continue;
        for (size_t i = 0; i < count; i++)
            if (strcmp(header[i], name) == 0)
                place[k] = i;
        if (place[k] == SIZE_MAX)
            return tier_fail(l->err, TIER_EDATA,
                             "%s/participants.tsv: it has no column '%s', which the schema wants",
                             l->path, name);
    }
    return TIER_OK;
}

static enum tier_status read_people(struct layout *l) {
    struct spoke_csv *csv = NULL;
    char path[4096], *const *cells;
    size_t count = 0, columns = 0, *place = NULL;
    bool wanted = false;
    enum tier_status st = TIER_OK;

    for (uint32_t i = 0; i < l->schema->columns_count; i++)
        wanted = wanted || is_cell(l, &l->schema->columns[i]);
    if (!wanted)
        return TIER_OK;
    int n = snprintf(path, sizeof path, "%s/participants.tsv", l->path);
    if (n < 0 || (size_t)n >= sizeof path)
        return tier_fail(l->err, TIER_EARG, "%s: the path is too long", l->path);
    l->people.cells = (size_t)l->schema->columns_count + 1;
    place = calloc(l->people.cells, sizeof *place);
    if (!place)
        return no_memory(l->err);
    TIER_TRY_OUT(spoke_csv_open(path, '\t', SPOKE_COLUMNS_MAX, &csv, l->err));
    TIER_TRY_OUT(spoke_csv_next(csv, &cells, &columns, l->err));
    TIER_TRY_OUT(find_cells(l, cells, columns, place));
    for (;;) {
        TIER_TRY_OUT(spoke_csv_next(csv, &cells, &count, l->err));
        if (count == 0)
            break;
        if (count != columns) {
            st = tier_fail(l->err, TIER_EDATA, "%s:%" PRIu64 ": %zu cells where the header has %zu",
                           path, spoke_csv_line(csv), count, columns);
            goto out;
        }
        TIER_TRY_OUT(add_person(l, cells, place));
    }
    if (l->people.n > 1)
        qsort(l->people.at, l->people.n, sizeof *l->people.at, by_id);
    for (size_t i = 1; i < l->people.n; i++)
        if (by_id(&l->people.at[i - 1], &l->people.at[i]) == 0)
            st = tier_fail(l->err, TIER_EDATA, "%s: a participant is in it twice", path);
out:
    spoke_csv_close(csv);
    free(place);
    return st;
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* One subject in one session. */
struct visit {
    const char *subject, *session; /* session NULL: there are none */
};

static enum tier_status folder_of(const struct layout *l, const struct visit *v,
                                  const struct spoke_column *c, char *out, size_t size) {
    int n = snprintf(out, size, "%s%s%s%s%s%s/%s", c->derivative ? "derivatives/" : "",
                     c->derivative ? c->derivative : "", c->derivative ? "/" : "", v->subject,
                     v->session ? "/" : "", v->session ? v->session : "",
                     c->datatype ? c->datatype : "anat");
    return n > 0 && (size_t)n < size
               ? TIER_OK
               : tier_fail(l->err, TIER_EDATA, "%s: a path in it is too long", l->path);
}

/* The names in it; none where it is not there. */
static enum tier_status list_at(const struct layout *l, const char *path, struct spoke_names *out) {
    int fd = openat(l->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR
                   ? TIER_OK
                   : tier_fail_errno(l->err, TIER_EIO, "%s: a folder in it", l->path);
    enum tier_status st = spoke_folder_list(fd, SPOKE_BIDS_FILES_MAX, out, l->err);
    close(fd);
    return st;
}

/* The column's file beside the row's first image; "" where there is none. */
static enum tier_status find_file(const struct layout *l, const struct visit *v,
                                  const struct spoke_column *c, const struct name *first, char *out,
                                  size_t size) {
    struct spoke_names names = {0};
    char folder[1024];
    struct name name;
    enum tier_status st;

    out[0] = '\0';
    TIER_TRY(folder_of(l, v, c, folder, sizeof folder));
    TIER_TRY_OUT(list_at(l, folder, &names));
    for (size_t i = 0; i < names.n; i++) {
        if (!split_file(names.at[i], &name) || !is_of_column(&name, c) || !agree(&name, first))
            continue;
        if (out[0]) {
            st = tier_fail(l->err, TIER_EDATA,
                           "%s:%" PRIu64 ": column '%s': two files would be this one: entities: "
                           "in the schema tells them apart",
                           l->path, l->line, c->name);
            goto out;
        }
        int n = snprintf(out, size, "%s/%s", folder, names.at[i]);
        if (n < 0 || (size_t)n >= size) {
            st = tier_fail(l->err, TIER_EDATA, "%s: a path in it is too long", l->path);
            goto out;
        }
    }
out:
    spoke_names_release(&names);
    return st;
}

static const char *cell_of(const struct layout *l, const struct visit *v, size_t column) {
    char *id[1] = {(char *)(uintptr_t)v->subject};
    const struct participant key = {.cells = id};
    const struct participant *found =
        l->people.n ? bsearch(&key, l->people.at, l->people.n, sizeof key, by_id) : NULL;
    return found ? found->cells[column + 1] : "";
}

static enum tier_status put_row(struct layout *l, const struct visit *v, const char *folder,
                                const char *file, const struct name *first) {
    char path[2048];
    bool begun = false;

    l->line++;
    for (uint32_t i = 0; i < l->schema->columns_count; i++) {
        const struct spoke_column *c = &l->schema->columns[i];
        const char *text = "";
        if (c->type == SPOKE_COLUMN_IMAGE && !begun) {
            begun = true;
            snprintf(path, sizeof path, "%s/%s", folder, file);
            text = path;
        } else if (is_file(l, c)) {
            TIER_TRY(find_file(l, v, c, first, path, sizeof path));
            text = path;
        } else if (c->type == SPOKE_COLUMN_ID) {
            text = v->subject;
        } else if (is_cell(l, c)) {
            text = cell_of(l, v, i);
        }
        if (i > 0)
            putc(',', l->to);
        spoke_csv_put(l->to, text, ',');
    }
    putc('\n', l->to);
    return TIER_OK;
}

static enum tier_status put_visit(struct layout *l, const struct visit *v) {
    const struct spoke_column *c = spoke_schema_only(l->schema, SPOKE_COLUMN_IMAGE);
    struct spoke_names names = {0};
    char folder[1024];
    struct name name;
    enum tier_status st;

    TIER_TRY(folder_of(l, v, c, folder, sizeof folder));
    TIER_TRY_OUT(list_at(l, folder, &names));
    for (size_t i = 0; i < names.n; i++)
        if (split_file(names.at[i], &name) && is_of_column(&name, c))
            TIER_TRY_OUT(put_row(l, v, folder, names.at[i], &name));
out:
    spoke_names_release(&names);
    return st;
}

static enum tier_status put_subject(struct layout *l, const char *subject) {
    struct spoke_names names = {0};
    struct visit v = {.subject = subject};
    bool sessions = false;
    enum tier_status st;

    TIER_TRY_OUT(list_at(l, subject, &names));
    for (size_t i = 0; i < names.n; i++) {
        if (strncmp(names.at[i], "ses-", 4) != 0)
            continue;
        sessions = true;
        v.session = names.at[i];
        TIER_TRY_OUT(put_visit(l, &v));
    }
    if (!sessions)
        st = put_visit(l, &v);
out:
    spoke_names_release(&names);
    return st;
}

enum tier_status spoke_bids_table(const struct spoke_schema *schema, const char *root,
                                  bool labelled, bool divided, FILE *to, struct tier_err *err) {
    struct layout l = {.schema = schema,
                       .path = root,
                       .labelled = labelled,
                       .divided = divided,
                       .to = to,
                       .line = 1,
                       .err = err};
    struct spoke_names subjects = {0};
    enum tier_status st;

    l.root = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l.root < 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", root);
    for (uint32_t i = 0; i < schema->columns_count; i++) {
        if (i > 0)
            putc(',', to);
        spoke_csv_put(to, schema->columns[i].name, ',');
    }
    putc('\n', to);
    TIER_TRY_OUT(read_people(&l));
    TIER_TRY_OUT(spoke_folder_list(l.root, SPOKE_BIDS_SUBJECTS_MAX, &subjects, err));
    for (size_t i = 0; i < subjects.n; i++)
        if (strncmp(subjects.at[i], "sub-", 4) == 0)
            TIER_TRY_OUT(put_subject(&l, subjects.at[i]));
    if (l.line == 1)
        st = tier_fail(err, TIER_EDATA,
                       "%s: it has no file sub-.../%s/..._%s.nii or .nii.gz, which the schema's "
                       "first image is",
                       root,
                       spoke_schema_only(schema, SPOKE_COLUMN_IMAGE)->datatype
                           ? spoke_schema_only(schema, SPOKE_COLUMN_IMAGE)->datatype
                           : "anat",
                       spoke_schema_only(schema, SPOKE_COLUMN_IMAGE)->suffix);
    else if (fflush(to) != 0 || ferror(to))
        st = tier_fail_errno(err, TIER_EIO, "the table of %s", root);
out:
    spoke_names_release(&subjects);
    people_release(&l.people);
    close(l.root);
    return st;
}
