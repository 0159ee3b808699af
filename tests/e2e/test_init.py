# SPDX-License-Identifier: Apache-2.0
"""Transfer learning: consilium model init puts trained values into a graph, a plan freezes some."""
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

import federation
from federation import Federation
from test_export import read_safetensors, write_safetensors

MODEL = os.path.join(federation.ROOT, "deploy", "examples", "breast-cancer", "model.onnx")


class Init(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-init-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.out = os.path.join(self.folder, "out.onnx")

    def init(self, weights, *options, graph=MODEL, status=0):
        done = subprocess.run([federation.program("consilium"), "model", "init", graph, "--weights",
                               weights, "--onnx", self.out, *options], capture_output=True,
                              text=True, timeout=60, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr if status else done.stdout

    def file(self, name, tensors):
        path = os.path.join(self.folder, name)
        write_safetensors(path, tensors)
        return path

    def trained(self, f, top, **changes):
        """The tensors that a run publishes."""
        model = f.run(f.plan(**changes)).finish().model
        return read_safetensors(os.path.join(top.dir, "models", model + ".safetensors"))

    def test_a_run_starts_from_what_another_ended_with_and_leaves_what_is_frozen(self):
        with Federation() as f:
            top = f.tree({"north-1": None, "north-2": None})["top"]
            first = self.trained(f, top, rounds=3)
            said = self.init(self.file("first.safetensors", first)).splitlines()
            self.assertTrue(said[0].startswith(f"{len(first)} taken ("), said)
            again = self.trained(f, top, rounds=2, model=self.out,
                                 local={"freeze": ["fc1.*", "fc2.*"]})
            head = self.trained(f, top, rounds=2, local={"freeze": ["fc1.*", "fc2.*"]})
        self.assertEqual([n for n, _, _ in again], [n for n, _, _ in first])
        for (name, _, before), (_, _, after), (_, _, other) in zip(first, again, head):
            self.assertEqual(before == after, not name.startswith("fc3"), name)
            self.assertNotEqual(after, other, name)  # the graph's own values are others

    def test_what_fits_is_taken_and_the_rest_is_named(self):
        with Federation() as f:
            top = f.tree({"north-1": None})["top"]
            tensors = self.trained(f, top, rounds=1)
        # A body with another head, one tensor missing, one that nobody knows, in another order.
        name, shape, raw = tensors[-1]
        other = [("extra", [2], struct.pack("<2f", 1, 2))] + tensors[1:-1][::-1]
        other.append((name, [shape[0] * 2], raw * 2))
        path = self.file("other.safetensors", other)
        said = self.init(path, status=1)
        for part in (f"('{tensors[0][0]}')", f"('{name}')", "('extra')", "--partial"):
            self.assertIn(part, said)
        self.assertFalse(os.path.exists(self.out))
        said = json.loads(self.init(path, "--partial", "--json"))
        self.assertEqual(sorted(said["taken"]), sorted(n for n, _, _ in tensors[1:-1]))
        self.assertEqual(said["missing"], [tensors[0][0]])
        self.assertEqual(said["shape"], [name])
        self.assertEqual(said["unknown"], ["extra"])
        with open(self.out, "rb") as f:
            made = f.read()
        self.assertEqual(len(made), said["bytes"])
        for n, _, values in tensors:
            self.assertEqual(values in made, n in said["taken"], n)
        nothing = self.file("nothing.safetensors", other[:1])
        self.assertIn("has no tensor of the graph's", self.init(nothing, "--partial", status=1))


if __name__ == "__main__":
    unittest.main()
