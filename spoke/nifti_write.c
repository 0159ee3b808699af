/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/nifti.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define HEADER_BYTES 352u /* 348, and 4 that say that no extension follows */
#define TYPE_INT16 4
#define UNITS_MM 2
#define XFORM_SCANNER 1

static void put16(uint8_t *at, int v) {
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put_float(uint8_t *at, double v) {
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(bits >> (8 * i));
}

static void make_header(const struct spoke_nifti *v, uint8_t header[HEADER_BYTES]) {
    bool placed = v->spacing[0] > 0.0;

    memset(header, 0, HEADER_BYTES);
    put16(header, 348);
    put16(header + 40, 3);
    for (int i = 0; i < 7; i++)
        put16(header + 42 + 2 * i, i < 3 ? (int)v->side[i] : 1);
    put16(header + 70, TYPE_INT16);
    put16(header + 72, 16);
    put_float(header + 76, 1.0);
    for (int i = 0; i < 3; i++)
        put_float(header + 80 + 4 * i, placed ? v->spacing[i] : 1.0);
    put_float(header + 108, HEADER_BYTES);
    put_float(header + 112, 1.0);
    header[123] = UNITS_MM;
    put16(header + 254, placed ? XFORM_SCANNER : 0);
    for (int i = 0; placed && i < 3; i++)
        for (int k = 0; k < 4; k++)
            put_float(header + 280 + 16 * i + 4 * k, v->affine[i][k]);
    memcpy(header + 344, "n+1", 4);
}

static bool write_voxels(gzFile file, const int16_t *voxels, size_t n) {
    uint8_t block[8192];
    size_t used = 0;
    bool ok = true;

    for (size_t i = 0; ok && i < n; i++) {
        put16(block + used, voxels[i]);
        used += 2;
        if (used == sizeof block || i + 1 == n) {
            ok = gzwrite(file, block, (unsigned)used) == (int)used;
            used = 0;
        }
    }
    return ok;
}

enum tier_status spoke_nifti_save(int folder, const char *name, const struct spoke_nifti *v,
                                  const int16_t *voxels, struct tier_err *err) {
    uint8_t header[HEADER_BYTES];

    for (int i = 0; i < 3; i++)
        if (v->side[i] == 0 || v->side[i] > INT16_MAX)
            return tier_fail(err, TIER_ELIMIT, "%s: an axis of more than 32,767 voxels", name);
    int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return tier_fail_errno(err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO, "%s", name);
    gzFile file = gzdopen(fd, "wb");
    if (!file) {
        close(fd);
        return tier_fail(err, TIER_ENOMEM, "%s: no memory to write it", name);
    }
    make_header(v, header);
    bool ok = gzwrite(file, header, HEADER_BYTES) == (int)HEADER_BYTES &&
              write_voxels(file, voxels, v->side[0] * v->side[1] * v->side[2]);
    ok = gzclose_w(file) == Z_OK && ok;
    if (ok)
        return TIER_OK;
    tier_fail_errno(err, TIER_EIO, "%s", name);
    unlinkat(folder, name, 0);
    return err ? err->status : TIER_EIO;
}
