#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention on the shapes that `cuda_test --time` was timed on, and puts both into one table.

    time_torch.py TIMES.jsonl [--device cuda|cpu] [--rotate BYTES] [--json FILE]

TIMES.jsonl holds the lines of cuda_test: codec, head_dim, batch, kv_heads, rows (query heads of a KV head), tokens, ms, gb_per_s, share.
A step is one position of each sequence of a batch, one layer. PyTorch gets K and V as halves and as bfloat16, contiguous
[batch, kv_heads, tokens, head_dim], no mask; once with enable_gqa and once with the query heads of a KV head as rows, and the faster
counts. Keys and values are rotated through --rotate bytes (1 GB and more), so that no cache holds them. Median of many steps by CUDA events.
"""

import argparse
import json
import math
import statistics
import sys
import time

DTYPES = ("float16", "bfloat16")
SHAPE = ("head_dim", "batch", "kv_heads", "rows", "tokens")


def read_times(path):
    """Lines with a shape; anything else in the file (names of devices, copy rates) is not for here."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.startswith("{")]
    return [row for row in rows if all(name in row for name in SHAPE)]


class Clock:
    """Median time of a step in microseconds."""

    def __init__(self, torch, device):
        self.torch, self.device = torch, device

    def median(self, steps, least=20, budget=0.5):
        for step in steps[: min(len(steps), 3)]:
            step()
        times, begun = [], time.perf_counter()
        while len(times) < least or (time.perf_counter() - begun < budget and len(times) < 1000):
            times.append(self._once(steps[len(times) % len(steps)]))
            if time.perf_counter() - begun > 20 * budget:
                break
        return statistics.median(times)

    def _once(self, step):
        if self.device == "cpu":
            begun = time.perf_counter()
            step()
            return (time.perf_counter() - begun) * 1e6
        before, after = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        step()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) * 1e3


def copy_rate(torch, clock, device, size):
    """GB/s of a copy within the device's memory, bytes read and written."""
    a = torch.empty(size, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * size / clock.median([lambda: b.copy_(a)]) / 1e3


def upload_rate(torch, clock, size):
    """GB/s from pinned memory of the host to the device."""
    a = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    b = torch.empty(size, dtype=torch.uint8, device="cuda")
    return size / clock.median([lambda: b.copy_(a, non_blocking=True)]) / 1e3


def steps_of(torch, shape, dtype, device, rotate):
    """For each way of asking, steps over keys and values that lie in different memory."""
    dim, batch, heads, group, tokens = (shape[n] for n in SHAPE)
    attend, kind = torch.nn.functional.scaled_dot_product_attention, getattr(torch, dtype)
    one = 2 * batch * heads * tokens * dim * kind.itemsize
    copies = max(1, math.ceil(rotate / one))
    sets = []
    for _ in range(copies):
        k, v = (torch.randn(batch, heads, tokens, dim, dtype=kind, device=device) for _ in range(2))
        sets.append((k, v))
    rows = torch.randn(batch, heads, group, dim, dtype=kind, device=device)
    queries = rows.reshape(batch, heads * group, 1, dim)
    return one, {
        "rows": [lambda k=k, v=v: attend(rows, k, v) for k, v in sets],
        "enable_gqa": [lambda k=k, v=v: attend(queries, k, v, enable_gqa=True) for k, v in sets],
    }


def time_shape(torch, clock, shape, dtype, device, rotate):
    size, ways = steps_of(torch, shape, dtype, device, rotate)
    best = {"us": math.inf}
    for way, steps in ways.items():
        us = clock.median(steps)
        if us < best["us"]:
            best = {"us": us, "way": way, "gb_per_s": size / us / 1e3}
    return best


def free(torch, device):
    if device != "cpu":
        torch.cuda.empty_cache()


def table(rows, peers):
    """Lines of a table: ours, PyTorch's time on the same tokens, and how many times as fast ours is."""
    lines = ["codec          dim batch  heads tokens |      us    GB/s  of copy |  SDPA f16  bf16 us | times SDPA (the faster)"]
    for row in rows:
        peer = peers[tuple(row[n] for n in SHAPE)]
        fastest = min(peer[d]["us"] for d in DTYPES)
        lines.append(
            f"{row['codec']:13}{row['head_dim']:5}{row['batch']:6}{row['kv_heads']:4}x{row['rows']:<2}{row['tokens']:7} |"
            f"{1000 * row['ms']:8.1f}{row['gb_per_s']:8.0f}{100 * row['share']:7.0f} % |"
            f"{peer['float16']['us']:10.1f}{peer['bfloat16']['us']:9.1f} |{fastest / row['ms'] / 1000:8.2f}")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("times")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rotate", type=float, default=1.2e9)
    parser.add_argument("--json")
    options = parser.parse_args()
    import torch

    rows = read_times(options.times)
    if not rows:
        print(f"time_torch: {options.times} names no shape")
        return 1
    torch.set_grad_enabled(False)
    clock, peers = Clock(torch, options.device), {}
    rate = copy_rate(torch, clock, options.device, int(options.rotate) // 2)
    upload = None if options.device == "cpu" else upload_rate(torch, clock, 1 << 28)
    for shape in dict.fromkeys(tuple(row[n] for n in SHAPE) for row in rows):
        peers[shape] = {}
        for dtype in DTYPES:
            peers[shape][dtype] = time_shape(torch, clock, dict(zip(SHAPE, shape)), dtype, options.device, options.rotate)
            free(torch, options.device)
    device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name()
    ours = [row for row in rows if "ms" in row]
    print("\n".join(table(ours, peers)) if ours else f"PyTorch alone: {len(peers)} shapes")
    print(f"PyTorch {torch.__version__} on {device}, copy {rate:.0f} GB/s read and written, "
          f"{f'pinned upload {upload:.0f} GB/s' if upload else 'no upload'}; {len(peers)} shapes, {len(ours)} rows beside them")
    if options.json:
        with open(options.json, "a", encoding="utf-8") as out:
            out.write(json.dumps({"what": "torch copy", "device": device, "gb_per_s": rate, "upload_gb_per_s": upload}) + "\n")
            for shape, peer in peers.items():
                out.write(json.dumps({"what": "sdpa", "device": device, **dict(zip(SHAPE, shape)), **peer}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
