#!/usr/bin/env python3
"""KV caches and attention in a private server, beside the fastest attention of numpy, PyTorch and llama.cpp measured in
the same run.

Data are the keys, values and queries of a real model (kv_data.py); every answer is judged before it is timed. Prints
Markdown tables.
"""

import argparse
import json
import signal
import sys

import kv_data
import kv_helper
import kv_measure
import kv_peers
import kv_report
import report
from kv_subject import Server


def words(text):
    return [part for part in text.split(",") if part]


def setting(text):
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"a setting is NAME=VALUE, not {text}")
    return name, value


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", help="npz file: k_post, v [layer, head, token, 64], q [layer, query head, position, 64]")
    add("--ours", metavar="PREFIX", required=True, help="PostgreSQL installation that holds the extension")
    stages = [stage for stage in kv_measure.STAGES if stage not in kv_measure.ASKED_FOR]
    more = f"default {','.join(stages)}; {','.join(kv_measure.ASKED_FOR)} when named"
    add("--do", type=words, default=stages, metavar="STAGES", help=f"stages, {more}")
    add("--shapes", type=kv_data.shapes_named, default="all", help=",".join(shape.name for shape in kv_data.SHAPES))
    add("--share-shapes", type=kv_data.shapes_named, default="32768x1_9of3x64,32768x1_32of8x128")
    add("--parallel-shapes", type=kv_data.shapes_named, default="32768x1_32of8x128,131072x1_32of8x128")
    add(
        "--helper-shapes",
        type=kv_data.shapes_named,
        default="512x1_9of3x64,4096x1_9of3x64,4096x1_32of8x128,512x16_9of3x64",
        help="batch 1: overhead of a call; else so many sequences, one a session",
    )
    add("--codecs", type=words, default="f16,int8,int4,int3,int2")
    add("--write-codecs", type=words, default="f16,int8,int4", help="for parallel and one-token stages")
    add("--tokens", type=int, default=3584, help="one-token appends")
    add("--seconds", type=float, default=2.0, help="how long each is timed")
    add(
        "--peers",
        default="all",
        help="peers measured with one thread before: all, none, or names separated by semicolons",
    )
    add("--peer-threads", type=words, default="1")
    add("--ggml", help="source folder of ggml, for llama.cpp's attention")
    add("--ggml-build", help="its build folder")
    add("--shared-buffers", default="4GB")
    add("--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="another setting of the server")
    add("--run-as", default="postgres", help="user of the server when called by root")
    add("--work", help="folder for the cluster (default: the system's temporary folder)")
    add("--json", help="file for every figure")
    add("--markdown", help="file for the tables, besides standard output")
    add("--document", help="file whose section between <!-- bench NAME --> and <!-- /bench --> is replaced")
    add("--section", metavar="NAME", help="the NAME of that section")
    options = parser.parse_args(arguments)
    options.settings = {**(kv_helper.SETTINGS if "helper" in options.do else {}), **dict(options.set)}
    unknown = [stage for stage in options.do if stage not in kv_measure.STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]}")
    if bool(options.document) != bool(options.section):
        parser.error("--document and --section go together")
    return options


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure_peers(source, options):
    if options.peers == "none" or "attend" not in options.do:
        return {}
    names = list(kv_peers.PEERS) if options.peers == "all" else options.peers.split(";")
    names = kv_peers.available(names, options)
    shelf = kv_data.Shelf(source, options.shapes)
    return kv_peers.run_peers(
        shelf.path, options.shapes, names, [int(count) for count in options.peer_threads], options
    )


def write(options, text, everything):
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(everything, file, indent=1)
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(text)
    if options.document:
        report.replace_section(options.document, options.section, text)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    options = parse(sys.argv[1:])
    source = kv_data.Source(options.data)
    peers = measure_peers(source, options)
    server = Server(options)
    try:
        version = server.one("SELECT version()").split(" on ")[0]
        results = kv_measure.run(server, source, options, note)
    finally:
        server.stop()
    header = {
        "server": ", ".join(
            [
                version,
                f"shared_buffers {options.shared_buffers}",
                *(f"{name} {value}" for name, value in options.settings.items()),
                "jit off, autovacuum off, the rest default",
            ]
        ),
        "load average at the end": " ".join(kv_measure.load_average()),
    }
    text = kv_report.markdown(results, peers, header, options)
    write(options, text, {"header": header, "peers": peers, "results": results})
    sys.exit(1 if kv_report.refusals(results) else 0)


if __name__ == "__main__":
    main()
