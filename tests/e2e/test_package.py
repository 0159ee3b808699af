# SPDX-License-Identifier: Apache-2.0
"""The Python package by itself: its own tests, and that pip installs it."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import venv

import package
from federation import clean_environment


def python_tests(python):
    """Runs spoke/python/tests; how many ran, and how many were skipped."""
    environment = dict(clean_environment(), PYTHONPATH=package.folder(),
                       PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([python, "-m", "unittest", "discover", "-v", "-s",
                           os.path.join(package.SOURCE, "tests")],
                          env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    ran = int(re.search(r"Ran (\d+) tests", done.stderr).group(1))
    skipped = re.search(r"skipped=(\d+)", done.stderr)
    return ran, int(skipped.group(1)) if skipped else 0


class Package(unittest.TestCase):
    def test_its_own_tests_pass(self):
        ran, skipped = python_tests(sys.executable)
        self.assertGreater(ran - skipped, 30)

    def test_its_own_tests_pass_with_pytorch(self):
        _, skipped = python_tests(package.python_with_torch())
        self.assertEqual(skipped, 0)

    def test_the_trainer_in_the_readme_is_the_one_that_is_tested(self):
        with open(os.path.join(package.SOURCE, "README.md"), encoding="utf-8") as f:
            blocks = re.findall(r"```python\n(.*?)```", f.read(), re.DOTALL)
        with open(os.path.join(package.EXAMPLES, "torch_trainer.py"), encoding="utf-8") as f:
            self.assertTrue(f.read().endswith(blocks[0]))

    def test_its_types_hold_in_mypys_strict_mode(self):
        with tempfile.TemporaryDirectory(prefix="consilium-mypy-") as folder:
            try:
                venv.create(folder, with_pip=True)
            except subprocess.CalledProcessError:
                self.skipTest("this Python makes no environment (Debian: python3-venv)")
            python = os.path.join(folder, "bin", "python")
            done = subprocess.run([python, "-m", "pip", "-q", "install", "mypy", "numpy",
                                   "types-protobuf", "types-grpcio"],
                                  capture_output=True, text=True, timeout=120, check=False)
            if done.returncode != 0:
                self.skipTest("mypy cannot be installed here: %s" %
                              done.stderr.strip().splitlines()[-1])
            done = subprocess.run([python, "-m", "mypy", "--cache-dir", folder],
                                  cwd=package.SOURCE, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("Success: no issues found", done.stdout)

    def test_pip_installs_it_with_types_and_protocol(self):
        with tempfile.TemporaryDirectory(prefix="consilium-pip-") as folder:
            source = os.path.join(folder, "source", "spoke", "python")
            shutil.copytree(package.SOURCE, source)
            shutil.copytree(os.path.join(package.ROOT, "proto"),
                            os.path.join(folder, "source", "proto"))
            subprocess.run([sys.executable, "-m", "pip", "-q", "install", "--no-index", "--no-deps",
                            "--no-build-isolation", "--target", os.path.join(folder, "lib"),
                            source], check=True, capture_output=True, env=clean_environment())
            found = os.listdir(os.path.join(folder, "lib", "consilium"))
            for name in ("py.typed", "protocol.binpb", "trainer.py", "operator.py"):
                self.assertIn(name, found)


if __name__ == "__main__":
    unittest.main()
