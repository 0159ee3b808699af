#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares what the graph reader makes of ONNX files with what onnxruntime computes: the shape of
every tensor, and the integers of every folded one. Usage: check_graphs.py GRAPH_DUMP FILE..."""
import subprocess
import sys

import numpy
import onnx
import onnxruntime

BATCHES = (1, 3)


def shown(model):
    """A copy whose every tensor is an output, in the form that onnxruntime runs."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":  # onnxruntime has no training of it
            del node.output[1:]
            for attribute in node.attribute:
                if attribute.name == "training_mode":
                    attribute.i = 0
    have = {o.name for o in model.graph.output}
    names = [o for n in model.graph.node for o in n.output if o and o not in have]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return model


def reference(model, batch):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(shown(model).SerializeToString(), options,
                                           providers=["CPUExecutionProvider"])
    x = session.get_inputs()[0]
    row = [d for d in x.shape[1:]]
    kind = numpy.int64 if "int64" in x.type else numpy.float32
    values = numpy.random.default_rng(0).integers(0, 7, [batch] + row).astype(kind)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {x.name: values})))


def dump(program, path, batch):
    done = subprocess.run([program, path, str(batch)], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip()
    return [line.split("\t") for line in done.stdout.splitlines()], None


def compare(program, path, model, batch):
    """How many tensors agree, and what does not."""
    lines, why = dump(program, path, batch)
    if lines is None:
        return 0, [f"refused: {why}"]
    want, wrong, same = reference(model, batch), [], 0
    for kind, name, *rest in lines:
        if kind not in ("node", "folded") or name not in want:
            continue
        shape = [int(d) for d in rest[2].split(",")] if rest[2] else []
        if shape != list(want[name].shape):
            wrong.append(f"{name}: {shape} where onnxruntime has {list(want[name].shape)}")
        elif kind == "folded" and rest[3]:
            have = [float(v) for v in rest[3].split(",")]
            if not numpy.allclose(have, want[name].flatten()[:16].astype(float), rtol=1e-5, equal_nan=True):
                wrong.append(f"{name}: {rest[3]} where onnxruntime has {want[name].flatten()[:16]}")
            else:
                same += 1
        else:
            same += 1
    return same, wrong


def main():
    program, bad = sys.argv[1], 0
    for path in sys.argv[2:]:
        model = onnx.load(path)
        for batch in BATCHES:
            same, wrong = compare(program, path, model, batch)
            if same == 0 and not wrong:
                wrong = ["nothing was compared"]
            bad += bool(wrong)
            print(f"{path}, batch {batch}: {same} tensors agree" + "".join(f"\n    {w}" for w in wrong[:10]))
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
