# SPDX-License-Identifier: Apache-2.0
"""RFC 6962, section 2.1, by its own recursive definitions: slow, and obviously right."""
import hashlib


def sha(data):
    return hashlib.sha256(data).digest()


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def root(d):
    if not d:
        return sha(b"")
    if len(d) == 1:
        return sha(b"\0" + d[0])
    k = split(len(d))
    return sha(b"\1" + root(d[:k]) + root(d[k:]))


def path(m, d):
    if len(d) == 1:
        return []
    k = split(len(d))
    if m < k:
        return path(m, d[:k]) + [root(d[k:])]
    return path(m - k, d[k:]) + [root(d[:k])]


def subproof(m, d, known):
    if m == len(d):
        return [] if known else [root(d)]
    k = split(len(d))
    if m <= k:
        return subproof(m, d[:k], known) + [root(d[k:])]
    return subproof(m - k, d[k:], False) + [root(d[:k])]
