/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hub: parent to its children, and, unless it is the top, child to its own parent, whose
 * "training" is to run a round among its children. hub.c wires the two sides of the edge to runs,
 * run.c is one run, console.c answers operators.
 *
 * Threads: the loop's; long work (checking, folding, publishing) goes to the worker.
 */
#ifndef CONSILIUM_HUB_H
#define CONSILIUM_HUB_H

#include "tier/authority.h"
#include "tier/follow.h"
#include "tier/heads.h"
#include "tier/home.h"
#include "tier/ledger.h"
#include "tier/link.h"
#include "tier/loop.h"
#include "tier/merge.h"
#include "tier/renewal.h"
#include "tier/round.h"
#include "tier/serve.h"
#include "tier/stale.h"
#include "tier/task.h"

#include <stdatomic.h>

struct hub;

enum hub_run_state { HUB_RUN_OPEN, HUB_RUN_COMPLETED, HUB_RUN_STOPPED, HUB_RUN_FAILED };
const char *hub_run_state_text(enum hub_run_state state);

#define HUB_RECORDS 256
struct hub_record;

enum hub_child_role { HUB_CHILD_UNKNOWN, HUB_CHILD_SPOKE, HUB_CHILD_HUB };
struct hub_contributor; /* hub/contributor.h */

struct hub_child {
    enum hub_child_role role; /* by its certificate; of a run with secure.sums alone */
    char name[TIER_NAME_LEN_MAX + 1];
    char called[TIER_NAME_LEN_MAX + 1]; /* its pseudonym in the run, once it is known; or "" */
    bool accepted, declined, attending;
    bool waiting;           /* a person decides there: it is not counted in meanwhile */
    bool attested;          /* on this stream (hub/attest.h) */
    struct tier_hash nonce; /* that it is asked with; zero: it is not */
    char phase[64];         /* as it last reported, for people */
    uint32_t done, total;
    bool has_early; /* buffered: its update arrived while no round was open to take it */
    struct tier_round_event early;
    struct hub_contributor *record; /* NULL where this tier looks at no single update */
};

struct hub_run {
    struct hub *hub;
    struct hub_run *next;
    struct tier_hash id;
    char hex[TIER_HASH_HEX];
    enum hub_run_state state;
    char reason[TIER_REASON_LEN_MAX + 1];
    int64_t created_ms;
    struct tier_plan plan;
    char *plan_text, *signature; /* as they came; signature NULL: it is not signed */
    size_t plan_bytes, signature_bytes;
    struct tier_manifest *manifest; /* NULL until the graph is here */
    uint64_t classes, spots;        /* of the model's output, likewise */

    struct tier_hash
        screened; /* of the open round: the updates that were, together (tier/screen.h) */

    struct hub_child *children; /* index = the round's child number */
    size_t child_count;

    struct tier_hash model;        /* last published, or the first */
    struct tier_hash server_state; /* of the root's optimiser, beside model; zero: none */
    struct tier_round round;       /* number 0: none yet */
    struct tier_hash base_model;   /* of the round */
    struct tier_fold_version before[TIER_STALENESS_LIMIT + 1]; /* earlier rounds, newest first */
    size_t before_count;         /* whose base models are kept: children may be at work on them */
    struct tier_hash base_delta; /* what makes it of the model base_before; zero: not here */
    struct tier_hash base_before;
    const struct tier_merge_ops *rule; /* of this tier; NULL: the mean */
    struct tier_hash kept_update;      /* the last committed round's own, where the rule needs it */
    struct tier_hash last_receipt;     /* the update's */
    uint64_t wanted_round;             /* the parent asked for it; not open yet */
    struct tier_follow_target wanted;  /* its base */
    struct tier_follow follow;         /* of a hub: gets it */
    uint64_t deadline_at_ms;           /* monotonic; 0: none */
    struct tier_timer *deadline, *retry;
    bool folding, publishing; /* a job is on the worker */
    unsigned part_failures;   /* of the open round, one after the other */
    bool fold_void;           /* what it folds has been withdrawn from: its result is dropped */
    bool counted;             /* the committed round's own update is in the result */
    bool by_receipt;          /* one that this node has lost all record of is */
    uint64_t unsure_round;    /* the last such round; 0: none */
    struct tier_task_stop stop;
    struct hub_secure *secure; /* NULL: the plan hides no updates (hub/secure.h) */
    uint64_t progress_ms;      /* when the parent was last told how far we are */
};

