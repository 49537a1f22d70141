#!/usr/bin/env python3
"""Attention of one decode step by numpy, PyTorch and llama.cpp's ggml on the CPU, on real keys and values.

    kv_peers.py KV.npz [--ggml SOURCE --ggml-build BUILD] [--shapes all] [--threads 1,2] [--peers all] [--json OUT]

Every peer and number of threads is a process of its own, so that no library's threads disturb another's. A peer's
result is compared with float64 before it is timed; a wrong one is reported instead. A step is one layer, all heads,
all sequences of the batch. Best and median wall time of many steps, and the CPU time of the process in the best one,
which bears other load better.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import kv_data
import numpy as np
import report

HERE = os.path.dirname(os.path.abspath(__file__))
GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8}
GGML_BYTES = {"f32": 4, "f16": 2, "q4_0": 18 / 32, "q8_0": 34 / 32}


def folded(problem):
    """Queries as rows of their KV head: [batch, kv_heads, group, dim]."""
    shape = problem.shape
    return problem.q.reshape(shape.batch, shape.kv_heads, shape.q_heads // shape.kv_heads, shape.dim)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def numpy_batched(problem, _threads):
    q, k, v = folded(problem), problem.k.astype(np.float32), problem.v.astype(np.float32)
    scale = np.float32(problem.scale)
    return lambda: softmax((q * scale) @ k.transpose(0, 1, 3, 2)) @ v


def numpy_heads(problem, _threads):
    q, k, v = folded(problem), problem.k.astype(np.float32), problem.v.astype(np.float32)
    scale, out = np.float32(problem.scale), np.empty_like(folded(problem))

    def run():
        for b in range(q.shape[0]):
            for h in range(q.shape[1]):
                out[b, h] = softmax((q[b, h] * scale) @ k[b, h].T) @ v[b, h]
        return out

    return run


def torch_tensors(problem, threads, dtype, fold):
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    q = folded(problem) if fold else problem.q[:, :, None]
    kind = getattr(torch, dtype)
    return torch, *(torch.from_numpy(np.ascontiguousarray(a)).to(kind) for a in (q, problem.k, problem.v))


def torch_sdpa(dtype, fold):
    def prepare(problem, threads):
        torch, q, k, v = torch_tensors(problem, threads, dtype, fold)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(q, k, v, scale=problem.scale, enable_gqa=not fold)

    return prepare


def torch_bmm(problem, threads):
    torch, q, k, v = torch_tensors(problem, threads, "float32", True)
    q, k, v = (a.flatten(0, 1) for a in (q, k, v))
    return lambda: torch.bmm(torch.softmax(torch.bmm(q * problem.scale, k.transpose(1, 2)), -1), v)


class GgmlProblem(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in "batch q_heads kv_heads dim tokens threads type token_major".split()]
    _fields_ += [("scale", ctypes.c_float)] + [(name, ctypes.c_void_p) for name in "qkv"]


def ggml(kind, token_major):
    def prepare(problem, threads):
        library = ctypes.CDLL(os.environ["KV_GGML_LIBRARY"])
        library.kv_ggml_new.restype = ctypes.c_void_p
        shape = problem.shape
        sizes = (
            shape.batch,
            shape.q_heads,
            shape.kv_heads,
            shape.dim,
            shape.tokens,
            threads,
            GGML_TYPES[kind],
            token_major,
        )
        arrays = [np.ascontiguousarray(a) for a in (problem.q, problem.k, problem.v)]
        given = GgmlProblem(*sizes, problem.scale, *(a.ctypes.data for a in arrays))
        attention = ctypes.c_void_p(library.kv_ggml_new(ctypes.byref(given)))
        out = np.empty((shape.batch, shape.q_heads, shape.dim), np.float32)

        def run():
            if library.kv_ggml_run(attention, ctypes.c_void_p(out.ctypes.data)):
                raise RuntimeError("ggml did not compute the graph")
            return out

        run.close = lambda: library.kv_ggml_free(attention)
        return run

    return prepare


# name: (what makes the step, bytes an element of K and V, the largest error that is not a wrong result)
PEERS = {
    "numpy f32, batched": (numpy_batched, 4, 1e-4),
    "numpy f32, a head at a time": (numpy_heads, 4, 1e-4),
    "PyTorch SDPA f32, rows folded": (torch_sdpa("float32", True), 4, 1e-4),
    "PyTorch SDPA f32, enable_gqa": (torch_sdpa("float32", False), 4, 1e-4),
    "PyTorch bmm, softmax, bmm f32": (torch_bmm, 4, 1e-4),
    "PyTorch SDPA bf16, rows folded": (torch_sdpa("bfloat16", True), 2, 0.1),
    "PyTorch SDPA bf16, enable_gqa": (torch_sdpa("bfloat16", False), 2, 0.1),
    "PyTorch SDPA f16, rows folded": (torch_sdpa("float16", True), 2, 0.02),
    "llama.cpp f32": (ggml("f32", 0), 4, 1e-4),
    "llama.cpp f16": (ggml("f16", 0), 2, 0.3),  # sums of values in halves
    "llama.cpp f16, heads of a token together": (ggml("f16", 1), 2, 0.3),
    "llama.cpp q8_0": (ggml("q8_0", 0), GGML_BYTES["q8_0"], 0.05),
    "llama.cpp q4_0": (ggml("q4_0", 0), GGML_BYTES["q4_0"], 0.5),
}


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def time_steps(run, seconds):
    """Best and median wall seconds of a step, CPU seconds of a step in the best batch of steps."""
    run()
    started = time.perf_counter()
    run()
    batch = max(1, int(0.05 / (time.perf_counter() - started)))
    walls, cpus = [], []
    while sum(walls) * batch < seconds or len(walls) < 3:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(batch):
            run()
        walls.append((time.perf_counter() - wall) / batch)
        cpus.append((time.process_time() - cpu) / batch)
    return {"best": min(walls), "median": float(np.median(walls)), "cpu": min(cpus), "steps": len(walls) * batch}


def measure(peer, threads, problem, seconds):
    prepare, width, limit = PEERS[peer]
    run = prepare(problem, threads)
    try:
        got = run()
        error = kv_data.error(got.float().numpy() if hasattr(got, "numpy") else got, problem.truth)
        if not error <= limit:
            return {"refused": f"relative error {error:.2g}", "error": error}
        return {**time_steps(run, seconds), "error": error, "bytes": problem.shape.elements * width}
    finally:
        getattr(run, "close", lambda: None)()


def work(options):
    """The measuring process: one peer, one number of threads, every shape; a JSON line each."""
    for shape in kv_data.shapes_named(options.shapes):
        problem = kv_data.take(options.shelf, shape)
        print(
            json.dumps({"shape": shape.name, **measure(options.worker, options.threads, problem, options.seconds)}),
            flush=True,
        )


def build_driver(source, build, folder):
    library = os.path.join(folder, "kv_ggml.so")
    places = [os.path.join(build, name) for name in ("src", "bin", "lib", "src/ggml-cpu")]
    flags = [
        flag
        for place in places
        if os.path.isdir(place)
        for flag in (f"-L{place}", f"-Wl,-rpath,{os.path.abspath(place)}")
    ]
    includes = ["-I", os.path.join(source, "include")]
    command = [
        "g++",
        "-std=c++20",
        "-O2",
        "-shared",
        "-fPIC",
        *includes,
        os.path.join(HERE, "kv_ggml.cpp"),
        "-o",
        library,
        *flags,
    ]
    subprocess.run([*command, "-lggml-cpu", "-lggml-base"], check=True)
    return library


def run_peers(shelf, shapes, peers, threads, options):
    """{peer: {threads: {shape: figures}}}, each peer in a process of its own; options: seconds, ggml, ggml_build."""
    environment = dict(os.environ)
    results = {}
    with tempfile.TemporaryDirectory(prefix="kv-ggml-") as folder:
        if options.ggml and any("llama.cpp" in peer for peer in peers):
            environment["KV_GGML_LIBRARY"] = build_driver(options.ggml, options.ggml_build or options.ggml, folder)
        for peer in peers:
            for count in threads:
                environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = str(count)
                call = [
                    sys.executable,
                    os.path.abspath(__file__),
                    "-",
                    "--worker",
                    peer,
                    "--shelf",
                    shelf,
                    "--threads",
                    str(count),
                ]
                call += ["--shapes", ",".join(shape.name for shape in shapes), "--seconds", str(options.seconds)]
                done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                for line in done.stdout.splitlines():
                    figures = json.loads(line)
                    results.setdefault(peer, {}).setdefault(count, {})[figures.pop("shape")] = figures
                    print(f"{peer}, {count} threads: {line}", file=sys.stderr)
    return results


def available(peers, options):
    """Those of the peers that are at hand; says which are not."""
    at_hand = {"numpy": True, "PyTorch": importlib.util.find_spec("torch") is not None, "llama.cpp": bool(options.ggml)}
    missing = [peer for peer in peers if not at_hand[peer.split()[0]]]
    if missing:
        print(f"not measured, because not at hand: {'; '.join(missing)}", file=sys.stderr)
    return [peer for peer in peers if peer not in missing]


def fastest(results, shape, threads, clock="best"):
    """(steps a second, peer) of the fastest right answer, by wall time or by the CPU time of the process."""
    found = [(f[threads][shape.name], peer) for peer, f in results.items()]
    return max(((1 / figures[clock], peer) for figures, peer in found if clock in figures), default=(0, "none"))


def cell(figures):
    if "refused" in figures:
        return "refused"
    speed = 1 / figures["best"]
    return f"{speed:,.{1 if speed < 100 else 0}f} / {1 / figures['median']:,.0f} ({figures['bytes'] * speed / 1e9:.1f})"


def table(results, shapes, count):
    lines = [
        f"| {count} thread{'s' if count > 1 else ''} | " + " | ".join(shape.title for shape in shapes) + " | error |"
    ]
    lines.append("|---" * (len(shapes) + 2) + "|")
    for peer, by_threads in results.items():
        cells = []
        for shape in shapes:
            text = cell(by_threads[count][shape.name])
            cells.append(f"**{text}**" if fastest(results, shape, count)[1] == peer else text)
        worst = max(figures["error"] for figures in by_threads[count].values())
        lines.append(f"| {peer} | " + " | ".join(cells) + f" | {worst:.1g} |")
    return lines


def markdown(results, shapes, threads):
    lines = [
        "Decode steps a second, best / median (GB/s of K and V in the best step). Largest relative error against float64."
    ]
    for count in threads:
        lines += ["", *table(results, shapes, count)]
    return "\n".join(lines) + "\n"


def about():
    """The machine and the versions, as lines of Markdown."""
    with open("/proc/loadavg") as file:
        load = " ".join(file.read().split()[:3])
    names = [f"{name} {version(name)}" for name in ("numpy", "torch") if importlib.util.find_spec(name)]
    return f"machine: {report.machine()}  \npackages: {', '.join(names)}  \nload average at the end: {load}  \n\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data")
    parser.add_argument("--ggml", help="source folder of ggml; without it llama.cpp's attention is left out")
    parser.add_argument("--ggml-build", help="its CMake build folder, built with shared libraries")
    parser.add_argument("--shapes", default="all")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default="all", help="names separated by semicolons")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each is timed")
    parser.add_argument("--json")
    parser.add_argument(
        "--document", help="file whose section between <!-- bench NAME --> and <!-- /bench --> is replaced"
    )
    parser.add_argument("--section", metavar="NAME", help="the NAME of that section")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shelf", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = arguments()
    if options.worker:
        options.threads = int(options.threads)
        return work(options)
    shapes = kv_data.shapes_named(options.shapes)
    threads = [int(count) for count in options.threads.split(",")]
    peers = available(list(PEERS) if options.peers == "all" else options.peers.split(";"), options)
    shelf = kv_data.Shelf(kv_data.Source(options.data), shapes)
    results = run_peers(shelf.path, shapes, peers, threads, options)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    text = about() + markdown(results, shapes, threads)
    print(text)
    if options.document:
        report.replace_section(options.document, options.section, text)


if __name__ == "__main__":
    main()
