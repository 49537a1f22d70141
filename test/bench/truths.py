"""The exact answers for every state the table passes through, computed once for all subjects."""

import numpy as np
from data_set import Truth


class Truths:
    def __init__(self, data, k, delete_share):
        self.data, self.k, self.delete_share = data, k, delete_share
        self.made = {}

    def make(self, key, rows, alive=None):
        if key not in self.made:
            self.made[key] = Truth(rows, self.data.queries, self.data.metric, self.k, alive)
        return self.made[key]

    def loaded(self):
        return self.make("loaded", self.data.rows)

    def with_inserted(self):
        return self.make("inserted", self.data.everything)

    def victims(self, run):
        """The rows a run deletes: the same for every subject."""
        total = len(self.data.rows) + len(self.data.extra)
        return np.random.default_rng(run).permutation(total)[: round(self.delete_share * total)]

    def after_deletion(self, run):
        total = len(self.data.rows) + len(self.data.extra)
        alive = np.ones(total, bool)
        alive[self.victims(run)] = False
        return self.make(("deleted", run), self.data.everything, alive)
