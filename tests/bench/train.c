/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Training on the CPU beside PyTorch: forward, backward and a step of SGD with momentum on one
 * batch, two threads each. Ours and PyTorch's (train_peer.py) are a process each. They take turns
 * of a block of steps, ours and theirs within the same second, and the one whose turn it is not is
 * stopped (SIGSTOP), so that no thread of it spins beside the other.
 *
 * Both begin with the same parameters and the same batch, so their losses must agree: a bench of
 * two different things would say nothing.
 *
 * Memory: when a process has its programs and libraries and before it has a model, its peak
 * (VmHWM) is set back to what is resident then; what the peak is above that at the end is what
 * training took.
 */
#include "spoke/net.h"
#include "tests/bench/bench.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 2
#define BLOCK_S 0.5     /* a turn takes about this long, and one step at the least */
#define MEASURE_S 120.0 /* no turn begins later, or later than half of the time there is */
#define PAIRS_MAX 40
#define LR 0.001f
#define MOMENTUM 0.9f

#define MEMORY_BAR 1.0 /* of PyTorch's, at most */

static const struct model {
    const char *name;
    size_t rows; /* as in train_peer.py */
    enum spoke_loss loss;
    double time_bar; /* of PyTorch's, at most */
} models[] = {{"mlp-heart", 32, SPOKE_LOSS_BCE, 0.2},
              {"resnet18-28", 32, SPOKE_LOSS_CE, 1.0},
              {"resnet18-64", 32, SPOKE_LOSS_CE, 1.0},
              {"unet3d-48", 1, SPOKE_LOSS_CE, 1.0},
              {"densenet121-64", 16, SPOKE_LOSS_CE, 1.0}};

/* ---- our process ----------------------------------------------------------------------------- */

struct ours {
    struct kern_device *dev;
    struct tier_graph *graph;
    struct spoke_net *net;
    struct kern_buf *x, *target, *loss, *momentum;
    size_t rows;
};

static enum tier_status kern_fail(struct ours *o, enum kern_status st, struct tier_err *err) {
    return st == KERN_OK ? TIER_OK : spoke_net_kern_fail(o->dev, st, "the bench", err);
}

static enum tier_status load(struct ours *o, const char *folder, const char *file, size_t bytes,
                             struct kern_buf **out, struct tier_err *err) {
    char path[4200];
    void *data = bench_alloc(bytes, 1);
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(data, 1, bytes, f) : 0;
    if (f)
        fclose(f);
    enum tier_status st = TIER_OK;
    if (n != bytes)
        st = tier_fail(err, TIER_EIO, "%s: %zu bytes of %zu", path, n, bytes);
    if (st == TIER_OK)
        st = kern_fail(o, kern_buf_new(o->dev, bytes, out), err);
    if (st == TIER_OK)
        st = kern_fail(o, kern_upload(*out, 0, data, bytes), err);
    free(data);
    return st;
}

static enum tier_status make(struct ours *o, const struct model *m, const char *folder,
                             struct tier_err *err) {
    char path[4200];
    size_t bytes;

    snprintf(path, sizeof path, "%s/model.onnx", folder);
    o->rows = m->rows;
    TIER_TRY(tier_graph_open(path, &o->graph, err));
    TIER_TRY(spoke_net_new(o->dev, o->graph, m->loss, o->rows, &o->net, err));
    bytes = o->rows * spoke_net_features(o->net) * sizeof(float);
    TIER_TRY(load(o, folder, "x.bin", bytes, &o->x, err));
    bytes = o->rows * spoke_net_spots(o->net) * sizeof(float);
    TIER_TRY(load(o, folder, "target.bin", bytes, &o->target, err));
    TIER_TRY(kern_fail(o, kern_buf_new(o->dev, sizeof(float), &o->loss), err));
    bytes = spoke_net_trained(o->net) * sizeof(float);
    TIER_TRY(kern_fail(o, kern_buf_new(o->dev, bytes, &o->momentum), err));
    return kern_fail(o, kern_zero(o->momentum, 0, bytes), err);
}

