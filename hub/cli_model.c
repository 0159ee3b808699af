/* SPDX-License-Identifier: Apache-2.0 */
#include "hub/cli.h"
#include "tier/card.h"
#include "tier/content.h"
#include "tier/model.h"
#include "tier/task.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- pull ---- */

/* A file on its way: written beside its place, hashed, and moved there when it is whole. */
struct pull {
    const char *path;
    char *real;    /* where a link leads; owned */
    bool in_place; /* what is there is no file */
    char part[4200];
    int fd;
    uint64_t offset, total;
    struct tier_hash id; /* as the first piece says */
    struct tier_hasher *hasher;
    bool begun;
};

static enum tier_status pull_write(struct pull *p, const uint8_t *data, size_t n,
                                   struct tier_err *err) {
    tier_hasher_add(p->hasher, data, n);
    for (size_t done = 0; done < n;) {
        ssize_t k = write(p->fd, data + done, n - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tier_fail_errno(err, TIER_EIO, "cannot write %s", p->part);
        done += (size_t)k;
    }
    p->offset += n;
    return TIER_OK;
}

static enum tier_status pull_message(void *arg, struct tier_rpc_message *m, struct tier_err *err) {
    struct pull *p = arg;
    struct tier_piece piece;
    size_t n = tier_rpc_message_bytes(m), at;
    const uint8_t *bytes = tier_rpc_message_flat(m, TIER_MESSAGE_BYTES_MAX);

    if (!bytes)
        return tier_fail(err, TIER_ELIMIT, "the hub sent a piece of %zu bytes", n);
    size_t head = n < TIER_PIECE_PREFIX_MAX ? n : TIER_PIECE_PREFIX_MAX;
    TIER_TRY(tier_wire_piece(bytes, head, n, &piece, &at, err));
    if (!p->begun) {
        p->begun = true;
        p->id = piece.id;
        p->total = piece.total;
    }
    if (piece.offset != p->offset || piece.data_bytes > p->total - p->offset)
        return tier_fail(err, TIER_EPROTO, "the hub sent a piece that does not follow the last");
    return pull_write(p, bytes + at, piece.data_bytes, err);
}

/* `wanted` NULL: the name is the first piece's to say. */
static enum tier_status pull_finish(struct pull *p, const struct tier_hash *wanted,
                                    struct tier_err *err) {
    struct tier_hash got;

    tier_hasher_finish(p->hasher, &got);
    if (!p->begun || p->offset != p->total || !tier_hash_equal(&got, &p->id) ||
        (wanted && !tier_hash_is_zero(wanted) && !tier_hash_equal(&got, wanted)))
        return tier_fail(err, TIER_ECORRUPT,
                         "what the hub sent is not what it said it would send: nothing was kept");
    if (p->in_place)
        return TIER_OK;
    if (fsync(p->fd) != 0 || rename(p->part, p->path) != 0)
        return tier_fail_errno(err, TIER_EIO, "cannot write %s", p->path);
    return TIER_OK;
}

/* A file appears whole, under a temporary name first; a link to a file is followed; what is there
 * and is no file (a pipe, a device) is written to, not replaced. */
static enum tier_status pull_place(struct pull *p, struct tier_err *err) {
    struct stat info;
    bool there = stat(p->path, &info) == 0;

    if (there && S_ISDIR(info.st_mode))
        return tier_fail(err, TIER_EARG, "--out %s is a folder: a file's name would be right",
                         p->path);
    p->in_place = there && !S_ISREG(info.st_mode);
    p->real = there && !p->in_place ? realpath(p->path, NULL) : NULL;
    if (p->real)
        p->path = p->real;
    int n = snprintf(p->part, sizeof p->part, "%s%s", p->path, p->in_place ? "" : ".part");
    return n >= 0 && (size_t)n < sizeof p->part
               ? TIER_OK
               : tier_fail(err, TIER_EARG, "the path of --out is too long");
}

static enum tier_status pull(const struct cli_connection *c, const struct tier_console_pull *what,
                             struct pull *p, struct tier_err *err) {
    struct cli_hub *hub = NULL;
    enum tier_status st;

    p->fd = -1;
    p->hasher = tier_hasher_new();
    if (!p->hasher) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to fetch a model");
        goto out;
    }
    TIER_TRY_OUT(pull_place(p, err));
    TIER_TRY_OUT(cli_hub_open(c, &hub, err));
    p->fd = open(p->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (p->fd < 0) {
        st = tier_fail_errno(err, TIER_EIO, "cannot write %s", p->part);
        goto out;
    }
    TIER_TRY_OUT(cli_hub_ask(hub, TIER_PATH_CONSOLE_PULL, tier_console_pull_bytes(what), 0,
                             pull_message, p, err));
    TIER_TRY_OUT(pull_finish(p, what->kind == TIER_CONSOLE_PULL_CARD ? NULL : &what->file, err));
out:
    if (p->fd >= 0) {
        close(p->fd);
        if (st != TIER_OK && !p->in_place)
            unlink(p->part);
    }
    free(p->real);
    tier_hasher_free(p->hasher);
    cli_hub_close(hub);
    return st;
}

/* The card of a released model, beside it; *path_out is owned, NULL where there is none (an older
 * hub does not know of cards). */
static enum tier_status pull_card(const struct cli_connection *c, const struct tier_hash *model,
                                  const char *out, char **path_out, struct tier_err *err) {
    const struct tier_console_pull what = {.kind = TIER_CONSOLE_PULL_CARD, .file = *model};
    struct pull p = {0};
    char *path;

    if (asprintf(&path, "%s" TIER_CARD_BESIDE, out) < 0)
        return tier_fail(err, TIER_ENOMEM, "no memory for a path");
    p.path = path;
    enum tier_status st = pull(c, &what, &p, err);
    if (st == TIER_OK)
        *path_out = path;
    else
        free(path);
    return st == TIER_ENOTFOUND || st == TIER_EPROTO ? TIER_OK : st;
}

int cli_model_pull(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which, *out = NULL;
    bool graph = false, json = false;
    const struct cli_option options[] = {
        {"out", CLI_TEXT, &out, "FILE", "where to put it", NULL, true, 0, 0},
        {"graph", CLI_FLAG, &graph, NULL, "the run's ONNX graph instead of its model", NULL, false,
         0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
        CLI_CONNECTION_OPTIONS(c),
    };
    const struct cli_usage usage = {
        "model pull", "[RUN|SHA256]",
        "Fetches the last published model of a run (the newest one's where none is named), or any "
        "model or graph by its hash, and prints its SHA-256. Beside a released model, in "
        "FILE.card.json, comes its signed card"};
    struct tier_console_pull what = {.kind = TIER_CONSOLE_PULL_MODEL};
    struct tier_err err = {0};
    struct pull p = {0};
    char hex[TIER_HASH_HEX], *card = NULL;
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 0, 1);

    if (code != CLI_GO)
        return code;
    what.kind = graph ? TIER_CONSOLE_PULL_GRAPH : TIER_CONSOLE_PULL_MODEL;
    p.path = out;
    enum tier_status st = cli_run_prefix(which, what.run, &err);
    if (st == TIER_OK)
        st = pull(&c, &what, &p, &err);
    /* 64 digits may name a file as well as a run. */
    if (st == TIER_ENOTFOUND && !graph && tier_hash_parse(what.run, &what.file)) {
        what.run[0] = '\0';
        p = (struct pull){.path = out};
        st = pull(&c, &what, &p, &err);
    }
    if (st == TIER_OK && !graph && !p.in_place)
        st = pull_card(&c, &p.id, out, &card, &err);
    if (st != TIER_OK)
        return cli_failed(&err);
    tier_hash_hex(&p.id, hex);
    if (json)
        code = cli_print_json(json_pack("{s:s, s:s, s:I, s:o}", "file", out, "sha256", hex, "bytes",
                                        (json_int_t)p.total, "card",
                                        card ? json_string(card) : json_null()));
    else {
        puts(hex);
        code = cli_done();
    }
    free(card);
    return code;
}

/* ---- release ---- */

int cli_model_release(int argc, char **argv) {
    struct cli_connection c = {0};
    const char *which;
    struct tier_hash model;
    const struct cli_option options[] = {CLI_CONNECTION_OPTIONS(c)};
    const struct cli_usage usage = {
        "model release", "SHA256",
        "Asks that researchers may pull this model, the last of its run. It is released when two "
        "operators have asked, the second within a day of the first"};
    struct tier_err err = {0};
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &which, 1, 1);

    if (code != CLI_GO)
        return code;
    if (!tier_hash_parse(which, &model)) {
        cli_error("'%s' is not the SHA-256 of a model: 64 hex digits, as model pull prints them",
                  which);
        return CLI_USAGE;
    }
    return cli_approve(&c, TIER_CONSOLE_RELEASE, which, &err) == TIER_OK ? cli_done()
                                                                         : cli_failed(&err);
}

