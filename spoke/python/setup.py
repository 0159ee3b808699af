# SPDX-License-Identifier: Apache-2.0
"""Compiles the house's .proto files to one descriptor file beside the modules.

No generated code: a descriptor is data that any version of protobuf reads, where generated modules
want the very runtime that they were made for. grpcio-tools compiles where it is installed, else
protoc.
"""
import importlib.util
import os
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.normpath(os.path.join(HERE, "..", "..", "proto"))


class BuildWithProtocol(build_py):
    def run(self):
        super().run()
        if not os.path.isdir(PROTO):
            raise SystemExit("%s is missing: build from the house's own folder" % PROTO)
        out = os.path.join(self.build_lib, "consilium", "protocol.binpb")
        compiler = ["protoc"]
        if importlib.util.find_spec("grpc_tools"):
            compiler = [sys.executable, "-m", "grpc_tools.protoc"]
        subprocess.run([*compiler, "-I", PROTO, "--include_imports", "--descriptor_set_out", out,
                        os.path.join(PROTO, "trainer.proto"), os.path.join(PROTO, "console.proto")],
                       check=True)


setup(cmdclass={"build_py": BuildWithProtocol})
