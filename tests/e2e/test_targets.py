# SPDX-License-Identifier: Apache-2.0
"""Federations that learn a number, and how long patients live, from real patients: as good as the same
recipe on everybody's rows."""
import csv
import gzip
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import federation
import onnx_file

DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))
PYTHON = os.environ.get("CONSILIUM_PYTHON")
SITES = ["north-1", "centre-1", "south-1"]
SPLIT = "  - {name: who, type: id}\nsplit: {by: hash, key: eight bytes, fraction: 0.3}\n"


def columns(names, rows):
    """Schema lines of numbers, standardised alike at all sites by the mean and deviation of all."""
    lines = []
    for i, name in enumerate(names):
        values = [float(row[i]) for row in rows]
        mean = sum(values) / len(values)
        std = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        lines.append("  - {name: %s, type: number, standardise: true, mean: %r, std: %r}\n" %
                     (name, mean, std))
    return "".join(lines)


class Targets(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-targets-")
        self.addCleanup(shutil.rmtree, self.folder, True)

    def write(self, header, rows, schema):
        """A table for each site, the rows dealt by a patient's number; the schema's path."""
        self.tables = [os.path.join(self.folder, site + ".csv") for site in SITES]
        for i, path in enumerate(self.tables):
            with open(path, "w", encoding="utf-8", newline="") as f:
                out = csv.writer(f)
                out.writerow(header + ["who"])
                out.writerows(list(row) + [n] for n, row in enumerate(rows) if n % 3 == i)
        path = os.path.join(self.folder, "schema.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write("name: targets\ncolumns:\n" + schema + SPLIT)
        return path

    def figures(self, schema, features, rounds, **local):
        """The federation's first and last figures, and those of pooled training."""
        model = os.path.join(self.folder, "model.onnx")
        onnx_file.write_linear(model, features)
        with federation.Federation(tls=False) as f:
            top = f.top(children_min=len(SITES))
            for site, table in zip(SITES, self.tables):
                f.spoke(site, top, csv=table, schema=schema)
            plan = f.plan(rounds=rounds, model=model, data={"contract": "targets"}, local=local,
                          evaluate={"every": rounds}, exact={"clip": 64.0})
            run = f.run(plan)
            run.finish()
            seen = f.cli("run", "watch", run.id, "--json", *f.at_top()).stdout.splitlines()[-1]
            history = [r["metrics"] for r in json.loads(seen)["history"] if "loss" in r["metrics"]]
            command = [federation.program("consilium-baseline"), "--plan", plan, "--schema", schema,
                       "--json", "--pooled-only"]
            for table in self.tables:
                command += ["--csv", table]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False,
                                  env=federation.clean_environment())
            self.assertEqual(done.returncode, 0, done.stderr)
        return history[0], history[-1], json.loads(done.stdout)[-1]

    def diabetes(self):
        """442 patients: ten measurements, and how far the disease had gone a year later."""
        folder = os.path.join(DATA, "wdbc")
        if not os.path.isdir(folder):
            self.skipTest("no patients with diabetes at %s" % folder)
        with gzip.open(os.path.join(folder, "diabetes_data_raw.csv.gz"), "rt") as f:
            rows = [line.split() for line in f]
        with gzip.open(os.path.join(folder, "diabetes_target.csv.gz"), "rt") as f:
            targets = [float(line) / 100 for line in f]  # an error's square is of the order of 1
        self.assertEqual(len(rows), 442)
        names = ["x%d" % i for i in range(10)]
        return self.write(names + ["progress"], [row + [t] for row, t in zip(rows, targets)],
                          columns(names, rows) +
                          "  - {name: progress, type: target, value: true, min: 0, max: 10}\n")

    def test_a_value_is_learnt_as_well_as_from_pooled_rows(self):
        schema = self.diabetes()
        for loss in ("mse", "l1"):
            first, last, pooled = self.figures(schema, 10, 15, loss=loss, batch=32, steps=20,
                                               optimiser={"name": "sgd", "lr": 0.05}, seed=3)
            print("    %s: mse %.4f at first, %.4f federated, %.4f pooled; mae %.4f, %.4f" %
                  (loss, first["mse"], last["mse"], pooled["mse"], last["mae"], pooled["mae"]))
            # The variance of the target is 0.593: linear regression explains about half of it.
            self.assertLess(pooled["mse"], 0.36)
            self.assertLess(last["mse"], pooled["mse"] + 0.02)
            self.assertLess(last["mae"], pooled["mae"] + 0.02)
            self.assertGreater(first["mse"], 2)
            self.assertAlmostEqual(last["loss"], last["mse" if loss == "mse" else "mae"], places=6)

    def survival(self):
        """686 women with breast cancer (Schumacher et al. 1994), until it came back."""
        if not PYTHON:
            self.skipTest("CONSILIUM_PYTHON is not set: a Python with lifelines, which has the GBSG2 data")
        # The file alone: lifelines need not be importable, with all that it needs.
        text = ("import importlib.util, os; where = importlib.util.find_spec('lifelines'); "
                "print(open(os.path.join(where.submodule_search_locations[0], 'datasets', "
                "'gbsg2.csv')).read(), end='')")
        done = subprocess.run([PYTHON, "-c", text], capture_output=True, text=True, timeout=120,
                              check=False)
        if done.returncode != 0:
            self.skipTest("%s has no lifelines with the GBSG2 data" % PYTHON)
        patients = list(csv.DictReader(done.stdout.splitlines()))
        self.assertEqual(len(patients), 686)
        grades = {"I": 1, "II": 2, "III": 3}
        names = ["horm", "age", "meno", "size", "grade", "nodes", "prog", "estrog"]
        rows = [[int(p["horTh"] == "yes"), p["age"], int(p["menostat"] == "Post"), p["tsize"],
                 grades[p["tgrade"]], min(int(p["pnodes"]), 20), min(int(p["progrec"]), 500),
                 min(int(p["estrec"]), 500)] for p in patients]
        return self.write(names + ["days", "again"],
                          [r + [p["time"], p["cens"]] for r, p in zip(rows, patients)],
                          columns(names, rows) + "  - {name: days, type: target, value: true}\n"
                          "  - {name: again, type: event, positive_above: 0.5}\n")

    def test_survival_is_ranked_as_well_as_from_pooled_rows(self):
        first, last, pooled = self.figures(self.survival(), 8, 10, loss="cox", batch=512, steps=10,
                                           optimiser={"name": "sgd", "lr": 0.1}, seed=3)
        print("    concordance %.4f at first, %.4f federated, %.4f pooled" %
              (first["concordance"], last["concordance"], pooled["concordance"]))
        self.assertGreater(pooled["concordance"], 0.63)  # published models reach 0.67 to 0.70
        self.assertGreater(last["concordance"], pooled["concordance"] - 0.02)
        self.assertLess(last["loss"], first["loss"])

    def test_a_loss_of_other_targets_is_declined_with_the_reason(self):
        schema = self.diabetes()
        model = os.path.join(self.folder, "model.onnx")
        onnx_file.write_linear(model, 10)
        with federation.Federation(tls=False) as f:
            top = f.top()
            f.spoke("north-1", top, csv=self.tables[0], schema=schema)
            f.run(f.plan(model=model, data={"contract": "targets"},
                         local={"loss": "cox", "batch": 64}))
            top.wait_log("the schema's target does not go with cox, which needs a time and an event")


if __name__ == "__main__":
    unittest.main()
