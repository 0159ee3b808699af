# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom, for how long and about what: TLS versions, renewal, revocation, roles, what
takes two operators, keys on disk."""
import hashlib
import os
import socket
import ssl
import subprocess
import unittest

import edge
import grpc
from federation import Federation, clean_environment, program


def context(kind, folder, authority, versions):
    """A plain TLS end with that node's certificate."""
    made = ssl.SSLContext(kind)
    made.check_hostname = False
    made.load_verify_locations(os.path.join(authority, "ca.pem"))
    made.load_cert_chain(os.path.join(folder, "identity", "cert.pem"),
                         os.path.join(folder, "identity", "key.pem"))
    made.set_alpn_protocols(["h2"])
    made.minimum_version, made.maximum_version = versions
    return made


V12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
ANY = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class TestTlsVersion(unittest.TestCase):
    def test_a_hub_speaks_tls_1_3_and_refuses_1_2(self):
        with Federation() as f:
            top = f.top(console_listen="127.0.0.1:0", enroll_listen="127.0.0.1:0",
                        authority_dir=f.authority)
            ports = [top.port] + [int(top.wait_log(p).group(1)) for p in
                                  (r"enrollment on port (\d+)", r"console on port (\d+)")]
            for port in ports:
                end = context(ssl.PROTOCOL_TLS_CLIENT, f.operator, f.authority, ANY)
                with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                    with end.wrap_socket(raw, server_hostname=top.name) as tls:
                        self.assertEqual(tls.version(), "TLSv1.3")
                mark = top.mark()
                end = context(ssl.PROTOCOL_TLS_CLIENT, f.operator, f.authority, V12)
                with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                    with self.assertRaises((ssl.SSLError, ConnectionError)):
                        end.wrap_socket(raw, server_hostname=top.name)
                top.wait_log("does not speak TLS 1.3", mark)

    def test_a_node_does_not_call_a_parent_that_speaks_only_tls_1_2(self):
        with Federation() as f:
            parent = os.path.join(f.dir, "parent")
            f.enroll("parent", "top", parent)
            for versions, heard in ((V12, None), (ANY, "TLSv1.3")):
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    listener.settimeout(30)
                    spoke = f.spoke("north-1", type("P", (), {
                        "port": listener.getsockname()[1], "name": "parent"}),
                        enroll=heard is None)
                    raw, _ = listener.accept()
                    end = context(ssl.PROTOCOL_TLS_SERVER, parent, f.authority, versions)
                    with raw:
                        if heard is None:
                            with self.assertRaises((ssl.SSLError, ConnectionError)):
                                end.wrap_socket(raw, server_side=True)
                        else:
                            with end.wrap_socket(raw, server_side=True) as tls:
                                self.assertEqual(tls.version(), heard)
                    spoke.kill()


class TestSwappedCertificates(unittest.TestCase):
    def test_a_node_does_not_attend_who_shows_the_certificate_of_another_node(self):
        with Federation() as f:
            shown = {}
            for name, role in (("parent", "top"), ("other", "hub")):
                shown[name] = os.path.join(f.dir, "shows-" + name)
                f.enroll(name, role, shown[name])
            for name in ("other", "parent"):
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    listener.settimeout(30)
                    spoke = f.spoke("north-1", type("P", (), {
                        "port": listener.getsockname()[1], "name": "parent"}),
                        enroll=name == "other")
                    raw, _ = listener.accept()
                    end = context(ssl.PROTOCOL_TLS_SERVER, shown[name], f.authority, ANY)
                    end.verify_mode = ssl.CERT_REQUIRED
                    heard = b""
                    with raw:
                        try:
                            with end.wrap_socket(raw, server_side=True) as tls:
                                heard = tls.recv(24)
                        except (ssl.SSLError, ConnectionError):
                            pass
                    # Only to its parent does it say anything: HTTP/2's first words.
                    self.assertEqual(heard.startswith(b"PRI * HTTP/2"), name == "parent", name)
                    spoke.kill()


