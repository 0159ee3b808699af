/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source whose rows are files that a table names: PNG and JPEG images, NIfTI volumes, DICOM
 * files and folders of a series. A file is opened, decoded and brought to the contract's shape when
 * its row is asked for, and nothing of it is kept. Messages name the table, the line and the
 * column, not the file: people put patients into the names of files.
 */
#include "spoke/annotators.h"
#include "spoke/bids.h"
#include "spoke/data_private.h"
#include "spoke/dicom.h"
#include "spoke/nifti.h"
#include "spoke/picture.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct spoke_case {
    uint64_t line;
    size_t files; /* the first of its paths, in texts */
};

struct cases {
    int folder;  /* of the table, where paths begin */
    char *texts; /* paths, each terminated, case after case */
    size_t texts_bytes, texts_cap;
    struct spoke_case *cases;
    size_t count, cap;
};

/* ---- loading ------------------------------------------------------------------------------- */

static bool is_file(const struct spoke_data *d, const struct spoke_column *c) {
    return c->type == SPOKE_COLUMN_IMAGE || (c->type == SPOKE_COLUMN_MASK && !d->unlabelled);
}

static enum tier_status case_fail(const char *path, uint64_t line, const struct spoke_column *c,
                                  const char *what, struct tier_err *err) {
    return tier_fail(err, TIER_EDATA, "%s:%" PRIu64 ": column '%s': %s", path, line, c->name, what);
}

static enum tier_status add_text(struct cases *s, const char *text, struct tier_err *err) {
    size_t n = strlen(text) + 1;

    if (s->texts_cap - s->texts_bytes < n) {
        size_t cap = s->texts_cap * 2 + n;
        char *more = realloc(s->texts, cap);
        if (!more)
            return tier_fail(err, TIER_ENOMEM, "no memory for the names of files");
        s->texts = more;
        s->texts_cap = cap;
    }
    memcpy(s->texts + s->texts_bytes, text, n);
    s->texts_bytes += n;
    return TIER_OK;
}

static enum tier_status add_case(struct cases *s, uint64_t line, struct tier_err *err) {
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        struct spoke_case *more = realloc(s->cases, cap * sizeof *more);
        if (!more)
            return tier_fail(err, TIER_ENOMEM, "no memory for %zu rows", cap);
        s->cases = more;
        s->cap = cap;
    }
    s->cases[s->count++] = (struct spoke_case){.line = line, .files = s->texts_bytes};
    return TIER_OK;
}

enum tier_status spoke_load_case(struct spoke_loader *l, enum spoke_part part, size_t row,
                                 uint64_t line, const char *const *files) {
    struct cases *s = l->data->source;
    struct stat info;

    for (uint32_t i = 0, k = 0; i < l->schema->columns_count; i++) {
        const struct spoke_column *c = &l->schema->columns[i];
        if (!is_file(l->data, c))
            continue;
        if (!files[k][0] && c->type == SPOKE_COLUMN_MASK) { /* a reader who has none */
            k++;
            continue;
        }
        if (fstatat(s->folder, files[k++], &info, 0) != 0)
            return case_fail(l->path, line, c, "the file it names is not there", l->err);
        bool series = l->schema->kind == SPOKE_KIND_DICOM && S_ISDIR(info.st_mode);
        if (!S_ISREG(info.st_mode) && !series)
            return case_fail(l->path, line, c, "it names no regular file", l->err);
    }
    TIER_TRY(add_case(s, line, l->err));
    for (uint32_t i = 0, k = 0; i < l->schema->columns_count; i++)
        if (is_file(l->data, &l->schema->columns[i]))
            TIER_TRY(add_text(s, files[k++], l->err));
    l->data->parts[part].places[row] = (uint32_t)(s->count - 1);
    return TIER_OK;
}

/* A BIDS folder as the table of its files, which lies in memory while it is read. */
static enum tier_status load_bids(struct spoke_loader *l) {
    int fd = memfd_create("bids", MFD_CLOEXEC), own = fd < 0 ? -1 : dup(fd);
    FILE *to = own < 0 ? NULL : fdopen(own, "w");
    char table[64];
    enum tier_status st = TIER_OK;

