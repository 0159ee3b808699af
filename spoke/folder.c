/* SPDX-License-Identifier: Apache-2.0 */
#include "spoke/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void spoke_names_release(struct spoke_names *names) {
    for (size_t i = 0; i < names->n; i++)
        free(names->at[i]);
    free(names->at);
    *names = (struct spoke_names){0};
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum tier_status add_name(struct spoke_names *names, size_t most, const char *name,
                                 struct tier_err *err) {
    if (names->n == most)
        return tier_fail(err, TIER_ELIMIT, "the folder has more than %zu files", most);
    if (names->n == names->cap) {
        size_t cap = names->cap ? names->cap * 2 : 64;
        char **more = realloc(names->at, cap * sizeof *more);
        if (!more)
            return tier_fail(err, TIER_ENOMEM, "no memory for the names of files");
        names->at = more;
        names->cap = cap;
    }
    names->at[names->n] = strdup(name);
    if (!names->at[names->n])
        return tier_fail(err, TIER_ENOMEM, "no memory for the names of files");
    names->n++;
    return TIER_OK;
}

enum tier_status spoke_folder_list(int folder, size_t most, struct spoke_names *names,
                                   struct tier_err *err) {
    int own = fcntl(folder, F_DUPFD_CLOEXEC, 0);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    enum tier_status st = TIER_OK;
    const struct dirent *entry;

    if (!dir) {
        if (own >= 0)
            close(own);
        return tier_fail_errno(err, TIER_EIO, "the folder");
    }
    rewinddir(dir);
    while (st == TIER_OK && (errno = 0, entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.')
            st = add_name(names, most, entry->d_name, err);
    if (st == TIER_OK && errno != 0)
        st = tier_fail_errno(err, TIER_EIO, "the folder");
    closedir(dir);
    if (st == TIER_OK && names->n > 1)
        qsort(names->at, names->n, sizeof *names->at, by_bytes);
    return st;
}
