"""NumPy arrays as PostgreSQL's kv.tensor through psycopg 3, both ways, binary (and text where a query asks for text).

Binary: version 1, dtype, dimensions, zero (a byte each), the shape as big-endian int32, then the elements little-endian.
Arrays of float32 and float16 travel as they are; a bf16 tensor arrives as float32, which holds every bf16 exactly.
"""

import re
import struct

import numpy as np
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

VERSION = 1
DTYPES = {0: np.dtype("<f4"), 1: np.dtype("<f2")}
CODES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}
BF16 = 2
MOST_DIMENSIONS = 5
TEXT = re.compile(r"(f32|f16|bf16)\[([\d, ]*)\]\{(.*)\}", re.DOTALL)


def to_binary(array):
    """The bytes of a kv.tensor."""
    code = CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"kv.tensor holds float32 and float16, not {array.dtype}")
    if array.ndim > MOST_DIMENSIONS:
        raise ValueError(f"kv.tensor has up to {MOST_DIMENSIONS} dimensions, not {array.ndim}")
    head = struct.pack(f">4B{array.ndim}i", VERSION, code, array.ndim, 0, *array.shape)
    return head + np.ascontiguousarray(array, DTYPES[code]).tobytes()


def from_binary(data):
    """The array in the bytes of a kv.tensor; a view of them unless it is bf16."""
    data = memoryview(data)
    version, code, dimensions, _ = struct.unpack_from(">4B", data)
    if version != VERSION:
        raise ValueError(f"kv.tensor version {version} is not known")
    shape = struct.unpack_from(f">{dimensions}i", data, 4)
    elements = data[4 + 4 * dimensions :]
    if code == BF16:
        return (np.frombuffer(elements, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    return np.frombuffer(elements, DTYPES[code]).reshape(shape)


def from_text(text):
    """The array in what PostgreSQL prints: f16[2,3]{1,2,3,4,5,6}."""
    match = TEXT.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a kv.tensor: {text[:40]!r}")
    dtype, shape, values = match.groups()
    kind = np.float16 if dtype == "f16" else np.float32
    return np.array([float(value) for value in values.split(",") if value.strip()], kind).reshape(
        [int(size) for size in shape.split(",") if size.strip()]
    )


class TensorDumper(Dumper):
    format = Format.BINARY

    def dump(self, array):
        return to_binary(array)


class TensorLoader(Loader):
    format = Format.BINARY

    def load(self, data):
        return from_binary(bytes(data))


class TensorTextLoader(Loader):
    format = Format.TEXT

    def load(self, data):
        return from_text(bytes(data).decode())


def register(connection):
    """Makes NumPy arrays parameters and results of the type kv.tensor on this connection."""
    info = TypeInfo.fetch(connection, "kv.tensor")
    if info is None:
        raise LookupError("the type kv.tensor does not exist; CREATE EXTENSION vectorkv CASCADE makes it")
    info.register(connection)

    class KnownDumper(TensorDumper):
        oid = info.oid

    connection.adapters.register_dumper(np.ndarray, KnownDumper)
    connection.adapters.register_loader(info.oid, TensorLoader)
    connection.adapters.register_loader(info.oid, TensorTextLoader)
