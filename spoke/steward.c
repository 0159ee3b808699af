/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files and not a socket: a decision may be made while the spoke is down, who made it stays
 * readable, and nothing here listens. Both sides write beside and rename, so that neither reads
 * half a file.
 */
#include "spoke/steward.h"
#include "tier/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 1400
#define TEXT_BYTES_MAX 16384 /* of what is shown of a run */

static const char *const deeds[] = {"approve", "refuse", "withdraw", "overlap"};

static bool path_of(const char *data_dir, const char *name, const char *suffix, char *path) {
    int n = snprintf(path, PATH_BYTES, "%s/steward/%s%s", data_dir, name, suffix);
    return n > 0 && n < PATH_BYTES;
}

enum tier_status spoke_steward_open(const char *data_dir, struct tier_err *err) {
    char path[PATH_BYTES];

    if (!path_of(data_dir, "", "", path))
        return tier_fail(err, TIER_EARG, "%s: the path is too long", data_dir);
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return tier_fail_errno(err, TIER_EIO, "%s", path);
    return TIER_OK;
}

/* In one piece, of the folder's owner (root may decide for the spoke's user). */
static enum tier_status write_file(const char *data_dir, const char *hex, const char *suffix,
                                   const char *text, struct tier_err *err) {
    char path[PATH_BYTES], beside[PATH_BYTES], folder[PATH_BYTES];
    struct stat owner;
    size_t bytes = strlen(text);

    if (!path_of(data_dir, hex, suffix, path) || !path_of(data_dir, hex, ".new", beside) ||
        !path_of(data_dir, "", "", folder))
        return tier_fail(err, TIER_EARG, "%s: the path is too long", data_dir);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return tier_fail_errno(err, errno == EACCES ? TIER_EPOLICY : TIER_EIO, "%s", beside);
    bool ok = write(fd, text, bytes) == (ssize_t)bytes;
    if (ok && geteuid() == 0 && stat(folder, &owner) == 0)
        ok = fchown(fd, owner.st_uid, owner.st_gid) == 0;
    ok = ok && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(beside, path) != 0) {
        tier_fail_errno(err, TIER_EIO, "%s", path);
        unlink(beside);
        return TIER_EIO;
    }
    return TIER_OK;
}

enum tier_status spoke_steward_show(const char *data_dir, const char *hex, const char *text,
                                    struct tier_err *err) {
    char path[PATH_BYTES];

    if (text)
        return write_file(data_dir, hex, ".run", text, err);
    if (path_of(data_dir, hex, ".run", path))
        unlink(path);
    return TIER_OK;
}

/* At most `room` bytes of a regular file; -1 where it cannot be read or has more. */
static ssize_t read_file(const char *path, char *text, size_t room, unsigned *owner) {
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = -1;

    if (fd < 0)
        return -1;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= (off_t)room) {
        n = read(fd, text, room);
        *owner = info.st_uid;
    }
    close(fd);
    return n;
}

/* A line of at most room - 1 bytes without control characters, from *at on. */
static bool take_line(const char *text, size_t bytes, size_t *at, char *out, size_t room) {
    size_t n = 0;

    for (; *at < bytes && text[*at] != '\n'; (*at)++) {
        if ((unsigned char)text[*at] < 0x20 || text[*at] == 0x7f || n + 1 >= room)
            return false;
        out[n++] = text[*at];
    }
    out[n] = '\0';
    return (*at)++ < bytes;
}

bool spoke_decision_parse(const void *text, size_t bytes, struct spoke_decision *out) {
    struct spoke_decision d = {.run = out->run, .owner = out->owner};
    char deed[16];
    size_t at = 0;

    if (!take_line(text, bytes, &at, deed, sizeof deed) ||
        !take_line(text, bytes, &at, d.by, sizeof d.by) ||
        !take_line(text, bytes, &at, d.reason, sizeof d.reason) || at != bytes || !*d.by)
        return false;
    for (int i = 0; i <= SPOKE_OVERLAP; i++)
        if (strcmp(deeds[i], deed) == 0) {
            d.deed = (enum spoke_deed)i;
            *out = d;
            return true;
        }
    return false;
}

