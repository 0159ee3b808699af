# SPDX-License-Identifier: Apache-2.0
"""The federation's own sums (kernels/kern.h), called from Python.

Arrays are float32 and one-dimensional. A tensor is summed at one clip: f = 30 - ceil(log2 clip).
"""
import ctypes
import math

import numpy as np

F32 = ctypes.POINTER(ctypes.c_float)
I64 = ctypes.POINTER(ctypes.c_int64)


def _f32(a):
    return a.ctypes.data_as(F32)


def _i64(a):
    return a.ctypes.data_as(I64)


class Fold:
    """The functions of the module built by CMake as bet_batchnorm_fold."""

    def __init__(self, path):
        lib = ctypes.CDLL(path)
        size, bits, weight = ctypes.c_size_t, ctypes.c_int, ctypes.c_uint32
        first = ctypes.POINTER(ctypes.c_size_t)
        self._narrow = lib.kern_fold_f32
        self._narrow.argtypes = [I64, F32, size, bits, weight, first]
        self._narrow.restype = ctypes.c_uint64
        self._wide = lib.kern_fold_f32_wide
        self._wide.argtypes = [I64, I64, F32, size, bits, weight, first]
        self._wide.restype = ctypes.c_uint64
        self._apply = lib.kern_apply_mean
        self._apply.argtypes = [F32, F32, I64, I64, size, bits, ctypes.c_uint64]
        self._apply.restype = None

    def mean(self, base, deltas, weights, clip, wide):
        """base + the weighted mean of deltas. Returns (float32 result, refused elements)."""
        bits = 30 - math.ceil(math.log2(clip))
        n, refused = base.size, 0
        hi = np.zeros(n, np.int64)
        lo = np.zeros(n, np.int64) if wide else None
        for x, w in zip(deltas, weights):
            if wide:
                refused += self._wide(_i64(hi), _i64(lo), _f32(x), n, bits, w, None)
            else:
                refused += self._narrow(_i64(hi), _f32(x), n, bits, w, None)
        out = np.empty(n, np.float32)
        self._apply(_f32(out), _f32(base), _i64(hi), _i64(lo) if wide else None, n, bits,
                    int(sum(weights)))
        return out, refused
