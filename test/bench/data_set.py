"""The data of a run: an ann-benchmarks HDF5 file, its exact answers, and the judgement of answers.

DataSet holds the rows that are loaded, the rows kept aside for inserting, and the queries.
Truth knows, for any set of live rows, how far the k-th nearest row is; a returned row is right when it is
no farther than that, so that ties are fair. judge() raises Refused for an answer no time may be printed for.
"""

from dataclasses import dataclass

import h5py
import numpy as np

OPERATORS = {"angular": "<=>", "euclidean": "<->", "ip": "<#>", "dot": "<#>"}
OPCLASSES = {"angular": "cosine", "euclidean": "l2", "ip": "ip", "dot": "ip"}
QUERY_BLOCK = 250


class Refused(Exception):
    """A result that is wrong, or not what the figure is about: its time is not printed."""


class NotByIndex(Refused):
    """The planner answered without the index: right, but not what is measured."""


@dataclass
class DataSet:
    path: str
    metric: str
    rows: np.ndarray  # [n, dims], float32
    extra: np.ndarray  # [m, dims], inserted later
    queries: np.ndarray  # [q, dims]

    @property
    def everything(self):
        return np.concatenate([self.rows, self.extra])

    @property
    def dims(self):
        return self.rows.shape[1]


def load(path, limit, query_limit, extra_count, kind):
    with h5py.File(path, "r") as file:
        metric = file.attrs.get("distance", "")
        metric = metric.decode() if isinstance(metric, bytes) else str(metric)
        if metric not in OPERATORS:
            raise SystemExit(f"{path}: distance {metric!r} is none of {', '.join(OPERATORS)}")
        train = file["train"]
        learn = file["learn"] if "learn" in file else None
        total = len(train)
        if learn is not None and len(learn) >= extra_count:
            rows, extra = train[: limit or total], learn[:extra_count]
        else:
            count = min(limit or total, total - extra_count)
            rows, extra = train[:count], train[count : count + extra_count]
        queries = file["test"][:query_limit]
    rows, extra, queries = (prepared(part, metric, kind) for part in (rows, extra, queries))
    return DataSet(path, metric, rows, extra, queries)


def prepared(part, metric, kind):
    part = np.asarray(part, np.float32)
    if metric == "angular":
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
    if kind == "halfvec":  # judge by what the server can know
        part = part.astype(np.float16).astype(np.float32)
    return np.ascontiguousarray(part, np.float32)


class Truth:
    def __init__(self, rows, queries, metric, k, alive=None):
        self.rows, self.queries, self.metric, self.k = rows, queries, metric, k
        self.alive = np.ones(len(rows), bool) if alive is None else alive
        candidates = np.flatnonzero(self.alive)
        if len(candidates) < k:
            raise SystemExit(f"{len(candidates)} rows are fewer than k = {k}")
        self.kth = np.empty(len(queries))
        shortlist = min(2 * k, len(candidates))
        live = rows[candidates]
        norms = np.einsum("ij,ij->i", live, live)
        for first in range(0, len(queries), QUERY_BLOCK):
            block = queries[first : first + QUERY_BLOCK]
            rough = -(block @ live.T)
            if metric == "euclidean":
                rough = 2 * rough + norms
            near = np.argpartition(rough, shortlist - 1, axis=1)[:, :shortlist]
            for offset, ids in enumerate(near):
                exact = np.sort(self.distances(first + offset, candidates[ids]))
                self.kth[first + offset] = exact[k - 1]

    def distances(self, query, ids):
        """Exact distances, in double precision, of rows to one query."""
        chosen, wanted = self.rows[ids].astype(np.float64), self.queries[query].astype(np.float64)
        if self.metric == "euclidean":
            return np.linalg.norm(chosen - wanted, axis=1)
        products = chosen @ wanted
        if self.metric != "angular":
            return -products
        return 1 - products / (np.linalg.norm(chosen, axis=1) * np.linalg.norm(wanted))

    def rounding(self, query, ids):
        """How far single precision may be off: indexes compute in it, we do not."""
        if self.metric == "angular":
            return 1e-6
        wanted = np.linalg.norm(self.queries[query])
        return 1e-6 * wanted * (1 if self.metric == "euclidean" else np.linalg.norm(self.rows[ids], axis=1).max())

    def recall(self, answers):
        right = 0
        for query, ids in enumerate(answers):
            slack = 1e-6 * max(1.0, abs(self.kth[query]))
            right += int((self.distances(query, np.asarray(ids)) <= self.kth[query] + slack).sum())
        return right / (len(answers) * self.k)

    def judge(self, answers, order_slack, floor=0.0, label="answers"):
        """The recall of the answers; Refused when they are not what a search must return."""
        if len(answers) != len(self.queries):
            raise Refused(f"{label}: {len(answers)} answers to {len(self.queries)} queries")
        for query, ids in enumerate(answers):
            self.judge_one(query, np.asarray(ids, np.int64), order_slack, label)
        recall = self.recall(answers)
        if recall < floor:
            raise Refused(f"{label}: recall {recall:.4f} is below the floor {floor}")
        return recall

    def judge_one(self, query, ids, order_slack, label):
        if len(ids) != self.k:
            raise Refused(f"{label}: query {query} returned {len(ids)} rows, not {self.k}")
        if ids.min() < 0 or ids.max() >= len(self.rows) or not self.alive[ids].all():
            raise Refused(f"{label}: query {query} returned a row that is not in the table")
        if len(np.unique(ids)) != self.k:
            raise Refused(f"{label}: query {query} returned a row twice")
        distances = self.distances(query, ids)
        allowed = order_slack * np.abs(distances[1:]) + self.rounding(query, ids)
        if (distances[:-1] > distances[1:] + allowed).any():
            raise Refused(f"{label}: query {query} returned its rows out of order")
