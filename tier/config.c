/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables share their common parts as macros, so that a key means the same for a hub, a spoke
 * and a spoke's member. Sources are applied from the weakest to the strongest onto one struct; only
 * then is it checked as a whole, so that an option may mend what the file left out.
 */
#include "tier/config.h"

#include "tier/mask.h"
#include "tier/privacy.h"

#include <stdlib.h>
#include <string.h>

#define FIELD(member)                                                                              \
    offsetof(struct tier_config, member), sizeof(((struct tier_config *)0)->member)

/* In the order of enum tier_role, whose further roles are persons: no node is one. */
static const char *const role_choices[] = {"top", "hub", "spoke", NULL};
static const char *const level_choices[] = {"debug", "info", "warn", "error", NULL};
static const char *const switch_choices[] = {"off", "on", NULL};
static const char *const retain_choices[] = {"sums", "updates", NULL};
static const char *const durability_choices[] = {"normal", "strict", NULL};
static const char *const accept_mode_choices[] = {"any", "untrusted", NULL};
static const char *const accept_choices[] = {"none", "all", NULL};

/* clang-format off */
#define COMMON_KEYS                                                                \
    {"name", TIER_KEYS_NAME, FIELD(name), NULL, 0, 0, NULL,                                        \
     "the node's name, as its certificate carries it"},                                            \
    {"role", TIER_KEYS_CHOICE, FIELD(role), "", 0, 0, role_choices,                                \
     "follows from the program and the parent; where given it must agree"},                        \
    {"data_dir", TIER_KEYS_PATH, FIELD(data_dir), NULL, 0, 0, NULL,                                \
     "everything durable lies here; moving the folder moves the node"},                            \
    {"key_passphrase_file", TIER_KEYS_PATH, FIELD(key_passphrase_file), "", 0, 0, NULL,            \
     "file with the passphrase of the private keys; or systemd's consilium-key-passphrase"},       \
    {"storage.encrypt", TIER_KEYS_BOOL, FIELD(storage_encrypt), "false", 0, 0, NULL,               \
     "encrypt updates, models and tensors in data_dir; needs the keys' passphrase"},               \
    {"log_level", TIER_KEYS_CHOICE, FIELD(log_level), "info", 0, 0, level_choices,                 \
     "least important line that is logged"},                                                       \
    {"threads", TIER_KEYS_INT, FIELD(threads), "0", 0, 1024, NULL,                                 \
     "threads for compute; 0 is one for each core"},                                               \
    {"tls", TIER_KEYS_CHOICE, FIELD(tls), "on", 0, 0, switch_choices,                              \
     "off sends everything in the clear and trusts every caller: for measuring only"},             \
    {"keepalive_ms", TIER_KEYS_INT, FIELD(keepalive_ms), "1500", 100, 3600000, NULL,               \
     "silence after which a connection is probed, in milliseconds"},                               \
    {"keepalive_timeout_ms", TIER_KEYS_INT, FIELD(keepalive_timeout_ms), "2800", 100, 3600000,     \
     NULL, "wait for the answer to a probe before the connection counts as lost"}

#define TPM_KEYS                                                                                   \
    {"tpm.tcti", TIER_KEYS_TEXT, FIELD(tpm_tcti), "", 0, 0, NULL,                                  \
     "this machine's TPM, as tpm2-tss names it (device:/dev/tpmrm0); for plans that ask for it"},  \
    {"tpm.pcr", TIER_KEYS_INT, FIELD(tpm_pcr), "23", 16, 23, NULL,                                 \
     "16 or 23: the PCR that is extended by what runs here; one for each node of a machine"}

#define PARENT_KEYS(parent_default)                                                                \
    {"parent.address", TIER_KEYS_ADDRESS, FIELD(parent_address), parent_default, 1, 0, NULL,       \
     "host:port of the parent"},                                                                   \
    {"parent.name", TIER_KEYS_NAME, FIELD(parent_name), parent_default, 0, 0, NULL,                \
     "the name the parent's certificate must carry"}

