/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define BIG_ELEMENTS 700001 /* 2.67 MiB: two whole chunks and a part of one */

static struct tier_manifest *manifest_big(void) {
    struct tier_tensor t = tensor_of("w", BIG_ELEMENTS, 0, 30, false);
    return manifest_of(&t, 1);
}

/* A child's spool holds one update; the parent's is where it is received. */
struct edge {
    struct tier_spool *child, *parent;
    struct tier_manifest *manifest;
    struct tier_hash id;
    struct wire_bytes wire;
};
static struct edge edge_up(struct tier_manifest *m, bool strict) {
    uint64_t seed = 6;
    struct edge e = {.manifest = m, .child = spool_up(strict)};
    MUST(tier_spool_open(fixture_path("parent"), strict, &e.parent, err));
    e.id = sealed_random(e.child, m, 9, &seed);
    e.wire = wire_of(e.child, &e.id);
    return e;
}
static void edge_down(struct edge *e) {
    wire_free(&e->wire);
    tier_manifest_free(e->manifest);
    tier_spool_close(e->child);
    tier_spool_close(e->parent);
    fixture_down();
}
static struct tier_spool_rx *receive(struct edge *e) {
    struct tier_spool_rx *rx = NULL;
    MUST(tier_spool_receive(e->parent, e->wire.header, e->wire.header_len, &rx, err));
    return rx;
}
/* Writes payload from the receiver's offset up to `end`, in pieces of `piece`. */
static void push(struct edge *e, struct tier_spool_rx *rx, size_t end, size_t piece) {
    for (size_t at = tier_spool_rx_offset(rx); at < end;) {
        size_t n = piece < end - at ? piece : end - at;
        MUST(tier_spool_rx_write(rx, at, e->wire.payload + at, n, err));
        at += n;
    }
}
static void seal_and_check(struct edge *e, struct tier_spool_rx *rx) {
    struct tier_hash id;
    MUST(tier_spool_rx_seal(rx, &id, err));
    CHECK(tier_hash_equal(&id, &e->id));
    tier_spool_rx_close(rx);
    struct tier_update *u = update_open(e->parent, &id);
    MUST(tier_spool_update_check(u, err));
    MUST(tier_update_verify(u, e->manifest, err));
    tier_spool_update_close(u);
}

Test(tier_spool, what_was_pushed_is_what_is_sealed) {
    for (int strict = 0; strict < 2; strict++) {
        struct edge e = edge_up(manifest_big(), strict);
        struct tier_spool_rx *rx = receive(&e);
        push(&e, rx, e.wire.payload_len, 8191);
        seal_and_check(&e, rx);
        cr_assert(eq(sz, files_in(fixture_path("parent")), 1));
        edge_down(&e);
    }
}

Test(tier_spool, many_slices_go_in_as_one_write) {
    struct edge e = edge_up(manifest_big(), false);
    struct iovec slices[200];
    size_t at = 0, count = 0, step = e.wire.payload_len / 199;
    for (; at < e.wire.payload_len; count++) {
        size_t n = count % 7 == 0 ? 0 : step + count;
        n = n < e.wire.payload_len - at ? n : e.wire.payload_len - at;
        if (count == 199)
            n = e.wire.payload_len - at;
        slices[count] = (struct iovec){e.wire.payload + at, n};
        at += n;
    }
    struct tier_spool_rx *rx = receive(&e);
    MUST(tier_spool_rx_writev(rx, 0, slices, count, err));
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, a_cut_at_any_kind_of_place_resumes_at_a_whole_chunk) {
    static const size_t cuts[] = {0,
                                  1,
                                  4095,
                                  65536,
                                  TIER_CHUNK_BYTES - 1,
                                  TIER_CHUNK_BYTES,
                                  TIER_CHUNK_BYTES + 1,
                                  2 * TIER_CHUNK_BYTES + 777,
                                  BIG_ELEMENTS * 4 - 1,
                                  BIG_ELEMENTS * 4};
    struct edge e = edge_up(manifest_big(), false);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct tier_spool_rx *rx = receive(&e);
        push(&e, rx, cuts[i], 100000);
        tier_spool_rx_close(rx);
        rx = receive(&e);
        cr_assert(eq(u64, tier_spool_rx_offset(rx), cuts[i] / TIER_CHUNK_BYTES * TIER_CHUNK_BYTES));
        push(&e, rx, e.wire.payload_len, 300000);
        seal_and_check(&e, rx);
        MUST(tier_spool_delete(e.parent, &e.id, err));
    }
    edge_down(&e);
}

