# SPDX-License-Identifier: Apache-2.0
"""consilium model export: a published model and its graph as one ONNX file. tests/golden/export holds
what onnxruntime was given (tests/unit/spoke/test_export.c says more)."""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tempfile
import unittest

import federation
import onnx_file
from onnx_file import data, integer

GOLDEN = os.path.join(federation.ROOT, "tests", "golden", "export")
GRAPH = os.path.join(GOLDEN, "mlp-dropout.train.onnx")


def read_safetensors(path):
    """[(name, shape, bytes)]"""
    with open(path, "rb") as f:
        raw = f.read()
    size = struct.unpack_from("<Q", raw)[0]
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    return [(n, t["shape"], raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for n, t in header.items()]


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, shape, raw in tensors:
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(raw for _, _, raw in tensors))


class Export(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="consilium-export-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.out = os.path.join(self.folder, "out.onnx")
        self.tensors = read_safetensors(os.path.join(GOLDEN, "mlp-dropout.safetensors"))

    def file(self, name, tensors):
        path = os.path.join(self.folder, name)
        write_safetensors(path, tensors)
        return path

    def export(self, model, graph=GRAPH, status=0, options=()):
        done = subprocess.run([federation.program("consilium"), "model", "export", model, "--graph",
                               graph, "--onnx", self.out, *options],
                              capture_output=True, text=True, timeout=60, check=False,
                              env=federation.clean_environment())
        self.assertEqual(done.returncode, status, done.stderr)
        left = os.listdir(self.folder)
        self.assertFalse([n for n in left if n.endswith(".onnx") and n != "out.onnx" or "export-" in n], left)
        if status:
            self.assertFalse(os.path.exists(self.out))
            return done.stderr
        return done.stdout

    def check_golden(self, name, said):
        with open(self.out, "rb") as f, open(os.path.join(GOLDEN, name + ".onnx"), "rb") as g:
            made = f.read()
            self.assertEqual(made, g.read())
        self.assertEqual(said.strip(), hashlib.sha256(made).hexdigest())

    def test_the_file_is_the_one_that_onnxruntime_ran(self):
        for name in ("mlp-dropout", "conv-norms", "volume"):
            self.check_golden(name, self.export(os.path.join(GOLDEN, name + ".safetensors"),
                                                os.path.join(GOLDEN, name + ".train.onnx")))

    def test_tensors_in_another_order_are_found_by_name(self):
        self.check_golden("mlp-dropout", self.export(self.file("m.safetensors", self.tensors[::-1])))

    def test_one_hospitals_own_tensors_complete_a_model(self):
        shared = self.file("shared.safetensors", self.tensors[:-2])
        kept = self.file("kept.safetensors", self.tensors[-2:])
        self.check_golden("mlp-dropout", self.export(shared, options=("--kept", kept)))
        os.remove(self.out)
        last = self.tensors[-2][0]
        self.assertIn(f"no '{last}'", self.export(shared, status=1))
        whole = self.file("whole.safetensors", self.tensors)
        self.assertIn(f"'{last}' is both", self.export(whole, status=1, options=("--kept", kept)))

    def test_a_model_of_another_graph_is_refused(self):
        name, shape, raw = self.tensors[0]
        other = self.file("other.safetensors", [(name, shape[::-1], raw)] + self.tensors[1:])
        self.assertIn(f"'{name}' has the shape", self.export(other, status=1))

    def test_more_than_a_protobuf_message_may_hold_is_refused(self):
        rows, columns = 64, (1 << 23) + 1  # 2 GiB and 256 bytes of weights, which the disk does not store
        raw = rows * columns * 4
        head = integer(1, rows) + integer(1, columns) + integer(2, 1) + data(8, "w")
        key = onnx_file.varint(9 << 3 | 2) + onnx_file.varint(raw)
        tensor = onnx_file.varint(5 << 3 | 2) + onnx_file.varint(len(head) + len(key) + raw) + head + key
        rest = data(1, data(1, "x") + data(1, "w") + data(2, "y") + data(4, "MatMul"))
        for field, name, size in ((11, "x", rows), (12, "y", columns)):
            dims = data(1, data(2, "N")) + data(1, integer(1, size))
            rest += data(field, data(1, name) + data(2, data(1, integer(1, 1) + data(2, dims))))
        path = os.path.join(self.folder, "large.graph")
        with open(path, "wb") as f:
            f.write(data(8, integer(2, 17)) + onnx_file.varint(7 << 3 | 2) +
                    onnx_file.varint(len(rest) + len(tensor) + raw) + rest + tensor)
            f.truncate(f.tell() + raw)
        model = self.file("m.safetensors", self.tensors)
        self.assertIn("2147483647 are the most", self.export(model, path, status=1))

    def test_what_is_beside_the_parameters_is_left_out(self):
        more = self.tensors + [("scaffold/" + n, s, b"\0" * len(d)) for n, s, d in self.tensors]
        self.check_golden("mlp-dropout", self.export(self.file("m.safetensors", more)))


if __name__ == "__main__":
    unittest.main()