    if (to)
        st = spoke_bids_table(l->schema, l->path, !l->options->unlabelled, !l->options->undivided,
                              to, l->err);
    else
        st = tier_fail_errno(l->err, TIER_EIO, "no memory for a table of %s", l->path);
    if (to)
        fclose(to);
    else if (own >= 0)
        close(own);
    snprintf(table, sizeof table, "/proc/self/fd/%d", fd);
    l->table = table;
    if (st == TIER_OK)
        st = spoke_load_table(l);
    l->table = NULL;
    if (fd >= 0)
        close(fd);
    return st;
}

static enum tier_status open_cases(struct spoke_loader *l) {
    bool bids = l->schema->kind == SPOKE_KIND_BIDS;
    const char *slash = strrchr(l->path, '/');
    size_t length = bids ? strlen(l->path) : slash ? (size_t)(slash - l->path + 1) : 0;
    struct cases *s = calloc(1, sizeof *s);
    char folder[4096];

    l->data->source = s; /* closed with the data */
    if (!s)
        return tier_fail(l->err, TIER_ENOMEM, "%s: no memory to read it", l->path);
    int n =
        snprintf(folder, sizeof folder, "%.*s", length ? (int)length : 1, length ? l->path : ".");
    s->folder = -1;
    if (n < 0 || (size_t)n >= sizeof folder)
        return tier_fail(l->err, TIER_EARG, "%s: the path is too long", l->path);
    s->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->folder < 0)
        return tier_fail_errno(l->err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "%s", l->path);
    return bids ? load_bids(l) : spoke_load_table(l);
}

static void close_cases(void *source) {
    struct cases *s = source;
    if (!s)
        return;
    if (s->folder >= 0)
        close(s->folder);
    free(s->texts);
    free(s->cases);
    free(s);
}

/* ---- a file -------------------------------------------------------------------------------- */

