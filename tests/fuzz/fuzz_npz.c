/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arrays of numpy: the input as a .npy header with its elements, and as an .npz archive, in a file
 * that lies in memory. What is accepted can be read to its end, and is as long as it says.
 */
#include "fuzz/fuzz.h"
#include "spoke/npz.h"
#include "support/npy_writer.h"

#include <sys/mman.h>
#include <unistd.h>

#define SEEDS 5
#define ELEMENTS_MAX 4096

static void use_elements(const struct spoke_npy *npy, const uint8_t *raw, size_t n) {
    static float floats[ELEMENTS_MAX];
    static double doubles[ELEMENTS_MAX];
    char text[64];

    for (size_t i = 0; i < n && i < 16; i++)
        (void)spoke_npy_text(npy, raw + i * npy->item_bytes, text, sizeof text);
    if (!spoke_npy_is_number(npy))
        return;
    spoke_npy_floats(npy, raw, n, floats);
    spoke_npy_doubles(npy, raw, n, doubles);
}

static void try_npy(const uint8_t *data, size_t size) {
    struct spoke_npy npy;

    if (spoke_npy_parse(data, size, &npy, NULL) != TIER_OK)
        return;
    FUZZ_CHECK(npy.header_bytes <= size && npy.axes <= SPOKE_NPY_AXES_MAX);
    FUZZ_CHECK(spoke_npy_bytes(&npy) <= SPOKE_NPY_BYTES_MAX);
    if (spoke_npy_bytes(&npy) == size - npy.header_bytes && npy.elements <= ELEMENTS_MAX)
        use_elements(&npy, data + npy.header_bytes, npy.elements);
}

static void try_array(struct spoke_npz *npz, const char *name) {
    struct spoke_array *a;

    if (spoke_npz_array(npz, name, &a, NULL) != TIER_OK)
        return;
    const struct spoke_npy *npy = spoke_array_npy(a);
    FUZZ_CHECK(spoke_array_read(a, npy->elements, 1, NULL, NULL) == TIER_EINTERNAL);
    size_t n = npy->elements < ELEMENTS_MAX ? (size_t)npy->elements : ELEMENTS_MAX;
    uint8_t *raw = malloc(n * npy->item_bytes + 1);
    FUZZ_CHECK(raw != NULL);
    if (spoke_array_read(a, npy->elements - n, n, raw, NULL) == TIER_OK)
        use_elements(npy, raw, n);
    free(raw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct spoke_npz *npz = NULL;
    char path[64];

    try_npy(data, size);
    int fd = memfd_create("npz", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (spoke_npz_open(path, &npz, NULL) == TIER_OK) {
        try_array(npz, "a");
        try_array(npz, "b");
        try_array(npz, "a");
        spoke_npz_close(npz);
    }
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const uint8_t data[24] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    char folder[] = "/tmp/consilium-fuzz-XXXXXX", path[64];

    if (i >= SEEDS)
        return 0;
    if (i == 0)
        return npy_make("<f4", "(2, 3)", data, 24, out, room);
    if (i == 1)
        return npy_make("<U2", "(3,)", data, 24, out, room);
    FUZZ_CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/s", folder);
    zip_t *zip = npz_begin(path);
    npz_add(zip, i == 2, "a", "|u1", "(2, 3, 4)", data, 24);
    npz_add(zip, i == 3, "b", "<i8", "(3, 1)", data, 24);
    npz_end(zip);
    FILE *f = fopen(path, "rb");
    FUZZ_CHECK(f != NULL);
    size_t n = fread(out, 1, room, f);
    fclose(f);
    unlink(path);
    rmdir(folder);
    return n;
}
