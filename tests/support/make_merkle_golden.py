#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/tier/merkle_golden.inc: roots and proofs of RFC 6962, section 2.1, by its own
recursive definitions. The eight entries and their roots are those that implementations of
Certificate Transparency are tested with; larger trees hold the numbers from 0 on, in decimal."""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../e2e"))
from merkle import path, root, sha, subproof  # noqa: E402

KNOWN = [bytes.fromhex(h) for h in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f")]
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"]
LARGEST = 70


def main():
    out = ["/* SPDX-License-Identifier: Apache-2.0 */",
           "/* Made by tests/support/make_merkle_golden.py. */", "static const char *const roots[] = {"]
    entries = [b"%d" % i for i in range(LARGEST)]
    for i, known in enumerate(KNOWN_ROOTS):
        assert root(KNOWN[:i + 1]).hex() == known
    out += ['    "%s",' % root(entries[:n]).hex() for n in range(LARGEST + 1)]
    out += ["};", "", "static const char *const known_roots[] = {"]
    out += ['    "%s",' % r for r in KNOWN_ROOTS]
    out += ["};", "", "/* SHA-256 of the hashes of every proof of a tree of that size, in order. */",
            "static const struct {", "    size_t size, inclusion_count, consistency_count;",
            "    const char *inclusion, *consistency;", "} proofs[] = {"]
    for n in range(1, LARGEST + 1):
        inclusion = [h for i in range(n) for h in path(i, entries[:n])]
        consistency = [h for m in range(1, n) for h in subproof(m, entries[:n], True)]
        out.append('    {%d, %d, %d,\n     "%s",\n     "%s"},' % (
            n, len(inclusion), len(consistency), sha(b"".join(inclusion)).hex(),
            sha(b"".join(consistency)).hex()))
    out.append("};")
    with open(os.path.join(HERE, "../unit/tier/merkle_golden.inc"), "w", encoding="ascii") as f:
        f.write("\n".join(out) + "\n")


main()
