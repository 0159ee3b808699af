/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates that were parsed a moment ago, by their text. A peer shows the same one with every
 * call and every signature, and parsing it takes OpenSSL longer than checking what it signed: 40 %
 * of a hub's time in rounds of small models. An X509 is not changed once it is made, so its users
 * share it. What a certificate is worth is asked each time all the same: nothing is kept of that.
 */
#include "tier/cert_private.h"
#include "tier/hash.h"

#include <pthread.h>
#include <string.h>

/* A thousand, of some 8 KiB each; in a set the oldest goes first. */
#define SETS 256u
#define WAYS 4u

struct kept {
    struct tier_hash text;
    X509 *x509; /* NULL: none */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kept kept[SETS][WAYS]; /* by the first byte of the text's hash */
static unsigned next_way[SETS];

X509 *cert_cache_get(const char *pem, struct tier_hash *key_out) {
    X509 *found = NULL;

    tier_hash_data(pem, strlen(pem), key_out);
    const struct kept *set = kept[key_out->b[0] % SETS];
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < WAYS && !found; i++)
        if (set[i].x509 && tier_hash_equal(&set[i].text, key_out))
            found = set[i].x509;
    if (found)
        X509_up_ref(found);
    pthread_mutex_unlock(&lock);
    return found;
}

void cert_cache_put(const struct tier_hash *key, X509 *x509) {
    unsigned set = key->b[0] % SETS;

    X509_up_ref(x509);
    pthread_mutex_lock(&lock);
    struct kept *k = &kept[set][next_way[set]++ % WAYS];
    X509 *before = k->x509;
    *k = (struct kept){*key, x509};
    pthread_mutex_unlock(&lock);
    X509_free(before);
}
