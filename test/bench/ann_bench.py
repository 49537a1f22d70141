#!/usr/bin/env python3
"""One command that measures vector indexes on an ann-benchmarks HDF5 file and prints a Markdown table.

Subjects: this project's index with any of its codecs (--ours PREFIX), pgvector (--pgvector PREFIX), hnswlib and FAISS
in process (--libraries). They take turns stage by stage inside each run; figures are medians over the runs, ratios are
taken within a run. A wrong result is refused: no time stands beside it.
"""

import argparse
import os
import signal
import sys
import time

import measure_search
import measure_write
import report
from cluster import Cluster
from data_set import Refused, load
from figures import Record
from library_subject import LIBRARIES, LibrarySubject
from measure_search import Visit
from psycopg import Error as DatabaseError
from sql_subject import SqlSubject
from truths import Truths

# name: (function, keys it yields or, refused, does not, for servers only, also for each codec)
STAGES = {
    "build": (measure_search.build, ["build_wall", "build_cpu", "bytes"], False, True),
    "search": (measure_search.search, ["recall_40", "recall_100"], False, True),
    "first": (measure_search.first_query, ["first_query", "first_query_cpu"], True, True),
    "insert": (measure_write.insert, ["insert_auto_cpu", "insert_auto_wall", "insert_txn_cpu"], True, False),
    "vacuum": (
        measure_write.vacuum,
        ["vacuum_wall", "vacuum_cpu", "vacuum_builds", "recall_before_vacuum", "recall_after_vacuum"],
        True,
        False,
    ),
    "update": (
        measure_write.update,
        ["update_with", "update_without", "update_times", "update_times_cpu"],
        True,
        False,
    ),
    "quarter": (measure_search.quarter_build, ["quarter_wall_times", "quarter_cpu_times"], True, False),
}
NEEDS = {"vacuum": "insert"}  # and every stage the build
RECOVERY_SECONDS = 60
EF_SWEEP = "10,16,24,32,40,50,64,80,100,128,160,200,256,320,400,512,640,800,1000"


def numbers(kind):
    return lambda text: [kind(part) for part in text.split(",") if part]


def names(text):
    return [part for part in text.split(",") if part]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", help="ann-benchmarks HDF5: train, test, attribute distance; learn, if there, is inserted")
    add("--ours", metavar="PREFIX", help="PostgreSQL installation that holds this project's extension")
    add("--pgvector", metavar="PREFIX", help="PostgreSQL installation that holds pgvector")
    add("--codecs", type=names, default=["default"], help="default,none,lvq8,...: the first does every stage")
    add("--all-writes", action="store_true", help="write stages for every codec, not the first alone")
    add("--libraries", type=names, default=[], help=",".join(LIBRARIES))
    add("--do", type=names, default=list(STAGES), help=f"stages, default all: {','.join(STAGES)}")
    add("--runs", type=int, default=3)
    add("--write-runs", type=int, help="runs that also do insert, vacuum, update, quarter (default: all)")
    add("--n", type=int, help="only the first N rows")
    add("--queries", type=int, default=1000)
    add("--extra", type=int, default=2000, help="rows to insert: of learn, or the last ones of train")
    add("--type", choices=["vector", "halfvec"], default="vector")
    add("--k", type=int, default=10)
    add("--m", type=int, default=16)
    add("--ef-construction", type=int, default=64)
    add("--ef", type=numbers(int), default=EF_SWEEP, help="the sweep of ef_search")
    add("--targets", type=numbers(float), default="0.95", help="recalls at which speed is given")
    add("--passes", type=int, default=2, help="timed passes over the queries at each ef")
    add("--workers", type=int, default=1, help="max_parallel_maintenance_workers; libraries get one thread more")
    add("--memory", default="512MB", help="maintenance_work_mem of the full build")
    add("--quarter-memory", type=int, metavar="KB", help="of the small build; default a quarter of the index")
    add("--delete-share", type=float, default=0.2)
    add("--update-rows", type=int, default=10000)
    add("--connections", type=int, default=100, help="first queries of a run")
    add("--force-index", action="store_true", help="enable_seqscan off, for tables small enough to be read whole")
    add("--recall-floor", type=float, default=0.85, help="at ef 100; below it nothing is timed")
    add("--order-slack", type=float, default=0.02, help="relative misorder allowed to compressed indexes")
    add("--shared-buffers", default="1GB")
    add("--run-as", default="postgres", help="user of the servers when called by root")
    add("--work", help="folder for the clusters (default: the system's temporary folder)")
    add("--seed", type=int, default=1)
    add("--baseline", help="subject the ratios refer to (default: pgvector when it is there)")
    add("--markdown", help="file for the table, besides standard output")
    add("--document", help="file whose section between <!-- bench NAME --> and <!-- /bench --> is replaced")
    add("--section", metavar="NAME", help="the NAME of that section")
    add("--json", help="file for every sample")
    options = parser.parse_args(arguments)
    wrong = [stage for stage in options.do if stage not in STAGES] + [
        library for library in options.libraries if library not in LIBRARIES
    ]
    if wrong:
        parser.error(f"unknown: {', '.join(wrong)}")
    if not (options.ours or options.pgvector or options.libraries):
        parser.error("nothing to measure: give --ours, --pgvector or --libraries")
    if bool(options.document) != bool(options.section):
        parser.error("--document and --section go together")
    if "vacuum" in options.do and "insert" not in options.do:
        options.do.insert(options.do.index("vacuum"), "insert")
    return options


