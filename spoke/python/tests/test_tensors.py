# SPDX-License-Identifier: Apache-2.0
import json
import os
import struct
import tempfile
import unittest

import numpy as np
from consilium import tensors


class Files(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "a.safetensors")

    def write(self, header, data=b""):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        with open(self.path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data)

    def refused(self, words):
        with self.assertRaisesRegex(ValueError, words):
            tensors.MappedTensors(self.path)

    def test_what_is_saved_is_loaded_in_its_order(self):
        saved = {"z": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32(4)}
        tensors.save(self.path, saved, {"k": "v"})
        read = tensors.MappedTensors(self.path)
        self.assertEqual(list(read.tensors), ["z", "a"])
        self.assertEqual(read.metadata, {"k": "v"})
        np.testing.assert_array_equal(read.tensors["z"], saved["z"])
        self.assertEqual(read.tensors["a"].shape, ())

    def test_a_mapping_is_read_only_unless_it_is_to_be_written(self):
        tensors.save(self.path, {"a": np.zeros(3, np.float32)})
        with self.assertRaises(ValueError):
            tensors.load(self.path)["a"][0] = 1
        tensors.MappedTensors(self.path, writable=True).tensors["a"][1] = 7
        np.testing.assert_array_equal(tensors.load(self.path)["a"], [0, 7, 0])

    def test_files_that_are_none_are_refused(self):
        with open(self.path, "wb") as f:
            f.write(b"1234567")
        self.refused("no .safetensors")
        with open(self.path, "wb") as f:
            f.write(struct.pack("<Q", 1 << 40) + b"{}")
        self.refused("does not fit")
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        self.write({"a": entry}, b"1234")
        self.refused("does not lie in the file")
        self.write({"a": dict(entry, shape=[3])}, b"12345678")
        self.refused("does not lie in the file")
        self.write({"a": dict(entry, data_offsets=[-8, 0])}, b"12345678")
        self.refused("does not lie in the file")
        self.write({"a": dict(entry, dtype="F8")}, b"12345678")
        self.refused("of F8")

    def test_put_wants_the_same_names_and_shapes(self):
        into = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}
        tensors.put(into, {"a": np.ones((2, 2)), "b": np.ones(1, np.float32)})
        np.testing.assert_array_equal(into["a"], np.ones((2, 2)))
        with self.assertRaisesRegex(ValueError, "b is missing"):
            tensors.put(into, {"a": np.ones((2, 2))})
        with self.assertRaisesRegex(ValueError, "c is unknown"):
            tensors.put(into, {"a": np.ones((2, 2)), "b": np.ones(1), "c": np.ones(1)})
        with self.assertRaisesRegex(ValueError, "tensor a has shape 4, the model's has 2x2"):
            tensors.put(into, {"a": np.ones(4), "b": np.ones(1)})
        with self.assertRaises(TypeError):
            tensors.put(into, {"a": np.ones((2, 2), complex), "b": np.ones(1)})


if __name__ == "__main__":
    unittest.main()
