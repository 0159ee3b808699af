/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A compressed file's claim cannot be compared with its length, but deflate makes at most 1,032
 * bytes out of one: a header that claims more is refused before its voxels get memory.
 */
#include "spoke/nifti.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define DEFLATE_RATIO_MAX 1040u
#define VOXELS_AT_ONCE 16384u

/* ---- the header ---------------------------------------------------------------------------- */

struct bytes {
    const uint8_t *at;
    bool swapped;
};

static uint64_t get(const struct bytes *b, size_t at, unsigned n) {
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)b->at[at + (b->swapped ? n - 1 - i : i)] << (8 * i);
    return v;
}

static int64_t get_i16(const struct bytes *b, size_t at) {
    return (int16_t)(uint16_t)get(b, at, 2);
}

static double get_f32(const struct bytes *b, size_t at) {
    uint32_t v = (uint32_t)get(b, at, 4);
    float f;
    memcpy(&f, &v, sizeof f);
    return f;
}

static double get_f64(const struct bytes *b, size_t at) {
    uint64_t v = get(b, at, 8);
    double d;
    memcpy(&d, &v, sizeof d);
    return d;
}

/* What NIfTI-1 and NIfTI-2 say at different places. */
struct fields {
    int64_t dim[8];
    double pixdim[8], slope, offset, at;
    double quatern[3], shift[3], srow[3][4];
    int64_t type, qform, sform;
};

static void read_v1(const struct bytes *b, struct fields *f) {
    for (size_t i = 0; i < 8; i++) {
        f->dim[i] = get_i16(b, 40 + 2 * i);
        f->pixdim[i] = get_f32(b, 76 + 4 * i);
    }
    f->type = get_i16(b, 70);
    f->at = get_f32(b, 108);
    f->slope = get_f32(b, 112);
    f->offset = get_f32(b, 116);
    f->qform = get_i16(b, 252);
    f->sform = get_i16(b, 254);
    for (size_t i = 0; i < 3; i++) {
        f->quatern[i] = get_f32(b, 256 + 4 * i);
        f->shift[i] = get_f32(b, 268 + 4 * i);
        for (size_t k = 0; k < 4; k++)
            f->srow[i][k] = get_f32(b, 280 + 16 * i + 4 * k);
    }
}

static void read_v2(const struct bytes *b, struct fields *f) {
    for (size_t i = 0; i < 8; i++) {
        f->dim[i] = (int64_t)get(b, 16 + 8 * i, 8);
        f->pixdim[i] = get_f64(b, 104 + 8 * i);
    }
    f->type = get_i16(b, 12);
    f->at = (double)(int64_t)get(b, 168, 8);
    f->slope = get_f64(b, 176);
    f->offset = get_f64(b, 184);
    f->qform = (int32_t)(uint32_t)get(b, 344, 4);
    f->sform = (int32_t)(uint32_t)get(b, 348, 4);
    for (size_t i = 0; i < 3; i++) {
        f->quatern[i] = get_f64(b, 352 + 8 * i);
        f->shift[i] = get_f64(b, 376 + 8 * i);
        for (size_t k = 0; k < 4; k++)
            f->srow[i][k] = get_f64(b, 400 + 32 * i + 8 * k);
    }
}

static enum tier_status take_size(const struct fields *f, struct spoke_nifti *out,
                                  struct tier_err *err) {
    uint64_t all = 1;

    if (f->dim[0] < 1 || f->dim[0] > 7)
        return tier_fail(err, TIER_EDATA, "its header is not that of a NIfTI file");
    out->side[0] = out->side[1] = out->side[2] = out->channels = 1;
    for (int i = 1; i <= f->dim[0]; i++) {
        int64_t side = f->dim[i] == 0 && i > 3 ? 1 : f->dim[i];
        if (side < 1)
            return tier_fail(err, TIER_EDATA, "its header gives an axis without voxels");
        if ((uint64_t)side > SPOKE_GRID_ELEMENTS_MAX / all)
            return tier_fail(err, TIER_ELIMIT, "it claims more than 2^27 voxels");
        all *= (uint64_t)side;
        if (i <= 3)
            out->side[i - 1] = (size_t)side;
        else
            out->channels *= (size_t)side;
    }
    return TIER_OK;
}

