/* SPDX-License-Identifier: Apache-2.0 */
/* A node's directory, every byte of it: what is flipped is found. Heads and receipts between nodes
 * are tested with real ones (tests/e2e/test_audit.py). */
#include "support/tier_fixture.h"
#include "tier/audit.h"
#include "tier/cert.h"
#include "tier/content.h"
#include "tier/retain.h"
#include "tier/verify.h"

static char node_dir[128];

/* audit/audit.log, models/HASH.safetensors, retained/HASH.plan and retained/ID.upd. */
static void up(void) {
    struct tier_audit *log = NULL;
    struct tier_spool *spool = spool_up(false);
    struct tier_manifest *m = manifest_small();
    struct tier_hash hash, update;
    uint64_t seed = 5;
    char path[192];

    snprintf(node_dir, sizeof node_dir, "%s/node", fixture_dir);
    CHECK(mkdir(node_dir, 0700) == 0);
    MUST(tier_audit_open(node_dir, "hub-1", TIER_AUDIT_SYNC_NEVER, 1000, &log, err));
    update = sealed_random(spool, m, 3, &seed);
    MUST(tier_audit_note(log, 2000, "update.counted", err, "h:run", &update, "u:round", (uint64_t)1,
                         "s:child", "a", "h:update", &update, "u:weight", (uint64_t)3, NULL));
    snprintf(path, sizeof path, "%s/models", node_dir);
    CHECK(mkdir(path, 0700) == 0);
    MUST(tier_content_store(path, TIER_CONTENT_MODEL, "the numbers", 11, &hash, err));
    snprintf(path, sizeof path, "%s/retained", node_dir);
    CHECK(mkdir(path, 0700) == 0);
    MUST(tier_content_store(path, TIER_CONTENT_PLAN, "{\"plan\":1}", 10, &hash, err));
    MUST(tier_retain_update(spool, path, &update, err));
    tier_audit_close(log);
    tier_manifest_free(m);
    tier_spool_close(spool);
}

TestSuite(tier_verify, .init = up, .fini = fixture_down);

static uint64_t findings_of(const char *path, char *first, size_t room) {
    struct tier_verify *v = NULL;
    MUST(tier_verify_new(NULL, &v, err));
    MUST(tier_verify_add(v, path, err));
    tier_verify_cross(v);
    uint64_t found = tier_verify_finding_count(v);
    snprintf(first, room, "%s", found ? tier_verify_finding(v, 0) : "");
    tier_verify_free(v);
    return found;
}

Test(tier_verify, a_directory_that_nobody_touched_is_whole) {
    char first[1024];
    struct tier_verify *v = NULL;

    CHECK(findings_of(node_dir, first, sizeof first) == 0, "%s", first);
    MUST(tier_verify_new(NULL, &v, err));
    MUST(tier_verify_add(v, node_dir, err));
    const struct tier_verify_node *n = tier_verify_node_at(v, 0);
    cr_assert(eq(str, (char *)n->name, "hub-1"));
    CHECK(n->lines == 2 && n->updates == 1 && n->files == 2 && tier_verify_node_count(v) == 1);
    CHECK(tier_verify_node_at(v, 1) == NULL && tier_verify_finding(v, 0) == NULL);
    tier_verify_free(v);
}

/* Flips a bit of every byte in turn. */
static void flip_all(const char *folder, const char *file) {
    char path[512], first[1024];
    struct stat info;

    snprintf(path, sizeof path, "%s/%s/%s", node_dir, folder, file);
    int fd = open(path, O_RDWR);
    CHECK(fd >= 0 && fstat(fd, &info) == 0 && info.st_size > 0, "%s", path);
    for (off_t at = 0; at < info.st_size; at++) {
        uint8_t was, bad;
        CHECK(pread(fd, &was, 1, at) == 1);
        bad = (uint8_t)(was ^ (1u << at % 8));
        CHECK(pwrite(fd, &bad, 1, at) == 1);
        CHECK(findings_of(node_dir, first, sizeof first) > 0, "byte %lld of %s/%s", (long long)at,
              folder, file);
        CHECK(pwrite(fd, &was, 1, at) == 1);
    }
    close(fd);
    CHECK(findings_of(node_dir, first, sizeof first) == 0, "%s", first);
}

Test(tier_verify, a_flipped_bit_of_any_byte_of_any_file_is_found) {
    static const char *const folders[] = {"audit", "models", "retained"};
    size_t files = 0;

    for (size_t i = 0; i < 3; i++) {
        char path[192];
        snprintf(path, sizeof path, "%s/%s", node_dir, folders[i]);
        DIR *dir = opendir(path);
        CHECK(dir != NULL);
        for (struct dirent *e; (e = readdir(dir));)
            if (e->d_name[0] != '.') {
                flip_all(folders[i], e->d_name);
                files++;
            }
        closedir(dir);
    }
    CHECK(files == 4);
}

