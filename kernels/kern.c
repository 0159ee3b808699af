/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices, buffers and the way every operation takes: name the arrays it touches in one small
 * table, have the table checked, call the backend with plain addresses. Everything that can be
 * wrong with a call is decided here and in ops.c, so that a backend holds arithmetic only and two
 * backends cannot differ in what they refuse.
 */
#include "kernels/dispatch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 1024

struct kern_buf {
    struct kern_device *dev;
    void *data;
    size_t bytes;
    struct kern_buf *prev, *next;
};

struct kern_recording {
    struct kern_device *dev;
    void *record; /* the backend's */
};

static _Thread_local char open_error[KERN_TEXT_BYTES];

const char *kern_status_text(enum kern_status status) {
    switch (status) {
    case KERN_OK:
        return "ok";
    case KERN_EARG:
        return "bad argument";
    case KERN_ENOMEM:
        return "out of memory";
    case KERN_ENODEV:
        return "no such device";
    case KERN_EDEVICE:
        return "device failed";
    case KERN_EGROUP:
        return "group broken";
    }
    return "unknown status";
}

static void write_error(char *error, const char *fmt, va_list args) {
    /* Both callers have started args; the analyser sees it in one of them only. */
    vsnprintf(error, KERN_TEXT_BYTES, fmt, args); /* NOLINT(clang-analyzer-valist.Uninitialized) */
}

enum kern_status kern_open_refused(enum kern_status st, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    write_error(open_error, fmt, args);
    va_end(args);
    return st;
}

enum kern_status kern_refuse(struct kern_device *dev, const char *fmt, ...) {
    char *error = dev->ctx->error;
    va_list args;
    va_start(args, fmt);
    write_error(error, fmt, args);
    va_end(args);
    return KERN_EARG;
}

enum kern_status kern_done(struct kern_device *dev, enum kern_status st) {
    if (st == KERN_EDEVICE) {
        dev->failed = true;
    }
    return st;
}

enum kern_status kern_device_open(const char *spec, int threads, struct kern_device **out) {
    const struct kern_ops *ops = NULL;
    int index = 0;
    if (spec == NULL || out == NULL || threads < 0 || threads > THREADS_MAX) {
        return kern_open_refused(KERN_EARG, "kern_device_open: threads is 0 (all cores) to %d",
                                 THREADS_MAX);
    }
    enum kern_status st = kern_registry_find(spec, &ops, &index);
    if (st == KERN_EARG) {
        return kern_open_refused(st, "device \"%.40s\" is not one of cpu, cuda, cuda:N, auto",
                                 spec);
    }
    if (st != KERN_OK) {
        const char *why = kern_cuda_absent_reason();
        return kern_open_refused(st, "device \"%.40s\": %.200s", spec,
                                 why[0] != '\0' ? why : "this machine has fewer CUDA devices");
    }
    struct kern_device *dev = calloc(1, sizeof *dev);
    if (dev == NULL) {
        return kern_open_refused(KERN_ENOMEM, "out of host memory");
    }
    char why[KERN_TEXT_BYTES] = "";
    st = ops->open(index, threads, &dev->ctx, why, sizeof why);
    if (st != KERN_OK) {
        free(dev);
        return kern_open_refused(st, "device \"%.40s\": %.200s", spec, why);
    }
    dev->ops = ops;
    *out = dev;
    return KERN_OK;
}

static void release(struct kern_buf *buf) {
    buf->dev->memory.bytes -= buf->bytes;
    buf->dev->ops->free(buf->dev->ctx, buf->data);
    free(buf);
}

void kern_device_close(struct kern_device *dev) {
    if (dev == NULL) {
        return;
    }
    while (dev->bufs != NULL) {
        struct kern_buf *next = dev->bufs->next;
        release(dev->bufs);
        dev->bufs = next;
    }
    dev->ops->close(dev->ctx);
    free(dev);
}

enum kern_status kern_device_products(struct kern_device *dev, enum kern_products products) {
    if (dev == NULL) {
        return KERN_EARG;
    }
    if ((unsigned)products > KERN_F16) {
        return kern_refuse(dev, "kern_device_products: %d is none of exact, TF32, BF16, F16",
                           (int)products);
    }
    if (dev->failed) {
        return KERN_EDEVICE;
    }
    return dev->ops->products == NULL ? KERN_OK
                                      : kern_done(dev, dev->ops->products(dev->ctx, products));
}