static bool take_type(const struct fields *f, bool swapped, struct spoke_npy *out) {
    static const struct {
        int64_t code;
        enum spoke_npy_type type;
        uint32_t bytes;
    } types[] = {
        {2, SPOKE_NPY_U8, 1},     {4, SPOKE_NPY_I16, 2},   {8, SPOKE_NPY_I32, 4},
        {16, SPOKE_NPY_F32, 4},   {64, SPOKE_NPY_F64, 8},  {256, SPOKE_NPY_I8, 1},
        {512, SPOKE_NPY_U16, 2},  {768, SPOKE_NPY_U32, 4}, {1024, SPOKE_NPY_I64, 8},
        {1280, SPOKE_NPY_U64, 8},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].code != f->type)
            continue;
        *out = (struct spoke_npy){
            .type = types[i].type, .swapped = swapped, .item_bytes = types[i].bytes};
        return true;
    }
    return false;
}

/* Method 2 of the standard: a rotation as a unit quaternion with a >= 0, and the side of z. */
static void from_quaternion(const struct fields *f, double m[3][4]) {
    double b = f->quatern[0], c = f->quatern[1], d = f->quatern[2];
    double a = 1.0 - (b * b + c * c + d * d);
    double side = f->pixdim[0] < 0.0 ? -1.0 : 1.0;

    if (a < 1e-7) { /* rounded: half a turn */
        double length = sqrt(b * b + c * c + d * d);
        a = 0.0;
        b /= length;
        c /= length;
        d /= length;
    } else {
        a = sqrt(a);
    }
    const double r[3][3] = {
        {a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)},
        {2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)},
        {2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b},
    };
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 3; k++)
            m[i][k] = r[i][k] * f->pixdim[k + 1] * (k == 2 ? side : 1.0);
        m[i][3] = f->shift[i];
    }
}

static enum tier_status take_affine(struct fields *f, struct spoke_nifti *out,
                                    struct tier_err *err) {
    bool finite = true;

    for (int i = 1; i <= 3; i++) { /* the standard wants them above 0; files have 0 and below */
        f->pixdim[i] = fabs(f->pixdim[i]);
        if (f->pixdim[i] == 0.0)
            f->pixdim[i] = 1.0;
    }
    if (f->sform > 0) {
        memcpy(out->affine, f->srow, sizeof out->affine);
    } else if (f->qform > 0) {
        from_quaternion(f, out->affine);
    } else {
        memset(out->affine, 0, sizeof out->affine);
        for (int i = 0; i < 3; i++)
            out->affine[i][i] = f->pixdim[i + 1];
    }
    for (int k = 0; k < 3; k++) {
        double sum = 0.0;
        for (int i = 0; i < 3; i++) {
            finite = finite && isfinite(out->affine[i][k]) && isfinite(out->affine[i][3]);
            sum += out->affine[i][k] * out->affine[i][k];
        }
        out->spacing[k] = sqrt(sum);
        if (!finite || !(out->spacing[k] > 1e-6 && out->spacing[k] < 1e6))
            return tier_fail(err, TIER_EDATA,
                             "its header gives no affine: a spacing is 0, or no number");
    }
    return TIER_OK;
}

enum tier_status spoke_nifti_parse(const void *bytes, size_t n, struct spoke_nifti *out,
                                   struct tier_err *err) {
    struct spoke_nifti nifti = {0};
    struct fields f = {0};
    struct bytes b = {.at = bytes};
    int version = 0;

    for (int swapped = 0; swapped < 2 && n >= 348 && !version; swapped++) {
        b.swapped = swapped;
        uint64_t size = get(&b, 0, 4);
        version = size == 348 ? 1 : size == 540 ? 2 : 0;
    }
    if (version == 1 && memcmp(b.at + 344, "ni1", 4) == 0)
        return tier_fail(err, TIER_EDATA,
                         "it is one half of a .hdr and .img pair; a .nii or .nii.gz file would be "
                         "right");
    if (version == 0 || (version == 2 && n < 540) ||
        memcmp(b.at + (version == 1 ? 344 : 4), version == 1 ? "n+1" : "n+2", 4) != 0)
        return tier_fail(err, TIER_EDATA, "it is no NIfTI file, or cut off");
    if (version == 1)
        read_v1(&b, &f);
    else
        read_v2(&b, &f);
    TIER_TRY(take_size(&f, &nifti, err));
    if (!take_type(&f, b.swapped, &nifti.elements))
        return tier_fail(err, TIER_EDATA,
                         "its voxels are of a type that is not read: whole numbers of 8 to 64 "
                         "bits, float32 and float64 are");
    TIER_TRY(take_affine(&f, &nifti, err));
    if (!(f.at >= (version == 1 ? 348.0 : 540.0) && f.at <= (double)(1u << 24)))
        return tier_fail(err, TIER_EDATA, "its header does not say where the voxels begin");
    nifti.voxels_at = (uint64_t)f.at;
    bool scaled = f.slope != 0.0 && isfinite(f.slope) && isfinite(f.offset);
    nifti.slope = scaled ? f.slope : 1.0;
    nifti.offset = scaled ? f.offset : 0.0;
    *out = nifti;
    return TIER_OK;
}

