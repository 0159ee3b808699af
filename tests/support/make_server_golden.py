#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/kernels/server_golden.inc: the root's optimisers computed apart from the C code.

Every operation is done on exact fractions and then rounded to binary64 once, half to even, by
Python's own conversion; the square root goes through integers. Nothing here uses the processor's
floating point, so what C computes with it has something to be held against.

    tests/support/make_server_golden.py > tests/unit/kernels/server_golden.inc
"""
import random
import struct
from fractions import Fraction
from math import isqrt

ELEMENTS, STEPS = 8, 6


def rounded(x):
    """The binary64 nearest to a fraction (int / int is correctly rounded), as a fraction."""
    return Fraction(x.numerator / x.denominator)


def root(x):
    """The binary64 nearest to sqrt(x): 160 bits of the root, with a sticky bit, rounded once."""
    if x == 0:
        return Fraction(0)
    shift = 320 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2 * 2
    scaled = x * Fraction(2) ** shift
    whole = scaled.numerator // scaled.denominator
    low = isqrt(whole)
    exact = low * low == whole and whole == scaled
    return rounded(Fraction(2 * low + (0 if exact else 1)) / Fraction(2) ** (shift // 2 + 1))


def mul(a, b):
    return rounded(a * b)


def add(a, b):
    return rounded(a + b)


def step(kind, x, d, m, v, o):
    if kind == "MOMENTUM":
        m = add(mul(o["momentum"], m), d)
        return add(x, mul(o["lr"], m)), m, v
    m = add(mul(o["beta1"], m), mul(add(Fraction(1), -o["beta1"]), d))
    square = mul(d, d)
    c2 = add(Fraction(1), -o["beta2"])
    if kind == "ADAGRAD":
        v = add(v, square)
    elif kind == "ADAM":
        v = add(mul(o["beta2"], v), mul(c2, square))
    else:
        sign = (v > square) - (v < square)
        v = add(v, -mul(mul(c2, square), Fraction(sign)))
    return add(x, rounded(mul(o["lr"], m) / add(root(v), o["tau"]))), m, v


def f32(x):
    return struct.unpack("<f", struct.pack("<f", float(x)))[0]


def bits64(x):
    return struct.unpack("<Q", struct.pack("<d", float(x)))[0]


def bits32(x):
    return struct.unpack("<I", struct.pack("<f", float(x)))[0]


def main():
    rng = random.Random(11)
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/* Written by tests/support/make_server_golden.py. */")
    o = {k: Fraction(float(v)) for k, v in
         {"lr": 0.03, "momentum": 0.9, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}.items()}
    for kind in ("MOMENTUM", "ADAGRAD", "ADAM", "YOGI"):
        x = [f32(rng.gauss(0, 1)) for _ in range(ELEMENTS)]
        m = [Fraction(0)] * ELEMENTS
        v = [mul(o["tau"], o["tau"])] * ELEMENTS
        print("{KERN_SERVER_%s,\n {%s}," % (kind, ", ".join("0x%08xu" % bits32(a) for a in x)))
        deltas, x = [], [Fraction(a) for a in x]
        for _ in range(STEPS):
            d = [Fraction(rng.gauss(0, 1) * 10.0 ** rng.uniform(-9, 0)) for _ in range(ELEMENTS)]
            d[rng.randrange(ELEMENTS)] = Fraction(0)
            deltas.append(d)
            for i in range(ELEMENTS):
                y, m[i], v[i] = step(kind, x[i], d[i], m[i], v[i], o)
                x[i] = Fraction(f32(y))
        print(" {%s}," % ",\n  ".join("{%s}" % ", ".join("0x%016xu" % bits64(a) for a in d)
                                      for d in deltas))
        print(" {%s}," % ", ".join("0x%08xu" % bits32(a) for a in x))
        print(" {%s}," % ", ".join("0x%016xu" % bits64(a) for a in m))
        print(" {%s}}," % ", ".join("0x%016xu" % bits64(a) for a in
                                    (v if kind != "MOMENTUM" else [Fraction(0)] * ELEMENTS)))


if __name__ == "__main__":
    main()