static const struct tier_keys_item hub_keys[] = {
    COMMON_KEYS,
    PARENT_KEYS(""),
    TPM_KEYS,
    {"listen", TIER_KEYS_ADDRESS, FIELD(hub.listen), NULL, 0, 0, NULL,
     "address:port where children attend"},
    {"advertise", TIER_KEYS_ADDRESS, FIELD(hub.advertise), "", 1, 0, NULL,
     "host:port by which children reach it, where that is not the listen address"},
    {"enroll_listen", TIER_KEYS_ADDRESS, FIELD(hub.enroll_listen), "", 0, 0, NULL,
     "address:port where new nodes enroll by token; top only, with authority_dir"},
    {"authority_dir", TIER_KEYS_PATH, FIELD(hub.authority_dir), "", 0, 0, NULL,
     "folder of the certificate authority; top only, with enroll_listen"},
    {"console_listen", TIER_KEYS_ADDRESS, FIELD(hub.console_listen), "", 0, 0, NULL,
     "address:port for operators, where it is not the listen address"},
    {"children", TIER_KEYS_LIST, FIELD(hub.children), "", 0, 0, NULL,
     "shell patterns of the names that may attend; none: every name the authority certified"},
    {"children_min", TIER_KEYS_INT, FIELD(hub.children_min), "1", 1, TIER_CHILDREN_MAX, NULL,
     "children to wait for before the first round opens"},
    {"max_uploaders", TIER_KEYS_INT, FIELD(hub.max_uploaders), "64", 1, TIER_CHILDREN_MAX, NULL,
     "children that may push at the same time; the others wait"},
    {"memory_budget_mb", TIER_KEYS_INT, FIELD(hub.memory_budget_mb), "64", 32, 1048576, NULL,
     "buffers for receiving and folding, in MiB"},
    {"merge_plugins", TIER_KEYS_LIST, FIELD(hub.merge_plugins), "", 0, 0, NULL,
     "absolute paths of shared objects with merge rules of your own, which plans call x-..."},
    {"retain", TIER_KEYS_CHOICE, FIELD(hub.retain), "sums", 0, 0, retain_choices,
     "keep each update until the commit, or only their sums"},
    {"durability", TIER_KEYS_CHOICE, FIELD(hub.durability), "normal", 0, 0, durability_choices,
     "strict syncs each update to disk before its receipt"},
    {"retention.updates_days", TIER_KEYS_INT, FIELD(hub.retain_updates_days), "0", 0, 36525, NULL,
     "days for which counted updates stay after their round, for audit replay"},
    {"retention.models_days", TIER_KEYS_INT, FIELD(hub.retain_models_days), "0", 0, 36525, NULL,
     "days for which models that later ones have replaced stay"},
    {"retention.quarantine_days", TIER_KEYS_INT, FIELD(hub.retain_quarantine_days), "30", 0, 36525,
     NULL, "days for which updates that failed a screen stay, in DATA_DIR/quarantine"},
    {"retention.max_gb", TIER_KEYS_INT, FIELD(hub.retain_max_gb), "100", 1, 1048576, NULL,
     "GiB that both may take, and updates in quarantine as well; the oldest go first"},
    {"attest.keys", TIER_KEYS_PATH, FIELD(hub.attest_keys), "", 0, 0, NULL,
     "folder of CHILD.pem, the public keys of children's TPMs: for plans with governance.attest"},
    {"validation.data", TIER_KEYS_PATH, FIELD(hub.validation_data), "", 0, 0, NULL,
     "data of the operator's own, by which plans may have updates appraised; with validation.schema"},
    {"validation.schema", TIER_KEYS_PATH, FIELD(hub.validation_schema), "", 0, 0, NULL,
     "their schema, a spoke's"},
    {"validation.device", TIER_KEYS_DEVICE, FIELD(hub.validation_device), "cpu", 0, 0, NULL,
     "where models are run on them"},
    {"validation.program", TIER_KEYS_PATH, FIELD(hub.validation_program), "", 0, 0, NULL,
     "the program that does so; consilium-spoke beside this one where it is left out"},
    {"validation.timeout_s", TIER_KEYS_INT, FIELD(hub.validation_timeout_s), "600", 1, 86400, NULL,
     "seconds for one model"},
    {"policy.signed", TIER_KEYS_BOOL, FIELD(signed_plans), "false", 0, 0, NULL,
     "take only plans that somebody whom the authority certified has signed"},
    {"fold_devices", TIER_KEYS_DEVICE, FIELD(hub.fold_devices), "cpu", 0, 0, NULL,
     "what adds updates beside the CPU: cpu (nothing), cuda (every GPU), cuda:0,1, or auto"},
};

