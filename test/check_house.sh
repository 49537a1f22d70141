#!/bin/bash
# The rules of the house that a script can check: who may include whom, one expected file a test, file sizes, words and paths that
# must not be in the tree, and what vector.so shows.  Prints each breach; "N passed, N failed" closes.
cd "$(dirname "$0")/.." || exit 1
shopt -s lastpipe # "... | rule" counts in this shell

passed=0
failed=0
rule() { # name, then the breaches on standard input
    local breaches
    breaches=$(cat)
    if [ -z "$breaches" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'not ok: %s\n' "$1"
        printf '%s\n' "$breaches" | sed 's/^/    /'
    fi
}

sources() { find "$@" \( -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' \) 2> /dev/null; }
includes() { sources "$@" | xargs -r grep -nE '^[[:space:]]*#[[:space:]]*include'; } # file:line:#include ...
tree() { find . \( -path ./.git -o -path ./build -o -path ./results -o -name __pycache__ \) -prune -o -type f -print; }

# Includes go downwards only: pg -> core, gpu -> core; inside core: simd <- codec <- graph, simd <- kv; offload stands alone.
includes src/core | grep -vE 'include (<[a-z_0-9./]+>|"core/)' | rule 'src/core includes the standard library and core only'
includes src/core | grep -E 'postgres|cuda|"pg/|"gpu/' | rule 'src/core knows neither PostgreSQL nor CUDA'
includes src/core/simd | grep '"core/' | grep -vE '"core/(simd/|error\.h|value\.h)' | rule 'simd stands on nothing'
includes src/core/codec | grep '"core/' | grep -vE '"core/(simd|codec)/|"core/(error|value)\.h' | rule 'codec stands on simd'
includes src/core/text | grep '"core/' | grep -vE '"core/(simd|text)/|"core/(error|poll|value)\.h' | rule 'text stands on simd'
includes src/core/graph | grep '"core/' | grep -vE '"core/(simd|codec|graph)/|"core/(error|value)\.h' | rule 'graph stands on codec and simd'
includes src/core/nearest | grep '"core/' | grep -vE '"core/(simd|nearest)/|"core/(error|value)\.h' | rule 'nearest stands on simd'
includes src/core/kv | grep '"core/' | grep -vE '"core/(simd|kv)/|"core/(error|poll|value)\.h' | rule 'kv stands on simd'
includes src/core/offload | grep '"core/' | grep -vE '"core/(offload)/|"core/(error|value)\.h' | rule 'offload stands on nothing'
includes src/pg | grep -vE '^src/pg/boundary/(pg|compat)\.h:' | grep '"' | grep -vE '"(core|pg)/' | rule 'PostgreSQL is included through pg/boundary/pg.h only'
includes src/pg | grep -E 'cuda|"gpu/|faiss|cblas' | rule 'src/pg knows neither CUDA nor a numerical library'
includes gpu | grep -E 'postgres|"pg/' | rule 'gpu knows no PostgreSQL'
sources src/pg | grep -v boundary/compat.h | xargs -r grep -n 'PG_VERSION_NUM' | rule 'server versions are told apart in boundary/compat.h only'
sources src | xargs -r grep -nE '\bPG_(TRY|CATCH|END_TRY)\b' | grep -vE ':[[:space:]]*(//|\*)' | rule 'no PG_TRY'
sources src/core gpu | xargs -r grep -nE '\b(palloc|pfree|ereport|elog)\(' | rule 'no PostgreSQL calls outside src/pg'
sources src/pg | grep -v '^src/pg/boundary/' | xargs -r grep -nE 'extern "C"' | rule 'extern "C" is made by the boundary only'
grep -rnE -- '-march=native|-ffast-math' Makefile CMakeLists.txt src/pg/build.mk | grep -vE ':[[:space:]]*#' | rule 'no flag of this machine, no fast-math'

# Tests and files.
for file in sql/*.sql; do [ -e "expected/$(basename "$file" .sql).out" ] || echo "$file"; done | rule 'each sql/ file has its expected/ file'
for file in expected/*.out; do [ -e "sql/$(basename "$file" .out | sed 's/_[0-9]$//').sql" ] || echo "$file"; done | rule 'each expected/ file has its sql/ file'
tree | grep -E '\.(cpp|h|inl|cu|cuh|py|pl|pm|sh|mk)$' | xargs wc -l | awk '$2 != "total" && $1 > 700 {print $2 ": " $1 " lines"}' | rule 'no file beyond 700 lines'
sources src test gpu | while read -r file; do head -n 1 "$file" | grep -qE '^(//|/\*)' || echo "$file"; done | rule 'each file opens with what it is for'
tree | grep -vE '^\./test/(data/|check_house\.sh)' | xargs grep -nIE '\b(TODO|FIXME|XXX|HACK)\b|\bfor now\b|\bplaceholder\b|not implemented yet' | rule 'no open ends'
tree | grep -v '^./test/check_house.sh' | xargs grep -nIE '(^|[^[:alnum:]_./$}-])/(work|root|home/[a-z]+)/|\.library|\.mirror|/tmp/infra' | rule 'no path of a machine'
tree | xargs grep -lI $'\r' | rule 'no carriage returns'
find . -path ./build -prune -o -path ./.git -prune -o -type f -size +4M -print | grep -v '^./vector.so$' | rule 'no file beyond 4 MB'

# What the library shows: PostgreSQL's two entry points and, for each SQL function, itself and its record.
if [ -f vector.so ]; then
    shown=$(nm -D --defined-only vector.so | awk '{print $3}' | sort)
    functions=$(grep '^pg_finfo_' <<< "$shown" | sed 's/^pg_finfo_//')
    { grep -vE '^(pg_finfo_.*|Pg_magic_func|_PG_init|vkv_worker_.*)$' <<< "$shown" | grep -vxF "$functions"; } | rule 'vector.so shows SQL functions and workers only'
    grep -hoE "AS 'MODULE_PATHNAME'(, *'[a-z_0-9]+')?" extension/*/*.sql | sed -n "s/.*, *'\(.*\)'/\1/p" | sort -u |
        grep -vxF "$functions" | rule 'each C symbol of the SQL files is in vector.so'
    readelf -d vector.so | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libm|libpthread|ld-linux[a-z0-9_-]*)\.so' | rule 'vector.so needs libc and libm only'
fi

printf 'house: %d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
