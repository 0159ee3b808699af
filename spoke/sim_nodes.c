/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Folders, identities and configuration of every node, and the processes that run them. A node's
 * folder is <dir>/<name>, with its config.yaml, its data directory and, of a hub, its log; spokes
 * log where their host does, in <dir>/_hosts. No node's name begins with an underscore.
 */
#include "spoke/sim.h"
#include "tier/authority.h"
#include "tier/enroll.h"
#include "tier/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_MS 120000
#define STOP_MS 20000
#define LOOK_MS 10

extern char **environ;
volatile sig_atomic_t sim_asked_to_stop;

struct process {
    pid_t pid;
    char log[SIM_PATH_BYTES];
};

struct sim_nodes {
    struct sim_setting setting;
    const struct sim_tree *tree;
    char **table; /* [nodes]; NULL for hubs */
    int *port;    /* [nodes]; of hubs that have started */
    struct process *process;
    size_t started;
    char *programs;                            /* the folder of this program */
    char at_top[64], operator[SIM_PATH_BYTES]; /* how to reach the top, and as whom */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static char *text_of(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *text_of(const char *fmt, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0)
        abort();
    va_end(args);
    return text;
}

static enum tier_status make_folder(const char *path, struct tier_err *err) {
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "cannot make %s", path);
    return TIER_OK;
}

/* ---- what lies on the disk ---- */

static enum tier_status certify_all(const struct sim_nodes *n, struct tier_err *err) {
    struct tier_authority *a = NULL;
    char *dir = text_of("%s/_authority", n->setting.dir);
    int64_t now_s = tier_wall_ms() / 1000;
    enum tier_status st;

    TIER_TRY_OUT(tier_authority_init(dir, "simulation", 30, now_s, err));
    TIER_TRY_OUT(tier_authority_open(dir, &a, err));
    TIER_TRY_OUT(tier_enroll_local(a, *n->setting.author ? n->setting.author : "operator",
                                   TIER_ROLE_OPERATOR, n->operator, false, now_s, err));
    for (size_t i = 0; i < n->tree->count && st == TIER_OK; i++) {
        const struct sim_node *node = &n->tree->node[i];
        enum tier_role role = !node->hub ? TIER_ROLE_SPOKE : i == 0 ? TIER_ROLE_TOP : TIER_ROLE_HUB;
        char *data = text_of("%s/%s/data", n->setting.dir, node->name);
        st = tier_enroll_local(a, node->name, role, data, false, now_s, err);
        free(data);
    }
out:
    tier_authority_close(a);
    free(dir);
    return st;
}

/* A path in double quotes, as YAML has them. */
static void put_path(FILE *f, const char *path) {
    putc('"', f);
    for (; *path; path++) {
        if (*path == '"' || *path == '\\')
            putc('\\', f);
        putc(*path, f);
    }
    putc('"', f);
}

/* When the parent's port is known. */
static enum tier_status configure(const struct sim_nodes *n, size_t i, struct tier_err *err) {
    const struct sim_node *node = &n->tree->node[i], *parent = &n->tree->node[node->parent];
    char *path = text_of("%s/%s/config.yaml", n->setting.dir, node->name);
    FILE *f = fopen(path, "we");
    enum tier_status st = TIER_OK;

    if (!f) {
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
        free(path);
        return st;
    }
    fprintf(f, "name: %s\ndata_dir: data\ntls: \"%s\"\nlog_level: warn\n", node->name,
            n->setting.tls ? "on" : "off");
    if (n->tree->count > 1000) /* probes of so many cost more than they tell */
        fputs("keepalive_ms: 10000\nkeepalive_timeout_ms: 20000\n", f);
    if (i > 0)
        fprintf(f, "parent: {address: 127.0.0.1:%d, name: %s}\n", n->port[node->parent],
                parent->name);
    if (node->hub) {
        fprintf(f, "listen: 127.0.0.1:0\nchildren_min: %zu\n", node->children);
        if (i == 0 && n->setting.tls) /* secure sums have it give out pseudonyms */
            fputs("enroll_listen: 127.0.0.1:0\nauthority_dir: ../_authority\n", f);
    } else {
        fputs("data: {csv: ", f);
        put_path(f, n->table[i]);
        fputs(", schema: ", f);
        put_path(f, n->setting.schema);
        fprintf(f, "}\ndevice: \"%s\"\nthreads: %zu\npolicy: {accept: all}\n", n->setting.device,
                n->setting.threads);
    }
    bool bad = ferror(f);
    if (fclose(f) != 0 || bad)
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", path);
    free(path);
    return st;
}

static char *folder_of_this_program(void) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    return need(strndup(self, slash ? (size_t)(slash - self) : 0));
}

