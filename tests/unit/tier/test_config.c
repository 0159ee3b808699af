/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "tier/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HUB_FILE                                                                                   \
    "name: north\n"                                                                                \
    "data_dir: state\n"                                                                            \
    "listen: 0.0.0.0:7400\n"                                                                       \
    "parent:\n"                                                                                    \
    "  address: top.example:7400\n"                                                                \
    "  name: top\n"

static struct tier_config config;
static struct tier_problems problems;
static struct tier_err err;
static char folder[64];
static char file[128];

static void write_file(const char *text) {
    snprintf(folder, sizeof folder, "/tmp/consilium-config-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/node.yaml", folder);
    FILE *f = fopen(file, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static void remove_file(void) {
    if (*file) {
        unlink(file);
        rmdir(folder);
    }
}
TestSuite(tier_config, .fini = remove_file);

/* Loads the text as a file, with up to four further arguments and an environment. */
static enum tier_status load(enum tier_config_kind kind, const char *text, char *const *more,
                             char *const *envp) {
    char *argv[16] = {"program", "--config", file};
    int argc = 3;

    write_file(text);
    for (; more && *more; more++)
        argv[argc++] = *more;
    return tier_config_load(kind, argc, argv, envp, &config, &problems, &err);
}

static bool complained(const char *part) {
    for (size_t i = 0; i < problems.count; i++)
        if (strstr(problems.item[i].text, part))
            return true;
    for (size_t i = 0; i < problems.count; i++)
        fprintf(stderr, "problem: %s\n", problems.item[i].text);
    return false;
}

Test(tier_config, a_hub_file_is_read_with_its_defaults) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "children: [\"spoke-*\", b]\n", NULL, NULL),
                 TIER_OK),
              "%s", err.text);
    char data_dir[128];
    snprintf(data_dir, sizeof data_dir, "%s/state", folder);
    cr_assert(eq(str, config.name, "north"));
    cr_assert(eq(str, config.data_dir, data_dir));
    cr_assert(eq(int, config.role, TIER_ROLE_HUB));
    cr_assert(eq(int, config.tls, 1));
    cr_assert(eq(u64, config.hub.children_min, 1));
    cr_assert(eq(u64, config.keepalive_ms, 1500));
    cr_assert(eq(int, config.hub.retain, TIER_RETAIN_SUMS));
    cr_assert(eq(sz, config.hub.children.count, 2));
    cr_assert(strcmp(tier_keys_list_item(&config.hub.children, 0), "spoke-*") == 0);
}

Test(tier_config, without_a_parent_a_hub_is_the_top) {
    cr_assert(eq(int,
                 load(TIER_CONFIG_HUB, "name: t\ndata_dir: /d\nlisten: 127.0.0.1:0\n", NULL, NULL),
                 TIER_OK));
    cr_assert(eq(int, config.role, TIER_ROLE_TOP));
}

Test(tier_config, devices_are_lists_and_folds_use_none_unless_told) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, NULL, NULL), TIER_OK), "%s", err.text);
    cr_assert(eq(str, config.hub.fold_devices, "cpu"));
    cr_assert(
        eq(int, load(TIER_CONFIG_HUB, HUB_FILE "fold_devices: cuda:0,1\n", NULL, NULL), TIER_OK),
        "%s", err.text);
    cr_assert(eq(str, config.hub.fold_devices, "cuda:0,1"));
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "fold_devices: cuda:1,1\n", NULL, NULL),
                 TIER_ECONFIG));
    cr_assert(
        eq(int, load(TIER_CONFIG_HUB, HUB_FILE "fold_devices: gpu\n", NULL, NULL), TIER_ECONFIG));
}

