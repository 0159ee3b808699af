/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The check every call of a group passes before its backend sees it. Roots, sizes and arrays are
 * judged by each caller for its own ranks; whether the ranks agree is the backend's to find out.
 */
#include "kernels/group.h"

#include "kernels/dispatch.h"

#include <stdlib.h>

struct kern_group {
    const struct kern_ops *ops;
    void *state; /* the backend's */
    size_t ranks, first, count;
    enum kern_way way;
    bool broken;
    struct kern_device *dev[];
};

/* The devices a caller brings: of one backend, all different. */
static enum kern_status check_devices(struct kern_device *const *devs, size_t count) {
    if (devs == NULL || count < 1 || count > KERN_GROUP_RANKS_MAX) {
        return KERN_EARG;
    }
    for (size_t i = 0; i < count; i++) {
        if (devs[i] == NULL) {
            return KERN_EARG;
        }
        if (devs[i]->ops != devs[0]->ops) {
            return kern_refuse(devs[0], "kern_group: devices of two backends");
        }
        if (devs[i]->failed) {
            return KERN_EDEVICE;
        }
        for (size_t j = 0; j < i; j++) {
            if (devs[j] == devs[i]) {
                return kern_refuse(devs[0], "kern_group: ranks %zu and %zu are one device", j, i);
            }
        }
    }
    return KERN_OK;
}

static enum kern_status enter(const struct kern_group_id *id, const struct kern_group_link *link,
                              size_t ranks, size_t first, struct kern_device *const *devs,
                              size_t count, struct kern_group **out) {
    struct kern_ctx *ctx[KERN_GROUP_RANKS_MAX];
    struct kern_group *g = calloc(1, sizeof *g + count * sizeof g->dev[0]);
    if (g == NULL) {
        return KERN_ENOMEM;
    }
    g->ops = devs[0]->ops;
    g->ranks = ranks;
    g->first = first;
    g->count = count;
    for (size_t i = 0; i < count; i++) {
        g->dev[i] = devs[i];
        ctx[i] = devs[i]->ctx;
    }
    enum kern_status st = link != NULL && g->ops->group_span != NULL
                              ? g->ops->group_span(link, ranks, first, ctx, count, &g->state)
                              : g->ops->group_join(id, ranks, first, ctx, count, &g->state);
    if (st != KERN_OK) {
        free(g);
        return st;
    }
    *out = g;
    return KERN_OK;
}

enum kern_status kern_group_open(struct kern_device *const *devs, size_t count,
                                 struct kern_group **out) {
    enum kern_status st = out == NULL ? KERN_EARG : check_devices(devs, count);
    return st == KERN_OK ? enter(NULL, NULL, count, 0, devs, count, out) : st;
}

enum kern_status kern_group_id_new(struct kern_device *dev, struct kern_group_id *out) {
    if (dev == NULL || out == NULL) {
        return KERN_EARG;
    }
    return dev->failed ? KERN_EDEVICE : dev->ops->group_id(dev->ctx, out);
}

static enum kern_status join(const struct kern_group_id *id, const struct kern_group_link *link,
                             size_t ranks, size_t first, struct kern_device *const *devs,
                             size_t count, struct kern_group **out) {
    enum kern_status st = id == NULL || out == NULL ? KERN_EARG : check_devices(devs, count);
    if (st != KERN_OK) {
        return st;
    }
    if (ranks < 1 || ranks > KERN_GROUP_RANKS_MAX || first >= ranks || count > ranks - first) {
        return kern_refuse(devs[0], "kern_group_join: ranks %zu to %zu of %zu; a group has 1 to %d",
                           first, first + count, ranks, KERN_GROUP_RANKS_MAX);
    }
    return enter(id, link, ranks, first, devs, count, out);
}

enum kern_status kern_group_join(const struct kern_group_id *id, size_t ranks, size_t first,
                                 struct kern_device *const *devs, size_t count,
                                 struct kern_group **out) {
    return join(id, NULL, ranks, first, devs, count, out);
}

enum kern_status kern_group_span(const struct kern_group_id *id, const struct kern_group_link *link,
                                 size_t ranks, size_t first, struct kern_device *const *devs,
                                 size_t count, struct kern_group **out) {
    return link == NULL ? KERN_EARG : join(id, link, ranks, first, devs, count, out);
}

