# SPDX-License-Identifier: Apache-2.0
"""Buffered asynchronous rounds of real processes: nobody waits for who is late, and who is late
counts."""
import math
import os
import unittest

import edge
from federation import Federation

NOBODY = {"every": 0}


def multiplier(staleness):
    return math.floor(64 / math.sqrt(1 + staleness) + 0.5)


class LateSpoke:
    """A spoke of ours that takes its time: it is told of round 1 and holds an update for it."""

    def __init__(self, f, top, rounds):
        folder = os.path.join(f.dir, "south-1")
        f.enroll("south-1", "spoke", folder)
        self.parent = edge.Parent(top.port, "top", edge.Identity(os.path.join(folder, "identity")))
        self.stream = self.parent.attend("south-1")
        self.run = f.run(f.plan(rounds=rounds, evaluate=NOBODY, tiers={
            "top": {"sync": "buffered", "quorum": 2, "staleness_max": 64}}))
        said = self.stream.wait("plan")
        self.stream.send(answer=edge.wire().Answer(run=said.run, accepted=True))
        self.opened = self.stream.wait("round")
        self.base = edge.Model(self.parent.fetch(self.opened.base_model))
        self.id = said.run

    def update(self, round_number=1, base=None, metrics=b"", weight=1000):
        payload = edge.f32_payload([0.001] * len(self.base.values))
        return edge.Update(self.id, round_number, self.base.manifest(30),
                           base or self.opened.base_model, weight, payload, metrics_bytes=metrics)

    def push(self, update):
        self.stream.offer(update)
        grant = self.stream.wait("grant")
        return self.parent.push(update, grant.offset)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.parent.close()


class Async(unittest.TestCase):
    def two_and_a_late_one(self, f, rounds=120):
        top = f.top(children_min=3)
        for site in ("north-1", "north-2"):
            f.spoke(site, top)
        return top, LateSpoke(f, top, rounds)

    def test_a_late_update_counts_for_less_in_the_round_that_it_comes_in(self):
        with Federation() as f:
            top, late = self.two_and_a_late_one(f)
            with late:
                late.run.wait_round(4)
                update = late.update()
                receipt = late.push(update)
                self.assertEqual((receipt.round, receipt.update, receipt.weight),
                                 (1, update.id, 1000))
                self.assertGreaterEqual(receipt.counted, 4)
                cert = os.path.join(top.dir, "identity", "cert.pem")
                self.assertTrue(edge.receipt_signed_by(receipt, cert))
                counted = receipt.counted
                receipt.counted += 1
                self.assertFalse(edge.receipt_signed_by(receipt, cert))
                self.assertEqual(late.stream.wait("commit").round, 1)
                self.assertGreater(late.stream.wait("round").round, counted)
                self.assertEqual(late.run.finish().state, "completed")
            line, = [e["data"] for e in top.audit("update.counted")
                     if e["data"]["child"] == "south-1"]
            self.assertEqual((line["round"], line["counted"], line["multiplier"]),
                             (1, counted, multiplier(counted - 1)))

    def test_what_is_not_what_the_child_was_told_of_is_refused(self):
        with Federation() as f:
            _, late = self.two_and_a_late_one(f)
            with late:
                late.run.wait_round(3)
                wrong = [(late.update(round_number=2), "that round is not open here"),
                         (late.update(base=bytes(32)), "another base model than this round's"),
                         (late.update(metrics=edge.metrics({"full_weight": [999]})),
                          "1 to 64 times the weight would be right"),
                         (late.update(metrics=edge.metrics({"full_weight": [64001]})),
                          "1 to 64 times the weight would be right")]
                for update, words in wrong:
                    late.stream.offer(update)
                    refusal = late.stream.wait("refusal")
                    self.assertEqual(refusal.update, update.id)
                    self.assertIn(words, refusal.reason)
                self.assertEqual(late.push(late.update()).round, 1, "and it still may deliver")
                self.assertEqual(late.run.finish().state, "completed")

    def test_killed_nodes_leave_each_update_counted_once(self):
        with Federation() as f:
            nodes = f.tree({"hub-a": {"north-1": None, "north-2": None}, "centre-1": None,
                            "centre-2": None})
            run = f.run(f.plan(rounds=60, evaluate=NOBODY, tiers={
                "top": {"sync": "buffered", "quorum": 2, "staleness_max": 20},
                "hub": {"sync": "buffered", "quorum": 1, "staleness_max": 20}}))
            for number, name in ((5, "top"), (15, "hub-a"), (25, "north-2"), (35, "top")):
                run.wait_round(number)
                nodes[name].kill()
                nodes[name].start()
            self.assertEqual(run.finish().state, "completed")
            for name in ("top", "hub-a"):
                lines = [e["data"] for e in nodes[name].audit("update.counted")]
                once = {(e["child"], e["round"]) for e in lines}
                self.assertEqual(len(once), len(lines), name)
                for e in lines:
                    self.assertLessEqual(e["counted"] - e["round"], 20)
                    self.assertEqual(e["multiplier"], multiplier(e["counted"] - e["round"]))
                f.cli("audit", "verify", nodes[name].dir)
            committed = [e["data"]["round"] for e in nodes["top"].audit("round.committed")]
            self.assertEqual(committed, list(range(1, 61)))


if __name__ == "__main__":
    unittest.main()
