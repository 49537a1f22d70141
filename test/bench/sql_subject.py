"""One index in one server: its table, its build, its queries, and the CPU clock of the session that runs them."""

import psycopg
from cluster import CpuClock, Stopwatch
from data_set import OPCLASSES, OPERATORS, NotByIndex, Refused
from wire import copy_blocks, register, wires

HEAVY_LIBRARIES = ("faiss", "blas", "lapack", "libcuda", "cudart", "libgomp")


class SqlSubject:
    in_process = False

    def __init__(self, name, cluster, data, options, codec=None, exact_order=False):
        self.name, self.cluster, self.data, self.options = name, cluster, data, options
        self.codec = codec
        self.order_slack = 1e-5 if exact_order else options.order_slack
        self.table = "bench_" + "".join(c if c.isalnum() else "_" for c in name)
        self.index = self.table + "_index"
        self.operator = OPERATORS[data.metric]
        self.query_wires = wires(data.queries, options.type)
        self.notices = []
        self.connection = None

    def connect(self):
        self.connection = psycopg.connect(self.cluster.dsn, autocommit=True)
        self.connection.execute("SET client_min_messages = notice")
        self.connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.connection.add_notice_handler(lambda note: self.notices.append(note.message_primary))
        self.dumper = register(self.connection, self.options.type)
        self.pid = self.connection.info.backend_pid
        self.clock = CpuClock(self.pid)

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def one(self, statement, *args):
        return self.connection.execute(statement, args or None).fetchone()[0]

    def execute(self, statement, *args):
        return self.connection.execute(statement, args or None)

    def watch(self):
        return Stopwatch(self.clock)

    # The table

    def load(self):
        options = self.options
        self.execute(f"DROP TABLE IF EXISTS {self.table}")
        self.execute(f"CREATE TABLE {self.table} (id int4, c int4, v {options.type}({self.data.dims}))")
        # The same number of workers for everybody, whatever the size of the table asks for.
        self.execute(f"ALTER TABLE {self.table} SET (parallel_workers = {options.workers})")
        copy = f"COPY {self.table} (id, c, v) FROM STDIN WITH (FORMAT binary)"
        with self.connection.cursor() as cursor, cursor.copy(copy) as sink:
            for block in copy_blocks(self.data.rows, options.type, 0):
                sink.write(block)
        self.execute(f"VACUUM (ANALYZE, FREEZE) {self.table}")
        self.execute("CHECKPOINT")
        self.expect_rows(len(self.data.rows))

    def expect_rows(self, expected):
        count = self.one(f"SELECT count(*) FROM {self.table}")
        if count != expected:
            raise Refused(f"the table holds {count} rows, not {expected}")

    # The index

    def build(self, memory):
        """Makes the index; returns (wall seconds, CPU seconds of leader, threads and workers)."""
        options = self.options
        codec = f", codec = '{self.codec}'" if self.codec else ""
        opclass = f"{options.type}_{OPCLASSES[self.data.metric]}_ops"
        self.execute(f"DROP INDEX IF EXISTS {self.index}")
        self.execute("SELECT set_config('maintenance_work_mem', %s, false)", memory)
        self.execute("SELECT set_config('max_parallel_maintenance_workers', %s, false)", str(options.workers))
        self.execute("CHECKPOINT")
        self.notices.clear()
        children = self.cluster.ended_children_cpu()
        with self.watch() as watch:
            self.execute(
                f"CREATE INDEX {self.index} ON {self.table} USING hnsw (v {opclass}) "
                f"WITH (m = {options.m}, ef_construction = {options.ef_construction}{codec})"
            )
        children = self.cluster.ended_children_cpu() - children
        if not self.one("SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", self.index):
            raise Refused("the index is not valid")
        return watch.wall, watch.cpu + children

    def index_bytes(self):
        return self.one("SELECT pg_relation_size(%s::regclass)", self.index)

    def check_index(self):
        """What hnsw_check() reports, where the extension has one, must be nothing."""
        if self.one("SELECT to_regprocedure('hnsw_check(regclass)') IS NULL"):
            return
        found = self.execute("SELECT t::text FROM hnsw_check(%s::regclass) AS t LIMIT 3", self.index).fetchall()
        if found:
            raise Refused(f"hnsw_check: {'; '.join(str(row[0]) for row in found)}")

    def index_info(self):
        if self.one("SELECT to_regprocedure('hnsw_info(regclass)') IS NULL"):
            return None
        return self.one("SELECT t::text FROM hnsw_info(%s::regclass) AS t", self.index)

    # Queries

    @property
    def statement(self):
        return f"SELECT id FROM {self.table} ORDER BY v {self.operator} %b LIMIT {self.options.k}"

    def set_ef(self, ef):
        self.execute(f"SET hnsw.ef_search = {int(ef)}")

    def index_scans(self):
        """Scans of the index so far, as the server's own statistics count them."""
        self.execute("SELECT pg_stat_force_next_flush()")
        return self.one("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", self.index)

    def search(self, query_wires=None):
        """Rows of each query, nearest first; Refused when the planner took another way than the index."""
        before = self.index_scans()
        answers = self.plain_search(query_wires or self.query_wires)
        self.expect_scans(before, len(answers))
        return answers

    def expect_scans(self, before, queries):
        scans = self.index_scans() - before
        if scans < queries:
            raise NotByIndex(f"{queries} queries made {scans} scans of the index: the planner does not use it")

    def plain_search(self, query_wires):
        """One client, a prepared statement, a binary parameter."""
        answers = []
        with self.connection.cursor(binary=True) as cursor:
            for wire in query_wires:
                rows = cursor.execute(self.statement, (wire,), prepare=True).fetchall()
                answers.append([row[0] for row in rows])
        return answers

    def timed_search(self):
        before = self.index_scans()
        with self.watch() as watch:
            answers = self.plain_search(self.query_wires)
        self.expect_scans(before, len(answers))
        return answers, watch.wall, watch.cpu

    def first_query(self, wire):
        """Connect, one query, disconnect."""
        with psycopg.connect(self.cluster.dsn, autocommit=True) as connection:
            connection.adapters.register_dumper(type(wire), self.dumper)
            with connection.cursor(binary=True) as cursor:
                rows = cursor.execute(self.statement, (wire,), prepare=False).fetchall()
        return [row[0] for row in rows]

    def refuse_heavy_libraries(self, wire):
        with psycopg.connect(self.cluster.dsn, autocommit=True) as connection:
            connection.adapters.register_dumper(type(wire), self.dumper)
            connection.execute(self.statement, (wire,), binary=True)
            with open(f"/proc/{connection.info.backend_pid}/maps") as maps:
                loaded = {line.split()[-1] for line in maps if "/" in line}
        heavy = sorted(path for path in loaded if any(name in path for name in HEAVY_LIBRARIES))
        if heavy:
            raise Refused(f"the backend has loaded {', '.join(heavy)}")
