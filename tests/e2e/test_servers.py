# SPDX-License-Identifier: Apache-2.0
"""One spoke on several servers of its hospital: real processes, mTLS by an authority of the
hospital's own. The model is that of one server with as many devices, whatever was killed; and who
does not belong is refused by name."""
import os
import shutil
import subprocess
import tempfile
import unittest

from federation import BIN, EXAMPLE, Federation
from onnx_file import write_mlp

ADAM = {"local": {"optimiser": {"name": "adam", "lr": 0.002}}}
SCAFFOLD = {"local": {"scaffold": "true"}}
FEDCURV = {"local": {"curvature": {"lambda": 0.5, "clip": 1.0}}}
LONG = {"local": {"steps": 500}}


class Servers(unittest.TestCase):
    def one_server(self, devices, rounds=3, **changes):
        """The model that one server with so many devices trains."""
        with Federation() as f:
            top = f.top(children_min=1)
            f.spoke("north-1", top, device="cpu*%d" % devices)
            return f.run(f.plan(rounds=rounds, **changes)).finish().model

    def same_bits(self, here, there, **changes):
        """A leader with `here` devices and members with `there` of them."""
        names = ["rack-%d" % (i + 2) for i in range(len(there))]
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, names, device="cpu*%d" % here)
            for name, devices in zip(reversed(names), reversed(there)):
                f.member(name, leader, device="cpu*%d" % devices)
            several = f.run(f.plan(**changes)).finish().model
        self.assertEqual(several, self.one_server(here + sum(there), **changes))

    def test_two_servers_train_the_model_of_two_devices(self):
        self.same_bits(1, [1])

    def test_three_servers_with_several_devices_each(self):
        self.same_bits(2, [1, 3], **ADAM)

    def test_control_variates_reach_every_server(self):
        self.same_bits(1, [2], **SCAFFOLD)

    def test_the_pull_of_other_hospitals_reaches_every_server(self):
        plain = self.with_another_hospital("cpu*3", [])
        curved = self.with_another_hospital("cpu*3", [], **FEDCURV)
        self.assertNotEqual(plain, curved)
        self.assertEqual(self.with_another_hospital("cpu", [2], **FEDCURV), curved)

    @staticmethod
    def with_another_hospital(device, there, **changes):
        with Federation() as f:
            top = f.top(children_min=2)
            f.spoke("south-1", top)
            if there:
                leader = f.leader("north-1", top, ["rack-2"], device=device)
                f.member("rack-2", leader, device="cpu*%d" % there[0])
            else:
                f.spoke("north-1", top, device=device)
            return f.run(f.plan(**changes)).finish().model

    def test_killed_servers_cost_time_and_no_bit(self):
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, ["rack-2", "rack-3"])
            members = [f.member(n, leader) for n in ("rack-2", "rack-3")]
            run = f.run(f.plan(rounds=6, **LONG))
            for i, victim in enumerate([members[0], members[1], leader]):
                run.wait_round(1 + 2 * i)
                if victim is members[1]:  # first alive and silent, which costs the keepalive's time
                    mark = leader.mark()
                    victim.freeze()
                    leader.wait_log("server %s is lost" % victim.name, mark)
                    victim.thaw()
                    leader.wait_log("server %s has joined" % victim.name, mark)
                mark = leader.mark()
                victim.kill()
                if victim is not leader:
                    leader.wait_log("server %s is lost" % victim.name, mark)
                    leader.wait_log("it is trained when all servers are here", mark)
                victim.start()
            model = run.finish().model
            self.assertTrue(leader.audit("round.waits"))
            self.assertFalse(leader.audit("round.declined"))
        self.assertEqual(model, self.one_server(3, rounds=6, **LONG))

    def test_a_model_of_many_messages_goes_through_the_leader(self):
        # 2.2 million parameters: a ring of 4 ranks at 3 servers, shares of several messages, half
        # of the way between members.
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "wide.onnx")
            write_mlp(path, [30, 2048, 1024, 1])
            self.same_bits(1, [1, 2], rounds=2, model=path, local={"steps": 6})

    def test_a_run_waits_for_a_server_that_is_not_here_yet(self):
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, ["rack-2"])
            run = f.run(f.plan())
            leader.wait_log("servers of this team are not here: rack-2")
            f.member("rack-2", leader)
            run.finish()

    def test_who_does_not_belong_is_refused_by_name(self):
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, ["rack-2"])
            # Of another authority: the federation's own is none of the team's, at either end.
            wrong = f.member("rack-2", leader, authority=f.authority)
            wrong.wait_log("certificate at its other end is not of this node's authority")
            wrong.stop()
            self.handshake(leader, os.path.join(wrong.dir, "identity"))
            leader.wait_log("certificate at its other end is not of this node's authority")
            self.handshake(leader, None)
            leader.wait_log("a connection without a certificate was refused")
            # Of the hospital's, and not in the list.
            f.member("rack-9", leader).wait_log("server 'rack-9' is refused: team.members")
            # A leader that has another name than the member was told.
            liar = f.member("rack-8", leader, leader={"name": "south-1-team"})
            liar.wait_log("not in the team of south-1-team")
            self.assertFalse(leader.find("has joined"))

    @staticmethod
    def handshake(leader, identity):
        """A client that believes any server, with a certificate or none."""
        shown = [] if identity is None else ["-cert", identity + "/cert.pem",
                                             "-key", identity + "/key.pem"]
        subprocess.run(["openssl", "s_client", "-alpn", "h2", "-connect",
                        "127.0.0.1:%d" % leader.team_port, *shown], input=b"", timeout=20,
                       capture_output=True, check=False)

    def test_another_build_is_refused(self):
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, ["rack-2"])
            copy = os.path.join(f.dir, "bin")
            os.mkdir(copy)
            path = shutil.copy(os.path.join(BIN, "consilium-spoke"), copy)
            with open(path, "ab") as program:
                program.write(b"\0")
            member = f.member("rack-2", leader, start=False)
            member.program = path
            member.start()
            member.wait_log("server 'rack-2' is refused: its consilium-spoke is another build")
            self.assertFalse(leader.find("has joined"))

    def test_another_data_set_is_refused_and_the_round_declined(self):
        with Federation() as f:
            top = f.top(children_min=1)
            leader = f.leader("north-1", top, ["rack-2"])
            other = {"csv": f.table("north-2"), "schema": os.path.join(EXAMPLE, "schema.yaml")}
            f.member("rack-2", leader, data=other)
            f.run(f.plan())
            leader.wait_log("server rack-2 holds another data set than this one")
            f.wait(lambda: leader.audit("round.declined"), 20, "the round is declined")
            self.assertFalse(leader.audit("update.sealed"))


if __name__ == "__main__":
    unittest.main()
