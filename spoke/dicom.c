/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/dicom.h"
#include "spoke/folder.h"
#include "spoke/nifti.h"

#include <assert.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of the gap: by how much a slice may lie off its place, for positions are rounded. */
#define EVEN 0.02

/* ---- a folder ------------------------------------------------------------------------------ */

static enum tier_status list_series(int folder, struct spoke_names *names, struct tier_err *err) {
    size_t kept = 0;

    TIER_TRY(spoke_folder_list(folder, SPOKE_DICOM_FILES_MAX, names, err));
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->at[i], "DICOMDIR") == 0)
            free(names->at[i]);
        else
            names->at[kept++] = names->at[i];
    }
    names->n = kept;
    return kept ? TIER_OK : tier_fail(err, TIER_EDATA, "the folder it names is empty");
}

/* ---- the slices ---------------------------------------------------------------------------- */

#define FILE_TEXT_BYTES 320

/* "3", or "3 (name 'IM0003')": what follows "file". */
static const char *file_text(char *const *names, size_t file, char *out, size_t size) {
    int n = snprintf(out, size, "%zu%s", file + 1, names ? SPOKE_DICOM_NAME : "");

    for (const char *c = names ? names[file] : ""; *c && (size_t)n + 3 < size; c++)
        out[n++] = *c == '\'' || (unsigned char)*c < 0x20 || *c == 0x7f ? '?' : *c;
    snprintf(out + n, size - (size_t)n, "%s", names ? "')" : "");
    return out;
}

/* A frame among all of a series, and how far along the normal it lies. */
struct frame {
    size_t file; /* from 0, in the order of names */
    struct spoke_dicom_place place;
    const float *at;
    double along;
};

static int by_place(const void *a, const void *b) {
    const struct frame *p = a, *q = b;
    return (p->along > q->along) - (p->along < q->along);
}

static enum tier_status check_alike(const struct spoke_dicom_slice *s, size_t n, char *const *names,
                                    struct tier_err *err) {
    char file[FILE_TEXT_BYTES];

    for (size_t i = 1; i < n; i++) {
        if (strcmp(s[i].series, s[0].series) != 0)
            return tier_fail(err, TIER_EDATA,
                             "file %s of the folder is of another series than the first: each "
                             "series needs a folder of its own",
                             file_text(names, i, file, sizeof file));
        if (s[i].rows != s[0].rows || s[i].columns != s[0].columns || s[i].samples != s[0].samples)
            return tier_fail(err, TIER_EDATA,
                             "file %s of the folder has other rows, columns or colours than the "
                             "first",
                             file_text(names, i, file, sizeof file));
    }
    return TIER_OK;
}

static void normal_of(const struct spoke_dicom_place *p, double out[3]) {
    for (int i = 0; i < 3; i++)
        out[i] = p->along[0][(i + 1) % 3] * p->along[1][(i + 2) % 3] -
                 p->along[0][(i + 2) % 3] * p->along[1][(i + 1) % 3];
}

static bool same_plane(const struct spoke_dicom_place *a, const struct spoke_dicom_place *b) {
    for (int i = 0; i < 6; i++)
        if (fabs(a->along[i / 3][i % 3] - b->along[i / 3][i % 3]) > 1e-3)
            return false;
    for (int i = 0; i < 2; i++)
        if (fabs(a->spacing[i] - b->spacing[i]) > 1e-3 * a->spacing[i])
            return false;
    return true;
}