struct hub {
    const struct tier_config *config;
    struct tier_home home;
    struct tier_loop *loop;
    struct tier_worker *worker, *appraiser;
    struct hub_shares *sharing; /* what the appraiser has to do (hub/shares.h) */
    uint64_t shares_made;       /* the worker's */
    struct tier_intake *intake;
    struct tier_fold_devices *fold_devices; /* NULL: folds are added on the CPU alone */
    struct tier_serve *serve;
    struct tier_link *link; /* NULL at the top */
    struct tier_authority *authority;
    struct tier_rpc_server *enrollment;
    struct hub_run *runs;                    /* newest first */
    struct hub_record *records[HUB_RECORDS]; /* of children, by hash of the name */
    struct tier_heads_edge above;            /* with the parent */
    struct tier_rpc_server *console;         /* NULL where operators call on Tier's port */
    struct hub_console_call *console_calls;
    bool console_closed;
    struct tier_ledger *ledger;   /* of noise that is drawn here; NULL: none was, since the start */
    uint64_t expired_ms;          /* when what is retained was last looked through; 0: not yet */
    struct tier_renewal *renewal; /* NULL without TLS */
    struct tier_timer *standing;
    unsigned ticks, renewals; /* of those below that are on their way up */
    bool authority_mute;      /* it did not give its list when it was last asked */
    bool failed;              /* stopped on an error of its own */
    atomic_bool closing;      /* for the worker: nothing that takes long is worth its end */
};

/* Opens the home, restores runs, serves. The loop must be run afterwards. */
enum tier_status hub_open(const struct tier_config *config, struct tier_loop *loop, struct hub *out,
                          struct tier_err *err);
void hub_close(struct hub *hub);
bool hub_is_top(const struct hub *hub);
/* By id; NULL if there is none. */
struct hub_run *hub_run_find(const struct hub *hub, const struct tier_hash *id);
/* A failure of the node itself (its journal, its disk) that it cannot go on with. */
void hub_stop_on(struct hub *hub, const struct tier_err *err);
/*
 * Notes that a child said what costs a line in the logs and helps nobody: a refused offer, an
 * answer taken back, a stream that came and went. One is forgiven each second; a child with
 * hundreds more is sent away and may come back later, so none can fill the disk.
 */
void hub_fault(struct hub *hub, const char *child);
/* The exchange of heads with a child. */
struct tier_heads_edge *hub_edge_of(struct hub *hub, const char *child);
/* Waits for the disk to have the audit log; a log that it does not take stops the node. */
void hub_audit_sync(struct hub *hub);
/* Appends to the audit log; a log that cannot be written stops the node. */
#define hub_audit(hub, event, ...)                                                                 \
    do {                                                                                           \
        struct tier_err audit_err_ = {0};                                                          \
        if (tier_audit_note((hub)->home.audit, tier_wall_ms(), event, &audit_err_, __VA_ARGS__,    \
                            NULL) != TIER_OK)                                                      \
            hub_stop_on(hub, &audit_err_);                                                         \
    } while (0)

/* ---- run.c ---- */

/* As it arrives. Borrowed. */
struct hub_plan {
    const void *text; /* canonical */
    size_t bytes;
    const void *signature; /* tier/signed.h */
    size_t signature_bytes;
};

/* A new run of a plan, whose graph is in the models directory at the top. `id` NULL: make one.
 * Refused where it has expired, or is not signed as it should be. */
enum tier_status hub_run_begin(struct hub *hub, const struct tier_hash *id,
                               const struct hub_plan *plan, struct hub_run **out,
                               struct tier_err *err);
/* The top: opens round 1 when enough children take part. */
void hub_run_first_round(struct hub_run *run);
/* A hub: gets the graph from its parent, then answers the plan. */
void hub_run_want_graph(struct hub_run *run);
/* Every run in the journal, with its open round. */
enum tier_status hub_run_restore_all(struct hub *hub, struct tier_err *err);
void hub_run_free(struct hub_run *run);
void hub_run_finish(struct hub_run *run, enum hub_run_state state, const char *reason);
/* The top: the round that is empty stays without a result, and the next begins from its model. */
void hub_run_skip(struct hub_run *run);

