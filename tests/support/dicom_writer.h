/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Small DICOM files for tests: explicit VR little endian, one frame, 16 bits, with what a test
 * sets. Threads: no shared state.
 */
#ifndef CONSILIUM_TESTS_DICOM_WRITER_H
#define CONSILIUM_TESTS_DICOM_WRITER_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct dicom_maker {
    uint16_t rows, columns, stored, is_signed; /* stored 0: 16 */
    const char *photometric;                   /* NULL: MONOCHROME2 */
    const char *modality;                      /* NULL: absent */
    const char *series;                        /* NULL: "1.2.3" */
    const char *position, *orientation;        /* "0\\0\\1.5"; NULL: absent */
    const char *spacing, *thickness;           /* "2\\1" */
    const char *slope, *intercept;
    uint16_t instance; /* tells files apart; positions need not follow it */
};

struct dicom_bytes {
    uint8_t *at;
    size_t n, room;
};

static inline void dicom_put(struct dicom_bytes *b, const void *from, size_t n) {
    assert(b->room - b->n >= n);
    memcpy(b->at + b->n, from, n);
    b->n += n;
}

static inline void dicom_u16(struct dicom_bytes *b, uint16_t v) {
    const uint8_t two[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    dicom_put(b, two, 2);
}

static inline void dicom_element(struct dicom_bytes *b, uint16_t group, uint16_t element,
                                 const char *vr, const void *value, size_t n) {
    size_t even = n + n % 2;
    dicom_u16(b, group);
    dicom_u16(b, element);
    dicom_put(b, vr, 2);
    if (strcmp(vr, "OW") == 0 || strcmp(vr, "OB") == 0) {
        dicom_u16(b, 0);
        dicom_u16(b, (uint16_t)even);
        dicom_u16(b, (uint16_t)(even >> 16));
    } else {
        dicom_u16(b, (uint16_t)even);
    }
    dicom_put(b, value, n);
    if (n % 2)
        dicom_put(b, strcmp(vr, "UI") == 0 ? "" : " ", 1);
}

static inline void dicom_text(struct dicom_bytes *b, uint16_t group, uint16_t element,
                              const char *vr, const char *text) {
    if (text)
        dicom_element(b, group, element, vr, text, strlen(text));
}

static inline void dicom_number(struct dicom_bytes *b, uint16_t element, uint16_t v) {
    const uint8_t two[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    dicom_element(b, 0x28, element, "US", two, 2);
}

/* pixels uint16[rows x columns]; the file's bytes. */
static inline size_t dicom_make(const struct dicom_maker *m, const uint16_t *pixels, uint8_t *out,
                                size_t room) {
    static const char syntax[] = "1.2.840.10008.1.2.1", ct[] = "1.2.840.10008.5.1.4.1.1.2";
    uint8_t meta[256], raw[4096];
    struct dicom_bytes b = {out, 0, room}, head = {meta, 0, sizeof meta};
    size_t n = (size_t)m->rows * m->columns;
    uint16_t stored = m->stored ? m->stored : 16;
    char instance[32];

    assert(2 * n <= sizeof raw);
    snprintf(instance, sizeof instance, "1.2.3.%u", m->instance);
    dicom_element(&head, 2, 1, "OB", "\0\1", 2);
    dicom_text(&head, 2, 2, "UI", ct);
    dicom_text(&head, 2, 3, "UI", instance);
    dicom_text(&head, 2, 0x10, "UI", syntax);
    dicom_text(&head, 2, 0x12, "UI", "1.2.3");
    memset(out, 0, 128);
    b.n = 128;
    dicom_put(&b, "DICM", 4);
    const uint8_t length[4] = {(uint8_t)head.n, (uint8_t)(head.n >> 8), 0, 0};
    dicom_element(&b, 2, 0, "UL", length, 4);
    dicom_put(&b, meta, head.n);
    dicom_text(&b, 8, 0x16, "UI", ct);
    dicom_text(&b, 8, 0x18, "UI", instance);
    dicom_text(&b, 8, 0x60, "CS", m->modality);
    dicom_text(&b, 0x10, 0x10, "PN", "Nobody^Any");
    dicom_text(&b, 0x18, 0x50, "DS", m->thickness);
    dicom_text(&b, 0x20, 0x0d, "UI", "1.2");
    dicom_text(&b, 0x20, 0x0e, "UI", m->series ? m->series : "1.2.3");
    dicom_text(&b, 0x20, 0x32, "DS", m->position);
    dicom_text(&b, 0x20, 0x37, "DS", m->orientation);
    dicom_number(&b, 2, 1);
    dicom_text(&b, 0x28, 4, "CS", m->photometric ? m->photometric : "MONOCHROME2");
    dicom_number(&b, 0x10, m->rows);
    dicom_number(&b, 0x11, m->columns);
    dicom_text(&b, 0x28, 0x30, "DS", m->spacing);
    dicom_number(&b, 0x100, 16);
    dicom_number(&b, 0x101, stored);
    dicom_number(&b, 0x102, (uint16_t)(stored - 1));
    dicom_number(&b, 0x103, m->is_signed);
    dicom_text(&b, 0x28, 0x1052, "DS", m->intercept);
    dicom_text(&b, 0x28, 0x1053, "DS", m->slope);
    for (size_t i = 0; i < n; i++) {
        raw[2 * i] = (uint8_t)pixels[i];
        raw[2 * i + 1] = (uint8_t)(pixels[i] >> 8);
    }
    dicom_element(&b, 0x7fe0, 0x10, "OW", raw, 2 * n);
    return b.n;
}

#endif
