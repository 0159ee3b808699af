/* SPDX-License-Identifier: Apache-2.0 */
/*
 * consilium-bench NAME [options] [--json]. The bench runs in a process group of its own, so that
 * this process can end it when its time is up, say so in the same form as a result, and clear its
 * folder away whatever happened.
 */
#include "tests/bench/bench.h"
#include "tier/log.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIMIT_S 295 /* where --limit-s does not say so */
#define TEXT_BYTES_MAX (1u << 20)

static const struct bench {
    const char *name;
    bench_fn *fn;
    const char *help;
} benches[] = {
    {"round", bench_round,
     "--children N --bytes B [--rounds N] [--uploaders N] [--tls on|off]: a round, in seconds"},
    {"uplink", bench_uplink, "--children N: a hub's uplink bytes per round, in f32 models"},
    {"fold", bench_fold, "[--bytes B] [--children N]: folding against reading memory"},
    {"ingest", bench_ingest, "[--bytes B]: receiving against a bare discarding stream"},
    {"same-bits", bench_same_bits, "--trees N --seed S: trees whose result differs"},
    {"scale", bench_scale,
     "--spokes N [--tls on|off] [--bytes B] [--keepalive-ms T --keepalive-timeout-ms T]: streams "
     "held by one hub, and their loss"},
    {"crowd", bench_crowd,
     "--spokes N [--tls on|off] [--bytes B]: rounds of so many spokes, and their return to a hub "
     "that was killed"},
    {"codecs", bench_codecs, "[--bytes B]: bytes of an update, speed and accuracy by codec"},
    {"attacks", bench_attacks, "[--seed S]: accuracy of every merge rule under attack"},
    {"merge", bench_merge, "[--children N] [--bytes B]: every merge rule over sealed files"},
    {"collective", bench_collective, "[--children N] [--bytes B]: all-reduce over N CPU devices"},
    {"mask", bench_mask,
     "[--spokes N] [--bytes B]: secure sums of 64 and 32 bits: bytes of a spoke, unmasking"},
    {"vault", bench_vault, "[--bytes B]: what encrypting a node's files costs"},
    {"kill", bench_kill,
     "--cases N --seed S: rounds that kill -9 of any node lost, repeated, changed"},
    {"train", bench_train,
     "mlp-heart|resnet18-28|resnet18-64|unet3d-48|densenet121-64: a step against PyTorch's"},
};

static int usage(FILE *to) {
    fprintf(to, "Usage: consilium-bench NAME [options] [--json]\n\n");
    for (size_t i = 0; i < sizeof benches / sizeof benches[0]; i++)
        fprintf(to, "  %-10s %s\n", benches[i].name, benches[i].help);
    fprintf(to,
            "\n  --json       exactly one JSON object on standard output\n"
            "  --limit-s S  give up after S seconds; 295 unless it is given\n"
            "  --dir D      work below D instead of TMPDIR or /tmp; it should be a real disk\n");
    return to == stderr ? 2 : 0;
}

/* ---- options ---- */

static bool whole(const char *text, uint64_t min, uint64_t max, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] == '-' || v < min || v > max)
        return false;
    *out = v;
    return true;
}

enum { OPT_JSON = 256, OPT_DIR, OPT_TLS, OPT_HELP, OPT_NUMBER };

struct parsed {
    struct bench_options options;
    const char *dir;
    bool json;
};

static bool option_error(const char *name, const char *value, const char *right) {
    fprintf(stderr, "consilium-bench: --%s: '%s' must be %s\n", name, value, right);
    return false;
}

