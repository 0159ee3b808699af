/* SPDX-License-Identifier: Apache-2.0 */
/* Model files: what is accepted can be read from its first element to its last, and no further. */
#include "fuzz/fuzz.h"
#include "tier/model.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int memory_file(const uint8_t *data, size_t size, char *path, size_t room) {
    int fd = memfd_create("model", MFD_CLOEXEC);

    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, room, "/proc/self/fd/%d", fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_model *m = NULL;
    char path[64];
    float x;
    int fd = memory_file(data, size, path, sizeof path);

    if (tier_model_open(path, &m, NULL) == TIER_OK) {
        uint64_t n = tier_model_elements(m);
        FUZZ_CHECK(tier_model_read(m, 0, 1, &x, NULL) == TIER_OK);
        FUZZ_CHECK(tier_model_read(m, n - 1, 1, &x, NULL) == TIER_OK);
        FUZZ_CHECK(tier_model_read(m, n, 1, &x, NULL) == TIER_EARG);
        tier_model_close(m);
    }
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const seeds[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}",
        "{\"__metadata__\":{\"k\":\"v\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}}  ",
    };
    if (i >= sizeof seeds / sizeof *seeds)
        return 0;
    uint64_t n = strlen(seeds[i]);
    FUZZ_CHECK(8 + n + 12 <= room);
    memcpy(out, &n, 8);
    memcpy(out + 8, seeds[i], n);
    memset(out + 8 + n, 0, 12);
    return 8 + n + 12;
}
