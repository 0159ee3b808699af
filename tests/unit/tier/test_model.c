/* SPDX-License-Identifier: Apache-2.0 */
#include "support/tier_fixture.h"

static const struct tier_kv metadata[] = {{"round", "3"}, {"format", "pt"}, {"run", "a\"b\n"}};

static struct tier_hash written(const struct tier_manifest *m, const float *x, size_t piece,
                                const struct tier_kv *kv, size_t kv_count) {
    struct tier_model_writer *w = NULL;
    struct tier_hash hash;
    MUST(tier_model_writer_begin(fixture_dir, m, kv, kv_count, &w, err));
    for (size_t at = 0; at < m->elements; at += piece)
        MUST(tier_model_writer_append(
            w, x + at, piece < m->elements - at ? piece : (size_t)m->elements - at, err));
    MUST(tier_model_writer_finish(w, &hash, err));
    return hash;
}

Test(tier_model, a_written_model_reads_back, .init = fixture_up, .fini = fixture_down) {
    struct tier_manifest *m = manifest_small();
    float x[18], back[18];
    struct tier_model *model = NULL;
    struct tier_hash hash, of_file;
    size_t count = 0;
    for (int i = 0; i < 18; i++)
        x[i] = (float)i / 7;
    hash = written(m, x, 5, metadata, 3);
    char *path = tier_model_path(fixture_dir, &hash);
    MUST(tier_model_hash_file(path, &of_file, err));
    CHECK(tier_hash_equal(&hash, &of_file));
    MUST(tier_model_open(path, &model, err));
    CHECK(tier_hash_equal(&hash, tier_model_named_hash(model)));
    MUST(tier_model_matches(model, m, err));
    MUST(tier_model_read(model, 0, 18, back, err));
    CHECK(memcmp(x, back, sizeof x) == 0);
    MUST(tier_model_read(model, 17, 1, back, err));
    CHECK(back[0] == x[17]);
    REFUSED(TIER_EARG, "elements", tier_model_read(model, 17, 2, back, err));
    CHECK(strcmp(tier_model_tensors(model, &count)[1].name, "bn.running_mean") == 0);
    cr_assert(eq(sz, count, 3));
    CHECK(strcmp(tier_model_metadata(model, "run"), "a\"b\n") == 0);
    CHECK(tier_model_metadata(model, "absent") == NULL);
    CHECK(strcmp(tier_model_metadata_at(model, 0)->key, "format") == 0);
    CHECK(tier_model_metadata_at(model, 3) == NULL);
    tier_model_close(model);
    free(path);
    tier_manifest_free(m);
}

Test(tier_model, the_bytes_depend_on_the_content_alone, .init = fixture_up, .fini = fixture_down) {
    struct tier_manifest *m = manifest_small();
    const struct tier_kv turned[] = {metadata[2], metadata[0], metadata[1]};
    float x[18] = {1, 2, 3};
    struct tier_hash a = written(m, x, 18, metadata, 3), b = written(m, x, 1, turned, 3);
    CHECK(tier_hash_equal(&a, &b));
    cr_assert(eq(sz, files_in(fixture_dir), 1));
    x[17] = -0.0F;
    b = written(m, x, 18, metadata, 3);
    CHECK(!tier_hash_equal(&a, &b));
    tier_manifest_free(m);
}

Test(tier_model, a_model_that_is_not_whole_leaves_no_file, .init = fixture_up,
     .fini = fixture_down) {
    struct tier_manifest *m = manifest_small();
    struct tier_model_writer *w = NULL;
    struct tier_hash hash;
    float x[19] = {0};
    const struct tier_kv twice[] = {{"a", "1"}, {"a", "2"}}, not_utf8[] = {{"a", "\xff"}};
    MUST(tier_model_writer_begin(fixture_dir, m, NULL, 0, &w, err));
    REFUSED(TIER_EARG, "more elements", tier_model_writer_append(w, x, 19, err));
    MUST(tier_model_writer_append(w, x, 17, err));
    REFUSED(TIER_EARG, "17 of", tier_model_writer_finish(w, &hash, err));
    REFUSED(TIER_EARG, "metadata", tier_model_writer_begin(fixture_dir, m, twice, 2, &w, err));
    REFUSED(TIER_EARG, "metadata", tier_model_writer_begin(fixture_dir, m, not_utf8, 1, &w, err));
    cr_assert(eq(sz, files_in(fixture_dir), 0));
    REFUSED(TIER_EIO, "cannot make",
            tier_model_writer_begin(fixture_path("absent"), m, NULL, 0, &w, err));
    tier_manifest_free(m);
}

