# SPDX-License-Identifier: Apache-2.0
"""A federation of real processes on loopback, for tests.

A Federation owns one temporary folder and every process it starts: an authority, hubs and spokes
with their configuration files and data directories. Nothing here sleeps for a guessed time; what a
test needs is waited for as a condition with a deadline, and a deadline that passes fails the test
with the last lines of every log. Leaving the `with` block kills what still runs, and the kernel
kills it too if this process dies first.

    with Federation() as f:
        top = f.top(children_min=2)
        for site in ("north-1", "north-2"):
            f.spoke(site, top)
        run = f.run(f.plan(rounds=3))
        print(run.finish().model)
"""
import ctypes
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.environ.get("CONSILIUM_BIN", os.path.join(ROOT, "build", "bin"))
EXAMPLE = os.path.join(ROOT, "deploy", "examples", "breast-cancer")
KEPT_LOGS = os.path.join(ROOT, "build", "logs", "e2e")
SITES = ["%s-%d" % (region, n) for region in ("north", "centre", "south") for n in (1, 2, 3)]
CHUNK = 1 << 20

START_S = 20    # a process comes up
RUN_S = 120     # a run of a test ends
_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


def program(name):
    return os.path.join(BIN, name)


def clean_environment():
    """The environment without our own variables: configuration comes from the test alone."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CONSILIUM_")}


def wait_until(condition, timeout_s, what, every_s=0.01):
    """Polls until `condition()` gives something true, which is returned."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("after %g s still not: %s" % (timeout_s, what))
        time.sleep(every_s)


class AuditReader:
    """The events of an audit log that grows, each checked against the chain as it is read: JSON
    and SHA-256 are all it takes."""

    def __init__(self, path):
        self.path, self.events = path, []
        self._at, self._before = 0, bytes(32)

    def read(self):
        """All events so far. A last line without its line feed is not read yet."""
        if not os.path.exists(self.path):
            return self.events
        with open(self.path, "rb") as f:
            f.seek(self._at)
            lines = f.read().split(b"\n")[:-1]
        for line in lines:
            event, number = json.loads(line), len(self.events) + 1
            bare = line.replace(b'"hash":"%s",' % event["hash"].encode(), b"", 1)
            digest = hashlib.sha256(self._before + bare).hexdigest()
            if (event["seq"], event["prev"], event["hash"]) != (number, self._before.hex(),
                                                                digest):
                raise AssertionError("%s:%d: the chain is broken" % (self.path, number))
            self._before = bytes.fromhex(digest)
            self._at += len(line) + 1
            self.events.append(event)
        return self.events


def yaml_of(keys, indent=""):
    """Nested dicts of plain values as YAML."""
    lines = []
    for key, value in keys.items():
        if isinstance(value, dict):
            lines.append("%s%s:\n%s" % (indent, key, yaml_of(value, indent + "  ")))
        else:
            lines.append("%s%s: %s\n" % (indent, key, value))
    return "".join(lines)


def merged(base, changes):
    """`base` with `changes` laid over it, dict by dict; a key whose change is None is left out."""
    out = dict(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict):
            out[key] = merged(out.get(key, {}), value)
        else:
            out[key] = value
    return out


class Ended:
    """How a run ended: state ("completed"), reason, and the SHA-256 of its model."""

    def __init__(self, data):
        self.state, self.reason, self.model = data["state"], data["reason"], data["model"]


class Run:
    def __init__(self, federation, run_id):
        self.federation, self.id = federation, run_id

    def ended(self):
        for event in self.federation.root.audit("run.ended"):
            if event["data"]["run"] == self.id:
                return Ended(event["data"])
        return None

    def wait(self, timeout_s=RUN_S):
        return self.federation.wait(self.ended, timeout_s, "run %.12s has ended" % self.id)

    def finish(self, timeout_s=RUN_S):
        end = self.wait(timeout_s)
        if end.state != "completed":
            raise AssertionError("run %.12s: %s: %s" % (self.id, end.state, end.reason))
        return end

    def wait_round(self, number, node=None, timeout_s=RUN_S):
        """Until that round has been opened at the node (the top where none is given)."""
        node = node or self.federation.root
        self.federation.wait(
            lambda: any(e["data"]["run"] == self.id and e["data"]["round"] >= number
                        for e in node.audit("round.opened")),
            timeout_s, "round %d is open at %s" % (number, node.name))


