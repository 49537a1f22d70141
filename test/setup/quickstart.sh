#!/bin/bash
# From a bare machine to figures: installs what is missing, builds, starts a private cluster, loads the samples of test/data, builds a
# compressed index, runs real queries, attends over a real KV cache and prints a report.  The cluster stays up to be played with.
#   CODEC=lvq4 make quickstart      another codec        EF_SEARCH=100 make quickstart      more effort a query
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/quickstart_kv.sh"

SETUP=$ROOT/test/setup
CODEC=${CODEC:-}
CLUSTER=${CLUSTER:-quickstart}
EF_SEARCH=${EF_SEARCH:-40}
K=10
SHOWN_QUERY=${SHOWN_QUERY:-130}

step() { printf '  %-10s %s\n' "$1" "$2"; }
figure() { printf '  %-18s %s\n' "$1" "$2"; }
sql() { psql -X -q -At -v ON_ERROR_STOP=1 -v k=$K -v shown="$SHOWN_QUERY" -d quickstart "$@"; }
since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f s", b - a }'; }

show_build() { # while the process lives; a line every ten seconds
    local waited=0 objects
    while kill -0 "$1" 2> /dev/null; do
        sleep 1
        waited=$((waited + 1))
        [ $((waited % 10)) = 0 ] || continue
        objects=$(find "$BUILD/core" "$BUILD/pg" -name '*.o' -newer "$BUILD/install.log" 2> /dev/null | wc -l)
        printf '  %-10s %s s  %s\n' '' "$waited" "$objects objects"
    done
}

prepare() {
    local started
    use_postgres
    step postgres "$("$PG_CONFIG" --version)"
    started=$(date +%s.%N)
    step build "compiles; minutes the first time, and more where nvcc is found: kernels for the GPU (log: build/install.log)"
    "$SETUP/pgroot.sh" &
    show_build $!
    wait $! || exit 1
    choose_run_folder
    step build "vector.so, installed into ${PGROOT#"$ROOT"/} ($(since "$started"))"
    "$SETUP/cluster.sh" start "$CLUSTER"
    eval "$("$SETUP/cluster.sh" env "$CLUSTER")"
    step cluster "private, in ${RUN#"$ROOT"/}/$CLUSTER; unix socket only"
}

load() {
    local started
    started=$(date +%s.%N)
    PGOPTIONS='-c client_min_messages=warning' psql -X -q -v ON_ERROR_STOP=1 -d postgres -c 'DROP DATABASE IF EXISTS quickstart WITH (FORCE)' \
        -c 'CREATE DATABASE quickstart'
    sql << 'SQL'
CREATE EXTENSION vector;
CREATE TABLE sample (id int PRIMARY KEY, body text NOT NULL, embedding vector(384) NOT NULL);
CREATE TABLE query (LIKE sample INCLUDING ALL);
SQL
    python3 "$ROOT/test/data/sample.py" sample | sql -c 'COPY sample FROM STDIN WITH (FORMAT binary)'
    python3 "$ROOT/test/data/sample.py" query | sql -c 'COPY query FROM STDIN WITH (FORMAT binary)'
    sql -c 'VACUUM ANALYZE sample, query'
    step sample "$(sql -c "SELECT to_char(count(*), 'FM999,999') FROM sample") sentence embeddings of 384 dimensions, $(
        sql -c 'SELECT count(*) FROM query') real queries ($(since "$started"))"
}