Test(tier_verify, a_file_cut_short_is_found_and_one_on_its_way_is_none) {
    char path[512], first[1024];
    struct tier_hash hash;

    tier_hash_data("the numbers", 11, &hash);
    snprintf(path, sizeof path, "%s/models/%s.safetensors", node_dir,
             tier_hash_hex(&hash, (char[TIER_HASH_HEX]){0}));
    CHECK(truncate(path, 5) == 0);
    CHECK(findings_of(node_dir, first, sizeof first) == 1);
    CHECK(strstr(first, "not those of its name") != NULL, "%s", first);
    char part[520];
    snprintf(part, sizeof part, "%.*s.part", (int)(strlen(path) - sizeof ".safetensors" + 1), path);
    CHECK(rename(path, part) == 0);
    CHECK(findings_of(node_dir, first, sizeof first) == 0, "%s", first);
}

Test(tier_verify, the_same_node_twice_is_found_and_nothing_at_all_is_an_error) {
    struct tier_verify *v = NULL;

    MUST(tier_verify_new(NULL, &v, err));
    MUST(tier_verify_add(v, node_dir, err));
    MUST(tier_verify_add(v, node_dir, err));
    tier_verify_cross(v);
    CHECK(tier_verify_finding_count(v) == 1);
    CHECK(strstr(tier_verify_finding(v, 0), "the same node") != NULL);
    REFUSED(TIER_ENOTFOUND, "nobody", tier_verify_add(v, fixture_path("nobody"), err));
    tier_verify_free(v);
    v = NULL;
    REFUSED(TIER_EIDENTITY, "certificate", tier_verify_new("no certificate", &v, err));
    CHECK(v == NULL);
}

/* ---- new histories ---- */

/* A certificate of "peer" for that key, as the log holds it. */
static void note_certificate(struct tier_audit *log, const struct tier_key *ca_key,
                             const struct tier_cert *ca, const struct tier_key *key) {
    char *csr = NULL, *pem = NULL, der[TIER_AUDIT_TEXT_LEN_MAX + 1];
    size_t n = 0;

    MUST(tier_csr_new(key, "peer", TIER_ROLE_SPOKE, &csr, err));
    MUST(tier_cert_issue(ca_key, ca, csr, 86400, 1800000000, &pem, err));
    for (const char *p = strchr(pem, '\n'); *p != '-'; p++)
        if (*p != '\n')
            der[n++] = *p;
    der[n] = '\0';
    MUST(tier_audit_note(log, 3000, "peer.certificate", err, "s:peer", "peer", "s:der", der, NULL));
    free(csr), free(pem);
}

static void note_head(struct tier_audit *log, const struct tier_hash *root) {
    MUST(tier_audit_note(log, 3000, "peer.head", err, "s:peer", "peer", "u:size", (uint64_t)9,
                         "h:root", root, "i:time_ms", (int64_t)3000, "s:signature", "", NULL));
}

/* A log in which a peer shows a history, gets a certificate for that key or another, and begins
 * anew. */
static uint64_t began_anew(const char *name, bool same_key, char *first, size_t room) {
    const struct tier_hash one = {{1}}, two = {{2}};
    struct tier_key *ca_key = NULL, *key = NULL, *other = NULL;
    struct tier_cert *ca = NULL;
    struct tier_audit *log = NULL;
    char *ca_pem = NULL, dir[160], path[200];

    MUST(tier_key_generate(&ca_key, err));
    MUST(tier_key_generate(&key, err));
    MUST(tier_key_generate(&other, err));
    MUST(tier_cert_new_ca(ca_key, "nhs", 3650, 1800000000, &ca_pem, err));
    MUST(tier_cert_from_pem(ca_pem, &ca, err));
    snprintf(dir, sizeof dir, "%s/%s", fixture_dir, name);
    CHECK(mkdir(dir, 0700) == 0);
    MUST(tier_audit_open(dir, "hub-2", TIER_AUDIT_SYNC_NEVER, 1000, &log, err));
    note_certificate(log, ca_key, ca, key);
    note_head(log, &one);
    note_certificate(log, ca_key, ca, same_key ? key : other);
    MUST(tier_audit_note(log, 3000, "peer.began_anew", err, "s:peer", "peer", "u:size", (uint64_t)9,
                         "h:root", &one, NULL));
    note_head(log, &two);
    tier_audit_close(log);
    tier_key_free(ca_key), tier_key_free(key), tier_key_free(other);
    tier_cert_free(ca);
    free(ca_pem);
    snprintf(path, sizeof path, "%s/audit/audit.log", dir);
    return findings_of(path, first, room);
}

Test(tier_verify, a_new_history_under_the_same_key_is_found_and_under_another_is_none) {
    char first[1024];

    CHECK(began_anew("other", false, first, sizeof first) == 0, "%s", first);
    CHECK(began_anew("same", true, first, sizeof first) == 2);
    CHECK(strstr(first, "a new history under the same key") != NULL, "%s", first);
}