enum tier_status sim_nodes_make(const struct sim_setting *setting, const struct sim_tree *tree,
                                struct sim_nodes **out, struct tier_err *err) {
    struct sim_nodes *n = need(calloc(1, sizeof *n));
    enum tier_status st = TIER_OK;

    n->setting = *setting;
    n->tree = tree;
    n->table = need(calloc(tree->count, sizeof *n->table));
    n->port = need(calloc(tree->count, sizeof *n->port));
    n->process = need(calloc(tree->count + setting->hosts, sizeof *n->process));
    n->programs = folder_of_this_program();
    snprintf(n->operator, sizeof n->operator, "%s/_operator", setting->dir);
    for (size_t i = 0; i < tree->count && st == TIER_OK; i++) {
        char *folder = text_of("%s/%s", setting->dir, tree->node[i].name);
        st = make_folder(folder, err);
        if (!tree->node[i].hub)
            n->table[i] = text_of("%s/data.csv", folder);
        free(folder);
    }
    if (st == TIER_OK && setting->tls)
        st = certify_all(n, err);
    if (st != TIER_OK)
        sim_nodes_stop(n);
    else
        *out = n;
    return st;
}

const char *sim_nodes_table(const struct sim_nodes *n, size_t i) {
    return n->table[i];
}

/* ---- processes ---- */

/* Every key of a node can be set by the environment: what is set there is not meant for these. */
static void forget_our_variables(void) {
    static const char prefix[] = "CONSILIUM_";
    size_t kept = 0;

    for (size_t i = 0; environ[i]; i++)
        if (strncmp(environ[i], prefix, sizeof prefix - 1) != 0)
            environ[kept++] = environ[i];
    environ[kept] = NULL;
}

/* argv[0] is the program's name; its output goes to `out_fd`. A child of ours ends with us. */
static enum tier_status launch(const struct sim_nodes *n, char *const *argv, int out_fd, int err_fd,
                               pid_t *pid, struct tier_err *err) {
    char *program = text_of("%s/%s", n->programs, argv[0]);
    pid_t self = getpid();

    fflush(NULL);
    *pid = fork();
    if (*pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (getppid() != self)
            _exit(1);
        forget_our_variables();
        int null = open("/dev/null", O_RDONLY);
        dup2(null, STDIN_FILENO);
        dup2(out_fd, STDOUT_FILENO);
        dup2(err_fd, STDERR_FILENO);
        execv(program, argv);
        _exit(127);
    }
    if (*pid < 0)
        tier_fail_errno(err, TIER_EIO, "cannot start %s", program);
    free(program);
    return *pid < 0 ? TIER_EIO : TIER_OK;
}

static enum tier_status launch_node(struct sim_nodes *n, char *const *argv, const char *log,
                                    struct tier_err *err) {
    struct process *p = &n->process[n->started];
    int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", log);
    snprintf(p->log, sizeof p->log, "%s", log);
    enum tier_status st = launch(n, argv, fd, fd, &p->pid, err);
    close(fd);
    n->started += st == TIER_OK;
    return st;
}

enum tier_status sim_nodes_alive(struct sim_nodes *n, struct tier_err *err) {
    if (sim_asked_to_stop)
        return tier_fail(err, TIER_ECANCELLED, "stopped: %s", strsignal((int)sim_asked_to_stop));
    for (size_t i = 0; i < n->started; i++) {
        struct process *p = &n->process[i];
        if (p->pid <= 0 || waitpid(p->pid, NULL, WNOHANG) != p->pid)
            continue;
        p->pid = 0;
        return tier_fail(err, TIER_EUNAVAILABLE, "a process has ended; it says why in %s", p->log);
    }
    return TIER_OK;
}

/* The port that a hub says in its log. */
static enum tier_status learn_port(struct sim_nodes *n, size_t hub, const char *log,
                                   struct tier_err *err) {
    static const char words[] = "listening on port ";
    uint64_t until = tier_clock_ms() + START_MS;
    char line[1024];

    for (;;) {
        FILE *f = fopen(log, "re");
        while (f && n->port[hub] == 0 && fgets(line, sizeof line, f)) {
            const char *at = strstr(line, words);
            if (at && strchr(line, '\n'))
                n->port[hub] = (int)strtol(at + sizeof words - 1, NULL, 10);
        }
        if (f)
            fclose(f);
        if (n->port[hub] > 0)
            return TIER_OK;
        TIER_TRY(sim_nodes_alive(n, err));
        if (tier_clock_ms() > until)
            return tier_fail(err, TIER_ETIMEOUT, "a hub does not come up; its log is %s", log);
        poll(NULL, 0, LOOK_MS);
    }
}

static enum tier_status start_hub(struct sim_nodes *n, size_t i, struct tier_err *err) {
    const char *name = n->tree->node[i].name;
    char *config = text_of("%s/%s/config.yaml", n->setting.dir, name);
    char *log = text_of("%s/%s/log", n->setting.dir, name);
    char *argv[] = {"consilium-hub", "--config", config, "--log-level", "info", NULL};
    enum tier_status st = configure(n, i, err);

    if (st == TIER_OK)
        st = launch_node(n, argv, log, err);
    if (st == TIER_OK)
        st = learn_port(n, i, log, err);
    free(config);
    free(log);
    return st;
}

