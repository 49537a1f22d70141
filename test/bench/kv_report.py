"""The tables of kv_bench.py in Markdown."""

import kv_data
import kv_helper
import kv_measure
import kv_peers
from report import machine

MB = 1e6


def refused(figures):
    return "refused" in figures


def cell(figures, text):
    return "refused" if refused(figures) else text(figures)


def speed(figures):
    best = 1 / figures["best"]
    return f"{best:,.{1 if best < 100 else 0}f} / {1 / figures['median']:,.{1 if best < 100 else 0}f}"


def times(value):
    return f"{value:.2f} ×" if value else "–"


def against_peer(figures, peers, shape):
    """Speed of the fastest peer, and ours by wall time and by CPU time (the backend's) relative to the fastest by each."""
    if not peers:
        return "–", "–"
    best, peer = kv_peers.fastest(peers, shape, 1)
    text = f"{best:,.{1 if best < 100 else 0}f} ({peer})"
    if refused(figures):
        return text, "–"
    by_cpu = 1 / figures["cpu_best"] / kv_peers.fastest(peers, shape, 1, "cpu")[0]
    return text, f"{times(1 / figures['best'] / best)} ({times(by_cpu)})"


def against_f16(found, codec):
    """Speed of a codec relative to f16's, by wall and by CPU time."""
    one, other = found.get(codec, {"refused": ""}), found.get("f16", {"refused": ""})
    if refused(one) or refused(other):
        return "–"
    return f"{times(other['best'] / one['best'])} ({times(other['cpu_best'] / one['cpu_best'])})"


def attend_tables(rows, peers, options):
    """One row a shape: our codecs, the fastest peer, and ratios; then the errors of the same calls."""
    titles = [f"`{codec}`" for codec in options.codecs]
    ratios = [
        "fastest peer, one thread",
        "`f16` / peer (by CPU)",
        *(f"`{codec}` / `f16`" for codec in ("int8", "int4")),
    ]
    lines = ["| " + " | ".join(["tokens × batch, heads", *titles, *ratios]) + " |", "|---" * (len(titles) + 5) + "|"]
    errors = ["| " + " | ".join(["tokens × batch, heads", *titles]) + " |", "|---" * (len(titles) + 1) + "|"]
    for shape in options.shapes:
        found = {codec: rows[f"{shape.name} {codec}"] for codec in options.codecs}
        cells = [cell(f, speed) for f in found.values()]
        cells += against_peer(found.get("f16", {"refused": ""}), peers, shape)
        cells += [against_f16(found, codec) for codec in ("int8", "int4")]
        lines.append("| " + " | ".join([shape.title, *cells]) + " |")
        errors.append("| " + " | ".join([shape.title, *(cell(f, error_text) for f in found.values())]) + " |")
    about = (
        "Relative error against float64, the worst output vector on the decoded tensors / all outputs on the tensors given "
        "(GB/s of tiles):"
    )
    return [*lines, "", about, "", *errors]


def error_text(figures):
    return f"{figures['kernel_error']:.1e} / {figures['error']:.1e} ({figures['bytes'] / figures['best'] / 1e9:.1f})"