#define DATA_KEYS(data_default)                                                                    \
    {"data.csv", TIER_KEYS_PATH, FIELD(spoke.csv), data_default, 0, 0, NULL,                       \
     "the patients' table, or the images that the schema's kind says"},                            \
    {"data.schema", TIER_KEYS_PATH, FIELD(spoke.schema), data_default, 0, 0, NULL,                 \
     "what the table's columns mean, and the contract they fulfil"},                               \
    {"device", TIER_KEYS_DEVICE, FIELD(spoke.device), "auto", 0, 0, NULL,                          \
     "auto, cpu, cuda or cuda:N; several train side by side: cuda:0,1, cuda:all or cpu*4"}

static const struct tier_keys_item spoke_keys[] = {
    COMMON_KEYS,
    PARENT_KEYS(NULL),
    TPM_KEYS,
    DATA_KEYS(""),
    {"policy.accept", TIER_KEYS_CHOICE, FIELD(spoke.accept), "none", 0, 0, accept_choices,
     "which plans the data steward accepts, where no policy.file says it plan by plan"},
    {"policy.file", TIER_KEYS_PATH, FIELD(spoke.policy_file), "", 0, 0, NULL,
     "rules of the data steward that accept, refuse, or ask a person"},
    {"policy.signed", TIER_KEYS_BOOL, FIELD(signed_plans), "false", 0, 0, NULL,
     "take only plans that somebody whom the authority certified has signed"},
    {"policy.cohort_min", TIER_KEYS_INT, FIELD(spoke.cohort_min), "0", 0, TIER_MASK_COHORT_MOST, NULL,
     "plans are declined that do not hide updates in sums of at least so many sites; 0 takes any"},
    {"policy.mode", TIER_KEYS_CHOICE, FIELD(spoke.mode), "any", 0, 0, accept_mode_choices,
     "untrusted: plans are declined that are not of mode: untrusted, without exceptions"},
    {"policy.epsilon_max", TIER_KEYS_REAL, FIELD(spoke.epsilon_max), "0.0", 0,
     TIER_PRIVACY_EPSILON_MAX, NULL,
     "what all plans together may cost a patient here, who then need privacy.patient; 0: no end"},
    {"policy.site_epsilon_max", TIER_KEYS_REAL, FIELD(spoke.site_epsilon_max), "0.0", 0,
     TIER_PRIVACY_EPSILON_MAX, NULL,
     "what all plans together may cost this site as a whole, who then need privacy.site; 0: no end"},
    {"policy.delta", TIER_KEYS_REAL, FIELD(spoke.delta), "1e-5", TIER_PRIVACY_DELTA_MIN, 0.5, NULL,
     "at which these epsilons are told: below one over the number of patients"},
    {"ledger.file", TIER_KEYS_PATH, FIELD(spoke.ledger_file), "", 0, 0, NULL,
     "what was spent of patients' privacy, where spokes of several authorities share its patients"},
    {"consent.table", TIER_KEYS_PATH, FIELD(spoke.consent_table), "", 0, 0, NULL,
     "CSV file of id,purposes: only rows whose id allows the plan's purpose are read"},
    {"consent.opt_out", TIER_KEYS_PATH, FIELD(spoke.opt_out), "", 0, 0, NULL,
     "file of ids, one a line, whose rows are read for nothing"},
    {"consent.rows_min", TIER_KEYS_INT, FIELD(spoke.rows_min), "5", 1, 1000000, NULL,
     "with either file: fewer rows than this are neither trained on nor evaluated"},
    {"team.listen", TIER_KEYS_ADDRESS, FIELD(spoke.team_listen), "", 0, 0, NULL,
     "address:port where other servers of the hospital join (consilium-spoke member)"},
    {"team.members", TIER_KEYS_LIST, FIELD(spoke.team_members), "", 0, 0, NULL,
     "their names: no round is trained before all have joined, ranks in this order"},
    {"team.identity", TIER_KEYS_PATH, FIELD(spoke.team_identity), "", 0, 0, NULL,
     "folder of the identity it shows them, of an authority of the hospital's own"},
    {"trainer.dir", TIER_KEYS_PATH, FIELD(spoke.trainer_dir), "", 0, 0, NULL,
     "folder of the socket at which the hospital's own trainer attends; then data is not read"},
    {"trainer.contract", TIER_KEYS_TEXT, FIELD(spoke.trainer_contract), "", 0, 0, NULL,
     "the contract that the trainer's data keep: plans for others are declined"},
    {"trainer.wait_s", TIER_KEYS_INT, FIELD(spoke.trainer_wait_s), "600", 1, 604800, NULL,
     "how long a round waits for a trainer that is not there before it is declined"},
};

