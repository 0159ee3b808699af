# SPDX-License-Identifier: Apache-2.0
"""A federation that outlines the hippocampus by windows smaller than the volumes, and what its model
says of volumes that it is slid over."""
import csv
import gzip
import json
import os
import shutil
import subprocess
import struct
import tempfile
import unittest

import federation

EXAMPLE = os.path.join(federation.ROOT, "deploy", "examples", "hippocampus")
SCHEMA = os.path.join(EXAMPLE, "schema.yaml")
DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))
CASES = 30  # of a hospital
SIZE = (16, 24, 16)
LOCAL = {"loss": "dice_ce", "dice": {"batch": "true"}, "optimiser": {"name": "adam", "lr": 0.004},
         "batch": 4, "steps": 12, "seed": 1,
         "patch": {"size": "[%d, %d, %d]" % SIZE, "positive": 0.5, "overlap": 0.5}}


def sides(*numbers):
    """Dimensions as they stand in an ONNX file."""
    return b"".join(b"\x0a\x02\x08" + bytes([n]) for n in numbers)


def voxels(path):
    """Those of a NIfTI mask, of bytes or of int16."""
    with gzip.open(path) as f:
        raw = f.read()
    kind = struct.unpack("<h", raw[70:72])[0]
    return raw[352:] if kind == 2 else struct.unpack("<%dh" % (len(raw[352:]) // 2), raw[352:])


class Windows(unittest.TestCase):
    def setUp(self):
        data = os.path.join(DATA, "msd-hippocampus")
        if not os.path.isdir(data):
            self.skipTest("no MRI of the hippocampus at %s" % data)
        self.folder = tempfile.mkdtemp(prefix="consilium-windows-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        images = sorted(os.listdir(os.path.join(data, "imagesTr")))
        self.tables = []
        for site in range(2):
            self.tables.append(os.path.join(self.folder, "site-%d.csv" % site))
            with open(self.tables[-1], "w", encoding="utf-8") as f:
                f.write("image,mask,patient\n")
                for name in images[site * CASES:(site + 1) * CASES]:
                    f.write("%s/imagesTr/%s,%s/labelsTr/%s,%s\n" % (data, name, data, name, name))
        # The example's network is made of convolutions: its input may have other sides.
        with open(os.path.join(EXAMPLE, "model.onnx"), "rb") as f:
            whole = f.read()
        self.assertEqual(whole.count(sides(32, 48, 32)), 2)
        self.model = os.path.join(self.folder, "windows.onnx")
        with open(self.model, "wb") as f:
            f.write(whole.replace(sides(32, 48, 32), sides(*SIZE)))

    def keys(self, **local):
        return {"name": "hippocampus", "data": {"contract": "hippocampus"}, "model": self.model,
                "local": federation.merged(LOCAL, local), "exact": {"clip": 8.0}}

    def pooled(self, plan):
        done = subprocess.run([federation.program("consilium-baseline"), "--plan", plan, "--schema",
                               SCHEMA, "--json", "--pooled-only", "--csv", self.tables[0], "--csv",
                               self.tables[1]], capture_output=True, text=True, timeout=300,
                              check=False, env=federation.clean_environment())
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)[-1]["dice"]

    def predicted_dice(self, graph, model):
        """Over both parts of the hippocampus and all test patients of the first site."""
        out = os.path.join(self.folder, "masks")
        done = subprocess.run([federation.program("consilium-spoke"), "predict", "--threads", "1",
                               "--graph", graph, "--model", model, "--part", "test", "--overlap",
                               "0.5", "--out", out, SCHEMA, self.tables[0]], capture_output=True,
                              text=True, timeout=300, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.tables[0], encoding="utf-8", newline="") as f:
            masks = {row["patient"]: row["mask"] for row in csv.DictReader(f)}
        with open(os.path.join(out, "masks.csv"), encoding="utf-8", newline="") as f:
            rows = list(csv.DictReader(f))
        self.assertGreater(len(rows), 2)
        shared, sizes = {1: 0, 2: 0}, {1: 0, 2: 0}
        for row in rows:
            for said, label in zip(voxels(os.path.join(out, row["file"])), voxels(masks[row["id"]])):
                for c in (1, 2):
                    shared[c] += said == c and label == c
                    sizes[c] += (said == c) + (label == c)
        return sum(2 * shared[c] / sizes[c] for c in (1, 2)) / 2

    def test_windows_of_volumes_learn_what_pooled_ones_do(self):
        with federation.Federation(tls=False) as f:
            top = f.top(children_min=2)
            for i, table in enumerate(self.tables):
                f.spoke("north-%d" % (i + 1), top, csv=table, schema=SCHEMA)
            plan = f.plan(rounds=8, evaluate={"every": 8}, **self.keys())
            run = f.run(plan)
            run.finish()
            model, graph = os.path.join(f.dir, "m.safetensors"), os.path.join(f.dir, "g.onnx")
            f.cli("model", "pull", run.id, *f.at_top(), "--out", model)
            f.cli("model", "pull", run.id, "--graph", *f.at_top(), "--out", graph)
            seen = f.cli("run", "watch", run.id, "--json", *f.at_top()).stdout.splitlines()[-1]
            dice = [r["metrics"]["dice"] for r in json.loads(seen)["history"]
                    if "dice" in r["metrics"]]
            pooled, predicted = self.pooled(plan), self.predicted_dice(graph, model)
        print("    dice by round %s, pooled %.3f, predicted masks %.3f" %
              (" ".join("%.3f" % d for d in dice), pooled, predicted))
        self.assertGreater(pooled, 0.5)
        self.assertGreater(dice[-1], pooled - 0.1)
        self.assertGreater(predicted, pooled - 0.1)

    def test_windows_that_do_not_fit_are_refused(self):
        with federation.Federation(tls=False) as f:
            top = f.top()
            f.spoke("north-1", top, csv=self.tables[0], schema=SCHEMA)
            turned = f.plan(**self.keys(patch={"size": "[24, 16, 16]"}))
            done = f.cli("run", "start", turned, *f.at_top(), check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("local.patch.size is 24 x 16 x 16: the model's input is 1 x 1 x 16 x 24 x 16",
                          done.stderr)
            whole = f.plan(**federation.merged(self.keys(), {"local": {"patch": None}}))
            f.run(whole)
            top.wait_log("north-1 declines: the model takes 6144 features, the schema gives 49152")


if __name__ == "__main__":
    unittest.main()
