"""Reads KV tiles with numpy alone, from the description of the format in src/core/kv/tile.h, rotation.h and levels.h: none of the
project's code runs here, so what it decodes is a second opinion. Everything is float64.
"""

import functools
import math
import struct

import numpy as np

CODECS = ["f16", "int8", "int4_uniform", "int3_uniform", "int2_uniform", "int4_rotated", "int3_rotated", "int2_rotated"]
BITS = [16, 8, 4, 3, 2, 4, 3, 2]
VALUES_IN_KEYS, KEYS_BEFORE_ROPE = 1, 2
MAGIC = 0x4B01
HEADER = struct.Struct("<IHBBHHHHHBBIIIQ")  # varlena .. content id
INT8_GROUP, UNIFORM_GROUP = 128, 64
SIGN_SEED = int.from_bytes(b"vkv_tile", "big")


class Tile:
    """Header fields, and k [tokens, dim_k], v [tokens, dim_v]."""

    def __init__(self, data):
        assert len(data) >= HEADER.size, f"{len(data)} bytes are no tile"
        (_, magic, self.codec, self.flags, self.tokens, self.dim_k, self.dim_v, self.head, self.heads, means_k, means_v, self.first, _,
         zero, self.id) = HEADER.unpack_from(data)
        assert magic == MAGIC and self.codec < len(CODECS) and zero == 0, "the header is not one of a tile"
        assert not self.flags & KEYS_BEFORE_ROPE, "keys before their rotary embedding are not read here"
        planes = Planes(data, HEADER.size)
        values = not self.flags & VALUES_IN_KEYS
        k_codes = self._codes(planes, self.dim_k, False)
        v_codes = self._codes(planes, self.dim_v, True) if values else None
        self.k = self._numbers(k_codes, planes, self.dim_k)
        self.v = self._numbers(v_codes, planes, self.dim_v) if values else self.k[:, : self.dim_v]
        if means_k + means_v:
            width = np.uint16 if max(self.dim_k, self.dim_v) > 256 else np.uint8
            channels, means = planes.means(means_k + means_v, width)
            self.k[:, channels[:means_k]] += means[:means_k]  # also of values that are a part of the keys
            self.v[:, channels[means_k:]] += means[means_k:]
        assert planes.at == len(data), f"a tile of {len(data)} bytes ends at {planes.at}"

    @property
    def name(self):
        return CODECS[self.codec]

    def _codes(self, planes, dim, along_tokens):
        bits = BITS[self.codec]
        if bits == 3:
            return planes.codes(2, self.tokens, dim, along_tokens) + 4 * planes.codes(1, self.tokens, dim, along_tokens)
        return planes.codes(bits, self.tokens, dim, along_tokens)

    def _numbers(self, codes, planes, dim):
        if self.name == "f16":
            return codes.astype(np.uint16).view(np.float16).astype(np.float64)
        if self.name == "int8":
            scales = planes.halves(-(-dim // INT8_GROUP), self.tokens)
            return spread(scales, INT8_GROUP, dim) * (codes.astype(np.float64) - 128)
        if "uniform" in self.name:
            groups = -(-dim // UNIFORM_GROUP)
            both = planes.halves(2 * groups, self.tokens)
            return spread(both[groups:], UNIFORM_GROUP, dim) + spread(both[:groups], UNIFORM_GROUP, dim) * codes
        scales = planes.halves(1, self.tokens)
        return (scales.T * levels(BITS[self.codec])[codes]) @ rotation(dim)


class Planes:
    """The planes one after another, each from a multiple of 16 bytes behind the header."""

    def __init__(self, data, start):
        self.data, self.start, self.at, self.end = data, start, start, start

    def take(self, bytes_):
        piece = np.frombuffer(self.data, np.uint8, bytes_, self.at)
        self.end = self.at + bytes_
        self.at += -(-bytes_ // 16) * 16
        return piece

    def means(self, count, width):
        """Channels and means, right behind the last plane: not at a multiple of 16."""
        self.at = self.end
        values = np.frombuffer(self.data, "<f2", count, self.at).astype(np.float64)
        channels = np.frombuffer(self.data, width, count, self.at + 2 * count).astype(np.int64)
        self.at += count * (2 + np.dtype(width).itemsize)
        self.at = self.start + -(-(self.at - self.start) // 16) * 16
        return channels, values

    def codes(self, bits, tokens, dim, along_tokens):
        """[tokens, dim] of codes. Words of K run along the dimensions of a token, words of V along the tokens of a dimension."""
        width = 32 // bits
        run, others = (tokens, dim) if along_tokens else (dim, tokens)
        words = -(-run // width)
        raw = self.take(words * others * 4)
        if bits == 16:
            elements = raw.view("<u2").reshape(words, others, 2)
        else:
            # Element e of a word: byte e % 4, field e / 4 of it.
            fields = np.arange(8 // bits, dtype=np.uint8)[:, None] * np.uint8(bits)
            elements = raw.reshape(words, others, 1, 4) >> fields & np.uint8((1 << bits) - 1)
            elements = elements.reshape(words, others, width)
        rows = elements.transpose(0, 2, 1).reshape(words * width, others)
        assert not rows[run:].any(), "what pads a word is not zero"
        return (rows[:run] if along_tokens else rows[:run].T).astype(np.int64)

    def halves(self, groups, tokens):
        return self.take(groups * tokens * 2).view("<f2").reshape(groups, tokens).astype(np.float64)


def spread(scales, group, dim):
    """[groups, tokens] -> [tokens, dim], the same number for all dimensions of a group."""
    return np.repeat(scales, group, axis=0)[:dim].T


@functools.cache
def levels(bits):
    """Lloyd-Max centroids of N(0, 1) for 2^bits levels, the largest scaled to 127, rounded: found anew by Lloyd's iteration."""
    centroids = np.linspace(0.1, 2.5, 2 ** (bits - 1))
    density = lambda x: math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    for _ in range(5000):
        edges = [0.0, *((centroids[1:] + centroids[:-1]) / 2), math.inf]
        mass = [(math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2))) / 2 for a, b in zip(edges, edges[1:])]
        moment = [density(a) - (density(b) if b < math.inf else 0.0) for a, b in zip(edges, edges[1:])]
        centroids = np.array(moment) / np.array(mass)
    upper = np.rint(centroids * 127 / centroids[-1])
    return np.concatenate([-upper[::-1], upper])


@functools.cache
def signs(which):
    """The random signs of set 0 or 1, of 1,024 dimensions: bits of SplitMix64, 1 is negative."""
    mask, state, out = 2**64 - 1, SIGN_SEED, []
    for _ in range(32):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        z ^= z >> 31
        out += [-1.0 if z >> i & 1 else 1.0 for i in range(64)]
    return np.array(out).reshape(2, 1024)[which]


@functools.cache
def rotation(dim):
    """R as a matrix [dim, dim]: R x = rotation @ x. A row of rotated numbers y becomes R^-1 y by y @ rotation, since R is orthogonal."""
    size = 1 << (dim.bit_length() - 1)
    hadamard = np.array([[1.0]])
    while len(hadamard) < size:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    hadamard /= math.sqrt(size)
    first, last = np.eye(dim), np.eye(dim)
    first[:size, :size] = hadamard
    last[dim - size :, dim - size :] = hadamard
    whole = first * signs(0)[:dim]
    return whole if size == dim else (last * signs(1)[:dim]) @ whole
