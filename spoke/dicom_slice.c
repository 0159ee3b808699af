/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files are handed to the tools as descriptors, and what a decoder writes lies in memory (memfd),
 * so that neither names nor pixels of patients come to stand anywhere else.
 */
#include "spoke/dicom_slice.h"
#include "spoke/process.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOOL_MS 60000u
#define TOOL_MEMORY_MAX (UINT64_C(4) << 30)
#define JSON_BYTES_MAX (SPOKE_DICOM_BYTES_MAX / 3 * 4 + (UINT64_C(16) << 20))
#define HEADER_MAX 4096u
#define NO_UNICODE 80 /* dcm2json's exit status for it */

/* ---- the transfer syntax ------------------------------------------------------------------- */

enum way { AS_IT_IS, JPEG, JPEG_LS, RLE, NO_WAY };

static const struct {
    const char *uid, *name;
    enum way way;
} syntaxes[] = {
    {"1.2.840.10008.1.2", "implicit VR little endian", AS_IT_IS},
    {"1.2.840.10008.1.2.1", "explicit VR little endian", AS_IT_IS},
    {"1.2.840.10008.1.2.1.99", "deflated explicit VR little endian", AS_IT_IS},
    {"1.2.840.10008.1.2.2", "explicit VR big endian", AS_IT_IS},
    {"1.2.840.10008.1.2.4.50", "JPEG baseline", JPEG},
    {"1.2.840.10008.1.2.4.51", "JPEG extended", JPEG},
    {"1.2.840.10008.1.2.4.57", "JPEG lossless", JPEG},
    {"1.2.840.10008.1.2.4.70", "JPEG lossless, first-order", JPEG},
    {"1.2.840.10008.1.2.4.80", "JPEG-LS lossless", JPEG_LS},
    {"1.2.840.10008.1.2.4.81", "JPEG-LS near-lossless", JPEG_LS},
    {"1.2.840.10008.1.2.5", "RLE lossless", RLE},
    {"1.2.840.10008.1.2.4.90", "JPEG 2000 lossless", NO_WAY},
    {"1.2.840.10008.1.2.4.91", "JPEG 2000", NO_WAY},
    {"1.2.840.10008.1.2.4.92", "JPEG 2000 part 2", NO_WAY},
    {"1.2.840.10008.1.2.4.93", "JPEG 2000 part 2", NO_WAY},
    {"1.2.840.10008.1.2.4.201", "HTJ2K lossless", NO_WAY},
    {"1.2.840.10008.1.2.4.202", "HTJ2K lossless", NO_WAY},
    {"1.2.840.10008.1.2.4.203", "HTJ2K", NO_WAY},
};

static uint32_t little(const uint8_t *at, unsigned n) {
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint32_t)at[i] << (8 * i);
    return v;
}

/* Digits and dots, padded with a zero byte or, against the standard, a space. */
static bool take_uid(const uint8_t *at, size_t n, char *out) {
    while (n > 0 && (at[n - 1] == '\0' || at[n - 1] == ' '))
        n--;
    if (n == 0 || n > SPOKE_DICOM_UID_LEN)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((at[i] < '0' || at[i] > '9') && at[i] != '.')
            return false;
    memcpy(out, at, n);
    out[n] = '\0';
    return true;
}

enum tier_status spoke_dicom_syntax(const void *bytes, size_t n,
                                    char uid_out[SPOKE_DICOM_UID_LEN + 1], struct tier_err *err) {
    const uint8_t *b = bytes;
    size_t at = 132;

    uid_out[0] = '\0';
    if (n < 132 || memcmp(b + 128, "DICM", 4) != 0)
        return TIER_OK;
    /* The file's meta information, group 2, is explicit VR little endian always. */
    while (n - at >= 8 && little(b + at, 2) == 2) {
        static const char *const long_vrs[] = {"OB", "OW", "UN", "SQ", "UT"};
        uint32_t element = little(b + at + 2, 2), length = little(b + at + 6, 2);
        size_t value = at + 8;
        for (size_t i = 0; i < sizeof long_vrs / sizeof long_vrs[0]; i++) {
            if (memcmp(b + at + 4, long_vrs[i], 2) != 0)
                continue;
            if (n - at < 12)
                return tier_fail(err, TIER_EDATA, "the file is cut off or damaged");
            length = little(b + at + 8, 4);
            value = at + 12;
        }
        if (length > n - value)
            return tier_fail(err, TIER_EDATA, "the file is cut off or damaged");
        if (element == 0x10)
            return take_uid(b + value, length, uid_out)
                       ? TIER_OK
                       : tier_fail(err, TIER_EDATA, "its transfer syntax is no UID");
        at = value + length;
    }
    return tier_fail(err, TIER_EDATA, "its header names no transfer syntax");
}

