# SPDX-License-Identifier: Apache-2.0
"""Processes of a row: started, watched, and ended by their ids, whatever happens.

The runner starts itself again as the first process of a process namespace and of a network
namespace that has nothing but a loopback device. So nothing it starts can reach a network, ports
are its own, and the kernel ends all of it when that first process ends, however that comes about.
Where namespaces are refused, the same code runs as a subreaper: what loses its parent becomes its
child, and is found and ended by its id; then only the settings keep the peers off the network.
"""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

INSIDE = "CONSILIUM_PEERS_INSIDE"  # how the runner was started: namespaces, subreaper
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WATCH_S = 0.2
PROCESSES_TOLD = 4
UNSHARE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]

_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A row that cannot be measured; the text says why."""


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# ---- the runner within the runner ----


def _unshare():
    """The command that makes namespaces here, or None."""
    for command in (UNSHARE, UNSHARE + ["--map-root-user"]):
        try:
            tried = subprocess.run(
                command + ["true"], capture_output=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if tried.returncode == 0:
            return command
    return None


def run_inside(argv, limit_s):
    """Runs argv again below us, for at most limit_s. Returns its exit status."""
    prefix = _unshare()
    env = dict(os.environ, **{INSIDE: "namespaces" if prefix else "subreaper"})
    child = subprocess.Popen((prefix or []) + argv, env=env, preexec_fn=_die_with_parent)
    ended_by = []

    def end(number, _frame):
        ended_by.append(number)
        child.send_signal(signal.SIGKILL if prefix else signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        end(signal.SIGTERM, None)
        print(f"peers: ended, not done within {limit_s:.0f} s", file=sys.stderr)
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    return 128 + ended_by[0] if ended_by else child.returncode


def prepare_inside():
    """To be called first by the runner below."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.environ[INSIDE] != "namespaces":
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner above ends us
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not ip or subprocess.run([ip, "link", "set", "lo", "up"], check=False).returncode != 0:
        sys.exit("peers: cannot bring up the loopback device of the network namespace")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- /proc ----


def _parents():
    """{pid: (parent, state)} of every process."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(name)] = (int(fields[1]), fields[0])
    return found


def _below(root, parents):
    """All pids below root, zombies too."""
    children = {}
    for pid, (parent, _state) in parents.items():
        children.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        for pid in children.get(todo.pop(), ()):
            found.append(pid)
            todo.append(pid)
    return found


def _resident_peak(pid):
    """(bytes, name): VmHWM; None where the process is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as f:
            status = dict(line.split(":", 1) for line in f if ":" in line)
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as f:
            command = f.read().split("\0")
    except OSError:
        return None
    if "VmHWM" not in status:
        return None
    words = [os.path.basename(w) for w in command if w and not w.startswith("-")]
    return int(status["VmHWM"].split()[0]) * 1024, " ".join(words[:2])[:60]


# ---- a row's processes ----


