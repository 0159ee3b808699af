/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/data.h"
#include "spoke/sim.h"
#include "tier/log.h"
#include "tier/loop.h"
#include "tier/plan.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOSTS_MAX 64u

static const char usage[] =
    "Usage: consilium sim PLAN --schema FILE --data FILE [options]\n"
    "\n"
    "Runs a plan as a whole federation on this machine: real hubs, spokes hosted many to a\n"
    "process, mutual TLS. The patients of one table are dealt out to the spokes.\n"
    "\n"
    "  --tree FILE         who takes part: name, spokes, hubs (each the same again), in YAML\n"
    "  --spokes N          without a tree: so many spokes (10)\n"
    "  --hubs N            and so many hubs between them and the top (0)\n"
    "  --schema FILE       what the table means\n"
    "  --data FILE         the table, or the table of images\n"
    "  --split HOW         iid, dirichlet:ALPHA (classes differ), quantity:ALPHA (numbers of\n"
    "                      patients differ), column:NAME (a site for each value) (iid)\n"
    "  --seed N            of the draws (1)\n"
    "  --rows N            each site draws N rows with replacement (0: every row once)\n"
    "  --rows-min N        every site has so many rows (2)\n"
    "  --out DIR           keep everything in this new folder (without: only what is printed)\n"
    "  --hosts N           processes for the spokes (1 for every 250 spokes)\n"
    "  --threads N         for training, of each process; 0: one for each core (0)\n"
    "  --device NAME       as a spoke's (cpu)\n"
    "  --tls on|off        off: in the clear, to measure what TLS costs (on)\n"
    "  --json              one JSON object with all results, and no lines of progress\n"
    "  --help              print this and stop\n"
    "\n"
    "The tree file, to any depth:\n"
    "\n"
    "  name: national\n"
    "  hubs:\n"
    "    - {name: north, spokes: 3}\n"
    "    - {name: south, spokes: [hill, vale], hubs: [{name: coast, spokes: 2}]}\n";

struct options {
    const char *plan, *tree, *schema, *data, *out, *device;
    size_t spokes, hubs, hosts, threads;
    struct sim_split split;
    bool tls, json;
};

struct sim {
    const struct options *o;
    char dir[SIM_PATH_BYTES], schema_path[PATH_MAX];
    bool own_dir; /* ours to remove */
    struct sim_tree tree;
    struct tier_plan plan;
    struct spoke_schema *schema;
    struct sim_table table;
    struct sim_site *sites; /* [spokes], in the order of the tree */
    struct sim_nodes *nodes;
    json_t *run;
    double started_s, ready_s, over_s;
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static double now_s(void) {
    return (double)tier_clock_ms() / 1e3;
}

/* ---- options ---- */

static bool number(const char *text, uint64_t max, uint64_t *out) {
    char *end = NULL;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && errno == 0 && *out <= max;
}

static bool take(struct options *o, int option, const char *text, struct tier_err *err) {
    static const struct {
        char option;
        const char *name;
        uint64_t max;
    } numbers[] = {{'n', "spokes", SIM_NODES_MAX}, {'b', "hubs", SIM_NODES_MAX},
                   {'e', "seed", UINT64_MAX},      {'r', "rows", 100000000},
                   {'m', "rows-min", 100000000},   {'p', "hosts", HOSTS_MAX},
                   {'w', "threads", 1024}};
    uint64_t n = 0;

    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i].option == option && !number(text, numbers[i].max, &n)) {
            tier_fail(err, TIER_EARG, "--%s is a whole number from 0 to %" PRIu64 ", not '%.40s'",
                      numbers[i].name, numbers[i].max, text);
            return false;
        }
    switch (option) {
    case 't':
        o->tree = text;
        return true;
    case 'n':
        o->spokes = n;
        return true;
    case 'b':
        o->hubs = n;
        return true;
    case 's':
        o->schema = text;
        return true;
    case 'd':
        o->data = text;
        return true;
    case 'x':
        return sim_split_parse(text, &o->split, err) == TIER_OK;
    case 'e':
        o->split.seed = n;
        return true;
    case 'r':
        o->split.rows = n;
        return true;
    case 'm':
        o->split.rows_min = n;
        return true;
    case 'o':
        o->out = text;
        return true;
    case 'p':
        o->hosts = n;
        return true;
    case 'w':
        o->threads = n;
        return true;
    case 'v':
        o->device = text;
        return true;
    case 'l':
        o->tls = strcmp(text, "off") != 0;
        return strcmp(text, "on") == 0 || !o->tls ||
               tier_fail(err, TIER_EARG, "--tls is on or off") == TIER_OK;
    case 'j':
        return o->json = true;
    default:
        tier_fail(err, TIER_EARG, "consilium sim --help tells the options");
        return false;
    }
}

