/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/overlap.h"
#include "spoke/data.h"
#include "spoke/steward.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DOMAIN "CONSILIUM-OVERLAP-V02-with-P256_XMD:SHA-256_SSWU_RO_"
#define SECRET_HEAD "consilium overlap secret 1\n"
#define SECRET_BYTES (sizeof SECRET_HEAD - 1 + TIER_PSI_SECRET_BYTES)

/* ---- the secret ------------------------------------------------------------------------------ */

enum tier_status spoke_overlap_secret(const char *path, struct tier_psi_secret *out,
                                      struct tier_err *err) {
    uint8_t text[SECRET_BYTES + 1];
    struct tier_psi *blind = NULL;
    struct tier_psi_secret secret;
    struct stat info;
    size_t n = 0;
    ssize_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    enum tier_status st = TIER_OK;

    if (fd < 0 || fstat(fd, &info) != 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    else if (info.st_mode & (S_IRWXG | S_IRWXO))
        st = tier_fail(err, TIER_EIDENTITY, "%s may be read by others: chmod 600 it", path);
    while (st == TIER_OK && n < sizeof text && (got = read(fd, text + n, sizeof text - n)) > 0)
        n += (size_t)got;
    if (st == TIER_OK && got < 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    if (st == TIER_OK)
        st = tier_psi_new(&blind, err);
    if (st == TIER_OK) {
        bool whole = n == SECRET_BYTES && memcmp(text, SECRET_HEAD, sizeof SECRET_HEAD - 1) == 0;
        if (whole)
            memcpy(secret.b, text + sizeof SECRET_HEAD - 1, sizeof secret.b);
        if (whole && tier_psi_secret_fits(blind, &secret))
            *out = secret;
        else
            st = tier_fail(err, TIER_EIDENTITY, "%s is no secret of `overlap begin`", path);
    }
    if (fd >= 0)
        close(fd);
    tier_psi_free(blind);
    OPENSSL_cleanse(text, sizeof text);
    OPENSSL_cleanse(&secret, sizeof secret);
    return st;
}

/* A new file of the user alone; NULL, with *err. */
static FILE *create(const char *path, struct tier_err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

    if (!f)
        tier_fail_errno(err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO,
                        "%s: nothing that exists is written over", path);
    return f;
}

static enum tier_status finish(FILE *f, const char *path, enum tier_status st,
                               struct tier_err *err) {
    bool whole = fflush(f) == 0 && fsync(fileno(f)) == 0;

    whole = fclose(f) == 0 && whole;
    if (st == TIER_OK && !whole)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be written", path);
    if (st != TIER_OK)
        unlink(path);
    return st;
}

static enum tier_status write_secret(const char *path, const struct tier_psi_secret *secret,
                                     struct tier_err *err) {
    FILE *f = create(path, err);

    if (!f)
        return err->status;
    fwrite(SECRET_HEAD, 1, sizeof SECRET_HEAD - 1, f);
    fwrite(secret->b, 1, sizeof secret->b, f);
    return finish(f, path, TIER_OK, err);
}

/* ---- the steps ------------------------------------------------------------------------------- */

static enum tier_status hash_part(const struct spoke_data *data, struct tier_psi *blind,
                                  enum spoke_part from, struct tier_psi_point **points,
                                  size_t *count, struct tier_err *err) {
    size_t rows = spoke_data_rows(data, from);

    if (rows > TIER_OVERLAP_IDS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%zu rows, at most %u are taken", rows,
                         TIER_OVERLAP_IDS_MAX);
    *points = calloc(rows + 1, sizeof **points);
    if (!*points)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu patients", rows);
    for (size_t i = 0; i < rows; i++) {
        const char *id = spoke_data_id(data, from, i);
        if (!id)
            return tier_fail(err, TIER_EDATA,
                             "the schema has no column of type id: nothing tells patients apart");
        TIER_TRY(tier_psi_hash(blind, DOMAIN, id, strlen(id), &(*points)[i], err));
        ++*count;
    }
    return TIER_OK;
}

enum tier_status spoke_overlap_begin(const struct spoke_overlap *what,
                                     const struct tier_psi_secret *secret, struct tier_overlap *out,
                                     struct tier_err *err) {
    static const enum spoke_part from[TIER_OVERLAP_PARTS] = {SPOKE_TRAIN, SPOKE_VAL, SPOKE_TEST};
    const struct spoke_data_options o = {.on_demand = true,
                                         .unlabelled = true,
                                         .identified = true,
                                         .fold_set = what->fold_set,
                                         .fold = what->fold};
    struct spoke_data *data = NULL;
    struct tier_psi *blind = NULL;
    struct tier_overlap made = {0};
    enum tier_status st;

    TIER_TRY_OUT(spoke_data_open(what->schema, what->data, &o, &data, err));
    TIER_TRY_OUT(tier_psi_new(&blind, err));
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        TIER_TRY_OUT(hash_part(data, blind, from[p], &made.points[p], &made.count[p], err));
    TIER_TRY_OUT(tier_overlap_blind(&made, secret, err));
    *out = made;
    made = (struct tier_overlap){0};
out:
    tier_overlap_release(&made);
    tier_psi_free(blind);
    spoke_data_free(data);
    return st;
}

static enum tier_status answer(const char *path, const struct tier_psi_secret *secret,
                               struct tier_overlap *out, struct tier_err *err) {
    FILE *f = fopen(path, "re");

    if (!f)
        return tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    enum tier_status st = tier_overlap_read(f, path, out, err);
    fclose(f);
    if (st != TIER_OK)
        return st;
    st = tier_overlap_blind(out, secret, err);
    if (st == TIER_ECONFLICT)
        st = tier_fail(err, st,
                       "%s was blinded with this secret already: it is the other sites' "
                       "to answer",
                       path);
    return st;
}

/* ---- the command ----------------------------------------------------------------------------- */

static const char usage[] =
    "Usage: consilium-spoke overlap begin  --data-dir DIR --secret FILE --out FILE [--fold N] "
    "SCHEMA DATA\n"
    "       consilium-spoke overlap answer --data-dir DIR --secret FILE --out FILE FILE_OF_A_SITE\n"
    "\n"
    "Counts the patients that sites share without telling anybody who they are. Each site begins,\n"
    "which draws a secret into a new file and writes its patients, blinded with it, by part of "
    "the\n"
    "split. Each site's file is then answered by all others, one after another, each with its own\n"
    "secret. `consilium overlap` counts what the files have in common that all have blinded. "
    "Files\n"
    "may lie anywhere meanwhile; a secret leaves nobody, and is deleted when the numbers are "
    "there.\n"
    "Ids must mean the same at all sites. DIR is the spoke's data_dir (or CONSILIUM_DATA_DIR): "
    "its\n"
    "access log has a line of each file.\n";

struct command {
    struct spoke_overlap what;
    const char *data_dir, *secret, *out;
    bool begins;
};

/* False: not as the usage says. */
static bool read_options(int argc, char **argv, struct command *c) {
    static const struct option longs[] = {{"data-dir", required_argument, NULL, 'd'},
                                          {"secret", required_argument, NULL, 's'},
                                          {"out", required_argument, NULL, 'o'},
                                          {"fold", required_argument, NULL, 'f'},
                                          {NULL, 0, NULL, 0}};
    char *end = NULL;
    int option;

    c->data_dir = getenv("CONSILIUM_DATA_DIR");
    c->begins = strcmp(argv[0], "begin") == 0;
    if (!c->begins && strcmp(argv[0], "answer") != 0)
        return false;
    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        long fold = option == 'f' ? strtol(optarg, &end, 10) : 0;
        if (option == 'd')
            c->data_dir = optarg;
        else if (option == 's')
            c->secret = optarg;
        else if (option == 'o')
            c->out = optarg;
        else if (option != 'f' || !c->begins || end == optarg || *end || fold < 0 || fold > 999)
            return false;
        c->what.fold_set = c->what.fold_set || option == 'f';
        c->what.fold = option == 'f' ? (uint32_t)fold : c->what.fold;
    }
    return c->data_dir && c->secret && c->out && argc - optind == (c->begins ? 2 : 1);
}

/* The line of the access log, which is there before the file is. */
static enum tier_status note(const struct command *c, const char *text, size_t bytes,
                             const struct tier_overlap *o, struct tier_err *err) {
    struct spoke_decision d = {.deed = SPOKE_OVERLAP};

    tier_hash_data(text, bytes, &d.run);
    snprintf(d.reason, sizeof d.reason,
             "%s: %zu patients to train on, %zu to validate, %zu to test",
             c->begins ? "this site's" : "another site's, answered", o->count[0], o->count[1],
             o->count[2]);
    return spoke_steward_leave(c->data_dir, &d, err);
}

static enum tier_status run(const struct command *c, char **argv, struct tier_psi_secret *secret,
                            struct tier_overlap *made, struct tier_err *err) {
    struct tier_psi *blind = NULL;
    char *text = NULL;
    size_t bytes = 0;
    FILE *memory = NULL, *f = NULL;
    enum tier_status st;

    if (c->begins) {
        TIER_TRY_OUT(tier_psi_new(&blind, err));
        TIER_TRY_OUT(tier_psi_draw(blind, secret, err));
        TIER_TRY_OUT(spoke_overlap_begin(&c->what, secret, made, err));
    } else {
        TIER_TRY_OUT(spoke_overlap_secret(c->secret, secret, err));
        TIER_TRY_OUT(answer(argv[0], secret, made, err));
    }
    if (!(memory = open_memstream(&text, &bytes))) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for a file of points");
        goto out;
    }
    TIER_TRY_OUT(tier_overlap_write(made, memory, err));
    if (!(f = create(c->out, err))) {
        st = err->status;
        goto out;
    }
    st = note(c, text, bytes, made, err);
    if (st == TIER_OK && c->begins)
        st = write_secret(c->secret, secret, err);
    if (st == TIER_OK)
        fwrite(text, 1, bytes, f);
    st = finish(f, c->out, st, err);
out:
    if (memory)
        fclose(memory);
    free(text);
    tier_psi_free(blind);
    return st;
}

int spoke_overlap_main(int argc, char **argv, FILE *out, FILE *errors) {
    struct command c = {0};
    struct tier_overlap made = {0};
    struct tier_psi_secret secret = {{0}};
    struct tier_err err = {0};

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, out);
        return 0;
    }
    if (argc < 2 || !read_options(argc - 1, argv + 1, &c)) {
        fputs(usage, errors);
        return 2;
    }
    argv += 1 + optind;
    if (c.begins) {
        c.what.schema = argv[0];
        c.what.data = argv[1];
    }
    enum tier_status st = run(&c, argv, &secret, &made, &err);
    if (st == TIER_OK)
        fprintf(out, "%s: %zu patients to train on, %zu to validate, %zu to test, blinded by %zu\n",
                c.out, made.count[0], made.count[1], made.count[2], made.key_count);
    else
        fprintf(errors, "consilium-spoke: %s\n", err.text);
    OPENSSL_cleanse(&secret, sizeof secret);
    tier_overlap_release(&made);
    return st == TIER_OK ? 0 : 1;
}
