"""The steps of test/gpu/run. Each is a function of a Machine that yields Results; none raises for what a test found."""

import glob
import json
import os
import re
import shutil
import sys
import time

from machine import FAILED, MISSING, NO_GPU, OK, ROOT, Result, output_of, run

HERE = os.path.dirname(os.path.abspath(__file__))
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)")


class Machine:
    """What steps need to know: options, tools, where programs are, and when everything must be over."""

    def __init__(self, options, tools, output):
        self.options, self.tools, self.output = options, tools, output
        self.on_gpu = not options.rehearse
        self.device = options.device if self.on_gpu else "cpu"
        self.folder = os.path.join(ROOT, "build/gpu")
        self.programs = options.programs or os.path.join(self.folder, "core")
        self.until = time.monotonic() + options.limit

    def run(self, words, limit, env=None):
        return run(words, min(limit, self.until - time.monotonic()), self.output.log, env)

    def program(self, name):
        found = [path for path in glob.glob(os.path.join(self.programs, "**", name), recursive=True) if os.access(path, os.X_OK)]
        return next((path for path in found if os.path.isfile(path)), None)

    def python(self, script, *words):
        return [sys.executable, os.path.join(HERE, script), *words, "--json", self.output.json]


def outcome(step, finished, text=None, **figures):
    """ok with the text, or the last line; FAILED with what the command said."""
    if not finished.ok:
        return Result(step, FAILED, finished.why(), finished.seconds, **figures)
    return Result(step, OK, text or finished.last_line(), finished.seconds, **figures)


def show(machine, finished, full=True):
    """What a command printed, but for the last line of one that passed: that is the result's own."""
    lines = finished.output.splitlines() if full else []
    for line in lines[: -1 if finished.ok else None]:
        machine.output.say("        " + line)


def without_program(step, name):
    return Result(step, MISSING, f"the program {name} was not built")


# ---- build ------------------------------------------------------------------------------------------------------------------


def build(machine):
    """The helper and the programs of the other steps; with CUDA for this machine's GPU alone."""
    lacking = machine.tools.lacking()
    if lacking:
        yield Result("build", MISSING, "to build, install " + ", ".join(lacking))
        return
    cuda = bool(machine.tools.nvcc) and not machine.options.no_cuda
    if not cuda and not machine.options.rehearse:
        yield Result("build", MISSING, "no nvcc: set CUDA_HOME to where bin/nvcc is")
        return
    settings = ["-DVKV_TESTS=OFF", "-DVKV_MACHINE=ON", "-DVKV_WERROR=OFF", f"-DVKV_CUDA={'ON' if cuda else 'OFF'}",
                f"-DVKV_CUDA_ARCHITECTURES={machine.tools.architecture()}"]
    if cuda:
        settings.append(f"-DVKV_CUDA_HOME={os.path.dirname(os.path.dirname(os.path.realpath(machine.tools.nvcc)))}")
    finished = machine.run(["cmake", "-S", ROOT, "-B", machine.programs, "-G", "Unix Makefiles", *settings], 60)
    if finished.ok:
        # nvcc takes it from here: the compiler behind it may be one that warns of more.
        env = {"NVCC_APPEND_FLAGS": "-Xcompiler -Wno-error"}
        jobs = str(machine.options.jobs or os.cpu_count())
        finished = machine.run(["cmake", "--build", machine.programs, "--parallel", jobs], machine.options.build_limit, env)
    yield outcome("build", finished, f"helper and test programs, {'CUDA for sm_' + machine.tools.architecture() if cuda else 'no CUDA'}")
    if finished.ok and cuda and not machine.tools.gpu:
        yield helper_without_gpu(machine)


def helper_without_gpu(machine):
    """A helper with CUDA in it must say in one line that there is no GPU, and end with the exit status that tells so."""
    socket = os.path.join(machine.folder, "none.sock")
    finished = machine.run([machine.program("vectorkv_helper"), "--socket", socket, "--device", "cuda"], 30)
    lines = finished.output.strip().splitlines()
    good = finished.status == 4 and len(lines) == 1
    return Result("build: without a GPU", OK if good else FAILED, f"exit status {finished.status}: {' | '.join(lines)[:200]}", finished.seconds)


# ---- correctness --------------------------------------------------------------------------------------------------------------


def self_test(machine):
    """What is checked with must find what is wrong: the tests of these scripts."""
    finished = machine.run([sys.executable, "-m", "unittest", "discover", "-s", HERE, "-p", "test_*.py"], 60)
    counted = re.search(r"Ran ([1-9]\d*) tests", finished.output)
    text = f"{counted[1]} tests of the tile reader, the comparison and this script" if counted else ""
    yield outcome("self", finished, text) if counted else Result("self", FAILED, finished.why(), finished.seconds)


