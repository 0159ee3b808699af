#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every test_*.py of this folder against the built programs.

Prints a line for each test (ok, FAIL or skip, with the reason) and last "N passed, N failed, N
skipped"; the exit status is 0 only where nothing failed. With --jobs N, N files run beside each
other, each in a process of its own, and what each of them says is printed when it is done.
"""
import argparse
import collections
import concurrent.futures
import ctypes
import fnmatch
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
TEST_S = 420  # nothing here takes that long: a test that does hangs
_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None)


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


def run_file(module, tests):
    """Those tests of one file, in a process of its own: passed, failed, skipped. Where this process
    dies first, the kernel tells it to end."""
    done = subprocess.run([sys.executable, os.path.abspath(__file__)] + tests,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
                          preexec_fn=lambda: _libc.prctl(_PDEATHSIG, signal.SIGTERM))
    lines = done.stdout.splitlines()
    last = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", lines[-1] if lines else "")
    counts = [int(n) for n in last.groups()] if last else [0, 0, 0]
    if done.returncode != 0 and counts[1] == 0:
        lines.append("FAIL %s: its process ended with status %d" % (module, done.returncode))
        counts[1] = 1
    print("\n".join(lines[:-1] if last and counts[1] == int(last.group(2)) else lines), flush=True)
    return counts


def run_files(suite, jobs):
    files = collections.defaultdict(list)
    for test in tests_of(suite):
        files[test.id().split(".")[0]].append(test.id())
    # The files with the most tests first, so that no long one is left over at the end.
    order = sorted(files, key=lambda module: (-len(files[module]), module))
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        counts = list(pool.map(lambda module: run_file(module, files[module]), order))
    return [sum(column) for column in zip(*counts)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the long versions too")
    parser.add_argument("--jobs", type=int, default=1, help="files that run beside each other")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN",
                        help="tests to run, as test_kill, or *spoke*; none: all")
    options = parser.parse_args()

    # Tests start processes beside threads of gRPC; its handlers of fork() abort there now and then,
    # and have nothing to do before an exec().
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    if options.all:
        os.environ["CONSILIUM_E2E_ALL"] = "1"
    # A terminated runner still stops what it has started: unittest lets only this one through. One
    # that waits for others just ends.
    if options.jobs == 1:
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
    if options.jobs > 1:
        passed, failed, skipped = run_files(suite, options.jobs)
    else:
        report = Report()
        suite.run(report)
        passed, failed, skipped = report.passed, report.failed, report.skipped_count
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)  # threads of a test's own servers would be waited for
