#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The ONNX project's own node tests, for every operator that the engine is to train with.

    onnx_nodes.py [--probe build/bin/node_probe] [--verbose] [NAME...]

A node test is a node, inputs and what must come out. The engine reads models: one input of floats with
a batch axis first, everything else in the file. So each test is made into such a model in one of these
ways, the first that the engine takes (the others are the same computation, too: ONNX's reference
evaluator must give the expected outputs for the model that was made, or it is not used):

    rows      the first dimension of an input is the batch, the other inputs are weights
    prefix    a batch axis stands before all dimensions; axes in attributes and settings move by one
    carrier   the batch is folded into one dimension of the input
    added     a constant is added to an input of zeros

The outputs are compared by the norm of the difference over the norm of what is expected. A test that the
engine refuses must be refused for one of the REASONS below: any other refusal is a failure. Tests with
integers, which the engine refuses, are made again with the same numbers as floats where that is the same
computation ("as floats").
"""
import argparse
import collections
import copy
import os
import re
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

TOLERANCE = 1e-5
OPERATORS = """Conv ConvTranspose Gemm MatMul Add Sub Mul Div Relu LeakyRelu PRelu Sigmoid Tanh Gelu Softmax
LogSoftmax MaxPool AveragePool GlobalAveragePool BatchNormalization InstanceNormalization GroupNormalization
LayerNormalization Dropout Concat Split Slice Reshape Flatten Transpose Squeeze Unsqueeze Gather Resize Pad
ReduceMean ReduceSum Identity Constant Clip Sqrt Exp Log Pow Cast""".split()
# Why a test may be refused: what the engine says, and what that is in short.
REASONS = [
    (r"must be float \[N", "the data are no float32"),
    (r"Cast\): element type", "Cast to what is no float or integer of ours"),
    (r"Gemm\): the shapes .* do not broadcast", "Gemm: another bias for each row of the batch"),
    (r"computes with integers", "the data are no float32"),
    (r"has element type", "the data are no float32"),
    (r"element type -?\d+ is not read", "the data are no float32"),
    (r"must say every dimension", "a tensor without elements"),
    (r"without elements", "a tensor without elements"),
    (r"Resize\): mode must be", "Resize: cubic"),
    (r"coordinate_transformation_mode must", "Resize: half_pixel_symmetric, tf_crop_and_resize"),
    (r"antialias and exclude_outside", "Resize: antialias"),
    (r"keep_aspect_ratio_policy", "Resize: keep_aspect_ratio_policy"),
    (r"Pad\): mode must be", "Pad: wrap"),
    (r"Pow\).*must be one constant number", "Pow: an exponent that is not one constant number"),
]
# What the project's expected values are wrong or rough in.
ROUNDED = {"test_averagepool_2d_ceil_last_window_starts_on_pad": 5e-4}  # four digits
FRACTION = {"test_resize_downsample_scales_linear_align_corners"}  # a length of 2.4, where onnxruntime has 2
TWO = {"Add", "Sub", "Mul", "Div", "MatMul"}  # both inputs may be data


class Unfit(Exception):
    """This way of making a model does not suit this test."""


# ---- one node as a model ----

class Test:
    floats = False  # integers were made floats

    def __init__(self, case):
        graph = case.model.graph
        self.name, self.node = case.name, graph.node[0]
        self.opset = max(o.version for o in case.model.opset_import if o.domain == "")
        inputs, outputs = ([numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in side]
                           for side in case.data_sets[0])
        have = {i.name: v for i, v in zip(graph.input, inputs)}
        have |= {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.inputs = [have[n] if n else None for n in self.node.input]
        self.types = {i.name: i.type.tensor_type.elem_type for i in graph.input}
        self.tensors = all(i.type.HasField("tensor_type") for i in list(graph.input) + list(graph.output))
        self.outputs = [np.asarray(o) for o in outputs] if self.tensors else outputs

    def attribute(self, name, otherwise):
        for a in self.node.attribute:
            if a.name == name:
                return helper.get_attribute_value(a)
        return otherwise

    def as_floats(self):
        """The same with float32 in place of integers, or None where there are none."""
        data = self.inputs[0] if self.inputs else None
        if not self.tensors or data is None or data.dtype.kind not in "iu" or self.node.op_type in ("Cast", "Div"):
            return None
        made = copy.copy(self)
        count = len(self.inputs) if self.node.op_type in TWO | {"Concat", "Clip"} else 1
        made.inputs = [v.astype(np.float32) if v is not None and i < count else v for i, v in enumerate(self.inputs)]
        made.outputs = [self.outputs[0].astype(np.float32)] + self.outputs[1:]
        made.types, made.floats = {}, True
        return made

    def draws(self):
        return self.node.op_type == "Dropout" and len(self.inputs) > 2 and bool(self.inputs[2]) and \
            self.inputs[1] is not None and self.inputs[1] > 0

    def training(self):
        return self.node.op_type == "BatchNormalization" and self.attribute("training_mode", 0) == 1


def moved(axes, by=1):
    """Axes that count from the front, one further on."""
    return [int(a) + by if a >= 0 else int(a) for a in axes]


def ints(values):
    return np.array(values, np.int64)


def prefixed(test):
    """Attributes and inputs of the node for tensors with one more dimension in front."""
    op, rank = test.node.op_type, test.inputs[0].ndim
    inputs, attributes = list(test.inputs), {}
    if op in ("Softmax", "LogSoftmax", "LayerNormalization"):
        attributes["axis"] = moved([test.attribute("axis", -1)])[0]
    elif op in ("Concat", "Split", "Gather"):
        attributes["axis"] = moved([test.attribute("axis", 0)])[0]
    elif op == "Flatten":
        attributes["axis"] = moved([test.attribute("axis", 1)])[0]
    elif op == "Transpose":
        attributes["perm"] = [0] + moved(test.attribute("perm", list(range(rank))[::-1]))
    elif op in ("Squeeze", "Unsqueeze"):
        inputs[1] = ints(moved(inputs[1]))
    elif op == "Reshape":
        inputs[1] = ints([0] + [int(d) for d in inputs[1]])
        if test.attribute("allowzero", 0):
            raise Unfit
    elif op in ("ReduceMean", "ReduceSum"):
        axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else ints([])
        if axes.size or not test.attribute("noop_with_empty_axes", 0):
            inputs = [inputs[0], ints(moved(axes if axes.size else range(rank)))]
    elif op == "Slice":
        axes = inputs[3] if len(inputs) > 3 and inputs[3] is not None else range(len(inputs[1]))
        inputs = inputs[:3] + [ints(moved(axes))] + inputs[4:]
    elif op == "Pad":
        if len(inputs) > 3 and inputs[3] is not None:
            inputs[3] = ints(moved(inputs[3]))
        else:
            half = len(inputs[1]) // 2
            inputs[1] = ints([0, *inputs[1][:half], 0, *inputs[1][half:]])
    elif op not in TWO | {"Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Gelu", "Identity", "Clip", "Sqrt",
                          "Exp", "Log", "Pow", "Cast", "Dropout"}:
        raise Unfit
    return attributes, inputs


def make(test, way, data, outs):
    """(model, rows, x, expected) of the test with the inputs `data` coming from the graph's input."""
    attributes, inputs = prefixed(test) if way == "prefix" else ({}, list(test.inputs))
    arrays = [test.inputs[i] for i in data]
    if any(a is None or a.dtype != arrays[0].dtype for a in arrays):
        raise Unfit
    kind = test.types.get(test.node.input[data[0]], 1)
    weights, nodes, names = [], [], list(test.node.input)

    def setting(name, value):
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    if way == "rows":
        if arrays[0].ndim < 2:
            raise Unfit
        rows, shape, x = arrays[0].shape[0], ["N", *arrays[0].shape[1:]], arrays[0]
        names[data[0]] = "x"
    else:
        rows, sizes = 1, [a.size for a in arrays]
        shape, x = ["N", sum(sizes)], np.concatenate([a.reshape(1, -1) for a in arrays], 1)
        pieces = ["x"]
        if len(arrays) > 1:
            pieces = [f"piece{i}" for i in range(len(arrays))]
            nodes.append(helper.make_node("Split", ["x", setting("sizes", ints(sizes))], pieces, axis=1))
        for k, (i, a) in enumerate(zip(data, arrays)):
            to = [-1, *a.shape] if way == "prefix" else [-1 if d == way else n for d, n in enumerate(a.shape)]
            nodes.append(helper.make_node("Reshape", [pieces[k], setting(f"shape{k}", ints(to))], [f"data{k}"]))
            names[i] = f"data{k}"
    names = names[:len(inputs)] + [f"more{i}" for i in range(len(names), len(inputs))]
    for i, value in enumerate(inputs):
        if value is not None and i not in data:
            names[i] = setting(f"weight{i}", value)
    if test.node.op_type == "Resize" and len(inputs) > 3 and inputs[3] is not None and way == "rows" \
            and len(inputs[3]) == arrays[0].ndim and list(inputs[3][:2]) == list(arrays[0].shape[:2]):
        # As exporters write it: batch and channels are the input's own, whatever they are.
        nodes.append(helper.make_node("Shape", ["x"], ["front"], end=2))
        nodes.append(helper.make_node("Concat", ["front", setting("back", inputs[3][2:])], [names[3]], axis=0))
        weights = [w for w in weights if w.name != names[3]]
    node = onnx.NodeProto.FromString(test.node.SerializeToString())
    node.name = "tested"
    del node.input[:], node.output[:]
    node.input.extend(names)
    node.output.extend(f"out{k}" for k in range(len(test.node.output)))
    for name, value in attributes.items():
        for a in [a for a in node.attribute if a.name == name]:
            node.attribute.remove(a)
        node.attribute.append(helper.make_attribute(name, value))
    nodes.append(node)
    flat, expected = [], []
    for k in outs:
        y = test.outputs[k]
        if y.size == 0 and (y.ndim > 1 or way == "prefix"):  # the sum of nothing is 0
            nodes.append(helper.make_node("ReduceSum", ["out0", setting("axes", ints(range(1, y.ndim + (way == "prefix"))))],
                                          ["sum"], keepdims=0))
            nodes.append(helper.make_node("Reshape", ["sum", setting("column", ints([-1, 1]))], ["flat0"]))
            expected.append(np.zeros((rows, 1), np.float32))
            flat.append("flat0")
            break
        if y.size == 0 or y.size % rows:
            raise Unfit
        expected.append(y.reshape(rows, -1))
        nodes.append(helper.make_node("Reshape", [f"out{k}", setting(f"rows{k}", ints([-1, y.size // rows]))],
                                      [f"flat{k}"]))
        flat.append(f"flat{k}")
    if len(flat) > 1:
        nodes.append(helper.make_node("Concat", flat, ["all"], axis=1))
        flat = ["all"]
    expected = np.concatenate(expected, 1)
    return (finish(test, nodes, weights, helper.make_tensor_value_info("x", kind, shape), flat[0], expected), rows, x,
            expected)


def finish(test, nodes, weights, x, flat, expected):
    """What is made, as floats, plus zeros that could be trained: a graph without a parameter is refused."""
    if expected.dtype != np.float32:
        nodes.append(helper.make_node("Cast", [flat], ["floats"], to=1))
        flat = "floats"
    nodes.append(helper.make_node("Add", [flat, "parameter"], ["y"]))
    weights.append(numpy_helper.from_array(np.zeros((1, expected.shape[1]), np.float32), "parameter"))
    graph = helper.make_graph(nodes, "node", [x], [helper.make_tensor_value_info("y", 1, ["N", expected.shape[1]])],
                              weights)
    return helper.make_model(graph, ir_version=10, producer_name="", opset_imports=[helper.make_opsetid("", test.opset)])


def make_constant(test):
    value = test.outputs[0]
    node = onnx.NodeProto.FromString(test.node.SerializeToString())
    node.output[0] = "out0"
    nodes = [node, helper.make_node("Reshape", ["out0", "shape"], ["constant"]),
             helper.make_node("Add", ["x", "constant"], ["row"])]
    expected = value.reshape(1, -1)
    x = helper.make_tensor_value_info("x", 1, ["N", value.size])
    return (finish(test, nodes, [numpy_helper.from_array(ints([1, -1]), "shape")], x, "row", expected), 1,
            np.zeros((1, value.size), np.float32), expected)


def ways(test):
    """(name, model, rows, x, expected, first output only), in the order in which they are tried."""
    if test.node.op_type == "Constant":
        yield ("added", *make_constant(test), False)
        return
    several = [list(range(len(test.outputs)))] + ([[0]] if len(test.outputs) > 1 else [])
    two = len(test.inputs) > 1 and test.node.op_type in TWO
    everything = [i for i, v in enumerate(test.inputs) if v is not None]
    many = everything if two or test.node.op_type == "Concat" else [0]
    tried = [("rows", [0])] + ([("rows", [1])] if two else []) + [("prefix", many), ("prefix", [0])]
    tried += [("prefix", [1])] if two else []
    for i in (many if two else [0]):
        tried += [(axis, [i]) for axis in range(np.asarray(test.inputs[i]).ndim)]
    for outs in several:
        for way, data in tried:
            try:
                made = make(test, way, data, outs)
            except Unfit:
                continue
            yield (way if isinstance(way, str) else "carrier", *made, outs != several[0])


def same_as_test(model, x, expected):
    """Whether the model that was made computes what the test does."""
    try:
        y = ReferenceEvaluator(model).run(None, {"x": x})[0]
    except Exception:
        return False
    if y.shape != expected.shape:
        return False
    return np.allclose(np.asarray(y, np.float64), np.asarray(expected, np.float64), rtol=1e-3, atol=1e-6,
                       equal_nan=True)


# ---- the engine ----

def run(probe, model, rows, x, folder, training):
    path, x_path, y_path = (os.path.join(folder, n) for n in ("m.onnx", "x.bin", "y.bin"))
    onnx.save(model, path)
    np.ascontiguousarray(x, np.float32).tofile(x_path)
    done = subprocess.run([probe, path, str(rows), x_path, y_path] + ["training"] * training, capture_output=True,
                          text=True, check=False)
    if done.returncode == 3:
        return None, done.stderr.strip().replace(path + ": ", "")
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"the probe ended with {done.returncode}")
    return np.fromfile(y_path, np.float32), None


def error(ours, theirs):
    theirs = np.asarray(theirs, np.float64).reshape(-1)
    ours = ours.astype(np.float64)
    if ours.shape != theirs.shape:
        return float("inf")
    plain = np.isfinite(theirs)
    if not np.array_equal(ours[~plain], theirs[~plain], equal_nan=True):
        return float("inf")
    size = np.linalg.norm(theirs[plain])
    off = np.linalg.norm(ours[plain] - theirs[plain])
    return off / size if size else off


def judge(probe, test, folder):
    """("passed" or "refused" or "failed", how or why, worst error, what was run)"""
    if test.draws():
        return "refused", "not compared: a Dropout in training draws numbers of its own", 0, None
    if not test.tensors:
        return "refused", "a sequence or an optional, which no tensor is", 0, None
    refusals, fits = [], False
    for way, model, rows, x, expected, first in ways(test):
        said, why = run(probe, model, rows, x, folder, test.training())
        if said is None:
            refusals.append(why)
            continue
        if not same_as_test(model, x, expected):
            continue
        fits = True
        if test.name in FRACTION:
            expected = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": x})[0]
        off = error(said, expected)
        how = way + (", as floats" if test.floats else "") + (", first output" if first else "") + (", in training" if test.training() else "")
        return ("passed" if off <= ROUNDED.get(test.name, TOLERANCE) else "failed"), how, off, (model, rows, x, expected)
    if not refusals:
        return "failed", "no model can be made of it" if not fits else "", 0, None
    plain = [r for r in refusals if "batch" not in r] or refusals
    for r in plain:
        for pattern, short in REASONS:
            if re.search(pattern, r):
                return "refused", short, 0, None
    return "failed", "refused, which nobody decided: " + plain[0], 0, None


def tests(names=()):
    warnings.simplefilter("ignore")
    from onnx.backend.test.case.node import collect_testcases
    for case in collect_testcases(None):
        graph = case.model.graph
        if len(graph.node) != 1 or graph.node[0].op_type not in OPERATORS or graph.node[0].domain:
            continue
        if names and not any(n in case.name for n in names):
            continue
        yield Test(case)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--probe", default="build/bin/node_probe")
    parser.add_argument("--verbose", action="store_true", help="a line for every test")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    table = collections.defaultdict(collections.Counter)
    reasons, worst = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for test in tests(arguments.names):
            try:
                verdict, how, off, _ = judge(arguments.probe, test, folder)
                floats = test.as_floats() if verdict == "refused" else None
                if floats:
                    again = judge(arguments.probe, floats, folder)
                    verdict, how, off = (again[0], *again[1:3]) if again[0] != "refused" else (verdict, how, off)
                    verdict = "as floats" if verdict == "passed" else verdict
            except Exception as e:  # one test that breaks does not hide the others
                verdict, how, off = "failed", f"{type(e).__name__}: {e}", 0
            table[test.node.op_type][verdict] += 1
            worst = max(worst, off if verdict != "failed" and test.name not in ROUNDED else 0)
            if verdict == "refused":
                reasons[how] += 1
            if verdict == "failed" or arguments.verbose:
                print(f"{'FAIL' if verdict == 'failed' else verdict} {test.name}: {how}" +
                      (f", off by {off:.1e}" if off else ""), flush=True)
    if not arguments.names and (missing := set(OPERATORS) - set(table)):
        print(f"FAIL no node test of {sorted(missing)}")
        table["missing"]["failed"] = len(missing)
    total = sum(table.values(), collections.Counter())
    print(f"{'operator':24}{'passed':>8}{'as floats':>11}{'refused':>9}{'failed':>8}")
    for op in [o for o in OPERATORS if o in table]:
        print(f"{op:24}{table[op]['passed']:8}{table[op]['as floats']:11}{table[op]['refused']:9}{table[op]['failed']:8}")
    print("refused, on purpose:")
    for reason, count in reasons.most_common():
        print(f"{count:6}  {reason}")
    print(f"worst relative error of those that passed: {worst:.1e}")
    print(f"{total['passed'] + total['as floats']} passed, {total['failed']} failed, 0 skipped "
          f"({total['as floats']} of them integers made floats; {total['refused']} refused in words)")
    return 1 if total["failed"] or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