const char *kern_device_name(const struct kern_device *dev) {
    return dev->ctx->name;
}

const char *kern_device_error(const struct kern_device *dev) {
    return dev == NULL ? open_error : dev->ctx->error;
}

enum kern_status kern_device_memory(struct kern_device *dev, struct kern_memory *out) {
    if (dev == NULL || out == NULL) {
        return KERN_EARG;
    }
    struct kern_memory memory = dev->memory;
    enum kern_status st = dev->failed                ? KERN_EDEVICE
                          : dev->ops->memory == NULL ? KERN_OK
                                                     : dev->ops->memory(dev->ctx, &memory);
    if (kern_done(dev, st) == KERN_OK) {
        *out = memory;
    }
    return st;
}

/* What may not be done now. */
static enum kern_status check_idle(struct kern_device *dev, const char *op) {
    if (dev->recording) {
        return kern_refuse(dev, "%s: not while the device records", op);
    }
    return dev->failed ? KERN_EDEVICE : KERN_OK;
}

/* ---- recordings ------------------------------------------------------------------------------ */

bool kern_device_records(const struct kern_device *dev) {
    return dev->ops->record_begin != NULL && !dev->records_not;
}

void kern_device_recordings(struct kern_device *dev, bool on) {
    dev->records_not = !on;
}

enum kern_status kern_record_begin(struct kern_device *dev) {
    if (dev == NULL) {
        return KERN_EARG;
    }
    if (dev->ops->record_begin == NULL) {
        return kern_refuse(dev, "kern_record_begin: this device records nothing");
    }
    enum kern_status st = check_idle(dev, "kern_record_begin");
    st = st == KERN_OK ? dev->ops->record_begin(dev->ctx) : st;
    dev->recording = dev->recording || st == KERN_OK;
    return st;
}

enum kern_status kern_record_end(struct kern_device *dev, struct kern_recording **out) {
    if (dev == NULL || out == NULL) {
        return KERN_EARG;
    }
    if (!dev->recording) {
        return kern_refuse(dev, "kern_record_end: nothing is recorded");
    }
    void *record = NULL;
    dev->recording = false;
    enum kern_status st = dev->ops->record_end(dev->ctx, &record);
    struct kern_recording *recording = st == KERN_OK ? calloc(1, sizeof *recording) : NULL;
    if (recording == NULL) {
        if (st == KERN_OK) {
            dev->ops->record_free(dev->ctx, record);
        }
        return st == KERN_OK ? KERN_ENOMEM : st;
    }
    *recording = (struct kern_recording){dev, record};
    *out = recording;
    return KERN_OK;
}

bool kern_recording_holds(const struct kern_recording *recording) {
    return recording->dev->ops->record_holds(recording->dev->ctx, recording->record);
}

enum kern_status kern_replay(const struct kern_recording *recording, uint64_t turn) {
    if (recording == NULL) {
        return KERN_EARG;
    }
    struct kern_device *dev = recording->dev;
    enum kern_status st = check_idle(dev, "kern_replay");
    if (st != KERN_OK) {
        return st;
    }
    if (!kern_recording_holds(recording)) {
        return kern_refuse(dev, "kern_replay: the recording no longer holds");
    }
    return kern_done(dev, dev->ops->replay(dev->ctx, recording->record, turn));
}

void kern_recording_free(struct kern_recording *recording) {
    if (recording != NULL) {
        recording->dev->ops->record_free(recording->dev->ctx, recording->record);
        free(recording);
    }
}

/* ---- buffers ------------------------------------------------------------------------------- */

