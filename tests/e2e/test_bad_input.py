# SPDX-License-Identifier: Apache-2.0
"""What people get wrong, and what machines run out of: a clear sentence, and nothing lost."""
import os
import resource
import socket
import ssl
import subprocess
import unittest

from federation import Federation, clean_environment, program
from onnx_file import write_mlp

SPOKE = ("name: north-1\ndata_dir: n\nparent:\n  address: 127.0.0.1:1\n  name: top\n"
         "data:\n  csv: t.csv\n  schema: s.yaml\n")


class Configuration(unittest.TestCase):
    def refuse(self, text, *patterns, name="consilium-spoke"):
        with Federation(tls=False) as f:
            path = os.path.join(f.dir, "bad.yaml")
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
            done = subprocess.run([program(name), "--config", path], capture_output=True,
                                  text=True, timeout=20, env=clean_environment(), check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            for pattern in patterns:
                self.assertRegex(done.stderr, pattern)
            self.assertNotIn("AddressSanitizer", done.stderr)
            self.assertEqual(sorted(os.listdir(f.dir)), ["bad.yaml"], "nothing is made on the way")

    def test_a_file_that_is_no_yaml_is_refused_with_its_line(self):
        self.refuse("name: north-1\nparent: {address: [\n", r"bad\.yaml:[23]:")

    def test_a_tab_is_refused_with_its_line(self):
        self.refuse(SPOKE + "policy:\n\taccept: all\n", r"bad\.yaml:10:")

    def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_one(self):
        self.refuse(SPOKE + "keepalive_sm: 3000\n", r"bad\.yaml:9: .*keepalive_sm.*keepalive_ms")

    def test_every_problem_is_told_at_once(self):
        self.refuse(SPOKE.replace("127.0.0.1:1", "nowhere") + "threads: many\n",
                    r"bad\.yaml:4: .*parent\.address", r"bad\.yaml:9: .*threads.*many")

    def test_a_key_of_the_other_program_is_refused(self):
        self.refuse("name: top\ndata_dir: d\nlisten: 127.0.0.1:0\npolicy:\n  accept: all\n",
                    r"bad\.yaml:[45]: .*policy", name="consilium-hub")

    def test_a_plan_is_refused_with_every_line_before_it_travels(self):
        with Federation(tls=False) as f:
            f.top()
            path = f.plan(rounds=0, locl={"steps": 1})
            done = f.cli("run", "start", path, *f.at_top(), check=False)
            self.assertEqual(done.returncode, 1)
            for key in ("rounds", "locl"):
                self.assertRegex(done.stderr, r"plan-1\.yaml:\d+: .*" + key)
            self.assertEqual(f.root.audit("run.begun"), [])


class Data(unittest.TestCase):
    """A table with a mistake: its hospital declines, and says where; the cell's content stays."""

    def decline(self, change, *patterns, secret=None):
        with Federation() as f:
            top = f.top()
            hub = f.hub("hub-a", top)
            path = os.path.join(f.dir, "bad.csv")
            with open(f.table("north-1"), encoding="utf-8") as table:
                lines = table.read().splitlines()
            change(lines)
            with open(path, "w", encoding="utf-8") as out:
                out.write("\n".join(lines) + "\n")
            bad = f.spoke("north-1", hub, csv=path)
            good = f.spoke("north-2", hub)
            for name in ("north-1", "north-2"):
                hub.wait_log("child %s attends" % name)
            end = f.run(f.plan(rounds=2)).finish()
            declined = hub.audit("run.declined")
            self.assertEqual([e["data"]["child"] for e in declined], ["north-1"])
            for text in (declined[0]["data"]["reason"], bad.log(), hub.log()):
                for pattern in patterns:
                    self.assertRegex(text, pattern)
            if secret:
                for node in f.nodes:
                    self.assertNotIn(secret, node.log())
                    self.assertNotIn(secret, str(node.audit()))
            counted = {e["data"]["child"] for e in hub.audit("update.counted")}
            self.assertEqual(counted, {"north-2"})
            self.assertTrue(bad.running() and good.running())
            return end

    @staticmethod
    def set_cell(line, column, value):
        def change(lines):
            cells = lines[line - 1].split(",")
            cells[column] = value
            lines[line - 1] = ",".join(cells)
        return change

    def test_nan_is_refused_by_line_and_column(self):
        self.decline(self.set_cell(5, 3, "NaN"), r"bad\.csv:5: .*perimeter_mean")

    def test_text_in_a_number_is_refused_without_showing_it(self):
        self.decline(self.set_cell(7, 1, "91Q7ZK"), r"bad\.csv:7: .*radius_mean", secret="91Q7ZK")

    def test_a_number_out_of_range_is_refused_without_showing_it(self):
        self.decline(self.set_cell(4, 2, "-8675.309"), r"bad\.csv:4: .*texture_mean",
                     secret="8675.309")

    def test_a_wrong_column_is_refused(self):
        def rename(lines):
            lines[0] = lines[0].replace("area_mean", "postcode")
        self.decline(rename, r"bad\.csv:1: column 'area_mean': the header does not have it",
                     secret="postcode")

    def test_a_row_that_is_cut_short_is_refused(self):
        def cut(lines):
            lines[8] = lines[8].rsplit(",", 3)[0]
        self.decline(cut, r"bad\.csv:9: 29 cells .* 32 columns")


class FullDisk(unittest.TestCase):
    """The disk of the top fills while children push: a clear error, and after space was made the
    same round completes with the same model."""

    ROUNDS = 2

    def start(self, f):
        model = os.path.join(f.dir, "model.onnx")
        parameters = write_mlp(model, [30, 1024, 1024, 1])
        return parameters * 4, f.plan(rounds=self.ROUNDS, model=model, evaluate={"every": 0},
                                      local={"steps": 1, "optimiser": {"lr": 0.01}})

    def undisturbed(self):
        with Federation() as f:
            f.tree({"north-1": None, "south-1": None})
            return f.run(self.start(f)[1]).finish().model

    def finish(self, f, run, reference):
        """After space was made. A hub that could not even write its journal has stopped."""
        if not f.root.running():
            self.assertEqual(f.root.process.returncode, 1)
            f.root.start()
        self.assertEqual(run.finish().model, reference)
        counted = [(e["data"]["round"], e["data"]["child"]) for e in f.root.audit("update.counted")]
        self.assertEqual(sorted(counted), [(r, c) for r in range(1, self.ROUNDS + 1)
                                           for c in ("north-1", "south-1")])
        f.cli("audit", "verify", f.root.dir)

    def test_a_limit_on_the_size_of_files(self):
        reference = self.undisturbed()
        with Federation() as f:
            top = f.top(children_min=2, start=False)
            top.may_end = True
            top.file_limit = 64 << 20
            top.start()
            f.spoke("north-1", top)
            f.spoke("south-1", top)
            size, plan = self.start(f)
            # Room for the graph and the models; an update is larger by its header of 4 KiB.
            resource.prlimit(top.process.pid, resource.RLIMIT_FSIZE,
                             (size + 2048, resource.RLIM_INFINITY))
            mark = top.mark()
            run = f.run(plan)
            top.wait_log(r"File too large", mark)
            self.assertEqual(top.audit("round.committed"), [])
            top.file_limit = None
            if top.running():
                resource.prlimit(top.process.pid, resource.RLIMIT_FSIZE,
                                 (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            self.finish(f, run, reference)

    def test_a_full_file_system(self):
        reference = self.undisturbed()
        with Federation() as f:
            top = f.top(children_min=2, start=False, enroll=False)
            top.may_end = True
            size, plan = self.start(f)
            if not f.tmpfs(top, 16 * size):
                self.skipTest("this machine does not let us mount a tmpfs")
            f.enroll("top", "top", top.dir)
            top.start()
            f.spoke("north-1", top)
            f.spoke("south-1", top)
            ballast = os.path.join(top.dir, "ballast")
            # Graph and first model fit, and one update and a half.
            with open(ballast, "wb") as out:
                os.posix_fallocate(out.fileno(), 0, 16 * size - 7 * size // 2 - (2 << 20))
            mark = top.mark()
            run = f.run(plan)
            top.wait_log(r"No space left on device", mark)
            self.assertEqual(top.audit("round.committed"), [])
            os.unlink(ballast)
            self.finish(f, run, reference)


class Certificates(unittest.TestCase):
    """Expired and foreign ones: refused, and both sides say why."""

    REFUSED = "warn top a connection was refused: the certificate .* is not of this node's " \
              "authority, or has expired"

    def start_refused(self, node, *patterns):
        node.may_end = True
        node.spawn()
        self.assertEqual(node.process.wait(20), 1)
        for pattern in patterns:
            self.assertRegex(node.log(), pattern)

    def expire(self, f, node):
        """Issues the node's certificate again, by the same authority, as of last year."""
        identity = os.path.join(node.dir, "identity")
        cert, work = os.path.join(identity, "cert.pem"), os.path.join(f.dir, "openssl")
        os.mkdir(work)
        with open(os.path.join(work, "ca.cnf"), "w", encoding="utf-8") as out:
            out.write("[ca]\ndefault_ca = d\n[d]\ndatabase = index\nserial = serial\n"
                      "new_certs_dir = .\ndefault_md = sha256\npolicy = p\n"
                      "[p]\ncommonName = supplied\n[e]\n"
                      "basicConstraints = critical, CA:FALSE\n"
                      "keyUsage = critical, digitalSignature\n"
                      "extendedKeyUsage = serverAuth, clientAuth\n"
                      "subjectAltName = URI:spiffe://test-authority/%s/%s, DNS:%s\n"
                      % (node.role, node.name, node.name))
        with open(os.path.join(work, "index"), "w", encoding="utf-8"):
            pass
        for command in (
                ["req", "-new", "-key", os.path.join(identity, "key.pem"), "-subj",
                 "/CN=" + node.name, "-out", "csr"],
                ["ca", "-batch", "-config", "ca.cnf", "-create_serial", "-notext", "-extensions",
                 "e", "-keyfile", os.path.join(f.authority, "ca.key"), "-cert",
                 os.path.join(f.authority, "ca.pem"), "-startdate", "20250101000000Z", "-enddate",
                 "20250201000000Z", "-in", "csr", "-out", cert]):
            done = subprocess.run(["openssl", *command], cwd=work, capture_output=True, text=True,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    def knock(self, hub, identity, ca):
        """A client that does not look at its own certificate; the error it ends with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca)
        context.load_cert_chain(os.path.join(identity, "cert.pem"),
                                os.path.join(identity, "key.pem"))
        context.set_alpn_protocols(["h2"])
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as raw:
            with self.assertRaises((ssl.SSLError, ConnectionError)) as caught:
                with context.wrap_socket(raw, server_hostname=hub.name) as tls:
                    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
                    while True:  # in TLS 1.3 a refusal comes with the first bytes
                        if not tls.recv(4096):
                            raise ConnectionResetError("closed")
            return str(caught.exception)

    def test_an_expired_certificate(self):
        with Federation() as f:
            top = f.top()
            spoke = f.spoke("north-1", top, start=False)
            self.expire(f, spoke)
            self.start_refused(spoke, r"cannot start: .*expired.*2025-02-01")
            mark = top.mark()
            self.knock(top, os.path.join(spoke.dir, "identity"),
                       os.path.join(f.authority, "ca.pem"))
            top.wait_log(self.REFUSED, mark)
            self.assertEqual(top.audit("child.attends"), [])

    def test_the_certificate_of_another_authority(self):
        with Federation() as f:
            top = f.top()
            foreign = os.path.join(f.dir, "foreign")
            f.cli("pki", "init", "--dir", foreign, "--name", "test-authority")
            spoke = f.spoke("north-1", top, start=False, enroll=False)
            f.cli("enroll", "--local", "--authority-dir", foreign, "--name", "north-1", "--role",
                  "spoke", "--data-dir", spoke.dir)
            # Trusting its own authority only, it hangs up on the hub before it has shown anything.
            spoke.spawn()
            spoke.wait_log(self.REFUSED.replace("top", "north-1"))
            spoke.wait_log(r"no stream to parent top: \S")
            # One that trusts the hub's authority: here the hub refuses.
            mark = top.mark()
            self.knock(top, os.path.join(spoke.dir, "identity"),
                       os.path.join(f.authority, "ca.pem"))
            top.wait_log(self.REFUSED, mark)
            self.assertTrue(spoke.running())
            self.assertEqual(top.audit("child.attends"), [])

    def test_a_certificate_for_another_name(self):
        with Federation() as f:
            top = f.top()
            spoke = f.spoke("north-1", top, start=False, enroll=False)
            f.enroll("north-2", "spoke", spoke.dir)
            self.start_refused(spoke, r"cannot start: .*'north-1'.*'north-2'")
            f.nodes.remove(spoke)

    def test_a_parent_with_another_name(self):
        with Federation() as f:
            top = f.top()
            spoke = f.spoke("north-1", top, start=False)
            spoke.keys["parent"]["name"] = "other"
            spoke.spawn()
            spoke.wait_log(r"no stream to parent other")
            self.assertTrue(spoke.running())
            self.assertEqual(top.audit("child.attends"), [])


if __name__ == "__main__":
    unittest.main()