/* False: a usage error was said. *help_out: help was asked for. */
static bool parse(int argc, char **argv, struct parsed *out, bool *help_out) {
    static const struct option longs[] = {
        {"children", required_argument, NULL, OPT_NUMBER},
        {"bytes", required_argument, NULL, OPT_NUMBER + 1},
        {"seed", required_argument, NULL, OPT_NUMBER + 2},
        {"trees", required_argument, NULL, OPT_NUMBER + 3},
        {"spokes", required_argument, NULL, OPT_NUMBER + 4},
        {"cases", required_argument, NULL, OPT_NUMBER + 5},
        {"keepalive-ms", required_argument, NULL, OPT_NUMBER + 6},
        {"keepalive-timeout-ms", required_argument, NULL, OPT_NUMBER + 7},
        {"rounds", required_argument, NULL, OPT_NUMBER + 8},
        {"limit-s", required_argument, NULL, OPT_NUMBER + 9},
        {"uploaders", required_argument, NULL, OPT_NUMBER + 10},
        {"json", no_argument, NULL, OPT_JSON},
        {"dir", required_argument, NULL, OPT_DIR},
        {"tls", required_argument, NULL, OPT_TLS},
        {"help", no_argument, NULL, OPT_HELP},
        {NULL, 0, NULL, 0}};
    struct bench_options *o = &out->options;
    o->limit_s = LIMIT_S;
    const struct {
        uint64_t *to, min, max;
        const char *right;
    } numbers[] = {{&o->children, 1, BENCH_CHILDREN_MAX, "a whole number from 1 to 256"},
                   {&o->bytes, 4096, UINT64_C(4) << 30, "a whole number from 4096 to 2^32"},
                   {&o->seed, 0, UINT64_C(1) << 53, "a whole number below 2^53"},
                   {&o->trees, 1, 1000000, "a whole number from 1 to 1000000"},
                   {&o->spokes, 1, BENCH_SPOKES_MAX, "a whole number from 1 to 16384"},
                   {&o->cases, 1, 1000000, "a whole number from 1 to 1000000"},
                   {&o->keepalive_ms, 100, 3600000, "milliseconds from 100 to 3600000"},
                   {&o->keepalive_timeout_ms, 100, 3600000, "milliseconds from 100 to 3600000"},
                   {&o->rounds, 2, 100, "a whole number from 2 to 100"},
                   {&o->limit_s, 1, 86400, "seconds from 1 to 86400"},
                   {&o->uploaders, 1, BENCH_CHILDREN_MAX, "a whole number from 1 to 256"}};
    int c, index;

    while ((c = getopt_long(argc, argv, "", longs, &index)) != -1) {
        if (c == OPT_JSON) {
            out->json = true;
        } else if (c == OPT_DIR) {
            out->dir = optarg;
        } else if (c == OPT_HELP) {
            *help_out = true;
        } else if (c == OPT_TLS) {
            o->tls = strcmp(optarg, "off") != 0;
            if (o->tls && strcmp(optarg, "on") != 0)
                return option_error("tls", optarg, "on or off");
        } else if (c >= OPT_NUMBER) {
            int i = c - OPT_NUMBER;
            if (!whole(optarg, numbers[i].min, numbers[i].max, numbers[i].to))
                return option_error(longs[index].name, optarg, numbers[i].right);
        } else {
            return false;
        }
    }
    return true;
}

/* ---- the bench's own process ---- */

static json_t *number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *result_json(const char *name, const struct bench_result *r) {
    return json_pack("{s:s, s:o, s:s, s:s?, s:o, s:O}", "name", name, "value", number(r->value),
                     "unit", r->unit, "against", r->against, "ratio", number(r->ratio), "detail",
                     r->detail);
}

static json_t *failure_json(const char *name, const char *reason) {
    return json_pack("{s:s, s:n, s:s, s:n, s:n, s:{s:s}}", "name", name, "value", "unit", "",
                     "against", "ratio", "detail", "reason", reason);
}