enum kern_status kern_buf_new(struct kern_device *dev, size_t bytes, struct kern_buf **out) {
    if (dev == NULL || out == NULL) {
        return KERN_EARG;
    }
    if (bytes == 0 || bytes > SIZE_MAX / 4) {
        return kern_refuse(dev, "kern_buf_new: %zu bytes; a buffer holds at least one", bytes);
    }
    enum kern_status st = check_idle(dev, "kern_buf_new");
    if (st != KERN_OK) {
        return st;
    }
    struct kern_buf *buf = calloc(1, sizeof *buf);
    if (buf == NULL) {
        return KERN_ENOMEM;
    }
    st = kern_done(dev, dev->ops->alloc(dev->ctx, bytes, &buf->data));
    if (st != KERN_OK) {
        free(buf);
        return st;
    }
    buf->dev = dev;
    buf->bytes = bytes;
    buf->next = dev->bufs;
    if (dev->bufs != NULL) {
        dev->bufs->prev = buf;
    }
    dev->bufs = buf;
    dev->memory.bytes += bytes;
    if (dev->memory.bytes > dev->memory.bytes_most) {
        dev->memory.bytes_most = dev->memory.bytes;
    }
    *out = buf;
    return KERN_OK;
}

void kern_buf_free(struct kern_buf *buf) {
    if (buf == NULL) {
        return;
    }
    if (buf->prev != NULL) {
        buf->prev->next = buf->next;
    } else {
        buf->dev->bufs = buf->next;
    }
    if (buf->next != NULL) {
        buf->next->prev = buf->prev;
    }
    release(buf);
}

size_t kern_buf_bytes(const struct kern_buf *buf) {
    return buf->bytes;
}

static bool inside(const struct kern_buf *buf, size_t offset, size_t bytes) {
    return offset <= buf->bytes && bytes <= buf->bytes - offset;
}

static enum kern_status check_range(const char *op, const struct kern_buf *buf, size_t offset,
                                    size_t bytes) {
    if (!inside(buf, offset, bytes)) {
        return kern_refuse(buf->dev, "%s: %zu bytes at %zu of a buffer of %zu", op, bytes, offset,
                           buf->bytes);
    }
    return buf->dev->failed ? KERN_EDEVICE : KERN_OK;
}

enum kern_status kern_upload(struct kern_buf *dst, size_t offset, const void *src, size_t bytes) {
    if (dst == NULL || (src == NULL && bytes != 0)) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(dst->dev, "kern_upload");
    st = st == KERN_OK ? check_range("kern_upload", dst, offset, bytes) : st;
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(dst->dev,
                     dst->dev->ops->upload(dst->dev->ctx, (char *)dst->data + offset, src, bytes));
}

enum kern_status kern_upload_start(struct kern_buf *dst, size_t offset, const void *src,
                                   size_t bytes) {
    if (dst == NULL || (src == NULL && bytes != 0)) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(dst->dev, "kern_upload_start");
    st = st == KERN_OK ? check_range("kern_upload_start", dst, offset, bytes) : st;
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(dst->dev, dst->dev->ops->upload_start(dst->dev->ctx,
                                                           (char *)dst->data + offset, src, bytes));
}

enum kern_status kern_upload_beside(struct kern_buf *dst, size_t offset, const void *src,
                                    size_t bytes) {
    if (dst == NULL || (src == NULL && bytes != 0)) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(dst->dev, "kern_upload_beside");
    st = st == KERN_OK ? check_range("kern_upload_beside", dst, offset, bytes) : st;
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(dst->dev, dst->dev->ops->upload_beside(
                                   dst->dev->ctx, (char *)dst->data + offset, src, bytes));
}

enum kern_status kern_upload_wait(struct kern_device *dev) {
    if (dev == NULL) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(dev, "kern_upload_wait");
    return st == KERN_OK ? kern_done(dev, dev->ops->upload_wait(dev->ctx)) : st;
}

enum kern_status kern_host_new(struct kern_device *dev, size_t bytes, void **out) {
    if (dev == NULL || out == NULL || bytes == 0) {
        return KERN_EARG;
    }
    return dev->failed ? KERN_EDEVICE : kern_done(dev, dev->ops->host_alloc(dev->ctx, bytes, out));
}

void kern_host_free(struct kern_device *dev, void *p) {
    if (p != NULL) {
        dev->ops->host_free(dev->ctx, p);
    }
}

enum kern_status kern_download(void *dst, const struct kern_buf *src, size_t offset, size_t bytes) {
    if (src == NULL || (dst == NULL && bytes != 0)) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(src->dev, "kern_download");
    st = st == KERN_OK ? check_range("kern_download", src, offset, bytes) : st;
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(src->dev, src->dev->ops->download(src->dev->ctx, dst,
                                                       (const char *)src->data + offset, bytes));
}

