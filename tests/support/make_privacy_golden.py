#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/unit/tier/privacy_golden.inc: epsilons by the dp-accounting package (0.6.0 wrote the
frozen ones), which tier/privacy.h is compared with.

    python3 -m venv v && v/bin/pip install dp-accounting
    v/bin/python tests/support/make_privacy_golden.py > tests/unit/tier/privacy_golden.inc
"""
import sys

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

# noise multiplier, sampling rate, steps, delta
SETTINGS = [(2, 1, 1, 1e-5), (0.8, 1, 1, 1e-6), (10, 1, 50, 1e-6), (30, 1, 1000, 1e-5),
            (1.1, 0.01, 10000, 1e-5), (1, 0.004, 1500, 1e-6), (0.6, 0.01, 100, 1e-5),
            (4, 0.2, 1000, 1e-5), (0.8, 0.001, 30000, 1e-7), (1, 0.5, 10, 1e-5),
            (20, 0.05, 200, 1e-3), (0.5, 0.002, 3000, 1e-6), (1.5, 0.1, 300, 1e-9),
            (3, 0.02, 100000, 1e-5)]
# Several mechanisms together: the same fields, and the delta of all.
MIXED = ([(1.2, 0.02, 500), (4, 1, 3), (0.9, 0.005, 2000)], 1e-5)


def event(noise, rate, count):
    one = dp_event.GaussianDpEvent(noise)
    if rate < 1:
        one = dp_event.PoissonSampledDpEvent(rate, one)
    return dp_event.SelfComposedDpEvent(one, count)


def costs(events, delta):
    return [accountant.compose(dp_event.ComposedDpEvent(events)).get_epsilon(delta)
            for accountant in (RdpAccountant(), PLDAccountant(value_discretization_interval=1e-4))]


print("/* Made by tests/support/make_privacy_golden.py: noise, rate, steps, delta; RDP, PLD. */")
for noise, rate, count, delta in SETTINGS:
    print("{{%g, %g, %d}, %g, %.6f, %.6f}," % (
        noise, rate, count, delta, *costs([event(noise, rate, count)], delta)))
print("#define MIXED_RDP %.6f\n#define MIXED_PLD %.6f" % tuple(
    costs([event(*e) for e in MIXED[0]], MIXED[1])))
sys.stdout.flush()