/* Places along the normal; frames as they come. */
static enum tier_status measure(struct frame *f, size_t n, char *const *names,
                                struct tier_err *err) {
    double normal[3];
    char file[FILE_TEXT_BYTES];

    for (size_t i = 0; i < n; i++) {
        if (!f[i].place.placed || f[i].place.spacing[0] == 0.0)
            return tier_fail(err, TIER_EDATA,
                             "file %s of the folder has a slice that does not say where it lies: "
                             "position, orientation and pixel spacing are needed",
                             file_text(names, f[i].file, file, sizeof file));
        if (!same_plane(&f[0].place, &f[i].place))
            return tier_fail(err, TIER_EDATA,
                             "file %s of the folder has a slice of another orientation or pixel "
                             "spacing than the first (a localiser, perhaps)",
                             file_text(names, f[i].file, file, sizeof file));
    }
    normal_of(&f[0].place, normal);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 3; k++)
            f[i].along += f[i].place.position[k] * normal[k];
    return TIER_OK;
}

/* The vector from slice to slice, of frames in order. */
static enum tier_status step_of(const struct frame *f, size_t n, char *const *names, double step[3],
                                struct tier_err *err) {
    char one[FILE_TEXT_BYTES], two[FILE_TEXT_BYTES];
    double normal[3], gap = (f[n - 1].along - f[0].along) / (double)(n - 1), least = INFINITY;
    double shear = 0.0;

    normal_of(&f[0].place, normal);
    for (size_t i = 1; i < n; i++) {
        double here = f[i].along - f[i - 1].along;
        least = here < least ? here : least;
        if (here < 1e-3)
            return tier_fail(err, TIER_EDATA,
                             "two slices lie at the same place, number %zu and %zu along their "
                             "normal, in files %s and %s of the folder",
                             i, i + 1, file_text(names, f[i - 1].file, one, sizeof one),
                             file_text(names, f[i].file, two, sizeof two));
    }
    for (size_t i = 1; i < n; i++) {
        double times = (f[i].along - f[i - 1].along) / least;
        if (times > 1.5 && fabs(times - floor(times + 0.5)) < 0.1)
            return tier_fail(err, TIER_EDATA,
                             "%.0f slices are missing between number %zu and %zu along their "
                             "normal, of %zu, in files %s and %s of the folder",
                             floor(times + 0.5) - 1.0, i, i + 1, n,
                             file_text(names, f[i - 1].file, one, sizeof one),
                             file_text(names, f[i].file, two, sizeof two));
    }
    for (size_t i = 1; i < n; i++)
        if (fabs(f[i].along - f[0].along - (double)i * gap) > EVEN * gap + 1e-3)
            return tier_fail(err, TIER_EDATA,
                             "the gaps between slices are uneven: number %zu of %zu along their "
                             "normal, in file %s of the folder, is off its place",
                             i + 1, n, file_text(names, f[i].file, one, sizeof one));
    for (int k = 0; k < 3; k++) {
        step[k] = (f[n - 1].place.position[k] - f[0].place.position[k]) / (double)(n - 1);
        shear += (step[k] - gap * normal[k]) * (step[k] - gap * normal[k]);
    }
    if (sqrt(shear) > EVEN * gap)
        return tier_fail(err, TIER_EDATA,
                         "the slices are shifted against each other, as with a tilted gantry: "
                         "they make no grid at right angles");
    return TIER_OK;
}

/* DICOM's axes go to the left and the back, NIfTI's to the right and the front. */
static void set_affine(const struct spoke_dicom_place *first, const double step[3],
                       struct spoke_nifti *v) {
    for (int i = 0; i < 3; i++) {
        double sign = i < 2 ? -1.0 : 1.0;
        v->affine[i][0] = sign * first->along[0][i] * first->spacing[1];
        v->affine[i][1] = sign * first->along[1][i] * first->spacing[0];
        v->affine[i][2] = sign * step[i];
        v->affine[i][3] = sign * first->position[i];
    }
    for (int k = 0; k < 3; k++) {
        double sum = 0.0;
        for (int i = 0; i < 3; i++)
            sum += v->affine[i][k] * v->affine[i][k];
        v->spacing[k] = sqrt(sum);
    }
}

