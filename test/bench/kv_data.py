"""Attention problems of any size made of the keys, values and queries of a real model, and what a right answer is.

The file (k_post, v [layer, kv_head, token, 64], q [layer, q_head, position, 64], halves) is one text of a model with
3 query heads a KV head. A KV head of a problem is one or more of its heads side by side (dim / 64); more tokens than
the file has are the same again with noise of 5 % of each dimension's deviation, so that no two keys are equal; the
sequences of a batch are other layers.
"""

import os
import re
import tempfile
from dataclasses import dataclass

import numpy as np

HEAD = 64
NOISE = 0.05
SEED = 4


@dataclass(frozen=True)
class Shape:
    tokens: int
    batch: int
    q_heads: int
    kv_heads: int
    dim: int

    @property
    def name(self):
        return f"{self.tokens}x{self.batch}_{self.q_heads}of{self.kv_heads}x{self.dim}"

    @property
    def title(self):
        return f"{self.tokens:,} × {self.batch}, {self.q_heads}/{self.kv_heads} × {self.dim}"

    @property
    def elements(self):
        return 2 * self.batch * self.kv_heads * self.tokens * self.dim


SHAPES = [Shape(t, b, *heads) for heads in ((9, 3, 64), (32, 8, 128)) for t in (4096, 32768) for b in (1, 8)]


def shapes_named(text):
    """Shapes by name, TOKENSxBATCH_QUERYHEADSofKVHEADSxDIM, separated by commas; 'all' for those of the tables."""
    if text == "all":
        return SHAPES
    found = [re.fullmatch(r"(\d+)x(\d+)_(\d+)of(\d+)x(\d+)", name) for name in text.split(",")]
    shapes = [Shape(*map(int, match.groups())) for match in found if match]
    wrong = [shape for shape in shapes if shape.dim % HEAD or shape.q_heads % shape.kv_heads]
    if None in found or wrong:
        names = ", ".join(shape.name for shape in SHAPES)
        raise SystemExit(f"{text}: shapes are named as {names}; dimensions are multiples of {HEAD}")
    return shapes


class Source:
    """The heads of the file as a list of streams: keys, values [tokens, 64], queries [group, position, 64]."""

    def __init__(self, path):
        with np.load(path) as file:
            keys, values, queries = file["k_post"], file["v"], file["q"]
        layers, heads, self.tokens, _ = keys.shape
        group = queries.shape[1] // heads
        self.keys = keys.reshape(layers * heads, self.tokens, HEAD)
        self.values = values.reshape(layers * heads, self.tokens, HEAD)
        self.queries = queries.reshape(layers * heads, group, -1, HEAD)

    def stretched(self, stream, tokens, random):
        """Keys and values of one stream, as many tokens as asked."""
        out = []
        for plane in (self.keys[stream], self.values[stream]):
            noise = plane.astype(np.float32).std(axis=0) * NOISE
            parts = [plane]
            for _ in range(-(-tokens // self.tokens) - 1):
                parts.append((plane + random.standard_normal(plane.shape, np.float32) * noise).astype(np.float16))
            out.append(np.concatenate(parts)[:tokens])
        return out

    def query(self, stream, row):
        group, positions = self.queries.shape[1:3]
        return self.queries[stream, row % group, positions - 1 - row // group % positions]


@dataclass
class Problem:
    shape: Shape
    q: np.ndarray  # [batch, q_heads, dim] f32, exact halves
    k: np.ndarray  # [batch, kv_heads, tokens, dim] f16
    v: np.ndarray
    truth: np.ndarray  # [batch, q_heads, dim] f64

    @property
    def scale(self):
        return self.shape.dim**-0.5


def make(source, shape):
    random = np.random.default_rng(SEED)
    sides = shape.dim // HEAD
    group = shape.q_heads // shape.kv_heads
    q = np.empty((shape.batch, shape.q_heads, shape.dim), np.float32)
    k = np.empty((shape.batch, shape.kv_heads, shape.tokens, shape.dim), np.float16)
    v = np.empty_like(k)
    for b in range(shape.batch):
        for h in range(shape.kv_heads):
            for side in range(sides):
                stream = ((b * shape.kv_heads + h) * sides + side) % len(source.keys)
                part = slice(side * HEAD, side * HEAD + HEAD)
                k[b, h, :, part], v[b, h, :, part] = source.stretched(stream, shape.tokens, random)
                for row in range(group):
                    q[b, h * group + row, part] = source.query(stream, row)
    return Problem(shape, q, k, v, attention(q, k, v, shape.dim**-0.5))


def attention(q, k, v, scale):
    """Attention in float64, a KV head at a time."""
    batch, q_heads, _ = q.shape
    group = q_heads // k.shape[1]
    out = np.empty((batch, q_heads, v.shape[3]))
    for b in range(batch):
        for h in range(k.shape[1]):
            rows = slice(h * group, (h + 1) * group)
            logits = q[b, rows].astype(np.float64) @ k[b, h].astype(np.float64).T * scale
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            out[b, rows] = weights @ v[b, h].astype(np.float64) / weights.sum(axis=1, keepdims=True)
    return out


def error(got, truth):
    """The largest relative error of an output vector."""
    got = np.asarray(got, np.float64).reshape(truth.shape)
    if not np.isfinite(got).all():
        return float("inf")
    return float((np.linalg.norm(got - truth, axis=-1) / np.linalg.norm(truth, axis=-1)).max())


def loss(got, truth):
    """The relative error of all outputs together: what a codec loses, not spoilt by one output that nearly cancels out."""
    got = np.asarray(got, np.float64).reshape(truth.shape)
    return float(np.linalg.norm(got - truth) / np.linalg.norm(truth)) if np.isfinite(got).all() else float("inf")


class Shelf:
    """Problems kept as files, so that every process that measures reads the same."""

    def __init__(self, source, shapes):
        self.folder = tempfile.TemporaryDirectory(
            prefix="kv-problems-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
        )
        for shape in shapes:
            problem = make(source, shape)
            for name in ("q", "k", "v", "truth"):
                np.save(os.path.join(self.folder.name, f"{shape.name}.{name}.npy"), getattr(problem, name))

    @property
    def path(self):
        return self.folder.name


def take(folder, shape):
    return Problem(
        shape, *(np.load(os.path.join(folder, f"{shape.name}.{name}.npy")) for name in ("q", "k", "v", "truth"))
    )
