#!/bin/bash
# The regression tests in the wheel's PostgreSQL 16, with the helper on a device for every session: sql_suite.sh run DEVICE CORE_DIR, where
# CORE_DIR is a build folder of cmake that has the helper or will have it.  sql_suite.sh stop ends a server that was left behind.
# Closes with what the helper did: a suite that never asked it has failed.
. "$(dirname "$0")/../setup/lib.sh"
become_owner "$@"

CLUSTER=gpu-suite

install_extension() {
    PG_CONFIG=$("$ROOT/test/setup/wheel.sh" 16)
    use_postgres
    make -s -j "${JOBS:-$(nproc)}" --no-print-directory -C "$ROOT" install FORCE=1 PG_CONFIG="$PG_CONFIG" CORE_DIR="$1" > "$out/install.log" 2>&1 ||
        { tail -n 40 "$out/install.log"; die "the extension was not built" "$out/install.log has all of it"; }
}

# What a server of another user may read: the checkout, or a copy of the tests where it cannot.
test_source() {
    SOURCE=$ROOT
    if [ "$RUN" != "$BUILD/run" ]; then
        SOURCE=$RUN/source
        rm -rf "$SOURCE"
        mkdir -p "$SOURCE/test"
        cp -r "$ROOT/sql" "$ROOT/expected" "$SOURCE"
        cp -r "$ROOT/test/data" "$SOURCE/test"
    fi
}

query() { psql -X -A -t -q -v ON_ERROR_STOP=1 -d postgres -c "$1"; }

wait_for_helper() {
    local i state
    query 'CREATE EXTENSION IF NOT EXISTS vectorkv CASCADE' 2> /dev/null
    for ((i = 0; i < 300; i++)); do
        state=$(query 'SELECT state FROM kv.gpu_status()')
        [ "$state" != ready ] || return 0
        sleep 0.2
    done
    query 'SELECT state, reason, last_error FROM kv.gpu_status()'
    die "the helper is not ready after a minute"
}

suite() {
    local tests status=0
    wait_for_helper
    mapfile -t tests < <(cd "$SOURCE/sql" && ls -- *.sql | sed 's/\.sql$//')
    mkdir -p "$out/results"
    chmod 777 "$out/results" # COPY TO writes there, as the server's user
    "$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress" --inputdir="$SOURCE" --outputdir="$out" --bindir="$PG_BINDIR" \
        --dbname=contrib_regress --load-extension=vector "${tests[@]}" || status=$?
    [ $status = 0 ] || head -n 200 "$out/regression.diffs"
    answered=$(query 'SELECT answered FROM kv.gpu_stats')
    query "SELECT format('%s tests; on %s (%s): %s requests answered in %s batches, %s left to the CPU %s, %s errors, %s restarts', ${#tests[@]},
        g.device, g.backend, s.answered, s.batches, s.fallbacks, s.on_cpu, s.errors, s.restarts) FROM kv.gpu_status() g, kv.gpu_stats s"
    [ "$answered" -gt 0 ] || { echo 'error: the helper was never asked'; return 1; }
    return $status
}

[ $# -ge 1 ] || die "usage: sql_suite.sh run DEVICE CORE_DIR | stop"
choose_run_folder
export VKV_PGROOT= # the wheel is private already
PGROOT=
if [ "$1" = stop ]; then exec "$ROOT/test/setup/cluster.sh" remove $CLUSTER; fi
device=$2
out=$RUN/$CLUSTER-output # the server's user writes there as well
rm -rf "$out"
mkdir -p "$out"
install_extension "$3"
test_source
"$ROOT/test/setup/cluster.sh" remove $CLUSTER
status=0
EXTRA_CONF="fsync = off
shared_preload_libraries = 'vector'
vectorkv.gpu = 'on'
vectorkv.gpu_device = '$device'
vectorkv.gpu_memory = '512MB'" "$ROOT/test/setup/cluster.sh" start $CLUSTER || { "$ROOT/test/setup/cluster.sh" remove $CLUSTER; exit 1; }
(eval "$("$ROOT/test/setup/cluster.sh" env $CLUSTER)"; suite) || status=$?
"$ROOT/test/setup/cluster.sh" remove $CLUSTER
exit $status
