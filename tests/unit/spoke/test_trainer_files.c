/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/trainer_files.h"
#include "support/tier_fixture.h"
#include "tier/graph.h"
#include "tier/model.h"

TestSuite(spoke_trainer_files, .init = fixture_up, .fini = fixture_down);

#define GRAPH CONSILIUM_SOURCE_DIR "/deploy/examples/breast-cancer/model.onnx"
#define RUN "aaaaaaaaaaaabbbb"

/* A folder, a model and its values. */
struct desk {
    int dir;
    struct tier_graph *graph;
    float *all;
    uint64_t n;
};

static struct desk desk_new(void) {
    struct desk d;
    MUST(spoke_trainer_dir_open(fixture_path("trainer"), &d.dir, err));
    MUST(tier_graph_open(GRAPH, &d.graph, err));
    d.n = tier_graph_elements(d.graph);
    d.all = malloc(d.n * sizeof *d.all);
    MUST(tier_graph_values(d.graph, d.all, err));
    return d;
}

static void desk_free(struct desk *d) {
    close(d->dir);
    free(d->all);
    tier_graph_free(d->graph);
}

static struct spoke_trainer_files make(struct desk *d, bool with_result) {
    struct spoke_trainer_files f;
    MUST(spoke_trainer_files_make(d->dir, RUN, 3, 7, d->graph, d->all, with_result, &f, err));
    return f;
}

static size_t entries_in(int dir) {
    DIR *d = fdopendir(dup(dir));
    size_t n = 0;
    rewinddir(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* As a trainer does: by the layout that the header says. */
static void write_result(const struct desk *d, const struct spoke_trainer_files *f, float value) {
    int fd = openat(d->dir, f->result, O_RDWR);
    for (uint64_t i = 0; i < d->n; i++)
        CHECK(pwrite(fd, &value, sizeof value, (off_t)(f->front + i * sizeof value)) == 4);
    close(fd);
}

Test(spoke_trainer_files, the_model_is_a_safetensors_file_of_every_parameter) {
    struct desk d = desk_new();
    struct spoke_trainer_files f = make(&d, true);
    char path[512];
    struct tier_model *m;
    size_t count;

    snprintf(path, sizeof path, "%s/%s", fixture_path("trainer"), f.model);
    MUST(tier_model_open(path, &m, err));
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    CHECK(count == tier_graph_param_count(d.graph) && f.front % 64 == 0);
    for (size_t i = 0; i < count; i++)
        CHECK(strcmp(t[i].name, tier_graph_param(d.graph, i)->name) == 0);
    float *read = malloc(d.n * sizeof *read);
    MUST(tier_model_read(m, 0, d.n, read, err));
    CHECK(memcmp(read, d.all, d.n * sizeof *read) == 0);
    free(read);
    tier_model_close(m);
    spoke_trainer_files_drop(&f);
    CHECK(entries_in(d.dir) == 0);
    desk_free(&d);
}

Test(spoke_trainer_files, a_result_is_read_back_and_one_that_was_not_written_is_not_a_number) {
    struct desk d = desk_new();
    struct spoke_trainer_files f = make(&d, true);

    MUST(spoke_trainer_files_read(&f, d.all, err));
    for (uint64_t i = 0; i < d.n; i++)
        CHECK(isnan(d.all[i]));
    write_result(&d, &f, 0.25f);
    MUST(spoke_trainer_files_read(&f, d.all, err));
    for (uint64_t i = 0; i < d.n; i++)
        CHECK(d.all[i] == 0.25f);
    spoke_trainer_files_drop(&f);
    desk_free(&d);
}

Test(spoke_trainer_files, a_result_of_another_size_is_refused) {
    struct desk d = desk_new();
    struct spoke_trainer_files f = make(&d, true);

    CHECK(ftruncate(f.result_fd, (off_t)f.bytes - 1) == 0);
    REFUSED(TIER_EUPDATE, "its size must stay", spoke_trainer_files_read(&f, d.all, err));
    CHECK(ftruncate(f.result_fd, (off_t)f.bytes + 4) == 0);
    REFUSED(TIER_EUPDATE, "its size must stay", spoke_trainer_files_read(&f, d.all, err));
    CHECK(ftruncate(f.result_fd, 0) == 0);
    REFUSED(TIER_EUPDATE, "its size must stay", spoke_trainer_files_read(&f, d.all, err));
    spoke_trainer_files_drop(&f);
    desk_free(&d);
}

Test(spoke_trainer_files, another_file_of_the_results_name_is_not_read) {
    struct desk d = desk_new();
    struct spoke_trainer_files f = make(&d, true);

    CHECK(unlinkat(d.dir, f.result, 0) == 0);
    int fd = openat(d.dir, f.result, O_RDWR | O_CREAT, 0600);
    CHECK(ftruncate(fd, (off_t)f.bytes) == 0);
    close(fd);
    MUST(spoke_trainer_files_read(&f, d.all, err));
    CHECK(isnan(d.all[0])); /* what the spoke made, and no zeros of another's */
    spoke_trainer_files_drop(&f);
    desk_free(&d);
}

Test(spoke_trainer_files, where_nothing_is_trained_there_is_no_result) {
    struct desk d = desk_new();
    struct spoke_trainer_files f = make(&d, false);

    CHECK(*f.result == '\0' && f.result_fd == -1 && entries_in(d.dir) == 1);
    spoke_trainer_files_drop(&f);
    desk_free(&d);
}

Test(spoke_trainer_files, a_file_that_is_there_already_is_not_written_to) {
    struct desk d = desk_new();
    struct spoke_trainer_files f;
    int fd = openat(d.dir, "aaaaaaaaaaaa-3-7.result", O_RDWR | O_CREAT, 0600);

    close(fd);
    REFUSED(TIER_EIO, "cannot be made",
            spoke_trainer_files_make(d.dir, RUN, 3, 7, d.graph, d.all, true, &f, err));
    desk_free(&d);
}

Test(spoke_trainer_files, a_folder_is_its_owners_alone_and_one_spokes) {
    struct stat s;
    int dir, other;

    MUST(spoke_trainer_dir_open(fixture_path("trainer"), &dir, err));
    CHECK(fstat(dir, &s) == 0 && (s.st_mode & 0777) == 0700);
    REFUSED(TIER_ECONFLICT, "in use by another spoke",
            spoke_trainer_dir_open(fixture_path("trainer"), &other, err));
    close(dir);
    CHECK(chmod(fixture_path("trainer"), 0750) == 0);
    REFUSED(TIER_ECONFIG, "must belong to uid",
            spoke_trainer_dir_open(fixture_path("trainer"), &other, err));
    CHECK(symlink(fixture_path("trainer"), fixture_path("link")) == 0);
    REFUSED(TIER_EIO, "cannot be opened",
            spoke_trainer_dir_open(fixture_path("link"), &other, err));
}

Test(spoke_trainer_files, what_a_killed_spoke_left_is_deleted) {
    struct desk d = desk_new();
    int other = openat(d.dir, "notes.txt", O_RDWR | O_CREAT, 0600);

    close(other);
    make(&d, true);
    close(d.dir);
    MUST(spoke_trainer_dir_open(fixture_path("trainer"), &d.dir, err));
    CHECK(entries_in(d.dir) == 1);
    desk_free(&d);
}
