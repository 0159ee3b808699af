/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and certificates, from their DER (armoured here, so that mutations reach the parser
 * behind base64): whatever is accepted names a node of this house.
 */
#include "fuzz/fuzz.h"
#include "tier/cert.h"

#include <openssl/evp.h>
#include <string.h>

#define SEEDS 3
#define NOW INT64_C(1800000000)

/* DER as PEM; NULL where it would be over the limit anyway. */
static char *armour(const char *label, const uint8_t *data, size_t size) {
    size_t room = size * 2 + 256;
    char *pem = size <= TIER_PEM_BYTES_MAX ? malloc(room) : NULL;

    if (!pem)
        return NULL;
    size_t used = (size_t)snprintf(pem, room, "-----BEGIN %s-----\n", label);
    for (size_t at = 0; at < size; at += 48) {
        int n = size - at < 48 ? (int)(size - at) : 48;
        used += (size_t)EVP_EncodeBlock((unsigned char *)pem + used, data + at, n);
        pem[used++] = '\n';
    }
    snprintf(pem + used, room - used, "-----END %s-----\n", label);
    return pem;
}

static void try_request(const char *pem) {
    struct tier_csr csr;

    if (tier_csr_parse(pem, &csr, NULL) != TIER_OK)
        return;
    FUZZ_CHECK(tier_name_valid(csr.name));
    FUZZ_CHECK((unsigned)csr.role < TIER_ROLE_COUNT);
}

static void try_certificate(const char *pem) {
    struct tier_cert *cert = NULL;
    struct tier_identity id, again;
    char uri[TIER_SPIFFE_SIZE], name[TIER_NAME_LEN_MAX + 1];

    if (tier_cert_from_pem(pem, &cert, NULL) != TIER_OK)
        return;
    if (tier_cert_identity(cert, &id, NULL) == TIER_OK) {
        FUZZ_CHECK(tier_name_valid(id.name) && tier_name_valid(id.authority));
        FUZZ_CHECK(tier_identity_parse_spiffe(tier_identity_spiffe(&id, uri), &again, NULL) ==
                   TIER_OK);
        FUZZ_CHECK(strcmp(again.name, id.name) == 0 && again.role == id.role);
    }
    if (tier_cert_authority(cert, name, NULL) == TIER_OK)
        FUZZ_CHECK(tier_name_valid(name));
    (void)tier_cert_verify(cert, cert, NOW, &id, NULL);
    tier_cert_free(cert);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *request = armour("CERTIFICATE REQUEST", data, size);
    char *certificate = armour("CERTIFICATE", data, size);

    if (request)
        try_request(request);
    if (certificate)
        try_certificate(certificate);
    free(request);
    free(certificate);
    return 0;
}

/* The DER of a PEM text that this file made. */
static size_t strip(const char *pem, uint8_t *out) {
    EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
    const char *body = strchr(pem, '\n') + 1;
    int n = 0, rest = 0;

    FUZZ_CHECK(ctx != NULL);
    EVP_DecodeInit(ctx);
    FUZZ_CHECK(EVP_DecodeUpdate(ctx, out, &n, (const unsigned char *)body,
                                (int)(strstr(pem, "-----END") - body)) >= 0);
    FUZZ_CHECK(EVP_DecodeFinal(ctx, out + n, &rest) >= 0);
    EVP_ENCODE_CTX_free(ctx);
    return (size_t)(n + rest);
}

size_t fuzz_seed(unsigned i, uint8_t *out, size_t room) {
    static uint8_t kept[SEEDS][4096];
    static size_t bytes[SEEDS];

    if (i >= SEEDS)
        return 0;
    if (!bytes[0]) {
        struct tier_key *key = NULL;
        struct tier_cert *ca = NULL;
        char *text[SEEDS] = {NULL};
        FUZZ_CHECK(tier_key_generate(&key, NULL) == TIER_OK);
        FUZZ_CHECK(tier_csr_new(key, "spoke-1", TIER_ROLE_SPOKE, &text[0], NULL) == TIER_OK);
        FUZZ_CHECK(tier_cert_new_ca(key, "nhs", 3650, NOW, &text[1], NULL) == TIER_OK);
        FUZZ_CHECK(tier_cert_from_pem(text[1], &ca, NULL) == TIER_OK);
        FUZZ_CHECK(tier_cert_issue(key, ca, text[0], 86400, NOW, &text[2], NULL) == TIER_OK);
        for (unsigned k = 0; k < SEEDS; k++) {
            bytes[k] = strip(text[k], kept[k]);
            free(text[k]);
        }
        tier_cert_free(ca);
        tier_key_free(key);
    }
    FUZZ_CHECK(bytes[i] <= room);
    memcpy(out, kept[i], bytes[i]);
    return bytes[i];
}
