"""A private PostgreSQL cluster for one installation: found, made, started, stopped, removed.

Both installations get the same settings, no TCP port, a socket in a folder of their own, and no system cluster is
touched. Called by root, the server runs as an ordinary user (initdb refuses root).
"""

import glob
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time

SETTINGS = {
    "listen_addresses": "",
    "autovacuum": "off",
    "jit": "off",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "max_parallel_workers_per_gather": "0",
    "max_worker_processes": "16",
    "max_parallel_workers": "16",
}
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def find_bin(prefix):
    """The folder of initdb and postgres under an installation's prefix."""
    patterns = ["", "bin", "lib/postgresql/*/bin", "usr/lib/postgresql/*/bin", "usr/local/pgsql/bin"]
    for pattern in patterns:
        for folder in sorted(glob.glob(os.path.join(os.path.abspath(prefix), pattern)), reverse=True):
            if os.access(os.path.join(folder, "initdb"), os.X_OK):
                return folder
    raise SystemExit(f"{prefix}: no PostgreSQL installation (no initdb) is there")


class Cluster:
    def __init__(self, name, prefix, user, settings, work=None):
        self.name, self.bin = name, find_bin(prefix)
        self.user = user if os.geteuid() == 0 else None
        self.home = tempfile.mkdtemp(prefix=f"bench-{name}-", dir=work)
        self.data, self.log = os.path.join(self.home, "data"), os.path.join(self.home, "log")
        self.settings = {**SETTINGS, **settings, "unix_socket_directories": self.home}
        self.running = False
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.home, account.pw_uid, account.pw_gid)

    def command(self, program, *args):
        identity = {}
        if self.user:
            identity = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}
        done = subprocess.run(
            [os.path.join(self.bin, program), *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.home,
            **identity,
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {program} failed: {done.stdout}{self.log_tail()}")
        return done.stdout

    def log_tail(self):
        if not os.path.exists(self.log):
            return ""
        with open(self.log, errors="replace") as file:
            return "\n" + "".join(file.readlines()[-10:])

    def start(self):
        self.command("initdb", "-D", self.data, "-A", "trust", "-U", "bench", "-E", "UTF8", "--locale=C")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as file:
            for key, value in self.settings.items():
                file.write(f"{key} = '{value}'\n")
        # The server must not hold our pipe, so its output goes to the log alone.
        self.command("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", "60", "start")
        self.running = True
        with open(os.path.join(self.data, "postmaster.pid")) as file:
            self.postmaster = int(file.readline())

    def stop(self):
        if self.running:
            self.command("pg_ctl", "-D", self.data, "-w", "-m", "fast", "stop")
            self.running = False
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def dsn(self):
        return f"host={self.home} user=bench dbname=postgres"

    def version(self):
        return re.search(r"[\d.]+\S*", self.command("postgres", "-V"))[0]

    def ended_children_cpu(self):
        """CPU seconds of every backend and worker that has ended (the postmaster has waited for it)."""
        time.sleep(0.3)  # let it wait for those that have just ended
        with open(f"/proc/{self.postmaster}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[13]) + int(fields[14])) / CLOCK_TICKS


class CpuClock:
    """CPU time of one process with all its threads, ended ones too (the clock id of clock_getcpuclockid)."""

    def __init__(self, pid):
        self.clock = (~pid << 3) | 2
        self.seconds()

    def seconds(self):
        return time.clock_gettime(self.clock)


class Stopwatch:
    """`with Stopwatch(clock) as watch`: watch.wall and watch.cpu of the block."""

    def __init__(self, clock):
        self.clock = clock

    def __enter__(self):
        self.cpu, self.wall = self.clock.seconds(), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.wall, self.cpu = time.perf_counter() - self.wall, self.clock.seconds() - self.cpu
        return False
