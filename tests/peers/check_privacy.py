#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`consilium privacy cost` beside the dp-accounting package, over random settings.

    check_privacy.py CONSILIUM [--cases N] [--seed S]

The tight bound must lie within 1 % of the package's by privacy loss distributions. The bound by
Renyi accounting must be no more than 1 % above the package's; it is below where the best order is
one that the package does not try. Concentrated privacy must be its closed form, worked out here with
fractions and decimals, to twelve digits, and above the package's account of a discrete Gaussian, of which the
tight bound, for a continuous one, must be within 1 %.
"""
import argparse
import decimal
import fractions
import json
import math
import random
import subprocess
import sys

import logging

from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

logging.disable(logging.WARNING)  # orders that its series does not converge for
LIMIT = 0.01


def drawn(rng):
    """A setting that a training could have, of a cost that means something."""
    noise = round(math.exp(rng.uniform(math.log(0.5), math.log(20))), 3)
    rate = 1 if rng.random() < 0.2 else float("%.2g" % 10 ** rng.uniform(-3.5, -0.3))
    steps = int(10 ** rng.uniform(0, 4.5))
    return noise, rate, steps, 10 ** -rng.randint(3, 8)


def theirs(noise, rate, steps, delta):
    one = dp_event.GaussianDpEvent(noise)
    event = dp_event.SelfComposedDpEvent(
        one if rate == 1 else dp_event.PoissonSampledDpEvent(rate, one), steps)
    rdp = RdpAccountant().compose(event).get_epsilon(delta)
    if not 0.05 < rdp < 50:
        return None
    # Its grid rounds every step up: fine enough for the sum, coarse enough to end.
    for grid in (1e-4, 1e-5):
        pld = PLDAccountant(value_discretization_interval=grid).compose(event).get_epsilon(delta)
        if pld > 0.5:
            break
    return rdp, pld


def concentrated(noise, steps, delta):
    """rho, and the least epsilon of Canonne, Kamath and Steinke 2020 over the orders, to 50 digits."""
    decimal.getcontext().prec = 50
    number = decimal.Decimal
    exact = fractions.Fraction(steps) / (2 * fractions.Fraction(str(noise)) ** 2)
    rho, d = number(exact.numerator) / number(exact.denominator), number(repr(delta))
    low, high = number(-60), number(60)
    for _ in range(170):
        middle = (low + high) / 2
        more = middle.exp()
        if rho * more * more + (1 + more).ln() + d.ln() > 0:
            high = middle
        else:
            low = middle
    more = high.exp()
    order = 1 + more
    epsilon = order * rho + (more / order).ln() - (order.ln() + d.ln()) / more
    return float(exact), max(float(epsilon), 0.0)


def check_concentrated(ours, setting):
    noise, _, steps, delta = setting
    rho, epsilon = concentrated(noise, steps, delta)
    off = abs(ours["rho"] / rho - 1)
    if ours["zcdp"] is not None:
        off = max(off, abs(ours["zcdp"] - epsilon) / max(epsilon, 1e-3))
    elif epsilon <= 200:
        off = 1
    if off > 1e-12:
        print("noise %g steps %d delta %g: rho %r, not %r; zcdp %r, not %r" % (
            noise, steps, delta, ours["rho"], rho, ours["zcdp"], epsilon))
    return off <= 1e-12


def whole_numbers(program, rng):
    """The discrete Gaussian itself, once: the package's privacy loss distribution beside rho. It is
    of sensitivity 1, so that noise is its deviation."""
    from dp_accounting.pld import privacy_loss_distribution as pld
    failed = 0
    for _ in range(8):
        noise, delta = round(rng.uniform(2, 12), 2), 10.0 ** -rng.randint(3, 8)
        true = pld.from_discrete_gaussian_mechanism(
            noise, value_discretization_interval=1e-4).get_epsilon_for_delta(delta)
        ours = json.loads(subprocess.run(
            [program, "privacy", "cost", "--noise", str(noise), "--steps", "1", "--delta", str(delta),
             "--json"], check=True, capture_output=True, text=True).stdout)
        # Concentrated privacy bounds it; the tight account of the continuous one is the same.
        if not (true <= ours["zcdp"] and abs(ours["epsilon"] / true - 1) < LIMIT):
            failed += 1
            print("discrete, deviation %g delta %g: %.5f; tight %.5f, zcdp %.5f" % (
                noise, delta, true, ours["epsilon"], ours["zcdp"]))
    return failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("consilium")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    rng, seen, failed, worst = random.Random(a.seed), 0, 0, [0.0, 0.0]
    while seen < a.cases:
        setting = drawn(rng)
        peer = theirs(*setting)
        if peer is None:
            continue
        seen += 1
        ours = json.loads(subprocess.run(
            [a.consilium, "privacy", "cost", "--noise", str(setting[0]), "--rate", str(setting[1]),
             "--steps", str(setting[2]), "--delta", str(setting[3]), "--json"],
            check=True, capture_output=True, text=True).stdout)
        off = [ours["rdp"] / peer[0] - 1, abs(ours["epsilon"] / peer[1] - 1)]
        worst = [max(pair) for pair in zip(worst, off)]
        if not check_concentrated(ours, setting):
            failed += 1
        if max(off) > LIMIT:
            failed += 1
            print("noise %g rate %g steps %d delta %g: rdp %.5f, not %.5f; tight %.5f, not %.5f" % (
                *setting, ours["rdp"], peer[0], ours["epsilon"], peer[1]))
    print("%d settings, %d failed; at most %.2f %% above (Renyi), %.2f %% off (tight)" % (
        seen, failed, 100 * worst[0], 100 * worst[1]))
    discrete = whole_numbers(a.consilium, rng)
    print("8 discrete Gaussians, %d failed" % discrete)
    return failed + discrete > 0


if __name__ == "__main__":
    sys.exit(main())
