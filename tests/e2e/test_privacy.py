# SPDX-License-Identifier: Apache-2.0
"""Nothing of a patient leaves a hospital: no id, no value, no diagnosis of one.

One hospital's table holds marked patients: ids that stand nowhere else, and numbers with so many
digits that no arithmetic makes them by chance. Everything the hospital sends is recorded on the
wire, and everything its hub sends on to the top; logs and audit logs are read too. The markers are
looked for as text, as the floats and integers they might be packed as, standardised and not, and as
UTF-16. A control shows that the search finds what does travel.
"""
import json
import os
import struct
import unittest

from federation import Federation
from recorder import Recorder

MARKED = [("MARKER-7f3a91c04e", 1, 17.3512345, 0), ("MARKER-d20b8866aa", 4, 1234.54321, 0),
          ("MARKER-4c5e1f7702", 24, 2687.19375, 1)]
# A site's schema standardises with these (mean, deviation), by column.
WARD = "ward-of-7c0d"
SCALES = {1: (14, 3.5), 4: (650, 350), 24: (880, 570)}


def needles():
    """Description -> bytes that must be nowhere. Four bytes may stand in a megabyte by chance, once
    in some hundred trees; this tree's updates are the same at every run."""
    out = {}
    for patient, column, value, _ in MARKED:
        mean, deviation = SCALES[column]
        for form in (patient, patient.lower(), patient.split("-")[1]):
            out["id " + form] = form.encode()
            out["id in UTF-16 " + form] = form.encode("utf-16-le")
            out["id in big-endian UTF-16 " + form] = form.encode("utf-16-be")
        for digits in ("%r" % value, ("%r" % value).replace(".", "")):
            out["digits " + digits] = digits.encode()
            out["digits in UTF-16 " + digits] = digits.encode("utf-16-le")
        for number in (value, (value - mean) / deviation):
            for order in "<>":
                out["%sf64 of %r" % (order, number)] = struct.pack(order + "d", number)
                out["%sf32 of %r" % (order, number)] = struct.pack(order + "f", number)
        for scaled in (round(value * 10 ** 5), round(value * 10 ** 7)):
            for order in "<>":
                out["%si64 %d" % (order, scaled)] = struct.pack(order + "q", scaled)
    return out


def safetensors(path):
    """Name -> bytes of each tensor."""
    with open(path, "rb") as f:
        raw = f.read()
    length, = struct.unpack_from("<Q", raw)
    head = json.loads(raw[8:8 + length])
    return {name: raw[8 + length + t["data_offsets"][0]:8 + length + t["data_offsets"][1]]
            for name, t in head.items() if name != "__metadata__"}


