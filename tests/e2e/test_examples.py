# SPDX-License-Identifier: Apache-2.0
"""The examples, run as their README says, reach the figures it promises."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import unittest

import federation

DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))


QUICKSTART = os.path.join(federation.ROOT, "deploy", "quickstart")
HIPPOCAMPUS = os.path.join(federation.ROOT, "deploy", "examples", "hippocampus")


def environment():
    return dict(federation.clean_environment(), CONSILIUM_BIN=federation.BIN)


def run(*command, timeout_s):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment(), timeout=timeout_s)
    if done.returncode != 0:
        raise AssertionError("%s failed:\n%s" % (" ".join(command), done.stdout))
    return done.stdout


def processes_with(text):
    """Process ids of all command lines that hold `text`."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open("/proc/%s/cmdline" % int(entry), "rb") as f:
                if text.encode() in f.read():
                    found.append(int(entry))
        except (ValueError, OSError):
            pass  # not a process, or not any more
    return found


class Examples(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-examples-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.work = os.path.join(self.folder, "quick")

    def quickstart(self, *options):
        return [QUICKSTART, "--programs", federation.BIN, "--dir", self.work, *options]

    def test_quickstart_federates_nearly_as_well_as_pooling_and_better_than_alone(self):
        text = run(*self.quickstart(), timeout_s=180)
        accuracy = {row: float(value) for row, value in
                    re.findall(r"^(alone|federated|pooled) +(0\.[0-9]{4})", text, re.M)}
        self.assertEqual(set(accuracy), {"alone", "federated", "pooled"}, text)
        self.assertGreaterEqual(accuracy["federated"], accuracy["pooled"] - 0.01, text)
        self.assertGreater(accuracy["federated"], accuracy["alone"], text)
        self.assertRegex(text, r"model SHA-256 +[0-9a-f]{64}")
        self.assertEqual(processes_with(self.work), [])

    def test_quickstart_stops_everything_where_a_node_is_lost_and_goes_on_with_what_is_kept(self):
        first = subprocess.Popen(self.quickstart(), stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env=environment())
        self.addCleanup(first.stdout.close)
        self.addCleanup(first.kill)
        started = os.path.join(self.work, "watch-1.json")
        federation.wait_until(lambda: os.path.exists(started), 120, "the second run is watched")
        spoke, = processes_with(os.path.join(self.work, "north-2", "config.yaml"))
        os.kill(spoke, signal.SIGKILL)
        text, _ = first.communicate(timeout=60)
        self.assertEqual(first.returncode, 1, text)
        self.assertIn("north-2 has ended in the middle of run", text)
        self.assertEqual(processes_with(self.work), [])

        text = run(*self.quickstart("--keep", "--folds", "1"), timeout_s=120)
        kept = re.search(r"model SHA-256 +([0-9a-f]{64})", text).group(1)
        text = run(*self.quickstart("--folds", "1"), timeout_s=120)
        self.assertIn(kept, text, "the same plan on the same tables gives the same model")

    def test_quickstart_refuses_a_folder_that_is_not_its_own(self):
        kept = os.path.join(self.work, "thesis.txt")
        os.makedirs(self.work)
        with open(kept, "w", encoding="utf-8"):
            pass
        done = subprocess.run(self.quickstart(), capture_output=True, text=True, timeout=60,
                              env=environment(), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("was not made by quickstart", done.stderr)
        self.assertTrue(os.path.exists(kept))

    def test_the_models_that_are_drawn_are_what_their_scripts_write(self):
        python = os.environ.get("CONSILIUM_PYTHON")
        if not python or subprocess.run([python, "-c", "import onnx"], capture_output=True,
                                        check=False).returncode:
            self.skipTest("CONSILIUM_PYTHON names no Python that has onnx")
        written = os.path.join(self.folder, "model.onnx")
        models = []
        for name in ("heart-disease", "breast-cancer"):
            example = os.path.join(federation.ROOT, "deploy", "examples", name)
            run(python, os.path.join(example, "export.py"), written, timeout_s=60)
            for path in (written, os.path.join(example, "model.onnx")):
                with open(path, "rb") as f:
                    models.append(f.read())
            self.assertEqual(models[-2], models[-1], name)
        self.assertNotEqual(models[0], models[2])

    def test_heart_disease_says_which_file_is_missing(self):
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run(
                [os.path.join(federation.ROOT, "deploy/examples/heart-disease/prepare.py"), empty,
                 os.path.join(empty, "out")], stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("processed.cleveland.data: No such file", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_heart_disease_reaches_the_published_accuracy(self):
        originals = os.path.join(DATA, "uci-heart-disease", "original")
        if not os.path.isdir(originals):
            self.skipTest("no heart-disease data at %s" % originals)
        text = run(os.path.join(federation.ROOT, "deploy", "examples", "heart-disease", "run"),
                   originals, os.path.join(self.folder, "heart"), timeout_s=240)
        accuracy = dict(re.findall(r"^(plan\S*) +pooled-test accuracy (0\.[0-9]+)", text, re.M))
        self.assertGreaterEqual(float(accuracy["plan-reference"]), 0.748, text)
        self.assertGreaterEqual(float(accuracy["plan"]), 0.775, text)

    def test_heart_disease_learns_under_differential_privacy(self):
        originals = os.path.join(DATA, "uci-heart-disease", "original")
        if not os.path.isdir(originals):
            self.skipTest("no heart-disease data at %s" % originals)
        text = run(os.path.join(federation.ROOT, "deploy", "examples", "heart-disease", "private"),
                   originals, os.path.join(self.folder, "private"), timeout_s=400)
        accuracy = dict(re.findall(r"^(1|3|8|none) +\S+ +(0\.[0-9]+)$", text, re.M))
        self.assertEqual(set(accuracy), {"1", "3", "8", "none"}, text)
        # Of positive and negative patients 53 in 100 are of one kind.
        self.assertGreaterEqual(float(accuracy["1"]), 0.65, text)
        self.assertGreaterEqual(float(accuracy["8"]), float(accuracy["none"]) - 0.04, text)

    def test_forty_practices_learn_under_differential_privacy_of_whole_sites(self):
        originals = os.path.join(DATA, "uci-heart-disease", "original")
        if not os.path.isdir(originals):
            self.skipTest("no heart-disease data at %s" % originals)
        text = run(os.path.join(federation.ROOT, "deploy", "examples", "heart-disease", "sites"),
                   "--sites", "40", "--seeds", "1", originals, os.path.join(self.folder, "sites"),
                   timeout_s=300)
        found = re.findall(r"^40 +(3|8|none) +\S+ +(0\.[0-9]+) \+- \S+ +(0\.[0-9]+)?", text, re.M)
        accuracy = {epsilon: [float(v) for v in values if v] for epsilon, *values in found}
        self.assertEqual([len(accuracy[e]) for e in ("3", "8", "none")], [2, 2, 1], text)
        self.assertGreaterEqual(accuracy["none"][0], 0.78, text)
        self.assertGreaterEqual(min(accuracy["3"]), 0.7, text)
        self.assertGreaterEqual(min(accuracy["8"]), 0.75, text)

    def test_pneumonia_says_what_is_wrong_with_the_file(self):
        prepare = os.path.join(federation.ROOT, "deploy/examples/pneumonia/prepare.py")
        done = subprocess.run([prepare, os.devnull, self.folder], stderr=subprocess.PIPE, text=True,
                              check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("prepare.py: ", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_pneumonia_reaches_the_area_its_readme_says(self):
        original = os.path.join(DATA, "pneumoniamnist", "pneumoniamnist_28_content.npz")
        if not os.path.isfile(original):
            self.skipTest("no chest X-rays at %s" % original)
        text = run(os.path.join(federation.ROOT, "deploy", "examples", "pneumonia", "run"),
                   original, os.path.join(self.folder, "pneumonia"), timeout_s=500)
        area, images = re.search(r"^federated +AUC (0\.[0-9]+) .* on ([0-9]+) test images", text,
                                 re.M).groups()
        self.assertEqual(int(images), 624)
        self.assertGreaterEqual(float(area), 0.93, text)

    def hippocampus(self):
        folder = os.path.join(DATA, "msd-hippocampus")
        if not os.path.isdir(os.path.join(folder, "imagesTr")):
            self.skipTest("no MRI of the hippocampus at %s" % folder)
        return folder

    def test_hippocampus_says_what_is_wrong_with_the_folder(self):
        prepare = os.path.join(HIPPOCAMPUS, "prepare.py")
        os.makedirs(os.path.join(self.folder, "labelsTr"))
        done = subprocess.run([prepare, self.folder, os.path.join(self.folder, "out")],
                              stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("labelsTr has no hippocampus_*.nii.gz", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def hippocampus_dice(self, *options):
        """Of the federation, and of pooled training where it is asked for: over all voxels, and the
        mean of the cases'."""
        text = run(os.path.join(HIPPOCAMPUS, "run"), *options, self.hippocampus(),
                   os.path.join(self.folder, "hippocampus"), timeout_s=400)
        return {name: (float(whole), float(cases)) for name, whole, cases in re.findall(
            r"^(federated|pooled) +Dice (0\.[0-9]+) .*mean of cases (0\.[0-9]+)", text, re.M)}

    def test_hippocampus_reaches_its_dice_in_half_of_its_rounds(self):
        dice = self.hippocampus_dice("--rounds", "6")
        self.assertGreaterEqual(min(dice["federated"]), 0.80)

    @unittest.skipUnless(os.environ.get("CONSILIUM_E2E_ALL"), "minutes of training: --all")
    def test_hippocampus_federates_as_well_as_pooling_with_the_same_budget(self):
        dice = self.hippocampus_dice("--pooled")
        self.assertGreaterEqual(min(dice["federated"]), 0.80)
        for federated, pooled in zip(dice["federated"], dice["pooled"], strict=True):
            self.assertGreaterEqual(federated, 0.98 * pooled)

    def test_tables_of_volumes_pool_to_the_whole(self):
        """Wherever they lie: files are named relative to their table."""
        run(os.path.join(HIPPOCAMPUS, "prepare.py"), self.hippocampus(), self.folder, timeout_s=120)
        shutil.copy(os.path.join(HIPPOCAMPUS, "model.onnx"), self.folder)
        plan = os.path.join(self.folder, "plan.yaml")
        with open(os.path.join(HIPPOCAMPUS, "plan.yaml"), encoding="utf-8") as f:
            text = f.read()
        with open(plan, "w", encoding="utf-8") as f:
            f.write(re.sub("(?m)^rounds: .*", "rounds: 1", text))
        with open(os.path.join(self.folder, "memory.csv"), encoding="utf-8") as f:
            header, *rows = f.readlines()
        tables = []
        for name, part in (("one", rows[:9]), ("two", rows[9:20]), ("both", rows[:20])):
            tables.append(os.path.join(self.folder, name + ".csv"))
            with open(tables[-1], "w", encoding="utf-8") as f:
                f.writelines([header, *part])
        pooled = [self.pooled(plan, *tables[:2]), self.pooled(plan, tables[2])]
        self.assertEqual(pooled[0], pooled[1])
        self.assertGreater(pooled[0]["accuracy"], 0.5)
        self.assertIn("dice_2", pooled[0])

    @staticmethod
    def pooled(plan, *tables):
        named = [word for table in tables for word in ("--csv", table)]
        text = run(federation.program("consilium-baseline"), "--plan", plan, "--schema",
                   os.path.join(HIPPOCAMPUS, "schema.yaml"), "--pooled-only", "--json", *named,
                   timeout_s=300)
        row, = json.loads(text)
        return row


if __name__ == "__main__":
    unittest.main()
