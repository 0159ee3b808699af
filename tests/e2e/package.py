# SPDX-License-Identifier: Apache-2.0
"""The Python package of spoke/python, installed as a hospital would, once a process; and programs
that use it, as processes of a federation."""
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

from federation import ROOT, clean_environment

SOURCE = os.path.join(ROOT, "spoke", "python")
EXAMPLES = os.path.join(SOURCE, "examples")
_folder = None


def folder():
    """Where it is installed: for PYTHONPATH, or for sys.path."""
    global _folder
    if _folder is None:
        made = tempfile.mkdtemp(prefix="consilium-python-")
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-B", "setup.py", "-q", "build",
             "--build-base", os.path.join(made, "build"), "--build-lib", os.path.join(made, "lib")],
            cwd=SOURCE, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AssertionError("the package cannot be built: %s" % done.stderr)
        _folder = os.path.join(made, "lib")
    return _folder


def python_with_torch():
    """CONSILIUM_PYTHON, where it has what the examples need; else why not."""
    python = os.environ.get("CONSILIUM_PYTHON")
    if not python:
        raise unittest.SkipTest("CONSILIUM_PYTHON names no Python that has PyTorch")
    done = subprocess.run([python, "-c", "import torch, onnx, grpc, google.protobuf, numpy"],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise unittest.SkipTest("CONSILIUM_PYTHON lacks something: %s" %
                                done.stderr.strip().splitlines()[-1])
    return python


class Program:
    """A Python program that uses the package, with a log among those of the federation."""

    def __init__(self, federation, name, arguments, python=None, preexec=None):
        self.log_path = os.path.join(federation.dir, name + ".log")
        self.federation = federation
        environment = clean_environment()
        environment["PYTHONPATH"] = os.pathsep.join([folder(), EXAMPLES])
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        environment["OPENBLAS_NUM_THREADS"] = "1"  # sums in one order
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([python or sys.executable, *arguments],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=environment, preexec_fn=preexec)
        federation.others.append(self)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def wait_log(self, text, timeout_s=60):
        self.federation.wait(lambda: text in self.log(), timeout_s, "%s says %r:\n%s" % (
            os.path.basename(self.log_path), text, self.log()))

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    close = kill
