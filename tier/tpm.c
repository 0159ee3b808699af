/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCRs are read and then quoted, and another program may extend one between the two (the kernel's
 * integrity log does, PCR 10): then both are done again, since values that were not quoted prove
 * nothing.
 */
#include "tier/tpm.h"

#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <tss2/tss2_esys.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIES_MAX 4
#define READS_MAX 8 /* a TPM gives at most 8 PCRs at a time, and at least one */
#define P256_BYTES 32

struct tier_tpm {
    TSS2_TCTI_CONTEXT *tcti;
    ESYS_CONTEXT *esys;
    ESYS_TR key; /* ESYS_TR_NONE: not made */
    uint32_t pcr;
    struct tier_measured ran;
    char pem[512];
};

bool tier_tpm_built(void) {
    return true;
}

static enum tier_status failed(const char *what, TSS2_RC rc, struct tier_err *err) {
    return tier_fail(err, TIER_EUNAVAILABLE, "the TPM %s: %s", what, Tss2_RC_Decode(rc));
}

/* ---- PCRs ---- */

static enum tier_status measure(struct tier_tpm *t, struct tier_err *err) {
    const ESYS_TR pcr = ESYS_TR_PCR0 + t->pcr;
    const struct tier_hash *by[] = {&t->ran.binary, &t->ran.kernels, &t->ran.config};
    TSS2_RC rc = Esys_PCR_Reset(t->esys, pcr, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE);

    for (size_t i = 0; rc == TSS2_RC_SUCCESS && i < sizeof by / sizeof by[0]; i++) {
        TPML_DIGEST_VALUES digests = {.count = 1};
        digests.digests[0].hashAlg = TPM2_ALG_SHA256;
        memcpy(digests.digests[0].digest.sha256, by[i]->b, TIER_HASH_BYTES);
        rc = Esys_PCR_Extend(t->esys, pcr, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &digests);
    }
    return rc == TSS2_RC_SUCCESS ? TIER_OK : failed("does not take what runs here", rc, err);
}

static TPML_PCR_SELECTION selection(uint32_t pcrs) {
    TPML_PCR_SELECTION s = {.count = 1};

    s.pcrSelections[0].hash = TPM2_ALG_SHA256;
    s.pcrSelections[0].sizeofSelect = 3;
    for (int i = 0; i < 3; i++)
        s.pcrSelections[0].pcrSelect[i] = (BYTE)(pcrs >> 8 * i);
    return s;
}

/* Of PCRs 0 to 15. */
static enum tier_status read_platform(struct tier_tpm *t,
                                      struct tier_hash out[TIER_ATTEST_PLATFORM_PCRS],
                                      struct tier_err *err) {
    uint32_t wanted = 0xffff;

    for (int reads = 0; wanted && reads < 2 * READS_MAX; reads++) {
        const TPML_PCR_SELECTION ask = selection(wanted);
        TPML_PCR_SELECTION *got = NULL;
        TPML_DIGEST *values = NULL;
        UINT32 counter;
        TSS2_RC rc = Esys_PCR_Read(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &ask,
                                   &counter, &got, &values);
        if (rc != TSS2_RC_SUCCESS)
            return failed("does not give its PCRs", rc, err);
        uint32_t has = 0, at = 0;
        if (got->count == 1 && got->pcrSelections[0].hash == TPM2_ALG_SHA256)
            for (uint32_t i = 0; i < 3; i++)
                has |= (uint32_t)got->pcrSelections[0].pcrSelect[i] << 8 * i;
        for (uint32_t i = 0; i < TIER_ATTEST_PLATFORM_PCRS; i++) {
            if (!(has >> i & 1) || at >= values->count)
                continue;
            if (values->digests[at].size == TIER_HASH_BYTES && (wanted >> i & 1)) {
                memcpy(out[i].b, values->digests[at].buffer, TIER_HASH_BYTES);
                wanted &= ~(1u << i);
            }
            at++;
        }
        Esys_Free(got);
        Esys_Free(values);
    }
    if (wanted)
        return tier_fail(err, TIER_EUNAVAILABLE, "the TPM has no SHA-256 bank of PCRs 0 to 15");
    return TIER_OK;
}

/* ---- the key ---- */

