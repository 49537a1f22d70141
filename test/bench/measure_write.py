"""Stages that write: single-row inserts, deletion and vacuum, UPDATE of another column.

Each is judged by searches over what the table then holds: inserted rows must be found, deleted ones must not cost
recall, updated ones must still be there.
"""

import numpy as np
from data_set import Refused
from wire import wires

VACUUM_EF = 40
HOT_SHARE = 0.05


def insert(visit):
    """The rows kept aside: half of them each in its own transaction, half in one; expects the index of `build`."""
    subject, data = visit.subject, visit.data
    first = len(data.rows)
    half = len(data.extra) // 2
    new = wires(data.extra, visit.options.type)
    statement = f"INSERT INTO {subject.table} (id, c, v) VALUES (%s, %s, %b)"

    def put(start, stop):
        for i in range(start, stop):
            cursor.execute(statement, (first + i, (first + i) % 100, new[i]), prepare=True)

    subject.execute("CHECKPOINT")
    with subject.connection.cursor(binary=True) as cursor:
        with subject.watch() as alone:
            put(0, half)
        subject.execute("CHECKPOINT")
        with subject.watch() as together:
            subject.execute("BEGIN")
            put(half, len(new))
            subject.execute("COMMIT")
    subject.expect_rows(first + len(new))
    visit.gate(visit.truths.with_inserted(), "search after the inserts")
    refuse_lost_rows(visit, new, first)
    return {
        "insert_auto_cpu": half / alone.cpu,
        "insert_auto_wall": half / alone.wall,
        "insert_txn_cpu": (len(new) - half) / together.cpu,
    }


def refuse_lost_rows(visit, new, first):
    """Of the inserted rows, searched by their own vectors, as many must come back as the floor says."""
    if visit.data.metric in ("ip", "dot"):
        return  # under inner product a row need not be its own nearest
    visit.subject.set_ef(100)
    answers = visit.subject.search(new)
    found = sum(first + i in ids for i, ids in enumerate(answers)) / len(new)
    if found < visit.options.recall_floor:
        raise Refused(f"only {found:.4f} of the inserted rows are found by their own vectors")


def vacuum(visit):
    """Deletes a share of all rows, chosen by the run's seed, and times VACUUM; follows `insert`."""
    subject, truths, options = visit.subject, visit.truths, visit.options
    subject.set_ef(VACUUM_EF)
    before = truths.with_inserted().judge(subject.search(), subject.order_slack, label="before the deletion")
    victims = truths.victims(visit.run)
    subject.execute("CREATE TEMP TABLE IF NOT EXISTS victims (id int4)")
    subject.execute("TRUNCATE victims")
    with subject.connection.cursor() as cursor, cursor.copy("COPY victims FROM STDIN") as sink:
        sink.write("".join(f"{row}\n" for row in victims))
    subject.execute("ANALYZE victims")
    subject.execute(f"DELETE FROM {subject.table} t USING victims d WHERE t.id = d.id")
    subject.execute("SELECT set_config('maintenance_work_mem', %s, false)", options.memory)
    subject.execute("CHECKPOINT")
    with subject.watch() as watch:
        subject.execute(f"VACUUM (INDEX_CLEANUP ON) {subject.table}")
    truth = truths.after_deletion(visit.run)
    subject.expect_rows(int(truth.alive.sum()))
    subject.check_index()
    subject.set_ef(VACUUM_EF)
    after = truth.judge(subject.search(), subject.order_slack, label="after vacuum")
    visit.gate(truth, "search after vacuum")
    return {
        "vacuum_wall": watch.wall,
        "vacuum_cpu": watch.cpu,
        "vacuum_builds": watch.wall / subject.build_wall,
        "recall_before_vacuum": before,
        "recall_after_vacuum": after,
    }


def update(visit):
    """The same UPDATE of a column that is in no index, on a fresh table without and with the vector index."""
    subject, options = visit.subject, visit.options
    subject.load()
    without = timed_update(visit)
    subject.load()
    subject.build(options.memory)
    visit.gate()
    with_index = timed_update(visit)
    visit.gate(label="search after the UPDATE")
    subject.check_index()
    return {
        "update_with": with_index.wall,
        "update_without": without.wall,
        "update_times": with_index.wall / without.wall,
        "update_times_cpu": with_index.cpu / without.cpu,
    }


def timed_update(visit):
    subject = visit.subject
    wanted = visit.options.update_rows
    statement = f"UPDATE {subject.table} SET c = c + 1 WHERE id < {wanted}"
    hot = "SELECT n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = %s"
    subject.execute("CHECKPOINT")
    subject.execute("BEGIN")
    with subject.watch() as watch:
        updated = subject.execute(statement).rowcount
        in_place = subject.one(hot, subject.table)
        subject.execute("COMMIT")
    if updated != wanted:
        raise Refused(f"UPDATE changed {updated} rows, not {wanted}")
    if in_place > HOT_SHARE * wanted:
        raise Refused(f"{in_place} of {wanted} updates were heap-only, so no index was asked")
    if subject.one(f"SELECT sum(c) FROM {subject.table}") != changed_sum(visit, wanted):
        raise Refused("UPDATE left other values than it should")
    return watch


def changed_sum(visit, wanted):
    return int((np.arange(len(visit.data.rows)) % 100).sum()) + wanted