class Node:
    """One hub or spoke: its configuration, its data directory and, while it runs, its process."""

    def __init__(self, federation, name, role, keys):
        self.federation, self.name, self.role = federation, name, role
        self.dir = os.path.join(federation.dir, name)
        self.config_path = os.path.join(federation.dir, name + ".yaml")
        self.log_path = os.path.join(federation.dir, name + ".log")
        self.keys = keys
        self.reread_audit()
        self.port = None
        self.enroll_port = None
        self.process = None
        self.program = None      # another file than the built one
        self.may_end = False     # by itself, without that being a failure
        self.file_limit = None   # bytes of one file, RLIMIT_FSIZE
        self._asked = False      # we ended it

    # -- life

    def spawn(self):
        """Starts the process and returns at once."""
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(yaml_of(self.keys))
        limit = self.file_limit

        def in_child():
            _libc.prctl(_PDEATHSIG, signal.SIGKILL)
            if limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        start = {"spoke": ["consilium-spoke"], "member": ["consilium-spoke", "member"]}.get(
            self.role, ["consilium-hub"])
        start[0] = self.program or program(start[0])
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                start + ["--config", self.config_path], stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd=self.federation.dir, env=clean_environment(),
                preexec_fn=in_child)
        self._asked = False
        return self

    def start(self):
        """Starts the process and returns when it serves (a hub) or has its data directory open."""
        mark = self.mark()
        serves = self.role not in ("spoke", "member")
        ready = r"listening on port (\d+)" if serves else r"training on "
        for _ in range(20):
            self.spawn()
            self._asked = True  # an end is looked into below
            found = self.federation.wait(
                lambda: self.process.poll() is not None or self.find(ready, mark), START_S,
                "%s is up" % self.name)
            if self.process.poll() is None:
                break
            # The kernel may have lent a killed hub's port to an outgoing connection meanwhile.
            if self.port is None or "cannot listen" not in self.log(mark):
                raise AssertionError("%s ended at its start:\n%s" % (self.name, self.log(mark)))
        else:
            raise AssertionError("port %d does not become free" % self.port)
        self._asked = False
        if serves and self.port is None:
            self.port = int(found.group(1))
            self.keys["listen"] = "127.0.0.1:%d" % self.port
        return self

    def running(self):
        return self.process is not None and self.process.poll() is None

    def died(self):
        """Ended, and neither by us nor by leave."""
        return not (self.process is None or self._asked or self.may_end or self.running())

    def kill(self):
        """SIGKILL, and the process is gone when this returns."""
        self._asked = True
        if self.process is not None:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self, timeout_s=START_S):
        """SIGTERM; returns the exit status."""
        self._asked = True
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    # -- what it wrote

    def mark(self):
        """A place in the log to look from later."""
        return os.path.getsize(self.log_path) if os.path.exists(self.log_path) else 0

    def log(self, mark=0):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, "rb") as f:
            f.seek(mark)
            return f.read().decode("utf-8", "replace")

    def find(self, pattern, mark=0):
        return re.search(pattern, self.log(mark))

    def wait_log(self, pattern, mark=0, timeout_s=START_S):
        return self.federation.wait(lambda: self.find(pattern, mark), timeout_s,
                                    "%s logs /%s/" % (self.name, pattern))

    def audit(self, event=None):
        return [e for e in self._audit.read() if event is None or e["event"] == event]

    def reread_audit(self):
        """For a test that has changed the file itself."""
        self._audit = AuditReader(os.path.join(self.dir, "audit", "audit.log"))

    def cert(self):
        """The text of its certificate."""
        with open(os.path.join(self.dir, "identity", "cert.pem"), encoding="ascii") as f:
            return f.read()

    def rss_anon(self):
        """Bytes of anonymous memory of the node's process."""
        with open("/proc/%d/status" % self.process.pid, encoding="ascii") as f:
            for line in f:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) << 10
        raise AssertionError("no RssAnon")

    def spool(self):
        """Name -> bytes of every file in the spool now; of a partial, those that are its own."""
        sizes = self._sizes("spool")
        for name in list(sizes):
            if name.endswith(".part"):
                sizes[name] = self._received(os.path.join(self.dir, "spool", name))
        return sizes

    @staticmethod
    def _received(path):
        """The mark before the payload (tier/spool.h): a partial may lie in an older, longer file."""
        try:
            with open(path, "rb") as f:
                header_bytes = struct.unpack("<I", f.read(16)[12:])[0]
                payload_at = (header_bytes + 16 + 4095) // 4096 * 4096
                f.seek(payload_at - 16)
                return payload_at + struct.unpack("<Q", f.read(16)[:8])[0]
        except (FileNotFoundError, struct.error):
            return 0  # sealed or deleted between the two looks, or not begun

    def models(self):
        """The same of the models directory."""
        return self._sizes("models")

    def _sizes(self, folder):
        sizes = {}
        try:
            with os.scandir(os.path.join(self.dir, folder)) as entries:
                for entry in entries:
                    try:
                        sizes[entry.name] = entry.stat().st_size
                    except FileNotFoundError:
                        pass  # renamed or deleted between the two looks
        except FileNotFoundError:
            pass
        return sizes