/* ---- orientation --------------------------------------------------------------------------- */

/* The world axis of a letter (x to the right, y to the front, z to the head), and its sign. */
static int axis_of(char letter, double *sign) {
    static const char toward[] = "RAS", away[] = "LPI";

    for (int i = 0; i < 3; i++) {
        if (letter == toward[i] || letter == away[i]) {
            *sign = letter == toward[i] ? 1.0 : -1.0;
            return i;
        }
    }
    return -1;
}

bool spoke_orientation_valid(const char *text) {
    double sign = 1.0;
    int seen = 0;

    if (strlen(text) != 3)
        return false;
    for (int i = 0; i < 3; i++) {
        int axis = axis_of(text[i], &sign);
        if (axis < 0)
            return false;
        seen |= 1 << axis;
    }
    return seen == 7;
}

/*
 * Which voxel axis each axis of the grid is: the pairs of voxel and world axes with the greatest
 * cosines, one after another, as every viewer does it.
 */
static void choose_axes(const struct spoke_nifti *n, const char *orientation, int from[3],
                        bool mirrored[3]) {
    int world_of[3] = {-1, -1, -1};
    bool taken[3] = {false};

    for (int round = 0; round < 3; round++) {
        int best = -1, best_world = -1;
        double most = -1.0;
        for (int k = 0; k < 3; k++) {
            for (int w = 0; w < 3 && world_of[k] < 0; w++) {
                double cosine = fabs(n->affine[w][k]) / n->spacing[k];
                if (taken[w] || cosine <= most)
                    continue;
                most = cosine;
                best = k;
                best_world = w;
            }
        }
        world_of[best] = best_world;
        taken[best_world] = true;
    }
    for (int i = 0; i < 3; i++) {
        double sign = 1.0;
        int world = axis_of(orientation[i], &sign);
        for (int k = 0; k < 3; k++) {
            if (world_of[k] != world)
                continue;
            from[i] = k;
            mirrored[i] = n->affine[world][k] * sign < 0.0;
        }
    }
}

/* ---- voxels -------------------------------------------------------------------------------- */

/* gzread until n bytes are there, or skips them where `to` is NULL. */
static bool take_bytes(gzFile file, void *to, uint64_t n) {
    uint8_t waste[4096], *at = to;

    while (n > 0) {
        unsigned want = (unsigned)(n < sizeof waste ? n : sizeof waste);
        if (to)
            want = (unsigned)(n < (1u << 20) ? n : 1u << 20);
        int got = gzread(file, to ? at : waste, want);
        if (got <= 0)
            return false;
        if (to)
            at += got;
        n -= (unsigned)got;
    }
    return true;
}

static bool read_voxels(gzFile file, const struct spoke_nifti *n, uint64_t count, float *out) {
    uint8_t *raw = malloc((size_t)VOXELS_AT_ONCE * n->elements.item_bytes);
    double *wide = malloc(VOXELS_AT_ONCE * sizeof *wide);
    bool plain = n->slope == 1.0 && n->offset == 0.0, ok = raw && wide;

    for (uint64_t from = 0; ok && from < count; from += VOXELS_AT_ONCE) {
        size_t some = count - from < VOXELS_AT_ONCE ? (size_t)(count - from) : VOXELS_AT_ONCE;
        ok = take_bytes(file, raw, some * n->elements.item_bytes);
        if (ok && plain) {
            spoke_npy_floats(&n->elements, raw, some, out + from);
        } else if (ok) {
            spoke_npy_doubles(&n->elements, raw, some, wide);
            for (size_t i = 0; i < some; i++)
                out[from + i] = (float)(wide[i] * n->slope + n->offset);
        }
    }
    free(wide);
    free(raw);
    return ok;
}

