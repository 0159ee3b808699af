/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/host.h"
#include "spoke/spoke.h"
#include "tier/key_file.h"
#include "tier/log.h"
#include "tier/node_main.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORKERS_MAX 64u

struct spoke_host {
    size_t count;
    struct tier_config *config;
    struct spoke *spoke;
    size_t opened;
    struct tier_intake *intake;
    size_t worker_count;
    struct {
        struct tier_worker *worker;
        struct spoke_team team;
    } hand[WORKERS_MAX];
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

/* ---- configuration ---- */

static enum tier_status load(struct tier_config *c, char *file, struct tier_err *err) {
    char *argv[] = {"consilium-spoke", "--config", file, NULL};

    /* Variables would stand for every file at once, so none are read. */
    if (tier_config_load(TIER_CONFIG_SPOKE, 3, argv, NULL, c, NULL, err) != TIER_OK)
        return err->status = TIER_ECONFIG;
    return TIER_OK;
}

static enum tier_status same(const struct tier_config *first, const struct tier_config *c,
                             struct tier_err *err) {
    const char *key = c->threads != first->threads                        ? "threads"
                      : strcmp(c->spoke.device, first->spoke.device) != 0 ? "device"
                      : c->log_level != first->log_level                  ? "log_level"
                      : strcmp(c->key_passphrase_file, first->key_passphrase_file) != 0
                          ? "key_passphrase_file"
                          : NULL;
    if (!key)
        return TIER_OK;
    return tier_fail(err, TIER_ECONFIG,
                     "%s: %s belongs to the process and must be the same as in %s", c->file, key,
                     first->file);
}

static const struct tier_config *config_of(const void *p) {
    return *(const struct tier_config *const *)p;
}

static int order_by_name(const void *a, const void *b) {
    return strcmp(config_of(a)->name, config_of(b)->name);
}

static int order_by_folder(const void *a, const void *b) {
    return strcmp(config_of(a)->data_dir, config_of(b)->data_dir);
}

static enum tier_status distinct(const struct tier_config *config, size_t count,
                                 int (*order)(const void *, const void *), const char *key,
                                 struct tier_err *err) {
    const struct tier_config **all = need(calloc(count, sizeof *all));
    enum tier_status st = TIER_OK;

    for (size_t i = 0; i < count; i++)
        all[i] = &config[i];
    qsort(all, count, sizeof *all, order);
    for (size_t i = 1; i < count && st == TIER_OK; i++)
        if (order(&all[i - 1], &all[i]) == 0)
            st = tier_fail(err, TIER_ECONFIG, "%s and %s have the same %s; each needs its own",
                           all[i - 1]->file, all[i]->file, key);
    free(all);
    return st;
}

/* A PCR holds what one node has measured. */
static enum tier_status own_pcr(const struct tier_config *config, size_t count,
                                struct tier_err *err) {
    const struct tier_config *first = NULL;

    for (size_t i = 0; i < count; i++) {
        if (!*config[i].tpm_tcti)
            continue;
        if (first)
            return tier_fail(err, TIER_ECONFIG,
                             "%s and %s both have tpm.tcti: of spokes that share a process one has "
                             "the TPM; run the other alone, with a tpm.pcr of its own",
                             first->file, config[i].file);
        first = &config[i];
    }
    return TIER_OK;
}

static enum tier_status load_all(struct spoke_host *h, char *const *files, struct tier_err *err) {
    for (size_t i = 0; i < h->count; i++) {
        TIER_TRY(load(&h->config[i], files[i], err));
        TIER_TRY(same(&h->config[0], &h->config[i], err));
    }
    TIER_TRY(distinct(h->config, h->count, order_by_name, "name", err));
    TIER_TRY(distinct(h->config, h->count, order_by_folder, "data_dir", err));
    return own_pcr(h->config, h->count, err);
}

/* ---- what is shared ---- */

/* On the CPU as many workers as threads, each with one, because small models do not fill more; a
 * list of devices is one team, which whoever trains has for itself. */
static enum tier_status open_hands(struct spoke_host *h, struct tier_loop *loop,
                                   struct tier_err *err) {
    const struct tier_config *c = &h->config[0];
    const char *device = c->spoke.device;
    bool cpu = strcmp(device, "cpu") == 0;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    size_t threads = c->threads ? c->threads : cores > 0 ? (size_t)cores : 1;
    size_t workers = cpu ? threads : 1;

