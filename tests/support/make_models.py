#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the example models, the only place where an ONNX library is used: the files are committed.

    apt-get install python3-onnx && tests/support/make_models.py

The same bytes come out every time: weights are drawn from Python's own generator, which is the same
in every version, with a seed that stands below.
"""
import math
import os
import random
import struct

import onnx
from onnx import TensorProto, helper

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
OPSET = 13


def tensor(name, dims, values):
    raw = struct.pack("<%df" % len(values), *values)
    return helper.make_tensor(name, TensorProto.FLOAT, dims, raw, raw=True)


def mlp(name, widths, draw_weight, draw_bias):
    """Linear layers with ReLU between them and a sigmoid at the end, weights [out, in] as PyTorch."""
    nodes, weights, at = [], [], "x"
    for i, (wide, out) in enumerate(zip(widths, widths[1:]), 1):
        last = i == len(widths) - 1
        w, b = "fc%d.weight" % i, "fc%d.bias" % i
        weights.append(tensor(w, [out, wide], [draw_weight(wide) for _ in range(out * wide)]))
        weights.append(tensor(b, [out], [draw_bias(wide) for _ in range(out)]))
        to = "logit" if last else "fc%d" % i
        nodes.append(helper.make_node("Gemm", [at, w, b], [to], name="fc%d" % i, transB=1))
        at = "relu%d" % i
        if not last:
            nodes.append(helper.make_node("Relu", [to], [at], name=at))
    nodes.append(helper.make_node("Sigmoid", ["logit"], ["score"], name="sigmoid"))
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", widths[0]])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", widths[-1]])], weights)
    model = helper.make_model(graph, producer_name="consilium",
                              opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def save(model, *path):
    with open(os.path.join(ROOT, *path), "wb") as f:
        f.write(model.SerializeToString())


def main():
    # Logistic regression: the usual start of a linear layer, uniform in +-1/sqrt(inputs).
    rng = random.Random(20240301)
    uniform = lambda wide: rng.uniform(-1, 1) / math.sqrt(wide)
    save(mlp("heart-disease", [13, 1], uniform, uniform),
         "deploy", "examples", "heart-disease", "model.onnx")
    # A multi-layer perceptron: He et al. 2015 for layers before a ReLU, biases zero.
    rng = random.Random(20240302)
    he = lambda wide: rng.gauss(0, math.sqrt(2 / wide))
    save(mlp("breast-cancer", [30, 256, 64, 1], he, lambda wide: 0.0),
         "deploy", "examples", "breast-cancer", "model.onnx")


if __name__ == "__main__":
    main()
