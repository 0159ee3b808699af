/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A candidate is made as the top makes a model: the exact fold of the updates, and one division. So
 * a coalition's model is bit for bit what publishing its members alone would have given.
 */
#include "hub/validation.h"
#include "tier/content.h"
#include "tier/log.h"
#include "tier/model.h"
#include "tier/retain.h"
#include "tier/score.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_BYTES 4096
#define STEP_MS 200 /* after which a hub that stops is noticed */
#define PROGRAM "consilium-spoke"

extern char **environ;

struct hub_validation {
    struct hub_validation_of of;
    char dir[TIER_CONFIG_PATH_BYTES + 32]; /* of candidates */
    uint64_t timeout_ms;
    pid_t pid;
    int to, from;
    struct tier_model *base;
    double base_loss;
};

bool hub_validation_has(const struct tier_config *config) {
    return config->hub.validation_data[0] != '\0';
}

static void path_of_dir(const struct tier_home *home, char *path, size_t size) {
    snprintf(path, size, "%s/validation", home->config->data_dir);
}

enum tier_status hub_validation_prepare(const struct tier_home *home, struct tier_err *err) {
    char path[TIER_CONFIG_PATH_BYTES + 32];

    if (!hub_validation_has(home->config))
        return TIER_OK;
    path_of_dir(home, path, sizeof path);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    DIR *dir = opendir(path);
    if (!dir)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    for (struct dirent *e; (e = readdir(dir));) /* a kill may have left a candidate */
        if (strstr(e->d_name, TIER_CONTENT_MODEL) || strstr(e->d_name, TIER_MODEL_TEMPORARY))
            unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    return TIER_OK;
}

/* ---- the program ----------------------------------------------------------------------------- */

/* The operator's, or the one beside this program. */
static void find_program(const struct tier_config *c, char *path, size_t size) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (c->hub.validation_program[0]) {
        snprintf(path, size, "%s", c->hub.validation_program);
        return;
    }
    self[n > 0 ? n : 0] = '\0';
    snprintf(path, size, "%s/" PROGRAM, n > 0 ? dirname(self) : ".");
}

static enum tier_status spawn(struct hub_validation *v, char *const *argv, struct tier_err *err) {
    int in[2] = {-1, -1}, out[2] = {-1, -1};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    int code;

    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) {
        if (in[0] >= 0)
            close(in[0]), close(in[1]);
        return tier_fail_errno(err, TIER_EIO, "a pipe");
    }
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    code = posix_spawn(&v->pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(in[0]);
    close(out[1]);
    v->to = in[1];
    v->from = out[0];
    if (code == 0)
        return TIER_OK;
    v->pid = -1;
    errno = code;
    return tier_fail_errno(err, TIER_EUNAVAILABLE, "validation: %s cannot be started", argv[0]);
}

static enum tier_status start(struct hub_validation *v, struct tier_err *err) {
    const struct tier_home *home = v->of.home;
    const struct tier_config *c = home->config;
    char program[PATH_MAX], threads[24];
    char *plan = tier_content_path(home->retained_dir, &v->of.plan, TIER_CONTENT_PLAN);
    char *graph = tier_content_path(home->models_dir, &v->of.graph, TIER_CONTENT_GRAPH);
    char plan_option[] = "--plan", graph_option[] = "--graph", device_option[] = "--device",
         threads_option[] = "--threads", command[] = "appraise", rest[] = "--";
    char *argv[] = {program,
                    command,
                    plan_option,
                    plan,
                    graph_option,
                    graph,
                    device_option,
                    (char *)(uintptr_t)c->hub.validation_device,
                    threads_option,
                    threads,
                    rest,
                    (char *)(uintptr_t)c->hub.validation_schema,
                    (char *)(uintptr_t)c->hub.validation_data,
                    NULL};

    find_program(c, program, sizeof program);
    snprintf(threads, sizeof threads, "%" PRIu64, c->threads);
    enum tier_status st = spawn(v, argv, err);
    free(plan);
    free(graph);
    return st;
}

/* ---- question and answer --------------------------------------------------------------------- */

static enum tier_status tell(struct hub_validation *v, const char *path, struct tier_err *err) {
    char line[PATH_MAX + 2];
    int n = snprintf(line, sizeof line, "%s\n", path);

    for (int done = 0; done < n;) { /* the program reads: less than a pipe holds */
        ssize_t k = write(v->to, line + done, (size_t)(n - done));
        if (k < 0 && errno != EINTR)
            return tier_fail_errno(err, TIER_EUNAVAILABLE, "validation: the program has ended");
        done += k > 0 ? (int)k : 0;
    }
    return TIER_OK;
}

/* One line, of at most ANSWER_BYTES - 1. */
static enum tier_status hear(struct hub_validation *v, char *line, struct tier_err *err) {
    uint64_t until = tier_clock_ms() + v->timeout_ms;
    size_t n = 0;

