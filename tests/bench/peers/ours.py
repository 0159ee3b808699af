# SPDX-License-Identifier: Apache-2.0
"""Consilium itself: `consilium bench round` of the same bytes."""
import json
import os

from rig import Failed


def run(rig, binary, asked, tls):
    if not os.access(binary, os.X_OK):
        raise Failed(f"{binary} is not built")
    argv = [binary, "bench", "round", "--json", "--dir", rig.folder]
    argv += ["--children", str(asked["children"]), "--bytes", str(asked["elements"] * 4)]
    bench = rig.start("bench", argv + ["--tls", "on" if tls else "off"], dict(os.environ))
    rig.wait(bench, "consilium bench round")
    with open(rig.path("bench-0.log"), encoding="utf-8") as f:
        printed = f.read()
    try:
        detail = json.loads(printed.strip().splitlines()[-1])["detail"]
    except (ValueError, LookupError):
        raise Failed(f"consilium bench round printed no result: {rig.tail(bench)}") from None
    memory = {
        "server": {"bytes": detail["hub_hwm_bytes"]},
        "client-all": {"bytes": detail["children_hwm_bytes"]},
    }
    return detail["round_s"], memory, {"server_anon_bytes": detail["hub_anon_bytes"]}