def kernels(machine):
    """The kernels through the helper's device, in one process."""
    if not machine.on_gpu:
        yield Result("kernels", NO_GPU, "cuda_test was not run; the emulator's tests run the same kernels")
        return
    program = machine.program("cuda_test")
    if not program:
        yield without_program("kernels", "cuda_test")
        return
    finished = machine.run([program, "--device", machine.device], 240)
    errors = [(int(cases), float(error)) for cases, error in re.findall(r"^ok: .*, (\d+) cases, largest error (\S+)$", finished.output, re.M)]
    text = f"{sum(c for c, _ in errors)} cases, largest error {max(e for _, e in errors):.2g}" if errors else None
    yield outcome("kernels", finished, text)


def torch(machine):
    """The helper's states of every codec and geometry against PyTorch in float64 on tiles decoded by Python."""
    if not machine.tools.torch and not machine.options.numpy:
        yield Result("torch", MISSING, "Python has no PyTorch (--numpy compares with numpy instead)")
        return
    dumped = dump(machine, [], [], 240)
    if not dumped or not dumped.ok:
        yield outcome("torch", dumped) if dumped else without_program("torch", "dump_cases")
        return
    yield compare(machine, "torch", [])


def cases_folder(machine):
    return os.path.join(machine.folder, "cases")


def dump(machine, before, options, limit):
    """Runs dump_cases, under another program if `before` names one; nothing where it was not built."""
    program, helper = machine.program("dump_cases"), machine.program("vectorkv_helper")
    if not program or not helper:
        return None
    shutil.rmtree(cases_folder(machine), ignore_errors=True)
    return machine.run([*before, program, cases_folder(machine), "--helper", helper, "--device", machine.device, *options], limit)


def compare(machine, step, options):
    """check_torch.py over what was dumped; the files stay where it found something."""
    numpy = [] if machine.tools.torch else ["--numpy"]
    checked = machine.run(machine.python("check_torch.py", cases_folder(machine), *options, *numpy), 240)
    show(machine, checked, full=not options or not checked.ok)
    if checked.ok:
        shutil.rmtree(cases_folder(machine), ignore_errors=True)
    return outcome(step, checked)


# ---- compute-sanitizer ----------------------------------------------------------------------------------------------------------


def judge_sanitizer(step, finished):
    """A tool that ran says how many errors it found; one that said nothing has tested nothing."""
    found = [int(n) for n in SUMMARY.findall(finished.output)]
    if finished.timed_out or not found:
        return Result(step, FAILED, finished.why() if finished.timed_out else f"no summary of the tool; {finished.why()}", finished.seconds)
    if sum(found) or not finished.ok:
        first = next((line.strip("= ") for line in finished.output.splitlines() if line.startswith("========= ") and "SANITIZER" not in line), "")
        return Result(step, FAILED, f"{sum(found)} errors, exit status {finished.status}; {first[:200]}", finished.seconds)
    return Result(step, OK, "0 errors", finished.seconds)


def sanitizer(machine):
    """The helper under each of the four tools, while it answers a small set of cases of every codec and dimension."""
    if not machine.on_gpu:
        yield Result("sanitizer", NO_GPU, "compute-sanitizer was not run")
        return
    if not machine.tools.sanitizer:
        yield Result("sanitizer", MISSING, "compute-sanitizer is not on this machine: none of its four tools was run")
        return
    for tool in SANITIZERS:
        # dump_cases itself calls no CUDA, the helper that it starts does.
        before = [machine.tools.sanitizer, "--tool", tool, "--target-processes", "all", "--require-cuda-init", "no", "--error-exitcode", "86",
                  "--print-limit", "20"]
        dumped = dump(machine, before, ["--few", "1", "--patience", "120"], 150)
        if not dumped:
            yield without_program("sanitizer", "dump_cases")
            return
        yield judge_sanitizer(f"sanitizer: {tool}", dumped)
        if dumped.ok and machine.tools.torch:
            yield compare(machine, f"sanitizer: {tool}: states", ["--few"])


# ---- speed ----------------------------------------------------------------------------------------------------------------------

SMALL_SHAPES = [{"head_dim": 64, "batch": 2, "kv_heads": 2, "rows": 4, "tokens": 256},
                {"head_dim": 128, "batch": 1, "kv_heads": 2, "rows": 3, "tokens": 100}]


