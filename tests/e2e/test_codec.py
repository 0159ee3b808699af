# SPDX-License-Identifier: Apache-2.0
"""Updates in shorter forms, by real processes: one model whatever the tree and whoever is killed."""
import os
import unittest

from federation import Federation

SHAPE = {"hub-a": {"north-1": None, "north-2": None}, "centre-1": None}
FLAT = {"north-1": None, "north-2": None, "centre-1": None}
CODECS = ({"name": "f32", "entropy": "zstd"}, {"name": "top_k", "share": 0.02, "entropy": "zstd"},
          {"name": "q4", "error_feedback": "true"}, {"name": "top_k", "share": 0.02})
ROUNDS = 8


def kept(node, suffix):
    """Files of what codecs dropped, in the node's data directory."""
    folder = os.path.join(node.dir, "residual")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [name for name in names if name.endswith(suffix)]


class Codec(unittest.TestCase):
    def plan(self, f, codec):
        return f.plan(rounds=ROUNDS, codec=codec)

    def test_a_deep_and_a_flat_tree_give_the_same_model(self):
        for codec in CODECS:
            models = set()
            for shape in (FLAT, SHAPE):
                with Federation() as f:
                    f.tree(shape)
                    models.add(f.run(self.plan(f, codec)).finish().model)
            self.assertEqual(len(models), 1, codec)

    def parameters(self, top, model):
        """The bytes behind a .safetensors file's header, which names the plan."""
        with open(os.path.join(top.dir, "models", model + ".safetensors"), "rb") as f:
            f.seek(int.from_bytes(f.read(8), "little") + 8)
            return f.read()

    def test_compressed_updates_give_the_parameters_that_others_give(self):
        for codec in ({"name": "f32"}, {"name": "q4"}, {"name": "top_k", "share": 0.02}):
            models = set()
            for entropy in ("none", "zstd"):
                with Federation() as f:
                    top = f.tree(SHAPE)["top"]
                    end = f.run(self.plan(f, dict(codec, entropy=entropy))).finish()
                    models.add(self.parameters(top, end.model))
            self.assertEqual(len(models), 1, codec)

    def sealed(self, node, run, number):
        return any(e["data"]["run"] == run.id and e["data"]["round"] == number
                   for e in node.audit("update.sealed"))

    def receipted(self, node, run, number):
        return any(e["data"]["run"] == run.id and e["data"]["round"] == number
                   for e in node.audit("receipt"))

    def test_what_was_dropped_counts_once_whenever_a_spoke_is_killed(self):
        for codec in CODECS:
            with Federation() as f:
                f.tree(SHAPE)
                reference = f.run(self.plan(f, codec)).finish().model
            with Federation() as f:
                nodes = f.tree(SHAPE)
                run = f.run(self.plan(f, codec))
                spokes = [nodes[name] for name in ("north-1", "centre-1")]
                for number in range(1, ROUNDS):
                    victim = spokes[number % 2]
                    run.wait_round(number)
                    moment = (lambda: kept(victim, ".next") or kept(victim, ".tmp"),
                              lambda: self.sealed(victim, run, number),
                              lambda: self.receipted(victim, run, number),
                              lambda: True)[number // 2 % 4]
                    f.wait(lambda: moment() or run.ended(), 60, "a moment to kill " + victim.name)
                    victim.kill()
                    victim.start()
                self.assertEqual(run.finish().model, reference, codec)
                for spoke in spokes:
                    f.wait(lambda: not kept(spoke, ""), 20, "an ended run to leave nothing")


if __name__ == "__main__":
    unittest.main()
