/* SPDX-License-Identifier: Apache-2.0 */
#include "tier/wire_field.h"

#include <stdlib.h>
#include <string.h>

void *tier_wire_need(size_t count, size_t bytes) {
    void *p = calloc(count ? count : 1, bytes ? bytes : 1);
    if (!p)
        abort();
    return p;
}

struct tier_bytes tier_wire_pack(const ProtobufCMessage *m) {
    struct tier_bytes b = {.n = protobuf_c_message_get_packed_size(m)};
    b.data = tier_wire_need(b.n, 1);
    protobuf_c_message_pack(m, b.data);
    return b;
}

enum tier_status tier_wire_unreadable(const char *what, size_t n, struct tier_err *err) {
    return tier_fail(err, TIER_EPROTO, "%s of %zu bytes is not a valid protobuf message", what, n);
}

enum tier_status tier_wire_text(const char *field, const char *in, char *out, size_t size,
                                struct tier_err *err) {
    const unsigned char *p = (const unsigned char *)in;
    size_t n = strlen(in);

    if (n >= size)
        return tier_fail(err, TIER_EPROTO, "%s has %zu bytes, at most %zu are allowed", field, n,
                         size - 1);
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f || (p[i] == 0xc2 && (p[i + 1] & 0xe0) == 0x80))
            return tier_fail(err, TIER_EPROTO, "%s holds a control character", field);
    memcpy(out, in, n + 1);
    return TIER_OK;
}

enum tier_status tier_wire_hash(const char *field, ProtobufCBinaryData in, struct tier_hash *out,
                                struct tier_err *err) {
    if (in.len != TIER_HASH_BYTES)
        return tier_fail(err, TIER_EPROTO, "%s holds %zu bytes, a SHA-256 has 32", field, in.len);
    memcpy(out->b, in.data, TIER_HASH_BYTES);
    return TIER_OK;
}

ProtobufCBinaryData tier_wire_hash_field(const struct tier_hash *h) {
    return (ProtobufCBinaryData){TIER_HASH_BYTES, (uint8_t *)h->b};
}
