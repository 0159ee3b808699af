# SPDX-License-Identifier: Apache-2.0
"""NVFlare as it is provisioned: mutual TLS, a server, clients, and relays between them."""
import json
import os
import shutil

from rig import Failed, free_port

HERE = os.path.dirname(os.path.abspath(__file__))
APP = os.path.join(HERE, "nvflare_app")
RELAYS = 2
ADMIN = "admin@consilium.test"
POLL_S = 0.01  # tuned: every interval that a configuration can set

BUILDERS = [
    {"path": "nvflare.lighter.impl.workspace.WorkspaceBuilder"},
    {
        "path": "nvflare.lighter.impl.static_file.StaticFileBuilder",
        "args": {"config_folder": "config"},
    },
    {"path": "nvflare.lighter.impl.cert.CertBuilder"},
    {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
]


def _project(children, relays):
    """What `nvflare provision` reads; JSON is YAML."""
    server = {
        "name": "server",
        "type": "server",
        "org": "bench",
        "fed_learn_port": free_port(),
        "admin_port": free_port(),
        "host_names": ["localhost", "127.0.0.1"],
        "default_host": "localhost",
    }
    participants = [server, {"name": ADMIN, "type": "admin", "org": "bench"}]
    participants[1]["role"] = "project_admin"
    for i in range(relays):
        host = {"default_host": "localhost", "port": free_port()}
        relay = {"name": f"relay-{i + 1}", "type": "relay", "org": "bench"}
        participants.append(dict(relay, listening_host=host))
    for i in range(children):
        client = {"name": f"client-{i + 1}", "type": "client", "org": "bench"}
        if relays:
            client["connect_to"] = {"name": f"relay-{i % relays + 1}"}
        participants.append(client)
    project = {"api_version": 3, "name": "peers", "description": "one round after the other"}
    return dict(project, participants=participants, builders=BUILDERS), server["fed_learn_port"]


def _keep_inside(rig, kits):
    """The server's jobs and snapshots would lie in /tmp/nvflare: they go into our folder."""
    local = os.path.join(kits, "server", "local")
    with open(os.path.join(local, "resources.json.default"), encoding="utf-8") as f:
        text = f.read()
    if '"/tmp/nvflare/' not in text:
        raise Failed("the server's resources.json does not look as expected")
    with open(os.path.join(local, "resources.json"), "w", encoding="utf-8") as f:
        f.write(text.replace('"/tmp/nvflare/', f'"{rig.path("nvflare")}/'))


def _server_config(rig, asked, tuned):
    args = {"num_clients": asked["children"], "num_rounds": asked["rounds"]}
    args["persistor_id"] = "persistor"
    config = {"format_version": 2, "task_data_filters": [], "task_result_filters": []}
    if tuned:
        args["task_check_period"] = POLL_S
        config["server"] = {"task_request_interval": POLL_S}
    path = "nvflare.app_common.workflows.fedavg.FedAvg"
    config["workflows"] = [{"id": "controller", "path": path, "args": args}]
    config["components"] = [
        {
            "id": "persistor",
            "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor",
            "args": {"source_ckpt_file_full_name": rig.path("out", "zeros.npy")},
        },
        {"id": "watch", "path": "watch.Watch", "args": {}},
    ]
    return config


def _client_config(tuned):
    config = {"format_version": 2, "components": []}
    config.update(task_data_filters=[], task_result_filters=[])
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {
            "execution_mode": "in_process",
            "task_script_path": "train.py",
            "params_exchange_format": "numpy",
        },
    }
    if tuned:
        executor = {"path": "direct.Direct", "args": {}}
        config["default_task_fetch_interval"] = POLL_S
    config["executors"] = [{"tasks": ["*"], "executor": executor}]
    return config


def _job(rig, asked, tuned):
    """The job's folder, as the NumPy recipe exports it but for the watch beside its FedAvg."""
    folder = rig.path("job")
    config, custom = os.path.join(folder, "app", "config"), os.path.join(folder, "app", "custom")
    os.makedirs(config)
    os.makedirs(custom)
    meta = {"name": "peers", "resource_spec": {}, "min_clients": asked["children"]}
    meta["deploy_map"] = {"app": ["@ALL"]}
    for path, content in (
        (os.path.join(folder, "meta.json"), meta),
        (os.path.join(config, "config_fed_server.json"), _server_config(rig, asked, tuned)),
        (os.path.join(config, "config_fed_client.json"), _client_config(tuned)),
    ):
        with open(path, "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1)
    for name in ("watch.py", "train.py", "direct.py"):
        shutil.copy(os.path.join(APP, name), custom)
    shutil.copy(os.path.join(HERE, "updates.py"), custom)
    return folder


def run(rig, venv, asked, tuned, relays):
    python = os.path.join(venv, "bin", "python")
    project, port = _project(asked["children"], RELAYS if relays else 0)

    def env(**more):
        said = json.dumps(dict(asked, **more))
        return rig.env(venv, CONSILIUM_PEERS=said, MALLOC_ARENA_MAX="4")

    def start(side, kind, module, name, *options):
        kit = os.path.join(kits, name)
        settings = ["--set", "secure_train=true", "org=bench", "config_folder=config", *options]
        argv = [python, "-u", "-m", f"nvflare.private.fed.app.{module}", "-m", kit]
        client = {"client": int(name.split("-")[1]) - 1} if kind == "client" else {}
        return rig.start(side, argv + ["-s", f"fed_{kind}.json"] + settings, env(**client), kit)

    with open(rig.path("project.yml"), "w", encoding="utf-8") as f:
        json.dump(project, f)
    rig.output([python, os.path.join(HERE, "updates.py"), "zeros"], env())
    provision = ["-m", "nvflare.cli", "provision", "-p", rig.path("project.yml")]
    rig.output([python] + provision + ["-w", rig.path("workspace"), "--force"], env())
    kits = rig.path("workspace", "peers", "prod_00")
    _keep_inside(rig, kits)
    job = _job(rig, asked, tuned)

    server = start("server", "server", "server.server_train", "server")
    rig.wait_listening(server, port, "the server")
    for participant in project["participants"]:
        name = participant["name"]
        if participant["type"] == "relay":
            relay = start(name, "relay", "relay.relay", name)
            rig.wait_listening(relay, participant["listening_host"]["port"], name)
    for i in range(asked["children"]):
        name = f"client-{i + 1}"
        start(name, "client", "client.client_train", name, f"uid={name}")
    submit = [python, os.path.join(APP, "submit.py"), os.path.join(kits, ADMIN), job]
    submit += [str(asked["children"]), str(rig.left_s())]
    submitted = rig.start("tool", submit, env())
    log = rig.path("out", "log.json")
    rig.wait_until(lambda: os.path.exists(log) or submitted.poll() is not None, "the job")
    if not os.path.exists(log):
        raise Failed(f"the job ended without a result: {rig.tail(submitted)}")
