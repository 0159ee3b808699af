# SPDX-License-Identifier: Apache-2.0
"""consilium-baseline: what a federation is compared with."""
import ast
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest
import zipfile

import federation

EXAMPLE = federation.EXAMPLE
DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))
SCHEMA = os.path.join(EXAMPLE, "schema.yaml")
PLAN = os.path.join(EXAMPLE, "plan.yaml")


def half_of(array, which):
    """An array of numpy, its first rows or the rest of them."""
    header = int.from_bytes(array[8:10], "little")
    about = ast.literal_eval(array[10:10 + header].decode())
    rows, *rest = about["shape"]
    size = (len(array) - 10 - header) // rows
    first, end = (0, rows // 2) if which == 0 else (rows // 2, rows)
    about["shape"] = (end - first, *rest)
    text = repr(about)
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return (array[:8] + len(text).to_bytes(2, "little") + text.encode() +
            array[10 + header + first * size:10 + header + end * size])


class Baseline(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-baseline-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        subprocess.run(["awk", "-v", "out=" + self.folder, "-f", os.path.join(EXAMPLE, "split.awk"),
                        os.path.join(EXAMPLE, "breast_cancer.csv")], check=True)

    def table(self, name, lines=None):
        path = os.path.join(self.folder, name + ".csv")
        if lines is not None:
            with open(path, "w", encoding="utf-8") as f:
                f.writelines(lines)
        return path

    def lines(self, name):
        with open(self.table(name), encoding="utf-8") as f:
            return f.readlines()

    def baseline(self, *tables, schema=SCHEMA, plan=PLAN, status=0, options=()):
        command = [federation.program("consilium-baseline"), "--plan", plan, "--schema", schema,
                   "--json", *options]
        for table in tables:
            command += ["--csv", table]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if status == 0 else done.stderr

    def test_a_table_in_two_halves_pools_to_the_whole(self):
        lines = self.lines("north-2")
        middle = len(lines) // 2
        first = self.table("first", lines[:middle])
        second = self.table("second", lines[:1] + lines[middle:])
        halves = self.baseline(first, second)
        whole = self.baseline(self.table("north-2"))
        self.assertEqual([row["name"] for row in halves], ["first.csv", "second.csv", "pooled"])
        self.assertEqual(halves[2], whole[1])

    def test_tables_without_a_header_lose_no_row(self):
        with open(SCHEMA, encoding="utf-8") as f:
            text = f.read()
        schema = os.path.join(self.folder, "schema.yaml")
        with open(schema, "w", encoding="utf-8") as f:
            f.write(text.replace("columns:", "file: {header: false}\ncolumns:", 1))
        lines = self.lines("north-2")
        middle = len(lines) // 2
        first = self.table("first", lines[1:middle])
        second = self.table("second", lines[middle:])
        self.assertEqual(self.baseline(first, second, schema=schema)[2],
                         self.baseline(self.table("north-2"))[1])

    def test_columns_in_another_order_are_refused(self):
        lines = self.lines("north-2")
        turned = [",".join(line.rstrip("\n").split(",")[::-1]) + "\n" for line in lines]
        text = self.baseline(self.table("north-1"), self.table("turned", turned), status=1)
        self.assertIn("turned.csv: its header is not that of", text)

    def test_a_plan_that_does_not_hold_is_refused(self):
        with open(PLAN, encoding="utf-8") as f:
            text = f.read()
        shutil.copy(os.path.join(EXAMPLE, "model.onnx"), self.folder)
        plan = os.path.join(self.folder, "plan.yaml")
        with open(plan, "w", encoding="utf-8") as f:
            f.write(text.replace("rounds: 20", "rounds: none"))
        self.assertIn("rounds", self.baseline(self.table("north-1"), plan=plan, status=1))

    def test_a_hospitals_model_is_what_is_shared_and_what_it_kept(self):
        """The figures of a federation are those of each hospital's own model, added up."""
        with federation.Federation(tls=False) as f:
            top = f.top(children_min=2)
            spokes = [f.spoke(name, top) for name in ("north-1", "north-2")]
            plan = f.plan(rounds=4, keep=["fc3.*"])
            checked = json.loads(f.cli("plan", "check", plan, "--json").stdout)
            self.assertEqual([t["name"] for t in checked["kept"]], ["fc3.weight", "fc3.bias"])
            self.assertIn("stays at each hospital, and is never sent: 2 tensors",
                          f.cli("plan", "check", plan).stdout)
            run = f.run(plan)
            run.finish()
            shared = os.path.join(f.dir, "shared.safetensors")
            f.cli("model", "pull", run.id, *f.at_top(), "--out", shared)
            seen = f.cli("run", "watch", run.id, "--json", *f.at_top()).stdout.splitlines()[-1]
            want = [r["metrics"]["accuracy"] for r in json.loads(seen)["history"]
                    if "accuracy" in r["metrics"]][-1]
            right = rows = 0
            for spoke in spokes:
                own = os.path.join(spoke.dir, "private", run.id + ".safetensors")
                f.wait(lambda path=own: os.path.exists(path), 30, "its own tensors")
                row, = self.baseline(f.table(spoke.name), plan=plan,
                                     options=("--model", shared, "--kept", own))
                opened = spoke.audit("data.opened")[-1]["data"]
                rows += opened["test_rows"]
                right += row["accuracy"] * opened["test_rows"]
            self.assertAlmostEqual(right / rows, want, places=5)
            one, two = (os.path.join(s.dir, "private", run.id + ".safetensors") for s in spokes)
            with open(one, "rb") as a, open(two, "rb") as b:
                self.assertNotEqual(a.read(), b.read())
            text = self.baseline(f.table("north-1"), plan=plan, status=1,
                                 options=("--model", shared))
            self.assertIn("keeps 2 tensors at each hospital: --kept FILE", text)
            text = self.baseline(f.table("north-1"), plan=f.plan(rounds=4), status=1,
                                 options=("--model", shared, "--kept", one))
            self.assertIn("--kept is for a plan that keeps", text)
            bad = f.cli("plan", "check", f.plan(keep=["bn*"]), check=False)
            self.assertEqual(bad.returncode, 1)
            self.assertIn("keep: the pattern 'bn*' matches no tensor", bad.stderr)

    def test_sets_of_x_rays_pool_to_the_whole(self):
        original = os.path.join(DATA, "pneumoniamnist", "pneumoniamnist_28_content.npz")
        if not os.path.isfile(original):
            self.skipTest("no chest X-rays at %s" % original)
        pneumonia = os.path.join(federation.ROOT, "deploy", "examples", "pneumonia")
        schema = os.path.join(pneumonia, "schema.yaml")
        with open(os.path.join(pneumonia, "plan.yaml"), encoding="utf-8") as f:
            text = re.sub(r"rounds: \d+", "rounds: 1", f.read())
        text = re.sub(r"epochs: \d+", "steps: 20", text)
        plan = os.path.join(self.folder, "plan.yaml")
        with open(plan, "w", encoding="utf-8") as f:
            f.write(text)
        shutil.copy(os.path.join(pneumonia, "model.onnx"), self.folder)
        halves = [os.path.join(self.folder, name) for name in ("first.npz", "second.npz")]
        for at, half in enumerate(halves):
            with zipfile.ZipFile(original) as whole, zipfile.ZipFile(half, "w") as part:
                for name in whole.namelist():
                    part.writestr(name, half_of(whole.read(name), at))
        rows = self.baseline(*halves, schema=schema, plan=plan)
        self.assertEqual([row["name"] for row in rows], ["first.npz", "second.npz", "pooled"])
        whole = self.baseline(original, schema=schema, plan=plan, options=("--pooled-only",))
        self.assertEqual(rows[2], whole[0])

    def test_a_table_that_is_not_there_is_refused(self):
        text = self.baseline(self.table("north-1"), self.table("nowhere"), status=1)
        self.assertIn("nowhere.csv", text)

    def test_no_table_is_misuse(self):
        self.assertIn("Usage:", self.baseline(status=2))


if __name__ == "__main__":
    unittest.main()
