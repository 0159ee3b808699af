# SPDX-License-Identifier: Apache-2.0
"""consilium-spoke predict: a released model as a second reader, beside what the federation says of
it and what onnxruntime makes of it."""
import array
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import federation

SCHEMA = os.path.join(federation.EXAMPLE, "schema.yaml")
PNEUMONIA = os.path.join(federation.ROOT, "deploy", "examples", "pneumonia")
DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))
PYTHON = os.environ.get("CONSILIUM_PYTHON")

# Probabilities of the second class by onnxruntime: the model's own output, or its logits' sigmoid.
# What was exported for training is told to evaluate first.
PEER = """
import json, sys
import numpy, onnx, onnxruntime
model, rows = onnx.load(sys.argv[1]), numpy.load(sys.argv[2])
for node in model.graph.node:
    if node.op_type == "BatchNormalization":
        del node.output[1:]
        kept = [a for a in node.attribute if a.name != "training_mode"]
        del node.attribute[:]
        node.attribute.extend(kept)
    elif node.op_type == "Dropout":
        del node.input[1:]
sigmoid = model.graph.node[-1].op_type in ("Sigmoid", "Softmax")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
y = session.run(None, {session.get_inputs()[0].name: rows})[0].astype(float)
if y.shape[1] == 1:
    y = y if sigmoid else 1 / (1 + numpy.exp(-y))
elif not sigmoid:
    y = numpy.exp(y) / numpy.exp(y).sum(1, keepdims=True)
json.dump(y[:, -1].tolist(), sys.stdout)
"""


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def area(scores, ill):
    """Under the ROC curve: the share of pairs in their right order, ties for half."""
    positive = [s for s, y in zip(scores, ill) if y]
    negative = [s for s, y in zip(scores, ill) if not y]
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return won / (len(positive) * len(negative))


