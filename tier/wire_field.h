/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fields that every protocol has, checked alike: private to tier/wire.c, console_wire.c,
 * team_wire.c and trainer_wire.c. All refusals are TIER_EPROTO and begin with the field's name.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_WIRE_FIELD_H
#define CONSILIUM_TIER_WIRE_FIELD_H

#include "tier/wire.h"

#include <protobuf-c/protobuf-c.h>

/* calloc that ends the process where it fails: control messages are small, and without memory for
 * one a node cannot go on. */
void *tier_wire_need(size_t count, size_t bytes);
struct tier_bytes tier_wire_pack(const ProtobufCMessage *m);
enum tier_status tier_wire_unreadable(const char *what, size_t n, struct tier_err *err);

/* Into out[size]: it fits, and holds no control character, of ASCII or of UTF-8's second page. */
enum tier_status tier_wire_text(const char *field, const char *in, char *out, size_t size,
                                struct tier_err *err);
/* 32 bytes. */
enum tier_status tier_wire_hash(const char *field, ProtobufCBinaryData in, struct tier_hash *out,
                                struct tier_err *err);
/* Borrows. */
ProtobufCBinaryData tier_wire_hash_field(const struct tier_hash *h);

#endif
