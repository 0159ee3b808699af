/* SPDX-License-Identifier: Apache-2.0 */
/* What was read is written again and compared: bytes that differ in any way are not a card, so
 * neither JSON's freedoms nor those of PEM and base64 leave room for a change. */
#include "tier/card.h"

#include "tier/cert_private.h"

#include <jansson.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE64_BYTES ((TIER_SIGNATURE_BYTES_MAX + 2) / 3 * 4)
#define FORM (JSON_COMPACT | JSON_SORT_KEYS)
#define DEPTH_MAX 16 /* far below what a recursive reader bears */

/* What is signed. False: no memory. */
static bool statement(const json_t *body, char text[128]) {
    char *form = json_dumps(body, FORM), hex[TIER_HASH_HEX];
    struct tier_hash hash;

    if (!form)
        return false;
    tier_hash_data(form, strlen(form), &hash);
    free(form);
    snprintf(text, 128, "consilium card 1\nsha256 %s\n", tier_hash_hex(&hash, hex));
    return true;
}

/* ---- reading ---- */

static enum tier_status not_a_card(struct tier_err *err, const char *why) {
    return tier_fail(err, TIER_ECORRUPT, "the model card is damaged or was altered: %s", why);
}

/* Brackets that are open at once, outside strings; jansson recurses by them. */
static bool shallow(const char *text, size_t bytes) {
    unsigned depth = 0;
    bool quoted = false;

    for (size_t i = 0; i < bytes; i++) {
        if (quoted && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            quoted = !quoted;
        else if (!quoted && (text[i] == '{' || text[i] == '['))
            depth++;
        else if (!quoted && (text[i] == '}' || text[i] == ']'))
            depth -= depth > 0;
        if (depth > DEPTH_MAX)
            return false;
    }
    return true;
}

static bool hash_of(const json_t *of, const char *key, struct tier_hash *out) {
    const char *text = json_string_value(json_object_get(of, key));
    return text && tier_hash_parse(text, out);
}

static bool take_body(const json_t *body, struct tier_card *c) {
    const json_t *model = json_object_get(body, "model");
    const json_t *release = json_object_get(body, "release");
    const json_t *by = json_object_get(release, "by");
    json_int_t bytes = json_integer_value(json_object_get(model, "bytes"));

    if (json_integer_value(json_object_get(body, "version")) != TIER_CARD_VERSION ||
        !hash_of(model, "sha256", &c->model) || bytes <= 0)
        return false;
    c->model_bytes = (uint64_t)bytes;
    c->released_ms = json_integer_value(json_object_get(release, "time_ms"));
    if (c->released_ms <= 0 || json_array_size(by) != 2)
        return false;
    for (size_t i = 0; i < 2; i++) {
        const char *name = json_string_value(json_array_get(by, i));
        if (!name || !tier_name_valid(name))
            return false;
        snprintf(c->approved_by[i], sizeof c->approved_by[i], "%s", name);
    }
    return true;
}

/* The certificate, in the one way to write it. */
static enum tier_status take_cert(const char *pem, struct tier_card *c, struct tier_err *err) {
    BIO *out = BIO_new(BIO_s_mem());
    char *again = NULL;
    enum tier_status st = out ? tier_cert_from_pem(pem, &c->cert, err)
                              : tier_fail(err, TIER_ENOMEM, "no memory for a certificate");

    if (st == TIER_OK && PEM_write_bio_X509(out, c->cert->x509) != 1)
        st = cert_ssl_fail(err, TIER_ENOMEM, "a certificate cannot be written");
    if (st == TIER_OK) {
        long n = BIO_get_mem_data(out, &again);
        if (n < 0 || (size_t)n != strlen(pem) || memcmp(again, pem, (size_t)n) != 0)
            st = not_a_card(err, "its certificate is not in the form in which it was issued");
    }
    BIO_free(out);
    return st == TIER_OK ? tier_cert_identity(c->cert, &c->signer, err) : st;
}

static bool read_signature(const char *text, uint8_t *sig, size_t *bytes_out) {
    unsigned char der[BASE64_BYTES + 1], again[BASE64_BYTES + 1];
    size_t length = strlen(text);

    if (length == 0 || length % 4 != 0 || length > BASE64_BYTES)
        return false;
    int n = EVP_DecodeBlock(der, (const unsigned char *)text, (int)length);
    if (n < 0)
        return false;
    n -= (text[length - 1] == '=') + (text[length - 2] == '=');
    if (n < 1 || n > TIER_SIGNATURE_BYTES_MAX)
        return false;
    EVP_EncodeBlock(again, der, n);
    if (memcmp(again, text, length) != 0)
        return false;
    memcpy(sig, der, (size_t)n);
    *bytes_out = (size_t)n;
    return true;
}

static enum tier_status take(const json_t *file, struct tier_card *c, struct tier_err *err) {
    const char *pem = json_string_value(json_object_get(file, "certificate"));
    const char *base64 = json_string_value(json_object_get(file, "signature"));
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    size_t sig_bytes = 0;
    char say[128];

    c->body = json_incref(json_object_get(file, "card"));
    if (json_object_size(file) != 3 || !json_is_object(c->body) || !pem || !base64)
        return not_a_card(err, "it is not one of a card, a certificate and a signature");
    if (!take_body(c->body, c))
        return not_a_card(err, "its version, model or release is not as this version writes it");
    if (!read_signature(base64, sig, &sig_bytes))
        return not_a_card(err, "its signature is none");
    TIER_TRY(take_cert(pem, c, err));
    if (!statement(c->body, say))
        return tier_fail(err, TIER_ENOMEM, "no memory for a model card");
    if (tier_cert_check_signature(c->cert, say, strlen(say), sig, sig_bytes, NULL) != TIER_OK)
        return not_a_card(err, "its signature is not of these words");
    return TIER_OK;
}

enum tier_status tier_card_read(const void *text, size_t bytes, struct tier_card *out,
                                struct tier_err *err) {
    struct tier_card c = {.body = NULL};
    json_t *file = NULL;
    char *again = NULL;
    enum tier_status st;

    if (bytes == 0 || bytes > TIER_CARD_BYTES_MAX)
        return tier_fail(err, TIER_ELIMIT, "a model card has %zu bytes, 1 to %u are allowed", bytes,
                         TIER_CARD_BYTES_MAX);
    if (shallow(text, bytes))
        file = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    again = file ? json_dumps(file, FORM) : NULL;
    size_t length = again ? strlen(again) : 0;
    if (!again || length + 1 != bytes || memcmp(again, text, length) != 0 ||
        ((const char *)text)[length] != '\n')
        st = not_a_card(err, "it is not JSON in the one form of a card");
    else
        st = take(file, &c, err);
    free(again);
    json_decref(file);
    if (st == TIER_OK)
        *out = c;
    else
        tier_card_release(&c);
    return st;
}

void tier_card_release(struct tier_card *c) {
    json_decref(c->body);
    tier_cert_free(c->cert);
    *c = (struct tier_card){.body = NULL};
}

enum tier_status tier_card_check(const struct tier_card *c, const struct tier_cert *ca,
                                 struct tier_err *err) {
    struct tier_identity id;

    TIER_TRY(tier_cert_verify(c->cert, ca, c->released_ms / 1000, &id, err));
    if (id.role != TIER_ROLE_TOP && id.role != TIER_ROLE_HUB)
        return tier_fail(
            err, TIER_EIDENTITY,
            "the model card is signed by %s, of the role %s: the top or a hub releases "
            "models",
            id.name, tier_role_text(id.role));
    if (strcmp(c->approved_by[0], c->approved_by[1]) == 0)
        return tier_fail(err, TIER_EIDENTITY,
                         "the model card names %s alone as who released it: two must have",
                         c->approved_by[0]);
    return TIER_OK;
}

/* ---- signing ---- */

enum tier_status tier_card_sign(const struct tier_node *hub, const json_t *body, char **text_out,
                                size_t *bytes_out, struct tier_err *err) {
    unsigned char base64[BASE64_BYTES + 1];
    uint8_t sig[TIER_SIGNATURE_BYTES_MAX];
    struct tier_card read = {.body = NULL};
    json_t *file = NULL;
    char say[128], *form = NULL, *text = NULL;
    size_t sig_bytes;
    enum tier_status st;

    if (!hub->key)
        return tier_fail(err, TIER_EIDENTITY,
                         "a hub without a certificate (tls: off) cannot sign a model card");
    if (!statement(body, say))
        return tier_fail(err, TIER_ENOMEM, "no memory for a model card");
    TIER_TRY_OUT(tier_key_sign(hub->key, say, strlen(say), sig, &sig_bytes, err));
    EVP_EncodeBlock(base64, sig, (int)sig_bytes);
    file = json_pack("{s:O, s:s, s:s}", "card", body, "certificate", hub->cert_pem, "signature",
                     (const char *)base64);
    form = file ? json_dumps(file, FORM) : NULL;
    if (!form || asprintf(&text, "%s\n", form) < 0) {
        text = NULL;
        st = tier_fail(err, TIER_ENOMEM, "no memory for a model card");
        goto out;
    }
    st = tier_card_read(text, strlen(text), &read, err);
    if (st == TIER_ECORRUPT)
        st = TIER_EINTERNAL;
    tier_card_release(&read);
    if (st != TIER_OK)
        goto out;
    *bytes_out = strlen(text);
    *text_out = text;
    text = NULL;
out:
    free(text);
    free(form);
    json_decref(file);
    return st;
}
