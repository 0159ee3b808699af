/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules that an operator brings: shared objects named in the hub's own configuration. A plan can
 * only ask for one by its name; it can bring none. The file is hashed before it is loaded, so that
 * the audit log can say which code a round was merged by.
 */
#include "tier/merge_rules.h"

#include "tier/merge.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KNOWN_PARAMS                                                                               \
    (TIER_MERGE_BYZANTINE | TIER_MERGE_SELECT | TIER_MERGE_RADIUS | TIER_MERGE_ITERATIONS |        \
     TIER_MERGE_SMOOTHING)

static struct {
    pthread_mutex_t lock;
    const struct tier_merge_ops *rule[TIER_KEYS_LIST_MAX];
    size_t count;
} loaded = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Under the lock. */
static const struct tier_merge_ops *find(const char *name) {
    for (size_t i = 0; i < loaded.count; i++)
        if (strcmp(loaded.rule[i]->name, name) == 0)
            return loaded.rule[i];
    return NULL;
}

const struct tier_merge_ops *tier_merge_plugin_find(const char *name) {
    pthread_mutex_lock(&loaded.lock);
    const struct tier_merge_ops *rule = find(name);
    pthread_mutex_unlock(&loaded.lock);
    return rule;
}

static enum tier_status hash_file(const char *path, struct tier_hash *out, struct tier_err *err) {
    enum tier_status st = TIER_OK;
    struct tier_hasher *hasher = tier_hasher_new();
    uint8_t *block = malloc(TIER_LEAF_BYTES);
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        st = tier_fail_errno(err, TIER_ECONFIG, "merge rule %s cannot be read", path);
        goto out;
    }
    if (!hasher || !block) {
        st = tier_fail(err, TIER_ENOMEM, "no memory to hash %s", path);
        goto out;
    }
    while ((n = read(fd, block, TIER_LEAF_BYTES)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            st = tier_fail_errno(err, TIER_ECONFIG, "merge rule %s cannot be read", path);
            goto out;
        }
        tier_hasher_add(hasher, block, (size_t)n);
    }
    tier_hasher_finish(hasher, out);
out:
    if (fd >= 0)
        close(fd);
    free(block);
    tier_hasher_free(hasher);
    return st;
}

static bool good_name(const char *name) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = name ? strnlen(name, TIER_NAME_LEN_MAX + 1) : 0;

    return length > 2 && length <= TIER_NAME_LEN_MAX && strncmp(name, "x-", 2) == 0 &&
           strspn(name, letters) == length;
}

/* What is wrong with a table, or NULL. Fields beyond `bytes` are not looked at before it fits. */
static const char *fault_of(const struct tier_merge_ops *rule) {
    if (!rule || rule->abi != TIER_MERGE_ABI || rule->bytes != sizeof *rule)
        return "was built for another version of merge_rule.h; build it again with this one's";
    if (!good_name(rule->name))
        return "has a name that is not x- and up to 61 letters, digits, '.', '_' or '-'";
    if (!rule->block == !rule->gram)
        return "must have exactly one of the functions block and gram";
    if (rule->params & ~(unsigned)KNOWN_PARAMS)
        return "asks for parameters that no plan has";
    if (rule->has_previous && !rule->gram)
        return "asks for the previous result, which only a gram function can have";
    return NULL;
}

/* Under the lock. */
static enum tier_status add(const char *path, const struct tier_merge_ops *rule,
                            struct tier_err *err) {
    const struct tier_merge_ops *other = find(rule->name);

    if (other == rule)
        return TIER_OK;
    if (other)
        return tier_fail(err, TIER_ECONFIG, "merge rule %s: another rule is called %s too", path,
                         rule->name);
    if (loaded.count == TIER_KEYS_LIST_MAX)
        return tier_fail(err, TIER_ECONFIG, "merge rule %s: %d rules are loaded already", path,
                         TIER_KEYS_LIST_MAX);
    loaded.rule[loaded.count++] = rule;
    return TIER_OK;
}

enum tier_status tier_merge_load(const char *path, const struct tier_merge_ops **rule_out,
                                 struct tier_hash *file_out, struct tier_err *err) {
    struct tier_hash hash;
    tier_merge_entry entry = NULL;

    if (*path != '/')
        return tier_fail(err, TIER_ECONFIG, "merge rule %s: an absolute path would be right", path);
    TIER_TRY(hash_file(path, &hash, err));
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return tier_fail(err, TIER_ECONFIG, "merge rule %s does not load: %s", path, dlerror());
    /* POSIX's own idiom: a data pointer read as a function pointer. */
    *(void **)&entry = dlsym(lib, TIER_MERGE_SYMBOL);
    const struct tier_merge_ops *rule = entry ? entry(TIER_MERGE_ABI) : NULL;
    const char *fault = entry ? fault_of(rule) : "does not export " TIER_MERGE_SYMBOL;
    if (fault) {
        dlclose(lib);
        return tier_fail(err, TIER_ECONFIG, "merge rule %s %s", path, fault);
    }
    pthread_mutex_lock(&loaded.lock);
    enum tier_status st = add(path, rule, err);
    pthread_mutex_unlock(&loaded.lock);
    if (st != TIER_OK) {
        dlclose(lib);
        return st;
    }
    *rule_out = rule; /* and lib stays, with the pages that rule lies in */
    if (file_out)
        *file_out = hash;
    return TIER_OK;
}
