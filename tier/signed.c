/* SPDX-License-Identifier: Apache-2.0 */
/* The text is read from its end: the last line is the signature, and all before it is for OpenSSL's
 * PEM reader, which takes one certificate and nothing else (tier/cert.c). */
#include "tier/signed.h"

#include "tier/plan.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "signature "
#define BASE64_BYTES ((TIER_SIGNATURE_BYTES_MAX + 2) / 3 * 4)

/* What is signed. */
static size_t statement(const struct tier_hash *plan, char text[128]) {
    char hex[TIER_HASH_HEX];
    return (size_t)snprintf(text, 128, "consilium plan 1\nsha256 %s\n", tier_hash_hex(plan, hex));
}

static bool may_sign(enum tier_role role) {
    return role == TIER_ROLE_OPERATOR || role == TIER_ROLE_REGIONAL_OPERATOR ||
           role == TIER_ROLE_RESEARCHER;
}

enum tier_status tier_signed_make(const struct tier_node *signer, const struct tier_hash *plan,
                                  char **text_out, size_t *bytes_out, struct tier_err *err) {
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    unsigned char base64[BASE64_BYTES + 1];
    char say[128], *text;
    size_t sig_bytes, room = strlen(signer->cert_pem) + sizeof MARK + sizeof base64 + 2;

    if (!may_sign(signer->id.role))
        return tier_fail(err, TIER_EIDENTITY,
                         "%s is of the role %s, which signs no plans: an operator's identity would "
                         "be right",
                         signer->id.name, tier_role_text(signer->id.role));
    TIER_TRY(tier_key_sign(signer->key, say, statement(plan, say), sig, &sig_bytes, err));
    EVP_EncodeBlock(base64, sig, (int)sig_bytes);
    text = malloc(room);
    if (!text)
        return tier_fail(err, TIER_ENOMEM, "no memory for a signature");
    bool ends = signer->cert_pem[strlen(signer->cert_pem) - 1] == '\n';
    int n = snprintf(text, room, "%s%s" MARK "%s\n", signer->cert_pem, ends ? "" : "\n",
                     (const char *)base64);
    if (n < 0 || (size_t)n > TIER_SIGNED_BYTES_MAX) {
        free(text);
        return tier_fail(err, TIER_ELIMIT,
                         "a signature with its certificate has more than %u bytes",
                         TIER_SIGNED_BYTES_MAX);
    }
    *text_out = text;
    *bytes_out = (size_t)n;
    return TIER_OK;
}

/* The DER behind the mark, in the one way to write it. */
static bool read_signature(const char *line, uint8_t *sig, size_t *bytes_out) {
    unsigned char der[BASE64_BYTES], again[BASE64_BYTES + 1];
    size_t length = strcspn(line, "\n");

    if (line[length] != '\n' || line[length + 1] != '\0' || length == 0 || length % 4 != 0 ||
        length > BASE64_BYTES)
        return false;
    int n = EVP_DecodeBlock(der, (const unsigned char *)line, (int)length);
    if (n < 0)
        return false;
    n -= (line[length - 1] == '=') + (line[length - 2] == '=');
    if (n < 1 || n > TIER_SIGNATURE_BYTES_MAX)
        return false;
    EVP_EncodeBlock(again, der, n);
    if (memcmp(again, line, length) != 0)
        return false;
    memcpy(sig, der, (size_t)n);
    *bytes_out = (size_t)n;
    return true;
}

