#!/usr/bin/env python3
"""Recall under the inner product over vectors of unlike length, beside pgvector: what was built, what was inserted.

For each data set and way of making the index: recall@10 of one LIMIT 10 scan for each query at ef_search 40 and 100, and
the backend's CPU seconds of making it (one thread). Medians of --runs indexes of other seeds, with the lowest and highest.
An answer that lacks rows, has one twice or does not come from the index, and an index that hnsw_check finds fault with,
end the run.
"""

import argparse
import statistics
import sys

import numpy as np
import psycopg
from cluster import Cluster, CpuClock, Stopwatch
from data_set import Refused, load
from report import machine, number, replace_section, spread
from wire import copy_blocks, register, wires

K, EF = 10, (40, 100)
WAYS = ("built", "two thirds built", "created empty")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", help="an ann-benchmarks HDF5 file of vectors of one length (embeddings)")
    add("--heads", help="an .npz file of attention: k_NAME, q_NAME")
    add("--ours", required=True, metavar="PREFIX", help="an installation of PostgreSQL with the extension")
    add("--pgvector", required=True, metavar="PREFIX", help="one with pgvector")
    add("--run-as", default="postgres", help="user of the servers when called by root")
    add("--n", type=int, default=4000, help="rows of each data set")
    add("--queries", type=int, default=100)
    add("--runs", type=int, default=3)
    add("--document", help="a Markdown file whose section gets the table")
    add("--section", default="inner-product")
    return parser.parse_args(arguments)


def pseudo(i, j):
    return np.sin(i * 12.9898 + j * 78.233 + i * j * 0.137)


def data_sets(options):
    """(name, rows, queries)"""
    n, q = options.n, options.queries
    i, j = np.arange(1, n + 1)[:, None], np.arange(1, 17)[None, :]
    ratings = (5 + pseudo(i, j)) * np.exp(pseudo(i, 99))
    yield f"one half-space, {n} × 16, queries anywhere", ratings, pseudo(-np.arange(1, q + 1)[:, None], j)
    data = load(options.data, n, q, 1, "vector")
    mean, random = data.rows.mean(0), np.random.default_rng(1)
    for offset, sigma in ((None, 0.2), (None, 0.6), (0.02, 0.7), (0.03, 0.2)):
        moved = 0 if offset is None else mean + offset
        lengths = np.exp(sigma * random.standard_normal(n))[:, None]
        where = "" if offset is None else f", moved by their mean and {offset}"
        yield f"embeddings × e^({sigma} N){where}, {n} × {data.dims}", (data.rows + moved) * lengths, data.queries + moved
    if options.heads:
        with np.load(options.heads) as heads:
            for name in sorted(key[2:] for key in heads.files if key.startswith("k_")):
                keys, queries = heads[f"k_{name}"][:n], heads[f"q_{name}"][:q]
                yield f"attention, {name} head, {len(keys)} × {keys.shape[1]}", keys, queries


class Subject:
    def __init__(self, name, prefix, user):
        self.ours = name == "vectorkv"
        self.cluster = Cluster(name, prefix, user, {"shared_buffers": "1GB", "maintenance_work_mem": "1GB"})

    def start(self):
        self.cluster.start()
        self.connection = psycopg.connect(self.cluster.dsn, autocommit=True)
        self.run("CREATE EXTENSION vector")
        register(self.connection, "vector")
        self.run("SET enable_seqscan = off")
        self.run("SET max_parallel_maintenance_workers = 0")
        self.clock = CpuClock(self.connection.info.backend_pid)

    def run(self, *statement):
        return self.connection.execute(*statement)

    def insert(self, rows, first):
        with self.connection.cursor() as cursor, cursor.copy("COPY t FROM STDIN WITH (FORMAT binary)") as sink:
            for block in copy_blocks(rows, "vector", first):
                sink.write(block)

    def make(self, rows, way, seed):
        """CPU seconds of the index."""
        before = {"built": len(rows), "two thirds built": len(rows) * 2 // 3, "created empty": 0}[way]
        self.run("DROP TABLE IF EXISTS t")
        self.run(f"CREATE TABLE t (id int4, c int4, v vector({rows.shape[1]}))")
        if self.ours:
            self.run(f"SET vectorkv.build_seed = {seed}")
        self.insert(rows[:before], 0)
        with Stopwatch(self.clock) as watch:
            self.run("CREATE INDEX ON t USING hnsw (v vector_ip_ops)")
            self.insert(rows[before:], before)
        if self.ours and (faults := self.run("SELECT * FROM hnsw_check('t_v_idx')").fetchall()):
            raise Refused(f"hnsw_check: {faults[0]}")
        return watch.cpu

    def recall(self, queries, nearest, ef):
        self.run(f"SET hnsw.ef_search = {ef}")
        ask, hits = f"SELECT id FROM t ORDER BY v <#> %s LIMIT {K}", 0
        plan = self.run("EXPLAIN " + ask, (queries[0],)).fetchall()
        if not any("Index Scan" in line for (line,) in plan):
            raise Refused("the planner does not use the index")
        for query, right in zip(queries, nearest):
            found = {row[0] for row in self.run(ask, (query,))}
            if len(found) != K:
                raise Refused(f"{len(found)} rows instead of {K}")
            hits += len(found & right)
        return hits / (K * len(queries))


def measure(subject, rows, queries, nearest, options):
    figures = {}
    for way in WAYS:
        runs = []
        for seed in range(1, options.runs + 1):
            cpu = subject.make(rows, way, seed)
            runs.append([cpu, *(subject.recall(queries, nearest, ef) for ef in EF)])
        figures[way] = [(statistics.median(column), min(column), max(column)) for column in zip(*runs)]
    return figures


def report(results, options):
    lines = [f"machine: {machine()}  ", f"runs: {options.runs}, {options.queries} queries, k = {K}, one thread  ", ""]
    lines.append("| data | index | ours, ef 40 | pgvector | ours, ef 100 | pgvector | CPU of the index, ours : pgvector |")
    lines.append("|---|---|---|---|---|---|---|")
    for name, (ours, theirs) in results:
        for way in WAYS:
            mine, other = ours[way], theirs[way]
            cells = [spread(part[e], 3) for e in (1, 2) for part in (mine, other)]
            lines.append(f"| {name} | {way} | {' | '.join(cells)} | {number(mine[0][0] / other[0][0], 2)} |")
    return "\n".join([*lines, "", "Median (lowest–highest) of the indexes.", ""])


def main(arguments):
    options = parse(arguments)
    subjects = [Subject(name, prefix, options.run_as) for name, prefix in (("vectorkv", options.ours), ("pgvector", options.pgvector))]
    results = []
    try:
        for subject in subjects:
            subject.start()
        for name, rows, queries in data_sets(options):
            rows, queries = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(queries, np.float32)
            exact = queries.astype(np.float64) @ rows.astype(np.float64).T
            nearest = [set(best) for best in np.argsort(-exact, axis=1, kind="stable")[:, :K].tolist()]
            sent = wires(queries, "vector")
            results.append((name, [measure(subject, rows, sent, nearest, options) for subject in subjects]))
            print(f"done: {name}", file=sys.stderr, flush=True)
    finally:
        for subject in subjects:
            subject.cluster.stop()
    table = report(results, options)
    print(table)
    if options.document:
        replace_section(options.document, options.section, table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as refused:
        sys.exit(f"refused: {refused}")