/* Spokes go to the hosts in turn, so that each region's are spread. */
static enum tier_status start_host(struct sim_nodes *n, size_t host, struct tier_err *err) {
    char *log = text_of("%s/_hosts/%zu.log", n->setting.dir, host + 1);
    char **argv = need(calloc(n->tree->spokes + 3, sizeof *argv));
    size_t argc = 2, spoke = 0;
    enum tier_status st = TIER_OK;

    argv[0] = "consilium-spoke";
    argv[1] = "host";
    for (size_t i = 0; i < n->tree->count && st == TIER_OK; i++) {
        if (n->tree->node[i].hub || spoke++ % n->setting.hosts != host)
            continue;
        st = configure(n, i, err);
        argv[argc++] = text_of("%s/%s/config.yaml", n->setting.dir, n->tree->node[i].name);
    }
    if (st == TIER_OK)
        st = launch_node(n, argv, log, err);
    for (size_t i = 2; i < argc; i++)
        free(argv[i]);
    free(argv);
    free(log);
    return st;
}

enum tier_status sim_nodes_start(struct sim_nodes *n, struct tier_err *err) {
    char *hosts = text_of("%s/_hosts", n->setting.dir);
    enum tier_status st = make_folder(hosts, err);

    free(hosts);
    for (size_t i = 0; i < n->tree->count && st == TIER_OK; i++)
        if (n->tree->node[i].hub)
            st = start_hub(n, i, err);
    snprintf(n->at_top, sizeof n->at_top, "127.0.0.1:%d", n->port[0]);
    for (size_t h = 0; h < n->setting.hosts && st == TIER_OK; h++)
        st = start_host(n, h, err);
    return st;
}

enum tier_status sim_nodes_console(const struct sim_nodes *n, const char *const *args, bool whom,
                                   pid_t *pid, int *from, struct tier_err *err) {
    const char *top = n->tree->node[0].name;
    char *argv[32] = {"consilium"};
    size_t argc = 1;
    int ends[2];

    for (; *args && argc < 16; args++)
        argv[argc++] = (char *)*args;
    if (!whom) {
        argv[argc++] = "--hub";
        argv[argc++] = (char *)n->at_top;
        argv[argc++] = "--hub-name";
        argv[argc++] = (char *)top;
    }
    if (n->setting.tls) {
        argv[argc++] = "--identity";
        argv[argc++] = (char *)n->operator;
    } else {
        argv[argc++] = "--insecure";
    }
    if (pipe2(ends, O_CLOEXEC) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot make a pipe");
    enum tier_status st = launch(n, argv, ends[1], STDERR_FILENO, pid, err);
    close(ends[1]);
    if (st != TIER_OK)
        close(ends[0]);
    else
        *from = ends[0];
    return st;
}

enum tier_status sim_nodes_sign(const struct sim_nodes *n, const char *plan, char **path_out,
                                struct tier_err *err) {
    pid_t pid = 0;
    int from = -1, code = 0;

    *path_out = NULL;
    if (!n->setting.tls)
        return TIER_OK;
    char *path = text_of("%s/plan.sig", n->setting.dir);
    const char *const args[] = {"plan", "sign", plan, "--out", path, NULL};
    enum tier_status st = sim_nodes_console(n, args, true, &pid, &from, err);
    if (st == TIER_OK) {
        while (waitpid(pid, &code, 0) < 0 && errno == EINTR)
            ; /* asked to stop: whoever waits next heeds it */
        close(from);
    }
    if (st == TIER_OK && code != 0)
        st = tier_fail(err, TIER_EPLAN, "%s cannot be signed; consilium has said why", plan);
    if (st == TIER_OK)
        *path_out = path;
    else
        free(path);
    return st;
}

static bool all_gone(struct sim_nodes *n) {
    bool gone = true;
    for (size_t i = 0; i < n->started; i++) {
        struct process *p = &n->process[i];
        if (p->pid > 0 && waitpid(p->pid, NULL, WNOHANG) == p->pid)
            p->pid = 0;
        gone = gone && p->pid == 0;
    }
    return gone;
}

void sim_nodes_stop(struct sim_nodes *n) {
    if (!n)
        return;
    for (size_t i = n->started; i-- > 0;) /* children before their parents */
        if (n->process[i].pid > 0)
            kill(n->process[i].pid, SIGTERM);
    for (uint64_t until = tier_clock_ms() + STOP_MS; !all_gone(n) && tier_clock_ms() < until;)
        poll(NULL, 0, LOOK_MS);
    for (size_t i = 0; i < n->started; i++)
        if (n->process[i].pid > 0) {
            kill(n->process[i].pid, SIGKILL);
            waitpid(n->process[i].pid, NULL, 0);
        }
    for (size_t i = 0; i < n->tree->count; i++)
        free(n->table[i]);
    free(n->table);
    free(n->port);
    free(n->process);
    free(n->programs);
    free(n);
}