static enum tier_status check(char *text, const struct tier_hash *plan, const struct tier_cert *ca,
                              const struct tier_revocations *revoked, int64_t now_s,
                              struct tier_identity *out, struct tier_err *err) {
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    size_t sig_bytes = 0;
    struct tier_cert *cert = NULL;
    struct tier_identity id = {0};
    char say[128], *mark = strstr(text, "\n" MARK);

    if (!mark || !read_signature(mark + sizeof MARK, sig, &sig_bytes))
        return tier_fail(err, TIER_EIDENTITY,
                         "the plan's signature is none: a certificate and a line '" MARK
                         "BASE64' would be right");
    mark[1] = '\0';
    TIER_TRY(tier_cert_from_pem(text, &cert, err));
    enum tier_status st = tier_cert_verify(cert, ca, now_s, &id, err);
    if (st == TIER_OK && tier_revocations_has(revoked, id.serial))
        st = tier_fail(err, TIER_EIDENTITY, "%s signed the plan with a certificate that is revoked",
                       id.name);
    if (st == TIER_OK && !may_sign(id.role))
        st = tier_fail(err, TIER_EIDENTITY,
                       "%s signed the plan, and is of the role %s, which signs no plans", id.name,
                       tier_role_text(id.role));
    if (st == TIER_OK)
        st = tier_cert_check_signature(cert, say, statement(plan, say), sig, sig_bytes, err);
    tier_cert_free(cert);
    if (st == TIER_OK)
        *out = id;
    return st;
}

enum tier_status tier_signed_check(const void *text, size_t bytes, const struct tier_hash *plan,
                                   const struct tier_cert *ca,
                                   const struct tier_revocations *revoked, int64_t now_s,
                                   struct tier_identity *out, struct tier_err *err) {
    if (bytes == 0 || bytes > TIER_SIGNED_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "a plan's signature has %zu bytes, 1 to %u are allowed",
                         bytes, TIER_SIGNED_BYTES_MAX);
    if (memchr(text, '\0', bytes))
        return tier_fail(err, TIER_EIDENTITY, "the plan's signature is not text");
    char *copy = malloc(bytes + 1);
    if (!copy)
        return tier_fail(err, TIER_ENOMEM, "no memory for a signature");
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    enum tier_status st = check(copy, plan, ca, revoked, now_s, out, err);
    free(copy);
    return st;
}

bool tier_signed_revoked(const void *text, size_t bytes, const struct tier_revocations *revoked,
                         char *why, size_t size) {
    struct tier_cert *cert = NULL;
    struct tier_identity id;
    bool on_it = false;

    if (bytes == 0 || bytes > TIER_SIGNED_BYTES_MAX || !revoked)
        return false;
    char *copy = strndup(text, bytes), *mark = copy ? strstr(copy, "\n" MARK) : NULL;
    if (mark) {
        mark[1] = '\0';
        on_it = tier_cert_from_pem(copy, &cert, NULL) == TIER_OK &&
                tier_cert_identity(cert, &id, NULL) == TIER_OK &&
                tier_revocations_has(revoked, id.serial);
    }
    if (on_it)
        snprintf(why, size, "the certificate of %s, who signed the plan, was revoked", id.name);
    tier_cert_free(cert);
    free(copy);
    return on_it;
}

enum tier_status tier_signed_admit(const struct tier_plan *plan, const struct tier_hash *hash,
                                   const void *text, size_t bytes, const struct tier_cert *ca,
                                   const struct tier_revocations *revoked, bool required,
                                   int64_t now_ms, char *author_out, struct tier_err *err) {
    const char *author = plan->governance.author;
    struct tier_identity signer;
    char why[128];

    if (tier_plan_expired(plan, now_ms))
        return tier_fail(err, TIER_EPOLICY, "%s", tier_plan_expired_text(plan, why, sizeof why));
    const char *who = required ? "the policy (policy.signed)" : "mode: untrusted";
    required = required || plan->mode == TIER_PLAN_UNTRUSTED;
    if (required && !ca)
        return tier_fail(err, TIER_EPOLICY,
                         "%s wants a signed plan, and without tls none can be verified", who);
    if (required && bytes == 0)
        return tier_fail(err, TIER_EPOLICY,
                         "%s wants a signed plan, and this one is not: 'consilium plan sign' "
                         "would be right",
                         who);
    *author_out = '\0';
    if (bytes == 0 || !ca)
        return TIER_OK;
    TIER_TRY(tier_signed_check(text, bytes, hash, ca, revoked, now_ms / 1000, &signer, err));
    if (*author && strcmp(author, signer.name) != 0)
        return tier_fail(err, TIER_EPOLICY, "the plan's author is %s, and %s signed it", author,
                         signer.name);
    memcpy(author_out, signer.name, sizeof signer.name);
    return TIER_OK;
}
