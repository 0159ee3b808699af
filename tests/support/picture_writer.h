/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PNG, JPEG and NIfTI files for tests, in memory.
 * Threads: one test, one process.
 */
#ifndef CONSILIUM_TESTS_PICTURE_WRITER_H
#define CONSILIUM_TESTS_PICTURE_WRITER_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

/* A PNG of 8 bits, grey or RGB; its length. */
static inline size_t png_make(uint32_t width, uint32_t height, int channels, const uint8_t *pixels,
                              uint8_t *out, size_t room) {
    png_image image = {.version = PNG_IMAGE_VERSION, .width = width, .height = height};
    png_alloc_size_t n = room;

    image.format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
    int ok = png_image_write_to_memory(&image, out, &n, 0, pixels, 0, NULL);
    assert(ok);
    return n;
}

/* A PNG whose pixels are places in a palette of `colours`. */
static inline size_t png_make_palette(uint32_t width, uint32_t height, uint32_t colours,
                                      const uint8_t *pixels, uint8_t *out, size_t room) {
    png_image image = {.version = PNG_IMAGE_VERSION, .width = width, .height = height};
    uint8_t palette[256 * 3];
    png_alloc_size_t n = room;

    for (int i = 0; i < 256 * 3; i++)
        palette[i] = (uint8_t)(37 * i);
    image.format = PNG_FORMAT_RGB_COLORMAP;
    image.colormap_entries = colours;
    int ok = png_image_write_to_memory(&image, out, &n, 0, pixels, 0, palette);
    assert(ok);
    return n;
}

static inline size_t jpeg_make(uint32_t width, uint32_t height, int channels, const uint8_t *pixels,
                               uint8_t *out, size_t room) {
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    unsigned char *made = NULL;
    unsigned long n = 0;

    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_mem_dest(&jpeg, &made, &n);
    jpeg.image_width = width;
    jpeg.image_height = height;
    jpeg.input_components = channels;
    jpeg.in_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&jpeg);
    jpeg_set_quality(&jpeg, 95, TRUE);
    jpeg_start_compress(&jpeg, TRUE);
    for (uint32_t y = 0; y < height; y++) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)y * width * (size_t)channels);
        jpeg_write_scanlines(&jpeg, &row, 1);
    }
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    assert(n <= room);
    memcpy(out, made, n);
    free(made);
    return n;
}

/* What a NIfTI-1 file says of itself; zeroed: no slope, no affine but the spacing. */
struct nifti_maker {
    int16_t side[7]; /* 0: no further axis */
    int16_t type, bits;
    float spacing[3], slope, offset;
    float srow[3][4]; /* used where not all 0 */
};

static inline size_t nifti_make(const struct nifti_maker *m, const void *voxels, size_t bytes,
                                uint8_t *out, size_t room) {
    static const float none[3][4];
    int32_t size = 348;
    int16_t axes = 0, code = 1;
    float at = 352.0f;

    assert(352 + bytes <= room);
    memset(out, 0, 352);
    memcpy(out, &size, 4);
    while (axes < 7 && m->side[axes])
        axes++;
    memcpy(out + 40, &axes, 2);
    memcpy(out + 42, m->side, 14);
    memcpy(out + 70, &m->type, 2);
    memcpy(out + 72, &m->bits, 2);
    memcpy(out + 80, m->spacing, 12);
    memcpy(out + 108, &at, 4);
    memcpy(out + 112, &m->slope, 4);
    memcpy(out + 116, &m->offset, 4);
    if (memcmp(m->srow, none, sizeof none) != 0) {
        memcpy(out + 254, &code, 2);
        memcpy(out + 280, m->srow, 48);
    }
    memcpy(out + 344, "n+1", 4);
    memcpy(out + 352, voxels, bytes);
    return 352 + bytes;
}

static inline size_t gzip_make(const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
                  .avail_in = (uInt)bytes,
                  .next_out = out,
                  .avail_out = (uInt)room};
    int ok = deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    assert(ok == Z_OK);
    ok = deflate(&z, Z_FINISH);
    assert(ok == Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

#endif