Test(tier_config, a_spoke_file_is_read) {
    cr_assert(eq(int,
                 load(TIER_CONFIG_SPOKE,
                      "name: s1\ndata_dir: /d\nparent: {address: \"[::1]:7400\", name: n}\n"
                      "data: {csv: a.csv, schema: /s.yaml}\ndevice: cuda:1\n"
                      "policy: {accept: all}\n",
                      NULL, NULL),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(str, config.spoke.device, "cuda:1"));
    cr_assert(eq(str, config.spoke.schema, "/s.yaml"));
    cr_assert(eq(int, config.spoke.accept, TIER_ACCEPT_ALL));
    cr_assert(eq(int, config.role, TIER_ROLE_SPOKE));
}

Test(tier_config, an_option_wins_over_the_environment_and_that_over_the_file) {
    char *more[] = {"--parent-address=c:3", NULL};
    char *envp[] = {"CONSILIUM_PARENT_ADDRESS=b:2", "CONSILIUM_PARENT_NAME=b", "OTHER=1", NULL};

    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, more, envp), TIER_OK), "%s", err.text);
    cr_assert(eq(str, config.parent_address, "c:3"));
    cr_assert(eq(str, config.parent_name, "b"));
    cr_assert(eq(str, config.name, "north"));
}

Test(tier_config, a_node_needs_no_file) {
    char *argv[] = {"hub", "--name", "t", "--data-dir", "/d", "--listen", "127.0.0.1:0"};
    char *envp[] = {"CONSILIUM_THREADS=2", NULL};

    cr_assert(eq(int, tier_config_load(TIER_CONFIG_HUB, 7, argv, envp, &config, &problems, &err),
                 TIER_OK));
    cr_assert(eq(u64, config.threads, 2));
    cr_assert(eq(str, config.file, ""));
}

Test(tier_config, the_environment_may_name_the_file) {
    char env[160];
    char *argv[] = {"hub"}, *envp[] = {env, NULL};

    write_file(HUB_FILE);
    snprintf(env, sizeof env, "CONSILIUM_CONFIG=%s", file);
    cr_assert(eq(int, tier_config_load(TIER_CONFIG_HUB, 1, argv, envp, &config, &problems, &err),
                 TIER_OK));
    cr_assert(eq(str, config.name, "north"));
}

Test(tier_config, an_unknown_key_is_refused_with_its_line_and_the_nearest_key) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "tread: 3\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("node.yaml:7: unknown key 'tread'; did you mean 'threads'?"));
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "  adress: 3\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(
        complained("node.yaml:7: unknown key 'parent.adress'; did you mean 'parent.address'?"));
}

Test(tier_config, a_key_of_the_other_program_is_unknown) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "device: cpu\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("node.yaml:7: unknown key 'device'"));
}

Test(tier_config, every_problem_is_reported_at_once_in_the_order_of_lines) {
    cr_assert(eq(int,
                 load(TIER_CONFIG_HUB,
                      "name: 'a b'\nthreads: many\nlisten: nowhere\ntls: true\nfoo: 1\n"
                      "keepalive_ms: \"3000\"\nchildren: all\nretain: [sums]\n",
                      NULL, NULL),
                 TIER_ECONFIG));
    cr_assert(complained("data_dir is missing"));
    cr_assert(complained(":1: name must be letters"));
    cr_assert(complained(":2: threads must be a whole number from 0 to 1024, not 'many'"));
    cr_assert(complained(":3: listen must be an address"));
    cr_assert(complained(":4: tls must be one of: off, on; not 'true'"));
    cr_assert(complained(":5: unknown key 'foo'"));
    cr_assert(complained(":6: keepalive_ms must be written without quotes"));
    cr_assert(complained(":7: children must be a list"));
    cr_assert(complained(":8: retain must be one value, not a list"));
    cr_assert(eq(sz, problems.count, 9));
    for (size_t i = 1; i < problems.count; i++)
        cr_assert(problems.item[i - 1].line <= problems.item[i].line);
    cr_assert_not_null(strstr(err.text, "and 8 more problems"));
}

