#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/nodes.bin: some of the ONNX project's node tests, at least one an operator, as the
models that tests/peers/onnx_nodes.py made of them. Run by hand, with onnx and onnxruntime, after a
change: make_node_golden.py FILE [--probe build/bin/node_probe]

Little-endian: int32 tests; then for each int32 bytes of its name, 1 in training else 0, rows, bytes of
the model, floats of x, floats of the output; name; model; x; output.
"""
import argparse
import os
import struct
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "peers"))
import onnx_nodes  # noqa: E402

NAMES = """basic_conv_with_padding conv_with_autopad_same conv_with_strides_and_asymmetric_padding
convtranspose_1d convtranspose_3d convtranspose_dilations convtranspose_output_shape convtranspose_autopad_same
gemm_all_attributes gemm_transposeA gemm_default_vector_bias matmul_3d matmul_bcast matmul_1d_3d matmul_4d_1d
matmul_1d_1d add_bcast sub_bcast mul_bcast div_bcast relu leakyrelu prelu_broadcast sigmoid tanh gelu_default_2
gelu_tanh_2 softmax_axis_0 softmax_axis_1 softmax_large_number logsoftmax_axis_1 logsoftmax_large_number
maxpool_2d_ceil maxpool_2d_dilations maxpool_2d_precomputed_same_upper averagepool_2d_ceil averagepool_2d_dilations
averagepool_2d_precomputed_pads_count_include_pad globalaveragepool batchnorm_epsilon
batchnorm_epsilon_training_mode instancenorm_epsilon group_normalization_epsilon layer_normalization_3d_axis1_epsilon
layer_normalization_4d_axis_negative_2 dropout_default_ratio concat_3d_axis_1 concat_2d_axis_negative_2
split_variable_parts_2d_opset18 split_1d_uneven_split_opset18 slice_negative_axes slice_neg_steps
reshape_zero_and_negative_dim flatten_axis2 transpose_all_permutations_3 squeeze_negative_axes
unsqueeze_unsorted_axes gather_1 gather_negative_indices resize_upsample_scales_linear_align_corners
resize_downsample_scales_linear resize_downsample_sizes_linear_pytorch_half_pixel
resize_upsample_sizes_nearest_ceil_half_pixel resize_upsample_sizes_nearest_floor_align_corners constant_pad
constant_pad_negative_axes reduce_mean_negative_axes_keepdims_random reduce_sum_default_axes_keepdims_random
reduce_sum_do_not_keepdims_random clip_default_inbounds clip_splitbounds sqrt exp log pow_bcast_scalar
cast_FLOAT_to_DOUBLE identity constant""".split()
FLOATS = ["edge_pad", "reflect_pad", "maxpool_2d_uint8"]
ELEMENTS_MAX = 4096  # of an input, so that the file stays small


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--probe", default="build/bin/node_probe")
    arguments = parser.parse_args()
    names, made, operators = {"test_" + n for n in NAMES + FLOATS}, [], set()
    with tempfile.TemporaryDirectory() as folder:
        for test in onnx_nodes.tests():
            if test.name not in names:
                continue
            names.remove(test.name)
            if test.name[5:] in FLOATS:
                test = test.as_floats()
            verdict, how, _, run = onnx_nodes.judge(arguments.probe, test, folder)
            if verdict != "passed" or run[2].size > ELEMENTS_MAX:
                raise SystemExit(f"{test.name}: {verdict}, {how}")
            operators.add(test.node.op_type)
            made.append((test.name, test.training(), *run))
    if names or set(onnx_nodes.OPERATORS) != operators:
        raise SystemExit(f"absent: {sorted(names)}, {sorted(set(onnx_nodes.OPERATORS) - operators)}")
    with open(arguments.file, "wb") as f:
        f.write(struct.pack("<i", len(made)))
        for name, training, model, rows, x, y in made:
            raw = model.SerializeToString()
            f.write(struct.pack("<6i", len(name), training, rows, len(raw), x.size, y.size) + name.encode() + raw)
            f.write(np.ascontiguousarray(x, np.float32).tobytes() + np.ascontiguousarray(y, np.float32).tobytes())
    print(f"{len(made)} tests of {len(operators)} operators")


if __name__ == "__main__":
    main()
