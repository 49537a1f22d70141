"""Tests of the KV bench that need no server: the problems it makes, its judgement, its clockwork and its tables."""

import os
import tempfile
import types
import unittest

import kv_data
import kv_helper
import kv_peers
import kv_report
import numpy as np


def small_source(folder):
    random = np.random.default_rng(3)
    path = os.path.join(folder, "kv.npz")
    shapes = {"k_post": (2, 3, 100, 64), "v": (2, 3, 100, 64), "q": (2, 9, 5, 64)}
    np.savez(path, **{name: random.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()})
    return kv_data.Source(path)


class Problems(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.source = small_source(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def test_the_first_tokens_are_the_files_own_and_no_token_comes_twice(self):
        problem = kv_data.make(self.source, kv_data.Shape(250, 2, 9, 3, 64))
        np.testing.assert_array_equal(problem.k[0, :, :100], self.source.keys[:3])
        np.testing.assert_array_equal(problem.v[1, :, :100], self.source.values[3:])
        self.assertEqual(len(np.unique(problem.k[0, 0], axis=0)), 250)
        self.assertLess(np.abs(problem.k[0, 0, 100:200].astype(float) - problem.k[0, 0, :100]).max(), 0.5)

    def test_wide_heads_are_two_of_the_file_side_by_side(self):
        problem = kv_data.make(self.source, kv_data.Shape(100, 1, 8, 2, 128))
        np.testing.assert_array_equal(problem.k[0, 1, :, :64], self.source.keys[2])
        np.testing.assert_array_equal(problem.k[0, 1, :, 64:], self.source.keys[3])
        np.testing.assert_array_equal(problem.q[0, 7, :64], self.source.queries[2, 0, 3])

    def test_truth_by_hand(self):
        q, k = np.array([[[1.0, 0.0]]]), np.array([[[[0.0, 5.0], [np.log(3.0), 7.0]]]])
        v = np.array([[[[4.0], [8.0]]]])
        self.assertAlmostEqual(kv_data.attention(q, k, v, 1.0)[0, 0, 0], 7.0)

    def test_errors(self):
        truth = np.array([[[3.0, 4.0], [6.0, 8.0]]])
        self.assertEqual(kv_data.error(truth, truth), 0)
        self.assertAlmostEqual(kv_data.error(truth + [[[0, 0.5], [0, 0]]], truth), 0.1)
        self.assertAlmostEqual(kv_data.loss(truth + [[[0, 0.5], [0, 0]]], truth), 0.5 / 125**0.5)
        for judge in (kv_data.error, kv_data.loss):
            self.assertEqual(judge(truth, truth), 0)
            self.assertEqual(judge(truth * np.nan, truth), float("inf"))

    def test_numpy_peers_are_right_and_a_wrong_one_is_refused(self):
        problem = kv_data.make(self.source, kv_data.Shape(100, 2, 9, 3, 64))
        for peer in ("numpy f32, batched", "numpy f32, a head at a time"):
            figures = kv_peers.measure(peer, 1, problem, 0.01)
            self.assertLess(figures["error"], 1e-5)
            self.assertLessEqual(figures["best"], figures["median"])
        problem.truth[1, 4] *= 1.01
        self.assertIn("refused", kv_peers.measure("numpy f32, batched", 1, problem, 0.01))


class Tables(unittest.TestCase):
    def test_the_fastest_right_peer_counts(self):
        shape = kv_data.SHAPES[0]

        def at(**figures):
            return {1: {shape.name: figures}}

        peers = {"a": at(best=0.5), "b": at(refused="wrong"), "c": at(best=0.25)}
        self.assertEqual(kv_peers.fastest(peers, shape, 1), (4, "c"))

    def test_a_refusal_has_no_figure_and_is_listed(self):
        shape = kv_data.SHAPES[0]
        options = types.SimpleNamespace(codecs=["f16"], shapes=[shape], tokens=4)
        results = {"attend": {f"{shape.name} f16": {"refused": "it is wrong"}}}
        text = kv_report.markdown(results, {}, {}, options)
        self.assertIn("refused", text)
        self.assertIn("it is wrong", text)

    def test_the_way_through_the_helper_is_a_difference_and_batches_a_ratio(self):
        one, many = kv_data.shapes_named("512x1_9of3x64,512x16_9of3x64")
        options = types.SimpleNamespace(write_codecs=["f16"], helper_shapes=[one, many], tokens=4)
        times = {"here": {"median": 2e-4}, "helper": {"median": 3e-4}, "overhead": 1e-4, "overhead_best": 5e-5}
        rates = {n: 100.0 * n for n in kv_helper.CLIENTS} | {f"batch {n}": n / 2 for n in kv_helper.CLIENTS}
        results = {"helper": {f"{one.name} f16": times, f"{many.name} f16": rates}}
        text = kv_report.markdown(results, {}, {}, options)
        self.assertIn("| 200 µs | 300 µs | 100 (50) µs |", text)
        self.assertIn("1,600 (8.0) | 16.00 × |", text)

    def test_names_of_shapes(self):
        self.assertEqual(kv_data.shapes_named("10x2_8of4x192"), [kv_data.Shape(10, 2, 8, 4, 192)])
        self.assertEqual(kv_data.shapes_named(",".join(shape.name for shape in kv_data.SHAPES)), kv_data.SHAPES)
        for wrong in ("5x5", "10x1_9of3x65", "10x1_9of4x64"):
            with self.assertRaises(SystemExit):
                kv_data.shapes_named(wrong)


if __name__ == "__main__":
    unittest.main()
