/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kern.c (devices, buffers) and ops.c (operations) share: the device itself, and the table in
 * which an operation names its arrays to have them checked.
 *
 * Threads and ownership: those of kern.h; nothing here outlives a call.
 */
#ifndef CONSILIUM_KERN_DISPATCH_H
#define CONSILIUM_KERN_DISPATCH_H

#include "kernels/backend.h"

struct kern_device {
    const struct kern_ops *ops;
    struct kern_ctx *ctx;
    struct kern_buf *bufs;     /* every live one, freed at close */
    struct kern_memory memory; /* of the buffers */
    bool recording;            /* between kern_record_begin and kern_record_end */
    bool records_not;          /* kern_device_recordings said so */
    bool failed;               /* after KERN_EDEVICE: nothing reaches the backend any more */
};

enum {
    KERN_ARG_OUT = 1,      /* written */
    KERN_ARG_ALIAS = 2,    /* ... and may be the very same array as one that is only read */
    KERN_ARG_OPTIONAL = 4, /* may have no buffer */
};

struct kern_arg {
    const char *name;
    struct kern_vec v;
    size_t elem_bytes;
    size_t n; /* 0 is refused */
    int flags;
    void *p; /* filled by the check */
};

/*
 * Checks that every array lies on the device of args[0], inside its buffer, and that no output
 * overlaps another array in a way the operation does not allow; fills each `p`. KERN_EARG with a
 * sentence in the device's error otherwise; KERN_EDEVICE where the device has failed before.
 */
enum kern_status kern_args_check(const char *op, struct kern_arg *args, size_t count,
                                 struct kern_device **dev_out);
/* rows * cols, or 0 (which the check refuses) where that is not countable. */
size_t kern_area(size_t rows, size_t cols);
/* Writes the device's error and returns KERN_EARG. */
enum kern_status kern_refuse(struct kern_device *dev, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Writes what kern_device_error(NULL) says and returns st. */
enum kern_status kern_open_refused(enum kern_status st, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Remembers a failed device; returns st. */
enum kern_status kern_done(struct kern_device *dev, enum kern_status st);

#endif