class Privacy(unittest.TestCase):
    def table(self, f, name, broken=False):
        """north-2's patients, three of them marked; `broken` spoils a marked row's number."""
        with open(f.table("north-2"), encoding="utf-8") as table:
            lines = table.read().splitlines()
        for i, (patient, column, value, bad) in enumerate(MARKED, 1):
            cells = lines[i].split(",")
            cells[0], cells[column] = patient, repr(value)
            if broken and bad:
                cells[column] = "MARKER" + cells[column]
            lines[i] = ",".join(cells)
        path = os.path.join(f.dir, WARD, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        return path

    def assert_nowhere(self, haystacks, needles_):
        for where, hay in haystacks.items():
            for what, needle in needles_.items():
                self.assertNotIn(needle, hay, "%s is in %s" % (what, where))

    @staticmethod
    def haystacks(f, recorders):
        out = {}
        for name, recorder in recorders.items():
            for i, raw in enumerate(recorder.raw()):
                out["the wire from %s, connection %d" % (name, i)] = raw
            for i, body in enumerate(recorder.payloads()):
                out["the messages from %s, stream %d" % (name, i)] = body
        for node in f.nodes:
            for path in (node.log_path, os.path.join(node.dir, "audit", "audit.log")):
                if os.path.exists(path):
                    with open(path, "rb") as log:
                        out[path] = log.read()
        return out

    def federation(self, f):
        """Top, hub and two hospitals, the hub and one hospital behind recorders."""
        top = f.top()
        recorders = {"hub-a": Recorder(top.port)}
        f.others.append(recorders["hub-a"])
        hub = f.hub("hub-a", top, children_min=2, parent_address=recorders["hub-a"].address)
        recorders["north-2"] = Recorder(hub.port)
        f.others.append(recorders["north-2"])
        f.spoke("north-2", hub, csv=self.table(f, "marked.csv"),
                parent_address=recorders["north-2"].address)
        f.spoke("north-1", hub)
        return recorders

    def test_no_patient_is_on_the_wire_or_in_a_log(self):
        with Federation(tls=False) as f:
            recorders = self.federation(f)
            for rounds, epochs in ((4, 2), (1, 0)):
                local = {"steps": None, "epochs": epochs} if epochs else {}
                f.run(f.plan(rounds=rounds, local=local)).finish()
            hay = self.haystacks(f, recorders)
            sent = sum(len(h) for where, h in hay.items() if "messages from north-2" in where)
            self.assertGreater(sent, 5 * 24449, "the recorder has not seen the updates")
            # The control: what travels is found, in every kind of place that is searched.
            for place in ("messages from north-2", "north-2.log", "audit.log"):
                self.assertTrue(any(b"north-2" in h for w, h in hay.items() if place in w), place)
            self.assert_nowhere(hay, needles())

    def test_tensors_that_stay_are_on_no_wire(self):
        """Neither the values a hospital starts from nor those it trained: of each tensor that stays
        eight numbers in a row are looked for, of one that travels the first eight are found."""
        with Federation(tls=False) as f:
            recorders = self.federation(f)
            path = f.plan(rounds=3, keep=["fc3.*", "fc2.bias"])
            run = f.run(path)
            run.finish()
            spoke = next(n for n in f.nodes if n.name == "north-2")
            own = os.path.join(spoke.dir, "private", run.id + ".safetensors")
            f.wait(lambda: os.path.exists(own), 30, "the hospital's own tensors")
            tensors = safetensors(own)
            self.assertEqual(sorted(tensors), ["fc2.bias", "fc3.bias", "fc3.weight"])
            shared = os.path.join(f.dir, "shared.safetensors")
            f.cli("model", "pull", *f.at_top(), "--out", shared)
            self.assertEqual(sorted(safetensors(shared)),
                             ["fc1.bias", "fc1.weight", "fc2.weight"])
            hay = self.haystacks(f, recorders)
            sent = [h for w, h in hay.items() if "messages from north-2" in w]
            self.assert_nowhere(hay, {"%s at %d" % (name, at): raw[at:at + 32]
                                      for name, raw in tensors.items()
                                      for at in range(0, max(1, len(raw) - 31), 32)})
            # As long as the three that travel, and no longer.
            travels = 4 * sum(len(raw) // 4 for raw in safetensors(shared).values())
            self.assertGreater(sum(map(len, sent)), 3 * travels)
            self.assertLess(sum(map(len, sent)), 3 * travels + 65536)

    def test_no_patient_is_in_the_reason_for_declining(self):
        with Federation(tls=False) as f:
            recorders = self.federation(f)
            spoke = next(n for n in f.nodes if n.name == "north-2")
            spoke.kill()
            spoke.keys["data"]["csv"] = self.table(f, "broken.csv", broken=True)
            hub = next(n for n in f.nodes if n.name == "hub-a")
            mark = hub.mark()
            spoke.start()
            hub.wait_log("child north-2 attends", mark)
            f.run(f.plan(rounds=1))
            hub.wait_log(r"north-2 declines: .*broken\.csv:4: column 'area_worst'")
            hay = self.haystacks(f, recorders)
            self.assert_nowhere(hay, dict(needles(), marker=b"MARKER"))
            # Nor is the name of a folder, which only the hospital's own logs may say.
            away = {w: h for w, h in hay.items() if w != spoke.log_path and spoke.dir not in w}
            self.assertIn(WARD.encode(), hay[spoke.log_path])
            self.assert_nowhere(away, {"folder": WARD.encode()})

    def test_the_search_finds_a_marker_that_travels(self):
        """The same federation, but the marker is the name of a hospital, which is no secret."""
        marker = "marker-7f3a91c04e"
        with Federation(tls=False) as f:
            top = f.top()
            recorder = Recorder(top.port)
            f.others.append(recorder)
            f.spoke(marker, top, csv=f.table("north-1"), parent_address=recorder.address)
            top.wait_log("child %s attends" % marker)
            with self.assertRaises(AssertionError):
                self.assert_nowhere(self.haystacks(f, {marker: recorder}), needles())


if __name__ == "__main__":
    unittest.main()
