/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A plan: what a researcher asks the federation to compute, as data that a steward can read and
 * refuse. It is written in YAML (`plan: 1`), resolved once where it is submitted (defaults filled
 * in, the model's file replaced by its SHA-256), and travels as one canonical text, sorted compact
 * JSON, whose SHA-256 is the plan's identity. Loading checks everything that can be known without
 * the data, and proves that the sums of the run cannot overflow.
 *
 * Threads: no shared state. A plan owns nothing and may be copied; it is large (about 60 KiB).
 */
#ifndef CONSILIUM_TIER_PLAN_H
#define CONSILIUM_TIER_PLAN_H

#include "tier/hash.h"
#include "tier/keys.h"

#include <math.h>

struct tier_graph;

#define TIER_PLAN_VERSION 1
#define TIER_PLAN_PURPOSE_BYTES 512
#define TIER_PLAN_PATH_BYTES 1024

enum tier_plan_loss {
    TIER_PLAN_BCE,
    TIER_PLAN_CROSS_ENTROPY,
    TIER_PLAN_DICE,
    TIER_PLAN_DICE_CE,
    TIER_PLAN_MSE,
    TIER_PLAN_L1,
    TIER_PLAN_COX,
};
#define TIER_PLAN_IGNORE_NONE 1024 /* no class has that number */
/* Options of the losses; kernels/loss.h defines what they do. */
struct tier_plan_loss_options {
    struct tier_keys_list class_weights; /* numbers, a class each; none: all the same */
    uint64_t ignore_class;               /* TIER_PLAN_IGNORE_NONE: none */
    double pos_weight;                   /* bce */
    struct {
        double smooth_nr, smooth_dr;
        bool batch, include_background;
        double lambda_dice, lambda_ce; /* dice_ce */
    } dice;
};
enum tier_plan_optimiser { TIER_PLAN_SGD, TIER_PLAN_ADAM, TIER_PLAN_ADAMW };
enum tier_plan_precision {
    TIER_PLAN_PRECISION_F32,
    TIER_PLAN_PRECISION_TF32,
    TIER_PLAN_PRECISION_BF16,
    TIER_PLAN_PRECISION_F16
};
enum tier_plan_schedule { TIER_PLAN_CONSTANT, TIER_PLAN_STEP, TIER_PLAN_COSINE };
enum tier_plan_per { TIER_PLAN_PER_ROUND, TIER_PLAN_PER_STEP };
enum tier_plan_weights { TIER_PLAN_SAMPLES, TIER_PLAN_UNIFORM };
enum tier_plan_noise_at { TIER_PLAN_AT_SPOKES, TIER_PLAN_AT_TOP };
enum tier_plan_metric {
    TIER_PLAN_METRIC_NONE,
    TIER_PLAN_ACCURACY,
    TIER_PLAN_AUC,
    TIER_PLAN_LOSS,
    TIER_PLAN_METRIC_DICE,
    TIER_PLAN_METRIC_MSE,
    TIER_PLAN_METRIC_MAE,
    TIER_PLAN_METRIC_CONCORDANCE,
};
enum tier_plan_server_kind {
    TIER_PLAN_SERVER_NONE,
    TIER_PLAN_SERVER_MOMENTUM,
    TIER_PLAN_SERVER_ADAM,
    TIER_PLAN_SERVER_YOGI,
    TIER_PLAN_SERVER_ADAGRAD,
};

enum tier_plan_codec_name {
    TIER_PLAN_F32,
    TIER_PLAN_F16,
    TIER_PLAN_BF16,
    TIER_PLAN_Q8,
    TIER_PLAN_Q4,
    TIER_PLAN_TOP_K,
    TIER_PLAN_ONE_BIT,
};

enum tier_plan_down {
    TIER_PLAN_DOWN_F32,
    TIER_PLAN_DOWN_BF16,
    TIER_PLAN_DOWN_Q8,
    TIER_PLAN_DOWN_Q4
};

enum tier_plan_entropy { TIER_PLAN_ENTROPY_NONE, TIER_PLAN_ENTROPY_ZSTD };

/* The form in which a spoke's deltas travel, and models down. All zero is float32, as they are. */
struct tier_plan_codec {
    int name;            /* enum tier_plan_codec_name */
    bool error_feedback; /* what is dropped goes into the next round's deltas */
    double share;        /* top_k: of the elements, above 0 and at most 1; 0 for the others */
    int down;            /* enum tier_plan_down */
    int entropy;         /* enum tier_plan_entropy: of what spokes send */
};

/* The optimiser at the top. What the kind does not have is NAN. */
struct tier_plan_server {
    int kind; /* enum tier_plan_server_kind */
    double lr, momentum, beta1, beta2, tau;
};
#define TIER_PLAN_SERVER_OFF                                                                       \
    ((struct tier_plan_server){TIER_PLAN_SERVER_NONE, NAN, NAN, NAN, NAN, NAN})

/* Differential privacy of a whole site's update (tier/site.h). All zero is none. */
struct tier_plan_site {
    double clip;        /* of a site's change in a round, its norm; 0: none, and none of the rest */
    double noise;       /* of the sum over sites: its standard deviation, divided by clip */
    double delta;       /* that epsilon is told at */
    double epsilon_max; /* what a site may be made to pay */
    int at;             /* enum tier_plan_noise_at: who draws it */
    uint64_t honest;    /* AT_SPOKES: that many sites' noise together is the noise; else 0 */
    struct {
        double quantile; /* of the sites, whose change is to be below the clip; 0: the clip stays */
        double rate;     /* by which its logarithm moves */
        double noise;    /* of the count of sites below it, divided by what one adds to it */
    } adapt;
};

/* Whom a plan trusts: tier/plan_mode.c. */
enum tier_plan_mode { TIER_PLAN_TRUSTED, TIER_PLAN_UNTRUSTED };

/* What a plan is for, in the terms of GA4GH's Data Use Ontology where it has them: general
 * research GRU, health research HMB, disease research DS, care CC. */
enum tier_plan_purpose {
    TIER_PLAN_UNSTATED,
    TIER_PLAN_GENERAL_RESEARCH,
    TIER_PLAN_HEALTH_RESEARCH,
    TIER_PLAN_DISEASE_RESEARCH,
    TIER_PLAN_METHOD_DEVELOPMENT,
    TIER_PLAN_QUALITY,
    TIER_PLAN_PUBLIC_HEALTH,
    TIER_PLAN_CARE,
    TIER_PLAN_EDUCATION,
};

/* What a node must show of itself before it takes part (tier/attest.h). */
enum tier_plan_attest { TIER_PLAN_ATTEST_NONE, TIER_PLAN_ATTEST_TPM };

/* What a data steward decides by. "": the plan does not say. */
struct tier_plan_governance {
    int purpose; /* enum tier_plan_purpose */
    char legal_basis[256], ethics[256];
    char author[TIER_NAME_LEN_MAX + 1]; /* of the signature, where there is one (tier/signed.h) */
    char expires[16];                   /* "2027-01-31": the last day, UTC, on which rounds open */
    int attest;                         /* enum tier_plan_attest: of every node but the top */
    struct tier_keys_list attest_allow; /* of what it may show */
};

enum tier_plan_rule { /* how a tier merges its children's updates */
                      TIER_PLAN_MEAN,
                      TIER_PLAN_MEDIAN,
                      TIER_PLAN_TRIMMED_MEAN,
                      TIER_PLAN_KRUM,
                      TIER_PLAN_MULTI_KRUM,
                      TIER_PLAN_GEOMETRIC_MEDIAN,
                      TIER_PLAN_CENTRED_CLIPPING,
                      TIER_PLAN_NORM_BOUND,
};
enum tier_plan_mix { TIER_PLAN_MIX_NONE, TIER_PLAN_MIX_NEAREST };

/* Whether a tier waits for its children round by round, or buffers (tier/stale.h). */
enum tier_plan_sync { TIER_PLAN_ROUNDS, TIER_PLAN_BUFFERED };

/* Who may see one hospital's update (tier/mask.h). */
enum tier_plan_secure {
    TIER_PLAN_SECURE_NONE,   /* its parent */
    TIER_PLAN_SECURE_REGION, /* nobody: its parent has the sum over all spokes below it */
};
enum tier_plan_bits { TIER_PLAN_BITS_64, TIER_PLAN_BITS_32 /* tier/narrow.h */ };
/* What becomes of a run in a round that is given up at the top. */
enum tier_plan_lost { TIER_PLAN_LOST_END, TIER_PLAN_LOST_SKIP };

/* What a hub keeps of its children's updates until the commit. */
enum tier_plan_retain { TIER_PLAN_RETAIN_UPDATES, TIER_PLAN_RETAIN_SUMS };

/* All zero is the mean. 0 stands for a number that is absent: the rule does not take it, or, for
 * select and radius, works it out from the round's own updates. */
struct tier_plan_merge {
    struct tier_keys_rule rule; /* choice: enum tier_plan_rule */
    int mix;                    /* enum tier_plan_mix: before the rule */
    double byzantine;           /* below 1 a share of the updates, else a number of them */
    uint64_t select;
    double radius;
    uint64_t iterations;
    double smoothing;
};

#define TIER_PLAN_LOSS_PLAIN                                                                       \
    ((struct tier_plan_loss_options){                                                              \
        {0}, TIER_PLAN_IGNORE_NONE, 1, {1e-5, 1e-5, false, true, 1, 1}})

/* All zero: every update counts. */
struct tier_plan_screen {
    double norm;            /* times the median of the round's norms; 0: no limit */
    double cosine_distance; /* to the median of the round; 0: no limit */
    double loss;            /* times the base model's on the hub's own data; 0: no limit */
    uint64_t strikes;       /* rounds in a row that keep a child out; 0: none do */
};

struct tier_plan_tier {
    int sync;                  /* enum tier_plan_sync */
    struct tier_quorum quorum; /* with BUFFERED: the buffer */
    uint64_t staleness_max;    /* with BUFFERED: rounds that an update may be behind; else 0 */
    uint64_t deadline_s;       /* 0: none */
    int retain;                /* enum tier_plan_retain */
    struct tier_plan_merge merge;
    struct tier_plan_screen screen; /* tier/screen.h */
    struct {
        uint64_t permutations; /* at most, of sampled Shapley values; 0: none are worked out */
    } contribution;            /* tier/contribution.h */
};

struct tier_plan {
    uint64_t version;
    char name[TIER_NAME_LEN_MAX + 1];
    char purpose[TIER_PLAN_PURPOSE_BYTES];
    int mode;                         /* enum tier_plan_mode */
    struct tier_keys_list exceptions; /* promises of UNTRUSTED that it does not keep */
    struct tier_plan_governance governance;
    char model_sha256[TIER_HASH_HEX]; /* of the ONNX file, lower-case hex */
    uint64_t model_bytes;
    char contract[TIER_NAME_LEN_MAX + 1]; /* the name a spoke's data schema must carry */
    uint64_t fold;                        /* which of the schema's hashed splits */

    int loss; /* enum tier_plan_loss */
    struct tier_plan_loss_options loss_options;
    struct {                               /* what the kind does not have is NAN, or false */
        int kind;                          /* enum tier_plan_optimiser */
        double lr, momentum, weight_decay; /* momentum: SGD only */
        bool nesterov;                     /* SGD only */
        double beta1, beta2, eps;          /* Adam, AdamW */
    } optimiser;
    struct {                        /* of the learning rate (spoke/train.h); in rounds */
        int kind;                   /* enum tier_plan_schedule */
        int per;                    /* enum tier_plan_per */
        uint64_t warmup, step_size; /* step_size: STEP only, else 0 */
        double gamma, lr_min;       /* STEP; COSINE; what the kind does not have is NAN */
    } schedule;
    double clip_norm, clip_value; /* of a step's gradient; 0: none */
    struct tier_keys_list freeze; /* tensor name patterns: what is not trained */
    double ema;                   /* of the parameters over a round's steps; 0: none */
    struct {                      /* of training rows (spoke/augment.h); false, 0: not done */
        bool flip_x, flip_y, flip_z;
        double rotate_deg, scale, contrast, brightness, noise;
    } augment;
    struct {                        /* windows of images (spoke/patch.h) */
        struct tier_keys_list size; /* sides, slowest first; none: images whole */
        double positive, overlap;
    } patch;
    double prox_mu; /* FedProx; 0: none */
    bool scaffold;  /* SCAFFOLD (tier/scaffold.h) */
    struct {
        double lambda;          /* 0: none */
        double clip;            /* the greatest Fisher information of a parameter */
        uint64_t rows;          /* of a hospital, that it is worked out on; 0: all */
    } curvature;                /* FedCurv (tier/fedcurv.h) */
    bool normalise;             /* FedNova (tier/nova.h) */
    uint64_t normalise_max;     /* most effective steps of a spoke; 0 with steps, which say it */
    int precision;              /* enum tier_plan_precision: of training alone */
    uint64_t batch, accumulate; /* rows at once; batches a step */
    uint64_t steps, epochs;     /* exactly one is not 0 */
    uint64_t seed;              /* below 2^53 */

    struct tier_keys_list share, keep; /* tensor name patterns: what travels, what stays */

    int weights; /* enum tier_plan_weights: how a child's update counts */

    struct {
        double clip;        /* of a row's gradient, its norm; 0: none, and none of what follows */
        double noise;       /* its standard deviation, divided by clip */
        double delta;       /* that epsilon is told at */
        double epsilon_max; /* what a hospital's patients may be made to pay */
    } patient;              /* DP-SGD (tier/budget.h) */
    struct tier_plan_site site;

    struct {
        int sums;            /* enum tier_plan_secure */
        uint64_t cohort_min; /* spokes that a sum is over, at least */
        double threshold;    /* share of the holders of a secret that it takes to know it */
        uint64_t step_s;     /* seconds that spokes have for a step before and after the updates */
        int lost;            /* enum tier_plan_lost */
        double norm_max;     /* of a hospital's change of the parameters; 0: no bound */
        int bits;            /* enum tier_plan_bits: of an element that is summed */
        bool pseudonyms;     /* what its spokes are told each other as (tier/pseudonym.h) */
    } secure;

    double clip;                 /* |x| beyond it is refused, or saturated */
    struct tier_keys_list clips; /* "PATTERN=CLIP": tensors with a clip of their own */
    int frac_bits;               /* f = 30 - ceil(log2 clip): derived, does not travel */
    struct tier_keys_list wide;  /* tensor name patterns that carry a second limb */
    bool saturate;
    uint64_t weight_total_max;
    struct tier_plan_codec codec;

    struct tier_plan_tier top, hub; /* the round at the top; at every hub below it */
    uint64_t rounds;
    uint64_t evaluate_every; /* rounds; 0: never */
    struct {
        int metric;        /* enum tier_plan_metric */
        double target;     /* NAN: none */
        uint64_t patience; /* evaluations without improvement; 0: no limit */
    } stop;
    struct tier_plan_server server;
    struct {
        struct tier_keys_list columns; /* tier/statistics.h; none: the plan trains */
        uint64_t cells_min;            /* the least count above 0 that a hospital tells */
    } statistics;
};

/*
 * Reads the plan a person wrote, and hashes the model it names (a path relative to the plan's
 * folder, which goes to model_path_out of TIER_PLAN_PATH_BYTES; NULL where it is not wanted).
 * Every problem found goes into `problems` (may be NULL), as "file:line: reason"; err has the first
 * and the count. Errors: TIER_EPLAN; TIER_EIO, TIER_ENOTFOUND where the plan itself cannot be read.
 */
enum tier_status tier_plan_load(const char *path, struct tier_plan *out, char *model_path_out,
                                struct tier_problems *problems, struct tier_err *err);

/*
 * The text that travels: JSON, compact, keys sorted, every number exact. Takes a plan from
 * tier_plan_load or tier_plan_parse. The caller frees *text_out with free(3); it is terminated.
 * hash_out (may be NULL) is its SHA-256.
 */
enum tier_status tier_plan_canonical(const struct tier_plan *plan, char **text_out,
                                     size_t *bytes_out, struct tier_hash *hash_out,
                                     struct tier_err *err);

/*
 * The receiving side, which trusts nothing: at most TIER_PLAN_BYTES_MAX, every key present, known,
 * in bounds and consistent, and the text byte for byte the canonical text of what it says, so that
 * one plan has one hash. Errors: TIER_EPLAN, TIER_ELIMIT.
 */
enum tier_status tier_plan_parse(const void *text, size_t bytes, struct tier_plan *out,
                                 struct tier_err *err);

/* 30 - ceil(log2 clip), for a clip in the plan's bounds (1e-20 to 1e30). */
int tier_plan_frac_bits(double clip);

/* f of the tensor of that name: of the first of exact.clips whose pattern matches it, else the
 * plan's. */
int tier_plan_tensor_bits(const struct tier_plan *plan, const char *name);
/* The pattern of entry i of exact.clips; false where the entry is not well formed. */
bool tier_plan_clip_pattern(const struct tier_plan *plan, size_t i,
                            char pattern[TIER_TENSOR_NAME_LEN_MAX + 1]);

/* The sides of local.patch.size, slowest first; how many there are, 0 without. */
#define TIER_PLAN_PATCH_AXES_MAX 3
size_t tier_plan_patch_sides(const struct tier_plan *plan, uint64_t side[TIER_PLAN_PATCH_AXES_MAX]);
/* TIER_EPLAN unless a row of the graph's input is channels and then those sides, where a plan has
 * any. */
enum tier_status tier_plan_patch_fits(const struct tier_plan *plan, const struct tier_graph *graph,
                                      struct tier_err *err);

/*
 * Why the sums of this plan cannot overflow, as one sentence with its numbers; returns buf.
 * Loading and parsing refuse every plan for which it does not hold.
 */
const char *tier_plan_proof(const struct tier_plan *plan, char *buf, size_t bytes);

/* The settings of a round at a hub: its own tier's, by whether it has a parent. Borrowed. */
const struct tier_plan_tier *tier_plan_tier_of(const struct tier_plan *plan, bool is_top);

/*
 * Why a tier of this plan cannot look at its children's updates one by one, as the end of a
 * sentence; NULL: it can. What needs to (the screen, contributions) asks here and nowhere else.
 */
const char *tier_plan_hides_updates(const struct tier_plan *plan, bool is_top);
/* Whether it is asked to: by its rule, its screen or for contributions. */
bool tier_plan_looks_at_updates(const struct tier_plan_tier *tier);

/* "health-research"; NULL outside the enum. Borrowed. */
const char *tier_plan_purpose_text(int purpose);
/* The purpose of that text, or -1. */
int tier_plan_purpose_find(const char *text);
/* Whether the plan's last day, if it names one, is over at that time of the wall clock. */
bool tier_plan_expired(const struct tier_plan *plan, int64_t now_ms);
/* "the plan expired on ...", for whoever is told; returns buf. */
const char *tier_plan_expired_text(const struct tier_plan *plan, char *buf, size_t bytes);
/*
 * What each tier sees of one hospital's data by this plan, line i from 0 on, for a steward to read;
 * NULL behind the last. Returns buf otherwise.
 */
const char *tier_plan_sees(const struct tier_plan *plan, size_t i, char *buf, size_t bytes);

/* A key that a mode sets where the plan does not write it. */
struct tier_plan_mode_key {
    const char *path, *trusted, *untrusted; /* values as tier_keys_text writes them */
    const char *why;
};
/* Entry i; NULL behind the last. */
const struct tier_plan_mode_key *tier_plan_mode_key(size_t i);
/* "untrusted"; NULL outside the enum. Borrowed. */
const char *tier_plan_mode_text(int mode);
/* Whether the plan says that it does not keep that promise of mode: untrusted ("privacy"). */
bool tier_plan_excepts(const struct tier_plan *plan, const char *promise);

/* Whether less of that metric is better. */
bool tier_plan_metric_falls(int metric);

/* "krum", "x-mine". Borrowed. */
const char *tier_plan_rule_text(const struct tier_plan_merge *merge);

/* The table of keys as they travel, for documentation and `plan show`. */
const struct tier_keys_item *tier_plan_keys(size_t *count_out);

#endif
