/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A strand's two jobs are in its own struct and go to one worker, which runs its jobs in order: no
 * lock is needed for what only `absorb` touches, and a worker never waits for the loop to give it
 * the piece that is here already.
 *
 * Credit is counted from the moment a message is asked for, because from then on all of it may
 * come. A message that is long in coming is its sender's doing and is not counted until it is
 * here: else as many slow senders as there is credit would hold up everyone.
 */
#include "tier/intake.h"

#include <stdlib.h>
#include <unistd.h>

#define THREADS_MAX 8u
#define STRAND_JOBS 2u
#define PATIENCE_MS 100u

struct thread {
    struct tier_worker *worker; /* NULL: the loop itself */
    uint8_t *scratch;
    unsigned strands;
};

struct tier_intake {
    struct tier_loop *loop;
    unsigned count; /* of threads; one that is the loop itself where there are none */
    struct thread thread[THREADS_MAX];
    unsigned next;   /* for what is submitted alone */
    unsigned credit; /* messages here, or asked for less than patience_ms ago */
    struct tier_strand *hungry_first, *hungry_last;
    struct tier_strand *strands;
    uint32_t patience_ms;
    struct tier_timer *impatient; /* runs while strands are hungry */
};

struct job {
    struct tier_strand *strand;
    struct tier_rpc_message *message; /* NULL once it is absorbed */
    bool busy;                        /* until the loop knows what became of it */
    bool skipped;                     /* behind a failure */
    size_t bytes;
    enum tier_status st;
    struct tier_err err;
};

struct tier_strand {
    struct tier_intake *intake;
    struct thread *thread;
    struct tier_rpc_call *call;
    const struct tier_strand_events *events;
    void *owner;
    struct job job[STRAND_JOBS];
    /* The thread's: a piece was not absorbed. A word apart from what is the loop's. */
    _Alignas(8) bool failed;
    /* The loop's: */
    _Alignas(8) unsigned used; /* messages asked for or here */
    bool reading;              /* one is asked for */
    bool late;                 /* and is not counted */
    uint64_t asked_ms;
    bool stop; /* the loop's: ask for no more */
    bool ended, closed, telling;
    bool hungry;
    struct tier_strand *hungry_next;
    struct tier_strand *prev, *next; /* the intake's */
};

static void *need(void *p) {
    if (!p)
        abort();
    return p;
}

static void impatient(void *arg);

unsigned tier_intake_threads(void) {
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (cores <= 1)
        return 0;
    return cores - 1 < (long)THREADS_MAX ? (unsigned)(cores - 1) : THREADS_MAX;
}

enum tier_status tier_intake_new(struct tier_loop *loop, unsigned threads, struct tier_intake **out,
                                 struct tier_err *err) {
    struct tier_intake *in = need(calloc(1, sizeof *in));
    enum tier_status st = TIER_OK;

    in->loop = loop;
    in->patience_ms = PATIENCE_MS;
    in->impatient = tier_timer_new(loop, impatient, in);
    threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    in->count = threads ? threads : 1;
    for (unsigned i = 0; i < threads && st == TIER_OK; i++)
        st = tier_worker_new(loop, &in->thread[i].worker, err);
    if (st != TIER_OK) {
        tier_intake_free(in);
        return st;
    }
    for (unsigned i = 0; i < in->count; i++)
        in->thread[i].scratch = need(aligned_alloc(64, TIER_CHUNK_BYTES));
    *out = in;
    return TIER_OK;
}

void tier_intake_free(struct tier_intake *in) {
    if (!in)
        return;
    for (unsigned i = 0; i < THREADS_MAX; i++)
        tier_worker_free(in->thread[i].worker);
    tier_timer_free(in->impatient);
    for (unsigned i = 0; i < THREADS_MAX; i++)
        free(in->thread[i].scratch);
    free(in);
}

unsigned tier_intake_held(const struct tier_intake *in) {
    return in->credit;
}

void tier_intake_set_patience(struct tier_intake *in, uint32_t patience_ms) {
    in->patience_ms = patience_ms;
}

static void submit(struct thread *t, tier_loop_fn work, tier_loop_fn done, tier_loop_fn drop,
                   void *arg) {
    if (t->worker) {
        tier_worker_submit(t->worker, work, done, drop, arg);
        return;
    }
    work(arg);
    done(arg);
}

void tier_intake_submit(struct tier_intake *in, tier_loop_fn work, tier_loop_fn done,
                        tier_loop_fn drop, void *arg) {
    submit(&in->thread[in->next++ % in->count], work, done, drop, arg);
}

/* ---- credit ---- */

static void hungry_add(struct tier_strand *s) {
    struct tier_intake *in = s->intake;
    if (s->hungry)
        return;
    if (!in->hungry_first)
        tier_timer_set(in->impatient, in->patience_ms);
    s->hungry = true;
    s->hungry_next = NULL;
    if (in->hungry_last)
        in->hungry_last->hungry_next = s;
    else
        in->hungry_first = s;
    in->hungry_last = s;
}

static void hungry_remove(struct tier_strand *s) {
    struct tier_intake *in = s->intake;
    struct tier_strand *before = NULL;
    if (!s->hungry)
        return;
    for (struct tier_strand *at = in->hungry_first; at != s; at = at->hungry_next)
        before = at;
    if (before)
        before->hungry_next = s->hungry_next;
    else
        in->hungry_first = s->hungry_next;
    if (in->hungry_last == s)
        in->hungry_last = before;
    s->hungry = false;
}

