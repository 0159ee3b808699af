/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sites that differ as the literature has them differ: in their mix of classes (label skew: each
 * class dealt by a Dirichlet draw over the sites; Hsu, Qi and Brown 2019), in how many patients
 * they have (quantity skew, likewise), or as they do in truth, by a column that names the site.
 * Draws are of the seed alone.
 */
#include "spoke/csv.h"
#include "spoke/draw.h"
#include "spoke/sim.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 100000000u
#define DRAWS_MAX 200

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

enum tier_status sim_split_parse(const char *text, struct sim_split *out, struct tier_err *err) {
    const char *value = strchr(text, ':');
    size_t n = value ? (size_t)(value++ - text) : strlen(text);
    char *end = NULL;

    if (n == 3 && !value && strncmp(text, "iid", n) == 0) {
        out->kind = SIM_SPLIT_IID;
        return TIER_OK;
    }
    if (n == 6 && value && *value && strncmp(text, "column", n) == 0) {
        out->kind = SIM_SPLIT_COLUMN;
        out->column = value;
        return TIER_OK;
    }
    out->kind =
        n == 8 && strncmp(text, "quantity", n) == 0 ? SIM_SPLIT_QUANTITY : SIM_SPLIT_DIRICHLET;
    out->alpha = value ? strtod(value, &end) : 0;
    if ((out->kind == SIM_SPLIT_QUANTITY || (n == 9 && strncmp(text, "dirichlet", n) == 0)) &&
        end && end != value && !*end && out->alpha >= 1e-3 && out->alpha <= 1e6)
        return TIER_OK;
    return tier_fail(err, TIER_EARG,
                     "split '%.40s' is none of iid, dirichlet:ALPHA, quantity:ALPHA (ALPHA from "
                     "0.001 to 1000000) and column:NAME",
                     text);
}

/* ---- the table ---- */

struct reader {
    const struct spoke_schema *schema;
    const char *path;
    struct sim_table *table;
    size_t columns;
    size_t target, group; /* places in a record; SIZE_MAX: none */
    const double *above;  /* of the target, or NULL */
    bool *is_path;        /* [columns]: relative to the table */
    char folder[PATH_MAX];
};

/* The place of `name` in the list, added where it is new; `max` where there is no room. */
static size_t place_of(char ***names, size_t *count, size_t max, const char *name) {
    for (size_t i = 0; i < *count; i++)
        if (strcmp((*names)[i], name) == 0)
            return i;
    if (*count == max)
        return max;
    if ((*count & (*count - 1)) == 0)
        *names = need(realloc(*names, (*count ? 2 * *count : 1) * sizeof **names));
    (*names)[*count] = need(strdup(name));
    return (*count)++;
}

static size_t class_of(struct reader *r, const char *cell) {
    struct sim_table *t = r->table;

    if (r->above)
        cell = strtod(cell, NULL) > *r->above ? "1" : "0";
    for (size_t i = 0; i < t->classes; i++)
        if (strcmp(t->class_name[i], cell) == 0)
            return i;
    if (t->classes == SIM_CLASSES_MAX)
        return SIM_CLASSES_MAX;
    t->class_name[t->classes] = need(strdup(cell));
    return t->classes++;
}

static char *record_text(const struct reader *r, char *const *cells, bool header) {
    char delimiter = spoke_schema_delimiter(r->schema);
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = need(open_memstream(&text, &bytes));

    for (size_t i = 0; i < r->columns; i++) {
        char whole[2 * PATH_MAX];
        const char *cell = cells[i];
        if (!header && r->is_path[i] && *cell && *cell != '/') {
            snprintf(whole, sizeof whole, "%s/%s", r->folder, cell);
            cell = whole;
        }
        if (i)
            putc(delimiter, to);
        spoke_csv_put(to, cell, delimiter);
    }
    putc('\n', to);
    fclose(to);
    return need(text);
}