/* ---- info ---- */

static json_t *info_json(const struct tier_model *m, const char *hex) {
    json_t *tensors = json_array(), *metadata = json_object();
    size_t count;
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    const struct tier_kv *kv;

    for (size_t i = 0; i < count; i++) {
        json_t *shape = json_array();
        for (unsigned d = 0; d < t[i].ndim; d++)
            json_array_append_new(shape, json_integer((json_int_t)t[i].dims[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:o, s:I}", "name", t[i].name, "shape",
                                                 shape, "elements", (json_int_t)t[i].count));
    }
    for (size_t i = 0; (kv = tier_model_metadata_at(m, i)); i++)
        json_object_set_new(metadata, kv->key, json_string(kv->value));
    return json_pack("{s:s, s:I, s:o, s:o}", "sha256", hex, "elements",
                     (json_int_t)tier_model_elements(m), "metadata", metadata, "tensors", tensors);
}

static void print_info(const struct tier_model *m, const char *hex) {
    size_t count;
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    const struct tier_kv *kv;
    char shape[200];

    printf("sha256    %s\n", hex);
    printf("tensors   %zu\nelements  %" PRIu64 "\n", count, tier_model_elements(m));
    for (size_t i = 0; (kv = tier_model_metadata_at(m, i)); i++)
        printf("%-18s %s\n", kv->key, kv->value);
    for (size_t i = 0; i < count; i++) {
        cli_shape(&t[i], shape, sizeof shape);
        printf("  %-32s %-16s %" PRIu64 "\n", t[i].name, shape, t[i].count);
    }
}