static enum tier_status read_picture(int fd, size_t channels, bool labels, struct spoke_grid *g,
                                     struct tier_err *err) {
    struct stat info;
    enum tier_status st;

    if (fstat(fd, &info) != 0 || (uint64_t)info.st_size > SPOKE_PICTURE_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "the file has more than 64 MiB");
    size_t bytes = (size_t)info.st_size, got = 0;
    uint8_t *data = malloc(bytes ? bytes : 1);
    if (!data)
        return tier_fail(err, TIER_ENOMEM, "no memory for the file");
    while (got < bytes) {
        ssize_t n = read(fd, data + got, bytes - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        got += (size_t)n;
    }
    st = spoke_picture_decode(data, got, channels, labels, g, err);
    free(data);
    return st;
}

/* Masks of DICOM images are drawn in programs that write NIfTI. */
static bool is_nifti_name(const char *file) {
    size_t n = strlen(file);
    return (n > 4 && strcmp(file + n - 4, ".nii") == 0) ||
           (n > 7 && strcmp(file + n - 7, ".nii.gz") == 0);
}

static enum tier_status load_any(const struct spoke_data *d, const char *file, size_t channels,
                                 bool labels, struct spoke_grid *g, struct tier_err *err) {
    const struct cases *s = d->source;
    const char *orientation = d->schema->image->orientation;
    enum spoke_kind kind = d->schema->kind;
    enum tier_status st;

    if (kind == SPOKE_KIND_DICOM && !(labels && is_nifti_name(file)))
        /* Who draws a mask is another device than who made the image. */
        return spoke_dicom_load(s->folder, file, orientation,
                                labels ? NULL : d->schema->image->modality, d->named, g, err);
    int fd = openat(s->folder, file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return tier_fail_errno(err, TIER_EDATA, "the file it names cannot be opened");
    if (kind != SPOKE_KIND_IMAGES)
        st = spoke_nifti_load(fd, orientation, g, err);
    else
        st = read_picture(fd, channels, labels, g, err);
    close(fd);
    return st;
}

/* Colour to its luma (ITU-R BT.601), grey to three equal channels, as pictures have it. */
static enum tier_status match_colours(struct spoke_grid *g, size_t channels, struct tier_err *err) {
    size_t n = g->side[0] * g->side[1] * g->side[2];

    if (g->channels == 3 && channels == 1) {
        for (size_t i = 0; i < n; i++)
            g->at[i] = 0.299f * g->at[i] + 0.587f * g->at[n + i] + 0.114f * g->at[2 * n + i];
        g->channels = 1;
    } else if (g->channels == 1 && channels == 3) {
        float *three = realloc(g->at, 3 * n * sizeof *three);
        if (!three)
            return tier_fail(err, TIER_ENOMEM, "no memory for its voxels");
        memcpy(three + n, three, n * sizeof *three);
        memcpy(three + 2 * n, three, n * sizeof *three);
        g->at = three;
        g->channels = 3;
    }
    return TIER_OK;
}

static enum tier_status load_file(const struct spoke_data *d, const char *file, size_t channels,
                                  bool labels, struct spoke_grid *g, struct tier_err *err) {
    enum tier_status st;

    TIER_TRY(load_any(d, file, channels, labels, g, err));
    st = d->schema->kind == SPOKE_KIND_DICOM ? match_colours(g, channels, err) : TIER_OK;
    if (st == TIER_OK && g->channels != channels)
        st = tier_fail(err, TIER_EDATA, "the file has %zu channels where the schema wants %zu",
                       g->channels, channels);
    if (st != TIER_OK)
        spoke_grid_release(g);
    return st;
}

/* Volumes keep their scale; pictures, and X-rays with no spacing asked for, are stretched. */
static bool is_stretched(const struct spoke_data *d) {
    const struct spoke_image *m = d->schema->image;
    return d->schema->kind == SPOKE_KIND_IMAGES ||
           (d->schema->kind == SPOKE_KIND_DICOM && m->size.count == 2 && !m->spacing.count);
}

/* How a file's axes become the contract's. */
static enum tier_status plan_axes(const struct spoke_data *d, const struct spoke_grid *g,
                                  struct spoke_axis axis[3], struct tier_err *err) {
    const struct spoke_image *m = d->schema->image;
    uint32_t flat = 3 - m->size.count; /* 1 where the contract is of single slices */

    if (flat && g->side[0] != 1)
        return tier_fail(err, TIER_EDATA, "the file is a volume where the schema wants a slice");
    for (uint32_t i = 0; i < 3; i++) {
        size_t out = i < flat ? 1 : (size_t)m->size.at[i - flat];
        if (m->spacing.count && i >= flat && !(g->spacing[i] > 0.0))
            return tier_fail(err, TIER_EDATA,
                             "the file does not say its spacing, which the schema asks for");
        double step = m->spacing.count && i >= flat ? m->spacing.at[i - flat] / g->spacing[i] : 1.0;
        if (fabs(step - 1.0) < 1e-3)
            step = 1.0; /* spacings are rounded in files: 2.5000016 */
        if (step > (double)SPOKE_SIDE_MAX)
            return tier_fail(err, TIER_EDATA, "the file's spacing is not of this world");
        if (!is_stretched(d)) {
            axis[i] = spoke_axis_centre(g->side[i], out, step, g->mirrored[i]);
            continue;
        }
        axis[i] = spoke_axis_stretch(g->side[i], out);
        if (g->mirrored[i]) {
            axis[i].start = (double)g->side[i] - 1.0 - axis[i].start;
            axis[i].step = -axis[i].step;
        }
    }
    return TIER_OK;
}

static enum tier_status take_image(const struct spoke_data *d, struct spoke_grid *g, float *x,
                                   struct tier_err *err) {
    const struct spoke_image *m = d->schema->image;
    size_t n = g->side[0] * g->side[1] * g->side[2];
    struct spoke_axis axis[3];

    for (size_t i = 0; i < g->channels * n; i++)
        if (!isfinite(g->at[i]))
            return tier_fail(err, TIER_EDATA, "a value of the image is not a finite number");
    TIER_TRY(plan_axes(d, g, axis, err));
    for (size_t c = 0; c < g->channels; c++) {
        float *at = g->at + c * n;
        if (m->percentiles.count)
            TIER_TRY(spoke_grid_clip(at, n, m->percentiles.at[0], m->percentiles.at[1],
                                     m->z_score == SPOKE_Z_SCORE_NONZERO, err));
        TIER_TRY(spoke_grid_resample(at, axis, is_stretched(d) ? SPOKE_AREA : SPOKE_LINEAR,
                                     x + c * d->spatial, err));
    }
    return TIER_OK;
}

static enum tier_status take_mask(const struct spoke_data *d, const struct spoke_grid *g,
                                  int32_t *mask, struct tier_err *err) {
    size_t n = g->side[0] * g->side[1] * g->side[2];
    struct spoke_axis axis[3];
    enum tier_status st = TIER_OK;

    for (size_t i = 0; i < n; i++)
        if (!(g->at[i] >= 0.0f && g->at[i] < (float)d->classes) || g->at[i] != floorf(g->at[i]))
            return tier_fail(err, TIER_EDATA,
                             "the mask has an element that is none of the schema's categories, "
                             "which are numbered from 0");
    TIER_TRY(plan_axes(d, g, axis, err));
    float *flat = malloc(d->spatial * sizeof *flat);
    if (!flat)
        return tier_fail(err, TIER_ENOMEM, "no memory for a mask");
    st = spoke_grid_resample(g->at, axis, SPOKE_NEAREST, flat, err);
    for (size_t i = 0; st == TIER_OK && i < d->spatial; i++)
        mask[i] = (int32_t)flat[i];
    free(flat);
    return st;
}

/* Whether two files of a case lie on the same grid, to half a voxel at its far ends, or half a mm.
 */
static bool same_grid(const struct spoke_grid *a, const struct spoke_grid *b) {
    for (int i = 0; i < 3; i++) {
        if (a->side[i] != b->side[i] || a->mirrored[i] != b->mirrored[i])
            return false;
        for (int k = 0; k < 3; k++) {
            double off = fabs(a->affine[k][i] - b->affine[k][i]) * (double)a->side[i];
            if (off > 0.5 * a->spacing[i])
                return false;
        }
        if (fabs(a->affine[i][3] - b->affine[i][3]) > 0.5)
            return false;
    }
    return true;
}

static enum tier_status read_file(const struct spoke_data *d, const struct spoke_column *c,
                                  const char *file, size_t channels, struct spoke_grid *first,
                                  float *x, int32_t *mask, struct tier_err *err) {
    struct spoke_grid g = {0};
    bool labels = c->type == SPOKE_COLUMN_MASK;
    enum tier_status st;

    TIER_TRY(load_file(d, file, labels ? 1 : channels, labels, &g, err));
    if (first->side[0] && !same_grid(first, &g))
        st = tier_fail(err, TIER_EDATA,
                       "the file has another shape or place in space than the first of its row");
    else
        st = labels ? take_mask(d, &g, mask, err) : take_image(d, &g, x, err);
    float *at = g.at;
    if (!first->side[0])
        *first = g;
    first->at = NULL;
    free(at);
    return st;
}

/* What most of the masks of a row say at each place, or what each of them says; the masks lie one
 * after another. */
static enum tier_status merge_masks(const struct spoke_data *d, const int32_t *votes,
                                    size_t readers, size_t n, int32_t *mask, struct tier_err *err) {
    if (readers == 0)
        return tier_fail(err, TIER_EDATA, "there is no mask");
    for (size_t i = 0; i < n; i++)
        mask[i] = spoke_data_soft(d) ? spoke_votes_pack(votes + i, readers, n, d->classes)
                                     : spoke_majority(votes + i, readers, n);
    return TIER_OK;
}

static enum tier_status read_cases(const struct spoke_data *d, enum spoke_part part, size_t row,
                                   float *x, int32_t *mask, struct tier_err *err) {
    const struct cases *s = d->source;
    const struct spoke_case *at = &s->cases[d->parts[part].places[row]];
    const char *file = s->texts + at->files;
    struct spoke_grid first = {0};
    size_t images = 0, done = 0, readers = 0;
    int32_t *votes = NULL;
    enum tier_status st = TIER_OK;

    for (uint32_t i = 0; i < d->schema->columns_count; i++)
        images += d->schema->columns[i].type == SPOKE_COLUMN_IMAGE;
    assert(images > 0); /* schema.c sees to it */
    size_t channels = d->schema->image->channels / images;
    if (mask && d->readers > 1) {
        votes = calloc(d->readers, d->spatial * sizeof *votes);
        if (!votes)
            return tier_fail(err, TIER_ENOMEM, "%s: no memory for masks", d->path);
    }
    for (uint32_t i = 0; i < d->schema->columns_count; i++) {
        const struct spoke_column *c = &d->schema->columns[i];
        if (!is_file(d, c))
            continue;
        bool image = c->type == SPOKE_COLUMN_IMAGE;
        if ((image ? x != NULL : mask != NULL) && file[0]) {
            float *to = image ? x + done * channels * d->spatial : NULL;
            int32_t *says = votes ? votes + readers * d->spatial : mask;
            if (read_file(d, c, file, channels, &first, to, says, err) != TIER_OK) {
                st =
                    tier_err_prefix(err, "%s:%" PRIu64 ": column '%s'", d->path, at->line, c->name);
                break;
            }
            readers += !image;
        }
        done += image;
        file += strlen(file) + 1;
    }
    if (st == TIER_OK && votes)
        st = merge_masks(d, votes, readers, d->spatial, mask, err);
    free(votes);
    return st;
}

/* One reader's, for a report. */
static enum tier_status read_mask_cases(const struct spoke_data *d, enum spoke_part part,
                                        size_t row, size_t reader, int32_t *mask, bool *there_out,
                                        struct tier_err *err) {
    const struct cases *s = d->source;
    const struct spoke_case *at = &s->cases[d->parts[part].places[row]];
    const char *file = s->texts + at->files;
    struct spoke_grid first = {0};

    for (uint32_t i = 0; i < d->schema->columns_count; i++) {
        const struct spoke_column *c = &d->schema->columns[i];
        if (!is_file(d, c))
            continue;
        if (c->type == SPOKE_COLUMN_MASK && reader-- == 0) {
            *there_out = file[0] != '\0';
            return file[0] ? read_file(d, c, file, 1, &first, NULL, mask, err) : TIER_OK;
        }
        file += strlen(file) + 1;
    }
    return tier_fail(err, TIER_EINTERNAL, "%s: there is no such reader", d->path);
}

/* Of the first image: the others lie on the same grid. */
static enum tier_status grid_cases(const struct spoke_data *d, enum spoke_part part, size_t row,
                                   struct spoke_grid *grid_out, struct spoke_axis axis_out[3],
                                   struct tier_err *err) {
    const struct cases *s = d->source;
    const struct spoke_case *at = &s->cases[d->parts[part].places[row]];
    const struct spoke_column *c = NULL;
    const char *file = s->texts + at->files;
    struct spoke_grid g = {0};

    for (uint32_t i = 0; i < d->schema->columns_count && !c; i++) {
        if (d->schema->columns[i].type == SPOKE_COLUMN_IMAGE)
            c = &d->schema->columns[i];
        else if (is_file(d, &d->schema->columns[i]))
            file += strlen(file) + 1;
    }
    assert(c); /* schema.c sees to it */
    enum tier_status st = load_any(d, file, d->schema->image->channels, false, &g, err);
    if (st == TIER_OK)
        st = plan_axes(d, &g, axis_out, err);
    free(g.at);
    g.at = NULL;
    if (st != TIER_OK)
        return tier_err_prefix(err, "%s:%" PRIu64 ": column '%s'", d->path, at->line, c->name);
    *grid_out = g;
    return TIER_OK;
}

static void where_cases(const struct spoke_data *d, enum spoke_part part, size_t row, char *text,
                        size_t size) {
    const struct cases *s = d->source;
    snprintf(text, size, "%s:%" PRIu64, d->path, s->cases[d->parts[part].places[row]].line);
}

const struct spoke_source spoke_source_cases = {
    .open = open_cases,
    .read = read_cases,
    .where = where_cases,
    .grid = grid_cases,
    .read_mask = read_mask_cases,
    .close = close_cases,
};
