"""Tests of what test/gpu/run judges with: the tile reader, the comparison, the table of times, and how commands and tools are judged."""

import argparse
import contextlib
import io
import json
import math
import os
import struct
import tempfile
import time
import unittest

import check_torch
import machine
import machine_steps
import numpy as np
import tile_reader
import time_torch


def words_of(codes, bits, along_tokens):
    """Codes [tokens, dim] as a plane, element by element as tile.h says."""
    width = 32 // bits
    rows = codes if along_tokens else codes.T
    out = []
    for group in range(-(-len(rows) // width)):
        for column in range(rows.shape[1]):
            word = bytearray(4)
            for e, code in enumerate(int(c) for c in rows[group * width : (group + 1) * width, column]):
                if bits == 16:
                    struct.pack_into("<H", word, 2 * e, code)
                else:
                    word[e % 4] |= code << bits * (e // 4)
            out.append(bytes(word))
    return pad(b"".join(out))


def pad(piece):
    return piece + bytes(-len(piece) % 16)


def halves(rows):
    return pad(np.asarray(rows, "<f2").tobytes())


def make_tile(codec, k_codes, v_codes, k_scales, v_scales, head=0, first=0, means=((), ())):
    """A tile of these codes [tokens, dim], scales [groups, tokens] and means of K and of V {channel: mean}."""
    bits, planes = tile_reader.BITS[codec], b""
    for codes, along_tokens in ((k_codes, False), (v_codes, True)):
        if bits == 3:
            planes += words_of(codes & 3, 2, along_tokens) + words_of(codes >> 2, 1, along_tokens)
        else:
            planes += words_of(codes, bits, along_tokens)
    if bits != 16:
        planes += halves(k_scales) + np.asarray(v_scales, "<f2").tobytes()
        both = [pair for side in means for pair in dict(side).items()]
        planes += b"".join(struct.pack("<e", mean) for _, mean in both)
        planes = pad(planes + b"".join(struct.pack("<H" if max(k_codes.shape[1], v_codes.shape[1]) > 256 else "B", c) for c, _ in both))
    tokens, dim_k = k_codes.shape
    return tile_reader.HEADER.pack(0, tile_reader.MAGIC, codec, 0, tokens, dim_k, v_codes.shape[1], head, 2, *map(len, means), first, 0, 0,
                                   7) + planes


class Reader(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(5)

    def codes(self, codec, tokens, dim):
        if tile_reader.BITS[codec] == 16:
            return self.random.standard_normal((tokens, dim)).astype(np.float16).view(np.uint16).astype(np.int64)
        return self.random.integers(0, 1 << tile_reader.BITS[codec], (tokens, dim))

    def test_codes_and_scales_come_back(self):
        for codec, (tokens, dim_k, dim_v) in [(c, shape) for c in range(6) for shape in ((5, 70, 33), (17, 64, 96), (1, 130, 1))]:
            k, v = self.codes(codec, tokens, dim_k), self.codes(codec, tokens, dim_v)
            groups = {1: lambda d: -(-d // 128), 0: lambda d: 1}.get(codec, lambda d: 2 * -(-d // 64) if codec < 5 else 1)
            sk, sv = (self.random.uniform(1, 2, (groups(d), tokens)).astype(np.float16) for d in (dim_k, dim_v))
            tile = tile_reader.Tile(make_tile(codec, k, v, sk, sv))
            self.assertEqual((tile.tokens, tile.dim_k, tile.dim_v, tile.heads, tile.id), (tokens, dim_k, dim_v, 2, 7))
            for got, codes, scales in ((tile.k, k, sk), (tile.v, v, sv)):
                for t, d in [(t, d) for t in range(tokens) for d in range(codes.shape[1])]:
                    self.assertAlmostEqual(self.number(codec, codes, scales, t, d), got[t, d], 9)

    def number(self, codec, codes, scales, t, d):
        if codec == 0:
            return float(np.uint16(codes[t, d]).view(np.float16))
        if codec == 1:
            return float(scales[d // 128, t]) * (int(codes[t, d]) - 128)
        if codec < 5:
            return float(scales[len(scales) // 2 + d // 64, t]) + float(scales[d // 64, t]) * int(codes[t, d])
        rotated = float(scales[0, t]) * tile_reader.levels(4)[codes[t]]
        return float((tile_reader.rotation(codes.shape[1]).T @ rotated)[d])

    def test_means_are_added(self):
        for codec, (dim_k, dim_v) in [(c, dims) for c in (1, 3, 5) for dims in ((64, 33), (300, 64))]:
            k, v = self.codes(codec, 7, dim_k), self.codes(codec, 7, dim_v)
            groups = {1: lambda d: -(-d // 128)}.get(codec, lambda d: 2 * -(-d // 64) if codec < 5 else 1)
            scales = [np.ones((groups(d), 7)) for d in (dim_k, dim_v)]
            plain = tile_reader.Tile(make_tile(codec, k, v, *scales))
            tile = tile_reader.Tile(make_tile(codec, k, v, *scales, means=({3: 100.0, dim_k - 1: -2.5}, {32: 0.25})))
            more_k, more_v = np.zeros((7, dim_k)), np.zeros((7, dim_v))
            more_k[:, 3], more_k[:, -1], more_v[:, 32] = 100, -2.5, 0.25
            self.assertLess(np.abs(tile.k - plain.k - more_k).max() + np.abs(tile.v - plain.v - more_v).max(), 1e-9)

    def test_levels_are_symmetric_and_rotations_orthogonal(self):
        for bits in (2, 3, 4):
            levels = tile_reader.levels(bits)
            self.assertTrue(levels[-1] == 127 and len(set(levels)) == 1 << bits and (levels == -levels[::-1]).all())
        for dim in (1, 64, 96, 128):
            rotation = tile_reader.rotation(dim)
            self.assertLess(np.abs(rotation @ rotation.T - np.eye(dim)).max(), 1e-12)
        self.assertGreater(np.abs(tile_reader.rotation(96) - np.eye(96)).max(), 0.1)

    def test_damage_is_seen(self):
        data = bytearray(make_tile(1, self.codes(1, 3, 6), self.codes(1, 3, 6), np.ones((1, 3)), np.ones((1, 3))))
        for spoil in (lambda d: d.__setitem__(4, 0), lambda d: d.extend(bytes(16)), lambda d: d.__setitem__(40 + 4 * 3 + 2, 1)):
            spoiled = bytearray(data)
            spoil(spoiled)
            with self.assertRaises(AssertionError):
                tile_reader.Tile(bytes(spoiled))


class Comparison(unittest.TestCase):
    """A dump of one case, of one head dimension, with states made here by plain loops."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.random = folder.name, np.random.default_rng(9)
        self.k, self.v = (self.random.standard_normal((2, 7, 4)).astype(np.float16) for _ in range(2))
        self.case = {"case": 0, "name": "test", "set": 0, "group": 2, "rows": 6, "q_len": 3, "causal": True, "scale": 0.7, "softcap": 3.0,
                     "window": 3, "sinks": 1, "items": [{"total": 6, "spans": [[0, 0, 3], [0, 3, 6]]}]}
        self.queries = self.random.standard_normal((2, 6, 4)).astype(np.float32)

    def state(self, head, row):
        position, logits = 6 - 3 + row % 3, {}
        for t in range(6):
            if t <= position and (t > position - 3 or t < 1):
                logit = 0.7 * float(self.queries[head, row].astype(float) @ self.k[head, t].astype(float))
                logits[t] = 3 * math.tanh(logit / 3)
        m = max(logits.values())
        weights = {t: math.exp(x - m) for t, x in logits.items()}
        return m, sum(weights.values()), sum(w * self.v[head, t].astype(float) for t, w in weights.items())

    def states(self):
        out = []
        for head in range(2):
            rows = [self.state(head, row) for row in range(6)]
            out += [np.array([r[0] for r in rows]), np.array([r[1] for r in rows]), np.concatenate([r[2] for r in rows])]
        return np.concatenate(out).astype(np.float32)

    def check(self, states, bound=1e-5):
        data, places = b"", []
        for head in range(2):
            for first, tokens in ((0, 4), (4, 3)):
                codes = [a[head, first : first + tokens].view(np.uint16).astype(np.int64) for a in (self.k, self.v)]
                tile = make_tile(0, *codes, None, None, head, first)
                places.append([len(data), len(tile)])
                data += tile + bytes(-len(tile) % 8)
        self.case["queries"], self.case["states"] = len(data), len(data) + self.queries.nbytes
        with open(os.path.join(self.folder, "data.bin"), "wb") as out:
            out.write(data + self.queries.tobytes() + states.tobytes())
        tiles = {"set": 0, "codecs": "f16", "kv_heads": 2, "dim_k": 4, "dim_v": 4, "extents": [places]}
        with open(os.path.join(self.folder, "cases.jsonl"), "w", encoding="utf-8") as out:
            out.writelines(json.dumps(line) + "\n" for line in ({"device": "none"}, tiles, self.case, {"end": True, "cases": 1}))
        dump = check_torch.Dump(self.folder)
        return check_torch.check_case(np, dump, check_torch.Heads(dump, np), self.case)

    def test_the_right_answer_is_right(self):
        self.assertLess(self.check(self.states()), 1e-6)

    def test_every_wrong_number_is_found(self):
        right = self.states()
        for i in range(0, len(right), 5):
            for wrong in (right[i] + np.float32(0.01), np.float32(math.nan), np.float32(math.inf)):
                states = right.copy()
                states[i] = wrong
                self.assertGreater(self.check(states), 1e-4, (i, wrong))

    def test_another_rule_of_sight_is_found(self):
        for name, value in (("window", 4), ("sinks", 0), ("causal", False), ("q_len", 2), ("softcap", 0.0), ("scale", 0.71)):
            right, self.case[name] = self.case[name], value
            self.assertGreater(self.check(self.states()), 1e-4, name)
            self.case[name] = right

    def test_a_row_that_sees_nothing_is_exactly_empty(self):
        empty = np.array([-math.inf]), np.zeros(1), np.zeros((1, 4)), np.zeros(1)
        self.assertEqual(check_torch.largest_error(empty[:3], empty), 0)
        for i, value in ((0, -1e30), (1, 1e-30), (2, 1e-30)):
            got = [a.copy() for a in empty[:3]]
            got[i].flat[0] = value
            self.assertEqual(check_torch.largest_error(got, empty), math.inf)

    def test_a_dump_that_lacks_geometries_or_its_end_fails(self):
        self.check(self.states())
        options = argparse.Namespace(folder=self.folder, bound=1e-5, few=False, numpy=True, json=None)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(check_torch.check(options), 1)
        self.assertIn("no answer for codec int2", said.getvalue())
        path = os.path.join(self.folder, "cases.jsonl")
        with open(path, encoding="utf-8") as lines:
            kept = lines.readlines()[:-1]
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(kept)
        with self.assertRaises(SystemExit):
            check_torch.Dump(self.folder)


class Judgement(unittest.TestCase):
    def finished(self, output, status=0, timed_out=False):
        return machine.Finished(status, output, 1.0, timed_out)

    def test_a_sanitizer_passes_only_by_its_own_word(self):
        for output, status, passed in (("========= ERROR SUMMARY: 0 errors", 0, True),
                                       ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, True),
                                       ("========= ERROR SUMMARY: 0 errors\n========= ERROR SUMMARY: 3 errors", 0, False),
                                       ("========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)", 0, False),
                                       ("========= ERROR SUMMARY: 0 errors", 86, False), ("36 cases by a GPU", 0, False), ("", 0, False)):
            self.assertEqual(machine_steps.judge_sanitizer("x", self.finished(output, status)).good, passed, output)
        self.assertFalse(machine_steps.judge_sanitizer("x", self.finished("========= ERROR SUMMARY: 0 errors", -9, True)).good)

    def test_what_is_missing_is_no_success(self):
        self.assertFalse(machine.Result("x", machine.MISSING, "no tool").good)
        self.assertFalse(machine.Result("x", machine.FAILED, "").good)
        self.assertTrue(machine.Result("x", machine.OK, "").good)

    def test_a_command_ends_at_its_limit_with_all_it_started(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "alive")
            begun = time.monotonic()
            finished = machine.run(["sh", "-c", f"(sleep 3; touch {path}) & wait"], 1)
            self.assertTrue(finished.timed_out and not finished.ok and time.monotonic() - begun < 2.5)
            time.sleep(2.5)
            self.assertFalse(os.path.exists(path))

    def test_every_part_builds_and_every_step_is_in_a_part(self):
        self.assertEqual({name for names in machine_steps.PARTS.values() for name in names}, set(machine_steps.STEPS))
        self.assertTrue(all("build" in names for names in machine_steps.PARTS.values()))

    def test_shares_are_those_of_the_best_batch(self):
        rows = [{"codec": "int8", "head_dim": d, "batch": b, "share": s} for d, b, s in ((64, 1, 0.1), (64, 8, 0.8), (128, 8, 0.9))]
        self.assertTrue(machine_steps.shares([json.dumps(row) for row in rows]).endswith("int8 80 to 90 % (75)"))

    def test_the_table_puts_the_faster_pytorch_beside_each_row(self):
        row = {"codec": "int4", "head_dim": 128, "batch": 8, "kv_heads": 8, "rows": 4, "tokens": 8192, "ms": 0.05, "gb_per_s": 2000.0, "share": 0.66}
        peers = {(128, 8, 8, 4, 8192): {"float16": {"us": 300.0}, "bfloat16": {"us": 200.0}}}
        line = time_torch.table([row], peers)[1]
        self.assertTrue(line.startswith("int4 ") and line.endswith(" 4.00") and " 50.0" in line and " 66 %" in line, line)


if __name__ == "__main__":
    unittest.main()