void kern_group_close(struct kern_group *group) {
    if (group != NULL) {
        group->ops->group_leave(group->state);
        free(group);
    }
}

void kern_group_abort(struct kern_group *group) {
    if (group != NULL) {
        group->ops->group_abort(group->state);
    }
}

size_t kern_group_count(const struct kern_group *group) {
    return group->count;
}

size_t kern_group_first(const struct kern_group *group) {
    return group->first;
}

size_t kern_group_ranks(const struct kern_group *group) {
    return group->ranks;
}

void kern_group_set_way(struct kern_group *group, enum kern_way way) {
    group->way = way;
}

void kern_group_each(struct kern_group *group, void (*fn)(void *arg, size_t i), void *arg) {
    group->ops->group_each(group->state, fn, arg);
}

static enum kern_status run(struct kern_group *g, const char *op, const struct kern_vec *parts,
                            struct kern_group_call call) {
    void *p[KERN_GROUP_RANKS_MAX] = {NULL};
    bool shares = call.op == KERN_GROUP_REDUCE_SCATTER || call.op == KERN_GROUP_ALL_GATHER;
    size_t bytes = call.type == KERN_F32 ? sizeof(float) : sizeof(int64_t);
    if (g == NULL || (parts == NULL && call.n > 0)) {
        return KERN_EARG;
    }
    if (g->broken) {
        return KERN_EGROUP;
    }
    if (call.root >= g->ranks || (call.type != KERN_F32 && call.type != KERN_I64)) {
        return kern_refuse(g->dev[0], "%s: root %zu of %zu ranks, type %d", op, call.root, g->ranks,
                           (int)call.type);
    }
    for (size_t i = 0; i < g->count; i++) {
        struct kern_device *dev = g->dev[i];
        if (dev->recording) {
            return kern_refuse(g->dev[0], "%s: not while a device of the group records", op);
        }
        if (dev->failed) {
            return KERN_EDEVICE;
        }
        if (call.n == 0) {
            continue;
        }
        size_t n = shares ? kern_area(g->ranks, call.n) : call.n;
        struct kern_arg arg = {"part", parts[i], bytes, n, KERN_ARG_OUT, NULL};
        enum kern_status st = kern_args_check(op, &arg, 1, &dev);
        if (st != KERN_OK) {
            return st;
        }
        if (dev != g->dev[i]) {
            return kern_refuse(g->dev[0], "%s: part %zu is not on its rank's device", op, i);
        }
        p[i] = arg.p;
    }
    call.way = g->way;
    enum kern_status st = g->ops->group_run(g->state, &call, p);
    g->broken = st == KERN_EGROUP || st == KERN_EDEVICE;
    for (size_t i = 0; i < g->count; i++) {
        kern_done(g->dev[i], st);
    }
    return st;
}

enum kern_status kern_group_reduce(struct kern_group *group, const struct kern_vec *parts, size_t n,
                                   enum kern_type type, size_t root) {
    return run(group, "kern_group_reduce", parts,
               (struct kern_group_call){KERN_GROUP_REDUCE, type, 0, n, root});
}

enum kern_status kern_group_all_reduce(struct kern_group *group, const struct kern_vec *parts,
                                       size_t n, enum kern_type type) {
    return run(group, "kern_group_all_reduce", parts,
               (struct kern_group_call){KERN_GROUP_ALL_REDUCE, type, 0, n, 0});
}

enum kern_status kern_group_reduce_scatter(struct kern_group *group, const struct kern_vec *parts,
                                           size_t n, enum kern_type type) {
    return run(group, "kern_group_reduce_scatter", parts,
               (struct kern_group_call){KERN_GROUP_REDUCE_SCATTER, type, 0, n, 0});
}

enum kern_status kern_group_all_gather(struct kern_group *group, const struct kern_vec *parts,
                                       size_t n, enum kern_type type) {
    return run(group, "kern_group_all_gather", parts,
               (struct kern_group_call){KERN_GROUP_ALL_GATHER, type, 0, n, 0});
}

enum kern_status kern_group_broadcast(struct kern_group *group, const struct kern_vec *parts,
                                      size_t n, enum kern_type type, size_t root) {
    return run(group, "kern_group_broadcast", parts,
               (struct kern_group_call){KERN_GROUP_BROADCAST, type, 0, n, root});
}
