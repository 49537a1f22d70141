"""Where a model keeps its keys and values: in a table of PostgreSQL, or, to compare with, in this process.

Both have length (tokens held), attend(layer, q, k, v) and append(k, v) as model.py describes them. PostgresCache computes nothing:
each attend is one call of kv.attend, each append one of kv.append a sequence.
"""

import numpy as np
import psycopg
import tensors
from psycopg import sql


class MemoryCache:
    """Attention in NumPy over arrays of this process; halves=True rounds what it keeps and sees to float16, as a table does."""

    def __init__(self, config, batch, capacity, halves=False):
        shape = (config.layers, batch, config.kv_heads, capacity, config.dim)
        self.k, self.v = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self.length, self.halves = 0, halves

    def attend(self, layer, q, k, v):
        batch, q_heads, n, dim = q.shape
        kv_heads, total = k.shape[1], self.length + n
        for kept, new in ((self.k, k), (self.v, v)):
            kept[layer, :, :, self.length : total] = new.astype(np.float16) if self.halves else new
        keys, values = self.k[layer, :, :, :total], self.v[layer, :, :, :total]
        rows = q.reshape(batch, kv_heads, -1, dim)
        scores = (rows @ keys.transpose(0, 1, 3, 2) * np.float32(dim**-0.5)).reshape(batch, kv_heads, -1, n, total)
        hidden = np.arange(total)[None] > self.length + np.arange(n)[:, None]
        scores[..., hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights.reshape(batch, kv_heads, -1, total) @ values).reshape(batch, q_heads, n, dim)

    def append(self, k, v):
        """The arrays hold them already: attend put them there."""
        self.length += k.shape[3]


class PostgresCache:
    """A cache of the extension vectorkv with one sequence for each member of the batch; made anew, dropped by close()."""

    def __init__(self, dsn, config, batch, codec, name="llm"):
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vectorkv CASCADE")
        tensors.register(self.connection)
        self.name, self.model, self.length = name, config.name, 0
        self.sequences = list(range(1, batch + 1))
        self.connection.execute("SELECT kv.drop_cache(cache) FROM kv.caches WHERE cache = to_regclass(%s)", (name,))
        self.connection.execute(
            """SELECT kv.create_cache(%s, layers => %s, q_heads => %s, kv_heads => %s, head_dim => %s, codec => %s, model => %s,
                revision => %s, rope_theta => %s, rope_dims => %s, rope_pairing => 'interleaved')""",
            (name, config.layers, config.q_heads, config.kv_heads, config.dim, codec, config.name, config.revision)
            + (config.rope_theta, config.dim),
        )
        nothing = np.empty((config.layers, batch, config.kv_heads, 0, config.dim), np.float16)
        self.append(nothing, nothing)  # the sequences exist before they have a token

    def run(self, query, parameters):
        return self.connection.execute(query, parameters, prepare=True, binary=True).fetchone()[0]

    def attend(self, layer, q, k, v):
        return self.run(
            "SELECT kv.attend(%s::text::regclass, %s::bigint[], %s, %s, k => %s, v => %s)",
            (self.name, self.sequences, layer, q, k.astype(np.float16), v.astype(np.float16)),
        )

    def append(self, k, v):
        """All sequences in one transaction: a token is there for every member of the batch or for none."""
        with self.connection.transaction():
            for i, sequence in enumerate(self.sequences):
                self.run(
                    "SELECT kv.append(%s::text::regclass, %s, %s, %s, model => %s)",
                    (self.name, sequence, k[:, i].astype(np.float16), v[:, i].astype(np.float16), self.model),
                )
        self.length += k.shape[3]

    def stored(self):
        """What lies in the tables: tokens, bytes."""
        tables = [sql.Literal(self.name + suffix) for suffix in ("", "_sealed", "_tail")]
        sizes = sql.SQL(" + ").join(sql.SQL("pg_total_relation_size({}::regclass)").format(table) for table in tables)
        return self.length * len(self.sequences), self.connection.execute(
            sql.SQL("SELECT {}").format(sizes)
        ).fetchone()[0]

    def close(self):
        self.connection.execute("SELECT kv.drop_cache(%s::text::regclass)", (self.name,))
        self.connection.close()