/* Which cell of a record is which column: by the header, or by place. */
static enum tier_status find_columns(struct reader *r, char *const *cells, size_t count,
                                     const struct sim_split *split, struct tier_err *err) {
    const struct spoke_schema *s = r->schema;
    bool header = !s->file || !s->file->header || *s->file->header;

    r->columns = count;
    r->target = r->group = SIZE_MAX;
    r->is_path = need(calloc(count, sizeof *r->is_path));
    for (size_t i = 0; i < count; i++) {
        const struct spoke_column *column = NULL;
        for (size_t c = 0; c < s->columns_count && !column; c++)
            if (header ? strcmp(s->columns[c].name, cells[i]) == 0 : c == i)
                column = &s->columns[c];
        const char *name = column ? column->name : header ? cells[i] : "";
        if (column && column->type == SPOKE_COLUMN_TARGET && r->target == SIZE_MAX &&
            !column->value) {
            r->target = i;
            r->above = column->positive_above;
        }
        if (split->column && strcmp(name, split->column) == 0)
            r->group = i;
        r->is_path[i] =
            column && (column->type == SPOKE_COLUMN_IMAGE || column->type == SPOKE_COLUMN_MASK);
    }
    if (split->column && r->group == SIZE_MAX)
        return tier_fail(err, TIER_EARG, "%s has no column '%.60s' to split by", r->path,
                         split->column);
    if (split->kind == SIM_SPLIT_DIRICHLET && r->target == SIZE_MAX)
        return tier_fail(err, TIER_EARG,
                         "%s: what is learnt there is no class, so sites cannot differ in their "
                         "classes; split by iid, quantity:ALPHA or column:NAME",
                         r->path);
    if (header)
        r->table->header = record_text(r, cells, true);
    return TIER_OK;
}

static enum tier_status add_row(struct reader *r, char *const *cells, struct tier_err *err) {
    struct sim_table *t = r->table;
    size_t class = r->target == SIZE_MAX ? 0 : class_of(r, cells[r->target]);
    size_t group = r->group == SIZE_MAX
                       ? 0
                       : place_of(&t->group_name, &t->groups, SIM_NODES_MAX, cells[r->group]);

    if (class == SIM_CLASSES_MAX)
        return tier_fail(err, TIER_EARG, "%s: its target has more than %u values", r->path,
                         SIM_CLASSES_MAX);
    if (group == SIM_NODES_MAX || t->rows == ROWS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%s is more than can be dealt", r->path);
    if ((t->rows & (t->rows - 1)) == 0) {
        size_t room = t->rows ? 2 * t->rows : 1;
        t->line = need(realloc(t->line, room * sizeof *t->line));
        t->class_of = need(realloc(t->class_of, room * sizeof *t->class_of));
        t->group_of = need(realloc(t->group_of, room * sizeof *t->group_of));
    }
    t->line[t->rows] = record_text(r, cells, false);
    t->class_of[t->rows] = (uint32_t) class;
    t->group_of[t->rows++] = (uint32_t)group;
    return TIER_OK;
}

static enum tier_status read_table(struct reader *r, const struct sim_split *split,
                                   struct spoke_csv *csv, struct tier_err *err) {
    const struct spoke_schema *s = r->schema;
    bool header = !s->file || !s->file->header || *s->file->header;
    char *const *cells;
    size_t count;

    TIER_TRY(spoke_csv_next(csv, &cells, &count, err));
    if (count == 0)
        return tier_fail(err, TIER_EARG, "%s is empty", r->path);
    TIER_TRY(find_columns(r, cells, count, split, err));
    if (!header)
        TIER_TRY(add_row(r, cells, err));
    for (;;) {
        TIER_TRY(spoke_csv_next(csv, &cells, &count, err));
        if (count == 0)
            break;
        if (count != r->columns)
            return tier_fail(err, TIER_EARG, "%s:%llu: %zu cells, where the first line has %zu",
                             r->path, (unsigned long long)spoke_csv_line(csv), count, r->columns);
        TIER_TRY(add_row(r, cells, err));
    }
    if (r->table->rows == 0)
        return tier_fail(err, TIER_EARG, "%s has no rows", r->path);
    if (r->target == SIZE_MAX) {
        r->table->class_name[0] = need(strdup("all"));
        r->table->classes = 1;
    }
    return TIER_OK;
}

enum tier_status sim_table_open(const struct spoke_schema *schema, const char *path,
                                const struct sim_split *split, struct sim_table *out,
                                struct tier_err *err) {
    struct reader r = {.schema = schema, .path = path, .table = out};
    struct spoke_csv *csv = NULL;
    char whole[PATH_MAX];

