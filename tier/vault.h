/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's files at rest: what lies in spool/, models/, retained/, residual/, private/ and control/
 * of a data directory, encrypted with AES-256 in counter mode under the node's storage key, where
 * its configuration says storage.encrypt. A file is then 4096 bytes that say so and carry a random
 * number of its own, of which and of the storage key its own key is made (HMAC-SHA-256), and behind
 * them what a plain file would be, byte for byte at the same distance: so it is read at any place,
 * resumed at any offset, cut, and written over when it is used again (under a new number), as a
 * plain one is. Every reader takes both kinds.
 *
 * It hides what a stolen disk holds. It does not vouch for it: that is done by the hashes and
 * Merkle roots which are taken of the plain bytes, encrypted or not, and which the file's name or
 * the log states. Names and lengths of files, the journal, the ledger, the audit log and the
 * configuration stay in the clear; tier/THREATS.md says what that tells.
 *
 * The storage key is a file like the identity's own, DATA_DIR/identity/storage.pem, under the same
 * passphrase (tier/key_file.h). DATA_DIR/storage.id names the key without which nothing of the
 * directory is read: a directory that was moved without it says so.
 *
 * Threads: any may call; a cipher may be read by many at once.
 */
#ifndef CONSILIUM_TIER_VAULT_H
#define CONSILIUM_TIER_VAULT_H

#include "tier/err.h"

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define TIER_VAULT_KEY_FILE "storage.pem" /* below identity/ */
#define TIER_VAULT_ID_FILE "storage.id"

/* ---- the storage key of a data directory ---- */

struct tier_vault;

/*
 * From now on files of that directory can be read, and with `writes` new ones are encrypted; the
 * key is made where there is none yet. *out is NULL where nothing is encrypted and nothing is to
 * be. TIER_EIDENTITY: the key is not here, or not the one, or its passphrase is not; TIER_ECONFIG:
 * `writes` without a passphrase, under which the key would lie beside what it opens.
 */
enum tier_status tier_vault_open(const char *data_dir, bool writes, struct tier_vault **out,
                                 struct tier_err *err);
/* Wipes the key; ciphers that are open go on. NULL is fine. */
void tier_vault_close(struct tier_vault *vault);
/* Encrypts the key with the passphrase in `path`, or the configured one (NULL), where there is a
 * storage key: as tier_key_file_protect. A repeated one, after a kill, is fine. */
enum tier_status tier_vault_protect(const char *data_dir, const char *path, struct tier_err *err);

/* ---- one file ---- */

#define TIER_CIPHER_FRONT 4096u /* bytes before the first of an encrypted file */

struct tier_cipher {
    uint64_t front; /* TIER_CIPHER_FRONT, or 0: the file is plain */
    uint8_t key[32];
};

/*
 * For a file that is about to be written from its beginning, whatever it held: plain, or encrypted
 * where `path` lies in a data directory that is (the front is written). What is refused is the
 * disk's to refuse.
 */
enum tier_status tier_cipher_new(const char *path, int fd, struct tier_cipher *out,
                                 struct tier_err *err);
/* Whether new files there are encrypted. */
bool tier_cipher_wanted(const char *path);
/*
 * For a file that is read, or written further. TIER_EIDENTITY: it is encrypted, and its key is not
 * here; the key of the data directory that `path` lies in is looked for where none was opened.
 */
enum tier_status tier_cipher_of(const char *path, int fd, struct tier_cipher *out,
                                struct tier_err *err);
void tier_cipher_wipe(struct tier_cipher *c);
/* Bytes of the file that are not the front; `size` as stat(2) gives it. */
uint64_t tier_cipher_bytes(const struct tier_cipher *c, uint64_t size);

/* As the system's own, over the plain bytes: offsets do not count the front. */
ssize_t tier_cipher_pread(const struct tier_cipher *c, int fd, void *out, size_t n, uint64_t at);
ssize_t tier_cipher_pwrite(const struct tier_cipher *c, int fd, const void *data, size_t n,
                           uint64_t at);
ssize_t tier_cipher_pwritev(const struct tier_cipher *c, int fd, const struct iovec *slices,
                            int count, uint64_t at);

/* ---- a few bytes of a database ---- */

#define TIER_VAULT_SEAL_BYTES 64 /* that sealing adds */

/* sealed[n + TIER_VAULT_SEAL_BYTES] of bytes[n]; false: `path` is not encrypted, and nothing was
 * written. */
bool tier_vault_seal(const char *path, const void *bytes, size_t n, uint8_t *sealed);
/* bytes[n] of sealed[n + TIER_VAULT_SEAL_BYTES]. Errors: tier_cipher_of. */
enum tier_status tier_vault_unseal(const char *path, const uint8_t *sealed, size_t n, void *bytes,
                                   struct tier_err *err);

#endif