class Rig:
    """Use as a context. Logs and whatever a row writes go into `folder`, emptied first."""

    def __init__(self, folder, limit_s):
        self.folder = folder
        self.end_s = time.monotonic() + limit_s
        self.limit_s = limit_s
        self._started = []  # (side, Popen, log)
        self._side = {}  # pid: side
        self._peaks = {}  # side: {pid: (bytes, name)}
        self._together = {}  # side: bytes
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_main, daemon=True)

    def __enter__(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("home", "tmp", "out"):
            os.makedirs(os.path.join(self.folder, name))
        self._watch.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._watch.join()
        self._end_all()

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def env(self, venv, **more):
        """Nothing of ours but what is said: no proxies, no user's settings, no telemetry."""
        return {
            "PATH": f"{venv}/bin:/usr/bin:/bin",
            "HOME": self.path("home"),
            "TMPDIR": self.path("tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": self.path("home", "flwr"),
            **more,
        }

    def left_s(self):
        return max(0.0, self.end_s - time.monotonic())

    def start(self, side, argv, env, cwd=None):
        """`side` is what its memory counts for: server, client-N, or anything else."""
        log = self.path(f"{side}-{len(self._started)}.log")
        with open(log, "wb") as out:
            process = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd or self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        self._side[process.pid] = side
        self._started.append((side, process, log))
        return process

    def tail(self, process):
        """What a process said last, on one line."""
        log = next(log for _, p, log in self._started if p is process)
        with open(log, encoding="utf-8", errors="replace") as f:
            lines = [line.strip() for line in f.read()[-8000:].splitlines() if line.strip()]
        errors = [line for line in lines if "rror" in line]
        return (errors or lines or ["nothing said"])[-1][-200:]

    def wait(self, process, what):
        """Until it ends well. Anything else started that ends badly meanwhile ends the row."""
        while process.poll() is None:
            for side, other, _log in self._started:
                if other is not process and other.poll():
                    raise Failed(f"{side} ended with {other.returncode}: {self.tail(other)}")
            if not self.left_s():
                raise Failed(f"{what}: not done within {self.limit_s:.0f} s")
            time.sleep(0.1)
        if process.returncode != 0:
            raise Failed(f"{what} ended with {process.returncode}: {self.tail(process)}")

    def wait_until(self, condition, what):
        while not condition():
            for side, other, _log in self._started:
                if other.poll():
                    raise Failed(f"{side} ended with {other.returncode}: {self.tail(other)}")
            if not self.left_s():
                raise Failed(f"{what}: not within {self.limit_s:.0f} s")
            time.sleep(0.1)

    def wait_listening(self, process, port, what):
        def listening():
            if process.poll() is not None:
                raise Failed(f"{what} ended with {process.returncode}: {self.tail(process)}")
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0

        self.wait_until(listening, f"{what} to listen")

    def output(self, argv, env):
        """Standard output of a short helper."""
        try:
            done = subprocess.run(
                argv,
                env=env,
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=max(1, self.left_s()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{os.path.basename(argv[1])}: not done in time") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()
            raise Failed(f"{os.path.basename(argv[1])}: {said[-1][-200:]}")
        return done.stdout

    # VmHWM never falls, so the last look before a process ends is its peak, but for 0.2 s.

    def look(self):
        parents = _parents()
        for pid, side in list(self._side.items()):
            for below in _below(pid, parents):
                self._side.setdefault(below, side)
        now = {}
        for pid, side in list(self._side.items()):
            peak = _resident_peak(pid) if pid in parents else None
            if peak:
                self._peaks.setdefault(side, {})[pid] = peak
                now[side] = now.get(side, 0) + peak[0]
        for side, together in now.items():
            self._together[side] = max(self._together.get(side, 0), together)

    def _watch_main(self):
        while not self._stop.wait(WATCH_S):
            self.look()

    def memory(self):
        """{side: {bytes, processes: [{name, bytes}, ...]}}: the sum of VmHWM of the processes
        that lived at one time, at its largest, and the largest processes there were."""
        return {
            side: {
                "bytes": self._together[side],
                "processes": [
                    {"name": name, "bytes": peak}
                    for peak, name in sorted(peaks.values(), reverse=True)[:PROCESSES_TOLD]
                ],
            }
            for side, peaks in self._peaks.items()
        }

    def _end_all(self):
        """First asks, then ends; only what is below us, each by its id."""
        me = os.getpid()
        for number, patience_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
            end = time.monotonic() + patience_s
            asked = set()
            while True:
                parents = _parents()
                alive = [p for p in _below(me, parents) if parents[p][1] != "Z"]
                for pid in alive:
                    if pid not in asked or number == signal.SIGKILL:
                        asked.add(pid)
                        try:
                            os.kill(pid, number)
                        except ProcessLookupError:
                            pass
                self._reap(parents, me)
                if not alive or time.monotonic() > end:
                    break
                time.sleep(0.05)
        for _side, process, _log in self._started:
            process.poll()

    def _reap(self, parents, me):
        ours = {process.pid for _, process, _ in self._started}
        for pid, (parent, state) in parents.items():
            if parent == me and state == "Z" and pid not in ours:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    pass