Test(tier_config, malformed_yaml_is_refused_with_its_line) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, "name: a\nlisten: [\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("node.yaml:3: not valid YAML"));
    cr_assert(eq(int, load(TIER_CONFIG_HUB, "name: a\n\tb: 1\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("node.yaml:2: not valid YAML"));
}

Test(tier_config, a_key_written_twice_is_refused) {
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE "name: other\n", NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("node.yaml:7: key 'name' is written twice, first in line 1"));
}

Test(tier_config, a_missing_file_is_an_error) {
    char *argv[] = {"hub", "--config", "/nonexistent/hub.yaml"};

    cr_assert(eq(int, tier_config_load(TIER_CONFIG_HUB, 3, argv, NULL, &config, &problems, &err),
                 TIER_ECONFIG));
    cr_assert_not_null(strstr(err.text, "/nonexistent/hub.yaml"));
}

Test(tier_config, an_unknown_option_is_a_usage_error_with_the_nearest_one) {
    char *more[] = {"--thread", "2", NULL};
    char *word[] = {"start", NULL};
    char *bare[] = {"--name", NULL};

    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, more, NULL), TIER_EARG));
    cr_assert(complained("unknown option '--thread'; did you mean '--threads'?"));
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, word, NULL), TIER_EARG));
    cr_assert(complained("'start' is not an option"));
    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, bare, NULL), TIER_EARG));
    cr_assert(complained("--name needs a value"));
}

Test(tier_config, a_bad_value_names_the_variable_or_option_it_came_from) {
    char *more[] = {"--threads", "-1", NULL};
    char *envp[] = {"CONSILIUM_TLS=maybe", NULL};

    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, more, envp), TIER_ECONFIG));
    cr_assert(complained("command line: --threads must be a whole number"));
    cr_assert(complained("environment: CONSILIUM_TLS must be one of: off, on"));
}

Test(tier_config, variables_of_others_under_our_prefix_do_no_harm) {
    char *envp[] = {"CONSILIUM_HUB_PORT=tcp://10.0.0.1:7400", "CONSILIUM_DEVICE=cpu",
                    "CONSILIUM_THREDS=3", NULL};

    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, NULL, envp), TIER_OK));
    cr_assert(eq(u64, config.threads, 0));
}

Test(tier_config, keys_that_belong_together_are_refused_apart) {
    static const char base[] = "name: t\ndata_dir: /d\nlisten: 127.0.0.1:1\n";
    static const struct {
        const char *more, *complaint;
    } cases[] = {
        {"parent: {address: \"a:1\"}\n", ":4: parent.address must be set together"},
        {"parent: {name: a}\n", ":4: parent.name must be set together"},
        {"parent: {address: \"a:1\", name: t}\n", "parent.name is the node's own name"},
        {"parent: {address: \"a:1\", name: A}\n", "parent.name must be lower-case"},
        {"role: hub\n", ":4: role is hub, and a hub has a parent"},
        {"role: spoke\n", ":4: role must be top or hub here"},
        {"role: top\nparent: {address: \"a:1\", name: a}\n", ":4: role is top"},
        {"enroll_listen: 127.0.0.1:2\n", ":4: enroll_listen must be set together"},
        {"authority_dir: /a\n", ":4: authority_dir must be set together"},
        {"authority_dir: /a\nenroll_listen: 127.0.0.1:1\n", ":5: enroll_listen must differ"},
        {"validation: {data: /a.csv}\n", ":4: validation.data must be set together"},
        {"validation: {schema: /a.yaml}\n", ":4: validation.schema must be set together"},
        {"merge_plugins: [/a/b.so, c.so]\n", ":4: merge_plugins must hold absolute paths"},
        {"authority_dir: /a\nenroll_listen: 127.0.0.1:2\nparent: {address: \"a:1\", name: a}\n",
         ":5: enroll_listen is for the top only"},
        {"console_listen: 127.0.0.1:1\n", ":4: console_listen is the same as listen"},
    };
    char text[400];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "%s%s", base, cases[i].more);
        cr_assert(eq(int, load(TIER_CONFIG_HUB, text, NULL, NULL), TIER_ECONFIG), "%s", text);
        cr_assert(complained(cases[i].complaint), "%s", cases[i].complaint);
        remove_file();
    }
}