def certify(f, ttl_s):
    """From now on the authority's certificates are good for so many seconds."""
    f.cli("pki", "set", "--dir", f.authority, "--cert-ttl", str(ttl_s))


def with_authority(f, **more):
    return f.top_with_authority(**more)


class TestRenewal(unittest.TestCase):
    TTL_S = 24  # due after 16 to 18 seconds

    def test_every_tier_renews_through_its_parent_and_no_round_is_lost(self):
        with Federation() as f:
            certify(f, self.TTL_S)
            top = with_authority(f)
            hub = f.hub("north", top)
            spoke = f.spoke("north-1", hub)
            nodes = (top, hub, spoke)
            before = {n.name: n.cert() for n in nodes}
            run = f.run(f.plan(rounds=100000, local={"steps": 1}))
            for node in nodes:
                f.wait(lambda n=node: len(n.audit("certificate.renewed")) >= 2, 4 * self.TTL_S,
                       "%s has renewed its certificate twice" % node.name)
                self.assertNotEqual(node.cert(), before[node.name])
            # Beyond the life of every certificate that was there when the run began, it goes on.
            opened = len(hub.audit("round.opened"))
            run.wait_round(hub.audit("round.opened")[-1]["data"]["round"] + 2, hub)
            self.assertGreater(len(hub.audit("round.opened")), opened)
            for event in ("round.declined", "update.refused", "run.ended"):
                self.assertEqual(top.audit(event) + hub.audit(event), [], event)
            self.assertEqual(spoke.audit("refused"), [])
            closed = [e["data"]["round"] for e in hub.audit("round.opened")]
            self.assertEqual(closed, sorted(set(closed)), "a round was opened twice")
            # A node that starts now shows the new one.
            spoke.kill()
            spoke.start()
            f.wait(lambda: spoke.audit("parent.attended"), 20, "the spoke attends again")

    def test_a_person_renews_by_a_command_but_not_before_the_second_half(self):
        with Federation() as f:
            top = with_authority(f)
            early = f.cli("renew", *f.at_top(), check=False)
            self.assertEqual(early.returncode, 1)
            self.assertIn("second half", early.stderr)
            certify(f, 20)
            anna = os.path.join(f.dir, "anna")
            f.enroll("anna", "auditor", anna)
            path = os.path.join(anna, "identity", "cert.pem")
            with open(path, encoding="ascii") as file:
                first = file.read()
            where = ["--hub", "127.0.0.1:%d" % top.port, "--hub-name", top.name, "--identity", anna]
            f.wait(lambda: f.cli("renew", *where, check=False).returncode == 0, 20, "it is renewed")
            with open(path, encoding="ascii") as file:
                self.assertNotEqual(file.read(), first)

    def test_without_an_authority_beside_the_top_a_node_says_why_it_cannot_renew(self):
        with Federation() as f:
            certify(f, 15)
            top = f.top()
            spoke = f.spoke("north-1", top)
            spoke.wait_log(r"could not be renewed.*no authority beside the top", timeout_s=40)
            top.wait_log(r"could not be renewed.*authority_dir", timeout_s=40)
            # And when it has run out, its stream is not kept: a certificate ends when it says.
            f.wait(lambda: top.audit("child.left"), 40, "the top has let the spoke go")