static enum tier_status step(struct ours *o, struct tier_err *err) {
    const struct kern_sgd opt = {.lr = LR, .momentum = MOMENTUM};
    struct kern_vec loss = {o->loss, 0}, x = {o->x, 0}, target = {o->target, 0};

    TIER_TRY(kern_fail(o, kern_zero(o->loss, 0, sizeof(float)), err));
    TIER_TRY(spoke_net_backward(o->net, x, target, o->rows, loss, err));
    return kern_fail(o,
                     kern_sgd_step(spoke_net_params(o->net), spoke_net_grads(o->net),
                                   (struct kern_vec){o->momentum, 0}, spoke_net_trained(o->net),
                                   &opt),
                     err);
}

/* The same words as train_peer.py; a line that is no answer is an error's text. */
static void answer(const struct model *m, const char *folder, FILE *from, FILE *to) {
    struct ours o = {0};
    struct tier_err err = {0};
    char line[64];
    enum tier_status st = TIER_OK;

    setvbuf(to, NULL, _IOLBF, 0);
    kern_init(NULL);
    if (kern_device_open("cpu", THREADS, &o.dev) != KERN_OK) {
        fprintf(to, "cannot open the CPU\n");
        return;
    }
    fprintf(to, "loaded\n");
    while (st == TIER_OK && fgets(line, sizeof line, from)) {
        if (strncmp(line, "model", 5) == 0) {
            st = make(&o, m, folder, &err);
            if (st == TIER_OK)
                fprintf(to, "ready\n");
            continue;
        }
        float loss = NAN;
        double begin = bench_now_s();
        for (unsigned long n = strtoul(line + 5, NULL, 10); n > 0 && st == TIER_OK; n--)
            st = step(&o, &err);
        double seconds = bench_now_s() - begin;
        if (st == TIER_OK)
            st = kern_fail(&o, kern_download(&loss, o.loss, 0, sizeof loss), &err);
        if (st == TIER_OK)
            fprintf(to, "%.9f %.9g\n", seconds, (double)loss);
    }
    if (st != TIER_OK)
        fprintf(to, "%s\n", err.text);
    kern_buf_free(o.x);
    kern_buf_free(o.target);
    kern_buf_free(o.loss);
    kern_buf_free(o.momentum);
    spoke_net_free(o.net);
    tier_graph_free(o.graph);
    kern_device_close(o.dev);
}

/* ---- two processes --------------------------------------------------------------------------- */

struct side {
    const char *name;
    pid_t pid;
    FILE *to, *from;
    uint64_t before, peak; /* bytes resident before there was a model; the peak */
    unsigned long block;   /* steps of a turn */
    double step_s[PAIRS_MAX], loss;
    size_t turns;
};

/* Ours where `python` is NULL. */
static enum tier_status begin(struct side *s, const struct model *m, const char *python,
                              const char *peer, const char *folder, struct tier_err *err) {
    int there[2], back[2];

    if (pipe(there) != 0)
        return tier_fail(err, TIER_EIO, "no pipe: %s", strerror(errno));
    if (pipe(back) != 0) {
        close(there[0]);
        close(there[1]);
        return tier_fail(err, TIER_EIO, "no pipe: %s", strerror(errno));
    }
    s->pid = fork();
    if (s->pid == 0) {
        close(there[1]);
        close(back[0]);
        if (python) {
            dup2(there[0], STDIN_FILENO);
            dup2(back[1], STDOUT_FILENO);
            execlp(python, python, peer, "run", m->name, folder, (char *)NULL);
        } else {
            FILE *from = fdopen(there[0], "r"), *to = fdopen(back[1], "w");
            if (from && to)
                answer(m, folder, from, to);
            if (to)
                fclose(to);
        }
        _exit(127);
    }
    close(there[0]);
    close(back[1]);
    s->to = fdopen(there[1], "w");
    s->from = fdopen(back[0], "r");
    if (s->pid < 0 || !s->to || !s->from)
        return tier_fail(err, TIER_EIO, "%s: no process: %s", s->name, strerror(errno));
    setvbuf(s->to, NULL, _IOLBF, 0);
    return TIER_OK;
}