/* ---- elements in JSON ---------------------------------------------------------------------- */

static const json_t *values_of(const json_t *set, const char *tag) {
    return json_object_get(json_object_get(set, tag), "Value");
}

static bool number_of(const json_t *v, double *out) {
    char *end;

    if (json_is_number(v)) {
        *out = json_number_value(v);
        return isfinite(*out);
    }
    if (!json_is_string(v) || !json_string_value(v)[0])
        return false;
    *out = strtod(json_string_value(v), &end); /* decimal strings that are not quite numbers */
    return *end == '\0' && isfinite(*out);
}

static bool numbers(const json_t *set, const char *tag, size_t n, double *out) {
    const json_t *v = values_of(set, tag);

    for (size_t i = 0; i < n; i++)
        if (!number_of(json_array_get(v, i), &out[i]))
            return false;
    return json_array_size(v) == n;
}

static bool text_is(const json_t *set, const char *tag, const char *want) {
    const char *s = json_string_value(json_array_get(values_of(set, tag), 0));
    return s && strcmp(s, want) == 0;
}

/* Spaces at the ends of a code string mean nothing; what is none becomes "". */
static void take_modality(const json_t *set, char out[SPOKE_DICOM_MODALITY_LEN + 1]) {
    const char *s = json_string_value(json_array_get(values_of(set, "00080060"), 0));

    s = s ? s + strspn(s, " ") : "";
    size_t n = strlen(s);
    while (n > 0 && s[n - 1] == ' ')
        n--;
    if (n > SPOKE_DICOM_MODALITY_LEN || strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_ ") < n)
        n = 0;
    memcpy(out, s, n);
    out[n] = '\0';
}

static bool has(const json_t *set, const char *tag) {
    return json_object_get(set, tag) != NULL;
}

/* A whole number from `least` to `most`; `absent` where there is no such element. */
static bool whole(const json_t *set, const char *tag, double absent, double least, double most,
                  size_t *out) {
    double v = absent;

    if (has(set, tag) && !numbers(set, tag, 1, &v))
        return false;
    if (!(v >= least && v <= most) || v != floor(v))
        return false;
    *out = (size_t)v;
    return true;
}

/* ---- pixels -------------------------------------------------------------------------------- */

struct layout {
    size_t bytes, stored, is_signed, planar; /* of an element: bytes allocated, bits used */
    bool inverted;
};

static enum tier_status take_layout(const json_t *set, struct spoke_dicom_slice *s,
                                    struct layout *l, struct tier_err *err) {
    size_t allocated, high;

    if (!whole(set, "00280010", 0, 1, 65535, &s->rows) ||
        !whole(set, "00280011", 0, 1, 65535, &s->columns))
        return tier_fail(err, TIER_EDATA, "it has no image: rows or columns are not there");
    if (!whole(set, "00280008", 1, 1, SPOKE_DICOM_FRAMES_MAX, &s->frames))
        return tier_fail(err, TIER_EDATA, "its number of frames is none from 1 to %u",
                         SPOKE_DICOM_FRAMES_MAX);
    bool grey = text_is(set, "00280004", "MONOCHROME2"), rgb = text_is(set, "00280004", "RGB");
    l->inverted = text_is(set, "00280004", "MONOCHROME1");
    if (!grey && !rgb && !l->inverted)
        return tier_fail(err, TIER_EDATA,
                         "its photometric interpretation is not read: MONOCHROME1, MONOCHROME2 "
                         "and RGB are");
    s->samples = rgb ? 3 : 1;
    size_t samples;
    if (!whole(set, "00280002", 1, 1, 4, &samples) || samples != s->samples ||
        !whole(set, "00280006", 0, 0, 1, &l->planar))
        return tier_fail(err, TIER_EDATA,
                         "its samples do not go with its photometric "
                         "interpretation");
    if (!whole(set, "00280100", 0, 8, 32, &allocated) || allocated % 8 || allocated == 24 ||
        !whole(set, "00280101", (double)allocated, 1, (double)allocated, &l->stored) ||
        !whole(set, "00280102", (double)l->stored - 1, 0, 31, &high) || high + 1 != l->stored ||
        !whole(set, "00280103", 0, 0, 1, &l->is_signed))
        return tier_fail(err, TIER_EDATA,
                         "its bits are not read: 8, 16 or 32 allocated, and those stored the "
                         "lowest, are");
    l->bytes = allocated / 8;
    if (has(set, "00283000"))
        return tier_fail(err, TIER_EDATA,
                         "it has a modality LUT: a rescale slope and intercept "
                         "are read");
    uint64_t n = (uint64_t)s->rows * s->columns * s->samples;
    if (n > SPOKE_GRID_ELEMENTS_MAX / s->frames)
        return tier_fail(err, TIER_ELIMIT, "it claims more than 2^27 voxels");
    return TIER_OK;
}

/* Base64 to bytes of its own; *n_out is 0 where it is none. */
static uint8_t *unpack(const json_t *element, size_t *n_out) {
    const json_t *text = json_object_get(element, "InlineBinary");
    size_t n = json_string_length(text);
    const char *s = json_string_value(text);
    uint8_t *bytes = s && n % 4 == 0 && n <= JSON_BYTES_MAX ? malloc(n / 4 * 3 + 1) : NULL;

    *n_out = 0;
    if (!bytes)
        return NULL;
    int got = EVP_DecodeBlock(bytes, (const uint8_t *)s, (int)n);
    for (size_t i = 0; got > 0 && i < 2 && i < n; i++)
        got -= s[n - 1 - i] == '=';
    *n_out = got > 0 ? (size_t)got : 0;
    return bytes;
}

static double stored_value(const uint8_t *at, const struct layout *l) {
    uint32_t mask = l->stored == 32 ? UINT32_MAX : (UINT32_C(1) << l->stored) - 1;
    uint32_t v = little(at, (unsigned)l->bytes) & mask;

    if (l->inverted) /* max + min - v, which in two's complement is every bit the other */
        v = ~v & mask;
    if (l->is_signed && v >> (l->stored - 1))
        return (double)v - ldexp(1.0, (int)l->stored);
    return v;
}

static enum tier_status take_pixels(const json_t *set, const struct layout *l,
                                    struct spoke_dicom_slice *s, struct tier_err *err) {
    size_t area = s->rows * s->columns, n = area * s->samples * s->frames, got;

    if (!has(set, "7FE00010"))
        return tier_fail(err, TIER_EDATA, "it has no pixels, or pixels of floating point");
    uint8_t *raw = unpack(json_object_get(set, "7FE00010"), &got);
    s->at = raw && got >= n * l->bytes ? malloc(n * sizeof *s->at) : NULL;
    if (!s->at) {
        free(raw);
        return got < n * l->bytes ? tier_fail(err, TIER_EDATA, "it has fewer pixels than it claims")
                                  : tier_fail(err, TIER_ENOMEM, "no memory for its pixels");
    }
    for (size_t f = 0; f < s->frames; f++) {
        const struct spoke_dicom_place *p = &s->places[f];
        for (size_t c = 0; c < s->samples; c++) {
            size_t first = f * s->samples * area + (l->planar ? c * area : c);
            size_t step = l->planar ? 1 : s->samples;
            float *to = s->at + (f * s->samples + c) * area;
            for (size_t i = 0; i < area; i++) {
                const uint8_t *from = raw + (first + i * step) * l->bytes;
                to[i] = (float)(stored_value(from, l) * p->slope + p->offset);
            }
        }
    }
    free(raw);
    return TIER_OK;
}

/* ---- places -------------------------------------------------------------------------------- */

/*
 * Where an element of a frame may stand: in its own functional group, in those of all frames, or,
 * as in images of a single frame, at the top.
 */
static const json_t *holder(const json_t *set, size_t frame, const char *group, const char *tag) {
    const json_t *own = json_array_get(values_of(set, "52009230"), frame);
    const json_t *shared = json_array_get(values_of(set, "52009229"), 0);
    const json_t *at = json_array_get(values_of(own, group), 0);

    if (!has(at, tag))
        at = json_array_get(values_of(shared, group), 0);
    return has(at, tag) ? at : set;
}

static bool unit_vectors(double along[2][3]) {
    double dot = 0.0;

    for (int i = 0; i < 2; i++) {
        double length = 0.0;
        for (int k = 0; k < 3; k++)
            length += along[i][k] * along[i][k];
        if (fabs(length - 1.0) > 1e-2)
            return false;
        for (int k = 0; k < 3; k++)
            along[i][k] /= sqrt(length);
    }
    for (int k = 0; k < 3; k++)
        dot += along[0][k] * along[1][k];
    return fabs(dot) < 1e-2;
}

static bool usable_spacing(double v) {
    return v > 1e-4 && v < 1e4;
}

static enum tier_status take_place(const json_t *set, size_t frame, bool alone,
                                   struct spoke_dicom_place *p, struct tier_err *err) {
    const json_t *at = holder(set, frame, "00209113", "00200032");
    double six[6];

    bool position = (alone || at != set) && numbers(at, "00200032", 3, p->position);
    bool direction = numbers(holder(set, frame, "00209116", "00200037"), "00200037", 6, six);
    for (int i = 0; position && i < 3; i++)
        if (fabs(p->position[i]) > 1e6) /* and no sum or product of what is placed is infinite */
            return tier_fail(err, TIER_EDATA, "its position is more than a kilometre away");
    p->placed = position && direction;
    for (int i = 0; p->placed && i < 6; i++)
        p->along[i / 3][i % 3] = six[i];
    if (p->placed && !unit_vectors(p->along))
        return tier_fail(err, TIER_EDATA, "its orientation is no two directions at right angles");
    const char *tag = "00280030";
    at = holder(set, frame, "00289110", tag);
    if (!has(at, tag)) /* as X-rays have it, at the detector */
        tag = "00181164";
    if (has(at, tag) && (!numbers(at, tag, 2, p->spacing) || !usable_spacing(p->spacing[0]) ||
                         !usable_spacing(p->spacing[1])))
        return tier_fail(err, TIER_EDATA, "its pixel spacing is no two lengths");
    at = holder(set, frame, "00289110", "00180050");
    if (!numbers(at, "00180050", 1, &p->thickness) || !usable_spacing(p->thickness))
        p->thickness = 0.0;
    p->slope = 1.0;
    at = holder(set, frame, "00289145", "00281053");
    if ((has(at, "00281053") && !numbers(at, "00281053", 1, &p->slope)) ||
        (has(at, "00281052") && !numbers(at, "00281052", 1, &p->offset)) || p->slope == 0.0)
        return tier_fail(err, TIER_EDATA, "its rescale slope or intercept is no number");
    return TIER_OK;
}

static enum tier_status parse(const json_t *set, struct spoke_dicom_slice *s,
                              struct tier_err *err) {
    struct layout l = {0};

    TIER_TRY(take_layout(set, s, &l, err));
    const char *series = json_string_value(json_array_get(values_of(set, "0020000E"), 0));
    if (series && !take_uid((const uint8_t *)series, strlen(series), s->series))
        return tier_fail(err, TIER_EDATA, "the UID of its series is none");
    take_modality(set, s->modality);
    s->places = calloc(s->frames, sizeof *s->places);
    if (!s->places)
        return tier_fail(err, TIER_ENOMEM, "no memory for its frames");
    for (size_t f = 0; f < s->frames; f++)
        TIER_TRY(take_place(set, f, s->frames == 1, &s->places[f], err));
    return take_pixels(set, &l, s, err);
}

/* Parsed, a value takes some 40 bytes, of 2 in the file; pixels are one text without commas. */
static bool has_too_many_values(const char *json, size_t n) {
    size_t commas = 0;
    for (size_t i = 0; i < n; i++)
        commas += json[i] == ',';
    return commas > SPOKE_DICOM_VALUES_MAX;
}

enum tier_status spoke_dicom_parse(const void *json, size_t n, struct spoke_dicom_slice *slice_out,
                                   struct tier_err *err) {
    struct spoke_dicom_slice s = {0};

    if (has_too_many_values(json, n))
        return tier_fail(err, TIER_ELIMIT, "the file has more than %u values beside its pixels",
                         SPOKE_DICOM_VALUES_MAX);
    json_t *set = json_loadb(json, n, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(set)) {
        json_decref(set);
        return tier_fail(err, TIER_EDATA, "the file is damaged: DCMTK's text of it ends early");
    }
    enum tier_status st = parse(set, &s, err);
    json_decref(set);
    if (st == TIER_OK)
        *slice_out = s;
    else
        spoke_dicom_slice_release(&s);
    return st;
}

void spoke_dicom_slice_release(struct spoke_dicom_slice *s) {
    free(s->places);
    free(s->at);
    *s = (struct spoke_dicom_slice){0};
}

/* ---- the tools ----------------------------------------------------------------------------- */

/* TIER_EDATA where the tool says no: its words name files and patients. */
static enum tier_status run_tool(const char *const *argv, const int *files, size_t count,
                                 uint8_t **output, size_t *bytes, struct tier_err *err) {
    struct spoke_process p = {
        .argv = argv,
        .files_count = count,
        .output_max = JSON_BYTES_MAX,
        .file_max = SPOKE_DICOM_BYTES_MAX + HEADER_MAX,
        .memory_max = TOOL_MEMORY_MAX,
        .timeout_ms = TOOL_MS,
    };
    int code = 0;

    memcpy(p.files, files, count * sizeof *files);
    enum tier_status st = spoke_process_run(&p, &code, output, bytes, err);
    if (st == TIER_ENOTFOUND)
        return tier_fail(err, st, "DCMTK's program %s is not installed (Debian's package dcmtk)",
                         argv[0]);
    TIER_TRY(st);
    if (code == 0)
        return TIER_OK;
    free(*output);
    if (code == NO_UNICODE)
        return tier_fail(err, TIER_EDATA,
                         "it holds letters of a character set that it does not name (%s refuses "
                         "it)",
                         argv[0]);
    return tier_fail(err, TIER_EDATA,
                     "the file is damaged, cut off or not DICOM as its header says (%s refuses it)",
                     argv[0]);
}

static enum tier_status to_json(int fd, struct spoke_dicom_slice *out, struct tier_err *err) {
    static const char *const argv[] = {"dcm2json", "-q", "-fc", "/dev/fd/3", NULL};
    uint8_t *json = NULL;
    size_t n = 0;

    TIER_TRY(run_tool(argv, &fd, 1, &json, &n, err));
    enum tier_status st = spoke_dicom_parse(json, n, out, err);
    free(json);
    return st;
}

static enum tier_status unpacked(int fd, enum way way, struct spoke_dicom_slice *out,
                                 struct tier_err *err) {
    static const char *const tools[] = {
        [JPEG] = "dcmdjpeg", [JPEG_LS] = "dcmdjpls", [RLE] = "dcmdrle"};
    const char *argv[] = {tools[way], "-q", "/dev/fd/3", "/dev/fd/4", NULL};
    int files[2] = {fd, memfd_create("dicom", MFD_CLOEXEC)};
    uint8_t *nothing = NULL;
    size_t n = 0;

    if (files[1] < 0)
        return tier_fail_errno(err, TIER_ENOMEM, "no memory to unpack the file");
    enum tier_status st = run_tool(argv, files, 2, &nothing, &n, err);
    if (st == TIER_OK) {
        free(nothing);
        st = to_json(files[1], out, err);
    }
    close(files[1]);
    return st;
}

enum tier_status spoke_dicom_read(int fd, struct spoke_dicom_slice *slice_out,
                                  struct tier_err *err) {
    char uid[SPOKE_DICOM_UID_LEN + 1];
    uint8_t header[HEADER_MAX];
    struct stat info;

    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        return tier_fail(err, TIER_EDATA, "it is no regular file");
    if ((uint64_t)info.st_size > SPOKE_DICOM_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "the file has more than 256 MiB");
    ssize_t n = pread(fd, header, sizeof header, 0);
    if (n < 0)
        return tier_fail_errno(err, TIER_EIO, "the file");
    TIER_TRY(spoke_dicom_syntax(header, (size_t)n, uid, err));
    if (!uid[0])
        return to_json(fd, slice_out, err);
    for (size_t i = 0; i < sizeof syntaxes / sizeof syntaxes[0]; i++) {
        if (strcmp(uid, syntaxes[i].uid) != 0)
            continue;
        if (syntaxes[i].way == NO_WAY)
            return tier_fail(err, TIER_EDATA,
                             "its transfer syntax is %s, which DCMTK does not decode: have it "
                             "saved uncompressed, as JPEG, JPEG-LS or RLE",
                             syntaxes[i].name);
        return syntaxes[i].way == AS_IT_IS ? to_json(fd, slice_out, err)
                                           : unpacked(fd, syntaxes[i].way, slice_out, err);
    }
    return tier_fail(err, TIER_EDATA, "its transfer syntax, %s, is none that is read", uid);
}
