#!/usr/bin/env python3
"""Print the sample's tensors as a COPY stream for psql, or as SQL.

    kv_sample.py [k_post|k_pre|v|q|out ...] [--first N] [--count N] [--format binary|sql]

binary: rows (name text, dtype text, shape integer[], data bytea) in COPY's
binary format; out is rounded from double to single precision.  Use:

    CREATE TABLE stage (name text, dtype text, shape int[], data bytea);
    \\copy stage from program 'python3 test/data/kv_sample/kv_sample.py' with (format binary)
    SELECT name, kv.tensor(data, shape, dtype) FROM stage;

sql: one expression kv.tensor(decode('...', 'hex'), '{2,3,1024,64}', 'f16')
a line.  --first and --count choose tokens of k_post, k_pre and v.  Needs the
Python standard library only; tensors(...) is for scripts.
"""
import argparse
import array
import os
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LAYERS, Q_HEADS, KV_HEADS, TOKENS, QUERIES, DIM = 2, 9, 3, 1024, 16, 64
NAMES = ('k_post', 'k_pre', 'v', 'q', 'out')
INT4 = 23  # the type's oid, which COPY wants for array elements


def read(name):
    """The bytes of a file of the sample."""
    with open(os.path.join(HERE, name), 'rb') as file:
        return file.read()


def tensors(names=NAMES, first=0, count=None):
    """Yield (name, dtype, shape, little-endian bytes)."""
    count = TOKENS - first if count is None else count
    if first < 0 or count < 0 or first + count > TOKENS:
        raise ValueError('the sample has tokens 0 to %d' % (TOKENS - 1))
    for name in names:
        if name == 'out':
            values = array.array('d', read('out.f64'))
            if sys.byteorder != 'little':
                values.byteswap()
            yield name, 'f32', (LAYERS, Q_HEADS, QUERIES, DIM), struct.pack('<%df' % len(values), *values)
        elif name == 'q':
            yield name, 'f16', (LAYERS, Q_HEADS, QUERIES, DIM), read('q.f16')
        else:
            data, token = read(name + '.f16'), DIM * 2
            heads = range(0, len(data), TOKENS * token)
            part = b''.join(data[at + first * token:at + (first + count) * token] for at in heads)
            yield name, 'f16', (LAYERS, KV_HEADS, count, DIM), part


def write_binary(out, rows):
    """Write rows in COPY's binary format."""
    out.write(b'PGCOPY\n\xff\r\n\0' + struct.pack('>ii', 0, 0))
    for name, dtype, shape, data in rows:
        elements = b''.join(struct.pack('>ii', 4, n) for n in shape)
        fields = (name.encode(), dtype.encode(), struct.pack('>iiiii', 1, 0, INT4, len(shape), 1) + elements, data)
        out.write(struct.pack('>h', len(fields)))
        for field in fields:
            out.write(struct.pack('>i', len(field)) + field)
    out.write(struct.pack('>h', -1))


def write_sql(out, rows):
    """Write each row as an expression of type kv.tensor."""
    for _, dtype, shape, data in rows:
        shape = '{%s}' % ','.join(map(str, shape))
        out.write(("kv.tensor(decode('%s', 'hex'), '%s', '%s')\n" % (data.hex(), shape, dtype)).encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='name', help=' '.join(NAMES))
    parser.add_argument('--first', type=int, default=0, help='first token')
    parser.add_argument('--count', type=int, help='number of tokens')
    parser.add_argument('--format', default='binary', choices=('binary', 'sql'))
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error('no tensor is called ' + ', '.join(sorted(unknown)))
    write = write_binary if args.format == 'binary' else write_sql
    write(sys.stdout.buffer, tensors(args.names or NAMES, args.first, args.count))


if __name__ == '__main__':
    main()
