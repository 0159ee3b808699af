/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private keys on disk: PKCS#8 in PEM, mode 0600 (tier/pem_file.h), encrypted with AES-256 under a
 * passphrase (scrypt, RFC 7914) wherever one is configured. The passphrase comes from a file that
 * only the program's user may read: the one that was named (key_passphrase_file), or systemd's
 * credential `consilium-key-passphrase`. Without one keys are written plain; a plain key is read
 * either way, and `consilium key protect` encrypts it.
 *
 * Threads: tier_key_file_passphrase before any other thread starts; the rest has no shared state
 * and blocks on the disk, and for some 50 ms on scrypt.
 */
#ifndef CONSILIUM_TIER_KEY_FILE_H
#define CONSILIUM_TIER_KEY_FILE_H

#include "tier/err.h"

#define TIER_PASSPHRASE_BYTES_MIN 12
#define TIER_PASSPHRASE_BYTES_MAX 1024
#define TIER_PASSPHRASE_CREDENTIAL "consilium-key-passphrase"

struct tier_key; /* tier/cert.h */

/* Names the file for the whole process; NULL or "" is none, and copies nothing else. */
void tier_key_file_passphrase(const char *path);
/* Whether one is configured, by either way. */
bool tier_key_file_sealing(void);

/*
 * Reads DIR/NAME. The text is the key's, unencrypted, for the transport (tier_secret_free); NULL
 * where it is not wanted. TIER_EIDENTITY: encrypted, and no passphrase is configured or another
 * one; a passphrase file that others may read; and what tier_pem_read and tier_key_from_pem give.
 */
enum tier_status tier_key_file_read(const char *dir, const char *name, struct tier_key **key_out,
                                    char **plain_out, struct tier_err *err);
/* Writes it, encrypted where a passphrase is configured. As tier_pem_write for `replace`. */
enum tier_status tier_key_file_write(const char *dir, const char *name, const struct tier_key *key,
                                     bool replace, struct tier_err *err);
/* Whether DIR/NAME is there and encrypted. */
bool tier_key_file_is_sealed(const char *dir, const char *name);
/*
 * Encrypts the key that is there, plain or under the configured passphrase, with the one in `path`;
 * that of the configured file where it is NULL. A kill leaves the old file or the new one.
 */
enum tier_status tier_key_file_protect(const char *dir, const char *name, const char *path,
                                       struct tier_err *err);

#endif
