/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header is the text of a Python dictionary. Only the three keys that the format has are read,
 * by a reader that knows no other Python.
 */
#include "spoke/npy.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- the header ---------------------------------------------------------------------------- */

struct text {
    const char *at, *end;
};

static void skip_spaces(struct text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\t'))
        t->at++;
}

static bool take(struct text *t, char c) {
    skip_spaces(t);
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

static bool take_word(struct text *t, const char *word) {
    size_t n = strlen(word);

    skip_spaces(t);
    if ((size_t)(t->end - t->at) < n || memcmp(t->at, word, n) != 0)
        return false;
    t->at += n;
    return true;
}

/* 'text' or "text", without escapes; cut is a failure. */
static bool take_quoted(struct text *t, char *out, size_t size) {
    size_t n = 0;

    skip_spaces(t);
    if (t->at == t->end || (*t->at != '\'' && *t->at != '"'))
        return false;
    char quote = *t->at++;
    while (t->at < t->end && *t->at != quote && *t->at != '\\' && n + 1 < size)
        out[n++] = *t->at++;
    out[n] = '\0';
    return t->at < t->end && *t->at++ == quote;
}

static bool take_whole(struct text *t, uint64_t *out) {
    uint64_t v = 0;

    skip_spaces(t);
    const char *begin = t->at;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++) {
        v = v * 10 + (uint64_t)(*t->at - '0');
        if (v > SPOKE_NPY_SIDE_MAX)
            return false;
    }
    if (t->at < t->end && *t->at == 'L') /* Python 2 */
        t->at++;
    *out = v;
    return t->at > begin;
}

static bool take_shape(struct text *t, struct spoke_npy *out) {
    if (!take(t, '('))
        return false;
    while (!take(t, ')')) {
        if (out->axes == SPOKE_NPY_AXES_MAX || !take_whole(t, &out->side[out->axes]))
            return false;
        out->axes++;
        if (!take(t, ',')) {
            if (!take(t, ')'))
                return false;
            return true;
        }
    }
    return true;
}

/* "<f4", "|u1", ">U12". */
static bool type_of(const char *descr, struct spoke_npy *out) {
    static const struct {
        char code;
        uint32_t bytes;
        enum spoke_npy_type type;
    } types[] = {
        {'b', 1, SPOKE_NPY_U8},  {'u', 1, SPOKE_NPY_U8},  {'i', 1, SPOKE_NPY_I8},
        {'u', 2, SPOKE_NPY_U16}, {'i', 2, SPOKE_NPY_I16}, {'u', 4, SPOKE_NPY_U32},
        {'i', 4, SPOKE_NPY_I32}, {'u', 8, SPOKE_NPY_U64}, {'i', 8, SPOKE_NPY_I64},
        {'f', 4, SPOKE_NPY_F32}, {'f', 8, SPOKE_NPY_F64},
    };
    uint64_t bytes = 0;

    if (strlen(descr) < 3 || !strchr("<>|=", descr[0]))
        return false;
    struct text digits = {.at = descr + 2, .end = descr + strlen(descr)};
    if (!take_whole(&digits, &bytes) || digits.at != digits.end || bytes == 0 || bytes > 4096)
        return false;
    out->swapped = descr[0] == '>';
    out->item_bytes = (uint32_t)bytes;
    if (descr[1] == 'S' || descr[1] == 'U') {
        out->type = descr[1] == 'S' ? SPOKE_NPY_BYTES : SPOKE_NPY_UNICODE;
        out->item_bytes *= descr[1] == 'S' ? 1 : 4;
        return true;
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].code != descr[1] || types[i].bytes != bytes)
            continue;
        out->type = types[i].type;
        return true;
    }
    return false;
}

static enum tier_status parse_dict(struct text *t, struct spoke_npy *out, struct tier_err *err) {
    char key[24], descr[24] = "";
    bool fortran = false, shape = false, order = false;

    if (!take(t, '{'))
        goto broken;
    while (!take(t, '}')) {
        if (!take_quoted(t, key, sizeof key) || !take(t, ':'))
            goto broken;
        if (strcmp(key, "descr") == 0 && !descr[0]) {
            if (!take_quoted(t, descr, sizeof descr))
                return tier_fail(err, TIER_EDATA,
                                 "its elements are records; plain numbers would be right");
        } else if (strcmp(key, "fortran_order") == 0 && !order) {
            order = true;
            fortran = take_word(t, "True");
            if (!fortran && !take_word(t, "False"))
                goto broken;
        } else if (strcmp(key, "shape") == 0 && !shape) {
            shape = true;
            if (!take_shape(t, out))
                return tier_fail(err, TIER_EDATA,
                                 "its shape is none, or has more than %u axes or a side of 2^32",
                                 SPOKE_NPY_AXES_MAX);
        } else {
            goto broken;
        }
        if (!take(t, ',')) {
            if (!take(t, '}'))
                goto broken;
            break;
        }
    }
    if (!descr[0] || !shape || !order)
        goto broken;
    if (!type_of(descr, out))
        return tier_fail(err, TIER_EDATA,
                         "its elements are of a type that is not read: whole numbers of 8 to 64 "
                         "bits, float32 and float64 would be right, for ids also texts");
    if (fortran && out->axes > 1)
        return tier_fail(err, TIER_EDATA,
                         "it is stored in Fortran order: save numpy.ascontiguousarray of it");
    return TIER_OK;
broken:
    return tier_fail(err, TIER_EDATA, "its header is not that of a .npy file");
}

