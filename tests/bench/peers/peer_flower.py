# SPDX-License-Identifier: Apache-2.0
"""Flower, in its two ways: start_server/start_client, and SuperLink/SuperNodes by `flwr run`."""
import json
import os
import shutil

from rig import Failed, free_port

HERE = os.path.dirname(os.path.abspath(__file__))
APP = os.path.join(HERE, "flower_app")
MESSAGE_BYTES = 2**31 - 1  # the most that gRPC takes


def fast(rig, venv, asked):
    python = os.path.join(venv, "bin", "python")
    port = free_port()
    asked = dict(asked, address=f"127.0.0.1:{port}", message_bytes=MESSAGE_BYTES)

    def env(**more):
        return rig.env(venv, PYTHONPATH=HERE, CONSILIUM_PEERS=json.dumps(dict(asked, **more)))

    server = rig.start("server", [python, os.path.join(APP, "fast_server.py")], env())
    rig.wait_listening(server, port, "start_server")
    for i in range(asked["children"]):
        rig.start(
            f"client-{i + 1}", [python, os.path.join(APP, "fast_client.py")], env(client=i)
        )
    rig.wait(server, "start_server")


def _app(rig):
    """The app's folder, which `flwr run` packs."""
    folder = rig.path("app")
    package = os.path.join(folder, "consilium_peers")
    os.makedirs(package)
    shutil.copy(os.path.join(APP, "pyproject.toml"), folder)
    for source in (os.path.join(APP, "server_app.py"), os.path.join(APP, "client_app.py")):
        shutil.copy(source, package)
    shutil.copy(os.path.join(HERE, "updates.py"), package)
    with open(os.path.join(package, "__init__.py"), "w", encoding="utf-8"):
        pass
    return folder


def _say_superlink(rig, address):
    home = rig.path("home", "flwr")
    os.makedirs(home)
    with open(os.path.join(home, "config.toml"), "w", encoding="utf-8") as f:
        f.write('[superlink]\ndefault = "here"\n\n')
        f.write(f'[superlink.here]\naddress = "{address}"\ninsecure = true\n')


def deployment(rig, venv, asked):
    bin_of = os.path.join(venv, "bin", "")
    env = rig.env(venv, CONSILIUM_PEERS=json.dumps(asked))
    fleet, control, app_io = free_port(), free_port(), free_port()

    rig.output([bin_of + "python", os.path.join(HERE, "updates.py"), "write"], env)
    app = _app(rig)
    _say_superlink(rig, f"127.0.0.1:{control}")
    superlink = rig.start(
        "server",
        [bin_of + "flower-superlink", "--insecure"]
        + ["--fleet-api-address", f"127.0.0.1:{fleet}"]
        + ["--control-api-address", f"127.0.0.1:{control}"]
        + ["--serverappio-api-address", f"127.0.0.1:{app_io}"],
        env,
    )
    rig.wait_listening(superlink, fleet, "the SuperLink")
    rig.wait_listening(superlink, control, "the SuperLink")
    for i in range(asked["children"]):
        rig.start(
            f"client-{i + 1}",
            [bin_of + "flower-supernode", "--insecure"]
            + ["--superlink", f"127.0.0.1:{fleet}"]
            + ["--clientappio-api-address", f"127.0.0.1:{free_port()}"]
            + ["--node-config", f"partition-id={i}"],
            env,
        )
    run = rig.start("tool", [bin_of + "flwr", "run", app, "here", "--stream"], env)
    log = rig.path("out", "log.json")
    rig.wait_until(lambda: os.path.exists(log) or run.poll() is not None, "flwr run")
    if not os.path.exists(log):
        raise Failed(f"flwr run ended without a result: {rig.tail(run)}")
