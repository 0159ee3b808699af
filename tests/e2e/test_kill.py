# SPDX-License-Identifier: Apache-2.0
"""kill -9 of any node at its worst moments: the same round completes, and nothing counts twice.

The model is large enough (67 MB) for a push and a fold to be caught half-way. The moment is found
in the spool: a growing `.part` is a push being received, a `.tmp` is an update being written (by a
hub: a fold; by a spoke: the sealing of what it trained). A kill counts as a hit only if the file is
still there when the process is gone.
"""
import os
import re
import shutil
import tempfile
import unittest

from federation import CHUNK, Federation
from onnx_file import write_mlp

WIDTHS = [30, 4096, 4096, 1]
ROUNDS = 4  # more than one, because a moment may be missed; each node is killed once
LEAST = 4 * CHUNK
SHAPE = {"hub-a": {"north-1": None, "north-2": None}, "centre-1": None}
CHILDREN = {"top": ["centre-1", "hub-a"], "hub-a": ["north-1", "north-2"]}


def pushing(node):
    """The partials that hold some megabytes, with their sizes."""
    return {n: s for n, s in node.spool().items() if n.endswith(".part") and s > LEAST}


def writing(node):
    return {n: s for n, s in node.spool().items() if n.endswith(".tmp") and s > LEAST}


def publishing(node):
    """The optimiser's state that the top is writing beside the next model."""
    return {n: s for n, s in node.models().items() if n.startswith("state-") and s > LEAST}


ADAM = {"optimiser": {"name": "adam", "lr": 0.001}}