int cli_model_info(int argc, char **argv) {
    const char *path;
    bool json = false;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {"model info", "FILE",
                                    "Shows the tensors, metadata and SHA-256 of a .safetensors"};
    struct tier_model *m = NULL;
    struct tier_err err = {0};
    struct tier_hash hash;
    char hex[TIER_HASH_HEX];
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &path, 1, 1);

    if (code != CLI_GO)
        return code;
    enum tier_status st = tier_model_open(path, &m, &err);
    if (st == TIER_OK)
        st = tier_model_hash_file(path, &hash, &err);
    if (st != TIER_OK) {
        code = cli_failed(&err);
    } else if (json) {
        code = cli_print_json(info_json(m, tier_hash_hex(&hash, hex)));
    } else {
        print_info(m, tier_hash_hex(&hash, hex));
        code = cli_done();
    }
    tier_model_close(m);
    return code;
}

/* ---- strip ---- */

#define STRIP_PIECE 65536

/* The parameters among the tensors of m, as a manifest of their own; first[] says where each is. */
static enum tier_status parameters_of(const struct tier_model *m, struct tier_manifest **out,
                                      uint64_t *first, struct tier_err *err) {
    size_t count, kept = 0;
    const struct tier_tensor *t = tier_model_tensors(m, &count);
    struct tier_tensor *tensors = calloc(count ? count : 1, sizeof *tensors);

    if (!tensors)
        return tier_fail(err, TIER_ENOMEM, "no memory for %zu tensors", count);
    for (size_t i = 0; i < count; i++)
        if (tier_task_is_parameter(t[i].name)) {
            first[kept] = t[i].at;
            tensors[kept++] = t[i];
        }
    enum tier_status st = tier_manifest_new(tensors, kept, out, err);
    free(tensors);
    return st;
}

