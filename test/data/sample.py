#!/usr/bin/env python3
"""Print the sample embeddings as a COPY stream for psql.

    sample.py sample|query [--type vector|halfvec|sparsevec|bit]
                           [--format binary|text] [--rows N] [--skip N]

Columns: id integer (row number in the file), body text, embedding TYPE.  Use:

    CREATE TABLE sample (id int, body text, embedding vector(384));
    \\copy sample from program 'python3 test/data/sample.py sample' with (format binary)

vector and halfvec hold the file's numbers exactly.  sparsevec keeps the 48
components of largest magnitude, bit has a one for each positive component.
Needs the Python standard library only.
"""
import argparse
import gzip
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = {'sample': 'minilm_sample.f16', 'query': 'minilm_queries.f16'}
DIMS = 384
SPARSE_KEEP = 48
COPY_HEADER = b'PGCOPY\n\xff\r\n\0' + struct.pack('>ii', 0, 0)
COPY_END = struct.pack('>h', -1)


def texts(part):
    """The texts of a part, in row order."""
    with gzip.open(os.path.join(HERE, 'minilm_texts.tsv.gz'), 'rt', encoding='utf-8') as lines:
        rows = (line.rstrip('\n').split('\t') for line in lines)
        return [text for name, _, text in rows if name == part]


def vectors(part):
    """Yield each row of a part as a tuple of floats."""
    row = struct.Struct('<%de' % DIMS)
    with open(os.path.join(HERE, FILES[part]), 'rb') as file:
        yield from row.iter_unpack(file.read())


def sparse(row):
    """The largest components as (zero-based index, value), by index."""
    largest = sorted(range(DIMS), key=lambda i: (-abs(row[i]), i))[:SPARSE_KEEP]
    return [(i, row[i]) for i in sorted(largest) if row[i] != 0]


def binary_value(row, kind):
    """What the type's receive function reads."""
    if kind == 'vector':
        return struct.pack('>hh%df' % DIMS, DIMS, 0, *row)
    if kind == 'halfvec':
        return struct.pack('>hh%de' % DIMS, DIMS, 0, *row)
    if kind == 'bit':
        bits = int(''.join('1' if x > 0 else '0' for x in row), 2)
        return struct.pack('>i', DIMS) + bits.to_bytes(DIMS // 8, 'big')
    kept = sparse(row)
    count = len(kept)
    return struct.pack('>iii%di%df' % (count, count), DIMS, count, 0, *(i for i, _ in kept), *(x for _, x in kept))


def text_value(row, kind):
    """What the type's input function reads."""
    if kind == 'bit':
        return ''.join('1' if x > 0 else '0' for x in row)
    if kind == 'sparsevec':
        return '{%s}/%d' % (','.join('%d:%.9g' % (i + 1, x) for i, x in sparse(row)), DIMS)
    return '[%s]' % ','.join('%.9g' % x for x in row)


def copy_text(text):
    """Escape a value for COPY's text format."""
    return text.replace('\\', '\\\\').replace('\t', '\\t').replace('\n', '\\n')


def write_binary(out, rows, kind):
    """Write rows of (id, body, vector) in COPY's binary format."""
    out.write(COPY_HEADER)
    for number, body, row in rows:
        body, value = body.encode(), binary_value(row, kind)
        out.write(struct.pack('>hii', 3, 4, number))
        out.write(struct.pack('>i', len(body)) + body)
        out.write(struct.pack('>i', len(value)) + value)
    out.write(COPY_END)


def write_text(out, rows, kind):
    """Write rows of (id, body, vector) in COPY's text format."""
    for number, body, row in rows:
        out.write(('%d\t%s\t%s\n' % (number, copy_text(body), text_value(row, kind))).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=sorted(FILES))
    parser.add_argument('--type', default='vector', choices=('vector', 'halfvec', 'sparsevec', 'bit'))
    parser.add_argument('--format', default='binary', choices=('binary', 'text'))
    parser.add_argument('--rows', type=int, help='at most so many rows')
    parser.add_argument('--skip', type=int, default=0, help='leave out so many rows first')
    args = parser.parse_args()
    rows = list(zip(range(1 << 30), texts(args.part), vectors(args.part)))[args.skip:]
    rows = rows if args.rows is None else rows[:args.rows]
    write = write_binary if args.format == 'binary' else write_text
    write(sys.stdout.buffer, rows, args.type)


if __name__ == '__main__':
    main()
