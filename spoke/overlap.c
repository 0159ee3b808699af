/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/overlap.h"
#include "spoke/data.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES_MAX 4096
#define KEY_TEXT "consilium overlap key"
#define ID_TEXT "consilium overlap id"

struct key {
    uint8_t bytes[KEY_BYTES_MAX + 1];
    size_t n;
};

static enum tier_status read_key(const char *path, struct key *key, struct tier_err *err) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    enum tier_status st = TIER_OK;

    if (fd < 0 || fstat(fd, &info) != 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    else if (info.st_mode & (S_IRWXG | S_IRWXO))
        st = tier_fail(err, TIER_EIDENTITY, "%s may be read by others: chmod 600 it", path);
    while (st == TIER_OK && key->n < sizeof key->bytes &&
           (n = read(fd, key->bytes + key->n, sizeof key->bytes - key->n)) > 0)
        key->n += (size_t)n;
    if (st == TIER_OK && n < 0)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be read", path);
    else if (st == TIER_OK && (key->n < SPOKE_OVERLAP_KEY_BYTES_MIN || key->n > KEY_BYTES_MAX))
        st = tier_fail(err, TIER_EIDENTITY,
                       "%s holds %zu bytes: a key has %d to %d, as head -c 32 /dev/urandom gives",
                       path, key->n, SPOKE_OVERLAP_KEY_BYTES_MIN, KEY_BYTES_MAX);
    if (fd >= 0)
        close(fd);
    return st;
}

/* Over what it is for, a zero, and the text. */
static enum tier_status keyed(const struct key *key, const char *what, const char *text,
                              uint8_t mac[EVP_MAX_MD_SIZE], struct tier_err *err) {
    size_t head = strlen(what) + 1, n = head + strlen(text);
    unsigned bytes = 0;
    uint8_t *message = malloc(n + 1);

    if (!message)
        return tier_fail(err, TIER_ENOMEM, "no memory for a keyed hash");
    memcpy(message, what, head);
    memcpy(message + head, text, n - head);
    bool good = HMAC(EVP_sha256(), key->bytes, (int)key->n, message, n, mac, &bytes) != NULL &&
                bytes == TIER_HASH_BYTES;
    free(message);
    return good ? TIER_OK : tier_fail(err, TIER_EINTERNAL, "libcrypto has no HMAC-SHA-256");
}

static enum tier_status name_part(const struct spoke_data *data, const struct key *key,
                                  enum spoke_part from, struct tier_overlap_id **ids, size_t *count,
                                  struct tier_err *err) {
    size_t rows = spoke_data_rows(data, from);
    uint8_t mac[EVP_MAX_MD_SIZE];

    if (rows > TIER_OVERLAP_IDS_MAX)
        return tier_fail(err, TIER_ELIMIT, "%zu rows, at most %u are taken", rows,
                         TIER_OVERLAP_IDS_MAX);
    *ids = calloc(rows + 1, sizeof **ids);
    if (!*ids)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu patients", rows);
    for (size_t i = 0; i < rows; i++) {
        const char *id = spoke_data_id(data, from, i);
        if (!id)
            return tier_fail(err, TIER_EDATA,
                             "the schema has no column of type id: nothing tells patients apart");
        TIER_TRY(keyed(key, ID_TEXT, id, mac, err));
        memcpy((*ids)[i].b, mac, TIER_OVERLAP_ID_BYTES);
        ++*count;
    }
    return TIER_OK;
}

enum tier_status spoke_overlap(const struct spoke_overlap *what, struct tier_overlap *out,
                               struct tier_err *err) {
    static const enum spoke_part from[TIER_OVERLAP_PARTS] = {SPOKE_TRAIN, SPOKE_VAL, SPOKE_TEST};
    const struct spoke_data_options o = {.on_demand = true,
                                         .unlabelled = true,
                                         .identified = true,
                                         .fold_set = what->fold_set,
                                         .fold = what->fold};
    struct spoke_data *data = NULL;
    struct tier_overlap made = {0};
    uint8_t mac[EVP_MAX_MD_SIZE];
    struct key key = {.n = 0};
    enum tier_status st;

    TIER_TRY_OUT(read_key(what->key_file, &key, err));
    TIER_TRY_OUT(spoke_data_open(what->schema, what->data, &o, &data, err));
    TIER_TRY_OUT(keyed(&key, KEY_TEXT, "", mac, err));
    memcpy(made.key.b, mac, TIER_HASH_BYTES);
    for (size_t p = 0; p < TIER_OVERLAP_PARTS; p++)
        TIER_TRY_OUT(name_part(data, &key, from[p], &made.ids[p], &made.count[p], err));
    tier_overlap_tidy(&made);
    *out = made;
    made = (struct tier_overlap){0};
out:
    OPENSSL_cleanse(&key, sizeof key);
    tier_overlap_release(&made);
    spoke_data_free(data);
    return st;
}

/* ---- the command ----------------------------------------------------------------------------- */

static const char usage[] =
    "Usage: consilium-spoke overlap --key FILE --out FILE [--fold N] SCHEMA DATA\n\n"
    "Writes the patients of a site as keyed hashes of their ids, by part of the split, into a new\n"
    "file. `consilium overlap` counts what such files of several sites have in common, by which "
    "sites\n"
    "show each other that nobody trains on another's test patients. The key is a file of at least\n"
    "32 bytes that all of these sites have and no hub has; ids must mean the same at all of "
    "them.\n";

static enum tier_status write_file(const char *path, const struct tier_overlap *o,
                                   struct tier_err *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

    if (!f)
        return tier_fail_errno(err, errno == EEXIST ? TIER_ECONFLICT : TIER_EIO,
                               "%s: nothing that exists is written over", path);
    enum tier_status st = tier_overlap_write(o, f, err);
    if (fclose(f) != 0 && st == TIER_OK)
        st = tier_fail_errno(err, TIER_EIO, "%s cannot be written", path);
    if (st != TIER_OK)
        unlink(path);
    return st;
}

int spoke_overlap_main(int argc, char **argv, FILE *out, FILE *errors) {
    static const struct option longs[] = {{"key", required_argument, NULL, 'k'},
                                          {"out", required_argument, NULL, 'o'},
                                          {"fold", required_argument, NULL, 'f'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct spoke_overlap w = {0};
    struct tier_overlap made = {0};
    struct tier_err err = {0};
    const char *path = NULL;
    char *end = NULL;
    bool good = true;
    int option;

    optind = 1;
    opterr = 0;
    while (good && (option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(usage, out);
            return 0;
        }
        long fold = option == 'f' ? strtol(optarg, &end, 10) : 0;
        if (option == 'k')
            w.key_file = optarg;
        else if (option == 'o')
            path = optarg;
        else
            good = option == 'f' && end != optarg && !*end && fold >= 0 && fold <= 999;
        w.fold_set = w.fold_set || option == 'f';
        w.fold = option == 'f' ? (uint32_t)fold : w.fold;
    }
    if (!good || argc - optind != 2 || !w.key_file || !path) {
        fputs(usage, errors);
        return 2;
    }
    w.schema = argv[optind];
    w.data = argv[optind + 1];
    enum tier_status st = spoke_overlap(&w, &made, &err);
    if (st == TIER_OK)
        st = write_file(path, &made, &err);
    if (st == TIER_OK)
        fprintf(out, "%s: %zu patients to train on, %zu to validate, %zu to test\n", path,
                made.count[0], made.count[1], made.count[2]);
    else
        fprintf(errors, "consilium-spoke: %s\n", err.text);
    tier_overlap_release(&made);
    return st == TIER_OK ? 0 : 1;
}