    *out = (struct sim_table){0};
    if (schema->kind == SPOKE_KIND_NPZ || schema->kind == SPOKE_KIND_BIDS)
        return tier_fail(err, TIER_EARG,
                         "data of kind npz and bids are not dealt out; make a table of their files "
                         "(kind: images or nifti), or give each site its part and use a federation "
                         "of your own");
    if (!realpath(path, whole))
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", path);
    snprintf(r.folder, sizeof r.folder, "%.*s", (int)(strrchr(whole, '/') - whole), whole);
    enum tier_status st = spoke_csv_open(path, spoke_schema_delimiter(schema),
                                         2 * (size_t)SPOKE_COLUMNS_MAX, &csv, err);
    if (st == TIER_OK)
        st = read_table(&r, split, csv, err);
    spoke_csv_close(csv);
    free(r.is_path);
    if (st != TIER_OK)
        sim_table_release(out);
    return st;
}

void sim_table_release(struct sim_table *t) {
    for (size_t i = 0; i < t->rows; i++)
        free(t->line[i]);
    for (size_t i = 0; i < t->classes; i++)
        free(t->class_name[i]);
    for (size_t i = 0; i < t->groups; i++)
        free(t->group_name[i]);
    free(t->line);
    free(t->class_of);
    free(t->group_of);
    free(t->group_name);
    free(t->header);
    *t = (struct sim_table){0};
}

/* ---- draws ---- */

static size_t below(uint64_t *rng, size_t n) {
    return (size_t)(spoke_draw_uniform(rng) * (double)n);
}

static double normal(uint64_t *rng) {
    double u = 1 - spoke_draw_uniform(rng), v = spoke_draw_uniform(rng); /* Box and Muller */
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

/* log of a Gamma(shape, 1) draw (Marsaglia and Tsang 2000), which for small shapes is too small for
 * a double. */
static double log_gamma_draw(uint64_t *rng, double shape) {
    double boost = shape < 1 ? log(1 - spoke_draw_uniform(rng)) / shape : 0;
    double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3, c = 1 / sqrt(9 * d);

    for (;;) {
        double x = normal(rng), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(1 - spoke_draw_uniform(rng)) < 0.5 * x * x + d - d * v + d * log(v))
            return log(d * v) + boost;
    }
}

/* share[n], which add up to one. */
static void dirichlet(uint64_t *rng, double alpha, double *share, size_t n) {
    double most = -INFINITY, sum = 0;

    for (size_t i = 0; i < n; i++) {
        share[i] = log_gamma_draw(rng, alpha);
        most = share[i] > most ? share[i] : most;
    }
    for (size_t i = 0; i < n; i++)
        sum += share[i] = exp(share[i] - most);
    for (size_t i = 0; i < n; i++)
        share[i] /= sum;
}

static void shuffle(uint64_t *rng, size_t *list, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = below(rng, i), held = list[i - 1];
        list[i - 1] = list[j];
        list[j] = held;
    }
}

/* ---- dealing ---- */

struct dealing {
    const struct sim_table *table;
    const struct sim_split *split;
    size_t count;
    const char *const *names;
    uint64_t rng;
    size_t *order;   /* [rows]: shuffled, class by class */
    size_t *first;   /* [classes + 1]: where each class begins there */
    double *share;   /* [classes][count] */
    size_t *site_of; /* [rows], of table rows */
};

