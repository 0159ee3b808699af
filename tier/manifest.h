/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The manifest: which tensors an update carries, in which order, and with how many fractional bits
 * each is summed. Everybody in a run holds the same manifest, by its hash; an update,
 * a fold and a published model lay their elements out as it says: tensor after tensor, each dense
 * and row-major, together "the concatenation".
 *
 * The canonical text, whose SHA-256 is the manifest's hash, has one line a tensor:
 *
 *     consilium manifest 1
 *     f=30 narrow 64x3x7x7 conv1.weight
 *     f=20 wide state 64 bn1.running_mean
 *     f=30 narrow scalar temperature
 *
 * Threads: immutable once made, so any thread may read it. The caller owns what _new and _parse
 * give, and frees it with _free.
 */
#ifndef CONSILIUM_TIER_MANIFEST_H
#define CONSILIUM_TIER_MANIFEST_H

#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"

struct tier_tensor {
    char name[TIER_TENSOR_NAME_LEN_MAX + 1]; /* printable ASCII without spaces */
    unsigned ndim;                           /* 0 is a scalar */
    uint64_t dims[TIER_DIMS_MAX];            /* each >= 1; unused ones are 0 */
    uint64_t count;                          /* elements: the product of dims */
    uint64_t at;                             /* first element in the concatenation */
    int frac_bits;                           /* q = round(x * 2^frac_bits) */
    bool wide;                               /* a second limb at frac_bits + 30 */
    bool state; /* moved by data, not by gradients: its mean is taken as it is, whatever a
                   plan makes of those of weights */
};

struct tier_manifest {
    struct tier_tensor *tensors;
    size_t count;
    uint64_t elements;      /* of all tensors */
    uint64_t wide_elements; /* of the wide ones */
    struct tier_hash hash;
};

/*
 * Copies `count` tensors; `count` and `at` of each are computed here from dims. TIER_EARG names the
 * tensor: an empty, repeated or ill-formed name, a dimension of 0, frac_bits out of range. ELIMIT
 * when there are more than TIER_TENSORS_MAX tensors or TIER_ELEMENTS_MAX elements.
 */
enum tier_status tier_manifest_new(const struct tier_tensor *tensors, size_t count,
                                   struct tier_manifest **out, struct tier_err *err);
void tier_manifest_free(struct tier_manifest *m);

/* The canonical text, terminated; the caller frees it. *bytes_out (may be NULL) is its length. */
enum tier_status tier_manifest_text(const struct tier_manifest *m, char **text_out,
                                    size_t *bytes_out, struct tier_err *err);
/*
 * Reads the canonical text and nothing else: any other spelling of the same manifest is refused
 * (TIER_EPROTO, with the line), so that equal manifests have equal hashes.
 */
enum tier_status tier_manifest_parse(const char *text, size_t bytes, struct tier_manifest **out,
                                     struct tier_err *err);

/* f = 30 - ceil(log2 clip), so that |x| <= clip means |q| <= 2^30. clip > 0 and finite, else EARG.
 */
enum tier_status tier_frac_bits_for_clip(double clip, int *out, struct tier_err *err);

/* Checks one tensor name (for callers that take names from outside before they have dims). */
bool tier_tensor_name_ok(const char *name);
/* Fills t->count from t->dims; false where a dimension is 0 or the product passes
 * TIER_ELEMENTS_MAX. */
bool tier_tensor_count(struct tier_tensor *t);
/* Index of the tensor that holds element `element` (below m->elements) of the concatenation. */
size_t tier_manifest_find(const struct tier_manifest *m, uint64_t element);

/* Segments: TIER_SEGMENT_ELEMENTS elements of the concatenation each, the last one shorter. */
uint64_t tier_manifest_segments(const struct tier_manifest *m);
/* Elements of one segment, and how many of them are wide. */
size_t tier_manifest_segment(const struct tier_manifest *m, uint64_t segment, size_t *wide_out);

/* Walks the tensors under a window [first, first + n) of the concatenation. */
struct tier_span {
    const struct tier_tensor *tensor;
    uint64_t index; /* of the span's first element within its tensor */
    size_t n;       /* elements */
    size_t at;      /* first element, counted from the window's start */
    size_t wide_at; /* wide elements of the window before it */
};
struct tier_spans {
    const struct tier_manifest *manifest;
    uint64_t first, next, end;
    size_t tensor, wide_at;
};
void tier_spans_begin(struct tier_spans *it, const struct tier_manifest *m, uint64_t first,
                      size_t n);
bool tier_spans_next(struct tier_spans *it, struct tier_span *out);

#endif
