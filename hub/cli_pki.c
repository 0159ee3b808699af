/* SPDX-License-Identifier: Apache-2.0 */
/* Who may be a node: the authority's directory, tokens, certificates. */
#include "hub/cli.h"
#include "tier/authority.h"
#include "tier/cert.h"
#include "tier/enroll.h"
#include "tier/renewal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RENEWED_BYTES_MAX 65536
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static int64_t now_s(void) {
    return tier_wall_ms() / 1000;
}

int cli_pki_init(int argc, char **argv) {
    const char *dir = NULL, *name = NULL;
    int64_t days = 3650;
    const struct cli_option options[] = {
        {"dir", CLI_TEXT, &dir, "DIR", "where to make it", NULL, true, 0, 0},
        {"name", CLI_TEXT, &name, "AUTHORITY", "its name, in every certificate", NULL, true, 0, 0},
        {"days", CLI_NUMBER, &days, "N", "how long its own certificate is good", NULL, false, 1,
         TIER_CERT_DAYS_MAX},
    };
    const struct cli_usage usage = {"pki init", "",
                                    "Makes the authority that certifies the nodes of a tree: its "
                                    "key never leaves DIR"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    if (tier_authority_init(dir, name, (int)days, now_s(), &err) != TIER_OK)
        return cli_failed(&err);
    return CLI_OK;
}

int cli_pki_set(int argc, char **argv) {
    const char *dir = NULL;
    int64_t ttl_s = 0;
    const struct cli_option options[] = {
        {"dir", CLI_TEXT, &dir, "AUTHORITY_DIR", "the authority's directory", NULL, true, 0, 0},
        {"cert-ttl", CLI_NUMBER, &ttl_s, "SECONDS",
         "how long certificates given from now on are good: 86400 is a day", NULL, true,
         TIER_CERT_TTL_MIN_S, TIER_CERT_TTL_MAX_S},
    };
    const struct cli_usage usage = {"pki set", "",
                                    "Sets how long an authority's certificates are good, a year at "
                                    "first. Nodes ask for the next when two thirds are over, so "
                                    "what a hub may miss is the last third"};
    struct tier_authority *a = NULL;
    struct tier_err err = {0};
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(tier_authority_open(dir, &a, &err));
    TIER_TRY_OUT(tier_authority_set_cert_ttl(a, ttl_s, &err));
out:
    tier_authority_close(a);
    return st == TIER_OK ? CLI_OK : cli_failed(&err);
}

int cli_pki_unseal(int argc, char **argv) {
    const char *dir = NULL, *reason = NULL, *pseudonym;
    struct tier_authority *a = NULL;
    const struct cli_option options[] = {
        {"dir", CLI_TEXT, &dir, "DIR", "the authority's folder", NULL, true, 0, 0},
        {"reason", CLI_TEXT, &reason, "TEXT", "why: it is kept in the folder", NULL, true, 0, 0},
    };
    const struct cli_usage usage = {
        "pki unseal", "PSEUDONYM",
        "Tells which spoke the authority has certified under a pseudonym, as by a court's order. "
        "The folder keeps when that was asked, and why"};
    char child[TIER_NAME_LEN_MAX + 1];
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &pseudonym, 1, 1);

    if (code != CLI_GO)
        return code;
    enum tier_status st = tier_authority_open(dir, &a, &err);
    if (st == TIER_OK)
        st = tier_authority_unseal(a, pseudonym, reason, tier_wall_ms() / 1000, child, &err);
    tier_authority_close(a);
    if (st != TIER_OK)
        return cli_failed(&err);
    puts(child);
    return cli_done();
}

