/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Commands are found as git finds them: a built-in one by its words, and any other word NAME as the
 * program consilium-NAME beside this one or on PATH. `consilium hub ...` is consilium-hub.
 */
#include "hub/cli.h"
#include "tier/content.h"
#include "tier/key_file.h"
#include "tier/log.h"

#include <errno.h>
#include <math.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct command {
    const char *group, *word; /* word NULL: the group is the whole command */
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"pki", "init", cli_pki_init, "make the authority that certifies the nodes of a tree"},
    {"pki", "set", cli_pki_set, "set how long its certificates are good"},
    {"pki", "unseal", cli_pki_unseal, "tell whose a pseudonym is, and note why"},
    {"key", "protect", cli_key_protect, "encrypt a private key, or change its passphrase"},
    {"token", "create", cli_token_create, "make a one-time token with which a node enrolls"},
    {"enroll", NULL, cli_enroll, "get a certificate for a token"},
    {"renew", NULL, cli_renew, "get the next certificate for the present one"},
    {"revoke", NULL, cli_revoke, "revoke a node's certificates and tokens"},
    {"plan", "check", cli_plan_check, "say what is wrong with a plan, or why its sums hold"},
    {"plan", "show", cli_plan_show, "show a plan with every default filled in"},
    {"plan", "sign", cli_plan_sign, "sign a plan, so that sites can tell who answers for it"},
    {"run", "start", cli_run_start, "start a run of a plan, at the top"},
    {"run", "list", cli_run_list, "list runs, newest first"},
    {"run", "watch", cli_run_watch, "follow a run until it ends"},
    {"run", "stop", cli_run_stop, "stop a run, at the top"},
    {"node", "list", cli_node_list, "list a hub's children"},
    {"model", "pull", cli_model_pull, "fetch a published model, or its graph"},
    {"model", "release", cli_model_release, "let researchers pull a model; two operators must ask"},
    {"model", "card", cli_model_card, "show what a released model's signed card says"},
    {"model", "verify", cli_model_verify, "check a released model against its signed card"},
    {"model", "info", cli_model_info, "show what a model file holds"},
    {"model", "strip", cli_model_strip, "leave out of a model file what is no parameter"},
    {"model", "export", cli_model_export, "write a trained model as an ONNX file"},
    {"model", "init", cli_model_init, "put trained values into a graph that is to be trained"},
    {"audit", "verify", cli_audit_verify,
     "check audit logs, what they say of each other, and files"},
    {"audit", "replay", cli_audit_replay, "compute a run again from what a hub has kept"},
    {"audit", "export", cli_audit_export, "copy what an auditor needs of a node, with a report"},
    {"contribution", NULL, cli_contribution, "show what each child of a hub gave to a run"},
    {"overlap", NULL, cli_overlap, "count the patients that sites have in common"},
    {"quarantine", "list", cli_quarantine_list, "show whose updates failed a tier's screen"},
    {"quarantine", "pardon", cli_quarantine_pardon, "take a child back that a screen keeps out"},
    {"stats", NULL, cli_stats, "show what a run of statistics counted"},
    {"privacy", "cost", cli_privacy_cost, "what noise on samples costs, in epsilon"},
    {"privacy", "noise", cli_privacy_noise, "how much noise an epsilon needs"},
};
#define COMMAND_COUNT (sizeof commands / sizeof commands[0])

/* Programs of their own beside this one. */
static const struct {
    const char *word, *help;
} programs[] = {
    {"hub", "run a hub, or the top"},
    {"spoke", "run a hospital's side"},
    {"baseline", "train on tables alone and pooled, to compare a federation with"},
    {"sim", "run a plan as a whole federation on this machine"},
    {"bench", "measure what is promised in numbers"},
};

void cli_error(const char *fmt, ...) {
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        bool is_c1 = c[0] == 0xc2 && (c[1] & 0xe0) == 0x80;
        if (*c < 0x20 || *c == 0x7f || is_c1)
            *c = '?';
    }
    fflush(stdout);
    fprintf(stderr, "consilium: %s\n", text);
}

int cli_failed(const struct tier_err *err) {
    cli_error("%s", err->text);
    return CLI_FAILED;
}

int cli_done(void) {
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_OK;
    cli_error("cannot write to the standard output: %s", strerror(errno));
    return CLI_FAILED;
}

