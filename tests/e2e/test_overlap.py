# SPDX-License-Identifier: Apache-2.0
"""Sites show each other that nobody trains on another's test patients, by numbers alone."""
import json
import os
import subprocess
import tempfile
import unittest

import federation

SCHEMA = """name: clinic
columns:
  - {name: patient, type: id}
  - {name: age, type: number, min: 0, max: 120}
  - {name: ill, type: target, categories: ["no", "yes"]}
split: {by: hash, key: "%s", fraction: 0.3}
"""


class Overlap(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="consilium-overlap-")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.key = self.write("key", "k" * 32)
        os.chmod(self.key, 0o600)

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def site(self, name, patients, split_key="a key of all sites", key=None, check=True):
        """The file of a site with those patients, two rows each."""
        schema = self.write(name + ".yaml", SCHEMA % split_key)
        rows = ["patient,age,ill"] + ["p-%03d,%d,%s" % (p, 20 + p % 60, ["no", "yes"][p % 2])
                                      for p in patients for _ in range(2)]
        table = self.write(name + ".csv", "\n".join(rows) + "\n")
        out = os.path.join(self.dir, name + ".ids")
        done = subprocess.run([federation.program("consilium-spoke"), "overlap", "--key",
                               key or self.key, "--out", out, schema, table],
                              capture_output=True, text=True, timeout=60, check=False)
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return out if check else done

    def compare(self, *files):
        done = subprocess.run([federation.program("consilium"), "overlap", "--json", *files],
                              capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def test_a_split_by_keyed_hash_has_no_patient_on_both_sides_at_any_sites(self):
        code, said = self.compare(self.site("north", range(0, 200)),
                                  self.site("south", range(150, 300)))
        self.assertEqual((code, said["leaks"]), (0, 0))
        pair = said["pairs"][1]
        self.assertEqual(pair["train_both"] + pair["test_both"], 50)
        self.assertGreater(pair["test_both"], 0)

    def test_sites_with_splits_of_their_own_are_found_out(self):
        code, said = self.compare(self.site("north", range(0, 200)),
                                  self.site("south", range(150, 300), "another key of its own"))
        self.assertEqual(code, 1)
        pair = said["pairs"][1]
        self.assertGreater(pair["train_a_test_b"], 0)
        self.assertEqual(said["leaks"], pair["train_a_test_b"] + pair["test_a_train_b"])

    def test_a_file_tells_no_id_and_without_the_key_compares_with_nothing(self):
        with open(self.site("north", range(0, 50)), encoding="utf-8") as file:
            self.assertNotIn("p-0", file.read())
        other = self.write("other", "q" * 32)
        os.chmod(other, 0o600)
        code, said = self.compare(self.site("south", range(0, 50)),
                                  self.site("west", range(0, 50), key=other))
        self.assertEqual(code, 1)
        self.assertIn("different keys", said)

    def test_a_key_that_others_may_read_or_that_is_short_is_refused(self):
        os.chmod(self.key, 0o644)
        self.assertIn("chmod 600", self.site("north", range(9), check=False).stderr)
        short = self.write("short", "k" * 31)
        os.chmod(short, 0o600)
        self.assertIn("holds 31 bytes", self.site("north", range(9), key=short,
                                                  check=False).stderr)


if __name__ == "__main__":
    unittest.main()