int cli_key_protect(int argc, char **argv) {
    const char *data_dir = NULL, *dir = NULL, *file = NULL;
    const struct cli_option options[] = {
        {"data-dir", CLI_TEXT, &data_dir, "DIR", "a node's or person's data directory", NULL, false,
         0, 0},
        {"dir", CLI_TEXT, &dir, "AUTHORITY_DIR", "or the authority's directory", NULL, false, 0, 0},
        {"passphrase-file", CLI_TEXT, &file, "FILE",
         "with the new passphrase in its first line; where it is not given, the one that "
         "CONSILIUM_KEY_PASSPHRASE_FILE names",
         NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "key protect", "",
        "Encrypts the private key in a directory with a passphrase. A key that is encrypted is "
        "opened with the passphrase of CONSILIUM_KEY_PASSPHRASE_FILE first"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    if ((data_dir != NULL) == (dir != NULL)) {
        cli_error("give either --data-dir or --dir");
        return CLI_USAGE;
    }
    enum tier_status st = data_dir ? tier_identity_protect(data_dir, file, &err)
                                   : tier_authority_protect(dir, file, &err);
    return st == TIER_OK ? CLI_OK : cli_failed(&err);
}

int cli_token_create(int argc, char **argv) {
    const char *dir = NULL, *name = NULL, *role_text = NULL;
    int64_t ttl = 86400;
    bool replace = false;
    const struct cli_option options[] = {
        {"dir", CLI_TEXT, &dir, "AUTHORITY_DIR", "the authority's directory", NULL, true, 0, 0},
        {"name", CLI_TEXT, &name, "NODE", "the name it is for", NULL, true, 0, 0},
        {"role", CLI_TEXT, &role_text, "ROLE", TIER_ROLE_TEXTS, NULL, true, 0, 0},
        {"ttl", CLI_NUMBER, &ttl, "SECONDS", "how long it may be redeemed", NULL, false, 1,
         TIER_TOKEN_TTL_MAX_S},
        {"replace", CLI_FLAG, &replace, NULL,
         "for a name that is certified already: revokes what it has when redeemed", NULL, false, 0,
         0},
    };
    const struct cli_usage usage = {"token create", "",
                                    "Makes a one-time token, and prints it alone"};
    struct tier_authority *a = NULL;
    struct tier_err err = {0};
    enum tier_role role;
    char token[TIER_TOKEN_SIZE];
    enum tier_status st;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    TIER_TRY_OUT(tier_role_parse(role_text, &role, &err));
    TIER_TRY_OUT(tier_authority_open(dir, &a, &err));
    TIER_TRY_OUT(tier_authority_token_create(a, name, role, ttl, replace, now_s(), token, &err));
    puts(token);
    explicit_bzero(token, sizeof token);
out:
    tier_authority_close(a);
    return st == TIER_OK ? cli_done() : cli_failed(&err);
}

static enum tier_status revoke_here(const char *dir, const char *name, struct tier_err *err) {
    struct tier_authority *a = NULL;
    enum tier_status st;

    TIER_TRY_OUT(tier_authority_open(dir, &a, err));
    TIER_TRY_OUT(tier_authority_revoke(a, name, now_s(), err));
    printf("%s is revoked\n", name);
out:
    tier_authority_close(a);
    return st;
}

int cli_revoke(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *dir = NULL, *name = NULL;
    struct cli_option options[] = {
        CLI_CONNECTION_OPTIONS(c),
        {"dir", CLI_TEXT, &dir, "AUTHORITY_DIR",
         "the authority's directory, for whoever has it: done at once", NULL, false, 0, 0},
        {"name", CLI_TEXT, &name, "NAME", "a node's name, or a person's", NULL, true, 0, 0},
    };
    const struct cli_usage usage = {
        "revoke", "",
        "Revokes every valid certificate and unused token of a name, in --dir or through --hub, "
        "the one with the authority beside it (authority_dir), where two operators must ask for "
        "it. That hub tells the tree within seconds, and every hub ends the calls of whoever is "
        "revoked"};
    struct tier_err err = {0};

    options[0].required = false;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);
    if (code != CLI_GO)
        return code;
    if (!dir && !c.hub) {
        cli_error("give either --dir, the authority's directory, or --hub");
        return CLI_USAGE;
    }
    if (!tier_name_valid(name)) {
        cli_error("'%s' is not a name", name);
        return CLI_USAGE;
    }
    enum tier_status st =
        dir ? revoke_here(dir, name, &err) : cli_approve(&c, TIER_CONSOLE_REVOKE, name, &err);
    return st == TIER_OK ? cli_done() : cli_failed(&err);
}

/* ---- renew ---- */

struct renewed {
    char *cert_pem, *ca_pem;
};

static enum tier_status take_renewed(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct renewed *r = arg;
    size_t n = tier_rpc_message_bytes(m);
    const uint8_t *bytes = tier_rpc_message_flat(m, RENEWED_BYTES_MAX);

    if (r->cert_pem)
        return tier_fail(err, TIER_EPROTO, "a second answer to a renewal");
    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "an answer of %zu bytes to a renewal", n);
    return tier_wire_enroll_reply(bytes, n, &r->cert_pem, &r->ca_pem, err);
}

static enum tier_status renew(const struct cli_connection *c, struct tier_err *err) {
    struct tier_renew_request m = {0};
    struct renewed r = {0};
    struct cli_hub *hub = NULL;
    enum tier_status st;

    if (c->insecure)
        return tier_fail(err, TIER_EARG, "a certificate is renewed over TLS only");
    TIER_TRY_OUT(cli_hub_open(c, &hub, err));
    TIER_TRY_OUT(tier_renewal_request(cli_hub_node(hub), &m, err));
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_RENEW, tier_wire_renew_request_bytes(&m),
                             CLI_DEADLINE_MS, take_renewed, &r, err));
    if (!r.cert_pem) {
        st = tier_fail(err, TIER_EPROTO, "the hub answered nothing");
        goto out;
    }
    TIER_TRY_OUT(tier_identity_store(c->identity, r.cert_pem, r.ca_pem, now_s(), err));
