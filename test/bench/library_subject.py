"""hnswlib and FAISS in process: the ceiling that a search inside a server is held against.

Each library lives in a child process, so that a library that ends its process costs one refusal, and so that CPU time
is the library's alone. One thread searches, all queries in one call; the build has the server's number of threads.
"""

import multiprocessing
import os
import tempfile
import time

import numpy as np
from data_set import Refused

GATE_EF = 100


class Hnswlib:
    def __init__(self, data, options):
        import hnswlib

        space = "l2" if data.metric == "euclidean" else "ip"  # rows of unit length where the metric is the angle
        self.index = hnswlib.Index(space, data.dims)
        self.options, self.data = options, data

    def build(self):
        options, rows = self.options, self.data.rows
        self.index.init_index(len(rows), M=options.m, ef_construction=options.ef_construction, random_seed=options.seed)
        self.index.add_items(rows, num_threads=options.workers + 1)

    def search(self, ef):
        self.index.set_ef(max(ef, self.options.k))
        return self.index.knn_query(self.data.queries, self.options.k, num_threads=1)[0]

    def save(self, path):
        self.index.save_index(path)


class Faiss:
    quantizer = None

    def __init__(self, data, options):
        import faiss

        self.faiss, self.options, self.data = faiss, options, data
        metric = faiss.METRIC_L2 if data.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        if self.quantizer:
            kind = getattr(faiss.ScalarQuantizer, self.quantizer)
            self.index = faiss.IndexHNSWSQ(data.dims, kind, options.m, metric)
        else:
            self.index = faiss.IndexHNSWFlat(data.dims, options.m, metric)
        self.index.hnsw.efConstruction = options.ef_construction

    def build(self):
        self.faiss.omp_set_num_threads(self.options.workers + 1)
        if self.quantizer:
            self.index.train(self.data.rows)
        self.index.add(self.data.rows)
        self.faiss.omp_set_num_threads(1)

    def search(self, ef):
        self.index.hnsw.efSearch = ef
        return self.index.search(self.data.queries, self.options.k)[1]

    def save(self, path):
        self.faiss.write_index(self.index, path)


class FaissSq8(Faiss):
    quantizer = "QT_8bit"


LIBRARIES = {"hnswlib": Hnswlib, "faiss": Faiss, "faiss-sq8": FaissSq8}


def serve(pipe, name, data, options):
    """The child: builds once, then answers (ef) with (rows, wall, CPU) until told to stop."""
    try:
        library = LIBRARIES[name](data, options)
        wall, cpu = time.perf_counter(), time.process_time()
        library.build()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "index")
            library.save(path)
            size = os.path.getsize(path)
        pipe.send((wall, cpu, size))
        while (ef := pipe.recv()) is not None:
            wall, cpu = time.perf_counter(), time.process_time()
            answers = library.search(ef)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            pipe.send((np.asarray(answers).astype(np.int64).tolist(), wall, cpu))
    except (EOFError, BrokenPipeError):
        pass  # the bench has gone away
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


class LibrarySubject:
    in_process = True

    def __init__(self, name, data, options):
        self.name, self.data, self.options = name, data, options
        # float libraries break ties and round in their own ways; a quantized one ranks by its codes
        self.order_slack = options.order_slack if name == "faiss-sq8" else 1e-3
        self.child = None

    def connect(self):
        # spawn: a forked child would inherit the thread pools of numpy's BLAS
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.child = context.Process(target=serve, args=(theirs, self.name, self.data, self.options), daemon=True)
        self.child.start()
        theirs.close()

    def receive(self):
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.child.join()
            raise Refused(f"{self.name} ended its process with status {self.child.exitcode}") from None
        if isinstance(answer, str):
            raise Refused(answer)
        return answer

    def build(self):
        wall, cpu, self.size = self.receive()
        return wall, cpu

    def judge_build(self, visit):
        self.set_ef(GATE_EF)
        answers, _, _ = self.timed_search()
        visit.truths.loaded().judge(answers, self.order_slack, self.options.recall_floor, "search after the build")

    def index_bytes(self):
        return self.size

    def set_ef(self, ef):
        self.ef = ef

    def timed_search(self):
        try:
            self.pipe.send(self.ef)
        except OSError:
            pass  # the child is gone; receive() says with what status
        return self.receive()

    def close(self):
        if self.child and self.child.is_alive():
            try:
                self.pipe.send(None)
            except OSError:
                pass
            self.child.join(10)
            if self.child.is_alive():
                self.child.kill()
        self.child = None
