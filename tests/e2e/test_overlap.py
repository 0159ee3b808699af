# SPDX-License-Identifier: Apache-2.0
"""Sites count the patients whom they share, and nobody learns who they are: files that each site
blinds, carried from one to the next, and compared by somebody who has no secret.

The patients are those of the breast cancer example; some are at two sites, which a federation that
splits them by a keyed hash may have."""
import json
import os
import subprocess
import unittest

from federation import EXAMPLE, Federation, clean_environment, program

SITES = ("north-1", "centre-1", "south-1")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


class Overlap(unittest.TestCase):
    def setUp(self):
        self.f = Federation()
        self.f.__enter__()
        self.addCleanup(self.f.__exit__, None, None, None)
        self.top = self.f.top()
        self.nodes = {}

    def path(self, name):
        return os.path.join(self.f.dir, name)

    def schema(self, key):
        """The example's, split by a hash with that key."""
        text = read(os.path.join(EXAMPLE, "schema.yaml"))
        head, _, _ = text.partition("split:")
        return head + 'split: {by: hash, key: "%s", fraction: 0.3}\n' % key

    def site(self, name, also=(), key="a key of all sites"):
        """A spoke with its own patients and those of `also`; its table and schema."""
        rows = read(self.f.table(name)).splitlines()
        table = write(self.path(name + ".csv"), "\n".join(rows + list(also)) + "\n")
        schema = write(self.path(name + ".schema.yaml"), self.schema(key))
        self.nodes[name] = self.f.spoke(name, self.top, csv=table, schema=schema)
        return [row.split(",")[0] for row in rows[1:]]

    def rows(self, name, count):
        """Lines of its table after the header."""
        return read(self.f.table(name)).splitlines()[1:1 + count]

    def overlap(self, name, step, out, *arguments, check=True):
        done = subprocess.run(
            [program("consilium-spoke"), "overlap", step, "--data-dir", self.nodes[name].dir,
             "--secret", self.path(name + ".secret"), "--out", self.path(out), *arguments],
            capture_output=True, text=True, timeout=60, check=False, env=clean_environment())
        if check:
            self.assertEqual(done.returncode, 0, done.stderr)
        return self.path(out) if check else done

    def begin(self, name, **options):
        keys = self.nodes[name].keys["data"]
        return self.overlap(name, "begin", name + ".0", keys["schema"], keys["csv"], **options)

    def around(self, *names):
        """Each site's file, blinded by all of them."""
        files, own = [], {name: self.begin(name) for name in names}
        for name, path in own.items():
            for by in names:
                if by != name:
                    path = self.overlap(by, "answer", "%s.%s" % (os.path.basename(path), by), path)
            files.append(path)
        return files

    def compare(self, *files):
        done = self.f.cli("overlap", "--json", *files, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def pairs(self, said):
        """{(site, site): the pair} of two sites."""
        name = [os.path.basename(p).split(".")[0] for q in said["pairs"] for p in (q["a"], q["b"])]
        return {k: q for k, q in zip(zip(name[::2], name[1::2]), said["pairs"]) if k[0] != k[1]}

    def test_three_sites_count_whom_they_share_and_a_split_by_keyed_hash_leaks_nobody(self):
        shared = {("north-1", "centre-1"): 20, ("centre-1", "south-1"): 9}
        self.site("north-1", self.rows("centre-1", 20))
        self.site("centre-1", self.rows("south-1", 9))
        self.site("south-1")
        files = self.around(*SITES)
        code, said = self.compare(*files)
        self.assertEqual((code, said["leaks"]), (0, 0))
        for sites, pair in self.pairs(said).items():
            both = pair["train_both"] + pair["test_both"]
            self.assertEqual(both, shared.get(sites, 0), sites)
        self.assertGreater(self.pairs(said)["north-1", "centre-1"]["test_both"], 0)
        # What a site wrote of others' files is in its log, with who did it, before anybody has it.
        for name in SITES:
            node = self.nodes[name]
            self.f.wait(lambda n=node: len(n.audit("overlap.told")) == 3, 10,
                        "%s logs three files" % name)
            whats = sorted(e["data"]["what"].split(":")[0] for e in node.audit("overlap.told"))
            self.assertEqual(whats, ["another site's, answered"] * 2 + ["this site's"])
            log = subprocess.run([program("consilium-spoke"), "log", "--data-dir",
                                  self.nodes[name].dir], capture_output=True, text=True,
                                 check=True, env=clean_environment()).stdout
            self.assertEqual(log.count("overlap.told"), 3)

    def test_sites_with_splits_of_their_own_are_found_out(self):
        self.site("north-1", self.rows("centre-1", 40))
        self.site("centre-1", key="another key of its own")
        code, said = self.compare(*self.around("north-1", "centre-1"))
        self.assertEqual(code, 1)
        pair = self.pairs(said)["north-1", "centre-1"]
        self.assertGreater(pair["train_a_test_b"], 0)
        self.assertEqual(said["leaks"], pair["train_a_test_b"] + pair["test_a_train_b"])
        both = sum(pair[k] for k in ("train_both", "test_both", "train_a_test_b", "test_a_train_b"))
        self.assertEqual(both, 40)

    def test_files_tell_no_id_and_compare_only_where_the_same_sites_have_blinded_them(self):
        ids = self.site("north-1")
        self.site("centre-1", self.rows("north-1", 30))
        own = {name: self.begin(name) for name in ("north-1", "centre-1")}
        self.assertFalse(any(i in read(own["north-1"]) for i in ids))
        # The same patients, and not one point of theirs is the same.
        points = [{line for line in read(p).splitlines() if len(line) == 66} for p in own.values()]
        self.assertFalse(points[0] & points[1])
        code, said = self.compare(*own.values())
        self.assertEqual(code, 1)
        self.assertIn("not blinded by the same sites", said)
        answered = self.overlap("centre-1", "answer", "answered", own["north-1"])
        self.assertFalse(points[0] & set(read(answered).splitlines()))
        again = self.overlap("centre-1", "answer", "again", answered, check=False)
        self.assertEqual(again.returncode, 1)
        self.assertIn("blinded with this secret already", again.stderr)
        self.assertFalse(os.path.exists(self.path("again")))
        code, said = self.compare(own["north-1"], own["north-1"])
        self.assertEqual(code, 1)
        self.assertIn("with one secret alone", said)

    def test_what_is_no_file_of_a_site_or_no_secret_is_refused_and_nothing_is_written(self):
        self.site("north-1")
        self.site("centre-1")
        good = read(self.begin("north-1"))
        self.begin("centre-1")
        points = [line for line in good.splitlines() if len(line) == 66]
        for change, why in ((lambda t: t.replace(points[0], "00" * 33), "a point of P-256"),
                            (lambda t: t.replace(points[0], "02" + "f" * 64), "a point"),
                            (lambda t: t.replace("train ", "train 4194305 "), "'train N'"),
                            (lambda t: t[:-100], "was to be here")):
            bad = write(self.path("bad"), change(good))
            done = self.overlap("centre-1", "answer", "out", bad, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(why, done.stderr)
            self.assertFalse(os.path.exists(self.path("out")))
        file = self.path("north-1.0")
        again = self.begin("north-1", check=False)
        self.assertIn("nothing that exists is written over", again.stderr)
        secret = self.path("centre-1.secret")
        os.chmod(secret, 0o644)
        self.assertIn("chmod 600",
                      self.overlap("centre-1", "answer", "out", file, check=False).stderr)
        os.chmod(secret, 0o600)
        with open(secret, "r+b") as f:
            f.truncate(40)
        self.assertIn("no secret",
                      self.overlap("centre-1", "answer", "out", file, check=False).stderr)
        self.assertFalse(os.path.exists(self.path("out")))


if __name__ == "__main__":
    unittest.main()