class Federation:
    """See the module. `tls` False is for tests that read the wire."""

    def __init__(self, tls=True):
        self.tls = tls
        self.dir = tempfile.mkdtemp(prefix="consilium-e2e-")
        self.nodes = []
        self.root = None
        self.mounts = []
        self.others = []  # anything with close(): proxies
        self._plans = 0
        self._tables = None
        self.operator = os.path.join(self.dir, "operator")
        self.authority = os.path.join(self.dir, "authority")
        try:
            if tls:
                self.cli("pki", "init", "--dir", self.authority, "--name", "test-authority")
                self.enroll("operator", "operator", self.operator)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.keep_logs()
        self.close()

    def close(self):
        for node in self.nodes:
            if node.running():
                node.process.send_signal(signal.SIGKILL)
        for node in self.nodes:
            if node.process is not None:
                node.process.wait()
        for other in self.others:
            other.close()
        for mount in self.mounts:
            subprocess.run(["umount", mount], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def keep_logs(self):
        """A failed test's logs and configuration, where a person finds them."""
        folder = os.path.join(KEPT_LOGS, os.path.basename(self.dir))
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(self.dir):
            if name.endswith((".log", ".yaml")):
                shutil.copy(os.path.join(self.dir, name), folder)
        for node in self.nodes:
            audit = os.path.join(node.dir, "audit", "audit.log")
            if os.path.exists(audit):
                shutil.copy(audit, os.path.join(folder, node.name + ".audit"))
        print("    (logs: %s)" % folder, flush=True)

    def wait(self, condition, timeout_s, what):
        """wait_until, which a node that ends unasked fails at once."""
        def or_death():
            value = condition()
            dead = [] if value else [node.name for node in self.nodes if node.died()]
            if dead:
                raise AssertionError("%s ended while waiting for: %s" % (", ".join(dead), what))
            return value

        try:
            return wait_until(or_death, timeout_s, what)
        except AssertionError as e:
            tails = []
            for node in self.nodes:
                state = "runs" if node.running() else "is not running"
                tails.append("---- %s %s\n%s" % (node.name, state,
                                                 "\n".join(node.log().splitlines()[-12:])))
            raise AssertionError("%s\n%s" % (e, "\n".join(tails))) from None

    # -- the operator's program

    def cli(self, *arguments, check=True, timeout_s=60):
        """`consilium ARGUMENTS`; its CompletedProcess, texts decoded."""
        done = subprocess.run([program("consilium"), *arguments], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, cwd=self.dir, timeout=timeout_s,
                              env=clean_environment())
        if check and done.returncode != 0:
            raise AssertionError("consilium %s: exit %d: %s" % (" ".join(arguments),
                                                                done.returncode, done.stderr))
        return done

    def at_top(self):
        """The options that lead the operator's program to the top."""
        where = ["--hub", "127.0.0.1:%d" % self.root.port, "--hub-name", self.root.name]
        return where + (["--identity", self.operator] if self.tls else ["--insecure"])

    def enroll(self, name, role, data_dir, authority=None):
        """An identity straight from the authority's folder, as the very first node gets it."""
        self.cli("enroll", "--local", "--authority-dir", authority or self.authority, "--name",
                 name, "--role", role, "--data-dir", data_dir)

    def hospital(self):
        """The folder of an authority that a hospital makes for its own servers."""
        path = os.path.join(self.dir, "hospital")
        if self.tls and not os.path.exists(path):
            self.cli("pki", "init", "--dir", path, "--name", "hospital")
        return path

    # -- nodes

    def _node(self, name, role, keys, changes, enroll, start):
        node = Node(self, name, role, merged(keys, changes))
        self.nodes.append(node)
        if self.tls and enroll:
            self.enroll(name, role, node.dir)
        return node.start() if start else node

    def _common(self, name, parent, parent_address=None):
        keys = {"name": name, "data_dir": os.path.join(self.dir, name), "threads": 1,
                "tls": "on" if self.tls else "off"}
        if parent:
            keys["parent"] = {"address": parent_address or "127.0.0.1:%d" % parent.port,
                              "name": parent.name}
        return keys

    def hub(self, name, parent, children_min=1, parent_address=None, start=True, enroll=True,
            **changes):
        keys = self._common(name, parent, parent_address)
        keys.update({"listen": "127.0.0.1:0", "children_min": children_min})
        return self._node(name, "hub" if parent else "top", keys, changes, enroll, start)

    def top(self, name="top", **options):
        self.root = self.hub(name, None, **options)
        return self.root

    def spoke(self, name, parent, csv=None, schema=None, parent_address=None, start=True,
              enroll=True, **changes):
        keys = self._common(name, parent, parent_address)
        keys.update({"data": {"csv": csv or self.table(name),
                              "schema": schema or os.path.join(EXAMPLE, "schema.yaml")},
                     "device": "cpu", "policy": {"accept": "all"}})
        return self._node(name, "spoke", keys, changes, enroll, start)

    def leader(self, name, parent, members, **changes):
        """A spoke of several servers. Its port stays the same from its first start on."""
        identity = os.path.join(self.dir, name + "-team")
        team = {"listen": "127.0.0.1:0", "members": "[%s]" % ", ".join(members)}
        if self.tls:
            self.enroll(name + "-team", "spoke", identity, self.hospital())
            team["identity"] = identity
        node = self.spoke(name, parent, **merged({"team": team}, changes))
        node.team_port = int(node.wait_log(r"team: waiting for .* on port (\d+)").group(1))
        node.keys["team"]["listen"] = "127.0.0.1:%d" % node.team_port
        return node

    def member(self, name, of, authority=None, start=True, **changes):
        """One more server of that leader's, with the leader's table."""
        keys = self._common(name, None)
        keys.update({"leader": {"address": "127.0.0.1:%d" % of.team_port,
                                "name": of.name + "-team"},
                     "data": of.keys["data"], "device": "cpu"})
        if self.tls:
            self.enroll(name, "spoke", os.path.join(self.dir, name), authority or self.hospital())
        return self._node(name, "member", keys, changes, False, start)

    def top_with_authority(self, **options):
        """One that renews certificates and gives out pseudonyms."""
        return self.top(enroll_listen="127.0.0.1:0", authority_dir=self.authority, **options)

    def tree(self, shape, threads=1, top=None):
        """Starts a tree. `shape` is a dict of name -> shape for a hub, name -> None for a spoke;
        the top's children are its items. Returns name -> Node, with "top", which `top` makes."""
        nodes = {"top": (top or self.top)(children_min=len(shape), threads=threads)}

        def grow(parent, below):
            for name, under in below.items():
                if under is None:
                    nodes[name] = self.spoke(name, parent, threads=threads)
                else:
                    nodes[name] = self.hub(name, parent, children_min=len(under), threads=threads)
                    grow(nodes[name], under)

        grow(nodes["top"], shape)
        return nodes

    def tmpfs(self, node, size):
        """Mounts a file system of that size as the node's data directory. False where this
        machine does not let us."""
        os.makedirs(node.dir, mode=0o700, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%d,mode=700" % size, "consilium",
                               node.dir], capture_output=True, check=False)
        if done.returncode == 0:
            self.mounts.append(node.dir)
        return done.returncode == 0

    # -- work

    def table(self, site):
        """The table of one of SITES, real patients of the breast cancer example."""
        if self._tables is None:
            self._tables = os.path.join(self.dir, "tables")
            os.mkdir(self._tables)
            subprocess.run(["awk", "-v", "out=" + self._tables, "-f",
                            os.path.join(EXAMPLE, "split.awk"),
                            os.path.join(EXAMPLE, "breast_cancer.csv")], check=True)
        path = os.path.join(self._tables, site + ".csv")
        if not os.path.exists(path):
            raise ValueError("the example has no site '%s': name one of %s" % (site, SITES))
        return path

    def plan(self, rounds=3, model=None, **changes):
        """Writes a plan and gives its path. `changes` are laid over the usual keys."""
        keys = merged(
            {"plan": 1, "name": "wdbc", "purpose": "tests of the federation",
             "model": model or os.path.join(EXAMPLE, "model.onnx"),
             "data": {"contract": "breast-cancer"},
             "local": {"loss": "bce", "optimiser": {"name": "sgd", "lr": 0.05}, "batch": 16,
                       "steps": 10, "seed": 7},
             "exact": {"clip": 1.0}, "rounds": rounds}, changes)
        self._plans += 1
        path = os.path.join(self.dir, "plan-%d.yaml" % self._plans)
        with open(path, "w", encoding="utf-8") as f:
            f.write(yaml_of(keys))
        return path

    def run(self, plan):
        """Starts a run at the top."""
        out = self.cli("run", "start", plan, *self.at_top()).stdout
        found = re.search(r"\b[0-9a-f]{64}\b", out)
        if not found:
            raise AssertionError("run start printed no run id: %r" % out)
        return Run(self, found.group(0))
