/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A DICOM file's header, and DCMTK's JSON of a file: whatever is accepted must be as large as it
 * says, and stack into a volume or be refused.
 */
#include "fuzz/fuzz.h"
#include "spoke/dicom.h"
#include "support/dicom_writer.h"

#include <math.h>

#define SEEDS 4

static void use_slice(struct spoke_dicom_slice *s) {
    size_t n = s->frames * s->samples * s->rows * s->columns;
    struct spoke_grid g = {0};

    FUZZ_CHECK(n > 0 && n <= SPOKE_GRID_ELEMENTS_MAX && strlen(s->series) <= SPOKE_DICOM_UID_LEN);
    volatile float last = s->at[n - 1]; /* a sanitizer sees whether it is there */
    (void)last;
    for (size_t f = 0; f < s->frames; f++)
        FUZZ_CHECK(isfinite(s->places[f].slope) && s->places[f].spacing[0] >= 0.0);
    if (spoke_dicom_stack(s, 1, NULL, "RAS", &g, NULL) == TIER_OK)
        FUZZ_CHECK(g.channels * g.side[0] * g.side[1] * g.side[2] == n);
    spoke_grid_release(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char uid[SPOKE_DICOM_UID_LEN + 1];
    struct spoke_dicom_slice s = {0};

    if (spoke_dicom_syntax(data, size, uid, NULL) == TIER_OK)
        FUZZ_CHECK(uid[strspn(uid, "0123456789.")] == '\0');
    if (spoke_dicom_parse(data, size, &s, NULL) == TIER_OK) {
        FUZZ_CHECK(strlen(s.modality) <= SPOKE_DICOM_MODALITY_LEN);
        use_slice(&s);
    }
    spoke_dicom_slice_release(&s);
    return 0;
}

#define PLANE(photometric, samples, bits)                                                          \
    "\"00280002\":{\"vr\":\"US\",\"Value\":[" samples "]},\"00280004\":{\"vr\":\"CS\",\"Value\":[" \
    "\"" photometric                                                                               \
    "\"]},\"00280010\":{\"vr\":\"US\",\"Value\":[1]},\"00280011\":{\"vr\":\"US\","                 \
    "\"Value\":[2]},\"00280100\":{\"vr\":\"US\",\"Value\":[" bits "]},"

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const struct dicom_maker maker = {.rows = 2, .columns = 2, .position = "0\\0\\1"};
    static const uint16_t pixels[4] = {1, 2, 3, 4};
    static const char *const texts[SEEDS - 1] = {
        "{" PLANE(
            "MONOCHROME1", "1",
            "8") "\"00080060\":{\"vr\":\"CS\",\"Value\":[\"MR "
                 "\"]},\"0020000E\":{\"vr\":\"UI\",\"Value\":[\"1.2\"]},"
                 "\"00200032\":{\"vr\":\"DS\",\"Value\":[0,0,1]},\"00200037\":{\"vr\":\"DS\","
                 "\"Value\":[1,"
                 "0,0,0,1,0]},\"00280030\":{\"vr\":\"DS\",\"Value\":[1,\"1.0\"]},\"00281053\":{"
                 "\"vr\":"
                 "\"DS\",\"Value\":[2]},\"7FE00010\":{\"vr\":\"OB\",\"InlineBinary\":\"AQI=\"}}",
        "{" PLANE("RGB", "3", "8") "\"00280006\":{\"vr\":\"US\",\"Value\":[1]},\"7FE00010\":{"
                                   "\"vr\":\"OB\",\"InlineBinary\":\"AQIDBAUG\"}}",
        "{" PLANE("MONOCHROME2", "1", "16") "\"00280103\":{\"vr\":\"US\",\"Value\":[1]},"
                                            "\"00280008\":{\"vr\":\"IS\",\"Value\":[2]},"
                                            "\"52009229\":{\"vr\":\"SQ\",\"Value\":[{"
                                            "\"00209116\":{\"vr\":\"SQ\",\"Value\":[{\"00200037\":{"
                                            "\"vr\":\"DS\",\"Value\":[1,0,0,0,1,"
                                            "0]}}]},\"00289110\":{\"vr\":\"SQ\",\"Value\":[{"
                                            "\"00280030\":{\"vr\":\"DS\",\"Value\":[1,"
                                            "1]}}]}}]},\"52009230\":{\"vr\":\"SQ\",\"Value\":[{"
                                            "\"00209113\":{\"vr\":\"SQ\",\"Value\":[{"
                                            "\"00200032\":{\"vr\":\"DS\",\"Value\":[0,0,9]}}]}},{"
                                            "\"00209113\":{\"vr\":\"SQ\",\"Value\":"
                                            "[{\"00200032\":{\"vr\":\"DS\",\"Value\":[0,0,6]}}]}}]}"
                                            ",\"7FE00010\":{\"vr\":\"OW\","
                                            "\"InlineBinary\":\"AQIDBAUGBwg=\"}}",
    };

    if (i >= SEEDS)
        return 0;
    if (i == 0)
        return dicom_make(&maker, pixels, out, room);
    size_t n = strlen(texts[i - 1]);
    memcpy(out, texts[i - 1], n < room ? n : room);
    return n < room ? n : room;
}
