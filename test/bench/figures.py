"""What is measured, how samples are kept, and how a figure comes out of several of them.

Record keeps one sample per subject, figure and run, or the reason why there is none. A figure with one refused run
has no value at all: a time beside a wrong result would be read as a result.
"""

import json
import math
from dataclasses import dataclass
from statistics import median

from data_set import Refused


@dataclass(frozen=True)
class Figure:
    key: str
    label: str
    digits: int = 2
    ratio: bool = True


FIXED = [
    Figure("recall_40", "recall@{k} at ef_search 40", 4, ratio=False),
    Figure("recall_100", "recall@{k} at ef_search 100", 4, ratio=False),
    Figure("bytes", "index bytes a vector", 0),
    Figure("build_wall", "build, s", 1),
    Figure("build_cpu", "build, CPU s of all processes and threads", 1),
    Figure("quarter_wall_times", "build with a quarter of the memory, times the full build", 2, ratio=False),
    Figure("quarter_cpu_times", "the same by CPU time", 2, ratio=False),
    Figure("insert_auto_cpu", "single-row inserts a CPU second, autocommit", 0),
    Figure("insert_txn_cpu", "single-row inserts a CPU second, one transaction", 0),
    Figure("insert_auto_wall", "single-row inserts a second, autocommit", 0),
    Figure("vacuum_wall", "vacuum after deleting {deleted} %, s", 2),
    Figure("vacuum_cpu", "the same, CPU s", 2),
    Figure("vacuum_builds", "the same, times the build (wall)", 2, ratio=False),
    Figure("recall_before_vacuum", "recall@{k} at ef_search 40 before the deletion", 4, ratio=False),
    Figure("recall_after_vacuum", "recall@{k} at ef_search 40 after vacuum", 4, ratio=False),
    Figure("update_with", "UPDATE of another column, {updated} rows, s", 2),
    Figure("update_without", "the same without an index, s", 2, ratio=False),
    Figure("update_times", "UPDATE with an index, times without (wall)", 1),
    Figure("update_times_cpu", "the same by CPU time", 1),
    Figure("first_query", "connect, first query, disconnect, ms", 2),
    Figure("first_query_cpu", "the same, CPU ms of the backend", 2),
]


def all_figures(targets):
    """The fixed figures with the speed at each recall target set behind the recalls."""
    speeds = []
    for target in targets:
        speeds.append(Figure(f"qps_cpu@{target}", f"queries a CPU second at recall@{{k}} = {target}", 0))
        speeds.append(Figure(f"qps_wall@{target}", f"queries a second (wall) at recall@{{k}} = {target}", 0))
    return FIXED[:2] + speeds + FIXED[2:]


def value_at_recall(points, target):
    """The value at recall == target: straight in its logarithm between two neighbours of the sweep.

    points: (ef, recall, value) by rising ef. An ef whose recall is not above its predecessors' is left out, since the
    cheaper one is as good. When the smallest ef is above the target already its value stands (the truth is better).
    """
    rising = []
    for _, recall, value in sorted(points):
        if not rising or recall > rising[-1][0]:
            rising.append((recall, value))
    if not rising or rising[-1][0] < target:
        best = rising[-1][0] if rising else 0
        raise Refused(f"the sweep reaches recall {best:.4f}, not {target}")
    previous = rising[0]
    for current in rising:
        if current[0] >= target:
            break
        previous = current
    if current[0] <= previous[0]:
        return current[1]
    share = (target - previous[0]) / (current[0] - previous[0])
    return math.exp(math.log(previous[1]) * (1 - share) + math.log(current[1]) * share)


class Record:
    def __init__(self):
        self.samples, self.reasons, self.details = {}, {}, {}

    def add(self, subject, run, values):
        for key, value in values.items():
            self.samples.setdefault((subject, key), {})[run] = value

    def refuse(self, subject, keys, reason):
        for key in keys:
            self.reasons.setdefault((subject, key), str(reason))

    def detail(self, subject, run, name, value):
        self.details.setdefault(subject, {}).setdefault(name, {})[run] = value

    def value(self, subject, key):
        """(median, lowest, highest), None when not measured; Refused when a run was refused."""
        if (subject, key) in self.reasons:
            raise Refused(self.reasons[subject, key])
        return summary(list(self.samples.get((subject, key), {}).values()))

    def ratio(self, subject, key, baseline):
        """The median and spread of the ratios to the baseline, each within one run."""
        if (subject, key) in self.reasons or (baseline, key) in self.reasons:
            return None
        mine, theirs = (self.samples.get((name, key), {}) for name in (subject, baseline))
        return summary([mine[run] / theirs[run] for run in mine if theirs.get(run)])

    def to_json(self, header):
        samples, reasons = {}, {}
        for (subject, key), runs in self.samples.items():
            samples.setdefault(subject, {})[key] = list(runs.values())
        for (subject, key), reason in self.reasons.items():
            samples.get(subject, {}).pop(key, None)
            reasons.setdefault(subject, {})[key] = reason
        whole = {"header": header, "samples": samples, "refused": reasons, "details": self.details}
        return json.dumps(whole, indent=1, default=str)


def summary(values):
    return (median(values), min(values), max(values)) if values else None