enum tier_status spoke_npy_parse(const void *bytes, size_t n, struct spoke_npy *out,
                                 struct tier_err *err) {
    const uint8_t *b = bytes;
    struct spoke_npy npy = {.elements = 1};
    size_t fixed = 10, text = 0;

    if (n < 10 || memcmp(b, "\x93NUMPY", 6) != 0)
        return tier_fail(err, TIER_EDATA, "it is no .npy file");
    text = b[8] | (size_t)b[9] << 8;
    if (b[6] >= 2 && n >= 12) {
        fixed = 12;
        text |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    }
    if (b[6] < 1 || b[6] > 3 || text > SPOKE_NPY_HEADER_MAX || fixed + text > n)
        return tier_fail(err, TIER_EDATA, "its header is cut off, or longer than %u bytes",
                         SPOKE_NPY_HEADER_MAX);
    struct text t = {.at = (const char *)b + fixed, .end = (const char *)b + fixed + text};
    TIER_TRY(parse_dict(&t, &npy, err));
    for (uint32_t i = 0; i < npy.axes; i++) {
        if (npy.side[i] && npy.elements > SPOKE_NPY_BYTES_MAX / npy.side[i])
            npy.elements = SPOKE_NPY_BYTES_MAX;
        else
            npy.elements *= npy.side[i];
    }
    if (npy.elements > SPOKE_NPY_BYTES_MAX / npy.item_bytes)
        return tier_fail(err, TIER_EDATA, "it claims more than 2^42 bytes of elements");
    npy.header_bytes = (uint32_t)(fixed + text);
    *out = npy;
    return TIER_OK;
}

uint64_t spoke_npy_bytes(const struct spoke_npy *npy) {
    return npy->elements * npy->item_bytes;
}

bool spoke_npy_is_number(const struct spoke_npy *npy) {
    return npy->type < SPOKE_NPY_BYTES;
}

bool spoke_npy_is_integer(const struct spoke_npy *npy) {
    return npy->type < SPOKE_NPY_F32;
}

/* ---- the elements -------------------------------------------------------------------------- */

static uint64_t load(const uint8_t *p, uint32_t bytes, bool swapped) {
    uint64_t v = 0;
    for (uint32_t i = 0; i < bytes; i++)
        v |= (uint64_t)p[swapped ? bytes - 1 - i : i] << (8 * i);
    return v;
}

/* Two's complement of `bits` bits. */
static int64_t as_signed(uint64_t v, unsigned bits) {
    assert(bits >= 8 && bits <= 64);
    uint64_t sign = UINT64_C(1) << (bits - 1);
    return (int64_t)((v ^ sign) - sign);
}

static double number_at(const struct spoke_npy *npy, const uint8_t *p) {
    uint64_t v = load(p, npy->item_bytes, npy->swapped);
    uint32_t low = (uint32_t)v;
    double d;
    float f;

    switch (npy->type) {
    case SPOKE_NPY_I8:
    case SPOKE_NPY_I16:
    case SPOKE_NPY_I32:
    case SPOKE_NPY_I64:
        return (double)as_signed(v, npy->item_bytes * 8);
    case SPOKE_NPY_F32:
        memcpy(&f, &low, sizeof f);
        return f;
    case SPOKE_NPY_F64:
        memcpy(&d, &v, sizeof d);
        return d;
    default:
        return (double)v;
    }
}

void spoke_npy_doubles(const struct spoke_npy *npy, const void *raw, size_t n, double *out) {
    const uint8_t *p = raw;
    for (size_t i = 0; i < n; i++)
        out[i] = number_at(npy, p + i * npy->item_bytes);
}

/* What images are made of goes by loops that a compiler sees through. */
void spoke_npy_floats(const struct spoke_npy *npy, const void *raw, size_t n, float *out) {
    const uint8_t *p = raw;

    if (npy->type == SPOKE_NPY_U8) {
        for (size_t i = 0; i < n; i++)
            out[i] = p[i];
    } else if (npy->type == SPOKE_NPY_U16 && !npy->swapped) {
        for (size_t i = 0; i < n; i++)
            out[i] = (float)(p[2 * i] | p[2 * i + 1] << 8);
    } else if (npy->type == SPOKE_NPY_I16 && !npy->swapped) {
        for (size_t i = 0; i < n; i++)
            out[i] = (float)(int16_t)(uint16_t)(p[2 * i] | p[2 * i + 1] << 8);
    } else if (npy->type == SPOKE_NPY_F32 && !npy->swapped) {
        memcpy(out, p, n * sizeof *out);
    } else {
        for (size_t i = 0; i < n; i++)
            out[i] = (float)number_at(npy, p + i * npy->item_bytes);
    }
}

/* UTF-8; what is no code point becomes '?'. */
static size_t put_code(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    if (c > 0x10ffff) {
        out[0] = '?';
        return 1;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

bool spoke_npy_text(const struct spoke_npy *npy, const void *raw, char *out, size_t size) {
    const uint8_t *p = raw;
    uint32_t step = npy->type == SPOKE_NPY_UNICODE ? 4 : 1;
    size_t n = 0;

    if (spoke_npy_is_integer(npy)) {
        uint64_t v = load(p, npy->item_bytes, npy->swapped);
        bool negative = npy->type == SPOKE_NPY_I8 || npy->type == SPOKE_NPY_I16 ||
                        npy->type == SPOKE_NPY_I32 || npy->type == SPOKE_NPY_I64;
        if (negative)
            snprintf(out, size, "%" PRId64, as_signed(v, npy->item_bytes * 8));
        else
            snprintf(out, size, "%" PRIu64, v);
        return true;
    }
    if (spoke_npy_is_number(npy))
        return false;
    for (uint32_t i = 0; i < npy->item_bytes && n + 5 < size; i += step) {
        uint32_t code = (uint32_t)load(p + i, step, npy->swapped);
        if (code == 0)
            break;
        if (step == 1)
            out[n++] = (char)code;
        else
            n += put_code(code, out + n);
    }
    out[n] = '\0';
    return true;
}
