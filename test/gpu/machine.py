"""What test/gpu/run stands on: commands with a time limit and a log each, results of steps, and which tools a machine has."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

OK, FAILED, MISSING, NO_GPU = "ok", "FAILED", "MISSING", "no GPU"


class Result:
    """Of a step or a part of it. MISSING: a tool or a file is not there, so nothing was tested; that is no success."""

    def __init__(self, step, status, text, seconds=0.0, **figures):
        self.step, self.status, self.text, self.seconds, self.figures = step, status, text, seconds, figures

    @property
    def good(self):
        return self.status in (OK, NO_GPU)

    def line(self):
        return f"{self.status:8}{self.step:21} {self.text}  ({self.seconds:.0f} s)"

    def record(self):
        return {"what": "step", "step": self.step, "status": self.status, "text": self.text, "seconds": round(self.seconds, 1), **self.figures}


class Output:
    """The folder of results: lines of JSON, the text that was printed, and all logs in one file."""

    def __init__(self, folder):
        folder = os.path.abspath(folder)
        os.makedirs(folder, exist_ok=True)
        self.json, self.text, self.logs = (os.path.join(folder, name) for name in ("results.jsonl", "results.txt", "logs.txt"))
        for path in (self.json, self.text, self.logs):
            open(path, "w", encoding="utf-8").close()

    def say(self, line):
        print(line, flush=True)
        with open(self.text, "a", encoding="utf-8") as out:
            out.write(line + "\n")

    def record(self, record):
        with open(self.json, "a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")

    def log(self, title, text, most=400_000):
        with open(self.logs, "a", encoding="utf-8") as out:
            out.write(f"==== {title}\n{text[-most:]}\n")


class Finished:
    """A command that ended, or was ended at its limit."""

    def __init__(self, status, output, seconds, timed_out):
        self.status, self.output, self.seconds, self.timed_out = status, output, seconds, timed_out

    @property
    def ok(self):
        return self.status == 0

    def why(self):
        if self.timed_out:
            return f"stopped at its limit of {self.seconds:.0f} s"
        lines = [line for line in self.output.splitlines() if line.strip()]
        told = next((line for line in lines if re.search(r"[Ee]rror:|\bFAILED\b|^not ok|^wrong", line)), lines[-1] if lines else "no output")
        return f"exit status {self.status}: {told.strip()[:300]}"

    def last_line(self):
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def run(words, limit, log=None, env=None):
    """Runs a command in the checkout, in a session of its own: what it has started ends with it at the limit."""
    begun = time.monotonic()
    process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True, text=True, errors="replace")
    timed_out = False
    try:
        output, _ = process.communicate(timeout=max(limit, 1))
    except subprocess.TimeoutExpired:
        timed_out = True
        end_session(process)
        output, _ = process.communicate()
    except BaseException:
        end_session(process)
        raise
    finished = Finished(process.returncode, output, time.monotonic() - begun, timed_out)
    if log:
        log(f"{' '.join(words)}: {'stopped' if timed_out else finished.status}, {finished.seconds:.1f} s", output)
    return finished


def end_session(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def output_of(words, limit=60):
    """What a command prints, or nothing where it is not there or fails."""
    try:
        finished = run(words, limit)
    except OSError:
        return ""
    return finished.output.strip() if finished.ok else ""


class Tools:
    """What this machine has. cmake may be a package of Python's; its folder is then put into PATH, since make calls it, too."""

    def __init__(self, use_cuda):
        self.cmake = shutil.which("cmake") or self._cmake_of_python()
        self.compilers = [name for name in ("g++", "make") if not shutil.which(name)]
        self.nvcc = find_nvcc() if use_cuda else None
        self.sanitizer = shutil.which("compute-sanitizer") or beside(self.nvcc, "compute-sanitizer")
        gpu = output_of(["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.total", "--format=csv,noheader"]).splitlines()
        self.gpu = [field.strip() for field in gpu[0].split(",")] if gpu else None
        self.torch = output_of([sys.executable, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"], 120)

    @staticmethod
    def _cmake_of_python():
        folder = output_of([sys.executable, "-c", "import cmake; print(cmake.CMAKE_BIN_DIR)"])
        if not folder or not os.access(os.path.join(folder, "cmake"), os.X_OK):
            return None
        os.environ["PATH"] = folder + os.pathsep + os.environ["PATH"]
        return os.path.join(folder, "cmake")

    def lacking(self):
        out = [f"{name} (apt-get install {name})" for name in self.compilers]
        return out if self.cmake else [*out, "cmake (apt-get install cmake, or pip install cmake)"]

    def architecture(self):
        """Of the GPU, as nvcc calls it: only for this one is compiled."""
        if not self.gpu:
            return "90a"
        number = self.gpu[1].replace(".", "")
        return "90a" if number == "90" else number

    def describe(self):
        gpu = f"{self.gpu[0]}, {self.gpu[3]}, driver {self.gpu[2]}" if self.gpu else "no GPU"
        compiler = output_of(["g++", "-dumpfullversion"]) or "none"
        nvcc = output_of([self.nvcc, "--version"]).splitlines()[-2].split(",")[1].strip() if self.nvcc else "no nvcc"
        return (f"{gpu}; nvcc: {nvcc}; g++ {compiler}; {output_of(['cmake', '--version']).split(chr(10))[0] or 'no cmake'}; "
                f"Python {sys.version.split()[0]}, PyTorch {self.torch.split()[0] if self.torch else 'none'}; {os.cpu_count()} cores")


def find_nvcc():
    """As gpu/cuda/CMakeLists.txt looks for it."""
    homes = [os.path.join(os.environ[name], "bin/nvcc") for name in ("CUDA_HOME",) if os.environ.get(name)]
    places = [os.environ.get("CUDACXX"), *homes, shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", os.path.join(ROOT, "build/cuda/bin/nvcc")]
    return next((place for place in places if place and os.access(place, os.X_OK)), None)


def beside(program, name):
    path = os.path.join(os.path.dirname(program), name) if program else ""
    return path if path and os.access(path, os.X_OK) else None
