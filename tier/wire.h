/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the edge as plain structs, and their protobuf bytes (proto/tier.proto). Generated
 * code is included by wire*.c and console_wire.c and nowhere else. Decoding checks every length and
 * number against tier/limits.h and refuses (TIER_EPROTO) what is missing or out of bounds, by field
 * name.
 *
 * Ownership: encoders borrow the struct and give heap bytes; decoders copy nothing large: pointers
 * in a decoded struct live until tier_wire_release.
 *
 * Threads: no shared state.
 */
#ifndef CONSILIUM_TIER_WIRE_H
#define CONSILIUM_TIER_WIRE_H

#include "tier/attest.h"
#include "tier/err.h"
#include "tier/hash.h"
#include "tier/limits.h"
#include "tier/mask.h"
#include "tier/merkle.h"

#include <stdint.h>

#define TIER_PROTOCOL 2
#define TIER_REASON_LEN_MAX 511

#define TIER_PATH_ATTEND "/consilium.Tier/Attend"
#define TIER_PATH_FETCH "/consilium.Tier/Fetch"
#define TIER_PATH_PUSH "/consilium.Tier/Push"
#define TIER_PATH_ENROLL "/consilium.Enrollment/Enroll"
#define TIER_PATH_RENEW "/consilium.Enrollment/Renew"
#define TIER_PATH_PSEUDONYM "/consilium.Enrollment/Pseudonym"

/* The longest control message: what may be in it and the fields around that. */
#define TIER_CONTROL_BYTES_MAX (TIER_PLAN_BYTES_MAX + 4096u)
#define TIER_RENEW_BYTES_MAX 40960u

struct tier_bytes {
    uint8_t *data;
    size_t n;
};

/* ---- both ways ---- */

/* A head of the sender's audit log (tier/heads.h). */
struct tier_head {
    uint64_t size;
    struct tier_hash root;
    int64_t time_ms;
    uint8_t signature[80]; /* ECDSA P-256 in DER; empty without TLS */
    size_t signature_bytes;
    uint64_t since; /* what the proof begins at; 0: none */
    struct tier_hash proof[TIER_TREE_PROOF_MAX];
    size_t proof_count;
    uint64_t known; /* of the receiver's, by its size */
    bool answer;    /* with the receiver's own, proven since `known` */
};
/* What the signature covers: a fixed text, one field a line. Returns its length. */
size_t tier_head_text(const char *node, const struct tier_head *head, char *text, size_t size);

/* One step of a secure sum (tier/mask.h), and who says it. */
struct tier_secure_body {
    enum tier_mask_step step;
    const uint8_t *data;
    size_t bytes; /* 1..tier_mask_body_max(step) */
};

/* ---- child to parent ---- */

enum tier_from_child_type {
    TIER_FROM_HELLO = 1,
    TIER_FROM_ANSWER,
    TIER_FROM_OFFER,
    TIER_FROM_DECLINE,
    TIER_FROM_PROGRESS,
    TIER_FROM_SECURE = 10,
    TIER_FROM_HEAD = 15,
    TIER_FROM_WITHDRAW = 20,
    TIER_FROM_QUOTE = 40
};

struct tier_from_child {
    enum tier_from_child_type type;
    struct tier_hash run;                 /* answer, decline, progress, withdraw, secure, quote */
    uint64_t round;                       /* decline, progress, withdraw, secure */
    struct tier_hash update;              /* withdraw */
    char name[TIER_NAME_LEN_MAX + 1];     /* hello */
    char software[TIER_NAME_LEN_MAX + 1]; /* hello */
    uint32_t protocol;                    /* hello */
    bool accepted, waiting;               /* answer; both is none */
    char
        reason[TIER_REASON_LEN_MAX + 1]; /* answer, decline, withdraw, quote; progress: the phase */
    const uint8_t *header;               /* offer */
    size_t header_bytes;                 /* offer */
    uint32_t done, total;                /* progress */
    struct tier_head head;               /* head */
    struct tier_secure_body secure;      /* secure: a child's step */
    struct tier_hash nonce;              /* quote: which it answers */
    struct tier_quote quote;             /* quote; without a reason */
    void *owner;
};

/* ---- parent to child ---- */

enum tier_to_child_type {
    TIER_TO_WELCOME = 1,
    TIER_TO_PLAN,
    TIER_TO_ROUND,
    TIER_TO_GRANT,
    TIER_TO_RECEIPT,
    TIER_TO_REFUSAL,
    TIER_TO_COMMIT,
    TIER_TO_END,
    TIER_TO_HEAD = 15,
    TIER_TO_SECURE = 20,
    TIER_TO_REVOCATIONS = 30,
    TIER_TO_CHALLENGE = 40
};

struct tier_receipt {
    struct tier_hash run;
    uint64_t round;
    struct tier_hash update;
    char child[TIER_NAME_LEN_MAX + 1];
    char parent[TIER_NAME_LEN_MAX + 1];
    uint64_t weight;
    uint64_t counted; /* buffered rounds: the one it counts in, from which its multiplier follows
                         (tier/stale.h); else 0 */
    int64_t time_ms;
    uint8_t signature[80]; /* ECDSA P-256 in DER; empty without TLS */
    size_t signature_bytes;
};