static void order_rows(struct dealing *d) {
    const struct sim_table *t = d->table;
    size_t *at = need(calloc(t->classes + 1, sizeof *at));

    for (size_t i = 0; i < t->rows; i++)
        d->first[t->class_of[i] + 1]++;
    for (size_t c = 0; c < t->classes; c++)
        d->first[c + 1] += d->first[c];
    memcpy(at, d->first, t->classes * sizeof *at);
    for (size_t i = 0; i < t->rows; i++)
        d->order[at[t->class_of[i]]++] = i;
    for (size_t c = 0; c < t->classes; c++)
        shuffle(&d->rng, d->order + d->first[c], d->first[c + 1] - d->first[c]);
    free(at);
}

/* What share of each class goes to which site. */
static void draw_shares(struct dealing *d) {
    for (size_t c = 0; c < d->table->classes; c++) {
        double *share = d->share + c * d->count;
        if (d->split->kind == SIM_SPLIT_DIRICHLET ||
            (c == 0 && d->split->kind == SIM_SPLIT_QUANTITY))
            dirichlet(&d->rng, d->split->alpha, share, d->count);
        else if (d->split->kind == SIM_SPLIT_QUANTITY)
            memcpy(share, d->share, d->count * sizeof *share);
        else
            for (size_t s = 0; s < d->count; s++)
                share[s] = 1 / (double)d->count;
    }
}

/* Every row once: each class cut where the shares add up to. */
static void cut(struct dealing *d) {
    size_t turn = 0; /* with equal shares what is left over goes round */

    for (size_t c = 0; c < d->table->classes; c++) {
        size_t n = d->first[c + 1] - d->first[c], from = 0;
        double sum = 0;
        if (d->split->kind == SIM_SPLIT_IID) {
            for (size_t i = 0; i < n; i++)
                d->site_of[d->order[d->first[c] + i]] = turn++ % d->count;
            continue;
        }
        for (size_t s = 0; s < d->count; s++) {
            sum += d->share[c * d->count + s];
            size_t to = s + 1 == d->count ? n : (size_t)(sum * (double)n + 0.5);
            for (to = to < n ? to : n; from < to; from++)
                d->site_of[d->order[d->first[c] + from]] = s;
        }
    }
}

static size_t least(const struct dealing *d) {
    size_t *rows = need(calloc(d->count, sizeof *rows)), min = SIZE_MAX;

    for (size_t i = 0; i < d->table->rows; i++)
        rows[d->site_of[i]]++;
    for (size_t s = 0; s < d->count; s++)
        min = rows[s] < min ? rows[s] : min;
    free(rows);
    return min;
}

/* Which site has which value of the column. */
static enum tier_status by_column(struct dealing *d, struct tier_err *err) {
    const struct sim_table *t = d->table;
    size_t *group_at = need(calloc(t->groups, sizeof *group_at)), group = 0;
    bool *given = need(calloc(t->groups, sizeof *given));
    size_t *of_site = need(malloc(d->count * sizeof *of_site));
    enum tier_status st = TIER_OK;

    if (t->groups != d->count)
        st =
            tier_fail(err, TIER_EARG,
                      "column '%.60s' has %zu values and the tree %zu spokes; they must be as many",
                      d->split->column, t->groups, d->count);
    for (size_t s = 0; s < d->count && st == TIER_OK; s++) {
        of_site[s] = SIZE_MAX;
        for (size_t g = 0; g < t->groups && of_site[s] == SIZE_MAX; g++)
            if (strcmp(t->group_name[g], d->names[s]) == 0)
                of_site[s] = g;
        if (of_site[s] != SIZE_MAX)
            given[of_site[s]] = true;
    }
    for (size_t s = 0; s < d->count && st == TIER_OK; s++) {
        while (of_site[s] == SIZE_MAX && given[group])
            group++;
        if (of_site[s] == SIZE_MAX)
            given[of_site[s] = group] = true;
        group_at[of_site[s]] = s;
    }
    for (size_t i = 0; i < t->rows && st == TIER_OK; i++)
        d->site_of[i] = group_at[t->group_of[i]];
    free(group_at);
    free(given);
    free(of_site);
    return st;
}

static enum tier_status assign(struct dealing *d, struct tier_err *err) {
    const struct sim_table *t = d->table;