/* One slice alone is an image, wherever it lies. */
static void place_single(const struct spoke_dicom_place *p, struct spoke_nifti *v) {
    double step[3];

    if (p->placed && p->spacing[0] > 0.0) {
        normal_of(p, step);
        for (int i = 0; i < 3; i++)
            step[i] *= p->thickness > 0.0 ? p->thickness : 1.0;
        set_affine(p, step, v);
        return;
    }
    for (int i = 0; i < 2; i++)
        v->spacing[i] = v->affine[i][i] = p->spacing[1 - i];
    v->spacing[2] = v->affine[2][2] = p->spacing[0] > 0.0 ? 1.0 : 0.0;
}

/* Frames in order to channels x z x y x x. */
static enum tier_status join(const struct frame *f, const struct spoke_nifti *v,
                             struct spoke_grid *g, struct tier_err *err) {
    size_t area = v->side[0] * v->side[1], depth = v->side[2];

    g->at = malloc(v->channels * depth * area * sizeof *g->at);
    if (!g->at)
        return tier_fail(err, TIER_ENOMEM, "no memory for its voxels");
    for (size_t c = 0; c < v->channels; c++)
        for (size_t z = 0; z < depth; z++)
            memcpy(g->at + (c * depth + z) * area, f[z].at + c * area, area * sizeof *g->at);
    return TIER_OK;
}

static enum tier_status stack(const struct spoke_dicom_slice *s, size_t n, char *const *names,
                              size_t frames, const char *orientation, struct spoke_grid *g,
                              struct tier_err *err) {
    struct spoke_nifti v = {.side = {s->columns, s->rows, frames}, .channels = s->samples};
    struct frame *f = calloc(frames, sizeof *f);
    double step[3];
    enum tier_status st = TIER_OK;
    size_t at = 0;

    if (!f)
        return tier_fail(err, TIER_ENOMEM, "no memory for its slices");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < s[i].frames; k++, at++)
            f[at] = (struct frame){.file = i,
                                   .place = s[i].places[k],
                                   .at = s[i].at + k * s->samples * s->rows * s->columns};
    assert(frames > 0 && at == frames); /* a slice has a frame at least */
    if (frames == 1) {
        place_single(&f->place, &v);
    } else {
        TIER_TRY_OUT(measure(f, frames, names, err));
        qsort(f, frames, sizeof *f, by_place);
        TIER_TRY_OUT(step_of(f, frames, names, step, err));
        set_affine(&f->place, step, &v);
    }
    TIER_TRY_OUT(join(f, &v, g, err));
    if (v.spacing[0] == 0.0)
        orientation = NULL; /* it lies nowhere */
    st = spoke_nifti_orient(&v, orientation, g, err);
out:
    free(f);
    return st;
}

enum tier_status spoke_dicom_stack(struct spoke_dicom_slice *slices, size_t n, char *const *names,
                                   const char *orientation, struct spoke_grid *grid_out,
                                   struct tier_err *err) {
    struct spoke_grid g = {0};
    uint64_t frames = 0;
    enum tier_status st = check_alike(slices, n, names, err);

    for (size_t i = 0; i < n; i++)
        frames += slices[i].frames;
    if (st == TIER_OK && frames > SPOKE_GRID_ELEMENTS_MAX /
                                      ((uint64_t)slices->rows * slices->columns * slices->samples))
        st = tier_fail(err, TIER_ELIMIT, "its slices have more than 2^27 voxels together");
    if (st == TIER_OK)
        st = stack(slices, n, names, (size_t)frames, orientation, &g, err);
    for (size_t i = 0; i < n; i++)
        spoke_dicom_slice_release(&slices[i]);
    if (st == TIER_OK)
        *grid_out = g;
    else
        spoke_grid_release(&g);
    return st;
}

/* ---- public -------------------------------------------------------------------------------- */

/*
 * Modalities of images and what goes with them (PS3.3 C.7.3.1.1.1). Any other word is not told: in
 * a wrong file it may be anything, a name even.
 */
