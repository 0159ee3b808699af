# SPDX-License-Identifier: Apache-2.0
"""One plan, the same six hospitals, whatever the tree above them and their threads: one model."""
import hashlib
import json
import os
import unittest

from federation import Federation

SHAPES = {
    "flat": {"north-1": None, "north-2": None, "centre-1": None, "centre-2": None, "south-1": None,
             "south-3": None},
    "two tiers": {"north": {"north-1": None, "north-2": None},
                  "centre": {"centre-1": None, "centre-2": None},
                  "south": {"south-1": None, "south-3": None}},
    # Uneven on purpose: a spoke at the top, a hub with one child, siblings far apart.
    "three tiers": {"east": {"far-east": {"south-3": None, "north-1": None}, "centre-2": None},
                    "west": {"north-2": None}, "centre-1": None, "south-1": None},
}


class SameBits(unittest.TestCase):
    def model_of(self, shape, threads):
        with Federation() as f:
            f.tree(SHAPES[shape], threads=threads)
            return f.run(f.plan(rounds=3)).finish().model

    def test_every_tree_and_number_of_threads_gives_the_same_model(self):
        reference = self.model_of("flat", 1)
        for shape, threads in (("flat", 2), ("two tiers", 1), ("two tiers", 2), ("three tiers", 1),
                               ("three tiers", 2)):
            with self.subTest(shape=shape, threads=threads):
                self.assertEqual(self.model_of(shape, threads), reference)

    def test_the_model_that_is_pulled_is_the_one_in_the_log(self):
        with Federation() as f:
            f.tree({"north-1": None, "south-1": None})
            run = f.run(f.plan(rounds=2))
            end = run.finish()
            path = os.path.join(f.dir, "pulled.safetensors")
            f.cli("model", "pull", run.id, "--out", path, *f.at_top())
            with open(path, "rb") as model:
                self.assertEqual(hashlib.sha256(model.read()).hexdigest(), end.model)
            info = json.loads(f.cli("model", "info", path, "--json").stdout)
            self.assertEqual(info["sha256"], end.model)
            listed = json.loads(f.cli("run", "list", "--json", *f.at_top()).stdout)
            self.assertIn(run.id, json.dumps(listed))

    def test_another_seed_gives_another_model(self):
        models = set()
        with Federation() as f:
            f.tree({"north-1": None, "south-1": None})
            for seed in (7, 8):
                models.add(f.run(f.plan(rounds=1, local={"seed": seed})).finish().model)
        self.assertEqual(len(models), 2)


if __name__ == "__main__":
    unittest.main()
