/* SPDX-License-Identifier: Apache-2.0 */
/* The message Head, which goes both ways. */
#include "support/tier_fixture.h"
#include "tier/wire.h"

static struct tier_head full(void) {
    struct tier_head h = {.size = TIER_TREE_SIZE_MAX - 1,
                          .time_ms = -3,
                          .signature_bytes = sizeof h.signature,
                          .since = 77,
                          .proof_count = TIER_TREE_PROOF_MAX,
                          .known = TIER_TREE_SIZE_MAX - 1,
                          .answer = true};

    tier_hash_data("root", 4, &h.root);
    memset(h.signature, 0xa5, sizeof h.signature);
    for (size_t i = 0; i < TIER_TREE_PROOF_MAX; i++)
        tier_hash_data(&i, sizeof i, &h.proof[i]);
    return h;
}

static void same(const struct tier_head *a, const struct tier_head *b) {
    CHECK(a->size == b->size && a->time_ms == b->time_ms && a->since == b->since);
    CHECK(a->known == b->known && a->answer == b->answer);
    CHECK(tier_hash_equal(&a->root, &b->root) && a->proof_count == b->proof_count);
    CHECK(memcmp(a->proof, b->proof, a->proof_count * sizeof *a->proof) == 0);
    CHECK(a->signature_bytes == b->signature_bytes);
    CHECK(memcmp(a->signature, b->signature, a->signature_bytes) == 0);
}

static enum tier_status back(const struct tier_head *head, bool up, struct tier_head *out,
                             struct tier_err *err) {
    struct tier_from_child from = {.type = TIER_FROM_HEAD, .head = *head}, from_back;
    struct tier_to_child to = {.type = TIER_TO_HEAD, .head = *head}, to_back;
    struct tier_bytes b = up ? tier_wire_from_child_bytes(&from) : tier_wire_to_child_bytes(&to);
    enum tier_status st = up ? tier_wire_from_child(b.data, b.n, &from_back, err)
                             : tier_wire_to_child(b.data, b.n, &to_back, err);

    free(b.data);
    if (st != TIER_OK)
        return st;
    CHECK(up ? from_back.type == TIER_FROM_HEAD : to_back.type == TIER_TO_HEAD);
    *out = up ? from_back.head : to_back.head;
    if (up)
        tier_wire_from_child_release(&from_back);
    else
        tier_wire_to_child_release(&to_back);
    return TIER_OK;
}

Test(tier_wire_head, a_head_comes_back_as_it_was_both_ways) {
    struct tier_head whole = full(), bare = {.size = 1}, out;

    for (int up = 0; up < 2; up++) {
        MUST(back(&whole, up, &out, err));
        same(&whole, &out);
        MUST(back(&bare, up, &out, err));
        same(&bare, &out);
    }
}

Test(tier_wire_head, numbers_out_of_bounds_are_refused_by_field) {
    struct tier_head h, out;

    for (int up = 0; up < 2; up++) {
        h = full();
        h.size = 0;
        REFUSED(TIER_EPROTO, "head.size", back(&h, up, &out, err));
        h.size = TIER_TREE_SIZE_MAX;
        REFUSED(TIER_EPROTO, "head.size", back(&h, up, &out, err));
        h = full();
        h.known = TIER_TREE_SIZE_MAX;
        REFUSED(TIER_EPROTO, "head.known", back(&h, up, &out, err));
        h = full();
        h.since = h.size + 1;
        REFUSED(TIER_EPROTO, "head.since", back(&h, up, &out, err));
        h.since = 0;
        REFUSED(TIER_EPROTO, "head.proof", back(&h, up, &out, err));
    }
}

/* protobuf by hand: every length here is below 2^14. */
struct raw {
    uint8_t b[8192];
    size_t n;
};

static void put_bytes(struct raw *r, unsigned field, const void *data, size_t n) {
    r->b[r->n++] = (uint8_t)(field << 3 | 2);
    r->b[r->n++] = (uint8_t)(0x80 | (n & 0x7f));
    r->b[r->n++] = (uint8_t)(n >> 7);
    memcpy(r->b + r->n, data, n);
    r->n += n;
}

static void refused_as(const char *word, size_t root, size_t signature, size_t hashes,
                       size_t last_hash) {
    static const uint8_t zeros[100];
    struct raw head = {.b = {1 << 3, 9, 5 << 3, 4}, .n = 4}, whole = {.n = 0};
    struct tier_from_child m;

    put_bytes(&head, 2, zeros, root);
    put_bytes(&head, 4, zeros, signature);
    for (size_t i = 0; i < hashes; i++)
        put_bytes(&head, 6, zeros, i + 1 < hashes ? 32 : last_hash);
    put_bytes(&whole, 15, head.b, head.n);
    if (word)
        REFUSED(TIER_EPROTO, word, tier_wire_from_child(whole.b, whole.n, &m, err));
    else
        MUST(tier_wire_from_child(whole.b, whole.n, &m, err));
    if (!word)
        tier_wire_from_child_release(&m);
}

Test(tier_wire_head, more_bytes_or_hashes_than_allowed_are_refused_by_field) {
    refused_as(NULL, 32, 80, TIER_TREE_PROOF_MAX, 32);
    refused_as("head.root", 31, 80, 2, 32);
    refused_as("head.signature", 32, 81, 2, 32);
    refused_as("head.proof", 32, 80, TIER_TREE_PROOF_MAX + 1, 32);
    refused_as("head.proof", 32, 80, 2, 33);
}

Test(tier_wire_head, the_signed_text_says_the_node_and_every_number_and_must_fit) {
    struct tier_head h = {.size = 12, .root = {{0xab}}, .time_ms = 1700000000000};
    char text[256], small[32];

    CHECK(tier_head_text("north-1", &h, text, sizeof text) == strlen(text));
    cr_assert(eq(str, text,
                 "consilium head 1\nnode north-1\nsize 12\nroot "
                 "ab00000000000000000000000000000000000000000000000000000000000000"
                 "\ntime_ms 1700000000000\n"));
    CHECK(tier_head_text("north-1", &h, small, sizeof small) == 0);
}
