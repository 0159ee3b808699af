/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/grid.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

static const struct spoke_axis one = {.in = 1, .out = 1, .start = 0.0, .step = 1.0};

static void line(const float *in, struct spoke_axis x, enum spoke_interpolation how, float *out) {
    struct spoke_axis axis[3] = {one, one, x};
    cr_assert(eq(int, spoke_grid_resample(in, axis, how, out, NULL), TIER_OK));
}

Test(spoke_grid, stretching_is_what_pytorch_and_opencv_do) {
    float in[4] = {0, 10, 20, 30}, out[8];
    /* torch.nn.functional.interpolate(mode='linear', align_corners=False) */
    static const float up[8] = {0.0f, 2.5f, 7.5f, 12.5f, 17.5f, 22.5f, 27.5f, 30.0f};
    line(in, spoke_axis_stretch(4, 8), SPOKE_LINEAR, out);
    for (int i = 0; i < 8; i++)
        cr_expect(epsilon_eq(flt, out[i], up[i], 1e-5f), "%d", i);
    line(in, spoke_axis_stretch(4, 2), SPOKE_LINEAR, out);
    cr_expect(epsilon_eq(flt, out[0], 5.0f, 1e-5f));
    cr_expect(epsilon_eq(flt, out[1], 25.0f, 1e-5f));
    /* Weights 3/8, 3/8, 1/8 of a triangle of half width 2, cut at the edge: as Pillow. */
    line(in, spoke_axis_stretch(4, 2), SPOKE_AREA, out);
    cr_expect(epsilon_eq(flt, out[0], (0.75f * 0 + 0.75f * 10 + 0.25f * 20) / 1.75f, 1e-5f));
    line(in, spoke_axis_stretch(4, 4), SPOKE_AREA, out);
    for (int i = 0; i < 4; i++)
        cr_expect(out[i] == in[i]);
}

Test(spoke_grid, centring_crops_pads_and_mirrors_without_interpolating) {
    float in[5] = {1, 2, 3, 4, 5}, out[7];
    line(in, spoke_axis_centre(5, 3, 1.0, false), SPOKE_LINEAR, out);
    cr_expect(out[0] == 2 && out[1] == 3 && out[2] == 4);
    line(in, spoke_axis_centre(5, 7, 1.0, false), SPOKE_LINEAR, out);
    cr_expect(out[0] == 0 && out[1] == 1 && out[5] == 5 && out[6] == 0);
    line(in, spoke_axis_centre(5, 5, 1.0, true), SPOKE_NEAREST, out);
    cr_expect(out[0] == 5 && out[4] == 1);
    for (int mirror = 0; mirror < 2; mirror++) {
        line(in, spoke_axis_centre(5, 4, 1.0, mirror), SPOKE_LINEAR, out);
        for (int i = 0; i < 4; i++)
            cr_expect(out[i] == (mirror ? 5 - i : i + 1) || out[i] == (mirror ? 4 - i : i + 2),
                      "%d %d: %g", mirror, i, out[i]);
    }
}

Test(spoke_grid, a_spacing_twice_as_wide_takes_every_second_place) {
    float in[7] = {0, 1, 2, 3, 4, 5, 6}, out[4];
    line(in, spoke_axis_centre(7, 3, 2.0, false), SPOKE_LINEAR, out);
    cr_expect(out[0] == 1 && out[1] == 3 && out[2] == 5);
    line(in, spoke_axis_centre(7, 2, 2.0, false), SPOKE_NEAREST, out);
    cr_expect(out[0] == 2 && out[1] == 4);
    line(in, spoke_axis_centre(7, 4, 1.5, false), SPOKE_LINEAR, out);
    cr_expect(epsilon_eq(flt, out[0], 0.75f, 1e-6f));
    cr_expect(epsilon_eq(flt, out[3], 5.25f, 1e-6f));
}

Test(spoke_grid, axes_in_any_order_give_a_separable_plane) {
    float in[6 * 5 * 4], out[3 * 10 * 2];
    for (int z = 0; z < 6; z++)
        for (int y = 0; y < 5; y++)
            for (int x = 0; x < 4; x++)
                in[(z * 5 + y) * 4 + x] = (float)(100 * z + 10 * y + x);
    struct spoke_axis axis[3] = {spoke_axis_stretch(6, 3), spoke_axis_stretch(5, 10),
                                 spoke_axis_stretch(4, 2)};
    cr_assert(eq(int, spoke_grid_resample(in, axis, SPOKE_LINEAR, out, NULL), TIER_OK));
    for (int z = 0; z < 3; z++)
        for (int y = 0; y < 10; y++)
            for (int x = 0; x < 2; x++) {
                double fy = (y + 0.5) / 2.0 - 0.5;
                fy = fy < 0 ? 0 : fy > 4 ? 4 : fy;
                double want = 100 * (2 * z + 0.5) + 10 * fy + 2 * x + 0.5;
                cr_expect(fabs(out[(z * 10 + y) * 2 + x] - want) < 1e-3);
            }
}

Test(spoke_grid, percentiles_cut_as_numpy_has_them) {
    float x[11], y[11], z[4] = {0, 0, 5, 7};
    for (int i = 0; i < 11; i++)
        x[i] = y[i] = (float)((i * 7) % 11); /* 0 .. 10 in some order */
    cr_assert(eq(int, spoke_grid_clip(x, 11, 15.0, 90.0, false, NULL), TIER_OK));
    for (int i = 0; i < 11; i++)
        cr_expect(epsilon_eq(flt, x[i], fminf(fmaxf(y[i], 1.5f), 9.0f), 1e-6f));
    cr_assert(eq(int, spoke_grid_clip(z, 4, 50.0, 100.0, true, NULL), TIER_OK));
    cr_expect(z[0] == 0 && z[2] == 6 && z[3] == 7);
    cr_expect(eq(int, spoke_grid_clip(z, 0, 50.0, 100.0, false, NULL), TIER_OK));
}