static enum tier_status copy_parameters(const struct tier_model *m,
                                        const struct tier_manifest *manifest, const uint64_t *first,
                                        struct tier_model_writer *w, struct tier_err *err) {
    float *piece = malloc(STRIP_PIECE * sizeof *piece);
    enum tier_status st = piece ? TIER_OK : tier_fail(err, TIER_ENOMEM, "no memory for a piece");

    for (size_t i = 0; i < manifest->count && st == TIER_OK; i++) {
        uint64_t count = manifest->tensors[i].count;
        for (uint64_t at = 0, n; at < count && st == TIER_OK; at += n) {
            n = count - at < STRIP_PIECE ? count - at : STRIP_PIECE;
            st = tier_model_read(m, first[i] + at, n, piece, err);
            if (st == TIER_OK)
                st = tier_model_writer_append(w, piece, n, err);
        }
    }
    free(piece);
    return st;
}

/* The file is written beside its place, under its hash, and moved there when it is whole. */
static enum tier_status strip(const char *path, const char *out, struct tier_hash *hash_out,
                              struct tier_err *err) {
    struct tier_kv metadata[TIER_MODEL_METADATA_MAX + 1];
    char of[TIER_HASH_HEX], *copy = strdup(out), *dir = copy ? dirname(copy) : NULL;
    struct tier_manifest *manifest = NULL;
    struct tier_model_writer *w = NULL;
    struct tier_model *m = NULL;
    const struct tier_kv *kv;
    struct tier_hash hash;
    uint64_t *first = NULL;
    size_t count = 0;
    enum tier_status st;

    TIER_TRY_OUT(tier_model_open(path, &m, err));
    tier_model_tensors(m, &count);
    first = calloc(count ? count : 1, sizeof *first);
    if (!copy || !first) {
        st = tier_fail(err, TIER_ENOMEM, "no memory for %zu tensors", count);
        goto out;
    }
    TIER_TRY_OUT(parameters_of(m, &manifest, first, err));
    TIER_TRY_OUT(tier_model_hash_file(path, &hash, err));
    count = 0;
    for (size_t i = 0; (kv = tier_model_metadata_at(m, i)) && count < TIER_MODEL_METADATA_MAX; i++)
        if (strcmp(kv->key, "consilium.stripped_from") != 0)
            metadata[count++] = *kv;
    metadata[count++] = (struct tier_kv){"consilium.stripped_from", tier_hash_hex(&hash, of)};
    TIER_TRY_OUT(tier_model_writer_begin(dir, manifest, metadata, count, &w, err));
    TIER_TRY_OUT(copy_parameters(m, manifest, first, w, err));
    st = tier_model_writer_finish(w, hash_out, err);
    w = NULL;
    if (st != TIER_OK)
        goto out;
    st = cli_place(dir, hash_out, TIER_CONTENT_MODEL, out, err);
out:
    tier_model_writer_abort(w);
    tier_manifest_free(manifest);
    tier_model_close(m);
    free(first);
    free(copy);
    return st;
}

int cli_model_strip(int argc, char **argv) {
    const char *path, *out = NULL;
    bool json = false;
    const struct cli_option options[] = {
        {"out", CLI_TEXT, &out, "FILE", "where to put it", NULL, true, 0, 0},
        {"json", CLI_FLAG, &json, NULL, "one JSON object", NULL, false, 0, 0},
    };
    const struct cli_usage usage = {
        "model strip", "FILE",
        "Writes a model's parameters without what a run of SCAFFOLD or FedCurv lets travel with "
        "them (tensors named scaffold/..., fedcurv/...), and prints the SHA-256 of the new file"};
    struct tier_err err = {0};
    struct tier_hash hash;
    char hex[TIER_HASH_HEX];
    int code = cli_parse(&usage, options, COUNT(options), argc, argv, &path, 1, 1);

    if (code != CLI_GO)
        return code;
    if (strip(path, out, &hash, &err) != TIER_OK)
        return cli_failed(&err);
    tier_hash_hex(&hash, hex);
    if (json)
        return cli_print_json(json_pack("{s:s, s:s}", "file", out, "sha256", hex));
    puts(hex);
    return cli_done();
}