enum kern_status kern_copy(struct kern_buf *dst, size_t dst_offset, const struct kern_buf *src,
                           size_t src_offset, size_t bytes) {
    if (dst == NULL || src == NULL) {
        return KERN_EARG;
    }
    if (dst->dev != src->dev) {
        return kern_refuse(dst->dev, "kern_copy: the buffers are on two devices");
    }
    enum kern_status st = check_range("kern_copy", dst, dst_offset, bytes);
    if (st == KERN_OK) {
        st = check_range("kern_copy", src, src_offset, bytes);
    }
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(dst->dev, dst->dev->ops->copy(dst->dev->ctx, (char *)dst->data + dst_offset,
                                                   (const char *)src->data + src_offset, bytes));
}

enum kern_status kern_zero(struct kern_buf *buf, size_t offset, size_t bytes) {
    if (buf == NULL) {
        return KERN_EARG;
    }
    enum kern_status st = check_range("kern_zero", buf, offset, bytes);
    if (st != KERN_OK || bytes == 0) {
        return st;
    }
    return kern_done(buf->dev,
                     buf->dev->ops->zero(buf->dev->ctx, (char *)buf->data + offset, bytes));
}

enum kern_status kern_sync(struct kern_device *dev) {
    if (dev == NULL) {
        return KERN_EARG;
    }
    enum kern_status st = check_idle(dev, "kern_sync");
    return st == KERN_OK ? kern_done(dev, dev->ops->sync(dev->ctx)) : st;
}

/* ---- the check of an operation's arrays ------------------------------------------------------ */

/* An output meets another array: only as the very same one, read, and where the operation says so.
 */
static bool alias_fits(const struct kern_arg *out, const struct kern_arg *other, size_t out_bytes,
                       size_t other_bytes) {
    const char *a = out->p, *b = other->p;
    if (a == NULL || b == NULL || a + out_bytes <= b || b + other_bytes <= a) {
        return true;
    }
    return a == b && out_bytes == other_bytes && (out->flags & KERN_ARG_ALIAS) != 0 &&
           (other->flags & KERN_ARG_OUT) == 0;
}

static enum kern_status place(const char *op, struct kern_device *dev, struct kern_arg *arg) {
    const struct kern_buf *buf = arg->v.buf;
    if (buf == NULL) {
        arg->p = NULL;
        return (arg->flags & KERN_ARG_OPTIONAL) != 0
                   ? KERN_OK
                   : kern_refuse(dev, "%s: %s has no buffer", op, arg->name);
    }
    if (buf->dev != dev) {
        return kern_refuse(dev, "%s: %s is on another device", op, arg->name);
    }
    size_t held = buf->bytes / arg->elem_bytes;
    if (arg->v.at > held || arg->n > held - arg->v.at) {
        return kern_refuse(dev, "%s: %s needs %zu elements at %zu of a buffer of %zu", op,
                           arg->name, arg->n, arg->v.at, held);
    }
    arg->p = (char *)buf->data + arg->v.at * arg->elem_bytes;
    return KERN_OK;
}

enum kern_status kern_args_check(const char *op, struct kern_arg *args, size_t count,
                                 struct kern_device **dev_out) {
    if (args[0].v.buf == NULL) {
        return KERN_EARG;
    }
    struct kern_device *dev = args[0].v.buf->dev;
    for (size_t i = 0; i < count; i++) {
        if (args[i].n == 0) {
            return kern_refuse(dev, "%s: %s has no elements, or too many to count", op,
                               args[i].name);
        }
        enum kern_status st = place(op, dev, &args[i]);
        if (st != KERN_OK) {
            return st;
        }
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; (args[i].flags & KERN_ARG_OUT) != 0 && j < count; j++) {
            if (i != j && !alias_fits(&args[i], &args[j], args[i].n * args[i].elem_bytes,
                                      args[j].n * args[j].elem_bytes)) {
                return kern_refuse(dev, "%s: %s overlaps %s", op, args[i].name, args[j].name);
            }
        }
    }
    if (dev->failed) {
        return KERN_EDEVICE;
    }
    *dev_out = dev;
    return KERN_OK;
}

size_t kern_area(size_t rows, size_t cols) {
    size_t n = 0;
    return __builtin_mul_overflow(rows, cols, &n) || n > SIZE_MAX / 16 ? 0 : n;
}