Test(tier_config, every_key_of_both_tables_refuses_what_it_cannot_take) {
    for (int kind = 0; kind < 2; kind++) {
        size_t count;
        const struct tier_keys_item *keys = tier_config_keys((enum tier_config_kind)kind, &count);
        for (size_t i = 0; i < count; i++) {
            const char *dot = strchr(keys[i].path, '.');
            char text[300], complaint[200];
            /* A map is the wrong type for every key. */
            snprintf(text, sizeof text, "%.*s%s%s: {deep: 1}%s\n",
                     dot ? (int)(dot - keys[i].path) : 0, keys[i].path, dot ? ": {" : "",
                     dot ? dot + 1 : keys[i].path, dot ? "}" : "");
            cr_assert(ne(int, load((enum tier_config_kind)kind, text, NULL, NULL), TIER_OK));
            snprintf(complaint, sizeof complaint, ":1: %s must be ", keys[i].path);
            cr_assert(complained(complaint), "%s", complaint);
            remove_file();
            /* A control character is out of bounds for every key. */
            snprintf(text, sizeof text, "%.*s%s%s: \"a\\u0001\"%s\n",
                     dot ? (int)(dot - keys[i].path) : 0, keys[i].path, dot ? ": {" : "",
                     dot ? dot + 1 : keys[i].path, dot ? "}" : "");
            cr_assert(ne(int, load((enum tier_config_kind)kind, text, NULL, NULL), TIER_OK));
            snprintf(complaint, sizeof complaint, ":1: %s must ", keys[i].path);
            cr_assert(complained(complaint), "%s", complaint);
            remove_file();
        }
    }
}

Test(tier_config, names_of_options_and_variables_are_unique) {
    for (int kind = 0; kind < 2; kind++) {
        size_t count;
        const struct tier_keys_item *keys = tier_config_keys((enum tier_config_kind)kind, &count);
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < i; j++) {
                char a[128], b[128];
                cr_assert(ne(str, (char *)tier_config_env_name(keys[i].path, a, sizeof a),
                             (char *)tier_config_env_name(keys[j].path, b, sizeof b)));
                cr_assert(ne(str, (char *)tier_config_option_name(keys[i].path, a, sizeof a),
                             (char *)tier_config_option_name(keys[j].path, b, sizeof b)));
            }
    }
}

Test(tier_config, numbers_are_bounded_on_both_sides) {
    static const char *const bad[] = {"0",   "16385", "-1",   "1.5", "1e3",
                                      "010", "0x10",  ".inf", "+3",  "99999999999999999999"};
    char text[300];

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, HUB_FILE "children_min: %s\n", bad[i]);
        cr_assert(eq(int, load(TIER_CONFIG_HUB, text, NULL, NULL), TIER_ECONFIG), "%s", bad[i]);
        cr_assert(complained(":7: children_min must be a whole number from 1 to 16384"));
        remove_file();
    }
    cr_assert(
        eq(int, load(TIER_CONFIG_HUB, HUB_FILE "children_min: 16384\n", NULL, NULL), TIER_OK));
}

