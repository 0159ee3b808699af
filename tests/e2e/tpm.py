# SPDX-License-Identifier: Apache-2.0
"""A TPM 2.0 in software (swtpm) for a node of a test."""
import os
import socket
import subprocess

from federation import clean_environment, wait_until


class Tpm:
    """One TPM with a state of its own in `folder`. It goes on when its node ends, as a chip does;
    `tcti` is what a node's configuration calls it."""

    def __init__(self, folder):
        os.makedirs(folder)
        for _ in range(20):
            self.port = self._pair()
            where = "type=tcp,bindaddr=127.0.0.1,port=%d"
            self.process = subprocess.Popen(
                ["swtpm", "socket", "--tpm2", "--tpmstate", "dir=" + folder, "--server",
                 where % self.port + ",disconnect", "--ctrl", where % (self.port + 1), "--flags",
                 "not-need-init,startup-clear"], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
            wait_until(lambda: self.process.poll() is not None or self._listens(), 20,
                       "swtpm listens")
            if self.process.poll() is None:
                break  # else another program took one of the ports
        else:
            raise AssertionError("swtpm does not start")
        self.tcti = "swtpm:host=127.0.0.1,port=%d" % self.port

    @staticmethod
    def _pair():
        """A port that is free, as is the next: the control channel's."""
        while True:
            with socket.socket() as one, socket.socket() as two:
                one.bind(("127.0.0.1", 0))
                port = one.getsockname()[1]
                try:
                    two.bind(("127.0.0.1", port + 1))
                    return port
                except OSError:
                    continue

    def _listens(self):
        """Both ports: looked up, since a connection would be taken for a client's."""
        wanted = {"%04X" % self.port, "%04X" % (self.port + 1)}
        with open("/proc/net/tcp", encoding="ascii") as table:
            for line in table:
                fields = line.split()
                if fields[3] == "0A":  # LISTEN
                    wanted.discard(fields[1].split(":")[1])
        return not wanted

    def close(self):
        self.process.kill()
        self.process.wait()
