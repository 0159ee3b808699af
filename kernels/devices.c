/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of devices in one word, as a configuration holds them. */
#include "kernels/dispatch.h"
#include "kernels/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIGITS "0123456789"

/* A number of one to four digits at *text, which is moved behind it; -1 where there is none. */
static int number(const char **text) {
    size_t len = strspn(*text, DIGITS);
    if (len < 1 || len > 4) {
        return -1;
    }
    int value = (int)strtol(*text, NULL, 10);
    *text += len;
    return value;
}

/* The GPUs of "0,2,3", each once; 0 where it is no such list. */
static size_t parse_gpus(const char *text, int *gpu) {
    size_t count = 0;
    for (;;) {
        int index = number(&text);
        if (index < 0 || count == KERN_GROUP_RANKS_MAX) {
            return 0;
        }
        for (size_t i = 0; i < count; i++) {
            if (gpu[i] == index) {
                return 0;
            }
        }
        gpu[count++] = index;
        if (*text == '\0') {
            return count;
        }
        if (*text++ != ',') {
            return 0;
        }
    }
}

bool kern_devices_parse(const char *list, size_t *count_out) {
    int gpu[KERN_GROUP_RANKS_MAX];
    size_t count = 1;
    if (strncmp(list, "cpu*", 4) == 0) {
        const char *text = list + 4;
        int copies = number(&text);
        if (copies < 1 || copies > KERN_GROUP_RANKS_MAX || *text != '\0') {
            return false;
        }
        count = (size_t)copies;
    } else if (strcmp(list, "cuda:all") == 0) {
        count = 0;
    } else if (strncmp(list, "cuda:", 5) == 0) {
        count = parse_gpus(list + 5, gpu);
        if (count == 0) {
            return false;
        }
    } else if (strcmp(list, "cpu") != 0 && strcmp(list, "cuda") != 0 && strcmp(list, "auto") != 0) {
        return false;
    }
    *count_out = count;
    return true;
}

/* The i-th device's own name in the list. */
static void name_of(const char *list, size_t i, char *out, size_t bytes) {
    int gpu[KERN_GROUP_RANKS_MAX] = {0};
    if (strncmp(list, "cpu*", 4) == 0) {
        snprintf(out, bytes, "cpu");
    } else if (strcmp(list, "cuda:all") == 0) {
        snprintf(out, bytes, "cuda:%zu", i);
    } else if (strncmp(list, "cuda:", 5) == 0) {
        (void)parse_gpus(list + 5, gpu);
        snprintf(out, bytes, "cuda:%d", gpu[i]);
    } else {
        snprintf(out, bytes, "%.*s", (int)bytes - 1, list);
    }
}

static int share_of(int threads, size_t count) {
    if (count < 2) {
        return threads;
    }
    if (threads == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        threads = online < 1 ? 1 : (int)online;
    }
    return threads / (int)count > 1 ? threads / (int)count : 1;
}

enum kern_status kern_devices_open(const char *list, int threads, struct kern_device **devs,
                                   size_t max, size_t *count_out) {
    size_t count = 0;
    char name[32];
    if (list == NULL || devs == NULL || count_out == NULL || threads < 0 ||
        !kern_devices_parse(list, &count)) {
        return kern_open_refused(KERN_EARG,
                                 "devices \"%.40s\": cpu, cpu*N, cuda, cuda:N,N, cuda:all or auto "
                                 "would be right",
                                 list == NULL ? "" : list);
    }
    if (count == 0) {
        count = (size_t)kern_cuda_device_count();
        if (count == 0) {
            return kern_open_refused(KERN_ENODEV, "devices \"%.40s\": %.200s", list,
                                     kern_cuda_absent_reason());
        }
    }
    if (count > max) {
        return kern_open_refused(KERN_EARG, "devices \"%.40s\": %zu of them, at most %zu fit here",
                                 list, count, max);
    }
    for (size_t i = 0; i < count; i++) {
        name_of(list, i, name, sizeof name);
        enum kern_status st = kern_device_open(name, share_of(threads, count), &devs[i]);
        if (st != KERN_OK) {
            while (i-- > 0) {
                kern_device_close(devs[i]);
                devs[i] = NULL;
            }
            return st;
        }
    }
    *count_out = count;
    return KERN_OK;
}
