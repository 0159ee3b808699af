#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Deals the hippocampus cases of the Medical Segmentation Decathlon out to four hospitals.

    prepare.py MSD_TASK04_FOLDER OUTPUT_FOLDER

The folder has imagesTr and labelsTr. One table a hospital, HOSPITAL.csv: image,mask,patient, the files
named where they lie. Who gets which case depends on the case alone: one hospital stores its images in 8
bits; the others divide the rest by the volume of the hippocampus.
Only Python's standard library is used.
"""
import array
import csv
import gzip
import os
import struct
import sys

UINT8, FLOAT32 = 2, 16
# Hospitals that share the cases not in 8 bits, from the smallest hippocampus up: who sees patients whose
# hippocampus has shrunk, who sees most, who sees healthy volunteers.
SHARES = (("memory", 0.25), ("university", 0.50), ("volunteers", 0.25))


def read_volume(path):
    """(datatype, values) of a NIfTI file of unsigned bytes or floats."""
    with gzip.open(path) as f:
        data = f.read()
    if len(data) < 352 or struct.unpack("<i", data[:4])[0] != 348:
        raise ValueError("%s is no NIfTI file in little-endian" % path)
    sides = struct.unpack("<8h", data[40:56])
    kind = struct.unpack("<h", data[70:72])[0]
    begin = int(struct.unpack("<f", data[108:112])[0])
    if kind not in (UINT8, FLOAT32) or sides[0] != 3:
        raise ValueError("%s: three axes of unsigned bytes or floats are wanted" % path)
    values = array.array("B" if kind == UINT8 else "f")
    count = sides[1] * sides[2] * sides[3]
    values.frombytes(data[begin:begin + count * values.itemsize])
    if len(values) != count:
        raise ValueError("%s ends within its voxels" % path)
    return kind, values


def cases_of(folder):
    """[(labelled voxels, case, image's datatype)], the smallest hippocampus first."""
    cases = []
    labels = os.path.join(folder, "labelsTr")
    for name in sorted(os.listdir(labels)):
        if not name.startswith("hippocampus_") or not name.endswith(".nii.gz"):
            continue
        _, mask = read_volume(os.path.join(labels, name))
        kind, _ = read_volume(os.path.join(folder, "imagesTr", name))
        cases.append((len(mask) - mask.count(0), name, kind))
    if not cases:
        raise ValueError("%s has no hippocampus_*.nii.gz" % labels)
    return sorted(cases)


def deal(cases):
    """{hospital: cases}"""
    dealt = {"archive": [case for case in cases if case[2] == UINT8]}
    rest = [case for case in cases if case[2] != UINT8]
    at, share = 0, 0.0
    for hospital, part in SHARES:
        share += part
        end = round(share * len(rest))
        dealt[hospital] = rest[at:end]
        at = end
    return dealt


def write_table(path, folder, cases):
    near = os.path.relpath(folder, os.path.dirname(path))
    with open(path, "w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(("image", "mask", "patient"))
        for _, name, _ in cases:
            table.writerow((os.path.join(near, "imagesTr", name),
                            os.path.join(near, "labelsTr", name), name[:-len(".nii.gz")]))


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    folder, output = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    try:
        dealt = deal(cases_of(folder))
        os.makedirs(output, exist_ok=True)
        for hospital, cases in dealt.items():
            write_table(os.path.join(output, hospital + ".csv"), folder, cases)
            volumes = [case[0] for case in cases]
            print("%-11s %4d cases, %4d to %4d labelled voxels" %
                  (hospital, len(cases), min(volumes), max(volumes)))
    except (OSError, ValueError, EOFError) as e:
        print("prepare.py: %s" % e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