Test(tier_spool, a_partial_with_a_damaged_or_short_header_starts_again) {
    struct edge e = edge_up(manifest_big(), false);
    char name[160], hex[TIER_HASH_HEX];
    snprintf(name, sizeof name, "parent/%s.part", tier_hash_hex(&e.id, hex));
    for (int damage = 0; damage < 2; damage++) {
        struct tier_spool_rx *rx = receive(&e);
        push(&e, rx, 2 * TIER_CHUNK_BYTES, TIER_CHUNK_BYTES);
        tier_spool_rx_close(rx);
        int fd = open(fixture_path(name), O_RDWR);
        CHECK(damage ? pwrite(fd, "?", 1, 40) == 1 : ftruncate(fd, 100) == 0);
        close(fd);
        rx = receive(&e);
        cr_assert(eq(u64, tier_spool_rx_offset(rx), 0));
        push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
        seal_and_check(&e, rx);
        MUST(tier_spool_delete(e.parent, &e.id, err));
    }
    edge_down(&e);
}

Test(tier_spool, a_repeated_push_is_harmless) {
    struct edge e = edge_up(manifest_small(), false);
    struct tier_hash id;
    struct tier_spool_rx *rx = receive(&e);
    CHECK(!tier_spool_rx_sealed(rx));
    push(&e, rx, e.wire.payload_len, 7);
    seal_and_check(&e, rx);
    rx = receive(&e);
    CHECK(tier_spool_rx_sealed(rx) && tier_spool_rx_offset(rx) == e.wire.payload_len);
    REFUSED(TIER_EPROTO, "next", tier_spool_rx_write(rx, 0, "x", 1, err));
    MUST(tier_spool_rx_seal(rx, &id, err));
    CHECK(tier_hash_equal(&id, &e.id));
    tier_spool_rx_close(rx);
    edge_down(&e);
}

