#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`consilium privacy cost` beside the dp-accounting package, over random settings.

    check_privacy.py CONSILIUM [--cases N] [--seed S]

The tight bound must lie within 1 % of the package's by privacy loss distributions. The bound by
Renyi accounting must be no more than 1 % above the package's; it is below where the best order is
one that the package does not try.
"""
import argparse
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
        if max(off) > LIMIT:
            failed += 1
            print("noise %g rate %g steps %d delta %g: rdp %.5f, not %.5f; tight %.5f, not %.5f" % (
                *setting, ours["rdp"], peer[0], ours["epsilon"], peer[1]))
    print("%d settings, %d failed; at most %.2f %% above (Renyi), %.2f %% off (tight)" % (
        seen, failed, 100 * worst[0], 100 * worst[1]))
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