/* -1: go on; else the exit status. */
static int parse(struct options *o, int argc, char **argv) {
    static const struct option longs[] = {{"tree", required_argument, NULL, 't'},
                                          {"spokes", required_argument, NULL, 'n'},
                                          {"hubs", required_argument, NULL, 'b'},
                                          {"schema", required_argument, NULL, 's'},
                                          {"data", required_argument, NULL, 'd'},
                                          {"split", required_argument, NULL, 'x'},
                                          {"seed", required_argument, NULL, 'e'},
                                          {"rows", required_argument, NULL, 'r'},
                                          {"rows-min", required_argument, NULL, 'm'},
                                          {"out", required_argument, NULL, 'o'},
                                          {"hosts", required_argument, NULL, 'p'},
                                          {"threads", required_argument, NULL, 'w'},
                                          {"device", required_argument, NULL, 'v'},
                                          {"tls", required_argument, NULL, 'l'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    struct tier_err err = {0};
    int option;

    *o = (struct options){.device = "cpu", .tls = true};
    o->split = (struct sim_split){.seed = 1, .rows_min = 2};
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (!take(o, option, optarg, &err)) {
            fprintf(stderr, "consilium sim: %s\n", err.text);
            return 2;
        }
    }
    if (argc - optind != 1 || !o->schema || !o->data || (o->tree && (o->spokes || o->hubs))) {
        fputs("consilium sim: a plan, --schema and --data are needed, and either a tree or "
              "--spokes and --hubs; see consilium sim --help\n",
              stderr);
        return 2;
    }
    o->plan = argv[optind];
    return -1;
}

/* ---- the federation ---- */

/* A folder of ours below TMPDIR, or the new one that was named. */
static enum tier_status make_dir(struct sim *sim, struct tier_err *err) {
    const char *tmp = getenv("TMPDIR");
    char whole[PATH_MAX];

    if (sim->o->out) {
        if (mkdir(sim->o->out, 0700) != 0)
            return tier_fail_errno(err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO,
                                   "cannot make %s, which must be new", sim->o->out);
        if (!realpath(sim->o->out, whole) || strlen(whole) >= sizeof sim->dir / 2)
            return tier_fail(err, TIER_EARG, "%s is too long a path", sim->o->out);
        snprintf(sim->dir, sizeof sim->dir, "%s", whole);
        return TIER_OK;
    }
    snprintf(sim->dir, sizeof sim->dir, "%.400s/consilium-sim-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(sim->dir))
        return tier_fail_errno(err, TIER_EIO, "cannot make a folder %s", sim->dir);
    sim->own_dir = true;
    return TIER_OK;
}

static enum tier_status open_inputs(struct sim *sim, struct tier_err *err) {
    const struct options *o = sim->o;
    struct spoke_data *whole = NULL;

    TIER_TRY(o->tree ? sim_tree_load(o->tree, &sim->tree, err)
                     : sim_tree_even(o->hubs, o->spokes ? o->spokes : 10, &sim->tree, err));
    TIER_TRY(tier_plan_load(o->plan, &sim->plan, NULL, NULL, err));
    if (sim->plan.mode == TIER_PLAN_UNTRUSTED && !o->tls)
        return tier_fail(
            err, TIER_EARG,
            "%s: a plan of mode: untrusted is signed, for which there are no keys with "
            "--tls off",
            o->plan);
    /* What a site could not read is said here, before anything is started. */
    TIER_TRY(spoke_data_open(o->schema, o->data, NULL, &whole, err));
    spoke_data_free(whole);
    TIER_TRY(spoke_schema_open(o->schema, &sim->schema, err));
    if (!realpath(o->schema, sim->schema_path))
        return tier_fail_errno(err, TIER_EIO, "%s", o->schema);
    return sim_table_open(sim->schema, o->data, &o->split, &sim->table, err);
}

static enum tier_status deal(struct sim *sim, struct tier_err *err) {
    const char **paths = need(calloc(sim->tree.spokes, sizeof *paths));
    const char **names = need(calloc(sim->tree.spokes, sizeof *names));
    size_t n = 0;

    sim->sites = need(calloc(sim->tree.spokes, sizeof *sim->sites));
    for (size_t i = 0; i < sim->tree.count; i++) {
        if (sim->tree.node[i].hub)
            continue;
        names[n] = sim->tree.node[i].name;
        paths[n++] = sim_nodes_table(sim->nodes, i);
    }
    enum tier_status st = sim_deal(&sim->table, &sim->o->split, names, paths, n, sim->sites, err);
    free(paths);
    free(names);
    return st;
}

static enum tier_status pull_model(struct sim *sim, struct tier_err *err) {
    const char *run = json_string_value(json_object_get(sim->run, "run"));
    char path[SIM_PATH_BYTES + 32];
    const char *const args[] = {"model", "pull", run, "--out", path, NULL};
    int from = -1, code = 0;
    pid_t pid = 0;

    snprintf(path, sizeof path, "%s/model.safetensors", sim->dir);
    TIER_TRY(sim_nodes_console(sim->nodes, args, false, &pid, &from, err));
    waitpid(pid, &code, 0);
    close(from);
    return code == 0 ? TIER_OK : tier_fail(err, TIER_EIO, "the model could not be fetched");
}

static enum tier_status federate(struct sim *sim, struct tier_err *err) {
    const struct options *o = sim->o;
    size_t hosts = o->hosts ? o->hosts : 1 + sim->tree.spokes / 250;
    struct sim_setting setting = {.schema = sim->schema_path,
                                  .hosts = hosts < HOSTS_MAX ? hosts : HOSTS_MAX,
                                  .device = o->device,
                                  .threads = o->threads,
                                  .tls = o->tls,
                                  .author = sim->plan.governance.author};

    setting.hosts = setting.hosts < sim->tree.spokes ? setting.hosts : sim->tree.spokes;
    sim->started_s = now_s();
    TIER_TRY(make_dir(sim, err));
    setting.dir = sim->dir;
    TIER_TRY(sim_nodes_make(&setting, &sim->tree, &sim->nodes, err));
    TIER_TRY(deal(sim, err));
    TIER_TRY(sim_nodes_start(sim->nodes, err));
    sim->ready_s = now_s();
    if (!o->json)
        printf("%zu spokes, %zu hubs and the top, on %zu rows; ready after %.1f s\n",
               sim->tree.spokes, sim->tree.count - sim->tree.spokes - 1, sim->table.rows,
               sim->ready_s - sim->started_s);
    fflush(stdout);
    TIER_TRY(sim_watch(sim->nodes, o->plan, o->json ? NULL : stdout, &sim->run, err));
    sim->over_s = now_s();
    return o->out ? pull_model(sim, err) : TIER_OK;
}

/* ---- results ---- */

static json_t *sites_json(const struct sim *sim) {
    json_t *list = json_array();
    size_t n = 0;

    for (size_t i = 0; i < sim->tree.count; i++) {
        const struct sim_node *node = &sim->tree.node[i];
        json_t *classes = json_object();
        if (node->hub) {
            json_decref(classes);
            continue;
        }
        for (size_t c = 0; c < sim->table.classes; c++)
            json_object_set_new(classes, sim->table.class_name[c],
                                json_integer((json_int_t)sim->sites[n].classes[c]));
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:o}", "name", node->name, "parent",
                                        sim->tree.node[node->parent].name, "rows",
                                        (json_int_t)sim->sites[n++].rows, "classes", classes));
    }
    return list;
}

