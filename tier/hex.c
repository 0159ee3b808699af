/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/hex.h"

#include <string.h>

static int digit(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool tier_hex_read(const char *text, uint8_t *out, size_t room, size_t *bytes_out) {
    const size_t n = strlen(text);

    if (n % 2 || n / 2 > room)
        return false;
    for (size_t i = 0; i < n / 2; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    *bytes_out = n / 2;
    return true;
}