    if (d->split->kind == SIM_SPLIT_COLUMN)
        return by_column(d, err);
    if (d->split->rows_min * d->count > t->rows)
        return tier_fail(err, TIER_EARG,
                         "%zu rows are too few for %zu sites of at least %zu; have fewer sites, or "
                         "draw rows again and again (--rows)",
                         t->rows, d->count, d->split->rows_min);
    for (int i = 0; i < DRAWS_MAX; i++) {
        draw_shares(d);
        cut(d);
        if (least(d) >= d->split->rows_min)
            return TIER_OK;
    }
    return tier_fail(
        err, TIER_EARG,
        "%d draws left a site with fewer than %zu rows each time: a larger ALPHA, fewer "
        "sites, or --rows",
        DRAWS_MAX, d->split->rows_min);
}

static enum tier_status write_site(const struct sim_table *t, const char *path, const size_t *rows,
                                   size_t count, struct sim_site *out, struct tier_err *err) {
    FILE *f = fopen(path, "we");

    out->rows = count;
    out->classes = need(calloc(t->classes, sizeof *out->classes));
    if (!f)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    if (t->header)
        fputs(t->header, f);
    for (size_t i = 0; i < count; i++) {
        fputs(t->line[rows[i]], f);
        out->classes[t->class_of[rows[i]]]++;
    }
    bool bad = ferror(f);
    if (fclose(f) != 0 || bad)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    return TIER_OK;
}

/* Rows of a site, each drawn anew: first its class, by the site's mix, then one of that class. */
static void draw_rows(struct dealing *d, size_t site, size_t *rows) {
    const struct sim_table *t = d->table;
    double whole = 0;

    for (size_t c = 0; c < t->classes; c++)
        whole += d->share[c * d->count + site] * (double)(d->first[c + 1] - d->first[c]);
    for (size_t i = 0; i < d->split->rows; i++) {
        double at = spoke_draw_uniform(&d->rng) * whole;
        size_t c = 0;
        for (; c + 1 < t->classes; c++) {
            double n = d->share[c * d->count + site] * (double)(d->first[c + 1] - d->first[c]);
            if (at < n)
                break;
            at -= n;
        }
        rows[i] = d->order[d->first[c] + below(&d->rng, d->first[c + 1] - d->first[c])];
    }
}

static enum tier_status deal(struct dealing *d, const char *const *paths, struct sim_site *sites,
                             struct tier_err *err) {
    const struct sim_table *t = d->table;
    bool again = d->split->rows > 0;
    size_t *rows = need(calloc((again ? d->split->rows : t->rows) + 1, sizeof *rows));
    enum tier_status st = TIER_OK;

    order_rows(d);
    if (again)
        draw_shares(d);
    else
        st = assign(d, err);
    for (size_t s = 0; s < d->count && st == TIER_OK; s++) {
        size_t n = 0;
        if (again) {
            draw_rows(d, s, rows);
            n = d->split->rows;
        } else {
            for (size_t i = 0; i < t->rows; i++)
                if (d->site_of[i] == s)
                    rows[n++] = i;
        }
        st = write_site(t, paths[s], rows, n, &sites[s], err);
    }
    free(rows);
    return st;
}

enum tier_status sim_deal(const struct sim_table *table, const struct sim_split *split,
                          const char *const *names, const char *const *paths, size_t count,
                          struct sim_site *sites, struct tier_err *err) {
    struct dealing d = {
        .table = table, .split = split, .count = count, .names = names, .rng = split->seed};

    if (split->rows && split->kind == SIM_SPLIT_COLUMN)
        return tier_fail(err, TIER_EARG,
                         "--rows draws every site from the whole table; with column:NAME a site's "
                         "rows are its own");
    d.order = need(calloc(table->rows, sizeof *d.order));
    d.first = need(calloc(table->classes + 1, sizeof *d.first));
    d.share = need(calloc(table->classes * count, sizeof *d.share));
    d.site_of = need(calloc(table->rows, sizeof *d.site_of));
    enum tier_status st = deal(&d, paths, sites, err);
    free(d.order);
    free(d.first);
    free(d.share);
    free(d.site_of);
    return st;
}
