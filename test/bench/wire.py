"""Vectors as PostgreSQL's binary protocol carries them: parameters and rows of COPY.

A vector is int16 dimensions, int16 zero, then its values, all big-endian; halfvec the same with 2-byte values.
"""

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"
COPY_BLOCK = 2000


class Wire(bytes):
    """The bytes of one vector, sent as a binary parameter of the vector type."""


def layout(dims, kind):
    return np.dtype([("dims", ">i2"), ("zero", ">i2"), ("values", ">f2" if kind == "halfvec" else ">f4", (dims,))])


def wires(vectors, kind):
    records = np.zeros(len(vectors), layout(vectors.shape[1], kind))
    records["dims"], records["values"] = vectors.shape[1], vectors
    return [Wire(record.tobytes()) for record in records]


def copy_blocks(vectors, kind, first_id):
    """COPY BINARY data for (id int4, c int4, v vector), c = id % 100."""
    vector = layout(vectors.shape[1], kind)
    fields = [("count", ">i2"), ("id_len", ">i4"), ("id", ">i4"), ("c_len", ">i4"), ("c", ">i4")]
    row = np.dtype(fields + [("v_len", ">i4"), ("v", vector)])
    yield COPY_HEADER
    for start in range(0, len(vectors), COPY_BLOCK):
        part = vectors[start : start + COPY_BLOCK]
        block = np.zeros(len(part), row)
        ids = np.arange(first_id + start, first_id + start + len(part))
        block["count"], block["id_len"], block["c_len"], block["v_len"] = 3, 4, 4, vector.itemsize
        block["id"], block["c"] = ids, ids % 100
        block["v"]["dims"], block["v"]["values"] = vectors.shape[1], part
        yield block.tobytes()
    yield COPY_END


def register(connection, kind):
    """Makes Wire a binary parameter of the type `kind` on this connection."""
    type_oid = connection.execute("SELECT %s::regtype::oid::int8", (kind,)).fetchone()[0]

    class WireDumper(Dumper):
        format = Format.BINARY
        oid = type_oid

        def dump(self, obj):
            return bytes(obj)

    connection.adapters.register_dumper(Wire, WireDumper)
    return WireDumper