static void run_bench(const struct bench *bench, const struct bench_options *options, int to) {
    struct bench_result r = {.value = NAN, .unit = "", .ratio = NAN, .detail = json_object()};
    struct tier_err err = {0};
    json_t *json;

    tier_log_init("bench", TIER_LOG_WARN);
    if (bench->fn(options, &r, &err) == TIER_OK)
        json = result_json(bench->name, &r);
    else
        json = failure_json(bench->name, err.text);
    json_dumpfd(json, to, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    json_decref(json);
    json_decref(r.detail);
}

/* ---- the process that waits for it ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig) {
    interrupted = sig;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *ftw) {
    (void)info, (void)kind, (void)ftw;
    return remove(path);
}

/* What the bench wrote before it ended, or what is to be said instead. */
static json_t *collect(const struct bench *bench, uint64_t limit_s, int from, pid_t pid) {
    char *text = bench_alloc(TEXT_BYTES_MAX, 1);
    double end = bench_now_s() + (double)limit_s;
    char late[64];
    size_t n = 0;
    const char *reason = NULL;

    snprintf(late, sizeof late, "it did not end within %" PRIu64 " s", limit_s);
    while (!reason && n < TEXT_BYTES_MAX) {
        struct pollfd p = {.fd = from, .events = POLLIN};
        double left = end - bench_now_s();
        int ready = left > 0 ? poll(&p, 1, (int)(left * 1000) + 1) : 0;
        if (interrupted)
            reason = "interrupted";
        else if (ready == 0)
            reason = late;
        if (ready <= 0)
            continue;
        ssize_t k = read(from, text + n, TEXT_BYTES_MAX - n);
        if (k <= 0)
            break;
        n += (size_t)k;
    }
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
    json_t *json = reason ? NULL : json_loadb(text, n, 0, NULL);
    free(text);
    return json ? json : failure_json(bench->name, reason ? reason : "it ended without a result");
}

static json_t *supervise(const struct bench *bench, struct parsed *p) {
    const char *base = p->dir ? p->dir : getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    struct sigaction action = {.sa_handler = on_signal};
    char work[512], why[640];
    int fds[2];

    snprintf(work, sizeof work, "%s/consilium-bench-XXXXXX", base);
    if (!mkdtemp(work) || pipe(fds) != 0) {
        snprintf(why, sizeof why, "cannot make a folder in %s: %s", base, strerror(errno));
        return failure_json(bench->name, why);
    }
    p->options.work = work;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[0]);
        run_bench(bench, &p->options, fds[1]);
        _exit(0); /* helpers of the bench may live on in its group until we end them */
    }
    setpgid(pid, pid);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    close(fds[1]);
    json_t *json = collect(bench, p->options.limit_s, fds[0], pid);
    close(fds[0]);
    nftw(work, remove_entry, 64, FTW_DEPTH | FTW_PHYS);
    return json;
}

static void print_for_people(json_t *json) {
    const json_t *value = json_object_get(json, "value"), *ratio = json_object_get(json, "ratio");
    const char *against = json_string_value(json_object_get(json, "against"));

    if (json_is_null(value))
        printf("%s: not measured\n", json_string_value(json_object_get(json, "name")));
    else
        printf("%s: %.6g %s\n", json_string_value(json_object_get(json, "name")),
               json_number_value(value), json_string_value(json_object_get(json, "unit")));
    if (!json_is_null(ratio))
        printf("ratio %.4g against %s\n", json_number_value(ratio), against ? against : "");
    const char *name;
    json_t *detail = json_object_get(json, "detail"), *bar;
    json_object_foreach(json_object_get(detail, "bars"), name, bar) printf(
        "%s: %.4g, at most %.4g: %s\n", name, json_number_value(json_object_get(bar, "ratio")),
        json_number_value(json_object_get(bar, "at_most")),
        json_string_value(json_object_get(bar, "verdict")));
    json_dumpf(detail, stdout, JSON_PRESERVE_ORDER | JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
}

int main(int argc, char **argv) {
    struct parsed p = {.options = {.tls = true}};
    const struct bench *bench = NULL;
    bool help = false;
    json_t *json;

    if (!parse(argc, argv, &p, &help))
        return usage(stderr);
    if (help)
        return usage(stdout);
    for (size_t i = 0; optind < argc && i < sizeof benches / sizeof benches[0]; i++)
        if (strcmp(benches[i].name, argv[optind]) == 0)
            bench = &benches[i];
    /* `train` names what is trained. */
    if (!bench || argc - optind > 1 + (strcmp(bench->name, "train") == 0))
        return usage(stderr);
    p.options.name = argv[optind + 1]; /* NULL where there is none */
    json = supervise(bench, &p);
    bool failed = json_is_null(json_object_get(json, "value"));
    if (failed)
        fprintf(stderr, "consilium-bench: %s: %s\n", bench->name,
                json_string_value(json_object_get(json_object_get(json, "detail"), "reason")));
    if (p.json) {
        json_dumpf(json, stdout, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
        putchar('\n');
    } else {
        print_for_people(json);
    }
    json_decref(json);
    return failed;
}