class Kill(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="consilium-e2e-model-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.model = os.path.join(cls.folder, "wide.onnx")
        write_mlp(cls.model, WIDTHS)
        with Federation() as f:
            f.tree(SHAPE)
            cls.reference = f.run(cls.plan(f)).finish().model

    @classmethod
    def plan(cls, f, **changes):
        return f.plan(rounds=ROUNDS, model=cls.model, local={"steps": 1, "optimiser": {"lr": 0.01}},
                      evaluate={"every": 0}, **changes)

    # -- what must hold afterwards

    def check_counted_once(self, nodes, run):
        for parent, children in CHILDREN.items():
            counted = [(e["data"]["round"], e["data"]["child"])
                       for e in nodes[parent].audit("update.counted")
                       if e["data"]["run"] == run.id]
            self.assertEqual(sorted(counted), sorted((r, c) for r in range(1, ROUNDS + 1)
                                                     for c in children), parent)

    def check_rounds_went_on(self, nodes, run):
        """No round was opened a second time, and none was skipped."""
        for parent in CHILDREN:
            rounds = [e["data"]["round"] for e in nodes[parent].audit("round.opened")
                      if e["data"]["run"] == run.id]
            self.assertEqual(rounds, list(range(1, ROUNDS + 1)), parent)

    def check_audits(self, f, nodes):
        for node in nodes.values():
            f.cli("audit", "verify", node.dir)

    def check_resumed(self, receiver, parts, mark):
        """The pushes that were cut went on where they were, up to the chunk that was half here.
        A receiver that lives says where the cut was; one that was killed left the partial."""
        for name, size in parts.items():
            line = r"update %.12s, %s byte (\d+) of (\d+)"
            again = [m for m in re.finditer(line % (name, "from"), receiver.log(mark))]
            self.assertEqual(len(again), 1, "pushes of %s after the kill" % name)
            start, total = (int(n) for n in again[0].groups())
            cut = receiver.find(line % (name, "cut at"), mark)
            here = int(cut.group(1)) if cut else size - self.header_bytes(name, total)
            self.assertLess(here, total)
            self.assertTrue(0 <= here - start < CHUNK,
                            "%d bytes were here, it went on from %d" % (here, start))

    def header_bytes(self, name, total):
        """The sealed file at whoever pushes it begins with the same header."""
        return self.sealed_sizes[name.replace(".part", ".upd")] - total

    # -- one case

    def kill_case(self, victim, moment, at=None, resumes=False, reference=None, **changes):
        """Kills `victim` when `moment(at)` holds; `at` is the node whose spool tells, the victim
        itself where it is not given. `resumes`: what the moment finds are pushes to go on with.
        `changes` are the plan's, and `reference` is the model it makes undisturbed."""
        with Federation() as f:
            self.nodes = nodes = f.tree(SHAPE)
            self.sealed_sizes = {}
            victim, at = nodes[victim], nodes[at or victim]
            run = f.run(self.plan(f, **changes))
            for number in range(1, ROUNDS + 1):
                run.wait_round(number)
                seen = f.wait(lambda: moment(at) or run.ended() or
                              (self.over(nodes, run, number) and "over"), 120,
                              "the moment to kill %s" % victim.name)
                if isinstance(seen, dict):
                    mark = at.mark()
                    victim.kill()
                    left = moment(at)
                    for node in nodes.values():
                        self.sealed_sizes.update(node.spool())
                    victim.start()
                    if left:
                        break
            else:
                self.fail("%s was never caught at that moment" % victim.name)
            end = run.finish()
            self.assertEqual(end.model, reference or self.reference)
            self.check_counted_once(nodes, run)
            self.check_rounds_went_on(nodes, run)
            self.check_audits(f, nodes)
            self.left = nodes["top"].models()
            if resumes:
                self.check_resumed(at, left, mark)

    @staticmethod
    def over(nodes, run, number):
        return any(e["data"]["round"] == number for e in nodes["top"].audit("round.committed"))

    def test_a_spoke_killed_while_it_pushes(self):
        self.kill_case("centre-1", pushing, "top", resumes=True)

    def test_a_spoke_killed_while_its_hub_folds(self):
        self.kill_case("north-1", writing, "hub-a")

    def test_a_spoke_killed_while_it_seals_its_update(self):
        self.kill_case("north-1", writing)

    def test_a_hub_killed_while_it_is_pushed_to(self):
        self.kill_case("hub-a", pushing, resumes=True)

    def test_a_hub_killed_while_it_folds(self):
        self.kill_case("hub-a", writing)

    def test_a_hub_killed_while_it_pushes(self):
        own = lambda top: {n: s for n, s in pushing(top).items()
                           if n.replace(".part", ".upd") in self.nodes["hub-a"].spool()}
        self.kill_case("hub-a", own, "top", resumes=True)

    def test_the_top_killed_while_it_is_pushed_to(self):
        self.kill_case("top", pushing, resumes=True)

    def test_the_top_killed_while_it_folds(self):
        self.kill_case("top", writing)

    def test_the_top_killed_while_its_optimiser_writes_what_it_remembers(self):
        with Federation() as f:
            top = f.tree(SHAPE)["top"]
            reference = f.run(self.plan(f, server=ADAM)).finish().model
            self.assertEqual([n for n in top.models() if "state" in n], [])
        self.assertNotEqual(reference, self.reference)
        self.kill_case("top", publishing, reference=reference, server=ADAM)
        self.assertEqual([n for n in self.left if "state" in n], [])


class KillAmongParts(unittest.TestCase):
    """A hub with few places folds what arrives in parts and lets the updates go; the children keep
    theirs until the commit."""

    SPOKES = ("north-1", "north-2", "north-3", "centre-1", "centre-2")

    def federate(self, f, folder, **top):
        """Every child trains; kills what `top` is while it folds a part of round 1."""
        model = os.path.join(folder, "wide.onnx")
        if not os.path.exists(model):
            write_mlp(model, WIDTHS)
        top = f.top(children_min=len(self.SPOKES), **top)
        for name in self.SPOKES:
            f.spoke(name, top)
        return top, f.run(f.plan(rounds=2, model=model, local={"steps": 1,
                                 "optimiser": {"lr": 0.01}}, evaluate={"every": 0}))

    def test_a_hub_killed_while_it_folds_a_part(self):
        folder = tempfile.mkdtemp(prefix="consilium-e2e-model-")
        self.addCleanup(shutil.rmtree, folder)
        with Federation() as f:
            top, run = self.federate(f, folder)
            reference = run.finish().model
            self.assertEqual(top.audit("round.part"), [], "there are places for all")
        with Federation() as f:
            top, run = self.federate(f, folder, max_uploaders=2)
            kills = 0
            while kills < 2 and not run.ended():
                before = len(top.audit("round.part"))
                # Once a part stands: the next is made of it and of what came since.
                if f.wait(lambda: run.ended() or (before and writing(top)) or
                          len(top.audit("round.part")) > before, 120, "a part") is True:
                    continue
                if writing(top):
                    top.kill()
                    top.start()
                    kills += 1
            self.assertEqual(run.finish().model, reference)
            self.assertGreater(kills, 0, "it was never caught at a part")
            self.assertGreaterEqual(len(top.audit("round.part")), 2)
            counted = [(e["data"]["round"], e["data"]["child"])
                       for e in top.audit("update.counted")]
            self.assertEqual(sorted(counted),
                             sorted((r, c) for r in (1, 2) for c in self.SPOKES))
            f.cli("audit", "verify", top.dir)
            left = [n for n in top.spool() if n.endswith((".upd", ".tmp", ".part"))]
            self.assertEqual(left, [], "a round leaves nothing behind")


if __name__ == "__main__":
    unittest.main()
