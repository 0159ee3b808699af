#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes model.onnx, which is committed: needs onnx (Debian's python3-onnx, or PyPI's), no PyTorch.

    export.py [FILE]

A multi-layer perceptron: linear layers with ReLU between them and a sigmoid at the end. Weights begin
as He and others (2015) have it for layers before a ReLU, biases at zero. The same bytes come out every
time: the weights are of Python's own generator, which is the same in every version, and nothing of
the onnx package's version stands in the file.
"""
import math
import random
import struct
import sys

import onnx
from onnx import TensorProto, helper

WIDTHS = (30, 256, 64, 1)


def tensor(name, dims, values):
    return helper.make_tensor(name, TensorProto.FLOAT, dims, struct.pack("<%df" % len(values), *values), raw=True)


def main():
    rng = random.Random(20240302)
    nodes, weights, at = [], [], "x"
    for i, (wide, out) in enumerate(zip(WIDTHS, WIDTHS[1:]), 1):
        w, b, last = "fc%d.weight" % i, "fc%d.bias" % i, i == len(WIDTHS) - 1
        weights.append(tensor(w, [out, wide], [rng.gauss(0, math.sqrt(2 / wide)) for _ in range(out * wide)]))
        weights.append(tensor(b, [out], [0.0] * out))
        to = "logit" if last else "fc%d" % i
        nodes.append(helper.make_node("Gemm", [at, w, b], [to], name="fc%d" % i, transB=1))
        at = "relu%d" % i
        if not last:
            nodes.append(helper.make_node("Relu", [to], [at], name=at))
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["score"], name="sigmoid"))
    graph = helper.make_graph(
        nodes, "breast-cancer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", WIDTHS[0]])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", WIDTHS[-1]])], weights)
    model = helper.make_model(graph, producer_name="consilium",
                              opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    with open(sys.argv[1] if len(sys.argv) > 1 else "model.onnx", "wb") as f:
        f.write(model.SerializeToString())


if __name__ == "__main__":
    main()
