# SPDX-License-Identifier: Apache-2.0
"""The table of deploy/examples/breast-cancer, read as its schema says: for the trainers beside this
file. A hospital would put its own reader here."""
import csv
import hashlib
import hmac
import re
import struct

import numpy as np


class Table:
    """x [rows, features] and y [rows], of the training and of the test patients."""

    def __init__(self, csv_path, schema_path, fold=0):
        with open(schema_path, encoding="utf-8") as f:
            schema = f.read()
        standard = {name: (float(mean), float(std)) for name, mean, std in re.findall(
            r"name: (\w+), type: number,.*mean: ([\d.]+), std: ([\d.]+)", schema)}
        key = re.search(r'key: "([^"]+)"', schema).group(1).encode()
        test_share = float(re.search(r"fraction: ([\d.]+)", schema).group(1))
        parts = {True: ([], []), False: ([], [])}
        with open(csv_path, newline="", encoding="utf-8") as f:
            for row in csv.DictReader(f):
                x, y = parts[self._share(key, fold, row["patient"]) < test_share]
                x.append([(float(row[name]) - mean) / std
                          for name, (mean, std) in standard.items()])
                y.append(row["diagnosis"] == "malignant")
        self.train_x, self.train_y = self._arrays(*parts[False])
        self.test_x, self.test_y = self._arrays(*parts[True])

    @staticmethod
    def _share(key, fold, patient):
        """Which patients are test patients depends on their id alone, at every hospital."""
        mac = hmac.new(key, struct.pack(">I", fold) + patient.encode(), hashlib.sha256).digest()
        return (struct.unpack(">Q", mac[:8])[0] >> 11) / 2 ** 53

    @staticmethod
    def _arrays(x, y):
        return np.asarray(x, np.float32), np.asarray(y, np.float32)
