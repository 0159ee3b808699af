# SPDX-License-Identifier: Apache-2.0
"""Files of tensors, .safetensors, as numpy arrays: mapped, not copied."""
from __future__ import annotations

import json
import mmap
import os
import struct
from typing import Dict, Mapping, Optional, Tuple

import numpy as np

HEADER_BYTES_MAX = 64 << 20

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64,
           "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}


class MappedTensors:
    """The tensors of a file: `tensors` is name -> array, in the file's order. The arrays are views
    of the mapping, read-only unless `writable`. `metadata` is what the header carries."""

    def __init__(self, path: str, writable: bool = False) -> None:
        with open(path, "r+b" if writable else "rb") as f:
            size = os.fstat(f.fileno()).st_size
            if size < 8:
                raise ValueError("%s: %d bytes are no .safetensors file" % (path, size))
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(f.fileno(), size, access=access)
        self.tensors: Dict[str, np.ndarray] = {}
        self.metadata: Dict[str, str] = {}
        self._read(path, size)

    def _read(self, path: str, size: int) -> None:
        length, = struct.unpack_from("<Q", self._map)
        if length > min(HEADER_BYTES_MAX, size - 8):
            raise ValueError("%s: its header of %d bytes does not fit" % (path, length))
        header = json.loads(self._map[8:8 + length])
        self.metadata = header.pop("__metadata__", {})
        placed = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, entry in placed:
            dtype = _DTYPES.get(entry["dtype"])
            begin, end = entry["data_offsets"]
            if dtype is None:
                raise ValueError("%s: tensor %s is of %s, which is not read here" %
                                 (path, name, entry["dtype"]))
            count = int(np.prod(entry["shape"], dtype=np.int64))
            if begin < 0 or end > size - 8 - length or \
                    end - begin != count * np.dtype(dtype).itemsize:
                raise ValueError("%s: tensor %s does not lie in the file" % (path, name))
            flat: np.ndarray = np.frombuffer(self._map, dtype, count, 8 + length + begin)
            self.tensors[name] = flat.reshape(entry["shape"])


def load(path: str) -> Dict[str, np.ndarray]:
    """The tensors of a .safetensors file, read-only and mapped."""
    return MappedTensors(path).tensors


def save(path: str, tensors: Mapping[str, np.ndarray],
         metadata: Optional[Mapping[str, str]] = None) -> None:
    """Writes float32 tensors as a .safetensors file."""
    header: Dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays = [np.ascontiguousarray(a, np.float32) for a in tensors.values()]
    at = 0
    for name, a in zip(tensors, arrays):
        header[name] = {"dtype": "F32", "shape": list(np.shape(tensors[name])),
                        "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for a in arrays:
            f.write(a.tobytes())


def put(into: Mapping[str, np.ndarray], tensors: Mapping[str, np.ndarray]) -> None:
    """Copies every tensor into the one of its name, of the same shape. Names must be the same."""
    missing = [name for name in into if name not in tensors]
    unknown = [name for name in tensors if name not in into]
    if missing or unknown:
        raise ValueError("tensors of the model and of the result differ: %s" % ", ".join(
            ["%s is missing" % n for n in missing[:3]] +
            ["%s is unknown" % n for n in unknown[:3]]))
    for name, target in into.items():
        value = np.asarray(tensors[name])
        if value.shape != target.shape:
            raise ValueError("tensor %s has shape %s, the model's has %s" %
                             (name, shape_text(value.shape), shape_text(target.shape)))
        np.copyto(target, value, casting="same_kind")


def shape_text(shape: Tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
