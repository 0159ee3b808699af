/* SPDX-License-Identifier: Apache-2.0 */
/* Names are given and not bytes: a round that is waited for by nobody takes no disk of its own
 * until its updates are deleted, and then what it keeps of them. */
#include "hub/shares.h"
#include "hub/appraise.h"
#include "hub/contributor.h"
#include "hub/job.h"
#include "hub/validation.h"
#include "tier/content.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "contributions"

#define DIR_BYTES (TIER_CONFIG_PATH_BYTES + 32)

struct hub_shares {
    struct hub *hub;
    char dir[DIR_BYTES];   /* a spool of the round's, with its base model */
    struct tier_fold fold; /* its arrays are the next two */
    struct tier_hash *inputs;
    struct tier_fold_version *versions;
    struct tier_fold_stale stale;
    struct tier_hash plan_hash, graph_hash;
    uint64_t permutations;
    uint32_t *children; /* of inputs */
    struct tier_contribution *shares;
    bool exact;
    enum tier_status st;
    struct tier_err err;
    bool counted; /* the loop's, as is the next of the hub's list */
    struct hub_shares *next;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void folder_of(const struct hub *hub, char *path) {
    snprintf(path, DIR_BYTES, "%s/" FOLDER, hub->config->data_dir);
}

/* Of files alone, if it is there. */
static void remove_folder(int parent, const char *name) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));)
        unlinkat(fd, e->d_name, 0);
    closedir(dir);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* ---- what is taken aside --------------------------------------------------------------------- */

static enum tier_status take_base(const struct hub_shares *s, struct tier_err *err) {
    char *from =
        tier_content_path(s->hub->home.models_dir, &s->fold.base_model, TIER_CONTENT_MODEL);
    char *to = tier_content_path(s->dir, &s->fold.base_model, TIER_CONTENT_MODEL);
    enum tier_status st = TIER_OK;

    if (link(from, to) != 0)
        st = tier_fail_errno(err, TIER_EIO, "%s gets no second name", from);
    free(from);
    free(to);
    return st;
}

enum tier_status hub_shares_new(const struct job *job, const struct tier_fold *fold,
                                struct hub_shares **out, struct tier_err *err) {
    struct hub_shares *s = need(calloc(1, sizeof *s));
    char folder[DIR_BYTES];
    enum tier_status st;
    int n;

    *s = (struct hub_shares){.hub = job->hub,
                             .fold = *fold,
                             .plan_hash = job->plan_hash,
                             .graph_hash = job->graph_hash,
                             .permutations = job->permutations,
                             .stale = job->stale};
    s->inputs = need(calloc(fold->count + 1, sizeof *s->inputs));
    s->children = need(calloc(fold->count + 1, sizeof *s->children));
    s->versions = need(calloc(job->stale.version_count + 1, sizeof *s->versions));
    memcpy(s->inputs, fold->inputs, fold->count * sizeof *s->inputs);
    memcpy(s->children, job->children, job->child_count * sizeof *s->children);
    for (size_t i = 0; i < job->stale.version_count; i++)
        s->versions[i] = job->versions[i];
    s->stale.versions = s->versions;
    s->fold.spool = NULL;
    s->fold.inputs = s->inputs;
    s->fold.count = job->child_count;
    s->fold.stale = fold->stale ? &s->stale : NULL;
    s->fold.devices = NULL;   /* the rounds' */
    s->fold.memory_bytes = 0; /* the least: the budget is theirs too */
    folder_of(s->hub, folder);
    n = snprintf(s->dir, sizeof s->dir, "%s/%" PRIu64, folder, ++s->hub->shares_made);
    if (n < 0 || (size_t)n >= sizeof s->dir) {
        *s->dir = '\0'; /* cut, it would name another */
        st = tier_fail(err, TIER_EARG, "%s: the path is too long", folder);
        goto out;
    }
    TIER_TRY_OUT(tier_spool_open(s->dir, false, &s->fold.spool, err));
    TIER_TRY_OUT(take_base(s, err));
    for (size_t i = 0; i < s->fold.count; i++)
        TIER_TRY_OUT(tier_spool_share(fold->spool, &s->inputs[i], s->dir, err));
    *out = s;
    s = NULL;
out:
    hub_shares_free(s);
    return st;
}

void hub_shares_free(struct hub_shares *s) {
    if (!s)
        return;
    tier_spool_close(s->fold.spool);
    remove_folder(AT_FDCWD, s->dir);
    free(s->inputs);
    free(s->children);
    free(s->versions);
    free(s->shares);
    free(s);
}

/* ---- the work -------------------------------------------------------------------------------- */

static void work(void *arg) {
    struct hub_shares *s = arg;
    const struct hub_validation_of of = {.home = &s->hub->home,
                                         .fold = &s->fold,
                                         .plan = s->plan_hash,
                                         .graph = s->graph_hash,
                                         .dir = s->dir,
                                         .stop = &s->hub->closing};

    s->shares = need(calloc(s->fold.count + 1, sizeof *s->shares));
    s->st = hub_appraise_shares(&of, s->permutations, s->shares, &s->exact, &s->err);
}

static void leave_list(struct hub_shares *s) {
    struct hub_shares **at = &s->hub->sharing;

    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
}

static void drop(void *arg) {
    leave_list(arg);
    hub_shares_free(arg);
}

static void done(void *arg) {
    struct hub_shares *s = arg;
    struct hub_run *run = hub_run_find(s->hub, &s->fold.run);
    const struct hub_round_shares it = {.round = s->fold.round,
                                        .children = s->children,
                                        .updates = s->inputs,
                                        .shares = s->st == TIER_OK ? s->shares : NULL,
                                        .count = s->fold.count,
                                        .exact = s->exact,
                                        .by_loss = true,
                                        .counted = s->counted};

    leave_list(s);
    if (run)
        hub_contributors_folded(run, &it, &s->err);
    hub_shares_free(s);
}

void hub_shares_submit(struct hub_run *run, struct hub_shares *s) {
    size_t waiting = 0;

    for (const struct hub_shares *w = run->hub->sharing; w; w = w->next)
        waiting++;
    if (run->hub->appraiser && waiting < HUB_SHARES_ROUNDS_MAX) {
        s->next = run->hub->sharing;
        run->hub->sharing = s;
        tier_worker_submit(run->hub->appraiser, work, done, drop, s);
        return;
    }
    const struct hub_round_shares none = {.round = s->fold.round, .by_loss = true};
    tier_fail(&s->err, TIER_ELIMIT, "those of %zu rounds before are still being worked out",
              waiting);
    hub_contributors_folded(run, &none, &s->err);
    hub_shares_free(s);
}

void hub_shares_counted(struct hub_run *run, uint64_t round) {
    for (struct hub_shares *s = run->hub->sharing; s; s = s->next)
        if (s->fold.round == round && tier_hash_equal(&s->fold.run, &run->id))
            s->counted = true;
}

/* ---- life cycle ------------------------------------------------------------------------------ */

enum tier_status hub_shares_open(struct hub *hub, struct tier_err *err) {
    char path[DIR_BYTES];

    if (!hub_validation_has(hub->config))
        return TIER_OK;
    folder_of(hub, path);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    DIR *dir = opendir(path);
    if (!dir)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    for (struct dirent *e; (e = readdir(dir));) /* what a kill left */
        if (e->d_name[0] != '.')
            remove_folder(dirfd(dir), e->d_name);
    closedir(dir);
    return tier_worker_new(hub->loop, &hub->appraiser, err);
}

void hub_shares_close(struct hub *hub) {
    tier_worker_free(hub->appraiser);
    hub->appraiser = NULL;
}