/* A member knows no hub: what it calls is its leader. */
static const struct tier_keys_item member_keys[] = {
    COMMON_KEYS,
    {"leader.address", TIER_KEYS_ADDRESS, FIELD(parent_address), NULL, 1, 0, NULL,
     "host:port of the spoke's team.listen"},
    {"leader.name", TIER_KEYS_NAME, FIELD(parent_name), NULL, 0, 0, NULL,
     "the name in the certificate of the spoke's team.identity"},
    DATA_KEYS(NULL),
};
/* clang-format on */

_Static_assert(sizeof hub_keys / sizeof hub_keys[0] <= TIER_KEYS_MAX, "origin[] is too small");

const struct tier_keys_item *tier_config_keys(enum tier_config_kind kind, size_t *count_out) {
    static const struct {
        const struct tier_keys_item *keys;
        size_t count;
    } tables[TIER_CONFIG_KINDS] = {
        [TIER_CONFIG_HUB] = {hub_keys, sizeof hub_keys / sizeof hub_keys[0]},
        [TIER_CONFIG_SPOKE] = {spoke_keys, sizeof spoke_keys / sizeof spoke_keys[0]},
        [TIER_CONFIG_MEMBER] = {member_keys, sizeof member_keys / sizeof member_keys[0]},
    };
    *count_out = tables[kind].count;
    return tables[kind].keys;
}

static const char *derived_name(const char *prefix, const char *path, bool upper, char *buf,
                                size_t bytes) {
    size_t used = (size_t)snprintf(buf, bytes, "%s", prefix);

    for (const char *p = path; *p && used + 1 < bytes; p++) {
        char c = *p;
        if (c == '.' || c == '_')
            c = upper ? '_' : '-';
        else if (upper && c >= 'a' && c <= 'z')
            c = (char)(c - 'a' + 'A');
        buf[used++] = c;
        buf[used] = 0;
    }
    return buf;
}

const char *tier_config_env_name(const char *path, char *buf, size_t bytes) {
    return derived_name("CONSILIUM_", path, true, buf, bytes);
}

const char *tier_config_option_name(const char *path, char *buf, size_t bytes) {
    return derived_name("--", path, false, buf, bytes);
}

/* One load in progress. */
struct loading {
    const struct tier_keys_item *keys;
    size_t count;
    struct tier_config *config;
    struct tier_problems *problems;
    char *const *envp;
    const char *options[TIER_KEYS_MAX]; /* values given on the command line */
    const char *file;                   /* from --config, else the environment; or NULL */
};

static const char *env_value(char *const *envp, const char *name) {
    size_t length = strlen(name);

    for (char *const *e = envp; e && *e; e++)
        if (strncmp(*e, name, length) == 0 && (*e)[length] == '=')
            return *e + length + 1;
    return NULL;
}

static void unknown_option(const struct loading *ld, const char *option) {
    char name[128], best_name[128] = "";
    unsigned best = (unsigned)strlen(option) / 4 + 1;

    for (size_t i = 0; i < ld->count; i++) {
        unsigned away = tier_text_distance(
            option, tier_config_option_name(ld->keys[i].path, name, sizeof name));
        if (away < best) {
            best = away;
            memcpy(best_name, name, sizeof name);
        }
    }
    if (*best_name)
        tier_problems_add(ld->problems, "command line", 0,
                          "unknown option '%.80s'; did you mean '%s'?", option, best_name);
    else
        tier_problems_add(ld->problems, "command line", 0, "unknown option '%.80s'; see --help",
                          option);
}