show_progress() { # while the process lives; a line for each change, from a second connection
    local last='' line started=$2
    while kill -0 "$1" 2> /dev/null; do
        line=$(sql -c "SELECT phase || CASE WHEN tuples_total > 0 THEN format(': %s of %s tuples', tuples_done, tuples_total)
            WHEN blocks_total > 0 THEN format(': %s of %s blocks', blocks_done, blocks_total) ELSE '' END
            FROM pg_stat_progress_create_index")
        if [ -n "$line" ] && [ "$line" != "$last" ]; then printf '  %-10s %s  %s\n' '' "$(since "$started")" "$line"; fi
        last=$line
        sleep 0.1
    done
}

build_index() {
    local options='' started builder
    [ -z "$CODEC" ] || options="WITH (codec = '$CODEC')"
    step index "CREATE INDEX sample_embedding_idx ON sample USING hnsw (embedding vector_cosine_ops) $options"
    started=$(date +%s.%N)
    sql -c "CREATE INDEX sample_embedding_idx ON sample USING hnsw (embedding vector_cosine_ops) $options" &
    builder=$!
    show_progress "$builder" "$started"
    wait "$builder" || die "the index could not be built"
    BUILD_TIME=$(since "$started")
}

# Every query exactly and through the index: recall, and the time of each on the server.
measure_server() {
    sql << SQL
SET hnsw.ef_search = $EF_SEARCH;
CREATE UNLOGGED TABLE answer (way text, query int, id int);
CREATE UNLOGGED TABLE timing (way text, query int, ms float8);
CREATE FUNCTION run_queries(name text, k int) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
    q record;
    found int[];
    started timestamptz;
BEGIN
    FOR q IN SELECT * FROM query ORDER BY id LOOP
        started := clock_timestamp();
        found := ARRAY(SELECT id FROM sample ORDER BY embedding <=> q.embedding LIMIT k);
        INSERT INTO timing VALUES (name, q.id, extract(epoch FROM clock_timestamp() - started) * 1000);
        INSERT INTO answer SELECT name, q.id, unnest(found);
    END LOOP;
END \$\$;
SET enable_seqscan = off;
SELECT run_queries('warm-up', :k);
SELECT run_queries('index', :k);
SET enable_seqscan = on;
SET enable_indexscan = off;
SELECT run_queries('exact', :k);
SQL
}

# The same queries as a client sees them: prepared, one after the other, timed by psql.
measure_client() {
    {
        echo "SET hnsw.ef_search = $EF_SEARCH; SET enable_seqscan = off;"
        echo "PREPARE nearest(int) AS SELECT id, body FROM sample ORDER BY embedding <=>
            (SELECT embedding FROM query WHERE id = \$1) LIMIT $K;"
        for i in $(seq 0 9); do echo "EXECUTE nearest($i);"; done
        printf '%s\n' '\timing on'
        for i in $(seq 0 199); do echo "EXECUTE nearest($i);"; done
    } | sql | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | sort -n |
        awk '{ t[NR] = $1 } END { printf "median %.2f ms, 95 %% within %.2f ms", t[int((NR + 1) / 2)], t[int(NR * 0.95)] }'
}

server_time() {
    sql -c "SELECT format('median %s ms, 95 %% within %s ms', round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2),
        round(percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)::numeric, 2)) FROM timing WHERE way = '$1'"
}

report() {
    local client
    client=$(measure_client)
    measure_server > /dev/null
    say ''
    say "Report"
    figure 'codec' "$(sql -c "SELECT codec FROM hnsw_info('sample_embedding_idx')")"
    figure 'build time' "$BUILD_TIME"
    figure 'table' "$(sql -c "SELECT pg_size_pretty(pg_table_size('sample'))")"
    figure 'index' "$(sql -c "SELECT format('%s, %s bytes a vector, %s %% of the table', pg_size_pretty(pg_relation_size('sample_embedding_idx')),
        pg_relation_size('sample_embedding_idx') / (SELECT count(*) FROM sample),
        100 * pg_relation_size('sample_embedding_idx') / pg_table_size('sample'))")"
    figure "recall@$K" "$(sql << SQL
SELECT format('%s against exact search, at hnsw.ef_search = $EF_SEARCH', round(avg((e.id IS NOT NULL)::int), 4))
FROM (SELECT * FROM answer WHERE way = 'exact') x LEFT JOIN (SELECT * FROM answer WHERE way = 'index') e USING (query, id);
SQL
    )"
    figure 'query, client' "$client"
    figure 'query, server' "$(server_time index)"
    figure 'exact, server' "$(server_time exact)"
    say ''
    say "Nearest to \"$(sql -c "SELECT body FROM query WHERE id = $SHOWN_QUERY")\""
    sql -F '  ' << 'SQL'
SET enable_seqscan = off;
SELECT to_char(s.embedding <=> q.embedding, '  0.0000'), left(s.body, 110) FROM sample s, query q WHERE q.id = :shown
ORDER BY s.embedding <=> (SELECT embedding FROM query WHERE id = :shown) LIMIT 5;
SQL
}

farewell() {
    local runner=''
    ! is_root || [ "$SERVER_USER" = root ] || runner=" (root can connect; the server runs as $SERVER_USER)"
    cat << TEXT

The cluster is running$runner. To go on:
  $PGROOT$PG_BINDIR/psql -h $PGHOST -U postgres quickstart
  SELECT body FROM sample ORDER BY embedding <=> (SELECT embedding FROM query WHERE id = 7) LIMIT 5;
  SELECT * FROM kv.caches;
To stop it: make quickstart-stop     To remove everything: make clean
TEXT
}

"$SETUP/packages.sh" build
become_owner
say "vectorkv quickstart"
prepare
load
build_index
load_kv
report
report_kv
farewell
