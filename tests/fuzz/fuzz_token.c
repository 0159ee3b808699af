/* SPDX-License-Identifier: Apache-2.0 */
/* Texts that a person types: a token, a SPIFFE name. One is accepted only in its one form. */
#include "fuzz/fuzz.h"
#include "tier/authority.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tier_token token;
    struct tier_identity id;
    char uri[TIER_SPIFFE_SIZE];
    char *text = malloc(size + 1);

    FUZZ_CHECK(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (tier_token_parse(text, &token, NULL) == TIER_OK)
        FUZZ_CHECK(strlen(text) == TIER_TOKEN_SIZE - 1);
    if (tier_identity_parse_spiffe(text, &id, NULL) == TIER_OK)
        FUZZ_CHECK(strcmp(tier_identity_spiffe(&id, uri), text) == 0);
    free(text);
    return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static const char *const seeds[] = {
        "consilium1.abcdefghijklmnopqrstuvwxyz234567."
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "spiffe://nhs/operator/north-1",
    };
    size_t n = i < sizeof seeds / sizeof *seeds ? strlen(seeds[i]) : 0;

    FUZZ_CHECK(n <= room);
    if (n)
        memcpy(out, seeds[i], n);
    return n;
}
