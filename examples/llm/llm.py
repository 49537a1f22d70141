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
from caches import MemoryCache, PostgresCache
from model import Model

CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
CHECKED = [
    CHAT.format("What is a relational database?"),
    "The seasons of the year are caused by",
    "def fibonacci(n):\n",
]
# A half keeps 11 bits; the same halves seen by both sides leave only the order of float32 sums between them.
SAME_HALVES_LIMIT = 5e-3
EXACT_LIMIT = 0.25
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

        def apart(one, other):
            return max(float(np.abs(a[1] - b[1]).max()) for a, b in zip(one, other, strict=False))

        rounding, to_halves, to_exact = apart(halves, exact), apart(ours, halves), apart(ours, exact)
        good = same and to_halves <= SAME_HALVES_LIMIT and to_exact <= EXACT_LIMIT
        passed &= good
        print(
            f"{'ok' if good else 'WRONG'}: {prompt.splitlines()[-2 if prompt.endswith('assistant' + chr(10)) else 0][:50]!r}"
        )
        print(f"  {len(ids)} tokens read, {len(ours)} written, text {'the same' if same else 'different'}")
        print(f"  largest difference of a logit: {to_halves:.1e} from the model here with keys and values as halves,")
        print(f"  {to_exact:.1e} from the exact one ({rounding:.1e} lies between those two)", flush=True)
    return passed


def teacher_forced(model, cache, ids, chunk):
    """Loss of every token but the first: ids [batch, n]; the cache gets and answers `chunk` tokens at a time."""
    out = []
    for start in range(0, ids.shape[1], chunk):
        hidden = model.forward(ids[:, start : start + chunk], cache)
        following = ids[:, start + 1 : start + 1 + chunk]
        out.append(model.losses(hidden[:, : following.shape[1]], following))
    return np.concatenate(out, axis=1)


def perplexity(model, options):
    with open(options.text) as file:
        ids = model.tokenizer.encode(file.read()).ids[: options.windows * options.context]
    if len(ids) < options.windows * options.context:
        raise SystemExit(f"{options.text} has {len(ids)} tokens, {options.windows * options.context} are asked for")
    ids = np.array(ids).reshape(options.windows, options.context)
    exact = np.concatenate(
        [teacher_forced(model, MemoryCache(model.config, 1, options.context), row[None], EXACT_CHUNK) for row in ids]
    )
    print(
        f"exact, in this process: perplexity {np.exp(exact.mean()):.4f} of {ids.size} tokens in {options.windows} windows"
    )
    for codec in options.codecs.split(","):
        started = time.perf_counter()
        cache = PostgresCache(options.dsn, model.config, options.windows, codec)
        losses = teacher_forced(model, cache, ids, options.chunk)
        tokens, stored = cache.stored()
        cache.close()
        apart = losses - exact
        error = apart.std() / np.sqrt(apart.size)
        print(
            f"{codec}: perplexity {np.exp(losses.mean()):.4f}, {100 * np.expm1(apart.mean()):+.3f} % (± {100 * error:.3f}); "
            f"{stored / tokens:,.0f} bytes a token in tables, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
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
    if {"generate": generate, "check": check, "perplexity": perplexity}[options.do](Model(), options) is False:
        sys.exit(1)


if __name__ == "__main__":
    main()