def make_subjects(options, data, clusters):
    subjects = []
    for name, prefix in (("pgvector", options.pgvector), ("ours", options.ours)):
        if not prefix:
            continue
        settings = {"shared_buffers": options.shared_buffers}
        settings["enable_seqscan"] = "off" if options.force_index else "on"
        cluster = Cluster(name, prefix, options.run_as, settings, options.work)
        clusters.append(cluster)
        cluster.start()
        if name == "pgvector":
            subjects.append(SqlSubject(name, cluster, data, options, exact_order=True))
            continue
        for position, codec in enumerate(options.codecs):
            chosen = None if codec == "default" else codec
            subject = SqlSubject(f"ours {codec}", cluster, data, options, chosen, exact_order=codec == "none")
            subject.writes = position == 0 or options.all_writes
            subjects.append(subject)
    return subjects + [LibrarySubject(library, data, options) for library in options.libraries]


def stage_applies(stage, subject, run, options):
    _, _, servers_only, every_codec = STAGES[stage]
    if servers_only and subject.in_process:
        return False
    if every_codec:
        return True
    return getattr(subject, "writes", True) and run < (options.write_runs or options.runs)


def stage_keys(stage, options):
    keys = list(STAGES[stage][1])
    if stage == "search":
        keys += [f"qps_{clock}@{target}" for target in options.targets for clock in ("cpu", "wall")]
    return keys


def do_stage(stage, visit):
    subject, record = visit.subject, visit.record
    start = time.perf_counter()
    try:
        values = STAGES[stage][0](visit)
    except (Refused, DatabaseError) as error:
        reason = " ".join(str(error).split())
        record.refuse(subject.name, stage_keys(stage, visit.options), f"{stage}: {reason}")
        say(f"run {visit.run + 1} {stage:8} {subject.name}: REFUSED, {reason}")
        return False
    record.add(subject.name, visit.run, values)
    shown = ", ".join(f"{key} {value:.5g}" for key, value in values.items())
    say(f"run {visit.run + 1} {stage:8} {subject.name}: {shown} [{time.perf_counter() - start:.0f} s]")
    return True


def one_run(run, subjects, data, truths, options, record):
    """Every stage for every subject in turn; the order turns round from run to run."""
    order = subjects[::-1] if run % 2 else subjects
    stages = ["build"] + [stage for stage in STAGES if stage in options.do and stage != "build"]
    failed = set()
    try:
        for stage in stages:
            for subject in order:
                if not stage_applies(stage, subject, run, options):
                    continue
                needed = [need for need in ("build", NEEDS.get(stage)) if (subject.name, need) in failed]
                if needed:
                    reason = f"{stage}: not measured, since {needed[0]} was refused"
                    record.refuse(subject.name, stage_keys(stage, options), reason)
                    continue
                if stage == "build":
                    subject.connect()
                if not do_stage(stage, Visit(subject, run, data, truths, options, record)):
                    failed.add((subject.name, stage))
                    reconnect(subject)
    finally:
        for subject in subjects:
            subject.close()


def reconnect(subject):
    """After a refusal a session may be inside a failed transaction, or its server in recovery: a new session."""
    if subject.in_process:
        return
    subject.close()
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return subject.connect()
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def describe(options, data, subjects):
    header = {
        "data": f"{os.path.basename(data.path)}, {len(data.rows):,} × {data.dims} {options.type}, {data.metric}, "
        f"{len(data.queries):,} queries, k = {options.k}",
        "machine": report.machine(),
        "build": f"m {options.m}, ef_construction {options.ef_construction}, "
        f"max_parallel_maintenance_workers {options.workers}, maintenance_work_mem {options.memory}",
        "servers": f"shared_buffers {options.shared_buffers}, jit off, autovacuum off"
        f"{', enable_seqscan off' if options.force_index else ''}, the rest default",
        "runs": f"{options.runs}, {options.write_runs or options.runs} of them with writes",
    }
    for subject in subjects:
        if not subject.in_process:
            subject.connect()
            version = subject.one("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
            header[subject.cluster.name] = f"PostgreSQL {subject.cluster.version()}, extension vector {version}"
            subject.close()
    return header


def say(text):
    print(text, file=sys.stderr, flush=True)


def main(arguments=None):
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the servers are stopped, too
    data = load(options.data, options.n, options.queries, options.extra, options.type)
    options.update_rows = min(options.update_rows, len(data.rows))
    truths, record, clusters = Truths(data, options.k, options.delete_share), Record(), []
    try:
        subjects = make_subjects(options, data, clusters)
        header = describe(options, data, subjects)
        for run in range(options.runs):
            one_run(run, subjects, data, truths, options, record)
        header["load average at the end"] = " ".join(f"{load:.2f}" for load in os.getloadavg())
    finally:
        for cluster in clusters:
            cluster.stop()
    present = [subject.name for subject in subjects]
    baseline = options.baseline or ("pgvector" if "pgvector" in present else None)
    text = report.markdown(record, present, header, options, baseline)
    print(text)
    for path, content in ((options.markdown, text), (options.json, record.to_json(header))):
        if path:
            with open(path, "w") as file:
                file.write(content)
    if options.document:
        report.replace_section(options.document, options.section, text)
    return 1 if record.reasons else 0


if __name__ == "__main__":
    sys.exit(main())