static json_t *results(const struct sim *sim) {
    json_t *run = sim->run;

    json_object_del(run, "children");
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f, s:O, s:o}", "plan", sim->o->plan, "seed",
                     (json_int_t)sim->o->split.seed, "spokes", (json_int_t)sim->tree.spokes, "hubs",
                     (json_int_t)(sim->tree.count - sim->tree.spokes - 1), "ready_s",
                     sim->ready_s - sim->started_s, "run_s", sim->over_s - sim->ready_s, "run", run,
                     "sites", sites_json(sim));
}

static enum tier_status tell(const struct sim *sim, struct tier_err *err) {
    json_t *all = need(results(sim));
    char path[SIM_PATH_BYTES + 32];
    bool bad = false;

    if (sim->o->out) {
        snprintf(path, sizeof path, "%s/results.json", sim->dir);
        bad = json_dump_file(all, path, JSON_INDENT(1)) != 0;
    }
    if (sim->o->json) {
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        printf("done in %.1f s; model SHA-256 %s\n", sim->over_s - sim->ready_s,
               json_string_value(json_object_get(sim->run, "model")));
        if (sim->o->out)
            printf("results, model, tables, logs: %s\n", sim->dir);
    }
    json_decref(all);
    if (bad || fflush(stdout) != 0)
        return tier_fail(err, TIER_EIO, "results could not be written%s%s", bad ? " to " : "",
                         bad ? path : "");
    return TIER_OK;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void remove_dir(const char *dir) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void close_all(struct sim *sim) {
    sim_nodes_stop(sim->nodes);
    for (size_t i = 0; sim->sites && i < sim->tree.spokes; i++)
        free(sim->sites[i].classes);
    free(sim->sites);
    sim_table_release(&sim->table);
    sim_tree_release(&sim->tree);
    spoke_schema_free(sim->schema);
    json_decref(sim->run);
}

/* Whoever is asked to stop first stops what it has started. */
static void on_signal(int number) {
    sim_asked_to_stop = number;
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal}; /* not SA_RESTART: waits end */

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv) {
    static struct sim sim;
    struct options o;
    struct tier_err err = {0};
    int code = parse(&o, argc, argv);

    if (code >= 0)
        return code;
    tier_log_init("sim", TIER_LOG_WARN);
    catch_signals();
    sim.o = &o;
    enum tier_status st = open_inputs(&sim, &err);
    if (st == TIER_OK)
        st = federate(&sim, &err);
    if (st == TIER_OK)
        st = tell(&sim, &err);
    bool keep = st != TIER_OK && sim.nodes; /* logs say more than the error */
    close_all(&sim);
    if (st != TIER_OK)
        fprintf(stderr, "consilium sim: %s\n", err.text);
    if (keep && sim.own_dir)
        fprintf(stderr, "consilium sim: what was there is kept in %s\n", sim.dir);
    else if (sim.own_dir)
        remove_dir(sim.dir);
    return st == TIER_OK ? 0 : 1;
}