static int find_option(const struct loading *ld, const char *name) {
    char known[128];

    for (size_t i = 0; i < ld->count; i++)
        if (strcmp(tier_config_option_name(ld->keys[i].path, known, sizeof known), name) == 0)
            return (int)i;
    return -1;
}

/* "--key value" and "--key=value"; the last one of a key counts. */
static void read_options(struct loading *ld, int argc, char *const *argv) {
    for (int i = 1; i < argc; i++) {
        char name[128];
        const char *equals = strchr(argv[i], '=');
        const char *value = equals ? equals + 1 : NULL;
        snprintf(name, sizeof name, "%.*s",
                 (int)(equals ? equals - argv[i] : (ptrdiff_t)strnlen(argv[i], 120)), argv[i]);
        if (strncmp(name, "--", 2) != 0) {
            tier_problems_add(ld->problems, "command line", 0,
                              "'%.80s' is not an option; keys are given as --key value", argv[i]);
            continue;
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "--version") == 0 ||
            strcmp(argv[i], "--print-config") == 0) {
            ld->config->action = argv[i][2] == 'h'   ? TIER_CONFIG_HELP
                                 : argv[i][2] == 'v' ? TIER_CONFIG_VERSION
                                                     : TIER_CONFIG_PRINT;
            if (ld->config->action != TIER_CONFIG_PRINT)
                return;
            continue;
        }
        int key = find_option(ld, name);
        bool is_config = strcmp(name, "--config") == 0;
        if (key < 0 && !is_config) {
            unknown_option(ld, name);
            continue;
        }
        if (!value && i + 1 < argc)
            value = argv[++i];
        if (!value)
            tier_problems_add(ld->problems, "command line", 0, "%s needs a value", name);
        else if (is_config)
            ld->file = value;
        else
            ld->options[key] = value;
    }
}

/* A path in the file is relative to the file, so that the two may move together. */
static void resolve_path(const struct loading *ld, size_t i, int line) {
    char *path = (char *)ld->config + ld->keys[i].offset;
    const char *slash = strrchr(ld->file, '/');
    char joined[TIER_CONFIG_PATH_BYTES * 2];

    if (!*path || *path == '/' || !slash)
        return;
    int n = snprintf(joined, sizeof joined, "%.*s%s", (int)(slash - ld->file + 1), ld->file, path);
    if (n < 0 || (size_t)n >= ld->keys[i].size)
        tier_problems_add(ld->problems, ld->file, line,
                          "%s is too long as a path: at most %zu "
                          "bytes",
                          ld->keys[i].path, ld->keys[i].size - 1);
    else
        memcpy(path, joined, (size_t)n + 1);
}

static enum tier_status read_file(struct loading *ld, struct tier_err *err) {
    struct tier_yaml *doc = NULL;
    int lines[TIER_KEYS_MAX] = {0};

    if (strlen(ld->file) >= sizeof ld->config->file)
        return tier_fail(err, TIER_ECONFIG, "the path of the configuration file is too long");
    enum tier_status st = tier_yaml_load(ld->file, &doc, err);
    if (st != TIER_OK) {
        if (err && st != TIER_ENOMEM)
            err->status = TIER_ECONFIG;
        return st == TIER_ENOMEM ? st : TIER_ECONFIG;
    }
    memcpy(ld->config->file, ld->file, strlen(ld->file) + 1);
    tier_keys_read(ld->keys, ld->count, doc, ld->config, lines, ld->problems);
    for (size_t i = 0; i < ld->count; i++) {
        if (!lines[i])
            continue;
        ld->config->origin[i].source = TIER_CONFIG_FROM_FILE;
        ld->config->origin[i].line = lines[i];
        if (ld->keys[i].type == TIER_KEYS_PATH)
            resolve_path(ld, i, lines[i]);
    }
    tier_yaml_free(doc);
    return TIER_OK;
}