/* Asks for the next message where there is room for it. */
static void ask(struct tier_strand *s) {
    struct tier_intake *in = s->intake;
    if (s->reading || s->stop || s->used >= STRAND_JOBS)
        return;
    if (in->credit >= TIER_CREDIT_CHUNKS) {
        hungry_add(s);
        return;
    }
    hungry_remove(s);
    s->reading = true;
    s->asked_ms = tier_clock_ms();
    s->used++;
    in->credit++;
    tier_rpc_read(s->call);
}

static void feed(struct tier_intake *in) {
    for (struct tier_strand *h = in->hungry_first, *next; h && in->credit < TIER_CREDIT_CHUNKS;
         h = next) {
        next = h->hungry_next;
        ask(h);
    }
}

static void give_back(struct tier_strand *s) {
    s->used--;
    s->intake->credit--;
    feed(s->intake);
}

/* What was asked for is here, or is not waited for any more: from now on it counts. */
static void count_late(struct tier_strand *s) {
    s->intake->credit += s->late;
    s->late = false;
}

static void impatient(void *arg) {
    struct tier_intake *in = arg;
    uint64_t now = tier_clock_ms();

    for (struct tier_strand *s = in->strands; s; s = s->next) {
        if (!s->reading || s->late || now - s->asked_ms < in->patience_ms)
            continue;
        s->late = true;
        in->credit--;
    }
    feed(in);
    if (in->hungry_first)
        tier_timer_set(in->impatient, in->patience_ms);
}

/* ---- strands ---- */

struct tier_strand *tier_strand_open(struct tier_intake *in, struct tier_rpc_call *call,
                                     const struct tier_strand_events *events, void *owner) {
    struct tier_strand *s = need(calloc(1, sizeof *s));
    struct thread *least = &in->thread[0];

    for (unsigned i = 1; i < in->count; i++)
        if (in->thread[i].strands < least->strands)
            least = &in->thread[i];
    *s = (struct tier_strand){
        .intake = in, .thread = least, .call = call, .events = events, .owner = owner};
    for (unsigned i = 0; i < STRAND_JOBS; i++)
        s->job[i].strand = s;
    s->next = in->strands;
    if (s->next)
        s->next->prev = s;
    in->strands = s;
    least->strands++;
    return s;
}

void tier_strand_read(struct tier_strand *s) {
    ask(s);
}

static unsigned at_work(const struct tier_strand *s) {
    unsigned n = 0;
    for (unsigned i = 0; i < STRAND_JOBS; i++)
        n += s->job[i].busy;
    return n;
}

static void stop_asking(struct tier_strand *s) {
    s->stop = true;
    hungry_remove(s);
    if (s->reading) {
        s->reading = false;
        count_late(s);
        give_back(s);
    }
}

static void release(struct tier_strand *s) {
    const struct tier_strand_events *events = s->events;
    void *owner = s->owner;
    s->thread->strands--;
    if (s->prev)
        s->prev->next = s->next;
    else
        s->intake->strands = s->next;
    if (s->next)
        s->next->prev = s->prev;
    free(s);
    events->released(owner);
}

static void absorb(void *arg) {
    struct job *job = arg;
    struct tier_strand *s = job->strand;
    struct tier_piece_reader piece;

    job->err = (struct tier_err){0};
    job->bytes = 0;
    job->skipped = s->failed;
    if (!job->skipped) {
        job->st = tier_piece_begin(&piece, job->message, &job->err);
        if (job->st == TIER_OK) {
            job->bytes = piece.piece.data_bytes;
            job->st = s->events->absorb(s->owner, &piece, s->thread->scratch, &job->err);
        }
        s->failed = job->st != TIER_OK;
    }
    tier_rpc_message_free(job->message); /* here, where it does not hold up the loop */
    job->message = NULL;
}

static void absorbed(void *arg) {
    struct job *job = arg;
    struct tier_strand *s = job->strand;

    job->busy = false;
    s->telling = true;
    if (!s->closed && !job->skipped) {
        if (job->st != TIER_OK)
            stop_asking(s);
        s->events->absorbed(s->owner, job->st, &job->err, job->bytes); /* may close the strand */
    }
    s->telling = false;
    give_back(s);
    if (s->closed && at_work(s) == 0)
        release(s);
    else if (s->ended && at_work(s) == 0)
        s->events->drained(s->owner);
    else
        ask(s);
}

/* The intake is being freed: every strand is closed. */
static void dropped(void *arg) {
    struct job *job = arg;
    struct tier_strand *s = job->strand;

    tier_rpc_message_free(job->message);
    job->busy = false;
    if (at_work(s) == 0)
        release(s);
}

void tier_strand_take(struct tier_strand *s, struct tier_rpc_message *message) {
    struct job *job = &s->job[s->job[0].busy];
    bool threaded = s->thread->worker != NULL;

    if (!s->reading) /* it was asked for before the strand wanted no more */
        return;
    s->reading = false;
    count_late(s);
    job->busy = true;
    job->message = tier_rpc_message_take(message);
    submit(s->thread, absorb, absorbed, dropped, job);
    if (threaded) /* else that is done already, and the strand may be gone */
        ask(s);
}

void tier_strand_end(struct tier_strand *s) {
    s->ended = true;
    stop_asking(s);
    if (at_work(s) == 0 && !s->closed && !s->telling)
        s->events->drained(s->owner);
}

void tier_strand_close(struct tier_strand *s) {
    if (!s)
        return;
    stop_asking(s);
    s->closed = true;
    if (at_work(s) == 0 && !s->telling)
        release(s);
}

bool tier_strand_idle(const struct tier_strand *s) {
    return at_work(s) == 0;
}