static void finish(struct side *s) {
    if (s->to)
        fclose(s->to);
    if (s->from)
        fclose(s->from);
    if (s->pid > 0) {
        kill(s->pid, SIGKILL);
        waitpid(s->pid, NULL, 0);
    }
}

/* Lets the process run until it has answered `line` (NULL: it speaks first). */
static enum tier_status ask(struct side *s, const char *line, char *text, size_t size,
                            struct tier_err *err) {
    kill(s->pid, SIGCONT);
    if (line)
        fprintf(s->to, "%s\n", line);
    bool fine = fgets(text, (int)size, s->from) != NULL;
    kill(s->pid, SIGSTOP);
    if (!fine)
        return tier_fail(err, TIER_EINTERNAL, "%s ended", s->name);
    text[strcspn(text, "\n")] = '\0';
    return TIER_OK;
}

static enum tier_status ask_for(struct side *s, const char *line, const char *right,
                                struct tier_err *err) {
    char text[512];
    TIER_TRY(ask(s, line, text, sizeof text, err));
    return strcmp(text, right) == 0 ? TIER_OK
                                    : tier_fail(err, TIER_EINTERNAL, "%s: %s", s->name, text);
}

static enum tier_status turn(struct side *s, unsigned long steps, double *step_s,
                             struct tier_err *err) {
    char line[64], text[512], *after, *end;

    snprintf(line, sizeof line, "step %lu", steps);
    TIER_TRY(ask(s, line, text, sizeof text, err));
    double seconds = strtod(text, &after);
    s->loss = strtod(after, &end);
    if (after == text || end == after)
        return tier_fail(err, TIER_EINTERNAL, "%s: %s", s->name, text);
    *step_s = seconds / (double)steps;
    return TIER_OK;
}

/* The peak starts again from what is resident now. */
static enum tier_status set_back_peak(struct side *s, struct tier_err *err) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/clear_refs", (int)s->pid);
    FILE *f = fopen(path, "w");
    bool fine = f && fputs("5", f) >= 0;
    if (f)
        fine = fclose(f) == 0 && fine;
    s->before = bench_resident_peak(s->pid);
    return fine ? TIER_OK : tier_fail(err, TIER_EIO, "%s: %s", path, strerror(errno));
}

/* ---- the bench ------------------------------------------------------------------------------- */

static enum tier_status export_model(const struct model *m, const char *python, const char *peer,
                                     const char *folder, struct tier_err *err) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execlp(python, python, peer, "export", m->name, folder, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ||
        WEXITSTATUS(status) != 0)
        return tier_fail(err, TIER_EINTERNAL,
                         "'%s' cannot export the model: CONSILIUM_PYTHON must name a Python with "
                         "torch, torchvision, onnx and numpy",
                         python);
    return TIER_OK;
}

/* The first step's loss, then as many steps as fill a turn; neither is counted. */
static enum tier_status warm_up(struct side *s, double *loss_out, struct tier_err *err) {
    double step_s = 0;

    TIER_TRY(ask_for(s, "model", "ready", err));
    TIER_TRY(turn(s, 1, &step_s, err));
    *loss_out = s->loss;
    TIER_TRY(turn(s, 1, &step_s, err));
    s->block = step_s < BLOCK_S ? (unsigned long)ceil(BLOCK_S / fmax(step_s, 1e-5)) : 1;
    return turn(s, s->block, &step_s, err);
}

