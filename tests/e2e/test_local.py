# SPDX-License-Identifier: Apache-2.0
"""kill -9 where hospitals hold more than an update: tensors that stay with them, control variates,
curvatures, step counts. A disturbed tree publishes the model of a calm one, and leaves its hospitals the same
tensors of their own."""
import json
import os
import struct
import unittest

from federation import Federation

SHAPE = {"hub-a": {"north-1": None, "north-2": None}, "centre-1": None}
VICTIMS = ["north-1", "hub-a", "north-2", "centre-1", "top", "north-1"]
ROUNDS = 16
KEEP = {"keep": ["fc3.*"]}


def values_of(path):
    """The bytes of a file's tensors; its head names the run, which differs."""
    with open(path, "rb") as f:
        raw = f.read()
    length, = struct.unpack_from("<Q", raw)
    return json.loads(raw[8:8 + length]).keys(), raw[8 + length:]


class Local(unittest.TestCase):
    def outcome(self, changes, kills):
        with Federation() as f:
            f.tree(SHAPE)
            run = f.run(f.plan(rounds=ROUNDS, **changes))
            for i, name in enumerate(VICTIMS if kills else []):
                run.wait_round(2 + 2 * i)
                node = next(n for n in f.nodes if n.name == name)
                node.kill()
                node.start()
            model, own = run.finish().model, {}
            for node in f.nodes:
                if node.name not in ("north-1", "north-2", "centre-1"):
                    continue
                path = os.path.join(node.dir, "private", run.id + ".safetensors")
                if "keep" in changes:
                    f.wait(lambda p=path: os.path.exists(p), 60, "own tensors of " + node.name)
                    own[node.name] = values_of(path)
                f.wait(lambda d=node.dir: self.left(d) == [], 60, "nothing else is left")
            return model, own

    @staticmethod
    def left(folder):
        """What a run that has ended must not leave at a hospital."""
        out = []
        for kind in ("control", "curvature", "private", "residual"):
            path = os.path.join(folder, kind)
            if os.path.isdir(path):
                out += [n for n in os.listdir(path) if not n.endswith(".safetensors")]
        return out

    def check(self, **changes):
        calm, own = self.outcome(changes, False)
        killed, own_too = self.outcome(changes, True)
        self.assertEqual(calm, killed)
        self.assertEqual(own, own_too)
        self.assertEqual(len(own), 3 if "keep" in changes else 0)
        self.assertEqual(len({tensors for _, tensors in own.values()}), len(own))

    def test_tensors_that_stay_are_the_same_after_kills(self):
        self.check(**KEEP)

    def test_control_variates_are_the_same_after_kills(self):
        self.check(local={"scaffold": "true"}, **KEEP)

    def test_curvatures_are_the_same_after_kills(self):
        self.check(local={"curvature": {"lambda": 20.0, "clip": 0.5, "rows": 60}}, **KEEP)

    def test_normalised_updates_are_the_same_after_kills(self):
        self.check(local={"steps": None, "epochs": 1, "normalise": "true", "normalise_max": 500})

    def test_noisy_rows_are_the_same_after_kills(self):
        self.check(local={"augment": {"noise": 0.25}})

    def test_a_hospital_with_a_table_declines_what_belongs_to_images(self):
        with Federation(tls=False) as f:
            top = f.top()
            spoke = f.spoke("north-1", top)
            f.cli("run", "start", f.plan(local={"augment": {"flip_x": "true"}}), *f.at_top())
            f.wait(lambda: top.audit("run.declined"), 20, "the hospital declines")
            reason = top.audit("run.declined")[0]["data"]["reason"]
            self.assertIn("rows of a table can have noise alone", reason)
            self.assertTrue(spoke.running())


if __name__ == "__main__":
    unittest.main()
