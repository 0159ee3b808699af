/* SPDX-License-Identifier: Apache-2.0 */
/* PNG and JPEG files: what is accepted has as many pixels as it says, all of them set. */
#include "fuzz/fuzz.h"
#include "spoke/picture.h"
#include "support/picture_writer.h"

#define SEEDS 5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (int way = 0; way < 3; way++) {
        struct spoke_grid g = {0};
        size_t channels = way == 1 ? 3 : 1;
        if (spoke_picture_decode(data, size, channels, way == 2, &g, NULL) != TIER_OK)
            continue;
        size_t n = g.channels * g.side[1] * g.side[2];
        FUZZ_CHECK(g.channels == channels && g.side[0] == 1 && n > 0);
        for (size_t i = 0; i < n; i++)
            FUZZ_CHECK(g.at[i] >= 0.0f && g.at[i] < 65536.0f);
        spoke_grid_release(&g);
    }
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static uint8_t pixels[16 * 16 * 3];

    for (unsigned k = 0; k < sizeof pixels; k++)
        pixels[k] = (uint8_t)(k * k >> 3);
    switch (i) {
    case 0:
        return png_make(7, 5, 1, pixels, out, room);
    case 1:
        return png_make(4, 4, 3, pixels, out, room);
    case 2:
        memset(pixels, 2, 16);
        return png_make_palette(4, 4, 3, pixels, out, room);
    case 3:
        return jpeg_make(16, 16, 1, pixels, out, room);
    case 4:
        return jpeg_make(16, 9, 3, pixels, out, room);
    default:
        return 0;
    }
}
