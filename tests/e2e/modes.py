#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the two modes of plans cost: accuracy, AUC and seconds of the breast cancer example's nine
hospitals below one top, in turns, over so many seeds. tests/e2e/modes.py [SEEDS]; tier/THREATS.md
has what it printed."""
import json
import os
import re
import statistics
import subprocess
import sys
import time

from federation import EXAMPLE, SITES, Federation, clean_environment, merged, program

ROUNDS, STEPS, BATCH, SMALLEST = 20, 10, 8, 28  # training rows of the smallest hospital
EPSILON, DELTA = 8, 1e-3


def run(*arguments):
    return subprocess.run([program(arguments[0]), *arguments[1:]], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=True,
                          env=clean_environment()).stdout


def measure(seed, changes):
    with Federation() as f:
        top = f.top_with_authority(children_min=len(SITES))
        for site in SITES:
            f.spoke(site, top)
        plan = f.plan(rounds=ROUNDS, **merged(
            {"local": {"batch": BATCH, "steps": STEPS, "seed": seed}}, changes))
        f.cli("plan", "sign", plan, "--identity", f.operator)
        for site in SITES:
            top.wait_log("child %s attends" % site)
        began = time.monotonic()
        ended = f.run(plan).finish(600)
        seconds = time.monotonic() - began
        tables = [word for site in SITES for word in ("--csv", f.table(site))]
        told = run("consilium-baseline", "--plan", plan, "--schema",
                   os.path.join(EXAMPLE, "schema.yaml"), "--model",
                   os.path.join(top.dir, "models", ended.model + ".safetensors"), *tables, "--json")
        json.loads(told)
        return [float(re.search(r'"%s": *([\d.]+)' % key, told).group(1))
                for key in ("accuracy", "auc")] + [seconds]


def main():
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    noise = float(run("consilium", "privacy", "noise", "--epsilon", str(EPSILON), "--delta",
                      str(DELTA), "--rate", "%.9f" % (BATCH / SMALLEST), "--steps",
                      str(ROUNDS * STEPS)).split()[0])
    masks = {"mode": "untrusted", "secure": {"norm_max": 2.0}}
    plans = {"trusted": {}, "untrusted, exceptions: [privacy]": dict(masks,
                                                                    exceptions="[privacy]"),
             "untrusted, epsilon %d" % EPSILON: dict(masks, privacy={"patient": {
                 "clip": 1.0, "noise": noise, "delta": DELTA, "epsilon_max": float(EPSILON)}})}
    found = {name: [] for name in plans}
    for seed in range(1, seeds + 1):
        for name, changes in plans.items():
            found[name].append(measure(seed, changes))
    print("%-34s %8s %8s %8s" % ("", "accuracy", "AUC", "seconds"))
    for name, rows in found.items():
        print("%-34s %8.4f %8.4f %8.1f" % (
            name, statistics.mean(r[0] for r in rows), statistics.mean(r[1] for r in rows),
            statistics.median(r[2] for r in rows)))


if __name__ == "__main__":
    main()
