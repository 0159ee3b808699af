/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both libraries leave by longjmp where a file is damaged. Each decoder is therefore one function
 * that holds nothing but what stands in its struct, which its caller releases either way.
 */
#include "spoke/picture.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

/* What a decoder has made: rows of interleaved samples, of 1 or 2 bytes (big endian). */
struct samples {
    size_t width, height, channels, bytes; /* bytes of a sample */
    uint8_t *at;
    const char *wrong; /* why there is nothing */
    bool too_large;
};

static bool size_fits(struct samples *s, uint64_t width, uint64_t height) {
    s->too_large = width == 0 || height == 0 || width > SPOKE_PICTURE_PIXELS_MAX / height;
    if (s->too_large)
        s->wrong = "the image has no pixels, or more than 2^25";
    s->width = (size_t)width;
    s->height = (size_t)height;
    return !s->too_large;
}

/* ---- PNG ----------------------------------------------------------------------------------- */

struct png_work {
    const uint8_t *bytes;
    size_t left;
    png_structp png;
    png_infop info;
    uint8_t **rows;
    struct samples *out;
};

static void png_take(png_structp png, png_bytep to, size_t n) {
    struct png_work *w = png_get_io_ptr(png);
    if (n > w->left)
        png_error(png, "short");
    memcpy(to, w->bytes, n);
    w->bytes += n;
    w->left -= n;
}

static void png_leave(png_structp png, png_const_charp text) {
    (void)text; /* the library's words may quote the file */
    png_longjmp(png, 1);
}

static void png_quiet(png_structp png, png_const_charp text) {
    (void)png;
    (void)text;
}

/* Asks libpng for 8 or 16 bits of grey or RGB, or for classes as they are. */
static bool png_ask(struct png_work *w, bool labels) {
    int colour = png_get_color_type(w->png, w->info), depth = png_get_bit_depth(w->png, w->info);
    bool palette = colour == PNG_COLOR_TYPE_PALETTE;

    if (labels && (colour & PNG_COLOR_MASK_COLOR) && !palette) {
        w->out->wrong = "a mask must be grey, or have a palette whose places are the classes";
        return false;
    }
    if (labels) {
        png_set_packing(w->png);
    } else if (palette) {
        png_set_palette_to_rgb(w->png);
    } else if (depth < 8) {
        png_set_expand_gray_1_2_4_to_8(w->png);
    }
    png_set_strip_alpha(w->png);
    png_set_interlace_handling(w->png);
    png_read_update_info(w->png, w->info);
    w->out->channels = png_get_channels(w->png, w->info);
    w->out->bytes = png_get_bit_depth(w->png, w->info) == 16 ? 2 : 1;
    return true;
}

/* Leaves by longjmp into itself; all it holds is in *w and *w->out. */
static void png_run(struct png_work *w, bool labels) {
    if (setjmp(png_jmpbuf(w->png))) {
        w->out->wrong = "the PNG file is damaged or cut off";
        return;
    }
    png_set_user_limits(w->png, SPOKE_PICTURE_PIXELS_MAX, SPOKE_PICTURE_PIXELS_MAX);
    png_set_chunk_cache_max(w->png, 64);
    png_set_chunk_malloc_max(w->png, 1u << 20);
    png_set_keep_unknown_chunks(w->png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_crc_action(w->png, PNG_CRC_ERROR_QUIT, PNG_CRC_WARN_DISCARD);
    png_set_read_fn(w->png, w, png_take);
    png_read_info(w->png, w->info);
    if (!size_fits(w->out, png_get_image_width(w->png, w->info),
                   png_get_image_height(w->png, w->info)) ||
        !png_ask(w, labels))
        return;
    size_t row_bytes = png_get_rowbytes(w->png, w->info);
    w->out->at = calloc(w->out->height, row_bytes);
    w->rows = calloc(w->out->height, sizeof *w->rows);
    if (!w->out->at || !w->rows) {
        w->out->wrong = "no memory for the image";
        return;
    }
    for (size_t y = 0; y < w->out->height; y++)
        w->rows[y] = w->out->at + y * row_bytes;
    png_read_image(w->png, w->rows);
    png_read_end(w->png, NULL);
}

static void png_decode(const uint8_t *bytes, size_t n, bool labels, struct samples *out) {
    struct png_work w = {.bytes = bytes, .left = n, .out = out};

    w.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, png_leave, png_quiet);
    w.info = w.png ? png_create_info_struct(w.png) : NULL;
    if (w.info)
        png_run(&w, labels);
    else
        out->wrong = "no memory for the image";
    png_destroy_read_struct(w.png ? &w.png : NULL, w.info ? &w.info : NULL, NULL);
    free(w.rows);
}

/* ---- JPEG ---------------------------------------------------------------------------------- */

struct jpeg_work {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    struct samples *out;
};

static void jpeg_leave(j_common_ptr jpeg) {
    struct jpeg_work *w = jpeg->client_data;
    longjmp(w->back, 1);
}