    for (;;) {
        struct pollfd wait = {.fd = v->from, .events = POLLIN};
        uint64_t now = tier_clock_ms();
        if (now >= until)
            return tier_fail(err, TIER_EUNAVAILABLE,
                             "validation: no answer in validation.timeout_s, %" PRIu64 " s",
                             v->timeout_ms / 1000);
        if (v->of.stop && atomic_load(v->of.stop))
            return tier_fail(err, TIER_EUNAVAILABLE, "validation: the hub is stopping");
        if (poll(&wait, 1, until - now > STEP_MS ? STEP_MS : (int)(until - now)) <= 0)
            continue;
        ssize_t k = read(v->from, line + n, ANSWER_BYTES - 1 - n);
        if (k == 0 || (k < 0 && errno != EINTR))
            return tier_fail(err, TIER_EUNAVAILABLE,
                             "validation: the program has ended; its own message says why");
        n += k > 0 ? (size_t)k : 0;
        line[n] = '\0';
        if (memchr(line, '\n', n))
            return TIER_OK;
        if (n == ANSWER_BYTES - 1)
            return tier_fail(err, TIER_EUNAVAILABLE, "validation: an answer of too many bytes");
    }
}

static enum tier_status ask(struct hub_validation *v, const char *path, double *loss_out,
                            struct tier_err *err) {
    char line[ANSWER_BYTES];

    TIER_TRY(tell(v, path, err));
    TIER_TRY(hear(v, line, err));
    json_t *said = json_loads(line, 0, NULL);
    const char *why = json_string_value(json_object_get(said, "error"));
    json_int_t count = json_integer_value(json_object_get(said, "count"));
    json_int_t loss = json_integer_value(json_object_get(said, "loss"));
    bool whole = json_is_integer(json_object_get(said, "loss")) && count > 0;
    enum tier_status st = TIER_OK;
    /* A model whose outputs are no numbers is as bad as one can be. */
    if (why && strstr(why, "not finite"))
        *loss_out = INFINITY;
    else if (!whole)
        st = tier_fail(err, TIER_EUNAVAILABLE, "validation: %s", why ? why : "no answer to read");
    else
        *loss_out = ldexp((double)loss, -TIER_SCORE_LOSS_BITS) / (double)count;
    json_decref(said);
    return st;
}

/* ---- candidates ------------------------------------------------------------------------------ */

static bool among(const struct tier_hash *ids, size_t count, const struct tier_hash *id) {
    for (size_t i = 0; i < count; i++)
        if (tier_hash_equal(&ids[i], id))
            return true;
    return false;
}

/* The sum of one sum is that sum: what was there before stays. */
static enum tier_status candidate(struct hub_validation *v, const struct tier_hash *updates,
                                  size_t count, const struct tier_hash *keep,
                                  struct tier_hash *model_out, struct tier_err *err) {
    struct tier_fold fold = *v->of.fold;
    struct tier_update *sum = NULL;
    struct tier_hash id = {{0}};
    size_t least = tier_fold_memory_min(fold.manifest, count);

    fold.inputs = updates;
    fold.count = count;
    fold.memory_bytes = fold.memory_bytes > least ? fold.memory_bytes : least;
    TIER_TRY(tier_fold_run(&fold, &id, err));
    enum tier_status st = tier_spool_update_open(fold.spool, &id, &sum, err);
    if (st == TIER_OK)
        st = tier_fold_publish(sum, fold.manifest, v->base, v->dir, NULL, 0, model_out, err);
    tier_spool_update_close(sum);
    if (!among(updates, count, &id) && !tier_hash_equal(keep, &id))
        tier_spool_delete(fold.spool, &id, NULL);
    return st;
}

enum tier_status hub_validation_loss(struct hub_validation *v, const struct tier_hash *updates,
                                     size_t count, const struct tier_hash *keep, double *loss_out,
                                     struct tier_err *err) {
    struct tier_hash model;

    enum tier_status st = candidate(v, updates, count, keep, &model, err);
    if (st == TIER_EMODEL) { /* a parameter that is no number any more */
        *loss_out = INFINITY;
        return TIER_OK;
    }
    if (st != TIER_OK)
        return st;
    char *path = tier_content_path(v->dir, &model, TIER_CONTENT_MODEL);
    st = ask(v, path, loss_out, err);
    unlink(path);
    free(path);
    return st;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

enum tier_status hub_validation_open(const struct hub_validation_of *of,
                                     struct hub_validation **out, struct tier_err *err) {
    struct hub_validation *v = calloc(1, sizeof *v);
    char *path = tier_content_path(of->dir ? of->dir : of->home->models_dir, &of->fold->base_model,
                                   TIER_CONTENT_MODEL);
    enum tier_status st;

    if (!v) {
        free(path);
        return tier_fail(err, TIER_ENOMEM, "no memory for a validation");
    }
    *v = (struct hub_validation){.of = *of,
                                 .timeout_ms = of->home->config->hub.validation_timeout_s * 1000,
                                 .pid = -1,
                                 .to = -1,
                                 .from = -1};
    if (of->dir)
        snprintf(v->dir, sizeof v->dir, "%s", of->dir);
    else
        path_of_dir(of->home, v->dir, sizeof v->dir);
    TIER_TRY_OUT(tier_model_open(path, &v->base, err));
    TIER_TRY_OUT(start(v, err));
    TIER_TRY_OUT(ask(v, path, &v->base_loss, err));
    *out = v;
    v = NULL;
out:
    hub_validation_close(v);
    free(path);
    return st;
}

void hub_validation_close(struct hub_validation *v) {
    if (!v)
        return;
    if (v->to >= 0)
        close(v->to);
    if (v->from >= 0)
        close(v->from);
    if (v->pid > 0) {
        kill(v->pid, SIGKILL); /* it has nothing to put in order */
        while (waitpid(v->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    tier_model_close(v->base);
    free(v);
}

double hub_validation_base(const struct hub_validation *v) {
    return v->base_loss;
}
