/* SPDX-License-Identifier: Apache-2.0 */
/* A node's directory, every byte of it: what is flipped is found. Heads and receipts between nodes
 * are tested with real ones (tests/e2e/test_audit.py). */
#include "support/tier_fixture.h"
#include "tier/audit.h"
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