/* A file of that header and `data` bytes of zeros. */
static const char *crafted(const char *json, size_t data) {
    const char *path = fixture_path("crafted.safetensors");
    uint64_t n = strlen(json);
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL && fwrite(&n, 8, 1, f) == 1 && fwrite(json, 1, n, f) == n);
    for (size_t i = 0; i < data; i++)
        fputc(0, f);
    fclose(f);
    return path;
}

Test(tier_model, files_of_others_are_read_in_the_order_of_their_data, .init = fixture_up,
     .fini = fixture_down) {
    struct tier_model *model = NULL;
    size_t count = 0;
    MUST(tier_model_open(crafted("{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]},"
                                 "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}  ",
                                 12),
                         &model, err));
    const struct tier_tensor *t = tier_model_tensors(model, &count);
    CHECK(count == 2 && strcmp(t[0].name, "a") == 0 && t[1].at == 1 && t[1].count == 2);
    CHECK(tier_hash_is_zero(tier_model_named_hash(model)));
    tier_model_close(model);
}

Test(tier_model, malformed_files_are_refused, .init = fixture_up, .fini = fixture_down) {
#define T(fields) "{\"a\":{" fields "}}"
#define SHAPED(shape, offsets) "\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"__metadata__\":{}}",
        T("\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]"),
        T("\"dtype\":\"F32\",\"shape\":[2]"),
        T(SHAPED("[2]", "[0,8]") ",\"more\":1"),
        T(SHAPED("[2]", "[0,9]")),
        T(SHAPED("[2]", "[4,12]")),
        T(SHAPED("[2]", "[8,0]")),
        T(SHAPED("[3]", "[0,12]")),
        T(SHAPED("[-2]", "[0,8]")),
        T(SHAPED("[2.0]", "[0,8]")),
        T(SHAPED("[0]", "[0,0]")),
        T(SHAPED("[1]", "[0,4]")),
        T(SHAPED("[4294967296,4294967296,4294967296]", "[0,8]")),
        T(SHAPED("[1,1,1,1,1,1,1,1,2]", "[0,8]")),
        "{\"a b\":{" SHAPED("[2]", "[0,8]") "}}",
        "{\"\":{" SHAPED("[2]", "[0,8]") "}}",
        "{\"a\":{" SHAPED("[1]", "[0,4]") "},\"a\":{" SHAPED("[1]", "[4,8]") "}}",
        "{\"a\":{" SHAPED("[2]", "[0,8]") "},\"b\":{" SHAPED("[1]", "[4,8]") "}}",
        "{\"__metadata__\":{\"k\":1},\"a\":{" SHAPED("[2]", "[0,8]") "}}",
        "{\"__metadata__\":[],\"a\":{" SHAPED("[2]", "[0,8]") "}}",
        T(SHAPED("[2]", "[0,8]")) "x",
    };
    struct tier_model *model = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSED(TIER_EMODEL, "crafted", tier_model_open(crafted(bad[i], 8), &model, err));
    REFUSED(TIER_ENOTFOUND, "cannot open", tier_model_open(fixture_path("absent"), &model, err));
    MUST(tier_model_open(crafted(T(SHAPED("[2]", "[0,8]")), 8), &model, err));
    tier_model_close(model);
    uint64_t huge = UINT64_MAX - 3;
    int fd = open(fixture_path("crafted.safetensors"), O_WRONLY);
    CHECK(pwrite(fd, &huge, 8, 0) == 8);
    close(fd);
    REFUSED(TIER_EMODEL, "allowed",
            tier_model_open(fixture_path("crafted.safetensors"), &model, err));
}

Test(tier_model, another_shape_or_name_than_the_manifests_is_named, .init = fixture_up,
     .fini = fixture_down) {
    struct tier_manifest *m = manifest_small();
    float x[18] = {0};
    struct tier_hash hash = written(m, x, 18, NULL, 0);
    struct tier_model *model = NULL;
    char *path = tier_model_path(fixture_dir, &hash);
    MUST(tier_model_open(path, &model, err));
    struct tier_tensor t[] = {tensor_of("body.weight", 4, 3, 30, false),
                              tensor_of("bn.running_mean", 5, 0, 20, true),
                              tensor_of("temperature", 0, 0, 30, false)};
    struct tier_manifest *other = manifest_of(t, 3);
    REFUSED(TIER_EMODEL, "body.weight", tier_model_matches(model, other, err));
    tier_manifest_free(other);
    t[0] = m->tensors[0];
    other = manifest_of(t, 2);
    REFUSED(TIER_EMODEL, "3 tensors", tier_model_matches(model, other, err));
    tier_manifest_free(other);
    tier_model_close(model);
    free(path);
    tier_manifest_free(m);
}
