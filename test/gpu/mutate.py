#!/usr/bin/env python3
"""Takes the synchronization out of the CUDA kernels, one call at a time, and wants a test to fail each time.

mutate.py PROGRAM...: programs built from test/gpu/kernels*_test.cpp, which run kernels on the emulator.  The emulator leaves the call
out (or waits for one group of copies fewer) while the program runs, so nothing is built anew.  Tests whose names contain Small are
run with several seeds; one failure is enough.  A call whose loss no test notices fails the run: it is a hole in the tests, or not
needed, or belongs into EXCEPTIONS with the reason why only hardware can show it.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
CALL = re.compile(r'\b(block_barrier|warp_barrier|copy_commit|copy_wait<(\d+)>)\(\)')
SEEDS = (1, 2, 3, 4, 5)
SECONDS = 60  # of a run; one that lasts longer has failed

# 'file: the line, without what stands around it': why no test on the emulator can notice.
EXCEPTIONS = {
    # Between the last codes that a lane reads and this line all lanes meet in a product. What is left are means that lie where the vector
    # will, in a tile of a token or two: whether a lane that is ahead writes there depends on the codec's bytes, and none of these does.
    'tile_work.cuh: warp_barrier();  // nobody reads the tile any more': 'lanes meet in products before it',
}


def mutants():
    """(variable of the environment, file:line, text) of each."""
    found = []
    for path in sorted((ROOT / 'gpu/cuda').iterdir()):
        if path.suffix not in ('.h', '.cuh') or path.name == 'target.h':
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            calls = CALL.findall(line.split('//')[0])
            if not calls:
                continue
            if len(calls) > 1:
                sys.exit(f'{path.name}:{number}: two calls in a line cannot be told apart')
            place, text = f'{path.name}:{number}', f'{path.name}: {line.strip()}'
            found.append(('VKV_EMULATOR_WITHOUT', place, text))
            if calls[0][1]:
                found.append(('VKV_EMULATOR_WEAKER', place, text))
    return found


def fails(program, tests, environment):
    """What failed, or None."""
    try:
        run = subprocess.run([program, '--gtest_filter=' + tests, '--gtest_brief=1', '--gtest_fail_fast'], capture_output=True, text=True,
                             timeout=SECONDS, env={**os.environ, **environment})
    except subprocess.TimeoutExpired:
        return f'no end after {SECONDS} s'
    if run.returncode == 0:
        return None
    failed = re.findall(r'\[  FAILED  \] (\S+)', run.stdout)
    return failed[0] if failed else f'exit status {run.returncode}'


def noticed(mutant, programs, tests):
    variable, place, _ = mutant
    for seed in SEEDS:
        for program in programs:
            how = fails(program, tests, {variable: place, 'VKV_EMULATOR_SEED': str(seed)})
            if how:
                return f'{how}, seed {seed}'
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('programs', nargs='+')
    parser.add_argument('--tests', default='*Small*', help='filter of GoogleTest')
    parser.add_argument('--jobs', type=int, default=2)
    options = parser.parse_args()
    passed, failed = 0, []
    for seed in SEEDS:
        for program in options.programs:
            how = fails(program, options.tests, {'VKV_EMULATOR_SEED': str(seed)})
            if how:
                sys.exit(f'mutate: fails as it is: {program}: {how}, seed {seed}')
    every = mutants()
    if not every:
        sys.exit('mutate: no call was found')
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda mutant: noticed(mutant, options.programs, options.tests), every))
    for (variable, place, text), how in zip(every, results):
        kind = 'without' if variable.endswith('WITHOUT') else 'weaker'
        excepted = text in EXCEPTIONS
        if bool(how) != excepted:
            passed += 1
            print(f'ok: {kind} {place}: {how or "excepted: " + EXCEPTIONS[text]}')
        else:
            failed.append(place)
            print(f'not ok: {kind} {place}: {"noticed, but excepted: " + how if how else "no test notices"}: {text}')
    for text in EXCEPTIONS.keys() - {text for _, _, text in every}:
        failed.append(text)
        print(f'not ok: excepted, but not in the source: {text}')
    print(f'mutate: {passed} passed, {len(failed)} failed')
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