static void apply(struct loading *ld, size_t i, enum tier_config_source source, const char *name,
                  const char *value) {
    char why[300];

    ld->config->origin[i].source = source;
    ld->config->origin[i].line = 0;
    if (!tier_keys_set(&ld->keys[i], ld->config, value, why, sizeof why))
        tier_problems_add(ld->problems,
                          source == TIER_CONFIG_FROM_ENV ? "environment" : "command line", 0,
                          "%s %s", name, why);
}

static void apply_environment_and_options(struct loading *ld) {
    char name[128];

    for (size_t i = 0; i < ld->count; i++) {
        const char *value =
            env_value(ld->envp, tier_config_env_name(ld->keys[i].path, name, sizeof name));
        if (value && !ld->options[i])
            apply(ld, i, TIER_CONFIG_FROM_ENV, name, value);
        if (ld->options[i])
            apply(ld, i, TIER_CONFIG_FROM_OPTION,
                  tier_config_option_name(ld->keys[i].path, name, sizeof name), ld->options[i]);
    }
}

/* Our prefix is not ours alone: Kubernetes sets CONSILIUM_HUB_PORT for a service consilium-hub. */
static void warn_of_misspelt_variables(const struct loading *ld) {
    for (char *const *e = ld->envp; e && *e; e++) {
        char given[64], name[128];
        const char *equals = strchr(*e, '=');
        if (strncmp(*e, "CONSILIUM_", 10) != 0 || !equals || equals - *e >= (int)sizeof given)
            continue;
        memcpy(given, *e, (size_t)(equals - *e));
        given[equals - *e] = 0;
        const struct tier_keys_item *near = NULL;
        bool known = strcmp(given, "CONSILIUM_CONFIG") == 0;
        for (int kind = 0; kind < TIER_CONFIG_KINDS && !known; kind++) {
            size_t count;
            const struct tier_keys_item *keys =
                tier_config_keys((enum tier_config_kind)kind, &count);
            for (size_t i = 0; i < count && !known; i++) {
                unsigned away = tier_text_distance(
                    given, tier_config_env_name(keys[i].path, name, sizeof name));
                known = away == 0;
                if (away <= 2 && keys == ld->keys)
                    near = &keys[i];
            }
        }
        if (!known && near)
            tier_log_warn("environment: %s is no key and is ignored; did you mean %s?", given,
                          tier_config_env_name(near->path, name, sizeof name));
    }
}

/* A spoke reads its data by itself unless a trainer does. */
static bool is_required(const struct loading *ld, const struct tier_keys_item *key) {
    bool spoke = ld->config->kind == TIER_CONFIG_SPOKE;
    return !key->value ||
           (spoke && !*ld->config->spoke.trainer_dir &&
            (strcmp(key->path, "data.csv") == 0 || strcmp(key->path, "data.schema") == 0));
}

static void check_required(const struct loading *ld) {
    char option[128], env[128];

    for (size_t i = 0; i < ld->count; i++)
        if (is_required(ld, &ld->keys[i]) &&
            ld->config->origin[i].source == TIER_CONFIG_FROM_DEFAULT)
            tier_problems_add(ld->problems, ld->file ? ld->file : "configuration", 0,
                              "%s is missing: %s; write it there, or give %s or %s",
                              ld->keys[i].path, ld->keys[i].help,
                              tier_config_option_name(ld->keys[i].path, option, sizeof option),
                              tier_config_env_name(ld->keys[i].path, env, sizeof env));
}

/* A problem about a key, at the line that last set it. */
static void complain(const struct loading *ld, const char *path, const char *reason) {
    static const char *const places[] = {"configuration", NULL, "environment", "command line"};
    int i = tier_keys_find(ld->keys, ld->count, path);
    enum tier_config_source source = ld->config->origin[i].source;

    tier_problems_add(ld->problems,
                      source == TIER_CONFIG_FROM_FILE ? ld->config->file : places[source],
                      ld->config->origin[i].line, "%s %s", path, reason);
}

static bool fixed_port(const char *address) {
    const char *colon = strrchr(address, ':');
    return colon && strcmp(colon, ":0") != 0;
}

