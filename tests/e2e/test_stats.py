# SPDX-License-Identifier: Apache-2.0
"""Statistics of a federation: exact sums over three tiers, small cells hidden, nothing trained."""
import json
import os
import random
import unittest

from federation import Federation

SCHEMA = """name: clinic
missing_rows: drop
columns:
  - {name: patient, type: id}
  - {name: age, type: number, min: 0, max: 120, standardise: true}
  - {name: sex, type: category, categories: [f, m]}
  - {name: ill, type: target, categories: ["no", "yes"]}
split: {by: hash, key: "a key of tests", fraction: 0.3}
"""
COLUMNS = '["age=0:100:5", "sex=2", "ill=2"]'
LEAST = 4


def patients(seed):
    """Ages in quarters, so that every sum is exact; some values are missing, some above 100."""
    draw = random.Random(seed)
    return [(draw.choice([draw.randrange(20, 440) / 4, None] if draw.random() < 0.2
                         else [draw.randrange(20, 240) / 4]),
             draw.choice("ffm"), draw.choice(["no", "no", "no", "yes"])) for _ in range(40)]


def expected(sites):
    """What the hospitals' cells of at least LEAST rows add up to."""
    age, sex, ill = [0] * 5, [0] * 2, [0] * 2
    missing = above = rows = 0
    total = squares = 0.0
    for site in sites:
        cells = [[] for _ in range(5)]
        lost = sum(a is None for a, _, _ in site)
        over = sum(a is not None and a > 100 for a, _, _ in site)
        for a, _, _ in site:
            if a is not None and a <= 100:
                cells[min(int(a / 20), 4)].append(a)
        for k, values in enumerate(cells):
            if len(values) >= LEAST:
                age[k] += len(values)
                rows += len(values)
                total += sum(values)
                squares += sum(v * v for v in values)
        missing += lost if lost >= LEAST else 0
        above += over if over >= LEAST else 0
        for counts, at, names in ((sex, 1, "fm"), (ill, 2, ["no", "yes"])):
            for k, name in enumerate(names):
                n = sum(p[at] == name for p in site)
                counts[k] += n if n >= LEAST else 0
    mean = total / rows
    return {"age": (rows, missing, above, age), "sex": sex, "ill": ill, "mean": mean,
            "std": (squares / rows - mean * mean) ** 0.5}


class Stats(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.f = Federation()
        try:
            cls.schema = os.path.join(cls.f.dir, "clinic.yaml")
            with open(cls.schema, "w", encoding="utf-8") as file:
                file.write(SCHEMA)
            cls.top = cls.f.top(children_min=2)
            cls.hub = cls.f.hub("region", cls.top, children_min=2)
            cls.sites = {name: patients(name) for name in ("north", "south", "east")}
            cls.spokes = {name: cls.spoke(name, cls.top if name == "east" else cls.hub)
                          for name in cls.sites}
        except BaseException:
            cls.f.close()
            raise

    @classmethod
    def tearDownClass(cls):
        cls.f.close()

    @classmethod
    def spoke(cls, name, parent):
        path = os.path.join(cls.f.dir, name + ".csv")
        with open(path, "w", encoding="utf-8") as file:
            file.write("patient,age,sex,ill\n")
            for i, (age, sex, ill) in enumerate(cls.sites[name]):
                file.write("%s-%d,%s,%s,%s\n" % (name, i, "" if age is None else age, sex, ill))
        return cls.f.spoke(name, parent, csv=path, schema=cls.schema)

    def plan(self, columns=COLUMNS):
        return self.f.plan(rounds=1, evaluate={"every": 0}, data={"contract": "clinic"},
                           statistics={"columns": columns, "cells_min": LEAST})

    def stats(self, run, *where):
        return json.loads(self.f.cli("stats", run.id, *(where or self.f.at_top()),
                                     "--json").stdout)

    def compare(self, got, want):
        age, sex, ill = got["columns"]
        self.assertEqual((age["rows"], age["missing"], age["above"], age["cells"]), want["age"])
        self.assertAlmostEqual(age["mean"], want["mean"], delta=1e-4)
        self.assertAlmostEqual(age["std"], want["std"], delta=1e-3)
        self.assertEqual((sex["cells"], ill["cells"]), (want["sex"], want["ill"]))

    def test_the_sums_are_those_of_the_hospitals_tables_at_every_tier(self):
        run = self.f.run(self.plan())
        end = run.finish()
        got = self.stats(run)
        self.assertEqual(got["sites"], 3)
        self.compare(got, expected(self.sites.values()))
        region = ["--hub", "127.0.0.1:%d" % self.hub.port, "--hub-name", "region", "--identity",
                  self.f.operator]
        got = self.stats(run, *region)
        self.assertEqual(got["sites"], 2)
        self.compare(got, expected([self.sites["north"], self.sites["south"]]))
        text = self.f.cli("stats", run.id, *self.f.at_top()).stdout
        self.assertRegex(text, r"age: \d+ rows, \d+ missing, 0 below 0, \d+ above 100")
        # Nothing was trained: the model at the end is the one that the run began with.
        bases = {e["data"]["base"] for e in self.top.audit("round.opened")
                 if e["data"]["run"] == run.id}
        self.assertEqual(bases, {end.model})

    def test_the_sums_are_there_after_a_restart(self):
        run = self.f.run(self.plan())
        run.finish()
        before = self.stats(run)
        self.top.kill()
        self.top.start()
        self.assertEqual(self.stats(run), before)

    def test_a_column_that_the_contract_does_not_have_is_declined_by_name(self):
        run = self.f.run(self.plan('["height=0:2:4"]'))
        self.spokes["east"].wait_log("declined: the plan counts column 'height', which the "
                                     "contract does not have")
        self.f.cli("run", "stop", run.id, *self.f.at_top())

    def test_a_run_that_trains_has_no_statistics(self):
        run = self.f.run(self.f.plan(rounds=1, data={"contract": "clinic"}))
        done = self.f.cli("stats", run.id, *self.f.at_top(), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("trains a model", done.stderr)
        self.f.cli("run", "stop", run.id, *self.f.at_top())
