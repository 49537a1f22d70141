"""Stages that only read: build, search sweep, first query of a connection, build with little memory.

A stage takes a Visit (subject, run, data, truths, options) and returns {figure key: sample}; it raises Refused when
what it timed gave a wrong result.
"""

import re
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from data_set import NotByIndex, Refused
from figures import value_at_recall

GATE_EF = 100


@dataclass
class Visit:
    subject: Any
    run: int
    data: Any
    truths: Any
    options: Any
    record: Any

    def gate(self, truth=None, label="search after the build"):
        """The recall at a middling ef must be above the floor; every time of the stage depends on it."""
        subject, truth = self.subject, truth or self.truths.loaded()
        subject.set_ef(GATE_EF)
        return truth.judge(subject.search(), subject.order_slack, self.options.recall_floor, label)


def build(visit):
    subject = visit.subject
    if subject.in_process:
        wall, cpu = subject.build()
        subject.judge_build(visit)
    else:
        subject.load()
        wall, cpu = subject.build(visit.options.memory)
        visit.gate()
        subject.check_index()
        visit.record.detail(subject.name, visit.run, "notices", list(subject.notices))
        visit.record.detail(subject.name, visit.run, "info", subject.index_info())
    subject.build_wall, subject.build_cpu, subject.built_bytes = wall, cpu, subject.index_bytes()
    return {"build_wall": wall, "build_cpu": cpu, "bytes": subject.built_bytes / len(visit.data.rows)}


def search(visit):
    """Recall and speed over the sweep, which ends when the highest target is behind it."""
    subject, options = visit.subject, visit.options
    points, values = [], {}
    for ef in options.ef:
        try:
            points.append((ef, *one_ef(visit, ef)))
        except NotByIndex as reason:
            if not points or ef <= GATE_EF:
                raise
            visit.record.detail(subject.name, visit.run, "sweep ended", str(reason))
            break
        recall = points[-1][1]
        if ef in (40, 100):
            values[f"recall_{ef}"] = recall
        if ef >= GATE_EF and recall >= max(options.targets) + 0.005:
            break
    visit.record.detail(subject.name, visit.run, "sweep (ef, recall, per CPU s, per s)", points)
    best = max(point[1] for point in points)
    if best < options.recall_floor:
        raise Refused(f"the best recall of the sweep, {best:.4f}, is below the floor {options.recall_floor}")
    for target in options.targets:
        keys = [f"qps_cpu@{target}", f"qps_wall@{target}"]
        try:
            for key, column in zip(keys, (2, 3)):
                values[key] = value_at_recall([(p[0], p[1], p[column]) for p in points], target)
        except Refused as reason:
            visit.record.refuse(subject.name, keys, reason)
    return values


def one_ef(visit, ef):
    """(recall, queries a CPU second, queries a second): one pass to warm and judge, then timed ones, judged too."""
    subject, truth = visit.subject, visit.truths.loaded()
    subject.set_ef(ef)
    answers, _, _ = subject.timed_search()
    recall = truth.judge(answers, subject.order_slack, label=f"ef_search {ef}")
    walls, cpus = [], []
    for _ in range(visit.options.passes):
        again, wall, cpu = subject.timed_search()
        if truth.judge(again, subject.order_slack, label=f"ef_search {ef}, timed") < recall - 0.005:
            raise Refused(f"ef_search {ef}: a timed pass found less than the pass that was judged")
        walls.append(wall)
        cpus.append(cpu)
    return recall, len(answers) / median(cpus), len(answers) / median(walls)


def first_query(visit):
    """Default settings, so default ef_search; the answers together are judged like any search."""
    subject, options = visit.subject, visit.options
    subject.refuse_heavy_libraries(subject.query_wires[0])
    count = min(options.connections, len(subject.query_wires))
    subject.execute("RESET hnsw.ef_search")
    expected = subject.search(subject.query_wires[:count])
    walls, answers = [], []
    children = subject.cluster.ended_children_cpu()
    for wire in subject.query_wires[:count]:
        start = time.perf_counter()
        answers.append(subject.first_query(wire))
        walls.append(time.perf_counter() - start)
    children = subject.cluster.ended_children_cpu() - children
    wrong = sum(a != b for a, b in zip(answers, expected))
    if wrong:
        raise Refused(f"{wrong} of {count} first queries answered otherwise than a warm session")
    return {"first_query": median(walls) * 1e3, "first_query_cpu": children / count * 1e3}


def quarter_build(visit):
    """A build with memory for a quarter of the graph, against the full build of the same run."""
    subject, options = visit.subject, visit.options
    quarter = options.quarter_memory or max(1024, subject.built_bytes // 4 // 1024)
    subject.load()
    wall, cpu = subject.build(f"{quarter}kB")
    visit.record.detail(subject.name, visit.run, "quarter memory, kB", quarter)
    visit.record.detail(subject.name, visit.run, "quarter notices", list(subject.notices))
    if not any(re.search("maintenance_work_mem", note) for note in subject.notices):
        raise Refused(f"no NOTICE that {quarter} kB were too little, so it was a full build")
    visit.gate(label=f"search after a build with {quarter} kB")
    subject.check_index()
    return {
        "quarter_wall_times": wall / subject.build_wall,
        "quarter_cpu_times": cpu / subject.build_cpu,
    }