static void check_hub(struct loading *ld) {
    struct tier_config *c = ld->config;
    bool has_parent = *c->parent_address;

    if (has_parent != (*c->parent_name != 0))
        complain(ld, has_parent ? "parent.address" : "parent.name",
                 "must be set together with its partner: parent.address and parent.name, or "
                 "neither for the top");
    if (c->role == TIER_ROLE_SPOKE)
        complain(ld, "role", "must be top or hub here; a spoke is run by consilium-spoke");
    else if (c->role == TIER_ROLE_TOP && has_parent)
        complain(ld, "role", "is top, and the top has no parent: leave out parent, or make it hub");
    else if (c->role == TIER_ROLE_HUB && !has_parent)
        complain(ld, "role", "is hub, and a hub has a parent: set parent.address and parent.name");
    if (c->role < 0)
        c->role = has_parent ? TIER_ROLE_HUB : TIER_ROLE_TOP;
    bool enrolls = *c->hub.enroll_listen;
    if (enrolls != (*c->hub.authority_dir != 0))
        complain(ld, enrolls ? "enroll_listen" : "authority_dir",
                 "must be set together with its partner: enroll_listen and authority_dir, or "
                 "neither");
    if (enrolls && has_parent)
        complain(ld, "enroll_listen", "is for the top only, where the authority is");
    if (enrolls && fixed_port(c->hub.listen) && strcmp(c->hub.enroll_listen, c->hub.listen) == 0)
        complain(ld, "enroll_listen",
                 "must differ from listen: enrollment takes callers without a certificate");
    if ((*c->hub.validation_data != 0) != (*c->hub.validation_schema != 0))
        complain(ld, *c->hub.validation_data ? "validation.data" : "validation.schema",
                 "must be set together with its partner: validation.data and validation.schema, or "
                 "neither");
    for (size_t i = 0; i < c->hub.merge_plugins.count; i++)
        if (tier_keys_list_item(&c->hub.merge_plugins, i)[0] != '/')
            complain(ld, "merge_plugins",
                     "must hold absolute paths: a bare name would be searched for");
    if (*c->hub.console_listen && fixed_port(c->hub.listen) &&
        strcmp(c->hub.console_listen, c->hub.listen) == 0)
        complain(ld, "console_listen", "is the same as listen; leave it out to share the port");
}

static void check_team(struct loading *ld) {
    struct tier_config *c = ld->config;
    bool listens = *c->spoke.team_listen, members = c->spoke.team_members.count > 0;
    const struct tier_keys_list *list = &c->spoke.team_members;

    if (listens != members)
        complain(ld, listens ? "team.listen" : "team.members",
                 "must be set together with its partner: team.listen and team.members, or neither");
    if (listens && c->tls && !*c->spoke.team_identity)
        complain(ld, "team.listen",
                 "needs team.identity: servers of a team prove to each other who they are");
    if (listens && c->storage_encrypt)
        complain(ld, "storage.encrypt",
                 "is not kept by the other servers of a team (team.listen): encrypt their disks, "
                 "and leave it out");
    for (size_t i = 0; i < list->count; i++) {
        if (!tier_name_valid(tier_keys_list_item(list, i)))
            complain(ld, "team.members",
                     "must hold lower-case letters, digits and '-', as in a certificate");
        for (size_t j = 0; j < i; j++)
            if (strcmp(tier_keys_list_item(list, i), tier_keys_list_item(list, j)) == 0)
                complain(ld, "team.members", "names a server twice");
    }
}

/* A socket's whole path is at most 107 bytes (unix(7)). */
#define TRAINER_DIR_MAX 100

static void check_trainer(struct loading *ld) {
    struct tier_config *c = ld->config;
    bool dir = *c->spoke.trainer_dir, contract = *c->spoke.trainer_contract;

    if (dir != contract)
        complain(ld, dir ? "trainer.dir" : "trainer.contract",
                 "must be set together with its partner: trainer.dir and trainer.contract, or "
                 "neither");
    if (!dir)
        return;
    if (strlen(c->spoke.trainer_dir) > TRAINER_DIR_MAX)
        complain(ld, "trainer.dir",
                 "is too long for a socket: at most 100 bytes, its folder included");
    if (c->storage_encrypt)
        complain(ld, "storage.encrypt",
                 "cannot be read by a trainer of your own (trainer.dir), which is given the graph "
                 "and models as files: encrypt the disk, and leave it out");
    if (*c->spoke.csv || *c->spoke.schema)
        complain(ld, *c->spoke.csv ? "data.csv" : "data.schema",
                 "is not read where a trainer trains (trainer.dir): leave one of them out");
    if (*c->spoke.team_listen)
        complain(ld, "team.listen",
                 "is of no use where a trainer trains (trainer.dir): leave one of them out");
}