static void jpeg_quiet(j_common_ptr jpeg) {
    (void)jpeg;
}

/* A small file with very many scans would keep a reader for hours. */
static void jpeg_watch(j_common_ptr jpeg) {
    struct jpeg_work *w = jpeg->client_data;
    if (w->jpeg.input_scan_number > SPOKE_PICTURE_SCANS_MAX)
        longjmp(w->back, 1);
}

static void jpeg_run(struct jpeg_work *w, const uint8_t *bytes, size_t n, size_t channels) {
    struct jpeg_decompress_struct *jpeg = &w->jpeg;

    if (setjmp(w->back)) {
        if (!w->out->wrong)
            w->out->wrong = "the JPEG file is damaged or cut off";
        return;
    }
    jpeg_create_decompress(jpeg);
    jpeg->client_data = w;
    jpeg->progress = &w->progress;
    jpeg_mem_src(jpeg, bytes, (unsigned long)n);
    jpeg_read_header(jpeg, TRUE);
    if (!size_fits(w->out, jpeg->image_width, jpeg->image_height))
        return;
    if (jpeg->num_components != 1 && jpeg->num_components != 3) {
        w->out->wrong = "the JPEG file is neither grey nor RGB";
        return;
    }
    jpeg->out_color_space = channels == 1 || jpeg->num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW; /* the same bits with and without SIMD */
    jpeg_start_decompress(jpeg);
    w->out->channels = (size_t)jpeg->output_components;
    w->out->bytes = 1;
    size_t row_bytes = w->out->width * w->out->channels;
    w->out->at = calloc(w->out->height, row_bytes);
    if (!w->out->at) {
        w->out->wrong = "no memory for the image";
        return;
    }
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW row = w->out->at + (size_t)jpeg->output_scanline * row_bytes;
        jpeg_read_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_decompress(jpeg);
    if (jpeg->err->num_warnings > 0)
        w->out->wrong = "the JPEG file is damaged or cut off";
}

static void jpeg_decode(const uint8_t *bytes, size_t n, size_t channels, struct samples *out) {
    struct jpeg_work *w = calloc(1, sizeof *w);

    if (!w) {
        out->wrong = "no memory for the image";
        return;
    }
    w->out = out;
    w->jpeg.err = jpeg_std_error(&w->errors);
    w->jpeg.client_data = w;
    w->errors.error_exit = jpeg_leave;
    w->errors.output_message = jpeg_quiet;
    w->progress.progress_monitor = jpeg_watch;
    jpeg_run(w, bytes, n, channels);
    jpeg_destroy_decompress(&w->jpeg);
    free(w);
}

/* ---- to floats ----------------------------------------------------------------------------- */

static float sample(const struct samples *s, size_t pixel, size_t channel) {
    const uint8_t *p = s->at + (pixel * s->channels + channel) * s->bytes;
    return s->bytes == 2 ? (float)(p[0] << 8 | p[1]) : (float)p[0];
}

static void to_floats(const struct samples *s, size_t channels, float *out) {
    size_t pixels = s->width * s->height;

    if (channels == s->channels || s->channels == 1) {
        for (size_t c = 0; c < channels; c++)
            for (size_t i = 0; i < pixels; i++)
                out[c * pixels + i] = sample(s, i, s->channels == 1 ? 0 : c);
        return;
    }
    for (size_t i = 0; i < pixels; i++)
        out[i] = 0.299f * sample(s, i, 0) + 0.587f * sample(s, i, 1) + 0.114f * sample(s, i, 2);
}

enum tier_status spoke_picture_decode(const void *bytes, size_t n, size_t channels, bool labels,
                                      struct spoke_grid *grid_out, struct tier_err *err) {
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    struct samples s = {0};
    struct spoke_grid grid = {.channels = channels, .from = {0, 1, 2}};

    if (n >= sizeof png && memcmp(bytes, png, sizeof png) == 0)
        png_decode(bytes, n, labels, &s);
    else if (n >= sizeof jpeg && memcmp(bytes, jpeg, sizeof jpeg) == 0 && labels)
        s.wrong = "a mask must be a PNG file: JPEG changes numbers of classes";
    else if (n >= sizeof jpeg && memcmp(bytes, jpeg, sizeof jpeg) == 0)
        jpeg_decode(bytes, n, channels, &s);
    else
        s.wrong = "it is neither a PNG nor a JPEG file";
    if (!s.wrong && s.channels != 1 && s.channels != 3)
        s.wrong = "it is neither grey nor RGB";
    if (!s.wrong) {
        grid.side[0] = 1;
        grid.side[1] = s.height;
        grid.side[2] = s.width;
        grid.at = malloc(channels * s.width * s.height * sizeof *grid.at);
        if (grid.at)
            to_floats(&s, channels, grid.at);
        else
            s.wrong = "no memory for the image";
    }
    free(s.at);
    if (s.wrong)
        return tier_fail(err, s.too_large ? TIER_ELIMIT : TIER_EDATA, "%s", s.wrong);
    *grid_out = grid;
    return TIER_OK;
}
