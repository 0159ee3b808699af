#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test_*.py of this folder against the built programs.

Prints a line for each test (ok, FAIL or skip, with the reason) and last "N passed, N failed, N
skipped"; the exit status is 0 only where nothing failed.
"""
import argparse
import fnmatch
import os
import signal
import sys
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TEST_S = 420  # nothing here takes that long: a test that does hangs


def tests_of(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from tests_of(item)
        else:
            yield item


class Report(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.passed = self.failed = self.skipped_count = 0
        self.began = time.monotonic()

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()
        signal.alarm(TEST_S)

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)

    def _say(self, word, test, rest=""):
        name = test.id() if hasattr(test, "id") else str(test)
        print("%-4s %s (%.1f s)%s" % (word, name, time.monotonic() - self.began, rest), flush=True)

    def addSuccess(self, test):
        self.passed += 1
        self._say("ok", test)

    def _fail(self, test, err):
        self.failed += 1
        self._say("FAIL", test)
        text = "".join(traceback.format_exception(*err))
        print("".join("    %s\n" % line for line in text.splitlines()), end="", flush=True)

    def addFailure(self, test, err):
        self._fail(test, err)

    def addError(self, test, err):
        self._fail(test, err)

    def addSkip(self, test, reason):
        self.skipped_count += 1
        self._say("skip", test, ": " + reason)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._fail(subtest, err)


def hangs(_number, _frame):
    raise TimeoutError("the test has taken %d s" % TEST_S)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the long versions too")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN",
                        help="tests to run, as test_kill, or *spoke*; none: all")
    options = parser.parse_args()

    if options.all:
        os.environ["CONSILIUM_E2E_ALL"] = "1"
    # A terminated runner still stops what it has started: unittest lets only this one through.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGALRM, hangs)
    sys.path.insert(0, HERE)
    found = unittest.defaultTestLoader.discover(HERE, pattern="test_*.py", top_level_dir=HERE)
    suite = unittest.TestSuite(
        t for t in tests_of(found)
        if not options.patterns or any(fnmatch.fnmatch(t.id(), p) or t.id().startswith(p + ".")
                                       for p in options.patterns))
    if suite.countTestCases() == 0:
        print("no test matches: " + " ".join(options.patterns))
        return 2
    report = Report()
    suite.run(report)
    print("%d passed, %d failed, %d skipped" % (report.passed, report.failed,
                                                report.skipped_count))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