/* A list of the revoked came, or is here after a restart: the top ends the runs whose plans were
 * signed by who is on it, with their open rounds. Below it no further round of them opens. */
void hub_run_check_signers(struct hub *hub);

/* From children. */
void hub_run_attending(struct hub_run *run, const char *child);
void hub_run_left(struct hub_run *run, const char *child);
void hub_run_answered(struct hub_run *run, const char *child, bool accepted, const char *reason);
/* Not answered yet: a person decides. */
void hub_run_waits(struct hub_run *run, const char *child, const char *reason);
/* Takes the child's update out of its round where that is exact; tells it so, or why not. */
void hub_run_withdrew(struct hub_run *run, const char *child, uint64_t round,
                      const struct tier_hash *update, const char *reason);
void hub_run_offered(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *header);
void hub_run_declined(struct hub_run *run, const char *child, uint64_t round, const char *reason);
void hub_run_progressed(struct hub_run *run, const char *child, uint64_t round, const char *phase,
                        uint32_t done, uint32_t total);
void hub_run_arrived(struct hub_run *run, const char *child, const struct tier_hash *id,
                     const struct tier_update_header *header, bool checked);

/* From the parent. */
void hub_run_round(struct hub_run *run, uint64_t round, const struct tier_follow_target *base,
                   uint64_t deadline_ms);
void hub_run_receipt(struct hub_run *run, const struct tier_receipt *receipt);
void hub_run_refused(struct hub_run *run, uint64_t round, const char *reason);
/* `missed`: the published result does not hold this hub's update; `by_receipt`: the parent does not
 * know, and it does if this hub has a receipt for it. */
void hub_run_committed(struct hub_run *run, uint64_t round, bool missed, bool by_receipt);

/* ---- heads.c ---- */

/* May this child, or the parent, be dealt with? Not where it has shown two histories. */
enum tier_status hub_heads_child(struct hub *hub, const char *child, struct tier_err *err);
void hub_heads_from_child(void *owner, const char *child, const struct tier_head *head);
/* With a commit or an end, which say that it comes: the head that the disk now has. */
void hub_heads_tell(struct hub *hub, const char *child);
/* The parent attends: false where it is not to be dealt with. */
bool hub_heads_up(struct hub *hub);
void hub_heads_from_parent(struct hub *hub, const struct tier_head *head);

/* ---- console.c ---- */

extern const struct tier_rpc_method hub_console_methods[];
extern const size_t hub_console_method_count;
/* Serves operators on a port of their own, where one is configured. */
enum tier_status hub_console_open(struct hub *hub, struct tier_err *err);
/* Watchers of the run are told, soon. */
void hub_console_changed(struct hub *hub, struct hub_run *run);
/* Ends the calls; those on Tier's port are released with its server. */
void hub_console_close(struct hub *hub);

/* ---- enroll.c ---- */

enum tier_status hub_enroll_open(struct hub *hub, struct tier_err *err);
/* The node's certificate is another one. */
enum tier_status hub_enroll_reload(struct hub *hub, struct tier_err *err);
void hub_enroll_close(struct hub *hub);

/* ---- standing.c ---- */

/* Certificates while the hub runs: its own is renewed, the revoked are cut off. After the edges and
 * the authority are open. */
enum tier_status hub_standing_open(struct hub *hub, struct tier_err *err);
/* After the link is freed. */
void hub_standing_close(struct hub *hub);
/* A list came, from the parent or the authority. Errors: tier_home_take_revocations. */
enum tier_status hub_revocations_came(struct hub *hub, const uint8_t *der, size_t bytes,
                                      struct tier_err *err);
/* Sends a child what is known; nothing where there is no list. */
void hub_revocations_tell(struct hub *hub, const char *child);
/* Served beside Tier, to be asked by children: what the authority answers. */
#define HUB_AUTHORITY_METHODS 2
extern const struct tier_rpc_method hub_authority_methods[HUB_AUTHORITY_METHODS];

#endif