static enum tier_status measure(struct side side[2], double until, double loss[2],
                                struct tier_err *err) {
    for (int i = 0; i < 2; i++) {
        TIER_TRY(ask_for(&side[i], NULL, "loaded", err));
        TIER_TRY(set_back_peak(&side[i], err));
    }
    for (int i = 0; i < 2; i++)
        TIER_TRY(warm_up(&side[i], &loss[i], err));
    if (!(fabs(loss[0] - loss[1]) <= 1e-3 * fabs(loss[1])))
        return tier_fail(err, TIER_EINTERNAL,
                         "the losses of the first step differ: ours %.6g, PyTorch's %.6g", loss[0],
                         loss[1]);
    while (side[1].turns < PAIRS_MAX && (side[1].turns < 3 || bench_now_s() < until))
        for (int i = 0; i < 2; i++) {
            struct side *s = &side[i];
            TIER_TRY(turn(s, s->block, &s->step_s[s->turns], err));
            s->turns++;
        }
    for (int i = 0; i < 2; i++)
        side[i].peak = bench_resident_peak(side[i].pid);
    return TIER_OK;
}

static json_t *describe(struct side *s, double first_loss) {
    return json_pack("{s:o, s:I, s:I, s:I, s:I, s:f}", "step_s", bench_spread(s->step_s, s->turns),
                     "turns", (json_int_t)s->turns, "steps_a_turn", (json_int_t)s->block,
                     "memory_bytes", (json_int_t)(s->peak - s->before), "memory_before_bytes",
                     (json_int_t)s->before, "first_loss", first_loss);
}

static void report(const struct model *m, struct side side[2], const double loss[2],
                   struct bench_result *r) {
    double pair[PAIRS_MAX];
    size_t turns = side[1].turns;

    for (size_t i = 0; i < turns; i++)
        pair[i] = side[0].step_s[i] / side[1].step_s[i];
    json_object_set_new(r->detail, "threads", json_integer(THREADS));
    json_object_set_new(r->detail, "pair_ratio", bench_spread(pair, turns));
    double memory =
        (double)(side[0].peak - side[0].before) / (double)(side[1].peak - side[1].before);
    json_object_set_new(r->detail, "memory_ratio", json_real(memory));
    for (int i = 0; i < 2; i++)
        json_object_set_new(r->detail, side[i].name, describe(&side[i], loss[i]));
    r->value = bench_median(side[0].step_s, turns);
    r->ratio = r->value / bench_median(side[1].step_s, turns);
    bench_bar(r, "time", r->ratio, m->time_bar);
    bench_bar(r, "memory", memory, MEMORY_BAR);
    r->unit = "s a step";
    r->against = "PyTorch on the CPU with as many threads, in turns";
}

enum tier_status bench_train(const struct bench_options *o, struct bench_result *r,
                             struct tier_err *err) {
    const char *python = getenv("CONSILIUM_PYTHON");
    const char *peer = CONSILIUM_SOURCE_DIR "/tests/bench/train_peer.py";
    struct side side[2] = {{.name = "ours"}, {.name = "pytorch"}};
    const struct model *m = NULL;
    double loss[2] = {NAN, NAN}, start = bench_now_s(), left = (double)o->limit_s / 2;

    for (size_t i = 0; o->name && i < sizeof models / sizeof models[0]; i++)
        if (strcmp(models[i].name, o->name) == 0)
            m = &models[i];
    if (!m)
        return tier_fail(err, TIER_EARG,
                         "train: '%s' must be mlp-heart, resnet18-28, resnet18-64, unet3d-48 or "
                         "densenet121-64",
                         o->name ? o->name : "");
    if (!python || !*python)
        return tier_fail(err, TIER_EARG,
                         "train: CONSILIUM_PYTHON is not set: it must name a Python with torch, "
                         "torchvision, onnx and numpy, which makes the model and is compared with");
    signal(SIGPIPE, SIG_IGN);
    TIER_TRY(export_model(m, python, peer, o->work, err));
    json_object_set_new(r->detail, "rows", json_integer((json_int_t)m->rows));
    enum tier_status st = begin(&side[0], m, NULL, NULL, o->work, err);
    if (st == TIER_OK)
        st = begin(&side[1], m, python, peer, o->work, err);
    if (st == TIER_OK)
        st = measure(side, start + fmin(left, MEASURE_S), loss, err);
    if (st == TIER_OK)
        report(m, side, loss, r);
    for (int i = 0; i < 2; i++)
        finish(&side[i]);
    return st;
}
