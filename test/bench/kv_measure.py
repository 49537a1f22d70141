"""What kv_bench.py measures, a function a stage: each gets the server, the source of real tensors and the options, and yields
(name of the row, figures). A wrong result gives {"refused": reason} in place of figures."""

import time

import kv_data
import kv_helper
import numpy as np
from data_set import Refused
from kv_subject import Cache, Times, guarded

TOKEN_LAYERS, TOKEN_HEADS, TOKEN_DIM = 30, 3, 64  # the geometry of the model the tensors come from
PREFILL = 512


def model_tensors(source, tokens):
    """Keys and values of all layers of a model: [30, 3, tokens, 64]; the layers the file has, again and again."""
    streams = np.arange(TOKEN_LAYERS * TOKEN_HEADS) % len(source.keys)
    return [
        plane[streams, :tokens].reshape(TOKEN_LAYERS, TOKEN_HEADS, -1, TOKEN_DIM)
        for plane in (source.keys, source.values)
    ]


def read_by_attend(server):
    """(bytes, tiles) the last kv.attend read."""
    row = server.run("SELECT last_bytes, last_tiles FROM kv.stats WHERE operation = 'attend'").fetchone()
    return row or (0, 0)


@guarded
def attend_one(server, problem, codec, seconds):
    cache = Cache(server, "bench_attend", 1, problem.shape, codec)
    try:
        cache.fill(problem)
        kernel, whole = cache.judge(problem)
        q = problem.q
        figures = server.timed(lambda: cache.attend(q), seconds).figures()
        read, tiles = read_by_attend(server)
        return {**figures, "kernel_error": kernel, "error": whole, "bytes": read, "tiles": tiles}
    finally:
        cache.drop()


def attend(server, source, options):
    for shape in options.shapes:
        problem = kv_data.make(source, shape)
        for codec in options.codecs:
            yield f"{shape.name} {codec}", attend_one(server, problem, codec, options.seconds)


# The headers of the rows alone; the header of every tile; every byte, by checksum, or by popcount or copying in memory from a table
# that holds the same bytes as bytea.
SCANS = {
    "count": "SELECT count(*) FROM bench_share_sealed",
    "tokens": "SELECT sum(kv.tokens(tile)) FROM bench_share_sealed",
    "check": "SELECT count(kv.check(tile)) FROM bench_share_sealed",
    "bits": "SELECT sum(bit_count(tile)) FROM bench_share_bytes",
    "copy": "SELECT sum(length(tile || ''::bytea)) FROM bench_share_bytes",
}
WHOLE_SCANS = ("check", "bits", "copy")