/* The file's x, y, z to the grid's, by channel; the grid is of that shape already. */
static void permute(const float *in, const struct spoke_nifti *n, const int from[3], float *out) {
    const size_t stride[3] = {1, n->side[0], n->side[0] * n->side[1]};
    size_t volume = n->side[0] * n->side[1] * n->side[2];

    for (size_t c = 0; c < n->channels; c++)
        for (size_t z = 0; z < n->side[from[2]]; z++)
            for (size_t y = 0; y < n->side[from[1]]; y++)
                for (size_t x = 0; x < n->side[from[0]]; x++)
                    *out++ = in[c * volume + x * stride[from[0]] + y * stride[from[1]] +
                                z * stride[from[2]]];
}

enum tier_status spoke_nifti_orient(const struct spoke_nifti *n, const char *orientation,
                                    struct spoke_grid *g, struct tier_err *err) {
    int from[3] = {0, 1, 2};
    bool mirrored[3] = {false};

    if (orientation)
        choose_axes(n, orientation, from, mirrored);
    g->channels = n->channels;
    memcpy(g->from, from, sizeof g->from);
    for (int i = 0; i < 3; i++) { /* a grid's sides are z, y, x */
        g->side[i] = n->side[from[2 - i]];
        g->spacing[i] = n->spacing[from[2 - i]];
        g->mirrored[i] = mirrored[2 - i];
        for (int k = 0; k < 3; k++)
            g->affine[k][i] = n->affine[k][from[2 - i]];
        g->affine[i][3] = n->affine[i][3];
    }
    if (from[0] == 0 && from[1] == 1)
        return TIER_OK;
    float *turned = malloc(n->channels * g->side[0] * g->side[1] * g->side[2] * sizeof *turned);
    if (!turned)
        return tier_fail(err, TIER_ENOMEM, "no memory for its voxels");
    permute(g->at, n, from, turned);
    free(g->at);
    g->at = turned;
    return TIER_OK;
}

static enum tier_status load(gzFile file, uint64_t file_bytes, const char *orientation,
                             struct spoke_grid *g, struct tier_err *err) {
    uint8_t header[SPOKE_NIFTI_HEADER_MAX], more;
    struct spoke_nifti n;
    int code = Z_OK;

    int got = gzread(file, header, sizeof header);
    if (got < 0)
        return tier_fail(err, TIER_EDATA, "the file is damaged or cut off");
    TIER_TRY(spoke_nifti_parse(header, (size_t)got, &n, err));
    uint64_t count = (uint64_t)n.side[0] * n.side[1] * n.side[2] * n.channels;
    uint64_t claimed = n.voxels_at + count * n.elements.item_bytes;
    if (claimed > file_bytes * (gzdirect(file) ? 1 : DEFLATE_RATIO_MAX))
        return tier_fail(err, TIER_EDATA, "the file is damaged or cut off");
    g->at = malloc(count * sizeof *g->at);
    if (!g->at)
        return tier_fail(err, TIER_ENOMEM, "no memory for its voxels");
    /* Back to the beginning: the header may have been longer than what comes before the voxels. */
    bool ok = gzrewind(file) == 0 && take_bytes(file, NULL, n.voxels_at) &&
              read_voxels(file, &n, count, g->at);
    /* Past the last byte zlib compares the checksum, or finds none. */
    if (!ok || gzread(file, &more, 1) < 0 || (gzerror(file, &code), code != Z_OK))
        return tier_fail(err, TIER_EDATA, "the file is damaged or cut off");
    return spoke_nifti_orient(&n, orientation, g, err);
}

enum tier_status spoke_nifti_load(int fd, const char *orientation, struct spoke_grid *grid_out,
                                  struct tier_err *err) {
    struct spoke_grid g = {0};
    struct stat info;

    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return tier_fail(err, TIER_EDATA, "it is no regular file");
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    gzFile file = own < 0 ? NULL : gzdopen(own, "rb");
    if (!file) {
        if (own >= 0)
            close(own);
        return tier_fail(err, TIER_ENOMEM, "no memory to read it");
    }
    gzbuffer(file, 1u << 17);
    enum tier_status st = load(file, (uint64_t)info.st_size, orientation, &g, err);
    gzclose_r(file);
    if (st == TIER_OK)
        *grid_out = g;
    else
        spoke_grid_release(&g);
    return st;
}
