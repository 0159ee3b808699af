/* SPDX-License-Identifier: Apache-2.0 */
/*
 * .npy and .npz files for tests, as numpy writes them.
 * Threads: one test, one process.
 */
#ifndef CONSILIUM_TESTS_NPY_WRITER_H
#define CONSILIUM_TESTS_NPY_WRITER_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

/* A .npy file in out[room]: "<f4", "(3, 4)"; its length. */
static inline size_t npy_make(const char *descr, const char *shape, const void *data, size_t bytes,
                              uint8_t *out, size_t room) {
    char dict[256];
    int n = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                     descr, shape);
    size_t text = (size_t)n + 1, header = (10 + text + 63) / 64 * 64;

    assert(header + bytes <= room);
    memset(out, ' ', header);
    memcpy(out, "\x93NUMPY\x01", 7);
    out[7] = 0;
    out[8] = (uint8_t)((header - 10) & 0xff);
    out[9] = (uint8_t)((header - 10) >> 8);
    memcpy(out + 10, dict, (size_t)n);
    out[header - 1] = '\n';
    if (bytes)
        memcpy(out + header, data, bytes);
    return header + bytes;
}

/* An archive that is filled one array after another, then closed. */
static inline zip_t *npz_begin(const char *path) {
    int code;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert(zip);
    return zip;
}

static inline void npz_add(zip_t *zip, bool packed, const char *name, const char *descr,
                           const char *shape, const void *data, size_t bytes) {
    char member[128];
    uint8_t *file = malloc(bytes + 512);
    assert(file);
    size_t n = npy_make(descr, shape, data, bytes, file, bytes + 512);
    snprintf(member, sizeof member, "%s.npy", name);
    zip_source_t *source = zip_source_buffer(zip, file, n, 1);
    zip_int64_t index = zip_file_add(zip, member, source, 0);
    assert(index >= 0);
    int done = zip_set_file_compression(zip, (zip_uint64_t)index,
                                        packed ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
    assert(done == 0);
}

static inline void npz_end(zip_t *zip) {
    int done = zip_close(zip);
    assert(done == 0);
}

#endif