/* "HEX.decision" */
static bool names_run(const char *name, const char *suffix, struct tier_hash *run) {
    char hex[TIER_HASH_HEX];

    if (strlen(name) != TIER_HASH_HEX - 1 + strlen(suffix) ||
        strcmp(name + TIER_HASH_HEX - 1, suffix) != 0)
        return false;
    memcpy(hex, name, TIER_HASH_HEX - 1);
    hex[TIER_HASH_HEX - 1] = '\0';
    return tier_hash_parse(hex, run);
}

bool spoke_steward_next(const char *data_dir, struct spoke_decision *out) {
    char path[PATH_BYTES], text[SPOKE_DECISION_BYTES_MAX];
    struct spoke_decision d = {0};
    const struct dirent *entry;
    bool found = false;

    DIR *dir = path_of(data_dir, "", "", path) ? opendir(path) : NULL;
    while (dir && !found && (entry = readdir(dir)) != NULL) {
        if (!names_run(entry->d_name, ".decision", &d.run) ||
            !path_of(data_dir, entry->d_name, "", path))
            continue;
        ssize_t n = read_file(path, text, sizeof text, &d.owner);
        found = n >= 0 && spoke_decision_parse(text, (size_t)n, &d);
        if (!found) {
            tier_log_warn("steward: %.12s.decision is none, and is deleted", entry->d_name);
            unlink(path);
        }
    }
    if (dir)
        closedir(dir);
    if (found)
        *out = d;
    return found;
}

void spoke_steward_done(const char *data_dir, const struct tier_hash *run) {
    char path[PATH_BYTES], hex[TIER_HASH_HEX];

    if (path_of(data_dir, tier_hash_hex(run, hex), ".decision", path))
        unlink(path);
}

/* The user, and who became that user where sudo says so. */
static void who(char *by, size_t bytes) {
    const struct passwd *user = getpwuid(getuid());
    const char *before = getenv("SUDO_USER");
    char number[24];

    snprintf(number, sizeof number, "user %u", (unsigned)getuid());
    snprintf(by, bytes, "%s%s%s%s", user ? user->pw_name : number, before ? " (sudo: " : "",
             before ? before : "", before ? ")" : "");
}

enum tier_status spoke_steward_leave(const char *data_dir, const struct spoke_decision *d,
                                     struct tier_err *err) {
    char text[SPOKE_DECISION_BYTES_MAX], hex[TIER_HASH_HEX], by[sizeof d->by];
    struct spoke_decision parsed = {0};

    who(by, sizeof by);
    int n = snprintf(text, sizeof text, "%s\n%s\n%s\n", deeds[d->deed], by, d->reason);
    if (n < 0 || (size_t)n >= sizeof text || !spoke_decision_parse(text, (size_t)n, &parsed))
        return tier_fail(err, TIER_EARG, "a reason is one line of at most 255 bytes");
    return write_file(data_dir, tier_hash_hex(&d->run, hex), ".decision", text, err);
}

/* ---- the commands ---- */

static const char usage[] =
    "usage: consilium-spoke pending  --data-dir DIR\n"
    "       consilium-spoke approve  --data-dir DIR [--reason TEXT] RUN\n"
    "       consilium-spoke refuse   --data-dir DIR [--reason TEXT] RUN\n"
    "       consilium-spoke withdraw --data-dir DIR [--reason TEXT] RUN\n"
    "\n"
    "  pending   runs that wait for a person, with what their plans ask for\n"
    "  approve   take part in a run that waits\n"
    "  refuse    do not; the reason goes up\n"
    "  withdraw  leave a run that is open: what this site gave to the round at work is taken\n"
    "            out where that is exact; models of earlier rounds stay as they are\n"
    "\n"
    "DIR is the spoke's data_dir (or CONSILIUM_DATA_DIR). RUN is an id or its beginning. What is\n"
    "decided takes effect within a second, or when the spoke starts.\n";

struct command {
    const char *data_dir, *reason, *run;
};

