/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"
#include "tier/content.h"
#include "tier/retain.h"

#define DAY_MS INT64_C(86400000)
#define NOW (INT64_C(20000) * DAY_MS)

static struct tier_spool *spool;
static struct tier_manifest *manifest;
static const char *dir;

static void up(void) {
    spool = spool_up(false);
    manifest = manifest_small();
    dir = fixture_path("retained");
    CHECK(mkdir(dir, 0700) == 0);
}

static void down(void) {
    tier_manifest_free(manifest);
    tier_spool_close(spool);
    fixture_down();
}

TestSuite(tier_retain, .init = up, .fini = down);

/* An update there for so many days before NOW; its size. */
static struct tier_hash update_of(int days, uint64_t *seed) {
    struct tier_hash id = sealed_random(spool, manifest, 2, seed);
    char path[400];
    struct timespec times[2] = {{.tv_sec = (NOW - days * DAY_MS) / 1000}};

    times[1] = times[0];
    MUST(tier_retain_update(spool, dir, &id, err));
    snprintf(path, sizeof path, "%s/%s.upd", dir, tier_hash_hex(&id, (char[TIER_HASH_HEX]){0}));
    CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    return id;
}

static struct tier_retain_expired expire(uint64_t updates, uint64_t models, uint64_t bytes) {
    const struct tier_retain_rules rules = {updates, models, bytes};
    struct tier_retain_expired out;
    MUST(tier_retain_expire(dir, &rules, NOW, &out, err));
    return out;
}

Test(tier_retain, what_is_retained_leaves_the_spool_and_opens_as_one_there) {
    uint64_t seed = 3;
    struct tier_spool *other = NULL;
    struct tier_hash id = update_of(0, &seed);

    CHECK(!tier_spool_has(spool, &id));
    MUST(tier_spool_open(dir, false, &other, err));
    struct tier_update *u = update_open(other, &id);
    MUST(tier_spool_update_check(u, err));
    tier_spool_update_close(u);
    tier_spool_close(other);
    REFUSED(TIER_ENOTFOUND, "cannot go", tier_retain_update(spool, dir, &id, err));
}

Test(tier_retain, each_class_goes_after_its_own_days_and_what_is_neither_stays) {
    uint64_t seed = 4;
    struct tier_hash model;
    const char *models = fixture_path("models");

    update_of(9, &seed);
    update_of(10, &seed);
    update_of(11, &seed);
    CHECK(mkdir(models, 0700) == 0);
    MUST(tier_content_store(models, TIER_CONTENT_MODEL, "m", 1, &model, err));
    MUST(tier_retain_model(models, dir, &model, err));
    REFUSED(TIER_ENOTFOUND, "cannot go", tier_retain_model(models, dir, &model, err));
    struct tier_hash plan;
    MUST(tier_content_store(dir, TIER_CONTENT_PLAN, "p", 1, &plan, err));
    struct tier_retain_expired gone = expire(10, 1, UINT64_MAX);
    CHECK(gone.updates == 2 && gone.models == 0 && !gone.for_room && gone.bytes > 0);
    gone = expire(10, 0, UINT64_MAX);
    CHECK(gone.updates == 0 && gone.models <= 1);
    CHECK(tier_content_has(dir, &plan, TIER_CONTENT_PLAN));
    gone = expire(0, 0, 0);
    CHECK(gone.updates == 1 && tier_content_has(dir, &plan, TIER_CONTENT_PLAN));
}

Test(tier_retain, the_oldest_go_first_where_the_room_is_not_enough) {
    uint64_t seed = 5;
    struct tier_hash old = update_of(3, &seed), newer = update_of(2, &seed);
    struct stat info;
    char path[400];

    snprintf(path, sizeof path, "%s/%s.upd", dir, tier_hash_hex(&newer, (char[TIER_HASH_HEX]){0}));
    CHECK(stat(path, &info) == 0);
    struct tier_retain_expired gone = expire(30, 30, (uint64_t)info.st_size);
    CHECK(gone.updates == 1 && gone.for_room);
    CHECK(stat(path, &info) == 0, "the newer one stays");
    snprintf(path, sizeof path, "%s/%s.upd", dir, tier_hash_hex(&old, (char[TIER_HASH_HEX]){0}));
    CHECK(stat(path, &info) != 0);
}

Test(tier_retain, a_folder_that_is_not_there_is_said) {
    struct tier_retain_expired out;
    const struct tier_retain_rules rules = {0};
    REFUSED(TIER_EIO, "nobody", tier_retain_expire(fixture_path("nobody"), &rules, NOW, &out, err));
}