struct tier_to_child {
    enum tier_to_child_type type;
    struct tier_hash run;
    uint64_t round;
    struct tier_hash model;               /* round: the base; end: the last published */
    struct tier_hash delta, delta_base;   /* round: what makes the base of another model; or zero */
    struct tier_hash update;              /* grant, refusal */
    uint64_t offset;                      /* grant */
    uint64_t deadline_ms;                 /* round */
    uint32_t protocol, return_ms;         /* welcome */
    char name[TIER_NAME_LEN_MAX + 1];     /* welcome */
    char reason[TIER_REASON_LEN_MAX + 1]; /* refusal, end, challenge */
    struct tier_hash nonce;               /* challenge; zero with a reason */
    bool completed;                       /* end */
    bool missed;                          /* commit */
    bool by_receipt;                      /* commit: `missed` is not known, receipts say it */
    bool withdrawn;                       /* refusal */
    const uint8_t *plan;                  /* plan */
    size_t plan_bytes;                    /* plan */
    const uint8_t *signature;             /* plan */
    size_t signature_bytes;               /* plan; 0: it is not signed */
    const uint8_t *crl;                   /* revocations */
    size_t crl_bytes;                     /* revocations */
    struct tier_receipt receipt;          /* receipt */
    struct tier_head head;                /* head */
    struct tier_secure_body secure;       /* secure: a parent's step */
    void *owner;
};

enum tier_status tier_wire_from_child(const uint8_t *bytes, size_t n, struct tier_from_child *out,
                                      struct tier_err *err);
struct tier_bytes tier_wire_from_child_bytes(const struct tier_from_child *m);
void tier_wire_from_child_release(struct tier_from_child *m);
enum tier_status tier_wire_to_child(const uint8_t *bytes, size_t n, struct tier_to_child *out,
                                    struct tier_err *err);
struct tier_bytes tier_wire_to_child_bytes(const struct tier_to_child *m);
void tier_wire_to_child_release(struct tier_to_child *m);

enum tier_status tier_wire_receipt(const uint8_t *bytes, size_t n, struct tier_receipt *out,
                                   struct tier_err *err);
struct tier_bytes tier_wire_receipt_bytes(const struct tier_receipt *r);
/* What the signature covers: a fixed text, one field a line, so that anyone can check it. Returns
 * its length. */
size_t tier_receipt_text(const struct tier_receipt *r, char *text, size_t size);

/* ---- pieces ---- */

#define TIER_PIECE_PREFIX_MAX 64

struct tier_piece {
    struct tier_hash id; /* zero when absent */
    uint64_t offset;
    uint64_t total;
    size_t data_bytes;
};
/* The encoding of a piece up to its data; returns its length (at most TIER_PIECE_PREFIX_MAX). */
size_t tier_wire_piece_prefix(const struct tier_piece *piece, uint8_t *prefix);
/*
 * Reads a piece from the first bytes of a message of message_bytes. Needs at least
 * min(message_bytes, TIER_PIECE_PREFIX_MAX) bytes. *data_at_out is where the data begins.
 */
enum tier_status tier_wire_piece(const uint8_t *head, size_t head_bytes, size_t message_bytes,
                                 struct tier_piece *out, size_t *data_at_out, struct tier_err *err);

struct tier_fetch_request {
    struct tier_hash sha256;
    uint64_t offset;
};
enum tier_status tier_wire_fetch_request(const uint8_t *bytes, size_t n,
                                         struct tier_fetch_request *out, struct tier_err *err);
struct tier_bytes tier_wire_fetch_request_bytes(const struct tier_fetch_request *m);

/* ---- enrollment: heap strings, the caller's to free ---- */

enum tier_status tier_wire_enroll_request(const uint8_t *bytes, size_t n, char **token_out,
                                          char **csr_out, struct tier_err *err);
struct tier_bytes tier_wire_enroll_request_bytes(const char *token, const char *csr_pem);
enum tier_status tier_wire_enroll_reply(const uint8_t *bytes, size_t n, char **cert_out,
                                        char **ca_out, struct tier_err *err);
struct tier_bytes tier_wire_enroll_reply_bytes(const char *cert_pem, const char *ca_pem);

/* What proto/tier.proto calls RenewRequest; its texts are the holder's to free. */
struct tier_renew_request {
    char *cert_pem, *csr_pem;
    uint8_t signature[80]; /* as in struct tier_receipt */
    size_t signature_bytes;
};
enum tier_status tier_wire_renew_request(const uint8_t *bytes, size_t n,
                                         struct tier_renew_request *out, struct tier_err *err);
struct tier_bytes tier_wire_renew_request_bytes(const struct tier_renew_request *m);
void tier_wire_renew_request_release(struct tier_renew_request *m);

/* PseudonymRequest; to be released by tier_pseudonym_ask_release (tier/pseudonym.h). */
struct tier_pseudonym_ask; /* tier/authority.h */
enum tier_status tier_wire_pseudonym(const uint8_t *bytes, size_t n, struct tier_pseudonym_ask *out,
                                     struct tier_err *err);
struct tier_bytes tier_wire_pseudonym_bytes(const struct tier_pseudonym_ask *m);

#endif
