#!/usr/bin/env python3
"""Compares states of attention that the helper program gave with PyTorch's in float64, over tiles that tile_reader.py decodes.

    check_torch.py FOLDER [--bound 1e-5] [--few] [--numpy] [--json FILE]

FOLDER is what dump_cases has written. For every row of queries: the largest logit m, the log-sum-exp m + log l, both relative where
they are beyond 1, and the output o / l, relative to the mean of the largest |value| of the tokens, by weight. A row that sees nothing must be
exactly m = -inf, l = 0, o = 0. Exit status 1: an error beyond the bound, or a codec or geometry that the dump lacks.
--numpy computes the same by numpy, for a machine without PyTorch.
"""

import argparse
import collections
import json
import math
import os
import sys
import time

# Many small products: threads would wait for each other longer than they work. Read when the libraries are loaded.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import numpy as np
import tile_reader

DIMS, GROUPS = (64, 96, 128, 256), (1, 3, 4, 8)
MAY_BE_REFUSED = "values that are part of the keys"


class Dump:
    def __init__(self, folder):
        self.data = np.memmap(os.path.join(folder, "data.bin"), np.uint8, "r")
        self.sets, self.cases, self.device, self.end = {}, [], None, None
        with open(os.path.join(folder, "cases.jsonl"), encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if "device" in line:
                    self.device = line["device"]
                elif "case" in line:
                    self.cases.append(line)
                elif "set" in line:
                    self.sets[line["set"]] = line
                elif "end" in line:
                    self.end = line
        if self.end is None or self.end["cases"] != len(self.cases):
            raise SystemExit("check_torch: the dump is not complete")

    def floats(self, at, *shape):
        count = math.prod(shape)
        return self.data[at : at + 4 * count].view("<f4").reshape(shape).astype(np.float64)

    def tile(self, at, size):
        return tile_reader.Tile(self.data[at : at + size].tobytes())


class Heads:
    """Decoded tokens of the sets: of(set, extent, head) gives positions, keys and values."""

    def __init__(self, dump, lib):
        self.dump, self.lib, self.set, self.known, self.tiles = dump, lib, None, {}, 0

    def of(self, number, extent, head):
        if number != self.set:  # cases of a set follow each other
            self.set, self.known = number, {}
            for e, places in enumerate(self.dump.sets[number]["extents"]):
                self._decode(e, places)
        return self.known[extent, head]

    def _decode(self, extent, places):
        found = collections.defaultdict(list)
        for at, size in places:
            tile = self.dump.tile(at, size)
            found[tile.head].append(tile)
            self.tiles += 1
        for head, tiles in found.items():
            positions = np.concatenate([np.arange(t.first, t.first + t.tokens) for t in tiles])
            keys, values = np.concatenate([t.k for t in tiles]), np.concatenate([t.v for t in tiles])
            self.known[extent, head] = tuple(self.lib.asarray(a) for a in (positions, keys, values))


def visible(lib, case, item, positions):
    """[q_len, tokens]: which positions each query position sees."""
    query = item["total"] - case["q_len"] + lib.asarray(np.arange(case["q_len"]))[:, None]
    end = lib.minimum(query + 1, lib.asarray(np.array(item["total"]))) if case["causal"] else query * 0 + item["total"]
    seen = positions[None, :] < end
    if case["window"] > 0:
        seen = seen & ((positions[None, :] > query - case["window"]) | (positions[None, :] < case["sinks"]))
    return seen


def attend(lib, case, item, heads, head, queries):
    """m, l, o and the size that errors of o / l are measured by, of queries [rows, dim_k]."""
    parts = []
    for extent, begin, end in item["spans"]:
        positions, keys, values = heads.of(case["set"], extent, head)
        inside = (positions >= begin) & (positions < end)
        parts.append((positions[inside], keys[inside], values[inside]))
    positions, keys, values = (lib.concatenate(column) for column in zip(*parts))
    logits = case["scale"] * (queries @ keys.T)
    if case["softcap"] > 0:
        logits = case["softcap"] * lib.tanh(logits / case["softcap"])
    rows = len(queries)
    seen = visible(lib, case, item, positions)[lib.asarray(np.arange(rows) % case["q_len"])]
    logits = lib.where(seen, logits, -math.inf)
    m = lib.amax(logits, 1)
    weights = lib.where(seen, lib.exp(logits - lib.where(m > -math.inf, m, 0.0)[:, None]), 0.0)
    largest = lib.amax(lib.abs(values), 1)
    return tuple(np.asarray(x) for x in (m, weights.sum(1), weights @ values, weights @ largest))


def largest_error(got, wanted):
    """Of one state, over its rows. Anything that is no number counts as infinite."""
    (m, l, o), (m0, l0, o0, size) = got, wanted
    empty = l0 == 0
    if empty.any() and not (np.all(m[empty] == -math.inf) and np.all(l[empty] == 0) and np.all(o[empty] == 0)):
        return math.inf
    if empty.all():
        return 0.0
    m, l, o, m0, l0, o0, size = (a[~empty] for a in (m, l, o, m0, l0, o0, size))
    with np.errstate(all="ignore"):
        lse, lse0 = m + np.log(l), m0 + np.log(l0)
        errors = [
            np.abs(m - m0) / np.maximum(1, np.abs(m0)),
            np.abs(lse - lse0) / np.maximum(1, np.abs(lse0)),
            np.abs(o / l[:, None] - o0 / l0[:, None]) / np.maximum(size / l0, 1e-30)[:, None],
        ]
    worst = max(float(e.max()) for e in errors)
    return worst if all(np.isfinite(e).all() for e in errors) else math.inf


def check_case(lib, dump, heads, case):
    tiles = dump.sets[case["set"]]
    n, rows = tiles["kv_heads"], case["rows"]
    queries = dump.floats(case["queries"], len(case["items"]), n, rows, tiles["dim_k"])
    states = dump.floats(case["states"], len(case["items"]), n, rows * (2 + tiles["dim_v"]))
    worst = 0.0
    for i, item in enumerate(case["items"]):
        for head in range(n):
            state = states[i, head]
            got = state[:rows], state[rows : 2 * rows], state[2 * rows :].reshape(rows, tiles["dim_v"])
            wanted = attend(lib, case, item, heads, head, lib.asarray(queries[i, head]))
            worst = max(worst, largest_error(got, wanted))
    return worst


def describe(dump, case):
    tiles = dump.sets[case["set"]]
    return f"{tiles['codecs']} {tiles['dim_k']}/{tiles['dim_v']}, {case['group']} query heads a KV head, {case['name']}"


def lacking(dump, answered, few):
    """Codecs and geometries that have no answer, though they must."""
    names = ["mixed", *("int%s" % n[3] if n.endswith("rotated") else n for n in tile_reader.CODECS)]
    wanted = {(codec, dim, group) for codec in names for dim in DIMS for group in ((4,) if few or codec == "mixed" else GROUPS)}
    have = {(dump.sets[c["set"]]["codecs"], dump.sets[c["set"]]["dim_k"], c["group"]) for c in answered}
    return sorted(wanted - have)


def torch_or_numpy(numpy_only):
    if numpy_only:
        return np, "numpy " + np.__version__
    import torch

    return torch, "PyTorch " + torch.__version__


def table(worst):
    """Largest error, a row a codec, a column a head dimension."""
    print(f"{'largest error':14}" + "".join(f"{name:>10}" for name in [*DIMS, "other"]))
    for codec in dict.fromkeys(codec for codec, _ in worst):
        cells = [worst.get((codec, f"{dim}/{dim}")) for dim in DIMS]
        rest = [e for (c, dims), e in worst.items() if c == codec and len(set(dims.split("/"))) == 2]
        print(f"{codec:14}" + "".join(f"{'-' if e is None else f'{e:.1e}':>10}" for e in [*cells, max(rest, default=None)]))


def check(options):
    lib, by = torch_or_numpy(options.numpy)
    begun = time.monotonic()
    dump = Dump(options.folder)
    heads, worst, failed, refused, answered = Heads(dump, lib), {}, [], collections.Counter(), []
    most, most_case = -1.0, None
    for case in dump.cases:
        if "refused" in case:
            refused[case["refused"]] += 1
            continue
        error = check_case(lib, dump, heads, case)
        answered.append(case)
        tiles = dump.sets[case["set"]]
        key = tiles["codecs"], f"{tiles['dim_k']}/{tiles['dim_v']}"
        worst[key] = max(worst.get(key, 0.0), error)
        if error > most:
            most, most_case = error, describe(dump, case)
        if not error <= options.bound:
            failed.append(f"{describe(dump, case)}: error {error:.2g}")
    table(worst)
    for reason, count in refused.items():
        print(f"refused by the device: {count} cases: {reason}")
        if MAY_BE_REFUSED not in reason:
            failed.append(f"{count} cases refused: {reason}")
    failed += [f"no answer for codec {c}, dimension {d}, {g} query heads a KV head" for c, d, g in lacking(dump, answered, options.few)]
    for line in failed[:20]:
        print("FAILED: " + line)
    print(f"{len(answered)} cases, {heads.tiles} tiles by {dump.device}, against {by} in float64: largest error {most:.2g} ({most_case}), "
          f"bound {options.bound:g}; {time.monotonic() - begun:.0f} s")
    if options.json:
        record = {"what": "torch", "device": dump.device, "by": by, "cases": len(answered), "refused": sum(refused.values()), "tiles": heads.tiles,
                  "bound": options.bound, "largest_error": most, "worst_case": most_case, "failed": len(failed),
                  "errors": {" ".join(key): error for key, error in worst.items()}}
        with open(options.json, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
    return 1 if failed or not answered else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--bound", type=float, default=1e-5)
    parser.add_argument("--few", action="store_true", help="the dump was made with --few")
    parser.add_argument("--numpy", action="store_true")
    parser.add_argument("--json")
    return check(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
