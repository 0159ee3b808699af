/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What masked a sum, as a file that lies in a folder that others may write to (tier/secure_fold.h).
 * What is read is all that the bytes say, and they say it in the one way that is written; and
 * nothing is read under another name than its own.
 */
#include "fuzz/fuzz.h"
#include "tier/bytes.h"
#include "tier/secure_fold.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEAD 12u
#define TERM (TIER_MASK_KEY_BYTES + 1u)

static char path[40]; /* of a file in memory */
static int file = -1;

static void up(void) {
    file = memfd_create("terms", MFD_CLOEXEC);
    FUZZ_CHECK(file >= 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
}

static void check_again(const struct tier_mask_term *terms, size_t count, const uint8_t *data,
                        size_t size) {
    FUZZ_CHECK(size == HEAD + count * TERM && tier_get_u32(data + 8) == count);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *at = data + HEAD + i * TERM;
        FUZZ_CHECK(memcmp(at, terms[i].key, TIER_MASK_KEY_BYTES) == 0);
        FUZZ_CHECK(at[TIER_MASK_KEY_BYTES] == (terms[i].minus ? 1 : 0));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_mask_term *terms = NULL;
    struct tier_hash hash;
    size_t count = 0;

    if (file < 0)
        up();
    FUZZ_CHECK(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
    tier_hash_data(data, size, &hash);
    enum tier_status st = tier_secure_terms_load(path, &hash, &terms, &count, NULL);
    FUZZ_CHECK(st == TIER_OK || !terms);
    if (st == TIER_OK)
        check_again(terms, count, data, size);
    tier_mask_terms_free(terms, count);
    terms = NULL;
    hash.b[size % TIER_HASH_BYTES] ^= 1;
    st = tier_secure_terms_load(path, &hash, &terms, &count, NULL);
    FUZZ_CHECK(st != TIER_OK && !terms);
    return 0;
}

/* Of none to five masks. */
size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    size_t bytes = HEAD + i * TERM;

    if (i > 5 || bytes > room)
        return 0;
    memcpy(out, "consmsk1", 8);
    tier_put_u32(out + 8, i);
    for (size_t b = HEAD; b < bytes; b++)
        out[b] = (b - HEAD) % TERM == TIER_MASK_KEY_BYTES ? b % 2 : (uint8_t)(b * 7);
    return bytes;
}