int cli_print_json(json_t *value) {
    json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
    putchar('\n');
    json_decref(value);
    return cli_done();
}

const char *cli_time(int64_t ms, char *buf) {
    time_t t = (time_t)(ms / 1000);
    struct tm tm;
    if (ms <= 0 || !gmtime_r(&t, &tm) || !strftime(buf, CLI_TIME_SIZE, "%Y-%m-%d %H:%M", &tm))
        snprintf(buf, CLI_TIME_SIZE, "-");
    return buf;
}

void cli_shape(const struct tier_tensor *t, char *buf, size_t bytes) {
    size_t used = (size_t)snprintf(buf, bytes, "%s", t->ndim ? "" : "scalar");
    for (unsigned i = 0; i < t->ndim && used < bytes; i++)
        used += (size_t)snprintf(buf + used, bytes - used, "%s%" PRIu64, i ? "x" : "", t->dims[i]);
}

enum tier_status cli_place(const char *dir, const struct tier_hash *hash, const char *suffix,
                           const char *out, struct tier_err *err) {
    char *named = tier_content_path(dir, hash, suffix);
    enum tier_status st = TIER_OK;

    if (!named || rename(named, out) != 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", out);
        if (named)
            unlink(named);
    }
    free(named);
    return st;
}

/* ---- options ---- */

static void show_help(const struct cli_usage *u, const struct cli_option *options, size_t count) {
    printf("usage: consilium %s%s%s [options]\n\n", u->command, *u->arguments ? " " : "",
           u->arguments);
    for (const char *at = u->purpose; *at;) { /* in lines of at most 80 columns */
        size_t n = strlen(at);
        if (n > 79)
            for (n = 79; n > 1 && at[n] != ' '; n--)
                ;
        printf("%.*s%s\n", (int)n, at, at[n] ? "" : ".");
        at += n + (at[n] == ' ');
    }
    putchar('\n');
    for (size_t i = 0; i < count; i++) {
        const struct cli_option *o = &options[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->argument ? " " : "",
                 o->argument ? o->argument : "");
        printf("  %-26s %s", left, o->help);
        if (o->type == CLI_NUMBER && !o->required)
            printf(" (default %lld)", (long long)*(int64_t *)o->value);
        if (o->type == CLI_REAL && !o->required)
            printf(" (default %g)", *(double *)o->value);
        if (o->env)
            printf(" [%s]", o->env);
        printf("%s\n", o->required ? "; required" : "");
    }
    printf("  %-26s %s\n", "--help", "show this");
}

static bool set_option(const struct cli_option *o, const char *value) {
    char *end;

    if (o->type == CLI_TEXT) {
        *(const char **)o->value = value;
        return true;
    }
    errno = 0;
    if (o->type == CLI_REAL) {
        double x = strtod(value, &end);
        if (end == value || *end || errno || !isfinite(x)) {
            cli_error("--%s must be a number, not '%s'", o->name, value);
            return false;
        }
        *(double *)o->value = x;
        return true;
    }
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || errno || n < o->min || n > o->max) {
        cli_error("--%s must be a whole number from %lld to %lld, not '%s'", o->name,
                  (long long)o->min, (long long)o->max, value);
        return false;
    }
    *(int64_t *)o->value = n;
    return true;
}

/* "--name", "--name value" or "--name=value" at argv[*at], which it moves past a value. */
static bool take_option(const struct cli_usage *u, const struct cli_option *options, size_t count,
                        int argc, char **argv, int *at, bool *seen) {
    const char *name = argv[*at] + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);

    for (size_t i = 0; i < count; i++) {
        const struct cli_option *o = &options[i];
        if (strlen(o->name) != length || strncmp(o->name, name, length) != 0)
            continue;
        seen[i] = true;
        if (o->type == CLI_FLAG && equals) {
            cli_error("--%s takes no value", o->name);
            return false;
        }
        if (o->type == CLI_FLAG) {
            *(bool *)o->value = true;
            return true;
        }
        if (!equals && *at + 1 >= argc) {
            cli_error("--%s needs a value: %s", o->name, o->argument);
            return false;
        }
        return set_option(o, equals ? equals + 1 : argv[++*at]);
    }
    cli_error("unknown option '--%.*s'; see consilium %s --help", (int)length, name, u->command);
    return false;
}