def share_table(rows, options):
    """Against the fastest of the scans that touch every byte, and against scans that read headers alone."""
    heads = ["", "`kv.attend`, GB/s", "every byte: `kv.check`, `bit_count`, copied", "share of the fastest"]
    heads += ["tile headers: `kv.tokens`", "share", "row headers: `count(*)`", "share"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for shape in options.share_shapes:
        for codec in options.codecs:
            f = rows[f"{shape.name} {codec}"]
            if refused(f):
                lines.append(f"| {shape.title}, `{codec}` | refused" + " |" * 7)
                continue
            whole = [f[f"scan_{name}"] for name in kv_measure.WHOLE_SCANS]
            cells = [
                f"{f['attend'] / 1e9:.2f}",
                ", ".join(f"{w / 1e9:.2f}" for w in whole),
                f"{f['attend'] / max(whole):.0%}",
            ]
            for name in ("scan_tokens", "scan_count"):
                cells += [f"{f[name] / 1e9:.2f}", f"{f['attend'] / f[name]:.0%}"]
            lines.append(f"| {shape.title}, `{codec}` | " + " | ".join(cells) + " |")
    return lines


def parallel_table(rows, options):
    lines = ["| | no worker | 1 worker | 2 workers | 2 against 1 |", "|---|---|---|---|---|"]
    for shape in options.parallel_shapes:
        for codec in options.write_codecs:
            found = [rows[f"{shape.name} {codec} {workers}"] for workers in (0, 1, 2)]
            cells = [cell(f, lambda f: f"{f['best'] * 1e3:.2f} / {f['median'] * 1e3:.2f} ms") for f in found]
            good = not (refused(found[1]) or refused(found[2]))
            ratio = f"{found[1]['best'] / found[2]['best']:.2f} ×" if good else "–"
            lines.append(f"| {shape.title}, `{codec}` | " + " | ".join([*cells, ratio]) + " |")
    return lines


def bulk_table(rows):
    lines = [
        "| codec | input from | MB/s of input, best / median | MB a CPU second of the backend | WAL / stored bytes |",
        "|---|---|---|---|---|",
    ]
    for row, f in rows.items():
        codec, origin = row.split()
        rates = cell(
            f,
            lambda f: (
                f"{f['rate'] / MB:,.0f} / {f['rate_median'] / MB:,.0f} | {f['rate_cpu'] / MB:,.0f} | {f['wal_share']:.2f} ×"
            ),
        )
        lines.append(f"| `{codec}` | {origin} | {rates} |" + (" | |" if refused(f) else ""))
    return lines


def token_table(rows):
    lines = [
        "| codec, tail, synchronous_commit | median | p95 | mean | CPU, median | WAL, of its f16 bytes | of the second half of the tokens "
        "| where nothing is sealed |",
        "|---" * 8 + "|",
    ]
    for row, f in rows.items():
        codec, tail, commit = row.split()
        if refused(f):
            lines.append(f"| `{codec}`, {tail}, {commit} | refused |||||||")
            continue
        times = " | ".join(f"{f[key] * 1e3:.2f} ms" for key in ("median", "p95", "mean", "cpu"))
        lines.append(
            f"| `{codec}`, {tail}, {commit} | {times} | {f['wal_share']:.2f} × | {f['wal_share_later']:.2f} × "
            f"| {f['wal_share_plain']:.3f} × |"
        )
    return lines


def storage_table(rows):
    lines = ["| codec | sealed tiles with their index | everything, sequences of 4,096 tokens |", "|---|---|---|"]
    for codec, f in rows.items():
        lines.append(
            f"| `{codec}` | "
            + cell(f, lambda f: f"{f['sealed']:.3f} × | {f['all']:.3f} ×")
            + " |"
            + (" |" if refused(f) else "")
        )
    return lines


def helper_table(rows, options):
    """Overhead where there is one sequence, throughput of sessions where there are more."""
    lines = ["| | on the CPU | through the helper | overhead, median (best) |", "|---" * 4 + "|"]
    batches = [
        "| calls a second (average batch), a launch takes 1 ms at least | "
        + " | ".join(f"{n} session{'s' if n > 1 else ''}" for n in kv_helper.CLIENTS)
        + f" | {kv_helper.CLIENTS[-1]} against 1 |",
        "|---" * (len(kv_helper.CLIENTS) + 2) + "|",
    ]
    for shape in options.helper_shapes:
        for codec in options.write_codecs:
            f = rows[f"{shape.name} {codec}"]
            name = f"{shape.title}, `{codec}`"
            if refused(f):
                lines.append(f"| {name} | refused | | |")
            elif shape.batch == 1:
                walls = [f"{f[key]['median'] * 1e6:,.0f} µs" for key in ("here", "helper")]
                lines.append(
                    f"| {name} | {walls[0]} | {walls[1]} | {f['overhead'] * 1e6:,.0f} ({f['overhead_best'] * 1e6:,.0f}) µs |"
                )
            else:
                cells = [f"{f[n]:,.0f} ({f[f'batch {n}']:.1f})" for n in kv_helper.CLIENTS]
                batches.append(f"| {name} | {' | '.join(cells)} | {times(f[kv_helper.CLIENTS[-1]] / f[1])} |")
    return [*lines, "", *batches]


def refusals(results):
    return [
        f"- {stage} {row}: {f['refused']}" for stage, rows in results.items() for row, f in rows.items() if refused(f)
    ]


def markdown(results, peers, header, options):
    lines = [f"{key}: {value}  " for key, value in {"machine": machine(), **header}.items()]
    titles = {
        "attend": (
            "`kv.attend`: decode steps a second (one layer, all heads, the whole batch), best / median of whole calls from a client",
            lambda rows: attend_tables(rows, peers, options),
        ),
        "share": (
            "Bandwidth of one backend over the same tiles, in shared buffers",
            lambda rows: share_table(rows, options),
        ),
        "parallel": (
            "The aggregate `kv.attention` over sealed tiles, best / median; the leader only gathers when there are workers",
            lambda rows: parallel_table(rows, options),
        ),
        "bulk": ("`kv.append` of prompts of 4,096 tokens, 30 layers × 3 heads × 64, one call each", bulk_table),
        "token": (
            f"`kv.append` of one token, 30 layers × 3 heads × 64, a transaction each, {options.tokens} in a row, sealing included",
            token_table,
        ),
        "helper": (
            "`kv.attend` through the GPU helper's CPU device, every tile cached, one layer: whole calls from a client",
            lambda rows: helper_table(rows, options),
        ),
        "storage": ("Stored bytes a token against 16-bit keys and values", storage_table),
    }
    for stage, rows in results.items():
        title, table = titles[stage]
        lines += ["", f"**{title}**", "", *table(rows)]
    wrong = refusals(results)
    if wrong:
        lines += ["", "Refused, because a time beside a wrong result is no result:", *wrong]
    return "\n".join(lines) + "\n"


def peer_tables(peers, threads):
    return kv_peers.markdown(
        peers, [shape for shape in kv_data.SHAPES if shape.name in next(iter(peers.values()))[threads[0]]], threads
    )
