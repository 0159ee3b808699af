# SPDX-License-Identifier: Apache-2.0
"""Some of the seeded kills of tests/chaos; --all runs more of them."""
import os
import re
import subprocess
import sys
import unittest

from federation import ROOT


class Chaos(unittest.TestCase):
    def test_random_kills_change_nothing(self):
        long = os.environ.get("CONSILIUM_E2E_ALL")
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tests", "chaos", "kill.py"),
                               "--cases", "200" if long else "40", "--seed", "1",
                               "--seconds", "330" if long else "120"],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        cases = re.search(r"^([0-9]+) cases", done.stdout, re.M)
        self.assertTrue(cases and int(cases.group(1)) >= 3, done.stdout)


if __name__ == "__main__":
    unittest.main()
