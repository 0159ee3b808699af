/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NIfTI files, plain and packed, in a file that lies in memory; where one is accepted, its grid is
 * brought to another shape, which must stay within both.
 */
#include "fuzz/fuzz.h"
#include "spoke/nifti.h"
#include "support/picture_writer.h"

#include <sys/mman.h>
#include <unistd.h>

#define SEEDS 5
#define OUT 6

static void use_grid(struct spoke_grid *g, unsigned seed) {
    static float out[OUT * OUT * OUT];
    struct spoke_axis axis[3];
    size_t n = g->side[0] * g->side[1] * g->side[2];

    FUZZ_CHECK(n * g->channels <= SPOKE_GRID_ELEMENTS_MAX);
    for (int i = 0; i < 3; i++) {
        FUZZ_CHECK(g->spacing[i] > 0.0);
        size_t side = 1 + (seed >> (3 * i)) % OUT;
        axis[i] = seed & 1
                      ? spoke_axis_stretch(g->side[i], side)
                      : spoke_axis_centre(g->side[i], side, 1.0 + (seed % 5) * 0.7, g->mirrored[i]);
    }
    FUZZ_CHECK(spoke_grid_resample(g->at, axis, (enum spoke_interpolation)(seed % 3), out, NULL) ==
               TIER_OK);
    FUZZ_CHECK(spoke_grid_clip(g->at, n, 1.0, 99.0, seed & 1, NULL) == TIER_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const ways[] = {NULL, "RAS", "SPL"};
    struct spoke_nifti n;
    unsigned seed = size > 300 ? data[300] + (data[200] << 8) : 0;

    if (spoke_nifti_parse(data, size, &n, NULL) == TIER_OK)
        FUZZ_CHECK((uint64_t)n.side[0] * n.side[1] * n.side[2] * n.channels <=
                   SPOKE_GRID_ELEMENTS_MAX);
    int fd = memfd_create("nifti", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    for (int i = 0; i < 3; i++) {
        struct spoke_grid g = {0};
        FUZZ_CHECK(lseek(fd, 0, SEEK_SET) == 0);
        if (spoke_nifti_load(fd, ways[i], &g, NULL) == TIER_OK)
            use_grid(&g, seed);
        spoke_grid_release(&g);
    }
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const uint8_t voxels[256] = {1, 2, 3};
    static const struct nifti_maker makers[] = {
        {.side = {4, 3, 2}, .type = 4, .bits = 16, .spacing = {1, 2, 3}, .slope = 2.0f},
        {.side = {2, 2, 2, 3}, .type = 16, .bits = 32, .spacing = {1, 1, 1}},
        {.side = {5, 4, 3}, .type = 2, .bits = 8, .srow = {{0, 2, 0, 1}, {-1, 0, 0, 5}, {0, 0, 3}}},
    };
    static const size_t bytes[] = {48, 96, 60};
    static uint8_t plain[1024];

    if (i >= SEEDS)
        return 0;
    if (i < 3)
        return nifti_make(&makers[i], voxels, bytes[i], out, room);
    return gzip_make(plain, nifti_make(&makers[i - 3], voxels, bytes[i - 3], plain, sizeof plain),
                     out, room);
}
