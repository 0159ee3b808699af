/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration of a node. Each key of the one table may be written in the YAML file, as an
 * environment variable (parent.address: CONSILIUM_PARENT_ADDRESS) or as a long option
 * (--parent-address); an option wins over the environment, that over the file, that over the
 * default. Unknown keys and options are errors, with the nearest known one. Environment variables
 * with our prefix that no table knows are warned about only where they look like a misspelling,
 * because orchestrators put variables of their own there.
 *
 * Relative paths in a file are relative to that file's folder; elsewhere to the working directory.
 *
 * Threads: load before starting any; afterwards the struct is read only. Nothing in it is owned.
 */
#ifndef CONSILIUM_TIER_CONFIG_H
#define CONSILIUM_TIER_CONFIG_H

#include "tier/identity.h"
#include "tier/keys.h"
#include "tier/log.h"

#include <stdio.h>

#define TIER_CONFIG_PATH_BYTES 1024
#define TIER_CONFIG_ADDRESS_BYTES 264 /* a DNS name and a port */

/* Which table: keys of the other program are unknown. */
/* A member is one more server of a spoke (consilium-spoke member); its leader stands as parent. */
enum tier_config_kind { TIER_CONFIG_HUB, TIER_CONFIG_SPOKE, TIER_CONFIG_MEMBER };
#define TIER_CONFIG_KINDS 3

enum tier_retain { TIER_RETAIN_SUMS, TIER_RETAIN_UPDATES };
enum tier_durability { TIER_DURABILITY_NORMAL, TIER_DURABILITY_STRICT };
enum tier_accept { TIER_ACCEPT_NONE, TIER_ACCEPT_ALL };
enum tier_accept_mode { TIER_ACCEPT_ANY, TIER_ACCEPT_UNTRUSTED };

/* What the command line asked for besides keys. */
enum tier_config_action {
    TIER_CONFIG_RUN,
    TIER_CONFIG_HELP,    /* --help */
    TIER_CONFIG_VERSION, /* --version */
    TIER_CONFIG_PRINT,   /* --print-config: show the effective configuration and stop */
};

enum tier_config_source {
    TIER_CONFIG_FROM_DEFAULT,
    TIER_CONFIG_FROM_FILE,
    TIER_CONFIG_FROM_ENV,
    TIER_CONFIG_FROM_OPTION,
};

struct tier_config_hub {
    char listen[TIER_CONFIG_ADDRESS_BYTES];
    char advertise[TIER_CONFIG_ADDRESS_BYTES];      /* "" where it is the same as listen */
    char enroll_listen[TIER_CONFIG_ADDRESS_BYTES];  /* "" where enrollment is not served */
    char authority_dir[TIER_CONFIG_PATH_BYTES];     /* set together with enroll_listen */
    char console_listen[TIER_CONFIG_ADDRESS_BYTES]; /* "" where it shares listen */
    struct tier_keys_list
        children;          /* shell patterns of allowed names; empty: any with a certificate */
    uint64_t children_min; /* children to wait for before the first round opens */
    uint64_t max_uploaders, memory_budget_mb;
    struct tier_keys_list merge_plugins;              /* absolute paths of shared objects */
    int retain;                                       /* enum tier_retain */
    int durability;                                   /* enum tier_durability */
    uint64_t retain_updates_days, retain_models_days; /* beyond the commit (tier/retain.h) */
    uint64_t retain_quarantine_days;                  /* of updates in quarantine, likewise */
    uint64_t retain_max_gb;
    char fold_devices[64];                    /* as tier_fold_devices_open takes it */
    char attest_keys[TIER_CONFIG_PATH_BYTES]; /* a folder of CHILD.pem (hub/attest.h); "": none */
    /* The operator's own data by which updates are appraised (hub/validation.h). */
    char validation_data[TIER_CONFIG_PATH_BYTES], validation_schema[TIER_CONFIG_PATH_BYTES];
    char validation_program[TIER_CONFIG_PATH_BYTES]; /* "": the spoke's, beside this program */
    char validation_device[64];
    uint64_t validation_timeout_s;
};

