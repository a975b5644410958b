"""tools/count_tests on hand-made records of runs: nothing that failed may vanish from the count."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

TOOL = sys.argv[1]

TWO_OF_THREE = """<testsuites><testsuite>
  <testcase name="A" classname="S" status="run"/>
  <testcase name="B" classname="S" status="run"><failure message="no"/></testcase>
  <testcase name="C" classname="S" status="run"/>
  <testcase name="DISABLED_D" classname="S" status="notrun"/>
  <testcase name="E" classname="S" status="run" result="skipped"><skipped/></testcase>
</testsuite></testsuites>"""
ALL_GOOD = TWO_OF_THREE.replace('<failure message="no"/>', "")


class CountTestsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def result(self, label, status, xml=None, **where):
        outputs = []
        if xml is not None:
            path = os.path.join(self.folder.name, f"{len(os.listdir(self.folder.name))} test.xml")
            with open(path, "w", encoding="utf-8") as f:
                f.write(xml)
            outputs = [{"name": "test.xml", "uri": "file://" + path.replace(" ", "%20")}]
        return {"id": {"testResult": {"label": label, **where}}, "testResult": {"status": status, "testActionOutput": outputs}}

    def count(self, events, code):
        path = os.path.join(self.folder.name, "events.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(map(json.dumps, events)) + "\n")
        done = subprocess.run([sys.executable, TOOL, path, str(code)], capture_output=True, text=True, check=True)
        return done.stdout, done.stderr

    def test_cases_are_counted_and_skipped_ones_are_named(self):
        self.assertEqual(self.count([self.result("//a", "PASSED", ALL_GOOD)], 0), ("3 0\n", "SKIPPED //a: S.E\n"))

    def test_failed_case_is_named(self):
        self.assertEqual(self.count([self.result("//a", "FAILED", TWO_OF_THREE)], 3), ("2 1\n", "SKIPPED //a: S.E\nFAILED //a: S.B\n"))

    def test_program_that_died_after_good_cases_is_a_failure(self):
        self.assertEqual(self.count([self.result("//a", "FAILED", ALL_GOOD)], 3), ("3 1\n", "SKIPPED //a: S.E\nFAILED //a: FAILED\n"))

    def test_torn_xml_is_a_failure_only_when_the_test_failed(self):
        self.assertEqual(self.count([self.result("//a", "TIMEOUT", "<tests")], 3), ("0 1\n", "FAILED //a: TIMEOUT\n"))
        self.assertEqual(self.count([self.result("//a", "PASSED", "<tests")], 0), ("1 0\n", ""))

    def test_test_without_cases_counts_one(self):
        self.assertEqual(self.count([self.result("//a", "PASSED")], 0), ("1 0\n", ""))

    def test_program_whose_cases_were_all_filtered_out_counts_nothing(self):
        self.assertEqual(self.count([self.result("//a", "PASSED", "<testsuites/>")], 0), ("0 0\n", ""))

    def test_target_that_was_not_built_is_a_failure(self):
        event = {"id": {"targetCompleted": {"label": "//b"}}, "completed": {}}
        self.assertEqual(self.count([event, self.result("//a", "PASSED")], 1), ("1 1\n", "FAILED //b: not built\n"))

    def test_target_skipped_for_want_of_cuda_is_none(self):
        event = {"id": {"targetCompleted": {"label": "//cuda"}}, "aborted": {"reason": "SKIPPED"}}
        self.assertEqual(self.count([event, self.result("//a", "PASSED")], 0), ("1 0\n", ""))

    def test_shards_add_up_and_the_last_attempt_decides(self):
        events = [self.result("//a", "FAILED", TWO_OF_THREE, shard=1, attempt=1), self.result("//a", "PASSED", ALL_GOOD, shard=1, attempt=2),
                  self.result("//a", "PASSED", ALL_GOOD, shard=2, attempt=1)]
        self.assertEqual(self.count(events, 0)[0], "6 0\n")

    def test_bazel_failure_without_a_failed_test_is_one(self):
        self.assertEqual(self.count([], 37), ("0 1\n", "FAILED bazel exit code 37, see its messages above\n"))

    def test_missing_record_is_one_failure(self):
        done = subprocess.run([sys.executable, TOOL, "/nowhere/events.json", "0"], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "0 1\n")

    def test_slowest_programs_and_cases_are_named_and_cached_ones_are_not(self):
        timed = """<testsuites><testsuite>
          <testcase name="Quick" classname="S" status="run" time="0.1"/>
          <testcase name="Slow" classname="S" status="run" time="7"/>
        </testsuite></testsuites>"""
        events = [self.result("//a", "PASSED", timed), self.result("//b", "PASSED", shard=2), self.result("//c", "PASSED")]
        for event, milliseconds in zip(events, ("7500", "8500", "9000")):
            event["testResult"]["testAttemptDurationMillis"] = milliseconds
        events[2]["testResult"]["cachedLocally"] = True
        path = os.path.join(self.folder.name, "tsan.json")
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(map(json.dumps, events)) + "\n")
        done = subprocess.run([sys.executable, TOOL, "--slowest", "1", path], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "The slowest of 2 test programs:\n     8.5 s  tsan: //b (shard 2)\n"
                                      "The slowest of 2 test cases:\n     7.0 s  tsan: S.Slow\n")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