@guarded
def share_one(server, problem, codec, seconds):
    """Bytes a second of kv.attend and of plain scans of the same tiles, everything in shared buffers."""
    cache = Cache(server, "bench_share", 1, problem.shape, codec)
    try:
        cache.fill(problem)
        for sequence in cache.sequences:
            server.run("SELECT kv.seal('bench_share', %s)", sequence)
        cache.judge(problem)
        server.run("VACUUM (FREEZE, ANALYZE) bench_share_sealed")
        server.run("CREATE TABLE bench_share_bytes (tile bytea)")
        server.run("ALTER TABLE bench_share_bytes ALTER COLUMN tile SET STORAGE PLAIN")
        server.run("INSERT INTO bench_share_bytes SELECT kv.tile_send(tile) FROM bench_share_sealed")
        server.run("VACUUM (FREEZE, ANALYZE) bench_share_bytes")
        stored = int(server.one("SELECT pg_relation_size('bench_share_sealed')"))
        out = {"stored": stored}
        for name, query in SCANS.items():
            out[f"scan_{name}"] = stored / min(server.timed(lambda q=query: server.one(q), seconds / 2).walls)
        q = problem.q
        out["attend"] = stored / min(server.timed(lambda: cache.attend(q), seconds).walls)
        read = server.run("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + SCANS["count"]).fetchone()[0][0]["Plan"]
        if read["Shared Read Blocks"]:
            raise Refused(f"{read['Shared Read Blocks']} pages were not in shared buffers")
        return out
    finally:
        server.run("DROP TABLE IF EXISTS bench_share_bytes")
        cache.drop()


def share(server, source, options):
    for shape in options.share_shapes:
        problem = kv_data.make(source, shape)
        for codec in options.codecs:
            yield f"{shape.name} {codec}", share_one(server, problem, codec, options.seconds)


AGGREGATE = """PREPARE bench_aggregate AS
    SELECT kv.attention((SELECT q FROM bench_query), tile) FROM bench_parallel_sealed WHERE layer = 0"""
RUN_AGGREGATE = "EXECUTE bench_aggregate"
PARALLEL_SETTINGS = (
    "max_parallel_workers_per_gather",
    "parallel_leader_participation",
    "plan_cache_mode",
    "parallel_setup_cost",
)


def nodes(plan):
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def workers_of(server, query):
    plan = server.run("EXPLAIN (ANALYZE, FORMAT JSON) " + query).fetchone()[0][0]["Plan"]
    return sum(node.get("Workers Launched", 0) for node in nodes(plan))


@guarded
def parallel_one(server, cache, problem, workers, seconds):
    """The plan is made as if the leader would help, since one worker alone is not worth one; then the leader does not help."""
    try:
        server.run(f"SET max_parallel_workers_per_gather = {workers}")
        server.run(f"ALTER TABLE bench_parallel_sealed SET (parallel_workers = {workers})")
        server.run("SET plan_cache_mode = force_generic_plan")
        server.run("SET parallel_setup_cost = 0")
        server.run(AGGREGATE)
        server.one(RUN_AGGREGATE)
        server.run(f"SET parallel_leader_participation = {'off' if workers else 'on'}")
        launched = workers_of(server, RUN_AGGREGATE)
        if launched != workers:
            raise Refused(f"{launched} workers were started, not {workers}")
        cache.judge(problem, server.one(RUN_AGGREGATE)[None])
        return {**server.timed(lambda: server.one(RUN_AGGREGATE), seconds).figures(), "workers": launched}
    finally:
        for setting in PARALLEL_SETTINGS:
            server.run(f"RESET {setting}")
        server.run("DEALLOCATE ALL")


def parallel(server, source, options):
    for shape in options.parallel_shapes:
        problem = kv_data.make(source, shape)
        for codec in options.write_codecs:
            cache = Cache(server, "bench_parallel", 1, shape, codec)
            try:
                cache.fill(problem)
                server.run("SELECT kv.seal('bench_parallel', 1)")
                server.run("VACUUM (FREEZE, ANALYZE) bench_parallel_sealed")
                server.run("CREATE TABLE bench_query AS SELECT %s::kv.tensor AS q", problem.q[0])
                for workers in (0, 1, 2):
                    figures = parallel_one(server, cache, problem, workers, options.seconds)
                    yield f"{shape.name} {codec} {workers}", figures
            finally:
                server.run("DROP TABLE IF EXISTS bench_query")
                cache.drop()


def token_shape(tokens, batch):
    return kv_data.Shape(tokens, batch, 3 * TOKEN_HEADS, TOKEN_HEADS, TOKEN_DIM)


@guarded
def bulk_one(server, source, codec, from_table):
    """Whole prompts of 4,096 tokens in one call, each into a sequence of its own."""
    k, v = model_tensors(source, source.tokens)
    rounds = 6
    cache = Cache(server, "bench_bulk", TOKEN_LAYERS, token_shape(source.tokens, rounds), codec)
    try:
        server.run("CREATE TEMP TABLE bench_prompt (k kv.tensor, v kv.tensor)")
        server.run("INSERT INTO bench_prompt VALUES (%s, %s)", k, v)
        server.run("CHECKPOINT")
        wal, times = server.wal(), Times()
        for sequence in cache.sequences:
            if from_table:
                query = "SELECT kv.append('bench_bulk', %s, k, v) FROM bench_prompt"
                server.time_into(times, lambda s=sequence, q=query: server.one(q, s))
            else:
                server.time_into(times, lambda s=sequence: cache.append(s, k, v))
        wal = server.wal() - wal
        check_stored(cache, k, v, codec)
        stored = sum(cache.sizes().values())
        given = k.nbytes + v.nbytes
        figures = times.figures()
        speeds = {
            "rate": given / figures["best"],
            "rate_median": given / figures["median"],
            "rate_cpu": given / figures["cpu"],
        }
        return {**figures, **speeds, "wal_share": wal / stored, "stored": stored, "given": given * rounds}
    finally:
        server.run("DROP TABLE IF EXISTS bench_prompt")
        cache.drop()


LOSSES = {"f16": 0.0, "int8": 0.02, "int4": 0.2, "int3": 0.4, "int2": 0.8}


def check_stored(cache, k, v, codec):
    """What the last sequence holds of some layers must be what was given, as nearly as the codec keeps it."""
    for layer in (0, k.shape[0] // 2, k.shape[0] - 1):
        for given, got in zip((k[layer], v[layer]), cache.decoded(cache.sequences[-1], layer), strict=True):
            if got.shape != given.shape:
                raise Refused(f"layer {layer} holds {got.shape}, given was {given.shape}")
            lost = np.linalg.norm(got - given.astype(np.float32)) / np.linalg.norm(given.astype(np.float32))
            if not lost <= LOSSES[codec]:
                raise Refused(f"layer {layer} comes back with a relative error of {lost:.2g}")


def bulk(server, source, options):
    for codec in options.codecs:
        for from_table in (False, True):
            yield f"{codec} {'table' if from_table else 'client'}", bulk_one(server, source, codec, from_table)


@guarded
def token_one(server, source, codec, tail, commit, tokens):
    """One token of all layers a call and transaction behind a prompt of 512; every token's WAL, sealing included."""
    k, v = model_tensors(source, PREFILL + tokens)
    cache = Cache(server, "bench_token", TOKEN_LAYERS, token_shape(PREFILL + tokens, 1), codec, tail=tail)
    try:
        cache.append(1, k[:, :, :PREFILL], v[:, :, :PREFILL])
        pieces = [[np.ascontiguousarray(a[:, :, t : t + 1]) for a in (k, v)] for t in range(PREFILL, PREFILL + tokens)]
        given = sum(a.nbytes for a in pieces[0])
        server.run(f"SET synchronous_commit = {commit}")
        server.run("CHECKPOINT")
        positions, times = [server.wal()], Times()
        for piece in pieces:
            server.time_into(times, lambda p=piece: cache.append(1, *p))
            positions.append(server.wal())
        check_stored(cache, k, v, codec)
        wal = np.diff(positions)
        return {
            **times.figures(),
            "wal": float(wal.mean()),
            "wal_share": float(wal.mean()) / given,
            "wal_share_later": float(wal[len(wal) // 2 :].mean()) / given,
            "wal_share_plain": float(np.median(wal)) / given,
        }
    finally:
        server.run("RESET synchronous_commit")
        cache.drop()


def token(server, source, options):
    for codec in options.write_codecs:
        for tail in ("logged", "unlogged"):
            for commit in ("on", "off"):
                yield f"{codec} {tail} {commit}", token_one(server, source, codec, tail, commit, options.tokens)


@guarded
def storage_one(server, source, codec):
    """Bytes a token: of the sealed tiles with their index, and of everything a sequence of 4,096 tokens takes."""
    k, v = model_tensors(source, source.tokens)
    cache = Cache(server, "bench_storage", TOKEN_LAYERS, token_shape(source.tokens, 4), codec)
    try:
        for sequence in cache.sequences:
            cache.append(sequence, k, v)
        check_stored(cache, k, v, codec)
        count = "SELECT sum(kv.tokens(tile))::float8 / %s FROM bench_storage_sealed"
        sealed = server.one(count, TOKEN_LAYERS * TOKEN_HEADS)
        raw = (k.nbytes + v.nbytes) / source.tokens
        sizes = cache.sizes()
        tokens = source.tokens * len(cache.sequences)
        return {
            "sealed": sizes["sealed"] / sealed / raw,
            "all": sum(sizes.values()) / tokens / raw,
            "raw": raw,
            "sealed_tokens": sealed,
            "bytes": sizes,
        }
    finally:
        cache.drop()


def storage(server, source, options):
    for codec in options.codecs:
        yield codec, storage_one(server, source, codec)


def load_average():
    with open("/proc/loadavg") as file:
        return file.read().split()[:3]


STAGES = {
    "attend": attend,
    "share": share,
    "parallel": parallel,
    "bulk": bulk,
    "token": token,
    "storage": storage,
    "helper": kv_helper.helper,
}
ASKED_FOR = ("helper",)  # not among those that are measured when none are named: it wants settings of its own


def run(server, source, options, note):
    """{stage: {row: figures}}"""
    results = {}
    for stage in options.do:
        started = time.perf_counter()
        for row, figures in STAGES[stage](server, source, options):
            results.setdefault(stage, {})[row] = figures
            note(f"{stage} {row}: {figures}")
        note(f"{stage}: {time.perf_counter() - started:.0f} s, load {' '.join(load_average())}")
    return results
