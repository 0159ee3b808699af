/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A header of .safetensors, padded with spaces (its format allows them) to a multiple of 64 bytes,
 * then float32 data. The format is little-endian, as is every machine that this runs on.
 */
#include "spoke/trainer_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN 64
#define BLOCK_BYTES (1u << 20)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the data of .safetensors is");

static bool ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static enum tier_status sweep(int dir, const char *path, struct tier_err *err) {
    int own = dup(dir);
    DIR *d = own < 0 ? NULL : fdopendir(own);

    if (!d) {
        if (own >= 0)
            close(own);
        return tier_fail_errno(err, TIER_EIO, "trainer.dir %s cannot be read", path);
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (ends_with(e->d_name, ".model") || ends_with(e->d_name, ".result"))
            unlinkat(dir, e->d_name, 0);
    closedir(d);
    return TIER_OK;
}

static enum tier_status check_dir(int dir, const char *path, struct tier_err *err) {
    struct stat s;

    if (fstat(dir, &s) != 0)
        return tier_fail_errno(err, TIER_EIO, "trainer.dir %s", path);
    if (s.st_uid != geteuid() || (s.st_mode & 077) != 0)
        return tier_fail(err, TIER_ECONFIG,
                         "trainer.dir %s is open to other users than the spoke's own (uid %u, mode "
                         "%o): it must belong to uid %u and have mode 700, for whoever may open it "
                         "can train in this hospital's name",
                         path, (unsigned)s.st_uid, (unsigned)(s.st_mode & 07777),
                         (unsigned)geteuid());
    if (flock(dir, LOCK_EX | LOCK_NB) != 0)
        return tier_fail(err, TIER_ECONFLICT,
                         "trainer.dir %s is in use by another spoke: each needs its own", path);
    return sweep(dir, path, err);
}

enum tier_status spoke_trainer_dir_open(const char *path, int *dir_out, struct tier_err *err) {
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "trainer.dir %s cannot be made", path);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return tier_fail_errno(err, TIER_EIO, "trainer.dir %s cannot be opened", path);
    enum tier_status st = check_dir(dir, path, err);
    if (st != TIER_OK)
        close(dir);
    else
        *dir_out = dir;
    return st;
}

/* ---- the files of a job ---- */

static json_t *dims_json(const struct tier_graph_param *p) {
    json_t *dims = json_array();
    for (size_t i = 0; i < p->dims_count; i++)
        json_array_append_new(dims, json_integer((json_int_t)p->dims[i]));
    return dims;
}

/* Length and header, padded. NULL without memory, or where a name is not UTF-8. */
static char *front_of(const struct tier_graph *graph, size_t *bytes_out) {
    json_t *root = json_object();
    bool ok = root != NULL;

    for (size_t i = 0; ok && i < tier_graph_param_count(graph); i++) {
        const struct tier_graph_param *p = tier_graph_param(graph, i);
        uint64_t from = p->at * sizeof(float), to = from + p->elements * sizeof(float);
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", dims_json(p),
                                  "data_offsets", (json_int_t)from, (json_int_t)to);
        ok = json_object_set_new(root, p->name, entry) == 0;
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text)
        return NULL;
    size_t n = strlen(text), padded = (n + 8 + ALIGN - 1) / ALIGN * ALIGN;
    uint64_t length = padded - 8;
    char *front = malloc(padded);
    if (front) {
        memset(front, ' ', padded);
        memcpy(front, &length, sizeof length);
        memcpy(front + 8, text, n);
        *bytes_out = padded;
    }
    free(text);
    return front;
}

static enum tier_status put(int fd, const void *data, uint64_t n, struct tier_err *err) {
    const char *p = data;

    while (n > 0) {
        ssize_t put = write(fd, p, n < BLOCK_BYTES ? n : BLOCK_BYTES);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return tier_fail_errno(err, TIER_EIO, "a file for the trainer cannot be written");
        p += put;
        n -= (uint64_t)put;
    }
    return TIER_OK;
}

/* Bytes of all ones are NaN. */
static enum tier_status put_ones(int fd, uint64_t n, struct tier_err *err) {
    char *ones = malloc(BLOCK_BYTES);
    enum tier_status st = TIER_OK;