class Predict(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-predict-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.out = os.path.join(self.folder, "scores.csv")

    def predict(self, *arguments, status=0):
        done = subprocess.run([federation.program("consilium-spoke"), "predict", "--threads", "1",
                               "--json", *arguments], capture_output=True, text=True, timeout=120,
                              check=False, env=federation.clean_environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if status == 0 else done.stderr

    def scores(self):
        with open(self.out, encoding="utf-8", newline="") as f:
            return list(csv.DictReader(f))

    def of_peer(self, model, rows):
        """What onnxruntime gives for rows, float32 as nested lists."""
        table = os.path.join(self.folder, "rows.npy")
        shape = "".join("%d, " % n for n in rows[0])
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }" % shape
        header += " " * (-(len(header) + 11) % 64) + "\n"
        with open(table, "wb") as f:
            f.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
            f.write(rows[1].tobytes())
        done = subprocess.run([PYTHON, "-c", PEER, model, table], capture_output=True, text=True,
                              timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_scores_of_a_federations_model_have_the_figures_that_it_published(self):
        with federation.Federation(tls=False) as f:
            top = f.top(children_min=1)
            f.spoke("north-1", top)
            run = f.run(f.plan(rounds=4))
            end = run.finish()
            model = os.path.join(f.dir, "model.safetensors")
            graph = os.path.join(f.dir, "graph.onnx")
            f.cli("model", "pull", run.id, *f.at_top(), "--out", model)
            f.cli("model", "pull", run.id, "--graph", *f.at_top(), "--out", graph)
            seen = f.cli("run", "watch", run.id, "--json", *f.at_top()).stdout.splitlines()[-1]
            want = [r["metrics"] for r in json.loads(seen)["history"]
                    if "accuracy" in r["metrics"]][-1]
            table = f.table("north-1")
            done = self.predict("--graph", graph, "--model", model, "--part", "test", "--out",
                                self.out, SCHEMA, table)
            with open(table, encoding="utf-8", newline="") as t:
                truth = {row["patient"]: row["diagnosis"] for row in csv.DictReader(t)}
            rows = self.scores()
            self.assertEqual(done, {"rows": len(rows), "model_sha256": end.model})
            self.assertEqual(len(rows), want["count"])
            right = sum(row["class"] == truth[row["id"]] for row in rows)
            self.assertAlmostEqual(right / len(rows), want["accuracy"], places=6)
            found = area([float(row["score"]) for row in rows],
                         [truth[row["id"]] == "malignant" for row in rows])
            self.assertAlmostEqual(found, want["auc"], delta=0.002)  # theirs is of a histogram
            with open(self.out + ".json", encoding="utf-8") as o:
                origin = json.load(o)
            self.assertEqual(origin["model_sha256"], sha256(model))
            self.assertEqual(origin["graph_sha256"], sha256(graph))
            self.assertEqual(origin["csv_sha256"], sha256(self.out))
            self.assertEqual(origin["classes"], ["benign", "malignant"])

            self.assertIn("nothing is written over",
                          self.predict("--graph", graph, "--model", model, "--out", self.out,
                                       SCHEMA, table, status=1))
            other = os.path.join(federation.ROOT, "deploy/examples/heart-disease/model.onnx")
            text = self.predict("--graph", other, "--model", model, "--out", self.out + "2",
                                SCHEMA, table, status=1)
            self.assertIn("the schema makes 30 features of a row: the model takes", text)
            self.assertFalse(os.path.exists(self.out + "2"))

    def test_scores_are_those_of_onnxruntime(self):
        if not PYTHON:
            self.skipTest("CONSILIUM_PYTHON is not set: a Python with onnxruntime and numpy")
        model = os.path.join(federation.EXAMPLE, "model.onnx")
        table = os.path.join(self.folder, "new.csv")
        with open(SCHEMA, encoding="utf-8") as f:
            columns = re.findall(r"name: (\w+), type: number.*mean: ([0-9.]+), std: ([0-9.]+)",
                                 f.read())
        subprocess.run(["awk", "-v", "out=" + self.folder, "-f",
                        os.path.join(federation.EXAMPLE, "split.awk"),
                        os.path.join(federation.EXAMPLE, "breast_cancer.csv")], check=True)
        with open(os.path.join(self.folder, "north-1.csv"), encoding="utf-8", newline="") as f:
            patients = list(csv.DictReader(f))
        with open(table, "w", encoding="utf-8", newline="") as f:  # no targets, no ids
            names = [name for name, _, _ in columns]
            f.write(",".join(names) + "\n")
            f.writelines(",".join(p[name] for name in names) + "\n" for p in patients)
        x = array.array("f", [(float(p[name]) - float(mean)) / (float(std) + 1e-9)
                              for p in patients for name, mean, std in columns])
        self.predict("--graph", model, "--out", self.out, SCHEMA, table)
        want = self.of_peer(model, ((len(patients), len(columns)), x))
        rows = self.scores()
        self.assertEqual([int(row["row"]) for row in rows], list(range(2, 2 + len(patients))))
        for row, score in zip(rows, want):
            self.assertAlmostEqual(float(row["score"]), score, delta=1e-5)

    def test_scores_of_x_rays_are_those_of_onnxruntime(self):
        original = os.path.join(DATA, "pneumoniamnist", "pneumoniamnist_28_content.npz")
        if not os.path.isfile(original):
            self.skipTest("no chest X-rays at %s" % original)
        if not PYTHON:
            self.skipTest("CONSILIUM_PYTHON is not set: a Python with onnxruntime and numpy")
        model = os.path.join(PNEUMONIA, "model.onnx")
        self.predict("--graph", model, "--part", "test", "--out", self.out,
                     os.path.join(PNEUMONIA, "schema.yaml"), original)
        prepare = ("import numpy, sys; d = numpy.load(sys.argv[1]); t = d['train_images'].astype("
                   "float); x = (d['test_images'] - t.mean()) / (t.std(ddof=1) + 1e-9); "
                   "sys.stdout.buffer.write(x.astype('<f4').tobytes())")
        done = subprocess.run([PYTHON, "-c", prepare, original], capture_output=True, timeout=120,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = self.scores()
        self.assertEqual(len(rows), 624)
        want = self.of_peer(model, ((624, 1, 28, 28), array.array("f", done.stdout)))
        for row, score in zip(rows, want):
            self.assertAlmostEqual(float(row["score"]), score, delta=1e-5)

    def test_misuse_is_told(self):
        self.assertIn("Usage:", self.predict("--out", self.out, SCHEMA, "t.csv", status=2))
        self.assertIn("Usage:", self.predict("--graph", "g", "--out", self.out, "--part", "all",
                                             SCHEMA, "t.csv", status=2))


if __name__ == "__main__":
    unittest.main()
