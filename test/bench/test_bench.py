"""The bench's own tests: what must be refused is refused, and figures come out of samples as they should.

No server; `run --self-test`.
"""

import os
import struct
import tempfile
import types
import unittest

import numpy as np
import report
from data_set import Refused, Truth
from figures import Record, value_at_recall
from wire import copy_blocks, wires


def line_of_rows(count=50):
    """Rows 0..count-1 on a line, so that the nearest of query x are known by heart."""
    return np.array([[float(i), 0.0] for i in range(count)], np.float32)


class JudgingAnswers(unittest.TestCase):
    def setUp(self):
        self.queries = np.array([[10.2, 0.0], [30.2, 0.0]], np.float32)
        self.truth = Truth(line_of_rows(), self.queries, "euclidean", 3)
        self.right = [[10, 11, 9], [30, 31, 29]]

    def refused(self, answers, words, truth=None, **more):
        with self.assertRaisesRegex(Refused, words):
            (truth or self.truth).judge(answers, 0.01, **more)

    def test_right_answers_pass(self):
        self.assertEqual(self.truth.judge(self.right, 0.0, floor=1.0), 1.0)

    def test_half_right_is_half_recall(self):
        self.assertAlmostEqual(self.truth.judge([[10, 11, 9], [40, 41, 42]], 0.01), 0.5)

    def test_recall_below_the_floor(self):
        self.refused([[10, 11, 9], [40, 41, 42]], "recall 0.5000 is below the floor 0.8", floor=0.8)

    def test_unsorted(self):
        self.refused([[10, 11, 9], [29, 30, 31]], "query 1 returned its rows out of order")

    def test_small_misorder_passes_only_with_slack(self):
        rows = np.array([[1.0, 0], [1.001, 0], [5, 0]], np.float32)
        truth = Truth(rows, np.zeros((1, 2), np.float32), "euclidean", 2)
        self.assertEqual(truth.judge([[1, 0]], 0.01), 1.0)
        with self.assertRaises(Refused):
            truth.judge([[1, 0]], 1e-5)

    def test_too_few_rows(self):
        self.refused([[10, 11], [30, 31, 29]], "query 0 returned 2 rows, not 3")

    def test_a_row_twice(self):
        self.refused([[10, 10, 11], [30, 31, 29]], "a row twice")

    def test_missing_answer(self):
        self.refused([[10, 11, 9]], "1 answers to 2 queries")

    def test_unknown_row(self):
        self.refused([[10, 11, 77], [30, 31, 29]], "not in the table")

    def test_deleted_row(self):
        alive = np.ones(50, bool)
        alive[11] = False
        truth = Truth(line_of_rows(), self.queries, "euclidean", 3, alive)
        self.refused(self.right, "not in the table", truth)
        self.assertEqual(truth.judge([[10, 9, 12], [30, 31, 29]], 0.0), 1.0)

    def test_ties_are_fair(self):
        rows = np.array([[1.0, 0], [0, 1], [0, -1], [-1, 0], [3, 0]], np.float32)
        truth = Truth(rows, np.zeros((1, 2), np.float32), "euclidean", 2)
        self.assertEqual(truth.recall([[2, 3]]), 1.0)

    def test_angle_and_inner_product(self):
        rows = np.array([[1.0, 0], [0.6, 0.8], [0, 3.0]], np.float32)
        query = np.array([[1.0, 0.1]], np.float32)
        self.assertEqual(Truth(rows, query, "angular", 2).judge([[0, 1]], 0.0), 1.0)
        self.assertEqual(Truth(rows, query, "ip", 1).judge([[0]], 0.0), 1.0)
        self.assertEqual(Truth(rows, np.array([[0.1, 1.0]], np.float32), "ip", 1).judge([[2]], 0.0), 1.0)


