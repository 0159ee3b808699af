# SPDX-License-Identifier: Apache-2.0
"""The messages of proto/trainer.proto and proto/console.proto, from the descriptors that were built
with the package."""
from __future__ import annotations

import os
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "protocol.binpb")


def _pool() -> descriptor_pool.DescriptorPool:
    try:
        with open(_PATH, "rb") as f:
            files = descriptor_pb2.FileDescriptorSet.FromString(f.read())
    except FileNotFoundError:
        raise ImportError("consilium is not installed but only lies here: its protocol is compiled "
                          "when it is built; `pip install spoke/python`") from None
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def _class_of(pool: descriptor_pool.DescriptorPool, name: str) -> Any:
    descriptor = pool.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    older: Any = message_factory.MessageFactory(pool)  # protobuf before 4.22
    return older.GetPrototype(descriptor)


_POOL = _pool()

ToSpoke = _class_of(_POOL, "consilium.trainer.ToSpoke")
ToTrainer = _class_of(_POOL, "consilium.trainer.ToTrainer")
StartRunPart = _class_of(_POOL, "consilium.console.StartRunPart")
RunRequest = _class_of(_POOL, "consilium.console.RunRequest")
PullRequest = _class_of(_POOL, "consilium.console.PullRequest")
RunInfo = _class_of(_POOL, "consilium.console.RunInfo")
RunList = _class_of(_POOL, "consilium.console.RunList")
NodeList = _class_of(_POOL, "consilium.console.NodeList")
Empty = _class_of(_POOL, "consilium.console.Empty")
Piece = _class_of(_POOL, "consilium.Piece")
