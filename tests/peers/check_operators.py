#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random single operators, computed by onnxruntime: the graph reader must give the same shapes, and
for those that it folds the same values; what onnxruntime refuses it must refuse too.
Usage: check_operators.py GRAPH_DUMP CASES [SEED]"""
import random
import sys
import tempfile

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from check_graphs import dump, reference

R = random.Random()
STRICTER = ("must be smaller than the kernel", "the slope", "counts part of what is beyond", "resizes batch or",
            "makes a tensor without elements", "no elements", "a scale of", "holds -", "pads must be",
            "is given twice", "output_padding", "cannot make", "more of axis", "for a batch of", "takes a batch of",
            "must be constant", "dimensions: float with 3", "kernel_shape is missing", "cannot become",
            "the padding leaves nothing", "runs over all dimensions", "is missing", "a window of",
            "together 1 to")
# What onnxruntime refuses without need: SAME with a stride beyond the kernel, some output_padding.
THEIRS = ("inconsistent with input spatial", "padding values must be non-negative")


def dims(low, high, n):
    return [R.randint(low, high) for _ in range(n)]


def floats(name, shape):
    return numpy_helper.from_array(numpy.random.default_rng(R.randint(0, 9)).random(shape, numpy.float32), name)


def ints(name, values, kind=numpy.int64):
    return numpy_helper.from_array(numpy.array(values, kind), name)


def maybe(p, **attributes):
    return attributes if R.random() < p else {}


def window(k, spatial, dilation=True):
    a = {"kernel_shape": k, "strides": dims(1, 3, spatial)}
    if dilation:
        a |= maybe(0.4, dilations=dims(1, 2, spatial))
    if R.random() < 0.3:
        a["auto_pad"] = R.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if a["auto_pad"] != "VALID":
            a.pop("dilations", None)
    else:
        a |= maybe(0.8, pads=dims(0, 2, 2 * spatial))
    return a


def conv():
    s, g = R.randint(1, 3), R.choice([1, 1, 2])
    c, m, k = g * R.randint(1, 2), g * R.randint(1, 2), dims(1, 3, s)
    return [c] + dims(3, 9, s), ["Conv", ["x", "w"] + R.choice([[], ["b"]]), window(k, s) | {"group": g}], \
        [floats("w", [m, c // g] + k), floats("b", [m])]


def conv_transpose():
    s, g = R.randint(1, 3), R.choice([1, 1, 2])
    c, k = g * R.randint(1, 2), dims(1, 3, s)
    a = {"kernel_shape": k, "strides": dims(1, 3, s), "group": g} | maybe(0.5, dilations=dims(1, 2, s))
    kind = R.random()
    if kind < 0.5:
        a |= {"pads": dims(0, 1, 2 * s)} | maybe(0.5, output_padding=dims(0, 1, s))
    elif kind < 0.7:
        a |= {"output_shape": dims(6, 12, s)} | maybe(0.5, auto_pad=R.choice(["SAME_UPPER", "SAME_LOWER"]))
    return [c] + dims(3, 6, s), ["ConvTranspose", ["x", "w"], a], [floats("w", [c, 1] + k)]


def pool():
    s = R.randint(1, 3)
    op = R.choice(["MaxPool", "AveragePool"])
    a = window(dims(2, 3, s), s, op == "MaxPool") | maybe(0.5, ceil_mode=1)
    if op == "AveragePool":
        a |= maybe(0.5, count_include_pad=1)
    return [2] + dims(4, 9, s), [op, ["x"], a], []


def resize():
    s = R.randint(1, 3)
    row = [2] + dims(2, 6, s)
    a = {"mode": R.choice(["nearest", "linear"]), "coordinate_transformation_mode": R.choice(
        ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])}
    if R.random() < 0.5:
        scales = numpy.array([1, 1] + [R.choice([0.5, 1.5, 2, 0.7, 3, 1 / 3]) for _ in range(s)], numpy.float32)
        return row, ["Resize", ["x", "", "scales"], a], [numpy_helper.from_array(scales, "scales")]
    axes = list(range(2, 2 + s))
    return row, ["Resize", ["x", "", "", "sizes"], a | {"axes": axes}], [ints("sizes", dims(1, 9, s))]


def pad():
    row = dims(3, 5, R.randint(1, 3))
    pads = ints("pads", [0] + dims(0, 2, len(row)) + [0] + dims(0, 2, len(row)))
    return row, ["Pad", ["x", "pads"], {"mode": R.choice(["constant", "reflect", "edge"])}], [pads]


def reduce():
    row = dims(1, 4, R.randint(1, 4))
    axes = R.sample(range(1, len(row) + 1), R.randint(1, len(row)))
    axes = [a - len(row) - 1 if R.random() < 0.5 else a for a in axes]
    return row, ["ReduceMean", ["x", "axes"], maybe(0.5, keepdims=0)], [ints("axes", axes)]


def matmul():
    k, lead = R.randint(1, 4), dims(1, 3, R.randint(0, 2))
    w = R.choice([[k], [k, 3], [R.choice([1, l]) for l in lead] + [k, 2]])
    return lead + [R.randint(1, 3), k], ["MatMul", ["x", "w"], {}], [floats("w", w)]


def gemm():
    k, m, t = R.randint(1, 4), R.randint(1, 4), R.randint(0, 1)
    c = R.choice([[m], [1, m], [1], [1, 1], [m + 1]])
    return [k], ["Gemm", ["x", "w", "c"], {"transB": t}], [floats("w", [m, k] if t else [k, m]), floats("c", c)]


def binary():
    row = dims(1, 3, R.randint(1, 3))
    other = [R.choice([1, d, d, 2]) for d in row][R.randint(0, len(row) - 1):]
    return row, [R.choice(["Add", "Mul", "Sub", "Div", "PRelu"]), ["x", "w"], {}], [floats("w", other)]


def norm():
    row = dims(2, 4, R.randint(2, 3))
    if R.random() < 0.5:
        axis = R.randint(1, len(row))
        return row, ["LayerNormalization", ["x", "w"], {"axis": axis}], [floats("w", row[axis - 1:])]
    return row, ["InstanceNormalization", ["x", "w", "w2"], {}], [floats("w", row[:1]), floats("w2", row[:1])]


def gather():
    row = dims(2, 4, R.randint(1, 3))
    axis = R.randint(1, len(row))
    index = numpy.array([R.randint(-row[axis - 1], row[axis - 1] - 1) for _ in range(4)])
    return row, ["Gather", ["x", "i"], {"axis": axis}], [ints("i", index.reshape(R.choice([(4,), (2, 2)])))]


def slice_():
    return sliced("x", dims(2, 6, R.randint(1, 3)))


def sliced(x, row, first=1):
    n = R.randint(1, len(row))
    axes = R.sample(range(first, first + len(row)), n)
    steps = [R.choice([1, 1, 2, -1, -2, 7, -9]) for _ in axes]
    far = R.choice([0, 0, 2**63 - 1])
    starts = [R.choice([-far - 1 if far else 0, R.randint(-7, 7), far]) for _ in axes]
    # Backwards to INT64_MAX is nothing in numpy, everything in onnxruntime.
    ends = [R.choice([-far - 1 if far else 0, R.randint(-7, 7), far if step > 0 else 0]) for step in steps]
    names = [ints("starts", starts), ints("ends", ends), ints("axes", axes), ints("steps", steps)]
    return row, ["Slice", [x, "starts", "ends", "axes", "steps"], {}], names


def reshape():
    row = dims(1, 4, R.randint(1, 3))
    shape = R.choice([[0, -1], [-1, row[-1]], [0] * (len(row) + 1), [0, -1, 1], [-1] + row[::-1], [0, 0, -1], [-1, 2]])
    return row, ["Reshape", ["x", "shape"], {}], [ints("shape", shape)]


def unsqueeze():
    row = dims(1, 3, R.randint(1, 3))
    axes = R.sample(range(1, len(row) + 3), R.randint(1, 2))
    return row, ["Unsqueeze", ["x", "axes"], {}], [ints("axes", axes)]


def squeeze():
    row = [R.choice([1, 2]) for _ in range(R.randint(1, 4))]
    axes = [i + 1 for i, d in enumerate(row) if d == 1][:2]
    return row, ["Squeeze", ["x", "axes"], {}], [ints("axes", axes)]


def split():
    d = R.randint(2, 6)
    cut = R.randint(1, d - 1)
    return [3, d], ["Split", ["x", "sizes"], {"axis": 2, "outputs": 2}], [ints("sizes", [cut, d - cut])]


def expand():
    row = [R.choice([1, 2]) for _ in range(2)]
    return row, ["Expand", ["x", "shape"], {}], [ints("shape", R.choice([[1, 1, 1], [2, 2], [1, 2, 1], [3]]))]


def transpose():
    row = dims(1, 4, R.randint(1, 4))
    perm = list(range(1, len(row) + 1))
    R.shuffle(perm)
    return row, ["Transpose", ["x"], {"perm": [0] + perm}], []


def flatten():
    row = dims(1, 4, R.randint(1, 3))
    return row, ["Flatten", ["x"], {"axis": 1}], []


RUN = [conv, conv_transpose, pool, resize, pad, reduce, matmul, gemm, binary, norm, gather, slice_, reshape,
       unsqueeze, squeeze, split, expand, transpose, flatten, conv, conv_transpose, pool, slice_]


# ---- folded: everything is constant ----

def some(name, shape, kind):
    values = numpy.random.default_rng(R.randint(0, 99)).integers(-6, 7, shape)
    return numpy_helper.from_array((values / (2 if kind == numpy.float32 else 1)).astype(kind), name)


def shape_of_two():
    a = dims(1, 3, R.randint(0, 3))
    return a, [R.choice([1, d]) for d in a][R.randint(0, len(a)):]


def fold_binary():
    a, b = shape_of_two()
    kind = R.choice([numpy.int64, numpy.float32])
    op = R.choice(["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow"])
    extra = {"fmod": 1} if op == "Mod" and (kind == numpy.float32 or R.random() < 0.3) else {}
    if op == "Pow":
        return [op, ["a", "b"], {}], [some("a", a, kind), numpy_helper.from_array(numpy.array(R.randint(0, 3), kind), "b")]
    return [op, ["a", "b"], extra], [some("a", a, kind), some("b", b, kind)]


def fold_compare():
    a, b = shape_of_two()
    kind = R.choice([numpy.int64, numpy.float32])
    return [R.choice(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]), ["a", "b"], {}], \
        [some("a", a, kind), some("b", b, kind)]


def fold_where():
    a, b = shape_of_two()
    kind = R.choice([numpy.int64, numpy.float32])
    return ["Where", ["c", "a", "b"], {}], [some("c", b, numpy.bool_), some("a", a, kind), some("b", b, kind)]


def fold_unary():
    op = R.choice(["Exp", "Sqrt", "Reciprocal", "Neg", "Abs", "Floor", "Ceil", "Round", "Log"])
    return [op, ["a"], {}], [some("a", dims(1, 4, 2), numpy.float32)]


def fold_cast():
    return ["Cast", ["a"], {"to": R.choice([1, 7, 9])}], [some("a", dims(1, 4, 2), R.choice([numpy.int64, numpy.float32]))]


def fold_slice():
    row, node, names = sliced("a", dims(1, 5, R.randint(1, 3)), 0)
    return node, names + [some("a", row, numpy.int64)]


def fold_transpose():
    row = dims(1, 3, R.randint(1, 4))
    return ["Transpose", ["a"], {"perm": R.sample(range(len(row)), len(row))}], [some("a", row, numpy.int64)]


def fold_concat():
    row, axis = dims(1, 3, 3), R.randint(-3, 2)
    parts = [row[:axis % 3] + [R.randint(0, 3)] + row[axis % 3 + 1:] for _ in range(3)]
    return ["Concat", ["a", "b", "c"], {"axis": axis}], [some(n, p, numpy.int64) for n, p in zip("abc", parts)]


def fold_gather():
    row, axis = dims(2, 3, 2), R.randint(-2, 1)
    return ["Gather", ["a", "i"], {"axis": axis}], [some("a", row, numpy.float32), ints("i", [[-1, 0], [1, -2]])]


def fold_expand():
    row = [R.choice([1, 2]) for _ in range(2)]
    return ["Expand", ["a", "s"], {}], [some("a", row, numpy.int64), ints("s", R.choice([[3, 1, 1], [2, 2], [1, 2]]))]


def fold_range():
    kind = R.choice([numpy.int64, numpy.float32])
    three = [numpy_helper.from_array(numpy.array(v, kind), n) for v, n in
             zip((R.randint(-5, 5), R.randint(-5, 9), R.choice([-3, -1, 1, 2])), "abc")]
    return ["Range", ["a", "b", "c"], {}], three


def fold_reduce():
    row = dims(1, 3, 3)
    kind = R.choice([numpy.int64, numpy.float32])
    op = R.choice(["ReduceSum", "ReduceProd"] + (["ReduceMean"] if kind == numpy.float32 else []))
    return [op, ["a", "axes"], maybe(0.5, keepdims=0)], [some("a", row, kind), ints("axes", R.sample(range(-3, 0), R.randint(1, 3)))]


def fold_split():
    return ["Split", ["a", "sizes"], {"axis": 1, "outputs": 2}], [some("a", [2, 5], numpy.int64), ints("sizes", [2, 3])]


def fold_of_shape():
    value = numpy_helper.from_array(numpy.array([R.randint(-3, 3)], R.choice([numpy.int64, numpy.float32])), "v")
    return ["ConstantOfShape", ["a"], {"value": value}], [ints("a", dims(0, 3, R.randint(0, 3)))]


FOLD = [fold_binary, fold_binary, fold_compare, fold_where, fold_unary, fold_cast, fold_slice, fold_slice,
        fold_transpose, fold_concat, fold_gather, fold_expand, fold_range, fold_reduce, fold_split, fold_of_shape]


def model_of(row, nodes, tensors, outputs):
    used = {i for n in nodes for i in n.input}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"] + row)
    y = helper.make_tensor_value_info(outputs, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [t for t in tensors if t.name in used])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def run_case():
    """x * p, so that something is trained, and then the operator."""
    row, (op, inputs, attributes), tensors = R.choice(RUN)()
    outs = attributes.pop("outputs", 1)
    p = floats("p", [1])
    first = helper.make_node("Mul", ["x", "p"], ["m"], "first")
    node = helper.make_node(op, ["m" if i == "x" else i for i in inputs], [f"y{i}" for i in range(outs)], "it", **attributes)
    return model_of(row, [first, node], tensors + [p], "y0")


def fold_case():
    """(x * p) + the sum of what is folded."""
    (op, inputs, attributes), tensors = R.choice(FOLD)()
    outs = attributes.pop("outputs", 1)
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in tensors]
    nodes += [helper.make_node(op, inputs, [f"f{i}" for i in range(outs)], "it", **attributes),
              helper.make_node("Cast", ["f0"], ["c"], to=1),
              helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
              helper.make_node("Mul", ["x", "p"], ["m"], "first"), helper.make_node("Add", ["m", "r"], ["y0"])]
    return model_of([2], nodes, [floats("p", [1])], "y0")


def check(program, model, path, batch):
    onnx.save(model, path)
    lines, why = dump(program, path, batch)
    try:
        want = reference(model, batch)
    except Exception as error:
        fine = lines is None or any(s in str(error) for s in THEIRS)
        return None if fine else f"accepted, onnxruntime refuses: {str(error)[:200]}"
    if lines is None:
        return None if any(s in why for s in STRICTER) else f"refused: {why}"
    for kind, name, *rest in lines:
        if kind not in ("node", "folded") or name not in want:
            continue
        shape = [int(d) for d in rest[2].split(",")] if rest[2] else []
        if shape != list(want[name].shape):
            return f"{name} is {shape}, onnxruntime has {list(want[name].shape)}"
        if kind == "folded" and rest[3]:
            have, there = [float(v) for v in rest[3].split(",")], want[name].flatten()[:16].astype(float)
            if not numpy.allclose(have, there, rtol=1e-5, equal_nan=True):
                return f"{name} is {have}, onnxruntime has {there}"
    return None


def main():
    program, cases = sys.argv[1], int(sys.argv[2])
    R.seed(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
    bad = accepted = 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(cases):
            model = run_case() if i % 2 else fold_case()
            wrong = check(program, model, f"{folder}/m.onnx", R.choice([2, 3, 5]))
            if wrong:
                bad += 1
                node = next(n for n in model.graph.node if n.name == "it")
                print(f"case {i}: {wrong}\n    {helper.printable_node(node)}")
    print(f"{cases} operators, {bad} differ")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
