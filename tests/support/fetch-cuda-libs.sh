#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# fetch-cuda-libs.sh DIR: cuBLAS and NCCL as NVIDIA publishes them on PyPI, laid out as DIR/include
# and DIR/lib, for machines whose toolkit lacks them. About 600 MB to fetch. Does nothing where DIR
# is complete; leaves nothing half done.
set -eu

CUBLAS=nvidia-cublas==13.0.0.19
NCCL=nvidia-nccl-cu13==2.27.7

if [ $# -ne 1 ]; then
    echo "usage: fetch-cuda-libs.sh DIR" >&2
    exit 2
fi
dir=$1
if [ -f "$dir/complete" ] && [ "$(cat "$dir/complete")" = "$CUBLAS $NCCL" ]; then
    exit 0
fi
python=${PYTHON:-python3}
if ! "$python" -m pip --version >/dev/null 2>&1; then
    echo "fetch-cuda-libs: $python has no pip; install python3-pip, or a toolkit with cuBLAS" >&2
    exit 1
fi
mkdir -p "$(dirname "$dir")"
work=$(mktemp -d "$dir.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

echo "fetch-cuda-libs: fetching $CUBLAS and $NCCL"
"$python" -m pip download --quiet --no-deps --only-binary :all: -d "$work/wheels" "$CUBLAS" "$NCCL"
for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/unpacked"
done
mkdir -p "$work/new/include" "$work/new/lib"
for part in cu13 nccl; do
    mv "$work/unpacked/nvidia/$part/include/"*.h "$work/new/include/"
    mv "$work/unpacked/nvidia/$part/lib/"*.so.* "$work/new/lib/"
done
for versioned in "$work"/new/lib/*.so.*; do
    name=$(basename "$versioned")
    ln -s "$name" "$work/new/lib/${name%.so.*}.so"
done
echo "$CUBLAS $NCCL" >"$work/new/complete"
rm -rf "$dir"
mv "$work/new" "$dir"
echo "fetch-cuda-libs: $dir is complete"
