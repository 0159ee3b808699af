/* SPDX-License-Identifier: Apache-2.0 */
/* A table of consents and a list of opt-outs, as a file is read. */
#include "fuzz/fuzz.h"
#include "spoke/consent.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct spoke_consent *c = NULL;
    char path[64];
    int fd = memfd_create("consent", MFD_CLOEXEC);

    FUZZ_CHECK(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (int as = 0; as < 2; as++) {
        if (spoke_consent_load(as ? path : "", as ? "" : path, &c, NULL) != TIER_OK)
            continue;
        FUZZ_CHECK(!spoke_consent_allows(c, "", TIER_PLAN_QUALITY));
        (void)spoke_consent_allows(c, "ada", TIER_PLAN_QUALITY);
        spoke_consent_free(c);
    }
    close(fd);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const seeds[] = {
        "id,purposes\nada,health-research quality\nbob,*\n\"eve, jr\",\n",
        "ada\nbob\n\"eve, jr\"\n",
    };
    size_t n = i < sizeof seeds / sizeof *seeds ? strlen(seeds[i]) : 0;

    FUZZ_CHECK(n <= room);
    if (n)
        memcpy(out, seeds[i], n);
    return n;
}