struct tier_config_spoke {
    char csv[TIER_CONFIG_PATH_BYTES];
    char schema[TIER_CONFIG_PATH_BYTES];
    char device[64];                            /* as kern_devices_open takes it */
    int accept;                                 /* enum tier_accept */
    uint64_t cohort_min;                        /* of secure sums; 0: none are asked for */
    int mode;                                   /* enum tier_accept_mode */
    char policy_file[TIER_CONFIG_PATH_BYTES];   /* spoke/policy.h; "": accept alone decides */
    double epsilon_max, delta;                  /* of patients' privacy; epsilon_max 0: no limit */
    double site_epsilon_max;                    /* of the site's own; 0: no limit */
    char ledger_file[TIER_CONFIG_PATH_BYTES];   /* tier/ledger.h; "": in the data directory */
    char consent_table[TIER_CONFIG_PATH_BYTES]; /* spoke/consent.h; "" where there is none */
    char opt_out[TIER_CONFIG_PATH_BYTES];
    uint64_t rows_min;
    /* Where other servers of the hospital train along, all set together; no member may be set. */
    char team_listen[TIER_CONFIG_ADDRESS_BYTES]; /* "" where there are none */
    struct tier_keys_list team_members;          /* their names, in the order of their ranks */
    char team_identity[TIER_CONFIG_PATH_BYTES];  /* a data directory: its identity/ is used */
    /* Where the hospital's own trainer trains, the first two set together; then csv and schema are
     * "". */
    char trainer_dir[TIER_CONFIG_PATH_BYTES]; /* "" where there is none */
    char trainer_contract[TIER_NAME_LEN_MAX + 1];
    uint64_t trainer_wait_s;
};

struct tier_config {
    enum tier_config_kind kind;
    enum tier_config_action action;
    char name[TIER_NAME_LEN_MAX + 1];
    int role; /* enum tier_role; resolved from the parent where it was not given */
    char data_dir[TIER_CONFIG_PATH_BYTES];
    char key_passphrase_file[TIER_CONFIG_PATH_BYTES]; /* "" where none is named */
    bool storage_encrypt; /* new files, under the storage key (tier/vault.h) */
    int log_level;        /* enum tier_log_level */
    uint64_t threads;     /* 0: one for each core */
    int tls;              /* 0: off, 1: on */
    bool signed_plans;    /* hubs and spokes */
    char parent_address[TIER_CONFIG_ADDRESS_BYTES]; /* "" for the top */
    char parent_name[TIER_NAME_LEN_MAX + 1];        /* the name its certificate must carry */
    uint64_t keepalive_ms, keepalive_timeout_ms;
    char tpm_tcti[256]; /* of hubs and spokes, as tier_tpm_open takes it; "": no TPM */
    uint64_t tpm_pcr;
    struct tier_config_hub hub;     /* kind HUB */
    struct tier_config_spoke spoke; /* kind SPOKE; MEMBER: csv, schema and device of it */

    char file[TIER_CONFIG_PATH_BYTES]; /* "" where none was read */
    struct {
        enum tier_config_source source;
        int line; /* in the file */
    } origin[TIER_KEYS_MAX];
};

/*
 * Reads the command line (argv[0] is the program), the environment (`envp` as environ, may be NULL)
 * and the file named by --config or CONSILIUM_CONFIG into *out. With --help or --version nothing
 * else is read. Errors: TIER_EARG for the command line (exit status 2), TIER_ECONFIG otherwise (1).
 * Every problem is put into `problems` (may be NULL), the first also into err. Logs a warning where
 * tls is off.
 */
enum tier_status tier_config_load(enum tier_config_kind kind, int argc, char *const *argv,
                                  char *const *envp, struct tier_config *out,
                                  struct tier_problems *problems, struct tier_err *err);

/* The text of --help: every key with its option, default, bounds and meaning. */
void tier_config_help(enum tier_config_kind kind, const char *program, FILE *to);
/* The effective configuration as YAML that may be read again, with where each value came from. */
void tier_config_print(const struct tier_config *config, FILE *to);

/* The table itself, for tests and documentation. */
const struct tier_keys_item *tier_config_keys(enum tier_config_kind kind, size_t *count_out);
/* "parent.address" -> "CONSILIUM_PARENT_ADDRESS", "--parent-address". Return buf. */
const char *tier_config_env_name(const char *path, char *buf, size_t bytes);
const char *tier_config_option_name(const char *path, char *buf, size_t bytes);

#endif
