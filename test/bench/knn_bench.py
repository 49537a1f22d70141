#!/usr/bin/env python3
"""knn_exact beside one ORDER BY ... LIMIT scan for each query: the same table, the same session, the same rows found.

A case is QUERIES:TYPE:METRIC. Its times are the median of the runs, taken in turn, after one that warms up; CPU time is
the backend's. The table lies in shared_buffers. A case whose answers differ ends the run.
"""

import argparse
import json
import os
import statistics
import sys

import numpy as np
import psycopg
from cluster import Cluster, CpuClock, Stopwatch
from data_set import Refused, load
from report import machine, replace_section
from wire import copy_blocks

OPERATORS = {"l2": "<->", "inner_product": "<#>", "cosine": "<=>", "l1": "<+>"}
CASES = "100:vector:cosine,100:vector:l2,100:vector:inner_product,100:vector:l1,100:halfvec:cosine,4:vector:cosine,1000:vector:cosine"


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", help="an ann-benchmarks HDF5 file")
    add("--ours", required=True, metavar="PREFIX", help="an installation of PostgreSQL with the extension")
    add("--run-as", default="postgres", help="user of the server when called by root")
    add("--cases", default=CASES)
    add("--n", type=int, default=100000, help="rows; what the file lacks is made of its rows, a little moved")
    add("--k", type=int, default=10)
    add("--runs", type=int, default=3)
    add("--json", help="a file for the figures")
    add("--document", help="a Markdown file whose section gets the table")
    add("--section", default="knn")
    return parser.parse_args(arguments)


def rows_of(data, n):
    """n rows: the file's, then copies of them, each moved by a hundredth of its length."""
    rows, random = data.rows[:n], np.random.default_rng(1)
    while len(rows) < n:
        more = data.rows[: n - len(rows)]
        noise = random.standard_normal(more.shape, np.float32)
        noise *= 0.01 * np.linalg.norm(more, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
        rows = np.concatenate([rows, more + noise])
    return rows


def fill(connection, rows, kind):
    connection.execute(f"CREATE TABLE rows_{kind} (id int4, c int4, v {kind}({rows.shape[1]}))")
    with connection.cursor() as cursor, cursor.copy(f"COPY rows_{kind} FROM STDIN WITH (FORMAT binary)") as sink:
        for block in copy_blocks(rows, kind, 0):
            sink.write(block)
    connection.execute(f"VACUUM (ANALYZE, FREEZE) rows_{kind}")


class Case:
    def __init__(self, text, options):
        queries, self.kind, self.metric = text.split(":")
        self.queries, self.k, self.runs = int(queries), options.k, options.runs
        self.wall, self.cpu = {"scans": [], "knn_exact": []}, {"scans": [], "knn_exact": []}

    def measure(self, connection, vectors):
        if len(vectors) < self.queries:
            raise SystemExit(f"the file has {len(vectors)} queries, not {self.queries}")
        texts = ["[" + ",".join(repr(float(x)) for x in vector) + "]" for vector in vectors[: self.queries]]
        table, operator = f"rows_{self.kind}", OPERATORS[self.metric]
        connection.execute(f"PREPARE one ({self.kind}) AS SELECT ctid FROM {table} ORDER BY v {operator} $1 LIMIT {self.k}")
        connection.execute("CREATE TEMP TABLE asked AS SELECT %s::vector[] AS v", (texts,))
        together = f"SELECT id FROM asked, knn_exact('{table}', 'v', asked.v, {self.k}, '{self.metric}') ORDER BY query, rank"
        clock = CpuClock(connection.info.backend_pid)
        for run in range(self.runs + 1):
            with Stopwatch(clock) as scans:
                separate = [row for text in texts for row in connection.execute(f"EXECUTE one ('{text}')").fetchall()]
            with Stopwatch(clock) as search:
                found = connection.execute(together).fetchall()
            differing = sum(a != b for a, b in zip(separate, found, strict=True))
            if differing > 0.001 * len(found):  # LIMIT may order and cut equal distances otherwise
                raise Refused(f"{differing} of {len(found)} rows differ")
            for name, watch in (("scans", scans), ("knn_exact", search)) if run else ():
                self.wall[name].append(watch.wall)
                self.cpu[name].append(watch.cpu)
        connection.execute("DEALLOCATE one; DROP TABLE asked")

    def figures(self, rows):
        median = {f"{name}_{kind}_s": statistics.median(times[name]) for kind, times in (("wall", self.wall), ("cpu", self.cpu)) for name in times}
        products = self.queries * rows.shape[0] * rows.shape[1]
        return {
            "queries": self.queries,
            "type": self.kind,
            "metric": self.metric,
            **median,
            "faster_wall": median["scans_wall_s"] / median["knn_exact_wall_s"],
            "faster_cpu": median["scans_cpu_s"] / median["knn_exact_cpu_s"],
            "billion_products_a_cpu_second": products / median["knn_exact_cpu_s"] / 1e9,
        }


def markdown(all_figures, rows, options):
    loads = " ".join(f"{load:.2f}" for load in os.getloadavg())
    lines = [
        f"data: {os.path.basename(options.data)}, {len(rows):,} × {rows.shape[1]}, k = {options.k}  ",
        f"machine: {machine()}  ",
        f"runs: {options.runs}, medians; load average at the end: {loads}  ",
        "",
        "| queries | type | metric | scans, CPU s | `knn_exact`, CPU s | faster by CPU | faster by wall | 10⁹ products a CPU second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for f in all_figures:
        lines.append(
            f"| {f['queries']:,} | {f['type']} | {f['metric']} | {f['scans_cpu_s']:.2f} | {f['knn_exact_cpu_s']:.3f} | {f['faster_cpu']:.1f} × "
            f"| {f['faster_wall']:.1f} × | {f['billion_products_a_cpu_second']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments=None):
    options = parse(arguments)
    cases = [Case(text, options) for text in options.cases.split(",")]
    data = load(options.data, None, max(case.queries for case in cases), 0, "vector")
    rows = rows_of(data, options.n)
    cluster = Cluster("knn", options.ours, options.run_as, {"shared_buffers": "1GB"})
    try:
        cluster.start()
        with psycopg.connect(cluster.dsn, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            for kind in dict.fromkeys(case.kind for case in cases):
                fill(connection, rows, kind)
            for case in cases:
                case.measure(connection, data.queries)
    finally:
        cluster.stop()
    all_figures = [case.figures(rows) for case in cases]
    text = markdown(all_figures, rows, options)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(all_figures, file, indent=1)
    if options.document:
        replace_section(options.document, options.section, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