/* Rows that are left out must be left out by everyone who reads them. */
static void check_consent(struct loading *ld) {
    const struct tier_config *c = ld->config;
    bool any = *c->spoke.consent_table || *c->spoke.opt_out;
    const char *path = *c->spoke.consent_table ? "consent.table" : "consent.opt_out";

    if (any && *c->spoke.trainer_dir)
        complain(ld, path, "is not heeded by a trainer of your own (trainer.dir): leave one out");
    if (any && *c->spoke.team_listen)
        complain(ld, path, "is not known to other servers (team.listen): leave one of them out");
}

static void check_whole(struct loading *ld) {
    struct tier_config *c = ld->config;
    const char *parent = c->kind == TIER_CONFIG_MEMBER ? "leader.name" : "parent.name";

    check_required(ld);
    if (*c->tpm_tcti && c->tpm_pcr != 16 && c->tpm_pcr != 23)
        complain(ld, "tpm.pcr", "must be 16 or 23, which an application may reset");
    if (c->signed_plans && !c->tls)
        complain(ld, "policy.signed", "needs tls: on, for it is the authority that is asked");
    if (c->kind == TIER_CONFIG_SPOKE) {
        check_team(ld);
        check_consent(ld);
        check_trainer(ld);
    }
    if (c->kind == TIER_CONFIG_HUB)
        check_hub(ld);
    else if (c->role >= 0 && c->role != TIER_ROLE_SPOKE)
        complain(ld, "role", "must be spoke here; the others are run by consilium-hub");
    else
        c->role = TIER_ROLE_SPOKE;
    if (*c->name && !tier_name_valid(c->name))
        complain(ld, "name", "must be lower-case letters, digits and '-', as in a certificate");
    if (*c->parent_name && !tier_name_valid(c->parent_name))
        complain(ld, parent, "must be lower-case letters, digits and '-', as in a certificate");
    if (*c->parent_name && strcmp(c->parent_name, c->name) == 0)
        complain(ld, parent, "is the node's own name; a node cannot be its own parent");
}

enum tier_status tier_config_load(enum tier_config_kind kind, int argc, char *const *argv,
                                  char *const *envp, struct tier_config *out,
                                  struct tier_problems *problems, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_config *config = calloc(1, sizeof *config);
    struct tier_problems *own = calloc(1, sizeof *own);
    struct loading ld = {.config = config, .problems = own, .envp = envp};

    if (!config || !own) {
        st = tier_fail(err, TIER_ENOMEM, "out of memory reading the configuration");
        goto out;
    }
    ld.keys = tier_config_keys(kind, &ld.count);
    config->kind = kind;
    tier_keys_defaults(ld.keys, ld.count, config);
    read_options(&ld, argc, argv);
    if (config->action == TIER_CONFIG_HELP || config->action == TIER_CONFIG_VERSION) {
        *out = *config;
        goto out;
    }
    TIER_TRY_OUT(tier_problems_status(own, TIER_EARG, err));
    if (!ld.file)
        ld.file = env_value(envp, "CONSILIUM_CONFIG");
    if (ld.file)
        TIER_TRY_OUT(read_file(&ld, err));
    apply_environment_and_options(&ld);
    check_whole(&ld);
    tier_problems_sort(own);
    TIER_TRY_OUT(tier_problems_status(own, TIER_ECONFIG, err));
    warn_of_misspelt_variables(&ld);
    if (!config->tls)
        tier_log_warn("tls is off: nothing is encrypted and every caller is believed");
    *out = *config;
out:
    if (problems && own) {
        if (st != TIER_OK && own->count == 0 && err)
            tier_problems_add(own, "configuration", 0, "%s", err->text);
        *problems = *own;
    }
    free(own);
    free(config);
    return st;
}
