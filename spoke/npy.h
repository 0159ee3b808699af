/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An array as numpy writes it (.npy, NEP 1): its header read into a description with bounds, and
 * its elements as numbers. Plain numbers and texts only: what holds Python objects would have to be
 * executed to be read, and is refused.
 *
 * Threads: no state.
 */
#ifndef CONSILIUM_SPOKE_NPY_H
#define CONSILIUM_SPOKE_NPY_H

#include "tier/err.h"

#include <stdint.h>

#define SPOKE_NPY_HEADER_MAX 4096u /* bytes before the elements */
#define SPOKE_NPY_AXES_MAX 8u
#define SPOKE_NPY_SIDE_MAX UINT32_MAX
#define SPOKE_NPY_BYTES_MAX (UINT64_C(1) << 42) /* of all elements */

enum spoke_npy_type {
    SPOKE_NPY_U8, /* and bool */
    SPOKE_NPY_I8,
    SPOKE_NPY_U16,
    SPOKE_NPY_I16,
    SPOKE_NPY_U32,
    SPOKE_NPY_I32,
    SPOKE_NPY_U64,
    SPOKE_NPY_I64,
    SPOKE_NPY_F32,
    SPOKE_NPY_F64,
    SPOKE_NPY_BYTES,   /* item_bytes of text, padded with NUL */
    SPOKE_NPY_UNICODE, /* item_bytes / 4 code points, padded with 0 */
};

struct spoke_npy {
    enum spoke_npy_type type;
    bool swapped; /* big endian */
    uint32_t item_bytes;
    uint32_t axes; /* 0: a single number */
    uint64_t side[SPOKE_NPY_AXES_MAX];
    uint64_t elements;
    uint32_t header_bytes; /* the elements begin there */
};

/*
 * `bytes` holds the beginning of the file, up to SPOKE_NPY_HEADER_MAX of it. TIER_EDATA, with a
 * message that has yet to be told the array's name; element bytes are bounded, not yet there.
 */
enum tier_status spoke_npy_parse(const void *bytes, size_t n, struct spoke_npy *out,
                                 struct tier_err *err);
uint64_t spoke_npy_bytes(const struct spoke_npy *npy);
bool spoke_npy_is_number(const struct spoke_npy *npy);
/* Whole numbers, no floating point. */
bool spoke_npy_is_integer(const struct spoke_npy *npy);

/* n numbers from `raw` (n * item_bytes); what a float cannot hold becomes infinite. */
void spoke_npy_floats(const struct spoke_npy *npy, const void *raw, size_t n, float *out);
void spoke_npy_doubles(const struct spoke_npy *npy, const void *raw, size_t n, double *out);
/* One whole number or text as text, cut at `size` - 1 bytes. False for anything else. */
bool spoke_npy_text(const struct spoke_npy *npy, const void *raw, char *out, size_t size);

#endif
