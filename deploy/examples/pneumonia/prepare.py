#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Deals PneumoniaMNIST's images out to five hospitals that see different patients.

    prepare.py PNEUMONIAMNIST.npz OUTPUT_FOLDER

One .npz file a hospital, with training, validation and test arrays named as in the original. Who gets
which image depends on the images alone: within a class they are dealt in the order of their SHA-256.
Only Python's standard library is used.
"""
import ast
import hashlib
import io
import os
import struct
import sys
import zipfile

SIDE = 28
# Shares of the training images: a referral centre has mostly pneumonia, an out-patient clinic hardly
# any; the largest has seven times the images of the smallest.
NORMAL = {"children": 0.05, "university": 0.10, "district": 0.20, "county": 0.30, "clinic": 0.35}
PNEUMONIA = {"children": 0.35, "university": 0.30, "district": 0.16, "county": 0.15, "clinic": 0.04}


def read_array(archive, name):
    """The bytes of an array of unsigned bytes, and its shape."""
    with archive.open(name + ".npy") as f:
        data = f.read()
    if data[:6] != b"\x93NUMPY":
        raise ValueError("%s is no .npy array" % name)
    wide = data[6] > 1
    length = struct.unpack("<I" if wide else "<H", data[8:12] if wide else data[8:10])[0]
    begin = (12 if wide else 10) + length
    header = ast.literal_eval(data[begin - length:begin].decode("latin1"))
    if header["descr"] not in ("|u1", "<u1") or header["fortran_order"]:
        raise ValueError("%s: unsigned bytes in C order are wanted" % name)
    return data[begin:], header["shape"]


def write_array(archive, name, shape, data):
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    out = io.BytesIO()
    out.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)
    info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, out.getvalue())


def images_of(archive, part):
    """[(image, label)] of a part, ordered by the image's own hash."""
    images, shape = read_array(archive, part + "_images")
    labels, _ = read_array(archive, part + "_labels")
    if tuple(shape[1:]) != (SIDE, SIDE) or len(labels) != shape[0]:
        raise ValueError("%s: images of 28 x 28 with one label each are wanted" % part)
    size = SIDE * SIDE
    rows = [(images[i * size:(i + 1) * size], labels[i]) for i in range(shape[0])]
    return sorted(rows, key=lambda row: hashlib.sha256(row[0]).digest())


def deal(rows, normal, pneumonia):
    """{site: rows}: each class cut by its shares."""
    dealt = {site: [] for site in normal}
    for label, shares in ((0, normal), (1, pneumonia)):
        mine = [row for row in rows if row[1] == label]
        at, share = 0, 0.0
        for site, part in shares.items():
            share += part
            end = round(share * len(mine))
            dealt[site] += mine[at:end]
            at = end
    return dealt


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    even = dict.fromkeys(NORMAL, 0.2)
    try:
        with zipfile.ZipFile(sys.argv[1]) as archive:
            parts = {"train": deal(images_of(archive, "train"), NORMAL, PNEUMONIA),
                     "val": deal(images_of(archive, "val"), NORMAL, PNEUMONIA),
                     "test": deal(images_of(archive, "test"), even, even)}
        os.makedirs(sys.argv[2], exist_ok=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        print("prepare.py: %s" % e, file=sys.stderr)
        return 1
    for site in NORMAL:
        with zipfile.ZipFile(os.path.join(sys.argv[2], site + ".npz"), "w") as out:
            for part, sites in parts.items():
                rows = sites[site]
                write_array(out, part + "_images", (len(rows), SIDE, SIDE),
                            b"".join(image for image, _ in rows))
                write_array(out, part + "_labels", (len(rows), 1), bytes(l for _, l in rows))
        ill = sum(label for _, label in parts["train"][site])
        print("%-11s %4d training images, %4d with pneumonia; %3d test images" %
              (site, len(parts["train"][site]), ill, len(parts["test"][site])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