static bool read_options(int argc, char **argv, struct command *c) {
    static const struct option longs[] = {{"data-dir", required_argument, NULL, 'd'},
                                          {"reason", required_argument, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
    int option;

    c->data_dir = getenv("CONSILIUM_DATA_DIR");
    optind = 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (option == 'd')
            c->data_dir = optarg;
        else if (option == 'r')
            c->reason = optarg;
        else
            return false;
    }
    bool wants_run = strcmp(argv[0], "pending") != 0;
    c->run = wants_run && optind < argc ? argv[optind] : NULL;
    return c->data_dir && argc - optind == (wants_run ? 1 : 0) && (wants_run || !c->reason);
}

/* Whether what is shown of a run says that it waits. */
static bool waits(const char *text) {
    return strstr(text, "\nstate   waits") != NULL;
}

/* Calls for each run that is shown; how many there were, or -1 without a folder. */
static int each_run(const char *data_dir, void (*see)(void *arg, const char *hex, const char *text),
                    void *arg) {
    char path[PATH_BYTES], *text = malloc(TEXT_BYTES_MAX + 1);
    const struct dirent *entry;
    struct tier_hash run;
    unsigned owner;
    int count = 0;

    DIR *dir = text && path_of(data_dir, "", "", path) ? opendir(path) : NULL;
    if (!dir) {
        free(text);
        return -1;
    }
    while ((entry = readdir(dir)) != NULL) {
        char hex[TIER_HASH_HEX];
        if (!names_run(entry->d_name, ".run", &run) || !path_of(data_dir, entry->d_name, "", path))
            continue;
        ssize_t n = read_file(path, text, TEXT_BYTES_MAX, &owner);
        if (n < 0)
            continue;
        text[n] = '\0';
        see(arg, tier_hash_hex(&run, hex), text);
        count++;
    }
    closedir(dir);
    free(text);
    return count;
}

struct listing {
    FILE *out;
    int count;
};

static void list_pending(void *arg, const char *hex, const char *text) {
    struct listing *l = arg;
    (void)hex;
    if (!waits(text))
        return;
    fprintf(l->out, "%s%s", l->count ? "\n" : "", text);
    l->count++;
}

struct search {
    const char *prefix;
    bool must_wait;
    int count;
    char hex[TIER_HASH_HEX];
};

static void look(void *arg, const char *hex, const char *text) {
    struct search *s = arg;
    if (strncmp(hex, s->prefix, strlen(s->prefix)) != 0 || (s->must_wait && !waits(text)))
        return;
    memcpy(s->hex, hex, sizeof s->hex);
    s->count++;
}

static int decide(const struct command *c, const char *name, FILE *out, FILE *errors) {
    struct search s = {.prefix = c->run, .must_wait = strcmp(name, "withdraw") != 0};
    struct spoke_decision d = {.deed = SPOKE_APPROVE};
    struct tier_err err = {0};
    int count = each_run(c->data_dir, look, &s);

    if (count < 0 || s.count != 1) {
        fprintf(errors, "consilium-spoke: %s\n",
                count < 0      ? "the folder 'steward' in that data directory cannot be read"
                : s.count == 0 ? s.must_wait ? "no run that waits begins so"
                                             : "no run that waits or is open begins so"
                               : "more than one run begins so: give more digits");
        return 1;
    }
    while (strcmp(deeds[d.deed], name) != 0)
        d.deed++;
    tier_hash_parse(s.hex, &d.run);
    int n = snprintf(d.reason, sizeof d.reason, "%s", c->reason ? c->reason : "");
    enum tier_status st =
        n >= 0 && (size_t)n < sizeof d.reason
            ? spoke_steward_leave(c->data_dir, &d, &err)
            : tier_fail(&err, TIER_EARG, "a reason is one line of at most 255 bytes");
    if (st != TIER_OK) {
        fprintf(errors, "consilium-spoke: %s\n", err.text);
        return 1;
    }
    fprintf(out, "%s %s\n", name, s.hex);
    return 0;
}

int spoke_steward_main(int argc, char **argv, FILE *out, FILE *errors) {
    struct command c = {0};

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, out);
        return 0;
    }
    if (!read_options(argc, argv, &c)) {
        fputs(usage, errors);
        return 2;
    }
    if (c.run) /* all but pending have one */
        return decide(&c, argv[0], out, errors);
    struct listing l = {.out = out};
    if (each_run(c.data_dir, list_pending, &l) < 0) {
        fputs("consilium-spoke: the folder 'steward' in that data directory cannot be read\n",
              errors);
        return 1;
    }
    if (l.count == 0)
        fputs("no run waits\n", out);
    return fflush(out) == 0 ? 0 : 1;
}
