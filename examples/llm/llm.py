#!/usr/bin/env python3
"""A language model whose KV cache and attention live in PostgreSQL.

    llm.py generate "What is a relational database?"     answers, token by token
    llm.py check                                         the same text and logits as the model in this process?
    llm.py perplexity --text FILE                        what each codec costs in perplexity

The model (model.py) runs here; its keys and values are rows, and every attention step is a call of kv.attend (caches.py).
"""

import argparse
import sys
import time

import numpy as np
import psycopg
from caches import MemoryCache, PostgresCache
from model import Model

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CHECKED = [
    CHAT.format("What is a relational database?"),
    "The seasons of the year are caused by",
    "def fibonacci(n):\n",
    # Long enough for sealed tiles: beyond the newest 128 tokens.
    "A database keeps what a program would forget. When the program ends, its variables are gone; what it has written "
    "to a table is there tomorrow, for itself and for others. That is why people put up with schemas, transactions "
    "and locks. A schema says what may be written, so that a mistake is found when it is made and not a year later. A "
    "transaction says what belongs together, so that nobody sees half of a transfer between two accounts. A lock says "
    "who comes first, so that two clerks do not sell the same seat. None of this is free, and programs that need none "
    "of it are better off with a file. But most programs grow, and sooner or later each of them meets the question of "
    "what happens when the power fails in the middle of a write, when a second user comes, or when last year's data "
    "must be read by this year's code. The answers have been known for a long time:",
]
# Rounding keys and values to halves moves the logits of the model in this process by some amount; PostgreSQL, which rounds the
# same, may move them by this many times as much, since float32 sums in another order turn some roundings over.
ROUNDING_LIMIT = 2
EXACT_CHUNK = 256


def greedy(model, cache, ids, tokens):
    """Prefill, then the likeliest token again and again: yields (token, logits that chose it)."""
    hidden = model.forward([ids], cache)
    for _ in range(tokens):
        logits = model.logits(hidden[0, -1])
        token = int(logits.argmax())
        yield token, logits
        if token == model.end:
            return
        hidden = model.forward([[token]], cache)


def generate(model, options):
    ids = model.tokenizer.encode(options.prompt if options.plain else CHAT.format(options.prompt)).ids
    cache = PostgresCache(options.dsn, model.config, 1, options.codec)
    answer, shown, started, first = [], "", time.perf_counter(), None
    for token, _ in greedy(model, cache, ids, options.tokens):
        first = first or time.perf_counter()
        if token != model.end:
            answer.append(token)
        text = model.tokenizer.decode(answer)
        print(text[len(shown) :], end="", flush=True)
        shown = text
    ended = time.perf_counter()
    tokens, stored = cache.stored()
    pace = (len(answer) - 1) / (ended - first) if len(answer) > 1 else 0
    print(f"\n\n{len(ids)} tokens read in {first - started:.2f} s, {len(answer)} written, {pace:.1f} a second")
    print(f"cache {cache.name}, codec {options.codec}: {tokens} tokens, {stored:,} bytes in its tables")
    cache.close()


def apart(one, other):
    """The largest difference of a logit, relative to the largest logit."""
    scale = max(float(np.abs(logits).max()) for _, logits in other)
    return max(float(np.abs(a - b).max()) for (_, a), (_, b) in zip(one, other, strict=False)) / scale


def check(model, options):
    """Greedy text and logits with codec f16 against the model in this process, exact and with keys and values as halves."""
    passed = True
    for prompt in CHECKED:
        ids = model.tokenizer.encode(prompt).ids
        room = len(ids) + options.tokens
        exact = list(greedy(model, MemoryCache(model.config, 1, room), ids, options.tokens))
        halves = list(greedy(model, MemoryCache(model.config, 1, room, halves=True), ids, options.tokens))
        cache = PostgresCache(options.dsn, model.config, 1, "f16")
        ours = list(greedy(model, cache, ids, options.tokens))
        cache.close()
        same = [token for token, _ in ours] == [token for token, _ in exact]
        good = same and apart(ours, exact) <= ROUNDING_LIMIT * apart(halves, exact)
        passed &= good
        print(f"{'ok' if good else 'WRONG'}: {prompt[:60]!r}")
        print(f"  {len(ids)} tokens read, {len(ours)} written, text {'the same' if same else 'different'}")
        print(
            f"  logits, relative to the largest: {apart(ours, exact):.1e} from those of the model in this process, which moves by"
        )
        print(f"  {apart(halves, exact):.1e} itself when its keys and values are halves", flush=True)
    return passed


def teacher_forced(model, cache, ids, chunk):
    """Loss of every token but the first: ids [batch, n]; the cache gets and answers `chunk` tokens at a time."""
    out = []
    for start in range(0, ids.shape[1], chunk):
        hidden = model.forward(ids[:, start : start + chunk], cache)
        following = ids[:, start + 1 : start + 1 + chunk]
        out.append(model.losses(hidden[:, : following.shape[1]], following))
    return np.concatenate(out, axis=1)


def windows_of(model, options):
    """The first windows * context tokens of the text: [windows, context]."""
    with open(options.text) as file:
        ids = model.tokenizer.encode(file.read()).ids
    wanted = options.windows * options.context
    if len(ids) < wanted:
        raise SystemExit(f"{options.text} has {len(ids)} tokens, {wanted} are asked for")
    return np.array(ids[:wanted]).reshape(options.windows, options.context)


def perplexity(model, options):
    ids = windows_of(model, options)
    exact = [
        teacher_forced(model, MemoryCache(model.config, 1, options.context), row[None], EXACT_CHUNK) for row in ids
    ]
    exact = np.concatenate(exact)
    print("| codec | perplexity | against the exact model | ± | s |\n|---|---|---|---|---|")
    print(f"| none, in this process | {np.exp(exact.mean()):.4f} | | | |", flush=True)
    for codec in options.codecs.split(","):
        started = time.perf_counter()
        cache = PostgresCache(options.dsn, model.config, options.windows, codec)
        losses = teacher_forced(model, cache, ids, options.chunk)
        cache.close()
        change = losses - exact
        error = 100 * change.std() / np.sqrt(change.size)
        figures = f"{np.exp(losses.mean()):.4f} | {100 * np.expm1(change.mean()):+.3f} % | {error:.3f}"
        print(f"| `{codec}` | {figures} | {time.perf_counter() - started:.0f} |", flush=True)
    return True


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dsn", default="", help="where the server is; the usual PG... variables otherwise")
    does = parser.add_subparsers(dest="do", required=True)
    one = does.add_parser("generate", help="answer a prompt")
    one.add_argument("prompt")
    one.add_argument("--plain", action="store_true", help="go on with the text instead of answering it")
    one.add_argument("--tokens", type=int, default=200)
    one.add_argument("--codec", default="int8")
    one = does.add_parser("check", help="compare text and logits with the model in this process")
    one.add_argument("--tokens", type=int, default=64)
    one = does.add_parser("perplexity", help="what each codec costs")
    one.add_argument("--text", required=True, help="a text file")
    one.add_argument("--codecs", default="f16,int8,int4,int3,int2")
    one.add_argument("--windows", type=int, default=2)
    one.add_argument("--context", type=int, default=2048)
    one.add_argument("--chunk", type=int, default=32, help="tokens appended at a time")
    return parser.parse_args()


def main():
    options = arguments()
    psycopg.connect(options.dsn).close()  # before the model takes its time to load
    if {"generate": generate, "check": check, "perplexity": perplexity}[options.do](Model(), options) is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
