"""What the way through the GPU helper costs, and what collecting the calls of several sessions brings: its CPU device, over
the real socket and memory, with every tile cached."""

import os
import re
import subprocess
import time

import kv_data
import numpy as np
from data_set import Refused
from kv_subject import Cache, Times, guarded

SETTINGS = {"shared_preload_libraries": "vector", "vectorkv.gpu_device": "cpu"}
CLIENTS = (1, 2, 4, 8, 16)
LAUNCH_US = 1000  # what a launch takes at least, where batches are measured: the same for one call and for sixteen
ASK = """\\set s :client_id + 1
SELECT kv.attend('bench_helper', ARRAY[:s]::bigint[], 0, q) IS NULL FROM bench_query;
"""


def wait_until_ready(server, besides=None):
    """The helper's process id, once one other than `besides` is ready."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        state, pid, reason = server.run("SELECT state, pid, reason FROM kv.gpu_status()").fetchone()
        if state == "ready" and pid != besides:
            return pid
        time.sleep(0.05)
    raise Refused(f"the helper is not ready: {state}, {reason}")


def start_helper(server, arguments):
    """The helper with further arguments."""
    before = wait_until_ready(server)
    program = os.path.join(server.cluster.home, "helper")
    with open(program, "w") as file:
        file.write(f"#!/bin/sh\nexec '{server.cluster.bin}/vectorkv_helper' \"$@\" {arguments}\n")
    os.chmod(program, 0o755)
    server.run(f"ALTER SYSTEM SET vectorkv.gpu_helper = '{program if arguments else ''}'")
    server.run("SELECT pg_reload_conf()")
    wait_until_ready(server, before)


def session(server):
    return server.run("SELECT requests, staged, on_cpu FROM kv.gpu_session()").fetchone()


@guarded
def overhead_one(server, problem, codec, seconds):
    """Calls of one session to the helper and to its own CPU, by turns."""
    cache = Cache(server, "bench_helper", 1, problem.shape, codec)
    try:
        cache.fill(problem)
        server.run("SELECT kv.seal('bench_helper', 1)")
        server.run("SET vectorkv.gpu = require")
        kernel, _ = cache.judge(problem)
        q, times = problem.q, {"require": Times(), "off": Times()}
        for use in times:  # warm: connected, prepared, tiles in the helper and where they lie known
            server.run(f"SET vectorkv.gpu = {use}")
            for _ in range(20):
                cache.attend(q)
        before = session(server)
        until = time.perf_counter() + 2 * seconds
        while time.perf_counter() < until:
            for use, into in times.items():
                server.run(f"SET vectorkv.gpu = {use}")
                for _ in range(20):
                    server.time_into(into, lambda: cache.attend(q))
        after = session(server)
        calls = len(times["require"].walls)
        if after != (before[0] + calls, before[1], before[2]):
            raise Refused(f"{calls} calls became requests, copied tiles and calls on the CPU {before} to {after}")
        helper, here = (times[use].figures() for use in ("require", "off"))
        return {
            "kernel_error": kernel,
            "helper": helper,
            "here": here,
            "overhead": helper["median"] - here["median"],
            "overhead_best": helper["best"] - here["best"],
        }
    finally:
        server.run("RESET vectorkv.gpu")
        cache.drop()


def pgbench(server, clients, seconds):
    """Calls a second of so many sessions, each with a sequence of its own."""
    script = os.path.join(server.cluster.home, "attend.sql")
    with open(script, "w") as file:
        file.write(ASK)
    done = subprocess.run(
        [f"{server.cluster.bin}/pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(seconds)]
        + ["-f", script, server.cluster.dsn],
        env={**os.environ, "PGOPTIONS": "-c vectorkv.gpu=require"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"tps = ([\d.]+) \(without", done.stdout)
    if done.returncode != 0 or not found:
        raise Refused(f"pgbench: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.stdout}")
    return float(found[1])


@guarded
def batches_one(server, problem, codec, seconds):
    """Throughput of 1 to 16 sessions while a launch takes a millisecond at least."""
    cache = Cache(server, "bench_helper", 1, problem.shape, codec)
    try:
        cache.fill(problem)
        for sequence in cache.sequences:
            server.run("SELECT kv.seal('bench_helper', %s)", sequence)
        server.run("CREATE TABLE bench_query AS SELECT %s::kv.tensor AS q", np.ascontiguousarray(problem.q[:1]))
        start_helper(server, f"--launch-delay-us {LAUNCH_US}")
        server.run("SET vectorkv.gpu = require")
        cache.judge(problem)
        figures = {}
        for clients in CLIENTS:
            pgbench(server, clients, 1)
            server.run("SELECT kv.reset_gpu_stats()")
            figures[clients] = pgbench(server, clients, max(1, round(seconds)))
            hits, misses, batch = server.run("SELECT hits, misses, average_batch FROM kv.gpu_stats").fetchone()
            if misses:
                raise Refused(f"{misses} of {hits + misses} tiles were not cached")
            figures[f"batch {clients}"] = batch
        return figures
    finally:
        server.run("RESET vectorkv.gpu")
        server.run("DROP TABLE IF EXISTS bench_query")
        start_helper(server, "")
        cache.drop()


def helper(server, source, options):
    wait_until_ready(server)
    for shape in options.helper_shapes:
        problem = kv_data.make(source, shape)
        for codec in options.write_codecs:
            one = overhead_one if shape.batch == 1 else batches_one
            yield f"{shape.name} {codec}", one(server, problem, codec, options.seconds)
