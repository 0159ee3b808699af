/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/content.h"
#include "tier/identity.h"
#include "tier/cert.h"
#include "tier/key_file.h"
#include "tier/secure_fold.h"
#include "tier/vault.h"

#include <sys/stat.h>

#define PLAIN_BYTES 200000u
#define MARKER "consilium-patient-marker"

static char node[128]; /* a data directory */

static void put_secret(const char *name, const char *text) {
    FILE *f = fopen(fixture_path(name), "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
    CHECK(chmod(fixture_path(name), 0600) == 0);
}

static void up(void) {
    fixture_up();
    unsetenv("CREDENTIALS_DIRECTORY");
    put_secret("pass", "correct horse battery\n");
    put_secret("other", "another passphrase\n");
    tier_key_file_passphrase(fixture_path("pass"));
    snprintf(node, sizeof node, "%s/node", fixture_dir);
    CHECK(mkdir(node, 0700) == 0);
}

TestSuite(tier_vault, .init = up, .fini = fixture_down);

static struct tier_vault *vault(bool writes) {
    struct tier_vault *v = NULL;
    MUST(tier_vault_open(node, writes, &v, err));
    return v;
}

static char *in_node(const char *name) {
    static char path[4][300];
    static unsigned next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", node, name);
    return out;
}

/* Whether a file of the folder holds the bytes anywhere. */
static bool shows(const char *folder, const void *bytes, size_t n) {
    bool found = false;
    DIR *d = opendir(folder);
    CHECK(d != NULL);
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[600];
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (stat(path, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0)
            continue;
        char *all = malloc((size_t)info.st_size);
        FILE *f = fopen(path, "rb");
        CHECK(fread(all, 1, (size_t)info.st_size, f) == (size_t)info.st_size);
        fclose(f);
        found = found || memmem(all, (size_t)info.st_size, bytes, n) != NULL;
        free(all);
    }
    closedir(d);
    return found;
}

Test(tier_vault, what_is_written_in_any_pieces_is_read_in_any_others) {
    struct tier_vault *v = vault(true);
    struct tier_cipher w, r;
    static uint8_t plain[PLAIN_BYTES], got[PLAIN_BYTES], raw[PLAIN_BYTES + TIER_CIPHER_FRONT];
    uint64_t seed = 4;

    for (size_t i = 0; i < sizeof plain; i++)
        plain[i] = (uint8_t)rng_next(&seed);
    int fd = open(in_node("file"), O_RDWR | O_CREAT, 0600);
    MUST(tier_cipher_new(in_node("file"), fd, &w, err));
    cr_assert(eq(u64, w.front, TIER_CIPHER_FRONT));
    for (size_t at = 0; at < sizeof plain;) {
        size_t left = sizeof plain - at, n = 1 + rng_below(&seed, 90000);
        n = n < left ? n : left;
        size_t a = rng_below(&seed, n + 1);
        const struct iovec slices[3] = {{plain + at, a}, {NULL, 0}, {plain + at + a, n - a}};
        CHECK(tier_cipher_pwritev(&w, fd, slices, 3, at) == (ssize_t)n);
        at += n;
    }
    MUST(tier_cipher_of(in_node("file"), fd, &r, err));
    for (int i = 0; i < 300; i++) {
        size_t at = rng_below(&seed, sizeof plain), n = rng_below(&seed, sizeof plain - at + 1);
        CHECK(tier_cipher_pread(&r, fd, got, n, at) == (ssize_t)n);
        CHECK(memcmp(got, plain + at, n) == 0, "%zu bytes at %zu", n, at);
    }
    CHECK(tier_cipher_pread(&r, fd, got, 10, sizeof plain) == 0);
    CHECK(pread(fd, raw, sizeof raw, 0) == (ssize_t)sizeof raw);
    CHECK(memmem(raw, sizeof raw, plain, 16) == NULL);
    /* The same bytes again are other bytes: each file has a key of its own. */
    int second = open(in_node("second"), O_RDWR | O_CREAT, 0600);
    MUST(tier_cipher_new(in_node("second"), second, &w, err));
    CHECK(tier_cipher_pwrite(&w, second, plain, 4096, 0) == 4096);
    CHECK(pread(second, got, 4096, TIER_CIPHER_FRONT) == 4096);
    CHECK(memcmp(got, raw + TIER_CIPHER_FRONT, 4096) != 0);
    close(fd);
    close(second);
    tier_vault_close(v);
}

Test(tier_vault, an_update_is_received_resumed_sealed_and_read_and_none_of_it_shows) {
    struct tier_tensor t = tensor_of("w", 700001, 0, 30, false);
    struct tier_manifest *m = manifest_of(&t, 1);
    struct tier_spool *child = NULL, *parent = NULL;
    struct tier_spool_rx *rx = NULL;
    struct tier_vault *v = vault(true);
    uint64_t seed = 6;
    struct tier_hash sent, id;
    struct wire_bytes wire;

    MUST(tier_spool_open(fixture_path("child"), false, &child, err)); /* plain */
    sent = sealed_random(child, m, 9, &seed);
    wire = wire_of(child, &sent);
    for (int again = 0; again < 3; again++) { /* then over what was deleted */
        MUST(tier_spool_open(in_node("spool"), false, &parent, err));
        MUST(tier_spool_receive(parent, wire.header, wire.header_len, &rx, err));
        MUST(tier_spool_rx_write(rx, 0, wire.payload, 1500000, err));
        tier_spool_rx_close(rx);
        MUST(tier_spool_receive(parent, wire.header, wire.header_len, &rx, err));
        cr_assert(eq(u64, tier_spool_rx_offset(rx), TIER_CHUNK_BYTES));
        MUST(tier_spool_rx_write(rx, TIER_CHUNK_BYTES, wire.payload + TIER_CHUNK_BYTES,
                                 wire.payload_len - TIER_CHUNK_BYTES, err));
        MUST(tier_spool_rx_seal(rx, &id, err));
        tier_spool_rx_close(rx);
        CHECK(tier_hash_equal(&id, &sent));
        struct tier_update *u = update_open(parent, &id);
        MUST(tier_spool_update_check(u, err));
        MUST(tier_update_verify(u, m, err));
        tier_spool_update_trim(u, false); /* opened anew for each read */
        uint8_t some[100];
        MUST(tier_spool_update_read(u, 12345, some, sizeof some, err));
        CHECK(memcmp(some, wire.payload + 12345, sizeof some) == 0);
        tier_spool_update_close(u);
        CHECK(!shows(in_node("spool"), wire.payload + 4096, 32));
        CHECK(!shows(in_node("spool"), wire.header, 64));
        MUST(tier_spool_delete(parent, &id, err));
        if (again < 2)
            tier_spool_close(parent);
    }
    /* And our own. */
    uint64_t same = 6;
    id = sealed_random(parent, m, 9, &same);
    CHECK(tier_hash_equal(&id, &sent));
    CHECK(!shows(in_node("spool"), wire.payload + 4096, 32));
    struct tier_update *u = update_open(parent, &id);
    MUST(tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    wire_free(&wire);
    tier_spool_close(parent);
    tier_spool_close(child);
    tier_vault_close(v);
    tier_manifest_free(m);
}

Test(tier_vault, content_is_stored_received_at_any_offset_and_found_damaged) {
    struct tier_vault *v = vault(true);
    struct tier_content_rx *rx = NULL;
    struct tier_content c;
    static uint8_t plain[PLAIN_BYTES], got[PLAIN_BYTES];
    struct tier_hash hash, stored;

    for (size_t i = 0; i + sizeof MARKER < sizeof plain; i += sizeof MARKER)
        memcpy(plain + i, MARKER, sizeof MARKER);
    tier_hash_data(plain, sizeof plain, &hash);
    CHECK(mkdir(in_node("models"), 0700) == 0);
    MUST(tier_content_rx_open(in_node("models"), &hash, TIER_CONTENT_GRAPH, &rx, err));
    MUST(tier_content_rx_writev(rx, &(struct iovec){plain, 70001}, 1, err));
    tier_content_rx_close(rx);
    CHECK(!shows(in_node("models"), MARKER, 16));
    MUST(tier_content_rx_open(in_node("models"), &hash, TIER_CONTENT_GRAPH, &rx, err));
    cr_assert(eq(u64, tier_content_rx_offset(rx), 70001));
    MUST(tier_content_rx_writev(rx, &(struct iovec){plain + 70001, sizeof plain - 70001}, 1, err));
    MUST(tier_content_rx_finish(rx, err));
    MUST(tier_content_open(in_node("models"), &hash, &c, err));
    cr_assert(eq(u64, c.bytes, sizeof plain));
    MUST(tier_content_read(&c, 3, got, 5000, err));
    CHECK(memcmp(got, plain + 3, 5000) == 0);
    tier_content_close(&c);
    MUST(tier_content_store(in_node("models"), TIER_CONTENT_CARD, plain, 500, &stored, err));
    MUST(tier_content_check(in_node("models"), &stored, TIER_CONTENT_CARD, err));
    CHECK(!shows(in_node("models"), MARKER, 16));
    /* A bit of the number in front makes another key, a bit behind it another byte: both show. */
    for (int i = 0; i < 2; i++) {
        char *path = tier_content_path(in_node("models"), &hash, TIER_CONTENT_GRAPH);
        int fd = open(path, O_RDWR);
        uint8_t byte;
        off_t at = i ? 40 : TIER_CIPHER_FRONT + 777;
        CHECK(pread(fd, &byte, 1, at) == 1);
        byte ^= 8;
        CHECK(pwrite(fd, &byte, 1, at) == 1);
        close(fd);
        free(path);
        REFUSED(TIER_ECORRUPT, "damaged",
                tier_content_check(in_node("models"), &hash, TIER_CONTENT_GRAPH, err));
        MUST(tier_content_rx_open(in_node("models"), &hash, TIER_CONTENT_GRAPH, &rx, err));
        MUST(tier_content_rx_writev(rx, &(struct iovec){plain, sizeof plain}, 1, err));
        MUST(tier_content_rx_finish(rx, err));
        MUST(tier_content_check(in_node("models"), &hash, TIER_CONTENT_GRAPH, err));
    }
    tier_vault_close(v);
}

Test(tier_vault, a_directory_without_its_key_or_passphrase_reads_nothing_and_says_so) {
    struct tier_vault *v = vault(true);
    struct tier_hash hash;
    struct tier_content c;

    CHECK(mkdir(in_node("models"), 0700) == 0);
    MUST(tier_content_store(in_node("models"), TIER_CONTENT_GRAPH, MARKER, 24, &hash, err));
    tier_vault_close(v);
    /* Programs beside the node find the key by the file's place. */
    MUST(tier_content_open(in_node("models"), &hash, &c, err));
    tier_content_close(&c);
    char moved[300], *folder = in_node("models");
    snprintf(moved, sizeof moved, "%s/moved", fixture_dir);
    CHECK(mkdir(moved, 0700) == 0);
    char to[400];
    snprintf(to, sizeof to, "%s/models", moved);
    CHECK(rename(folder, to) == 0);
    snprintf(to, sizeof to, "%s/storage.id", moved);
    CHECK(rename(in_node("storage.id"), to) == 0);
    REFUSED(TIER_EIDENTITY, "identity/storage.pem is not there",
            tier_vault_open(moved, true, &v, err));
    REFUSED(TIER_EIDENTITY, "identity/storage.pem is not there",
            tier_vault_open(moved, false, &v, err));
    /* Another node's key is not it. */
    char id[400];
    snprintf(id, sizeof id, "%s/identity", moved);
    CHECK(mkdir(id, 0700) == 0);
    struct tier_key *key = NULL;
    MUST(tier_key_generate(&key, err));
    MUST(tier_key_file_write(id, TIER_VAULT_KEY_FILE, key, false, err));
    tier_key_free(key);
    REFUSED(TIER_EIDENTITY, "is another", tier_vault_open(moved, true, &v, err));
    CHECK(rename(to, in_node("storage.id")) == 0);
    tier_key_file_passphrase(fixture_path("other"));
    REFUSED(TIER_EIDENTITY, "passphrase", tier_vault_open(node, true, &v, err));
    tier_key_file_passphrase(NULL);
    REFUSED(TIER_EIDENTITY, "no passphrase is given", tier_vault_open(node, true, &v, err));
}

Test(tier_vault, without_a_passphrase_nothing_is_encrypted_and_plain_files_stay_readable) {
    struct tier_vault *v = NULL;
    struct tier_hash before, after;
    struct tier_content c;

    tier_key_file_passphrase(NULL);
    REFUSED(TIER_ECONFIG, "needs a passphrase", tier_vault_open(node, true, &v, err));
    MUST(tier_vault_open(node, false, &v, err));
    CHECK(v == NULL);
    CHECK(mkdir(in_node("models"), 0700) == 0);
    MUST(tier_content_store(in_node("models"), TIER_CONTENT_GRAPH, MARKER, 24, &before, err));
    CHECK(shows(in_node("models"), MARKER, 24));
    tier_key_file_passphrase(fixture_path("pass"));
    v = vault(true);
    MUST(tier_content_store(in_node("models"), TIER_CONTENT_GRAPH, MARKER MARKER, 48, &after, err));
    MUST(tier_content_check(in_node("models"), &before, TIER_CONTENT_GRAPH, err));
    MUST(tier_content_check(in_node("models"), &after, TIER_CONTENT_GRAPH, err));
    tier_vault_close(v);
    /* Turned off again: what is encrypted is read, what is new is plain. */
    v = vault(false);
    MUST(tier_content_open(in_node("models"), &after, &c, err));
    tier_content_close(&c);
    CHECK(!tier_cipher_wanted(in_node("models")));
    tier_vault_close(v);
}

Test(tier_vault, the_passphrase_can_be_changed_and_a_kill_between_two_keys_is_mended) {
    struct tier_vault *v = vault(true);
    struct tier_key *key = NULL;
    uint8_t sealed[32 + TIER_VAULT_SEAL_BYTES], back[32];

    CHECK(tier_vault_seal(in_node("ledger.db"), MARKER MARKER, 32, sealed));
    CHECK(memmem(sealed, sizeof sealed, MARKER, 16) == NULL);
    tier_vault_close(v);
    MUST(tier_identity_prepare(node, &key, err));
    tier_key_free(key);
    MUST(tier_vault_protect(node, fixture_path("other"), err)); /* and killed */
    MUST(tier_identity_protect(node, fixture_path("other"), err));
    tier_key_file_passphrase(fixture_path("other"));
    v = vault(true);
    MUST(tier_vault_unseal(in_node("ledger.db"), sealed, 32, back, err));
    CHECK(memcmp(back, MARKER MARKER, 32) == 0);
    MUST(tier_identity_prepare(node, &key, err));
    tier_key_free(key);
    tier_vault_close(v);
}

Test(tier_vault, what_masked_a_sum_comes_back_from_its_encrypted_file) {
    const struct tier_mask_term terms[] = {{{0x5a, 1}, true}, {{0x5a, 2}, false}};
    struct tier_mask_term *back = NULL;
    struct tier_vault *v = vault(true);
    struct tier_hash hash;
    size_t count = 0;

    CHECK(mkdir(in_node("retained"), 0700) == 0);
    MUST(tier_secure_terms_store(in_node("retained"), terms, 2, &hash, err));
    CHECK(!shows(in_node("retained"), terms[0].key, sizeof terms[0].key));
    char *path = tier_content_path(in_node("retained"), &hash, TIER_SECURE_TERMS);
    MUST(tier_secure_terms_load(path, &hash, &back, &count, err));
    CHECK(count == 2 && back[0].minus && !back[1].minus);
    CHECK(memcmp(back[0].key, terms[0].key, sizeof terms[0].key) == 0);
    tier_mask_terms_free(back, count);
    free(path);
    tier_vault_close(v);
}
