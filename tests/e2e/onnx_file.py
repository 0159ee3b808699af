# SPDX-License-Identifier: Apache-2.0
"""Writes ONNX files with nothing but Python: multi-layer perceptrons as large as a test needs.

The field numbers are those of onnx.proto3; a message is the concatenation of its fields, each a key
(number << 3 | wire type) and a value.
"""
import array
import math
import random
import sys

_FLOAT = 1
_BLOCK = 65521  # prime, so that no two rows of a weight matrix repeat each other in step


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field, value):
    return varint(field << 3) + varint(value)


def data(field, value):
    if isinstance(value, str):
        value = value.encode()
    return varint(field << 3 | 2) + varint(len(value)) + value


def _tensor(name, dims, raw):
    return data(5, b"".join(integer(1, d) for d in dims) + integer(2, _FLOAT) + data(8, name) +
                data(9, raw))


def _node(op, inputs, output, attributes=b""):
    return data(1, b"".join(data(1, i) for i in inputs) + data(2, output) + data(3, output) +
                data(4, op) + attributes)


def _value(field, name, *sides):
    dims = data(1, data(2, "N")) + b"".join(data(1, integer(1, side)) for side in sides)
    return data(field, data(1, name) + data(2, data(1, integer(1, _FLOAT) + data(2, dims))))


def _weights(rng, inputs, count):
    """`count` floats, uniform with the variance of He et al. 2015; a drawn block, repeated."""
    bound = math.sqrt(6 / inputs)
    block = array.array("f", (rng.uniform(-bound, bound) for _ in range(min(count, _BLOCK))))
    if sys.byteorder == "big":
        block.byteswap()
    raw = block.tobytes()
    return (raw * (count * 4 // len(raw) + 1))[:count * 4]


def write_mlp(path, widths, seed=1, between="Relu", image=None):
    """Linear layers of these widths with ReLU (or another operator) between them and a sigmoid at
    the end. The input is a row of numbers or, where `image` says its shape (channels and sides),
    that many in an image. Returns the number of parameters."""
    rng = random.Random(seed)
    transposed = data(5, data(1, "transB") + integer(3, 1) + integer(20, 2))
    nodes, tensors, parameters, at = [], [], 0, "x"
    if image:
        nodes.append(_node("Flatten", ["x"], "flat"))
        at = "flat"
    for i, (wide, out) in enumerate(zip(widths, widths[1:]), 1):
        w, b = "fc%d.weight" % i, "fc%d.bias" % i
        tensors.append(_tensor(w, [out, wide], _weights(rng, wide, out * wide)))
        tensors.append(_tensor(b, [out], bytes(4 * out)))
        parameters += out * wide + out
        last = i == len(widths) - 1
        to = "logit" if last else "fc%d" % i
        nodes.append(_node("Gemm", [at, w, b], to, transposed))
        at = "hidden%d" % i
        if not last:
            nodes.append(_node(between, [to], at))
    nodes.append(_node("Sigmoid", ["logit"], "score"))
    graph = b"".join(nodes) + data(2, "mlp") + b"".join(tensors)
    graph += _value(11, "x", *(image or (widths[0],))) + _value(12, "score", widths[-1])
    opset = data(8, data(1, "") + integer(2, 13))
    with open(path, "wb") as f:
        f.write(integer(1, 8) + data(2, "consilium") + data(7, graph) + opset)
    return parameters


def write_linear(path, features):
    """One linear layer to one number, from zeros, without anything behind it."""
    transposed = data(5, data(1, "transB") + integer(3, 1) + integer(20, 2))
    graph = _node("Gemm", ["x", "weight", "bias"], "y", transposed) + data(2, "linear")
    graph += _tensor("weight", [1, features], bytes(4 * features)) + _tensor("bias", [1], bytes(4))
    graph += _value(11, "x", features) + _value(12, "y", 1)
    opset = data(8, data(1, "") + integer(2, 13))
    with open(path, "wb") as f:
        f.write(integer(1, 8) + data(2, "consilium") + data(7, graph) + opset)