    if (!ones)
        return tier_fail(err, TIER_ENOMEM, "no memory for a trainer's file");
    memset(ones, 0xff, BLOCK_BYTES);
    for (; n > 0 && st == TIER_OK; n -= n < BLOCK_BYTES ? n : BLOCK_BYTES)
        st = put(fd, ones, n < BLOCK_BYTES ? n : BLOCK_BYTES, err);
    free(ones);
    return st;
}

static enum tier_status make_file(int dir, const char *name, const char *front, size_t front_bytes,
                                  const float *all, uint64_t elements, int *fd_out,
                                  struct tier_err *err) {
    int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    uint64_t bytes = elements * sizeof *all;

    if (fd < 0)
        return tier_fail_errno(err, TIER_EIO, "the trainer's file %s cannot be made", name);
    enum tier_status st = put(fd, front, front_bytes, err);
    if (st == TIER_OK)
        st = all ? put(fd, all, bytes, err) : put_ones(fd, bytes, err);
    if (st == TIER_OK)
        *fd_out = fd;
    else
        close(fd);
    return st;
}

enum tier_status spoke_trainer_files_make(int dir, const char *run_hex, uint64_t round,
                                          uint64_t job, const struct tier_graph *graph,
                                          const float *all, bool with_result,
                                          struct spoke_trainer_files *out, struct tier_err *err) {
    struct spoke_trainer_files f = {
        .dir = dir, .result_fd = -1, .elements = tier_graph_elements(graph)};
    size_t front_bytes = 0;
    char *front = front_of(graph, &front_bytes);
    enum tier_status st;
    int fd = -1;

    if (!front)
        return tier_fail(err, TIER_EMODEL,
                         "the model's tensors cannot be listed for a trainer: their names must be "
                         "UTF-8");
    f.front = front_bytes;
    f.bytes = f.front + f.elements * sizeof *all;
    snprintf(f.model, sizeof f.model, "%.12s-%" PRIu64 "-%" PRIu64 ".model", run_hex, round, job);
    TIER_TRY_OUT(make_file(dir, f.model, front, front_bytes, all, f.elements, &fd, err));
    fchmod(fd, 0400);
    close(fd);
    if (with_result) {
        snprintf(f.result, sizeof f.result, "%.12s-%" PRIu64 "-%" PRIu64 ".result", run_hex, round,
                 job);
        TIER_TRY_OUT(
            make_file(dir, f.result, front, front_bytes, NULL, f.elements, &f.result_fd, err));
    }
    *out = f;
out:
    free(front);
    if (st != TIER_OK)
        spoke_trainer_files_drop(&f);
    return st;
}

enum tier_status spoke_trainer_files_read(const struct spoke_trainer_files *f, float *all,
                                          struct tier_err *err) {
    uint64_t n = f->elements * sizeof *all;
    struct stat s;

    if (fstat(f->result_fd, &s) != 0)
        return tier_fail_errno(err, TIER_EIO, "the trainer's result");
    if ((uint64_t)s.st_size != f->bytes)
        return tier_fail(err, TIER_EUPDATE,
                         "the trainer's result has %" PRIu64 " bytes, it was made with %" PRIu64
                         ": its size must stay",
                         (uint64_t)s.st_size, f->bytes);
    for (uint64_t at = 0; at < n;) {
        ssize_t got = pread(f->result_fd, (char *)all + at, n - at, (off_t)(f->front + at));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tier_fail_errno(err, TIER_EIO, "the trainer's result cannot be read");
        if (got == 0)
            return tier_fail(err, TIER_EUPDATE, "the trainer's result becomes shorter");
        at += (uint64_t)got;
    }
    return TIER_OK;
}

void spoke_trainer_files_drop(struct spoke_trainer_files *f) {
    if (*f->model)
        unlinkat(f->dir, f->model, 0);
    if (*f->result)
        unlinkat(f->dir, f->result, 0);
    if (*f->result && f->result_fd >= 0)
        close(f->result_fd);
    *f = (struct spoke_trainer_files){.result_fd = -1};
}