/* SubjectPublicKeyInfo of a P-256 point, up to its coordinates (RFC 5480). */
static const uint8_t spki[] = {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48,
                               0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
                               0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04};

/* A coordinate may come without its leading zeros. */
static bool put_number(uint8_t out[P256_BYTES], const TPM2B_ECC_PARAMETER *in) {
    if (in->size > P256_BYTES)
        return false;
    memset(out, 0, P256_BYTES);
    memcpy(out + P256_BYTES - in->size, in->buffer, in->size);
    return true;
}

static bool write_pem(struct tier_tpm *t, const TPMS_ECC_POINT *point) {
    uint8_t der[sizeof spki + 2 * P256_BYTES];
    const uint8_t *at = der;
    bool done = false;

    memcpy(der, spki, sizeof spki);
    if (!put_number(der + sizeof spki, &point->x) ||
        !put_number(der + sizeof spki + P256_BYTES, &point->y))
        return false;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &at, sizeof der);
    BIO *bio = BIO_new(BIO_s_mem());
    if (key && bio && PEM_write_bio_PUBKEY(bio, key) == 1) {
        int n = BIO_read(bio, t->pem, sizeof t->pem - 1);
        done = n > 0;
        t->pem[done ? n : 0] = '\0';
    }
    BIO_free(bio);
    EVP_PKEY_free(key);
    return done;
}

static enum tier_status make_key(struct tier_tpm *t, struct tier_err *err) {
    static const TPM2B_SENSITIVE_CREATE nothing = {.size = 0};
    static const TPM2B_DATA outside = {.size = 0};
    static const TPML_PCR_SELECTION none = {.count = 0};
    static const TPM2B_PUBLIC form = {
        .publicArea = {
            .type = TPM2_ALG_ECC,
            .nameAlg = TPM2_ALG_SHA256,
            .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                                TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                                TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED |
                                TPMA_OBJECT_SIGN_ENCRYPT,
            .parameters.eccDetail = {
                .symmetric.algorithm = TPM2_ALG_NULL,
                .scheme = {.scheme = TPM2_ALG_ECDSA, .details.ecdsa.hashAlg = TPM2_ALG_SHA256},
                .curveID = TPM2_ECC_NIST_P256,
                .kdf.scheme = TPM2_ALG_NULL}}};
    TPM2B_PUBLIC *public = NULL;
    TPM2B_CREATION_DATA *data = NULL;
    TPM2B_DIGEST *hash = NULL;
    TPMT_TK_CREATION *ticket = NULL;

    TSS2_RC rc = Esys_CreatePrimary(t->esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                    ESYS_TR_NONE, &nothing, &form, &outside, &none, &t->key,
                                    &public, &data, &hash, &ticket);
    if (rc != TSS2_RC_SUCCESS) {
        t->key = ESYS_TR_NONE;
        return failed("makes no key to sign with (its owner's password must be empty)", rc, err);
    }
    bool done = write_pem(t, &public->publicArea.unique.ecc);
    Esys_Free(public);
    Esys_Free(data);
    Esys_Free(hash);
    Esys_Free(ticket);
    return done ? TIER_OK
                : tier_fail(err, TIER_EUNAVAILABLE, "the TPM made a key that is none of P-256");
}

/* ---- life cycle ---- */

static enum tier_status open_all(struct tier_tpm *t, const char *conf, struct tier_err *err) {
    setenv("TSS2_LOG", "all+none", 0); /* what goes wrong is told once, by us */
    TSS2_RC rc = Tss2_TctiLdr_Initialize(conf, &t->tcti);

    if (rc != TSS2_RC_SUCCESS)
        return tier_fail(err, TIER_EUNAVAILABLE, "no TPM answers at tpm.tcti '%s': %s", conf,
                         Tss2_RC_Decode(rc));
    rc = Esys_Initialize(&t->esys, t->tcti, NULL);
    if (rc != TSS2_RC_SUCCESS)
        return failed("cannot be talked to", rc, err);
    rc = Esys_Startup(t->esys, TPM2_SU_CLEAR); /* the kernel's has been started long ago */
    if (rc != TSS2_RC_SUCCESS && rc != TPM2_RC_INITIALIZE)
        return failed("does not start", rc, err);
    TIER_TRY(measure(t, err));
    return make_key(t, err);
}