    workers = workers < h->count ? workers : h->count;
    workers = workers < WORKERS_MAX ? workers : WORKERS_MAX;
    TIER_TRY(tier_intake_new(loop, tier_intake_threads() > 0, &h->intake, err));
    for (size_t i = 0; i < workers; i++) {
        TIER_TRY(spoke_team_open(device, cpu ? (int)(threads / workers) : (int)c->threads, true,
                                 &h->hand[i].team, err));
        h->worker_count = i + 1;
        TIER_TRY(tier_worker_new(loop, &h->hand[i].worker, err));
    }
    return TIER_OK;
}

enum tier_status spoke_host_open(char *const *files, size_t count, struct tier_loop *loop,
                                 struct spoke_host **out, struct tier_err *err) {
    enum tier_status st = TIER_OK;

    *out = NULL;
    if (count == 0 || count > SPOKE_HOST_SPOKES_MAX)
        return tier_fail(err, TIER_ECONFIG, "1 to %u spokes share a process, not %zu",
                         SPOKE_HOST_SPOKES_MAX, count);
    struct spoke_host *h = need(calloc(1, sizeof *h));
    h->count = count;
    h->config = need(calloc(count, sizeof *h->config));
    h->spoke = need(calloc(count, sizeof *h->spoke));
    TIER_TRY_OUT(load_all(h, files, err));
    tier_log_init("host", (enum tier_log_level)h->config[0].log_level);
    tier_key_file_passphrase(h->config[0].key_passphrase_file);
    TIER_TRY_OUT(open_hands(h, loop, err));
    for (; h->opened < count && st == TIER_OK; h->opened += st == TIER_OK) {
        size_t hand = h->opened % h->worker_count;
        struct spoke_shared shared = {h->hand[hand].worker, h->intake, h->hand[hand].team};
        st = spoke_open_shared(&h->config[h->opened], loop, &shared, &h->spoke[h->opened], err);
    }
out:
    if (st != TIER_OK)
        spoke_host_close(h);
    else
        *out = h;
    return st;
}

bool spoke_host_failed(const struct spoke_host *h) {
    for (size_t i = 0; i < h->opened; i++)
        if (h->spoke[i].failed)
            return true;
    return false;
}

void spoke_host_close(struct spoke_host *h) {
    if (!h)
        return;
    /* While one worker or spoke is closed the others still hear their parents: there is nobody to
     * work for them any more. */
    for (size_t i = 0; i < h->opened; i++)
        h->spoke[i].worker = NULL;
    for (size_t i = 0; i < h->worker_count; i++)
        tier_worker_free(h->hand[i].worker);
    for (size_t i = 0; i < h->opened; i++)
        spoke_close(&h->spoke[i]);
    tier_intake_free(h->intake);
    for (size_t i = 0; i < h->worker_count; i++)
        spoke_team_close(&h->hand[i].team);
    free(h->spoke);
    free(h->config);
    free(h);
}

/* ---- the program ---- */

static const char usage[] =
    "Usage: consilium-spoke host FILE...\n"
    "\n"
    "Several spokes in one process, one for each configuration file. Each keeps its own\n"
    "identity, data directory, policy and connection; they share the machine's threads.\n"
    "threads, device, log_level and key_passphrase_file must be the same in all files. No\n"
    "environment variable stands in for a key.\n"
    "\n"
    "  --help   print this and stop\n";

int spoke_host_main(int argc, char **argv, FILE *out, FILE *errors) {
    static const struct option longs[] = {{"help", no_argument, NULL, 'h'}, {0}};
    struct tier_loop *loop = NULL;
    struct spoke_host *host = NULL;
    struct tier_err err = {0};
    int option = getopt_long(argc, argv, "", longs, NULL);

    if (option == 'h') {
        fputs(usage, out);
        return 0;
    }
    if (option != -1 || optind == argc) {
        fputs(usage, errors);
        return 2;
    }
    tier_node_catch_signals();
    tier_node_many_files();
    enum tier_status st = tier_loop_new(&loop, &err);
    if (st == TIER_OK)
        st = spoke_host_open(argv + optind, (size_t)(argc - optind), loop, &host, &err);
    if (st != TIER_OK) {
        fprintf(errors, "consilium-spoke host: %s\n", err.text);
        tier_loop_free(loop);
        return 1;
    }
    tier_node_stop_on_signals(loop);
    tier_loop_run(loop);
    bool failed = spoke_host_failed(host);
    spoke_host_close(host);
    tier_loop_free(loop);
    return failed;
}
