/* SPDX-License-Identifier: Apache-2.0 */
/* Deltas of models: whatever is accepted decodes to the end, of the model that it names only. */
#include "fuzz/fuzz.h"
#include "tier/bytes.h"
#include "tier/delta.h"
#include "tier/manifest.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ELEMENTS 300

static struct tier_manifest *the_manifest(void) {
    static struct tier_manifest *m;
    struct tier_tensor t = {.name = "w", .ndim = 1, .dims = {ELEMENTS}, .frac_bits = 30};

    FUZZ_CHECK(m || tier_manifest_new(&t, 1, &m, NULL) == TIER_OK);
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_hash base = {{1, 2, 3}}, other = {{4}};
    char path[64];
    int fd = memfd_create("delta", MFD_CLOEXEC);

    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (tier_delta_read(path, &base, the_manifest(), NULL) == TIER_OK)
        FUZZ_CHECK(tier_delta_read(path, &other, the_manifest(), NULL) == TIER_EMODEL);
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const enum tier_encoding forms[] = {TIER_ENC_BF16, TIER_ENC_Q8, TIER_ENC_Q4};
    static const char metadata[] = "format\0pt";
    size_t payload;

    if (i >= 3)
        return 0;
    payload = (size_t)tier_encoding_bytes(forms[i], ELEMENTS);
    FUZZ_CHECK(96 + sizeof metadata + 4 + payload <= room);
    memset(out, 0, 96 + sizeof metadata + 4 + payload);
    memcpy(out, "consdlt1", 8);
    tier_put_u32(out + 8, 1);
    tier_put_u32(out + 12, forms[i]);
    tier_put_u64(out + 16, ELEMENTS);
    tier_put_u32(out + 24, sizeof metadata);
    out[32] = 1, out[33] = 2, out[34] = 3;
    memcpy(out + 64, the_manifest()->hash.b, 32);
    memcpy(out + 96, metadata, sizeof metadata);
    tier_put_u32(out + 96 + sizeof metadata, (uint32_t)payload);
    return 96 + sizeof metadata + 4 + payload;
}
