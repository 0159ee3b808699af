#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the four original UCI heart-disease files into one table a hospital.

    prepare.py FOLDER_WITH_ORIGINALS OUTPUT_FOLDER

Values are copied as they are written; what is added is a header, the row's number in the original
file as the patient's id, and a column `set` with the split of FLamby's Fed-Heart-Disease benchmark
(scikit-learn's stratified train_test_split with seed 43 on the rows that are complete). Rows that
the benchmark leaves out have the missing marker there. Only Python's standard library is used, so
that split is computed here, step by step as scikit-learn and NumPy do it.
"""
import argparse
import hashlib
import os
import random
import sys

SITES = {
    "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
    "hungarian": "22e96bee155b5973568101c93b3705f6",
    "switzerland": "9a87f7577310b3917730d06ba9349e20",
    "va": "4249d03ca7711e84f4444768c9426170",
}
COLUMNS = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
           "slope", "ca", "thal", "num"]
USED = [c for c in COLUMNS if c not in ("slope", "ca", "thal")]
MISSING = "?"
SEED = 43
TEST_SHARE = (34, 100)


class NumpyRandom:
    """numpy.random.RandomState(seed): Mersenne Twister with its first seeding, and its shuffle."""

    def __init__(self, seed):
        state = [seed]
        for i in range(1, 624):
            state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
        self.twister = random.Random()
        self.twister.setstate((3, tuple(state) + (624,), None))

    def up_to(self, largest):
        if largest == 0:
            return 0
        mask = (1 << largest.bit_length()) - 1
        while True:
            value = self.twister.getrandbits(32) & mask
            if value <= largest:
                return value

    def permutation(self, n):
        items = list(range(n))
        for i in range(n - 1, 0, -1):
            j = self.up_to(i)
            items[i], items[j] = items[j], items[i]
        return items


def share_out(counts, draws, rng):
    """Draws for each class in proportion, whole numbers by largest remainder, ties at random."""
    total = sum(counts)
    exact = [n * draws for n in counts]
    whole = [e // total for e in exact]
    rest = [e % total for e in exact]
    missing = draws - sum(whole)
    for value in sorted(set(rest), reverse=True):
        if missing == 0:
            break
        tied = [i for i, r in enumerate(rest) if r == value]
        take = min(len(tied), missing)
        for i in rng.permutation(len(tied))[:take]:
            whole[tied[i]] += 1
        missing -= take
    return whole


def test_rows(labels):
    """Indices of the rows that train_test_split(test_size=.34, train_size=.66) puts into test."""
    n = len(labels)
    n_test = -(-n * TEST_SHARE[0] // TEST_SHARE[1])
    n_train = n * (TEST_SHARE[1] - TEST_SHARE[0]) // TEST_SHARE[1]
    counts = [labels.count(0), labels.count(1)]
    rng = NumpyRandom(SEED)
    if min(counts) <= 2:  # the benchmark does not stratify then
        return set(rng.permutation(n)[:n_test])
    train = share_out(counts, n_train, rng)
    test = share_out([c - t for c, t in zip(counts, train)], n_test, rng)
    rows = set()
    for label in (0, 1):
        members = [i for i, l in enumerate(labels) if l == label]
        order = rng.permutation(len(members))
        rows |= {members[i] for i in order[train[label]:train[label] + test[label]]}
    return rows


def read_site(folder, site):
    path = os.path.join(folder, "processed.%s.data" % site)
    try:
        with open(path, "rb") as f:
            data = f.read()
    except OSError as why:
        sys.exit("%s: %s: the folder should hold the UCI originals, %s"
                 % (path, why.strerror, ", ".join("processed.%s.data" % s for s in SITES)))
    found = hashlib.md5(data).hexdigest()
    if found != SITES[site]:
        sys.exit("%s: MD5 is %s, that of the UCI original is %s: fetch the original file"
                 % (path, found, SITES[site]))
    rows = [line.strip().split(",") for line in data.decode("ascii").splitlines() if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != len(COLUMNS):
            sys.exit("%s:%d: %d cells, not %d" % (path, number, len(row), len(COLUMNS)))
    return rows


def write_site(folder, site, rows):
    used = [COLUMNS.index(c) for c in USED]
    complete = [i for i, row in enumerate(rows) if all(row[c] != MISSING for c in used)]
    test = test_rows([int(float(rows[i][-1]) > 0) for i in complete])
    sets = {row: "test" if place in test else "train" for place, row in enumerate(complete)}
    path = os.path.join(folder, site + ".csv")
    with open(path, "w", encoding="ascii", newline="\n") as f:
        f.write(",".join(["patient"] + COLUMNS + ["set"]) + "\n")
        for i, row in enumerate(rows):
            cells = ["%s-%d" % (site, i + 1)] + row + [sets.get(i, MISSING)]
            f.write(",".join(cells) + "\n")
    counts = list(sets.values())
    print("%s: %d rows, %d complete: %d train, %d test"
          % (path, len(rows), len(complete), counts.count("train"), counts.count("test")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("originals")
    parser.add_argument("output")
    args = parser.parse_args()
    os.makedirs(args.output, exist_ok=True)
    for site in SITES:
        write_site(args.output, site, read_site(args.originals, site))


if __name__ == "__main__":
    main()