class TestRevocation(unittest.TestCase):
    CUT_S = 5

    def cut(self, f, name, parent):
        """Revokes; returns when the parent has ended its stream, which must be soon."""
        f.cli("revoke", "--dir", f.authority, "--name", name)
        f.wait(lambda: any(e["data"]["child"] == name for e in parent.audit("child.left")),
               self.CUT_S, "%s is cut off at %s" % (name, parent.name))

    def test_a_spoke_below_a_regional_hub_is_cut_off_within_seconds_and_stays_out(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top, children_min=2)
            gone, stays = f.spoke("north-1", hub), f.spoke("north-2", hub)
            f.run(f.plan(rounds=100000, local={"steps": 1}))
            f.wait(lambda: len(hub.audit("round.opened")) > 2, 60, "rounds go on")
            mark = gone.mark()
            self.cut(f, "north-1", hub)
            gone.wait_log(r"no stream to parent north: .*certificate of 'north-1' was revoked", mark)
            numbers = [node.audit("revocations.taken")[-1]["data"]["number"]
                       for node in (top, hub)]
            self.assertEqual(numbers[0], numbers[1])
            f.wait(lambda: [e["data"]["number"] for e in stays.audit("revocations.taken")]
                   [-1:] == numbers[:1], self.CUT_S, "the other spoke knows the list too")
            attended = len([e for e in hub.audit("child.attends")
                            if e["data"]["child"] == "north-1"])
            # The hub keeps the list: it knows it at its next start, before its parent has said it.
            mark = hub.mark()
            top.freeze()
            hub.kill()
            hub.start()
            hub.wait_log(r"refused: the certificate of 'north-1' was revoked", mark, 40)
            f.wait(lambda: len([e for e in hub.audit("child.attends")
                                if e["data"]["child"] == "north-2"]) > 1, 40, "the other is back")
            top.thaw()
            self.assertEqual(attended, len([e for e in hub.audit("child.attends")
                                            if e["data"]["child"] == "north-1"]))
            self.assertTrue(gone.running())

    def test_a_hub_and_a_person_are_cut_off_too(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            spoke = f.spoke("north-1", hub)
            f.wait(lambda: spoke.audit("parent.attended"), 20, "the spoke attends")
            self.assertEqual(f.cli("node", "list", *f.at_top()).returncode, 0)
            self.cut(f, "north", top)
            # In the middle of a stream: somebody watches a run that does not end.
            run = f.run(f.plan(rounds=100000))
            watcher = subprocess.Popen(
                [program("consilium"), "run", "watch", "--json", run.id, *f.at_top()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=clean_environment())
            try:
                self.assertTrue(watcher.stdout.readline())
                mark = top.mark()
                f.cli("revoke", "--dir", f.authority, "--name", "operator")
                top.wait_log(r"is ended: the certificate of 'operator' was revoked", mark,
                             self.CUT_S)
            finally:
                watcher.kill()
                watcher.communicate()
            f.wait(lambda: "was revoked" in f.cli("node", "list", *f.at_top(), check=False).stderr,
                   self.CUT_S, "the operator is refused")
            # Its name may be given to a new key, which is not on the list.
            f.cli("enroll", "--local", "--authority-dir", f.authority, "--name", "operator",
                  "--role", "operator", "--data-dir", f.operator)
            self.assertEqual(f.cli("node", "list", *f.at_top()).returncode, 0)


class TestRevokedSigners(unittest.TestCase):
    def sign(self, f, name, **changes):
        folder = os.path.join(f.dir, "person-" + name)
        f.enroll(name, "researcher", folder)
        plan = f.plan(**changes)
        f.cli("plan", "sign", plan, "--identity", folder)
        return plan

    def ended(self, node, run):
        return [e["data"] for e in node.audit("run.ended") if e["data"]["run"] == run]

    def test_a_run_ends_within_seconds_when_who_signed_it_is_revoked_and_no_other_does(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            spoke = f.spoke("north-1", hub)
            gone = f.run(self.sign(f, "rita", rounds=100000, local={"steps": 1}))
            stays = f.run(self.sign(f, "saul", rounds=100000, local={"steps": 1}))
            for run in (gone, stays):
                run.wait_round(2, hub)
            f.cli("revoke", "--dir", f.authority, "--name", "rita")
            for node in (top, hub, spoke):
                f.wait(lambda n=node: self.ended(n, gone.id), 5,
                       "the run has ended at %s" % node.name)
            self.assertEqual(self.ended(top, gone.id)[0]["state"], "stopped")
            self.assertIn("rita, who signed the plan, was revoked",
                          self.ended(top, gone.id)[0]["reason"])
            stays.wait_round(hub.audit("round.opened")[-1]["data"]["round"] + 1, hub)
            self.assertEqual(self.ended(top, stays.id), [])
            # Nor does it begin again.
            top.kill()
            top.start()
            plan = f.plan(rounds=1)
            f.cli("plan", "sign", plan, "--identity", os.path.join(f.dir, "person-rita"))
            again = f.cli("run", "start", plan, *f.at_top(), check=False)
            self.assertEqual(again.returncode, 1)
            self.assertIn("revoked", again.stderr)

    def test_who_was_revoked_while_the_top_was_down_is_found_when_it_is_back(self):
        with Federation() as f:
            top = with_authority(f)
            f.spoke("north-1", top)
            run = f.run(self.sign(f, "rita", rounds=100000, local={"steps": 1}))
            run.wait_round(2, top)
            top.kill()
            f.cli("revoke", "--dir", f.authority, "--name", "rita")
            top.start()
            f.wait(lambda: self.ended(top, run.id), 10, "the run has ended")


def at(node, identity):
    return ["--hub", "127.0.0.1:%d" % node.port, "--hub-name", node.name, "--identity", identity]


class TestRoles(unittest.TestCase):
    ROLES = ("operator", "regional-operator", "steward", "researcher", "auditor")

    def people(self, f, *names_and_roles):
        made = {}
        for name, role in names_and_roles:
            made[name] = os.path.join(f.dir, "person-" + name)
            f.enroll(name, role, made[name])
        return made

    def test_every_call_takes_its_roles_and_a_refusal_says_which(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            f.spoke("north-1", hub)
            run = f.run(f.plan(rounds=2))
            run.finish()
            model = os.path.join(f.dir, "model")
            calls = {  # what is typed, and who may
                ("run", "start", f.plan(rounds=1)): "operator",
                ("run", "stop", run.id): "operator",
                ("run", "list"): " ".join(self.ROLES),
                ("run", "watch", "--json"): " ".join(self.ROLES),
                ("node", "list"): "operator regional-operator auditor",
                ("model", "pull", "--graph", "--out", model): "operator researcher auditor",
                ("model", "release", "0" * 64): "operator",
            }
            folders = self.people(f, *[(role + "-1", role) for role in self.ROLES])
            for node in (top, hub):
                for call, may in calls.items():
                    for role in self.ROLES:
                        mark = len(node.audit("console.refused"))
                        done = f.cli(*call, *at(node, folders[role + "-1"]), check=False)
                        refused = "is enrolled as a " + role in done.stderr
                        what = "%s by %s at %s: %s" % (call, role, node.name, done.stderr)
                        self.assertEqual(refused, role not in may.split(), what)
                        if refused:
                            self.assertEqual(done.returncode, 1, what)
                            for wanted in may.split():
                                self.assertIn(wanted, done.stderr)
                            self.assertEqual(node.audit("console.refused")[mark]["data"]["caller"],
                                             role + "-1")

    def test_participants_are_named_to_those_who_run_or_audit_them(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            f.spoke("north-1", hub)
            f.run(f.plan(rounds=1)).finish()
            folders = self.people(f, *[(role + "-1", role) for role in self.ROLES])
            for node, child in ((top, '"north"'), (hub, '"north-1"')):
                for role in self.ROLES:
                    told = f.cli("run", "watch", "--json", *at(node, folders[role + "-1"])).stdout
                    sees = role in ("operator", "auditor") or (
                        role == "regional-operator" and node is hub)
                    self.assertEqual(child in told, sees, "%s at %s" % (role, node.name))

    def test_a_model_is_a_researchers_when_two_operators_have_released_it(self):
        with Federation() as f:
            top = with_authority(f)
            f.spoke("north-1", top)
            model = f.run(f.plan(rounds=1)).finish().model
            out = os.path.join(f.dir, "model")
            who = self.people(f, ("anna", "operator"), ("bert", "operator"),
                              ("carl", "researcher"))
            pull = ["model", "pull", "--out", out, *at(top, who["carl"])]
            release = ["model", "release", model]

            def refused(words, *call):
                done = f.cli(*call, check=False)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn(words, done.stderr)

            refused("is not released", *pull)
            refused("no run here has published", "model", "release", "0" * 64,
                    *at(top, who["anna"]))
            refused("is nobody's", *release, *at(top, top.dir))  # the hub's own certificate
            self.assertIn("a second operator", f.cli(*release, *at(top, who["anna"])).stdout)
            refused("has approved this already", *release, *at(top, who["anna"]))
            refused("is not released", *pull)
            top.kill()  # the first approval is kept
            top.start()
            self.assertIn("done: approved by anna and bert",
                          f.cli(*release, *at(top, who["bert"])).stdout)
            refused("done already", *release, *at(top, who["anna"]))
            self.assertEqual(f.cli(*pull).stdout.strip(), model)
            done = top.audit("approval.done")[-1]["data"]
            self.assertEqual((done["by"], done["second"]), ("anna", "bert"))

    def test_two_operators_revoke_from_afar_and_one_does_not(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            who = self.people(f, ("anna", "operator"), ("bert", "operator"))
            f.wait(lambda: top.audit("child.attends"), 20, "the hub attends")
            revoke = ["revoke", "--name", "north"]
            refused = f.cli(*revoke, *at(hub, who["anna"]), check=False)
            self.assertIn("no authority beside it", refused.stderr)
            f.cli(*revoke, *at(top, who["anna"]))
            self.assertEqual(top.audit("approval.first")[-1]["data"]["by"], "anna")
            number = top.audit("revocations.taken")[-1]["data"]["number"]
            again = f.cli(*revoke, *at(top, who["anna"]), check=False)
            self.assertIn("second operator", again.stderr)
            self.assertEqual(top.audit("revocations.taken")[-1]["data"]["number"], number)
            f.cli(*revoke, *at(top, who["bert"]))
            f.wait(lambda: any(e["data"]["child"] == "north" for e in top.audit("child.left")),
                   5, "the hub is cut off")


class TestPseudonyms(unittest.TestCase):
    """Asked as a spoke asks, by a client of our own: what is called what is the authority's alone
    to say, and comes by way of the parents."""

    def key(self, f, name):
        path = os.path.join(f.dir, name + ".key")
        edge.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out",
                     path)
        return path

    def ask(self, spoke, node, run, key, parent=None):
        """The certificate, or what the refusal says."""
        pb, folder = edge.wire(), os.path.join(spoke.dir, "identity")
        public = edge.openssl("pkey", "-in", key, "-pubout", "-outform", "DER").stdout
        name = "p-" + hashlib.sha256(public).hexdigest()[:40]
        csr = edge.openssl("req", "-new", "-utf8", "-key", key, "-subj",
                           "/OU=spoke/CN=" + name).stdout.decode()
        text = "consilium pseudonym 1\nrun %s\nparent %s\n%s" % (run, parent or node.name, csr)
        signature = edge.openssl("dgst", "-sha256", "-sign", os.path.join(folder, "key.pem"),
                                 stdin=text.encode()).stdout
        who = edge.Identity(folder)
        with grpc.secure_channel(
                "127.0.0.1:%d" % node.port,
                grpc.ssl_channel_credentials(who.ca, who.key, who.cert),
                [("grpc.ssl_target_name_override", node.name)]) as channel:
            call = channel.unary_unary("/consilium.Enrollment/Pseudonym",
                                       request_serializer=edge.as_bytes,
                                       response_deserializer=pb.EnrollReply.FromString)
            try:
                return name, call(pb.PseudonymRequest(
                    cert_pem=who.cert.decode(), csr_pem=csr, run=bytes.fromhex(run),
                    parent=parent or node.name, signature=signature), timeout=20).cert_pem
            except grpc.RpcError as e:
                return name, e.details()

    def test_a_spoke_gets_one_for_a_run_through_its_parent_and_nobody_a_second(self):
        with Federation() as f:
            top = with_authority(f)
            hub = f.hub("north", top)
            spoke = f.spoke("north-1", hub)
            run = f.run(f.plan(rounds=100000)).id
            f.wait(lambda: hub.audit("round.opened"), 30, "the run is open in the region")
            name, cert = self.ask(spoke, hub, run, self.key(f, "one"))
            self.assertIn("BEGIN CERTIFICATE", cert)
            said = edge.openssl("x509", "-noout", "-text", stdin=cert.encode()).stdout.decode()
            self.assertIn("pseudonym/%s/north/%s" % (name, run), said)
            self.assertNotIn("north-1", said)
            # The log of nobody on the way says whose it is, or what it is called.
            for node in (top, hub):
                with open(os.path.join(node.dir, "audit", "audit.log"), encoding="utf-8") as log:
                    self.assertNotIn(name, log.read())
            self.assertEqual(top.audit("pseudonym.given")[0]["data"],
                             {"run": run, "parent": "north"})
            self.assertEqual(self.ask(spoke, hub, run, os.path.join(f.dir, "one.key")),
                             (name, cert))
            self.assertIn("no second one", self.ask(spoke, hub, run, self.key(f, "two"))[1])
            self.assertIn("not open here",
                          self.ask(spoke, hub, "ab" * 32, self.key(f, "three"))[1])
            unseal = ["pki", "unseal", name, "--dir", f.authority]
            self.assertEqual(f.cli(*unseal, check=False).returncode, 2)
            self.assertEqual(f.cli(*unseal, "--reason", "order 7").stdout.strip(), "north-1")
            # It is no node's certificate: with it nobody attends and nothing is asked.
            with open(os.path.join(f.dir, "pseudonym.pem"), "w", encoding="ascii") as file:
                file.write(cert)
            mark = hub.mark()
            with grpc.secure_channel(
                    "127.0.0.1:%d" % hub.port, grpc.ssl_channel_credentials(
                        edge.read_file(f.authority, "ca.pem"),
                        edge.read_file(f.dir, "one.key"), cert.encode()),
                    [("grpc.ssl_target_name_override", "north")]) as channel:
                with self.assertRaises(grpc.RpcError):
                    channel.unary_unary("/consilium.console.Console/ListRuns")(b"", timeout=10)
            # Who is revoked gets none, and what it had is on the list.
            count = lambda: (hub.audit("revocations.taken") or [{"data": {"count": 0}}])[-1][
                "data"]["count"]
            before = count()
            f.cli("revoke", "--dir", f.authority, "--name", "north-1")
            f.wait(lambda: count() == before + 2, 10, "the list has both")
            self.assertNotIn("BEGIN", self.ask(spoke, hub, run, self.key(f, "four"))[1])


class TestKeysAtRest(unittest.TestCase):
    def test_a_key_is_encrypted_and_its_node_starts_with_the_passphrase_alone(self):
        with Federation() as f:
            top = with_authority(f)
            spoke = f.spoke("north-1", top, start=False)
            key = os.path.join(spoke.dir, "identity", "key.pem")
            secret = os.path.join(f.dir, "secret")
            with open(secret, "w", encoding="ascii") as file:
                file.write("correct horse battery\n")
            os.chmod(secret, 0o600)
            with open(key, encoding="ascii") as file:
                self.assertIn("BEGIN PRIVATE KEY", file.read())
            f.cli("key", "protect", "--data-dir", spoke.dir, "--passphrase-file", secret)
            with open(key, encoding="ascii") as file:
                self.assertIn("BEGIN ENCRYPTED PRIVATE KEY", file.read())
            self.assertEqual(os.stat(key).st_mode & 0o777, 0o600)

            def start_refused(words):
                mark = spoke.mark()
                spoke.may_end = True
                spoke.spawn()
                spoke.wait_log(words, mark)
                self.assertEqual(spoke.process.wait(20), 1)

            start_refused("cannot start: .*is encrypted, and no passphrase is given.*"
                          "key_passphrase_file")
            spoke.keys["key_passphrase_file"] = secret
            os.chmod(secret, 0o640)
            start_refused("cannot start: .*passphrase.*others may read")
            os.chmod(secret, 0o600)
            spoke.may_end = False
            spoke.start()
            f.wait(lambda: spoke.audit("parent.attended"), 20, "the spoke attends")

    def test_updates_models_and_private_tensors_are_encrypted_on_disk_and_survive_kills(self):
        models = {}
        for encrypt in (False, True):
            with Federation() as f:
                secret = os.path.join(f.dir, "secret")
                with open(secret, "w", encoding="ascii") as file:
                    file.write("correct horse battery\n")
                os.chmod(secret, 0o600)
                keys = {"storage": {"encrypt": str(encrypt).lower()},
                        "key_passphrase_file": secret}
                keeps = dict(keys, retention={"updates_days": 30, "models_days": 30})
                top = with_authority(f, **keeps)
                hub = f.hub("north", top, children_min=2, **keeps)
                spokes = [f.spoke("north-%d" % i, hub, **keys) for i in (1, 2)]
                run = f.run(f.plan(rounds=6, codec={"name": "top_k", "share": 0.2}))
                for number, node in ((2, hub), (3, spokes[0]), (4, top)):
                    run.wait_round(number, hub)
                    node.kill()
                    node.start()
                models[encrypt] = run.finish().model
                for node in [top, hub] + spokes:
                    node.stop()
                self.look(f, [top, hub] + spokes, encrypt)
                if encrypt:
                    self.off_line(f, top, hub, run.id, secret)
                    self.moved(f, spokes[0])
        self.assertEqual(models[False], models[True])

    def look(self, f, nodes, encrypt):
        """Which files begin as ours do when they are encrypted."""
        seen = 0
        for node in nodes:
            for folder in ("spool", "models", "retained", "residual"):
                path = os.path.join(node.dir, folder)
                for name in os.listdir(path) if os.path.isdir(path) else ():
                    if name.startswith("."):
                        continue
                    with open(os.path.join(path, name), "rb") as file:
                        self.assertEqual(file.read(16) == b"consilium-file 1", encrypt,
                                         os.path.join(path, name))
                    seen += 1
        self.assertGreater(seen, 20)

    def off_line(self, f, top, hub, run, secret):
        """Auditors work beside the node with its passphrase, and on exports without."""
        key = {"CONSILIUM_KEY_PASSPHRASE_FILE": secret}
        out = os.path.join(f.dir, "export")

        def told(*arguments, environment=None):
            return subprocess.run([program("consilium"), *arguments], capture_output=True,
                                  text=True, check=False, timeout=60,
                                  env=dict(clean_environment(), **(environment or {})))

        refused = told("audit", "verify", top.dir, hub.dir)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("no passphrase is given", refused.stderr)
        for arguments in (("audit", "verify", top.dir, hub.dir),
                          ("audit", "replay", run, "--data-dir", top.dir),
                          ("audit", "export", top.dir, "--out", out)):
            done = told(*arguments, environment=key)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
        for arguments in (("audit", "verify", out), ("audit", "replay", run, "--data-dir", out)):
            done = told(*arguments)
            self.assertEqual(done.returncode, 0, done.stderr + done.stdout)

    def moved(self, f, spoke):
        """A data directory without its key starts nothing, and says what is missing."""
        os.unlink(os.path.join(spoke.dir, "identity", "storage.pem"))
        mark = spoke.mark()
        spoke.may_end = True
        spoke.spawn()
        spoke.wait_log("cannot start: .*encrypted with the key .*storage.pem is not there", mark)
        self.assertEqual(spoke.process.wait(20), 1)


if __name__ == "__main__":
    unittest.main()