static const char *modality_text(const char *modality) {
    static const char *const defined[] = {
        "AR",       "AU",  "BI",  "BMD", "CR",  "CT",     "DG",      "DOC",    "DX",
        "ECG",      "EPS", "ES",  "GM",  "HC",  "HD",     "IO",      "IOL",    "IVOCT",
        "IVUS",     "KER", "KO",  "LEN", "LS",  "M3D",    "MG",      "MR",     "NM",
        "OAM",      "OCT", "OP",  "OPM", "OPT", "OPV",    "OSS",     "OT",     "PR",
        "PT",       "PX",  "REG", "RF",  "RG",  "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD",
        "RTSTRUCT", "SEG", "SM",  "SR",  "TG",  "US",     "VA",      "XA",     "XC"};

    for (size_t i = 0; i < sizeof defined / sizeof defined[0]; i++)
        if (strcmp(modality, defined[i]) == 0)
            return defined[i];
    return modality[0] ? "another one" : "not said";
}

static enum tier_status read_named(int folder, const char *name, const char *modality,
                                   struct spoke_dicom_slice *out, struct tier_err *err) {
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return tier_fail_errno(err, TIER_EDATA, "the file it names cannot be opened");
    enum tier_status st = spoke_dicom_read(fd, out, err);
    close(fd);
    if (st == TIER_OK && modality && strcmp(out->modality, modality) != 0) {
        st = tier_fail(err, TIER_EDATA, "its modality is %s where the schema wants %s",
                       modality_text(out->modality), modality);
        spoke_dicom_slice_release(out);
    }
    return st;
}

static enum tier_status load_folder(int folder, const char *orientation, const char *modality,
                                    bool named, struct spoke_grid *out, struct tier_err *err) {
    char file[FILE_TEXT_BYTES];
    struct spoke_dicom_slice *slices = NULL;
    struct spoke_names names = {0};
    uint64_t all = 0;
    size_t done = 0;
    enum tier_status st;

    TIER_TRY_OUT(list_series(folder, &names, err));
    slices = calloc(names.n, sizeof *slices);
    if (!slices) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for %zu files", names.n);
        goto out;
    }
    for (; done < names.n; done++) {
        struct spoke_dicom_slice *s = &slices[done];
        if (read_named(folder, names.at[done], modality, s, err) != TIER_OK) {
            st = tier_err_prefix(err, "file %s of %zu in the folder",
                                 file_text(named ? names.at : NULL, done, file, sizeof file),
                                 names.n);
            goto out;
        }
        all += (uint64_t)s->frames * s->samples * s->rows * s->columns;
        if (all > SPOKE_GRID_ELEMENTS_MAX) {
            st = tier_fail(err, TIER_ELIMIT, "its slices have more than 2^27 voxels together");
            goto out;
        }
    }
    st = spoke_dicom_stack(slices, names.n, named ? names.at : NULL, orientation, out, err);
out:
    for (size_t i = 0; slices && i < names.n; i++)
        spoke_dicom_slice_release(&slices[i]);
    free(slices);
    spoke_names_release(&names);
    return st;
}

enum tier_status spoke_dicom_load(int at, const char *name, const char *orientation,
                                  const char *modality, bool named, struct spoke_grid *grid_out,
                                  struct tier_err *err) {
    struct spoke_dicom_slice one = {0};
    struct stat info;

    if (fstatat(at, name, &info, 0) != 0)
        return tier_fail_errno(err, TIER_EDATA, "the file it names cannot be opened");
    if (!S_ISDIR(info.st_mode)) {
        TIER_TRY(read_named(at, name, modality, &one, err));
        return spoke_dicom_stack(&one, 1, NULL, orientation, grid_out, err);
    }
    int folder = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return tier_fail_errno(err, TIER_EDATA, "the folder it names cannot be opened");
    enum tier_status st = load_folder(folder, orientation, modality, named, grid_out, err);
    close(folder);
    return st;
}