out:
    free(r.cert_pem);
    free(r.ca_pem);
    tier_wire_renew_request_release(&m);
    cli_hub_close(hub);
    return st;
}

int cli_renew(int argc, char **argv) {
    struct cli_connection c = {0};
    const struct cli_option options[] = {CLI_CONNECTION_OPTIONS(c)};
    const struct cli_usage usage = {
        "renew", "",
        "Gets the next certificate for the one in --identity, in the second half of its life, from "
        "any hub (--hub is where children attend). Hubs and spokes do this by themselves"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    return renew(&c, &err) == TIER_OK ? CLI_OK : cli_failed(&err);
}

/* ---- enroll ---- */

struct enrollment {
    const char *address, *token, *token_file, *name, *role_text, *data_dir, *authority_dir;
    bool local, replace;
    int64_t timeout_s;
    enum tier_role role;
};

/* The first node has no enrollment service to ask: it goes to the authority's directory itself. */
static enum tier_status enroll_locally(const struct enrollment *e, struct tier_err *err) {
    struct tier_authority *a = NULL;

    TIER_TRY(tier_authority_open(e->authority_dir, &a, err));
    enum tier_status st =
        tier_enroll_local(a, e->name, e->role, e->data_dir, e->replace, now_s(), err);
    tier_authority_close(a);
    return st;
}

static enum tier_status read_token(const char *path, char token[TIER_TOKEN_SIZE + 1],
                                   struct tier_err *err) {
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return tier_fail_errno(err, errno == ENOENT ? TIER_ENOTFOUND : TIER_EIO, "cannot read %s",
                               path);
    ssize_t k = 0;
    while (n < TIER_TOKEN_SIZE && (k = read(fd, token + n, TIER_TOKEN_SIZE - n)) > 0)
        n += (size_t)k;
    close(fd);
    if (k < 0)
        return tier_fail_errno(err, TIER_EIO, "cannot read %s", path);
    token[n] = '\0';
    token[strcspn(token, "\r\n")] = '\0';
    return TIER_OK;
}

static enum tier_status enroll(struct enrollment *e, struct tier_err *err) {
    char from_file[TIER_TOKEN_SIZE + 1] = "";
    const char *token = e->token;

    TIER_TRY(tier_role_parse(e->role_text, &e->role, err));
    if (e->local)
        return enroll_locally(e, err);
    if (e->token_file) {
        TIER_TRY(read_token(e->token_file, from_file, err));
        token = from_file;
    }
    enum tier_status st = tier_enroll(e->address, token, e->name, e->role, e->data_dir,
                                      (uint64_t)e->timeout_s * 1000, err);
    explicit_bzero(from_file, sizeof from_file);
    return st;
}

int cli_enroll(int argc, char **argv) {
    struct enrollment e = {.timeout_s = 30};
    const struct cli_option options[] = {
        {"name", CLI_TEXT, &e.name, "NODE", "the node's name, as in its token", NULL, true, 0, 0},
        {"role", CLI_TEXT, &e.role_text, "ROLE", TIER_ROLE_TEXTS, NULL, true, 0, 0},
        {"data-dir", CLI_TEXT, &e.data_dir, "DIR", "where the node keeps its key", NULL, true, 0,
         0},
        {"address", CLI_TEXT, &e.address, "HOST:PORT", "the top's enrollment service", NULL, false,
         0, 0},
        {"token", CLI_TEXT, &e.token, "TOKEN", "the token itself, which others may see in ps", NULL,
         false, 0, 0},
        {"token-file", CLI_TEXT, &e.token_file, "FILE", "a file that holds the token", NULL, false,
         0, 0},
        {"timeout", CLI_NUMBER, &e.timeout_s, "SECONDS", "how long to try", NULL, false, 1, 3600},
        {"local", CLI_FLAG, &e.local, NULL, "for the first node: redeem here, in --authority-dir",
         NULL, false, 0, 0},
        {"authority-dir", CLI_TEXT, &e.authority_dir, "DIR", "with --local", NULL, false, 0, 0},
        {"replace", CLI_FLAG, &e.replace, NULL, "with --local: for a name that is certified", NULL,
         false, 0, 0},
    };
    const struct cli_usage usage = {
        "enroll", "", "Makes a key in DIR, redeems a token and keeps the certificate"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, NULL, 0, 0);

    if (code != CLI_GO)
        return code;
    bool remote =
        e.address && (e.token != NULL) != (e.token_file != NULL) && !e.authority_dir && !e.replace;
    bool local = e.authority_dir && !e.address && !e.token && !e.token_file;
    if (e.local ? !local : !remote) {
        cli_error("give either --address with --token or --token-file, or --local with "
                  "--authority-dir");
        return CLI_USAGE;
    }
    return enroll(&e, &err) == TIER_OK ? CLI_OK : cli_failed(&err);
}