/* The environment for what was not given; then nothing required may be missing. */
static bool complete(const struct cli_usage *u, const struct cli_option *options, size_t count,
                     bool *seen) {
    for (size_t i = 0; i < count; i++) {
        const char *value = options[i].env ? getenv(options[i].env) : NULL;
        if (!seen[i] && value && *value) {
            if (!set_option(&options[i], value))
                return false;
            seen[i] = true;
        }
        if (options[i].required && !seen[i]) {
            cli_error("--%s is missing; see consilium %s --help", options[i].name, u->command);
            return false;
        }
    }
    return true;
}

int cli_parse(const struct cli_usage *u, const struct cli_option *options, size_t count, int argc,
              char **argv, const char **args, size_t args_min, size_t args_max) {
    bool seen[32] = {false};
    size_t given = 0;
    bool only_args = false;

    for (size_t i = 0; i < args_max; i++)
        args[i] = NULL;
    for (int i = 0; i < argc; i++) {
        if (!only_args && strcmp(argv[i], "--help") == 0) {
            show_help(u, options, count);
            return cli_done();
        }
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
        } else if (!only_args && strncmp(argv[i], "--", 2) == 0) {
            if (!take_option(u, options, count, argc, argv, &i, seen))
                return CLI_USAGE;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1]) {
            cli_error("'%s': options are long here; see consilium %s --help", argv[i], u->command);
            return CLI_USAGE;
        } else if (given == args_max) {
            cli_error("'%s' is one argument too many; see consilium %s --help", argv[i],
                      u->command);
            return CLI_USAGE;
        } else {
            args[given++] = argv[i];
        }
    }
    if (given < args_min) {
        cli_error("usage: consilium %s %s [options]", u->command, u->arguments);
        return CLI_USAGE;
    }
    return complete(u, options, count, seen) ? CLI_GO : CLI_USAGE;
}

/* ---- commands ---- */

static int help(FILE *to) {
    fprintf(to, "usage: consilium COMMAND [options]\n\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        char words[40];
        snprintf(words, sizeof words, "%s%s%s", commands[i].group, commands[i].word ? " " : "",
                 commands[i].word ? commands[i].word : "");
        fprintf(to, "  %-14s %s\n", words, commands[i].help);
    }
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++)
        fprintf(to, "  %-14s %s (consilium-%s)\n", programs[i].word, programs[i].help,
                programs[i].word);
    fprintf(to, "\nconsilium COMMAND --help tells a command's options.\n");
    return to == stdout ? cli_done() : CLI_USAGE;
}

/* Becomes consilium-NAME; returns only where there is none. */
static void become(const char *name, char **argv) {
    char self[PATH_MAX], program[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (strchr(name, '/'))
        return;
    if (n > 0) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        snprintf(program, sizeof program, "%.*s/consilium-%.60s", slash ? (int)(slash - self) : 0,
                 self, name);
        if (access(program, X_OK) == 0)
            execv(program, argv);
    }
    snprintf(program, sizeof program, "consilium-%.60s", name);
    execvp(program, argv);
}

static int unknown(const char *group, const char *word) {
    bool known = false;

    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].group, group) != 0)
            continue;
        if (!known && word)
            cli_error("'%s %s' is no command; there are:", group, word);
        else if (!known)
            cli_error("'%s' needs one word more:", group);
        known = true;
        fprintf(stderr, "  consilium %s %s\n", group, commands[i].word);
    }
    if (!known)
        cli_error("'%s' is no command; see consilium --help", group);
    return CLI_USAGE;
}

int main(int argc, char **argv) {
    tier_log_init("consilium", TIER_LOG_ERROR);
    tier_key_file_passphrase(getenv("CONSILIUM_KEY_PASSPHRASE_FILE"));
    if (argc < 2)
        return help(stderr);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return help(stdout);
    if (strcmp(argv[1], "--version") == 0) {
        printf("consilium %s\n", CONSILIUM_VERSION);
        return cli_done();
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        const struct command *c = &commands[i];
        if (strcmp(argv[1], c->group) != 0)
            continue;
        if (!c->word)
            return c->run(argc - 2, argv + 2);
        if (argc > 2 && strcmp(argv[2], c->word) == 0)
            return c->run(argc - 3, argv + 3);
    }
    const char *word = argc > 2 ? argv[2] : NULL;
    if (word && strcmp(word, "--help") == 0)
        word = NULL;
    become(argv[1], argv + 1);
    return unknown(argv[1], word);
}