enum tier_status tier_tpm_open(const char *tcti, uint32_t pcr, const struct tier_measured *ran,
                               struct tier_tpm **out, struct tier_err *err) {
    struct tier_tpm *t = calloc(1, sizeof *t);

    if (!t)
        return tier_fail(err, TIER_ENOMEM, "no memory for a TPM");
    t->key = ESYS_TR_NONE;
    t->pcr = pcr;
    t->ran = *ran;
    enum tier_status st = open_all(t, tcti, err);
    if (st == TIER_OK)
        *out = t;
    else
        tier_tpm_close(t);
    return st;
}

void tier_tpm_close(struct tier_tpm *t) {
    if (!t)
        return;
    if (t->key != ESYS_TR_NONE)
        Esys_FlushContext(t->esys, t->key);
    Esys_Finalize(&t->esys);
    Tss2_TctiLdr_Finalize(&t->tcti);
    free(t);
}

const char *tier_tpm_key_pem(const struct tier_tpm *t) {
    return t->pem;
}

/* ---- quotes ---- */

static bool take_signature(struct tier_quote *q, const TPMT_SIGNATURE *from) {
    const TPMS_SIGNATURE_ECDSA *in = &from->signature.ecdsa;
    uint8_t *at = q->signature;
    int n = 0;

    if (from->sigAlg != TPM2_ALG_ECDSA || in->hash != TPM2_ALG_SHA256 ||
        in->signatureR.size > P256_BYTES || in->signatureS.size > P256_BYTES)
        return false;
    BIGNUM *r = BN_bin2bn(in->signatureR.buffer, in->signatureR.size, NULL);
    BIGNUM *s = BN_bin2bn(in->signatureS.buffer, in->signatureS.size, NULL);
    ECDSA_SIG *sig = ECDSA_SIG_new();
    if (r && s && sig && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL; /* the signature's now */
        n = i2d_ECDSA_SIG(sig, NULL);
        n = n > 0 && n <= (int)sizeof q->signature ? i2d_ECDSA_SIG(sig, &at) : 0;
    }
    ECDSA_SIG_free(sig);
    BN_free(r);
    BN_free(s);
    q->signature_bytes = n > 0 ? (size_t)n : 0;
    return n > 0;
}

static enum tier_status quote_once(struct tier_tpm *t, const struct tier_hash *qualifier,
                                   struct tier_quote *q, struct tier_err *err) {
    const TPML_PCR_SELECTION pcrs = selection(0xffffu | 1u << t->pcr);
    const TPMT_SIG_SCHEME scheme = {.scheme = TPM2_ALG_NULL};
    TPM2B_DATA carries = {.size = TIER_HASH_BYTES};
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *signature = NULL;

    memcpy(carries.buffer, qualifier->b, TIER_HASH_BYTES);
    TIER_TRY(read_platform(t, q->platform, err));
    TSS2_RC rc = Esys_Quote(t->esys, t->key, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &carries,
                            &scheme, &pcrs, &attest, &signature);
    if (rc != TSS2_RC_SUCCESS)
        return failed("gives no quote", rc, err);
    bool fits = attest->size <= sizeof q->attest && take_signature(q, signature);
    if (fits) {
        memcpy(q->attest, attest->attestationData, attest->size);
        q->attest_bytes = attest->size;
    }
    Esys_Free(attest);
    Esys_Free(signature);
    return fits ? TIER_OK
                : tier_fail(err, TIER_EUNAVAILABLE, "the TPM gave a quote of another form");
}

enum tier_status tier_tpm_quote(struct tier_tpm *t, const struct tier_hash *qualifier,
                                struct tier_quote *out, struct tier_err *err) {
    struct tier_quote q = {.pcr = t->pcr, .ran = t->ran};

    for (int i = 0; i < TRIES_MAX; i++) {
        TIER_TRY(quote_once(t, qualifier, &q, err));
        if (tier_attest_steady(&q)) {
            *out = q;
            return TIER_OK;
        }
    }
    return tier_fail(err, TIER_EUNAVAILABLE,
                     "PCRs 0 to 15 and %u of the TPM change while they are quoted, or PCR %u is "
                     "another program's",
                     t->pcr, t->pcr);
}