Test(tier_config, addresses_are_checked) {
    static const char *const good[] = {"a.b-c:1", "127.0.0.1:65535", "[::1]:7400"};
    static const char *const bad[] = {"a",     "a:",    ":1",     "a:65536", "a:0",
                                      "a:b:1", "a b:1", "[::1:1", "::1:7",   "a:01"};
    struct tier_keys_item key = {.path = "x", .type = TIER_KEYS_ADDRESS, .size = 64, .min = 1};
    char field[64], why[300];

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        cr_assert(tier_keys_set(&key, field, good[i], why, sizeof why), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert(not(tier_keys_set(&key, field, bad[i], why, sizeof why)), "%s", bad[i]);
}

Test(tier_config, the_printed_configuration_reads_back_as_the_same) {
    char *more[] = {"--threads", "3", "--children", "a-*,b", NULL},
         *argv[] = {"hub", "--config", file};
    char printed[4096] = "", again[4096] = "";

    cr_assert(eq(int, load(TIER_CONFIG_HUB, HUB_FILE, more, NULL), TIER_OK), "%s", err.text);
    FILE *f = fmemopen(printed, sizeof printed, "w");
    tier_config_print(&config, f);
    fclose(f);
    cr_assert_not_null(strstr(printed, "threads: 3  # option\n"));
    cr_assert_not_null(strstr(printed, "  name: \"top\"  # file, line 6\n"));
    cr_assert_not_null(strstr(printed, "retain: sums  # default\n"));
    cr_assert_not_null(strstr(printed, "children: [\"a-*\", \"b\"]  # option\n"));
    remove_file();
    write_file(printed);
    cr_assert(eq(int, tier_config_load(TIER_CONFIG_HUB, 3, argv, NULL, &config, &problems, &err),
                 TIER_OK),
              "%s", err.text);
    f = fmemopen(again, sizeof again, "w");
    tier_config_print(&config, f);
    fclose(f);
    cr_assert_not_null(strstr(again, "children: [\"a-*\", \"b\"]  # file"));
}

Test(tier_config, help_names_every_key_and_needs_no_configuration) {
    char *argv[] = {"spoke", "--help"};
    char help[8192] = "", name[128];
    size_t count;
    const struct tier_keys_item *keys = tier_config_keys(TIER_CONFIG_SPOKE, &count);

    cr_assert(
        eq(int, tier_config_load(TIER_CONFIG_SPOKE, 2, argv, NULL, &config, NULL, &err), TIER_OK));
    cr_assert(eq(int, config.action, TIER_CONFIG_HELP));
    FILE *f = fmemopen(help, sizeof help, "w");
    tier_config_help(TIER_CONFIG_SPOKE, "consilium-spoke", f);
    fclose(f);
    for (size_t i = 0; i < count; i++) {
        cr_assert_not_null(strstr(help, tier_config_option_name(keys[i].path, name, sizeof name)));
        cr_assert_not_null(strstr(help, tier_config_env_name(keys[i].path, name, sizeof name)));
    }
}

Test(tier_config, the_distance_between_words_counts_edits) {
    cr_assert(eq(u32, tier_text_distance("", ""), 0));
    cr_assert(eq(u32, tier_text_distance("", "abc"), 3));
    cr_assert(eq(u32, tier_text_distance("adress", "address"), 1));
    cr_assert(eq(u32, tier_text_distance("naem", "name"), 1));
    cr_assert(eq(u32, tier_text_distance("kitten", "sitting"), 3));
}

#define SPOKE_FILE                                                                                 \
    "name: ward\ndata_dir: state\nparent: {address: \"hub.example:7400\", name: north}\n"          \
    "data: {csv: a.csv, schema: s.yaml}\n"

Test(tier_config, a_spoke_of_several_servers_names_them) {
    cr_assert(eq(int,
                 load(TIER_CONFIG_SPOKE,
                      SPOKE_FILE
                      "team: {listen: \"10.0.0.1:7500\", members: [rack-2, rack-3], identity: t}\n",
                      NULL, NULL),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(sz, config.spoke.team_members.count, 2));
    cr_assert(strcmp(tier_keys_list_item(&config.spoke.team_members, 1), "rack-3") == 0);
}

Test(tier_config, half_a_team_is_refused) {
    load(TIER_CONFIG_SPOKE, SPOKE_FILE "team: {listen: \"10.0.0.1:7500\"}\n", NULL, NULL);
    cr_assert(complained("team.listen must be set together"));
    cr_assert(complained("needs team.identity"));
    remove_file();
    load(TIER_CONFIG_SPOKE, SPOKE_FILE "team: {members: [a, a]}\n", NULL, NULL);
    cr_assert(complained("team.members must be set together"));
    cr_assert(complained("names a server twice"));
}

Test(tier_config, a_member_has_a_leader_and_no_parent) {
    cr_assert(eq(int,
                 load(TIER_CONFIG_MEMBER,
                      "name: rack-2\ndata_dir: state\ndata: {csv: a.csv, schema: s.yaml}\n"
                      "leader: {address: \"10.0.0.1:7500\", name: ward-team}\n",
                      NULL, NULL),
                 TIER_OK),
              "%s", err.text);
    cr_assert(eq(str, config.parent_address, "10.0.0.1:7500"));
    cr_assert(eq(str, config.parent_name, "ward-team"));
    remove_file();
    cr_assert(eq(int, load(TIER_CONFIG_MEMBER, SPOKE_FILE, NULL, NULL), TIER_ECONFIG));
    cr_assert(complained("parent"));
    cr_assert(complained("leader.name"));
}

#define TRAINER_FILE                                                                               \
    "name: ward\ndata_dir: state\nparent: {address: \"hub.example:7400\", name: north}\n"

Test(tier_config, a_spoke_with_a_trainer_reads_no_data) {
    cr_assert(
        eq(int,
           load(TIER_CONFIG_SPOKE,
                TRAINER_FILE "trainer: {dir: /run/ward, contract: heart, wait_s: 5}\n", NULL, NULL),
           TIER_OK),
        "%s", err.text);
    cr_assert(eq(str, config.spoke.trainer_dir, "/run/ward"));
    cr_assert(eq(str, config.spoke.trainer_contract, "heart"));
    cr_assert(eq(u64, config.spoke.trainer_wait_s, 5));
    cr_assert(eq(str, config.spoke.csv, ""));
    remove_file();
    load(TIER_CONFIG_SPOKE, TRAINER_FILE, NULL, NULL);
    cr_assert(complained("data.csv is missing"));
    cr_assert(complained("data.schema is missing"));
}

Test(tier_config, a_trainer_beside_what_it_replaces_is_refused) {
    load(TIER_CONFIG_SPOKE, SPOKE_FILE "trainer: {dir: /run/ward, contract: heart}\n", NULL, NULL);
    cr_assert(complained("data.csv is not read where a trainer trains"));
    remove_file();
    load(TIER_CONFIG_SPOKE, TRAINER_FILE "trainer: {dir: /run/ward}\n", NULL, NULL);
    cr_assert(complained("trainer.dir must be set together"));
    remove_file();
    load(TIER_CONFIG_SPOKE,
         TRAINER_FILE "trainer: {dir: /run/0123456789012345678901234567890123456789012345678901234"
                      "56789012345678901234567890123456789012345, contract: heart}\n",
         NULL, NULL);
    cr_assert(complained("trainer.dir is too long for a socket"));
    remove_file();
    load(TIER_CONFIG_SPOKE,
         TRAINER_FILE "trainer: {dir: /run/ward, contract: heart}\n"
                      "team: {listen: \"10.0.0.1:7500\", members: [a], identity: t}\n",
         NULL, NULL);
    cr_assert(complained("team.listen is of no use where a trainer trains"));
    remove_file();
    load(TIER_CONFIG_SPOKE,
         TRAINER_FILE "trainer: {dir: /run/ward, contract: heart}\nstorage: {encrypt: true}\n",
         NULL, NULL);
    cr_assert(complained("storage.encrypt cannot be read by a trainer of your own"));
    remove_file();
    load(TIER_CONFIG_SPOKE,
         SPOKE_FILE "team: {listen: \"10.0.0.1:7500\", members: [a], identity: t}\n"
                    "storage: {encrypt: true}\n",
         NULL, NULL);
    cr_assert(complained("storage.encrypt is not kept by the other servers of a team"));
}

#define SPENDING_FILE                                                                              \
    "name: site-1\ndata_dir: state\nparent: {address: \"hub:9443\", name: north}\n"                \
    "data: {csv: a.csv, schema: a.yaml}\n"

Test(tier_config, what_may_be_spent_of_privacy_has_no_end_unless_it_is_given_one) {
    cr_assert(eq(int, load(TIER_CONFIG_SPOKE, SPENDING_FILE, NULL, NULL), TIER_OK), "%s", err.text);
    cr_expect(eq(dbl, config.spoke.epsilon_max, 0));
    cr_expect(eq(dbl, config.spoke.delta, 1e-5));
    char *const options[] = {"--policy-epsilon-max", "3.5", "--policy-delta", "0.001", NULL};
    cr_assert(eq(int, load(TIER_CONFIG_SPOKE, SPENDING_FILE, options, NULL), TIER_OK), "%s",
              err.text);
    cr_expect(eq(dbl, config.spoke.epsilon_max, 3.5));
    cr_expect(eq(dbl, config.spoke.delta, 0.001));
    cr_expect(eq(int,
                 load(TIER_CONFIG_SPOKE, SPENDING_FILE "policy: {epsilon_max: 201.0, delta: 0.9}\n",
                      NULL, NULL),
                 TIER_ECONFIG));
    cr_expect(complained("policy.epsilon_max"));
    cr_expect(complained("policy.delta"));
}
