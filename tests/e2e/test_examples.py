# SPDX-License-Identifier: Apache-2.0
"""The examples, run as their README says, reach the figures it promises."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import federation

DATA = os.environ.get("CONSILIUM_TEST_DATA", os.path.join(federation.ROOT, "..", "shared", "data"))


def run(*command, timeout_s):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=dict(federation.clean_environment(), CONSILIUM_BIN=federation.BIN),
                          timeout=timeout_s)
    if done.returncode != 0:
        raise AssertionError("%s failed:\n%s" % (" ".join(command), done.stdout))
    return done.stdout


class Examples(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-examples-")
        self.addCleanup(shutil.rmtree, self.folder, True)

    def test_quickstart_federates_nearly_as_well_as_pooling_and_better_than_alone(self):
        text = run(os.path.join(federation.ROOT, "deploy", "quickstart"), "--programs",
                   federation.BIN, "--dir", os.path.join(self.folder, "quick"), timeout_s=180)
        accuracy = {row: float(value) for row, value in
                    re.findall(r"^(alone|federated|pooled) +(0\.[0-9]{4})", text, re.M)}
        self.assertEqual(set(accuracy), {"alone", "federated", "pooled"}, text)
        self.assertGreaterEqual(accuracy["federated"], accuracy["pooled"] - 0.01, text)
        self.assertGreater(accuracy["federated"], accuracy["alone"], text)
        self.assertRegex(text, r"model SHA-256 +[0-9a-f]{64}")

    def test_heart_disease_reaches_the_published_accuracy(self):
        originals = os.path.join(DATA, "uci-heart-disease", "original")
        if not os.path.isdir(originals):
            self.skipTest("no heart-disease data at %s" % originals)
        text = run(os.path.join(federation.ROOT, "deploy", "examples", "heart-disease", "run"),
                   originals, os.path.join(self.folder, "heart"), timeout_s=240)
        accuracy = dict(re.findall(r"^(plan\S*) +pooled-test accuracy (0\.[0-9]+)", text, re.M))
        self.assertGreaterEqual(float(accuracy["plan-reference"]), 0.748, text)
        self.assertGreaterEqual(float(accuracy["plan"]), 0.775, text)


if __name__ == "__main__":
    unittest.main()
