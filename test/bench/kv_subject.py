"""A server with the extension vectorkv, caches in it, and how their answers are judged.

An answer is compared with attention in float64 over what kv.fetch decodes: the kernel's own error. The error against
the tensors as they were given, which holds the codec's, must stay below a limit a codec as well.
"""

import os
import sys
import time
from dataclasses import dataclass, field

import kv_data
import numpy as np
import psycopg
from cluster import Cluster, CpuClock
from data_set import Refused

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "examples", "llm"))
import tensors  # noqa: E402

KERNEL_LIMIT = 2e-5  # of an output vector; float32 results of states that are right to 1e-5
CODEC_LIMITS = {"f16": 2e-5, "int8": 0.05, "int4": 0.4, "int3": 0.7, "int2": 1.2}  # of all outputs together
CHUNK = 4096  # tokens an append
FETCH = 32768  # tokens a fetch


def guarded(stage):
    """Makes a refusal, or an error of the server, a row of its own."""

    def run(server, *arguments):
        try:
            return stage(server, *arguments)
        except (Refused, psycopg.Error) as reason:
            return {"refused": str(reason).splitlines()[0]}

    return run


@dataclass
class Times:
    """Wall seconds and CPU seconds of the backend, a call each."""

    walls: list = field(default_factory=list)
    cpus: list = field(default_factory=list)

    def figures(self):
        return {
            "best": min(self.walls),
            "median": float(np.median(self.walls)),
            "p95": float(np.percentile(self.walls, 95)),
            "mean": float(np.mean(self.walls)),
            "cpu": float(np.median(self.cpus)),
            "cpu_best": min(self.cpus),
            "calls": len(self.walls),
        }


class Server:
    def __init__(self, options):
        settings = {"shared_buffers": options.shared_buffers, "max_parallel_workers_per_gather": "0", **options.settings}
        self.cluster = Cluster("kv", options.ours, options.run_as, settings, options.work)
        self.cluster.start()
        self.connect()

    def connect(self):
        self.connection = psycopg.connect(self.cluster.dsn, autocommit=True)
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vectorkv CASCADE")
        tensors.register(self.connection)
        self.clock = CpuClock(self.connection.info.backend_pid)

    def run(self, query, *parameters):
        return self.connection.execute(query, parameters or None, prepare=True, binary=True)

    def one(self, query, *parameters):
        return self.run(query, *parameters).fetchone()[0]

    def wal(self):
        return int(self.one("SELECT pg_current_wal_insert_lsn() - '0/0'"))

    def timed(self, call, seconds, least=5):
        """Calls again and again: Times."""
        times = Times()
        call()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or len(times.walls) < least:
            self.time_into(times, call)
        return times

    def time_into(self, times, call):
        cpu, wall = self.clock.seconds(), time.perf_counter()
        result = call()
        times.walls.append(time.perf_counter() - wall)
        times.cpus.append(self.clock.seconds() - cpu)
        return result

    def stop(self):
        try:
            self.connection.close()
        finally:
            self.cluster.stop()


class Cache:
    """A cache of one geometry, with sequences 1 .. batch."""

    def __init__(self, server, name, layers, shape, codec, **more):
        self.server, self.name, self.shape, self.codec = server, name, shape, codec
        self.sequences = list(range(1, shape.batch + 1))
        arguments = {
            "layers": layers,
            "q_heads": shape.q_heads,
            "kv_heads": shape.kv_heads,
            "head_dim": shape.dim,
            "codec": codec,
            **more,
        }
        listed = ", ".join(f"{key} => %s" for key in arguments)
        server.run(f"SELECT kv.create_cache(%s, {listed})", name, *arguments.values())

    def append(self, sequence, k, v):
        """k, v [layers, kv_heads, tokens, dim]; the length of the sequence."""
        return self.server.one("SELECT kv.append(%s::text::regclass, %s, %s, %s)", self.name, sequence, k, v)

    def fill(self, problem):
        for b, sequence in enumerate(self.sequences):
            for start in range(0, problem.k.shape[2], CHUNK):
                part = slice(start, start + CHUNK)
                self.append(sequence, problem.k[None, b, :, part], problem.v[None, b, :, part])

    def attend(self, q, layer=0):
        call = "SELECT kv.attend(%s::text::regclass, %s::bigint[], %s, %s)"
        return self.server.one(call, self.name, self.sequences, layer, q)

    def decoded(self, sequence, layer=0):
        """(k, v) as f32, fetched in parts: a row of a large cache would be larger than PostgreSQL's rows may be."""
        length = self.server.one("SELECT kv.length(%s::text::regclass, %s)", self.name, sequence)
        fetch = "SELECT (f).k, (f).v FROM kv.fetch(%s::text::regclass, %s, %s, %s, %s, 'f32') f"
        parts = [
            self.server.run(fetch, self.name, sequence, layer, first, min(FETCH, length - first)).fetchone()
            for first in range(0, max(length, 1), FETCH)
        ]
        return tuple(np.concatenate(side, axis=1) for side in zip(*parts, strict=True))

    def judge(self, problem, got=None):
        """(error of the kernel, error with the codec's); refuses a wrong answer."""
        got = self.attend(problem.q) if got is None else got
        kernel = 0.0
        for b, sequence in enumerate(self.sequences):
            k, v = self.decoded(sequence)
            truth = kv_data.attention(problem.q[b : b + 1], k[None], v[None], problem.scale)
            kernel = max(kernel, kv_data.error(got[b], truth[0]))
        whole = kv_data.loss(got, problem.truth)
        if not kernel <= KERNEL_LIMIT:
            raise Refused(f"relative error {kernel:.2g} against float64 on the decoded tensors")
        if not whole <= CODEC_LIMITS[self.codec]:
            raise Refused(f"relative error {whole:.2g} against the tensors given")
        return kernel, whole

    def sizes(self):
        """Bytes of the tables with their indexes."""
        found = {}
        for table in ("", "_sealed", "_tail"):
            found[table.strip("_") or "header"] = self.server.one(
                "SELECT pg_total_relation_size(%s::text::regclass)", self.name + table
            )
        return found

    def drop(self):
        self.server.run("SELECT kv.drop_cache(%s::text::regclass)", self.name)
