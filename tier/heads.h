/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of audit logs, exchanged by parents and children: so that nobody can show two histories.
 *
 * Each side signs the head of its own log, keeps the last one that the other showed, and takes a
 * later one with a proof that it continues the kept one. The child begins when it attends, without
 * a proof, because it does not know what its parent has kept; the parent answers with its own,
 * proven since what the child has kept, and asks for what it misses. With each commit the parent
 * shows its head anew and the child answers. What was taken is a line of the own log ("peer.head",
 * with the signature), so that an auditor can lay the logs of two nodes beside each other; the
 * certificate that signed it is one too ("peer.certificate").
 *
 * A peer whose heads contradict each other is named in the log ("peer.equivocates", with both) and
 * taken no more under that key. A node whose log was really lost, or that went back to an older
 * copy of its disk, enrolls anew with another key: it then begins a new history, which is a line
 * too
 * ("peer.began_anew"). A certificate that is renewed keeps its key, and with it the history: nodes
 * renew theirs with nobody's leave.
 *
 * Only lines that the disk has are in a head, so that a loss of power contradicts nothing.
 *
 * Threads: the home's.
 */
#ifndef CONSILIUM_TIER_HEADS_H
#define CONSILIUM_TIER_HEADS_H

#include "tier/home.h"

/*
 * The own head for a peer, as it is on the disk now: signed where there is TLS, proven since
 * `peer_knows` (what the peer last said it had kept; 0 or what is not so: no proof), with what is
 * kept of the peer. `answer` asks for the peer's.
 */
enum tier_status tier_heads_say(struct tier_home *home, const char *peer, uint64_t peer_knows,
                                bool answer, struct tier_head *out, struct tier_err *err);
/*
 * A peer's head. *prove_out: it is later than the kept one and came without a proof from there on,
 * so it is not kept: ask for one. TIER_ECONFLICT: it contradicts the kept one, or one did before
 * under this key. TIER_EIDENTITY: it is not signed by the certificate. `cert_pem` is what
 * the stream was opened with, "" without TLS.
 */
enum tier_status tier_heads_hear(const struct tier_home *home, const char *peer,
                                 const char *cert_pem, const struct tier_head *head,
                                 bool *prove_out, struct tier_err *err);
/* The exchange with one peer on one stream; zeroed when it opens. */
struct tier_heads_edge {
    uint64_t knows; /* size of our head that the peer has kept, or gets */
    bool due;       /* the peer owes us one: one that was not asked for costs it a fault */
};
/*
 * A peer's head came: tier_heads_hear, and what is to be said to it then. *send_out: answer_out is
 * to be sent. *asked_out: it was due.
 */
enum tier_status tier_heads_came(struct tier_home *home, struct tier_heads_edge *edge,
                                 const char *peer, const char *cert_pem,
                                 const struct tier_head *head, struct tier_head *answer_out,
                                 bool *send_out, bool *asked_out, struct tier_err *err);
/* Says it unasked, and expects an answer. */
enum tier_status tier_heads_begin(struct tier_home *home, struct tier_heads_edge *edge,
                                  const char *peer, struct tier_head *out, struct tier_err *err);
/* TIER_ECONFLICT: the peer has shown two histories under this certificate's key. */
enum tier_status tier_heads_trust(const struct tier_home *home, const char *peer,
                                  const char *cert_pem, struct tier_err *err);
/* What a history belongs to: the SHA-256 of the certificate's public key, however the certificate
 * encodes the point; zero for "". TIER_EIDENTITY: it has no such key. */
enum tier_status tier_heads_key(const char *cert_pem, struct tier_hash *out, struct tier_err *err);

#endif