Test(tier_spool, a_push_of_what_is_sealed_and_damaged_is_taken_from_its_start) {
    struct edge e = edge_up(manifest_big(), false);
    struct tier_spool_rx *rx = receive(&e);
    char name[160], hex[TIER_HASH_HEX];
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    snprintf(name, sizeof name, "parent/%s.upd", tier_hash_hex(&e.id, hex));
    int fd = open(fixture_path(name), O_RDWR);
    CHECK(pwrite(fd, "?", 1, 4096 + TIER_CHUNK_BYTES + 5) == 1);
    close(fd);
    rx = receive(&e);
    CHECK(!tier_spool_rx_sealed(rx) && tier_spool_rx_offset(rx) == 0);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, bytes_out_of_order_or_too_many_are_refused) {
    struct edge e = edge_up(manifest_small(), false);
    struct tier_hash id;
    struct tier_spool_rx *rx = receive(&e), *second = NULL;
    REFUSED(TIER_EPROTO, "next", tier_spool_rx_write(rx, 4, e.wire.payload, 4, err));
    REFUSED(TIER_EPROTO, "more bytes",
            tier_spool_rx_write(rx, 0, e.wire.payload, e.wire.payload_len + 1, err));
    REFUSED(TIER_ECONFLICT, "already",
            tier_spool_receive(e.parent, e.wire.header, e.wire.header_len, &second, err));
    push(&e, rx, e.wire.payload_len - 1, 10);
    REFUSED(TIER_EUPDATE, "cut short", tier_spool_rx_seal(rx, &id, err));
    push(&e, rx, e.wire.payload_len, 10);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, a_flipped_bit_in_the_payload_is_refused_and_nothing_stays) {
    struct edge e = edge_up(manifest_small(), false);
    for (size_t bit = 0; bit < e.wire.payload_len * 8; bit += 37) {
        struct tier_hash id;
        struct tier_spool_rx *rx = receive(&e);
        e.wire.payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
        push(&e, rx, e.wire.payload_len, 1000);
        REFUSED(TIER_EUPDATE, "Merkle", tier_spool_rx_seal(rx, &id, err));
        REFUSED(TIER_EUPDATE, "refused", tier_spool_rx_seal(rx, &id, err));
        tier_spool_rx_close(rx);
        e.wire.payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_assert(eq(sz, files_in(fixture_path("parent")), 0));
    }
    struct tier_spool_rx *rx = receive(&e);
    push(&e, rx, e.wire.payload_len, 1000);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, a_full_disk_is_refused_and_nothing_is_lost) {
    struct edge e = edge_up(manifest_big(), false);
    struct rlimit limit = {2 * TIER_CHUNK_BYTES, RLIM_INFINITY},
                  none = {RLIM_INFINITY, RLIM_INFINITY};
    struct tier_spool_rx *rx = receive(&e);
    uint64_t seed = 8;
    signal(SIGXFSZ, SIG_IGN);
    push(&e, rx, TIER_CHUNK_BYTES, TIER_CHUNK_BYTES);
    setrlimit(RLIMIT_FSIZE, &limit);
    REFUSED(TIER_EFULL, "cannot write",
            tier_spool_rx_write(rx, TIER_CHUNK_BYTES, e.wire.payload + TIER_CHUNK_BYTES,
                                TIER_CHUNK_BYTES, err));
    cr_assert(eq(u64, tier_spool_rx_offset(rx), TIER_CHUNK_BYTES));
    struct tier_update_header h = header_for(e.manifest, 3);
    struct tier_hash id;
    float *x = deltas_random(e.manifest, 0.1, &seed);
    REFUSED(TIER_EFULL, "cannot write",
            tier_update_seal_f32(e.parent, &h, e.manifest, x, false, &id, err));
    free(x);
    cr_assert(eq(sz, files_in(fixture_path("parent")), 1)); /* the partial alone */
    setrlimit(RLIMIT_FSIZE, &none);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, a_sealed_file_that_changed_is_found) {
    struct edge e = edge_up(manifest_small(), false);
    char name[160], hex[TIER_HASH_HEX];
    struct tier_update *u = NULL;
    snprintf(name, sizeof name, "spool/%s.upd", tier_hash_hex(&e.id, hex));
    int fd = open(fixture_path(name), O_RDWR);
    CHECK(pwrite(fd, "?", 1, 4096 + 5) == 1);
    u = update_open(e.child, &e.id);
    REFUSED(TIER_ECORRUPT, "payload", tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    CHECK(ftruncate(fd, 4096 + 18 * 4 - 1) == 0);
    REFUSED(TIER_ECORRUPT, "bytes", tier_spool_update_open(e.child, &e.id, &u, err));
    CHECK(pwrite(fd, "?", 1, 50) == 1);
    REFUSED(TIER_ECORRUPT, "header", tier_spool_update_open(e.child, &e.id, &u, err));
    CHECK(pwrite(fd, "?", 1, 0) == 1);
    REFUSED(TIER_ECORRUPT, "header", tier_spool_update_open(e.child, &e.id, &u, err));
    close(fd);
    REFUSED(TIER_ENOTFOUND, "no update", tier_spool_update_open(e.parent, &e.id, &u, err));
    edge_down(&e);
}

static bool keep_one(void *arg, const struct tier_hash *id, bool sealed) {
    return sealed && tier_hash_equal(id, arg);
}

Test(tier_spool, a_sweep_keeps_what_is_named_and_what_is_not_ours) {
    struct edge e = edge_up(manifest_small(), false);
    uint64_t seed = 77, bytes = 0;
    struct tier_hash other = sealed_random(e.child, e.manifest, 2, &seed);
    struct tier_spool_writer *w = NULL;
    struct tier_update_header h = header_for(e.manifest, 1);
    MUST(tier_spool_writer_begin(e.child, &h, &w, err));
    close(open(fixture_path("spool/notes.txt"), O_CREAT | O_WRONLY, 0600));
    cr_assert(eq(sz, files_in(fixture_path("spool")), 4));
    MUST(tier_spool_bytes(e.child, &bytes, err));
    cr_assert(eq(u64, bytes, 2 * (4096 + 72)));
    MUST(tier_spool_sweep(e.child, keep_one, &e.id, err));
    CHECK(tier_spool_has(e.child, &e.id) && !tier_spool_has(e.child, &other));
    cr_assert(eq(sz, files_in(fixture_path("spool")), 2));
    tier_spool_writer_abort(w);
    edge_down(&e);
}

Test(tier_spool, reads_past_the_payload_are_refused_parked_or_not) {
    struct edge e = edge_up(manifest_small(), false);
    struct tier_update *u = update_open(e.child, &e.id);
    uint8_t a[72], b[72];
    MUST(tier_spool_update_read(u, 0, a, 72, err));
    tier_spool_update_trim(u, false);
    MUST(tier_spool_update_read(u, 0, b, 72, err));
    CHECK(memcmp(a, b, 72) == 0);
    REFUSED(TIER_EARG, "payload", tier_spool_update_read(u, 1, b, 72, err));
    REFUSED(TIER_EARG, "payload", tier_spool_update_read(u, UINT64_MAX, b, 2, err));
    tier_spool_update_close(u);
    edge_down(&e);
}

/* ---- deleted files that are used again ---- */

static const char *sealed_path(const struct tier_hash *id) {
    static char name[160];
    char hex[TIER_HASH_HEX];
    snprintf(name, sizeof name, "parent/%s.upd", tier_hash_hex(id, hex));
    return fixture_path(name);
}

static ino_t inode_of(const struct tier_hash *id) {
    struct stat info;
    CHECK(stat(sealed_path(id), &info) == 0);
    return info.st_ino;
}

/* The same edge with another update on it. */
static void another_update(struct edge *e, uint64_t seed) {
    wire_free(&e->wire);
    e->id = sealed_random(e->child, e->manifest, 3, &seed);
    e->wire = wire_of(e->child, &e->id);
}

static ino_t one_was_deleted(struct edge *e) {
    struct tier_spool_rx *rx = receive(e);
    push(e, rx, e->wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(e, rx);
    ino_t inode = inode_of(&e->id);
    MUST(tier_spool_delete(e->parent, &e->id, err));
    CHECK(!tier_spool_has(e->parent, &e->id));
    another_update(e, inode);
    return inode;
}

Test(tier_spool, a_deleted_file_is_written_over_by_what_comes_next) {
    struct edge e = edge_up(manifest_big(), false);
    ino_t inode = one_was_deleted(&e);
    struct tier_spool_rx *rx = receive(&e);
    cr_assert(eq(u64, tier_spool_rx_offset(rx), 0), "what it held before does not count");
    push(&e, rx, e.wire.payload_len, 100000);
    seal_and_check(&e, rx);
    CHECK(inode_of(&e.id) == inode);
    cr_assert(eq(sz, files_in(fixture_path("parent")), 1));
    MUST(tier_spool_delete(e.parent, &e.id, err));

    struct tier_update_header h = header_for(e.manifest, 3);
    struct tier_hash own;
    uint64_t seed = 99;
    float *x = deltas_random(e.manifest, 0.1, &seed);
    MUST(tier_update_seal_f32(e.parent, &h, e.manifest, x, false, &own, err));
    free(x);
    CHECK(inode_of(&own) == inode);
    struct tier_update *u = update_open(e.parent, &own);
    MUST(tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    edge_down(&e);
}

/* Large files are deleted by a thread. */
static void wait_for_files(size_t n) {
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 20;
    do {
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (files_in(fixture_path("parent")) != n && now.tv_sec < end.tv_sec);
    cr_assert(eq(sz, files_in(fixture_path("parent")), n));
}

Test(tier_spool, what_deleted_files_take_of_the_disk_is_bounded) {
    struct edge e = edge_up(manifest_big(), false);
    static const off_t gib[] = {1, 3, 1, 1}; /* holes; two GiB are kept in all */
    static const size_t kept[] = {1, 1, 2, 2};
    for (size_t i = 0; i < sizeof gib / sizeof gib[0]; i++) {
        struct tier_hash id = {{(uint8_t)(i + 1)}};
        int fd = open(sealed_path(&id), O_CREAT | O_WRONLY, 0600);
        CHECK(fd >= 0 && ftruncate(fd, gib[i] << 30) == 0);
        close(fd);
        MUST(tier_spool_delete(e.parent, &id, err));
        CHECK(!tier_spool_has(e.parent, &id));
        wait_for_files(kept[i]);
    }
    struct tier_spool_rx *rx = receive(&e); /* in one of them, */
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    cr_assert(eq(sz, files_in(fixture_path("parent")), 2));
    MUST(tier_spool_delete(e.parent, &e.id, err)); /* which is small now and has room, */
    struct tier_hash id = {{9}};
    int fd = open(sealed_path(&id), O_CREAT | O_WRONLY, 0600);
    CHECK(fd >= 0 && ftruncate(fd, 1 << 29) == 0);
    close(fd);
    MUST(tier_spool_delete(e.parent, &id, err)); /* as has another of half a GiB */
    cr_assert(eq(sz, files_in(fixture_path("parent")), 3));
    edge_down(&e);
}

Test(tier_spool, a_cut_in_a_file_used_again_resumes_where_it_was_and_never_with_old_bytes) {
    struct edge e = edge_up(manifest_big(), false);
    one_was_deleted(&e);
    for (size_t cut = 0; cut <= 2 * TIER_CHUNK_BYTES + 5; cut += TIER_CHUNK_BYTES / 2) {
        struct tier_spool_rx *rx = receive(&e);
        size_t whole = cut / TIER_CHUNK_BYTES * TIER_CHUNK_BYTES;
        if (tier_spool_rx_offset(rx) < cut)
            push(&e, rx, cut, TIER_CHUNK_BYTES / 4);
        tier_spool_rx_close(rx);
        rx = receive(&e);
        cr_assert(eq(u64, tier_spool_rx_offset(rx), whole));
        tier_spool_rx_close(rx);
    }
    struct tier_spool_rx *rx = receive(&e);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, a_mark_that_says_more_than_is_here_costs_a_push_and_nothing_else) {
    struct edge e = edge_up(manifest_big(), false);
    one_was_deleted(&e);
    struct tier_spool_rx *rx = receive(&e);
    push(&e, rx, TIER_CHUNK_BYTES, TIER_CHUNK_BYTES);
    tier_spool_rx_close(rx);
    char name[160], hex[TIER_HASH_HEX];
    uint8_t mark[16], no_mark[16];
    snprintf(name, sizeof name, "parent/%s.part", tier_hash_hex(&e.id, hex));
    int fd = open(fixture_path(name), O_RDWR);
    CHECK(pread(fd, mark, 16, 4096 - 16) == 16);
    memcpy(no_mark, mark, 16);
    no_mark[2] = 0x20; /* two chunks, but the other half does not agree */
    CHECK(pwrite(fd, no_mark, 16, 4096 - 16) == 16);
    rx = receive(&e);
    cr_assert(eq(u64, tier_spool_rx_offset(rx), 0));
    push(&e, rx, TIER_CHUNK_BYTES, TIER_CHUNK_BYTES);
    tier_spool_rx_close(rx);
    mark[2] ^= 0x30; /* from one chunk to two, in both halves */
    mark[10] ^= 0x30;
    CHECK(pwrite(fd, mark, 16, 4096 - 16) == 16);
    close(fd);
    struct tier_hash id;
    rx = receive(&e);
    cr_assert(eq(u64, tier_spool_rx_offset(rx), 2 * TIER_CHUNK_BYTES));
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    REFUSED(TIER_EUPDATE, "Merkle", tier_spool_rx_seal(rx, &id, err));
    tier_spool_rx_close(rx);
    rx = receive(&e);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    edge_down(&e);
}

Test(tier_spool, what_somebody_reads_is_not_written_over) {
    struct edge e = edge_up(manifest_big(), false);
    struct tier_spool_rx *rx = receive(&e);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    seal_and_check(&e, rx);
    struct tier_update *reader = update_open(e.parent, &e.id);
    ino_t inode = inode_of(&e.id);
    MUST(tier_spool_delete(e.parent, &e.id, err));
    another_update(&e, 5);
    rx = receive(&e);
    push(&e, rx, e.wire.payload_len, TIER_CHUNK_BYTES);
    MUST(tier_spool_update_check(reader, err));
    seal_and_check(&e, rx);
    CHECK(inode_of(&e.id) != inode);
    tier_spool_update_close(reader);
    cr_assert(eq(sz, files_in(fixture_path("parent")), 1), "nor kept");
    edge_down(&e);
}

Test(tier_spool, old_files_are_few_and_go_when_they_are_told_to) {
    struct edge e = edge_up(manifest_big(), false);
    enum { COUNT = 20 };
    struct tier_hash id[COUNT];
    uint64_t seed = 1, bytes = 0;
    for (size_t i = 0; i < COUNT; i++)
        id[i] = sealed_random(e.parent, e.manifest, 1, &seed);
    for (size_t i = 0; i < COUNT; i++)
        MUST(tier_spool_delete(e.parent, &id[i], err));
    cr_assert(eq(sz, files_in(fixture_path("parent")), 16));
    MUST(tier_spool_bytes(e.parent, &bytes, err));
    cr_assert(gt(u64, bytes, 16 * BIG_ELEMENTS * 4), "they count");
    tier_spool_forget_old(e.parent);
    cr_assert(eq(sz, files_in(fixture_path("parent")), 0));
    id[0] = sealed_random(e.parent, e.manifest, 1, &seed);
    MUST(tier_spool_delete(e.parent, &id[0], err));
    close(open(fixture_path("parent/7.old"), O_CREAT | O_WRONLY, 0600)); /* of a killed process */
    MUST(tier_spool_sweep(e.parent, keep_one, &e.id, err));
    cr_assert(eq(sz, files_in(fixture_path("parent")), 0));
    edge_down(&e);
}

/* A file that was deleted is written over by the next, unless it has another name still. */
Test(tier_spool, what_is_shared_outlives_the_first_and_is_not_written_over, .fini = fixture_down) {
    struct tier_spool *spool = spool_up(false), *other;
    struct tier_manifest *m = manifest_big();
    uint64_t seed = 21;
    struct tier_hash id = sealed_random(spool, m, 3, &seed), none;
    MUST(tier_spool_open(fixture_path("other"), false, &other, err));
    MUST(tier_spool_share(spool, &id, fixture_path("other"), err));
    MUST(tier_spool_share(spool, &id, fixture_path("other"), err)); /* it is there already */
    CHECK(tier_spool_has(spool, &id) && tier_spool_has(other, &id));
    MUST(tier_spool_delete(spool, &id, err));
    for (int i = 0; i < 3; i++)
        sealed_random(spool, m, 4, &seed);
    struct tier_update *u = update_open(other, &id);
    MUST(tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    tier_hash_data("none", 4, &none);
    REFUSED(TIER_ENOTFOUND, "cannot go",
            tier_spool_share(spool, &none, fixture_path("other"), err));
    tier_spool_close(other);
    tier_spool_close(spool);
    tier_manifest_free(m);
}