class SpeedAtRecall(unittest.TestCase):
    def test_between_two_points_on_a_logarithm(self):
        self.assertAlmostEqual(value_at_recall([(10, 0.9, 1000), (40, 1.0, 10)], 0.95), 100)

    def test_not_reached(self):
        with self.assertRaisesRegex(Refused, "reaches recall 0.9400, not 0.95"):
            value_at_recall([(10, 0.9, 1000), (1000, 0.94, 10)], 0.95)

    def test_smallest_ef_is_above(self):
        self.assertEqual(value_at_recall([(10, 0.97, 1000), (20, 0.99, 500)], 0.95), 1000)

    def test_a_dearer_point_without_more_recall_is_left_out(self):
        self.assertAlmostEqual(value_at_recall([(10, 0.9, 1000), (20, 0.9, 5), (40, 1.0, 10)], 0.95), 100)


class Reporting(unittest.TestCase):
    def setUp(self):
        self.record = Record()
        for run, (mine, theirs) in enumerate([(2.0, 4.0), (3.0, 12.0), (1.0, 1.0)]):
            self.record.add("ours", run, {"build_wall": mine, "vacuum_wall": 7.77})
            self.record.add("pgvector", run, {"build_wall": theirs})
        self.options = types.SimpleNamespace(targets=[0.95], k=10, delete_share=0.2, update_rows=10000)

    def table(self):
        return report.markdown(self.record, ["ours", "pgvector"], {}, self.options, "pgvector")

    def test_median_spread_and_ratio_within_each_run(self):
        self.assertEqual(self.record.value("ours", "build_wall"), (2.0, 1.0, 3.0))
        self.assertEqual(self.record.ratio("ours", "build_wall", "pgvector"), (0.5, 0.25, 1.0))
        self.assertIn("| build, s | 2.0 (1.0–3.0); **0.50 ×** | 4.0 (1.0–12.0) |", self.table())

    def test_one_refused_run_leaves_no_time(self):
        self.record.refuse("ours", ["vacuum_wall"], "vacuum: recall fell")
        self.assertIn("| vacuum after deleting 20 %, s | refused | – |", self.table())
        self.assertIn("- ours: vacuum: recall fell", self.table())
        self.assertNotIn("7.77", self.table())
        self.assertNotIn("7.77", self.record.to_json({}))

    def test_no_ratio_to_a_refused_baseline(self):
        self.record.refuse("pgvector", ["build_wall"], "unsorted")
        self.assertNotIn("×**", self.table())

    def test_section_of_a_document(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "page.md")
            with open(path, "w") as file:
                file.write("a\n<!-- bench x -->\nold\n<!-- /bench -->\nb\n<!-- bench y -->\nkept\n<!-- /bench -->\n")
            report.replace_section(path, "x", "new\n")
            with open(path) as file:
                expected = "a\n<!-- bench x -->\nnew\n<!-- /bench -->\nb\n<!-- bench y -->\nkept\n<!-- /bench -->\n"
                self.assertEqual(file.read(), expected)
            with self.assertRaises(SystemExit):
                report.replace_section(path, "z", "new\n")


class BinaryFormat(unittest.TestCase):
    def test_vector_and_halfvec(self):
        rows = np.array([[1.5, -2.0]], np.float32)
        self.assertEqual(wires(rows, "vector"), [struct.pack(">hhff", 2, 0, 1.5, -2.0)])
        self.assertEqual(wires(rows, "halfvec"), [struct.pack(">hhee", 2, 0, 1.5, -2.0)])

    def test_copy_row(self):
        header, rows, end = copy_blocks(np.array([[1.5, -2.0]], np.float32), "vector", 107)
        self.assertEqual((header[:11], len(header), end), (b"PGCOPY\n\xff\r\n\0", 19, b"\xff\xff"))
        self.assertEqual(rows, struct.pack(">hiiiiihhff", 3, 4, 107, 4, 7, 12, 2, 0, 1.5, -2.0))


if __name__ == "__main__":
    unittest.main()