# Of the copy rate, in percent, where a batch fills an H100: what the kernels are made for.
WANTED = {"f16": 75, "int8": 75, "int4": 60, "int2": 40}


def shares(lines):
    """The best batch of each codec and dimension as a share of the copy rate: lowest and highest dimension, and what was wanted."""
    best = {}
    for row in map(json.loads, lines):
        of_codec = best.setdefault(row["codec"], {})
        of_codec[row["head_dim"]] = max(of_codec.get(row["head_dim"], 0), 100 * row["share"])
    codecs = [f"{codec} {min(dims.values()):.0f} to {max(dims.values()):.0f} %" + (f" ({WANTED[codec]})" if codec in WANTED else "")
              for codec, dims in best.items()]
    return f"{len(lines)} shapes; of the copy rate, by dimension: {', '.join(codecs)}"


def times(machine):
    """cuda_test --time, and PyTorch on the same shapes. Without a GPU only that PyTorch's half works is shown."""
    path = os.path.join(machine.folder, "times.jsonl")
    if not machine.tools.torch:
        yield Result("time", MISSING, "Python has no PyTorch")
        return
    if not machine.on_gpu:
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(json.dumps(shape) + "\n" for shape in SMALL_SHAPES)
        finished = machine.run([*machine.python("time_torch.py", path), "--device", "cpu", "--rotate", "4e6"], 120)
        yield Result("time", NO_GPU if finished.ok else FAILED, finished.last_line() if finished.ok else finished.why(), finished.seconds)
        return
    program = machine.program("cuda_test")
    if not program:
        yield without_program("time", "cuda_test")
        return
    finished = machine.run([program, "--time", "--device", machine.device], 270)
    lines = [line for line in finished.output.splitlines() if line.startswith("{")]
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
    for line in lines:
        machine.output.record({"what": "kernel", **json.loads(line)})
    yield outcome("time: kernels", finished, shares(lines))
    if lines:
        finished = machine.run(machine.python("time_torch.py", path), 240)
        show(machine, finished)
        yield outcome("time: PyTorch", finished)


# ---- load -----------------------------------------------------------------------------------------------------------------------

LOADS = {
    "check": (["--seconds", "10"], ["--seconds", "2"], 90),
    "storm": ([], ["--cancels", "200", "--client-kills", "10", "--helper-kills", "5", "--hangs", "1"], 240),
    "latency": ([], ["--requests", "100"], 120),
    "throughput": (["--seconds", "5"], ["--seconds", "1"], 60),
}


def load(machine):
    """The C++ clients: random batches, a storm of cancels and kills, and what a request costs."""
    program, helper = machine.program("helper_load"), machine.program("vectorkv_helper")
    if not program or not helper:
        yield without_program("load", "helper_load")
        return
    for mode, (whole, short, limit) in LOADS.items():
        words = [program, mode, "--helper", helper, "--device", machine.device, *(short if machine.options.rehearse else whole)]
        finished = machine.run(words, limit)
        lines = [line.strip() for line in finished.output.splitlines() if re.search(r"tokens:|clients:|answers:|at the end", line)]
        for line in lines[:-1]:
            machine.output.say("        " + line)
        yield outcome(f"load: {mode}", finished, lines[-1] if lines else None, lines=lines)


# ---- SQL ------------------------------------------------------------------------------------------------------------------------


def sql(machine):
    """The regression tests in the wheel's PostgreSQL 16, with the helper on the device."""
    wheel = machine.options.wheel or next(iter(sorted(glob.glob(os.path.join(ROOT, "build/wheel/*.whl")))), None)
    if not wheel:
        yield Result("sql", MISSING, "no wheel with PostgreSQL: test/gpu/fetch_wheel fetches it, --wheel says where it is")
        return
    if not machine.program("vectorkv_helper"):
        yield without_program("sql", "vectorkv_helper")
        return
    env = {"VKV_WHEEL": os.path.abspath(wheel), "JOBS": str(machine.options.jobs or os.cpu_count())}
    script = os.path.join(HERE, "sql_suite.sh")
    # make takes a relative folder, so that its rules and those of the tests are about the same files.
    finished = machine.run([script, "run", machine.device, os.path.relpath(machine.programs, ROOT)], machine.options.sql_limit, env)
    if finished.timed_out:
        output_of([script, "stop"])
    yield outcome("sql", finished)


STEPS = {"self": self_test, "build": build, "kernels": kernels, "torch": torch, "load": load, "sql": sql, "sanitizer": sanitizer, "time": times}
PARTS = {1: ["self", "build", "kernels", "torch", "load"], 2: ["build", "sql", "sanitizer"], 3: ["build", "time"]}
