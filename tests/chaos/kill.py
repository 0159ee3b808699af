#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Kills random nodes of a running federation at random moments, again and again.

A case is one run of a short plan on a three-tier tree of real processes. During it one to three
nodes (any of them, the same one twice too) are killed with SIGKILL after random delays and started
again. The run must complete, with the model of the undisturbed run, every child counted exactly
once in each round, and every audit log whole. What is random comes from the seed; what the machine
makes of it is its own, so a seed repeats the kills, not the interleaving.

Prints a line for each case that went wrong and last "N cases, N wrong"; the exit status is 0 only
where none was.
"""
import argparse
import os
import random
import sys
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from federation import Federation  # noqa: E402

SHAPE = {"hub-a": {"north-1": None, "hub-b": {"north-2": None, "north-3": None}}, "south-1": None}
CHILDREN = {"top": {"hub-a", "south-1"}, "hub-a": {"north-1", "hub-b"},
            "hub-b": {"north-2", "north-3"}}
ROUNDS = 8
RUN_S = 60


def wait(seconds):
    """The random moment of a kill: here time itself is what is tested."""
    time.sleep(seconds)


class Chaos:
    def __init__(self, federation, rng):
        self.f, self.rng = federation, rng
        self.nodes = federation.tree(SHAPE)
        began = time.monotonic()
        self.reference = federation.run(self.plan()).finish(RUN_S).model
        self.usual_s = time.monotonic() - began

    def plan(self):
        return self.f.plan(rounds=ROUNDS, evaluate={"every": 0})

    def case(self):
        """One run with its kills; raises AssertionError where something is wrong."""
        kills = [(self.rng.choice(sorted(self.nodes)), self.rng.uniform(0, self.usual_s),
                  self.rng.uniform(0, 0.2)) for _ in range(self.rng.randint(1, 3))]
        self.story = ", ".join("%s after %.3f s for %.3f s" % k for k in kills)
        run = self.f.run(self.plan())
        for name, after, down in kills:
            wait(after)
            self.nodes[name].kill()
            wait(down)
            self.nodes[name].start()
        end = run.finish(RUN_S)
        if end.model != self.reference:
            raise AssertionError("the model is %s, undisturbed %s" % (end.model, self.reference))
        for parent, children in CHILDREN.items():
            counted = sorted((e["data"]["round"], e["data"]["child"])
                             for e in self.nodes[parent].audit("update.counted")
                             if e["data"]["run"] == run.id)
            expected = [(r, c) for r in range(1, ROUNDS + 1) for c in sorted(children)]
            if counted != expected:
                raise AssertionError("%s counted %s" % (parent, counted))
        for node in self.nodes.values():
            if not node.running():
                raise AssertionError("%s has ended" % node.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30, help="how many at most (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="decides the kills (default 1)")
    parser.add_argument("--seconds", type=float, default=0,
                        help="begin no case after so long; 0 is no limit")
    options = parser.parse_args()

    began, done, wrong = time.monotonic(), 0, 0
    while done < options.cases:
        # A case that goes wrong may leave a run open: the next one gets a federation of its own.
        with Federation() as f:
            chaos = Chaos(f, None)
            while done < options.cases:
                if options.seconds and time.monotonic() - began > options.seconds:
                    options.cases = done
                    break
                chaos.rng = random.Random("%d/%d" % (options.seed, done))
                done += 1
                try:
                    chaos.case()
                except Exception:  # whatever it is, it is this case's result
                    wrong += 1
                    print("seed %d case %d wrong (%s)" % (options.seed, done - 1, chaos.story))
                    traceback.print_exc(file=sys.stdout)
                    f.keep_logs()
                    break
    print("%d cases, %d wrong, %.0f s" % (done, wrong, time.monotonic() - began))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
