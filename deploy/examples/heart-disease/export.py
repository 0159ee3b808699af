#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model.onnx, which is committed: needs onnx (Debian's python3-onnx, or PyPI's), no PyTorch.

    export.py [FILE]

A logistic regression with PyTorch's usual start of a linear layer, uniform in +-1/sqrt(inputs). The
same bytes come out every time: the weights are of Python's own generator, which is the same in every
version, and nothing of the onnx package's version stands in the file.
"""
import math
import random
import struct
import sys

import onnx
from onnx import TensorProto, helper

FEATURES = 13


def uniform(rng, name, dims):
    values = [rng.uniform(-1, 1) / math.sqrt(FEATURES) for _ in range(math.prod(dims))]
    return helper.make_tensor(name, TensorProto.FLOAT, dims, struct.pack("<%df" % len(values), *values), raw=True)


def main():
    rng = random.Random(20240301)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "fc1.weight", "fc1.bias"], ["logit"], name="fc1", transB=1),
         helper.make_node("Sigmoid", ["logit"], ["score"], name="sigmoid")],
        "heart-disease",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        [uniform(rng, "fc1.weight", [1, FEATURES]), uniform(rng, "fc1.bias", [1])])
    model = helper.make_model(graph, producer_name="consilium",
                              opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    with open(sys.argv[1] if len(sys.argv) > 1 else "model.onnx", "wb") as f:
        f.write(model.SerializeToString())


if __name__ == "__main__":
    main()
