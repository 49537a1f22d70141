#!/bin/bash
# Every test there is: check.sh all, or the names of some steps.  Installs what is missing, builds into build/, runs servers of its
# own only, stops them, and sums up.  Each step's output is in build/check/STEP.log; what failed is shown.
#   VKV_STRESS_SECONDS (60)   how long the concurrency test runs      VKV_FUZZ_SECONDS (60)   how long fuzzing runs, all targets
#   VKV_BUILD_SEED (1)        makes the graphs of the TAP tests, which are the same in every run
#   VKV_STORM_SECONDS (120)   how long the storm of test/t/070 runs; test/storm is an hour of it
# Not among all: pg16 and pg18 (other servers), assert (a server with assertions), smith (random queries on that server;
# needs sqlsmith).
. "$(dirname "$0")/setup/lib.sh"

STEPS=(format house build install unit arm asan tsan fuzz sql quickstart tap gpu)
steps=("$@")
[ "${steps[*]:-all}" != all ] || steps=("${STEPS[@]}")
jobs=$(nproc)
export WERROR=1
failed=()
passed=()

# What a server of another user may read: the checkout, or a copy of the tests where it cannot.
test_source() {
    SOURCE=$ROOT
    if [ "$RUN" != "$BUILD/run" ]; then
        SOURCE=$RUN/source
        rm -rf "$SOURCE"
        mkdir -p "$SOURCE/test"
        cp -r "$ROOT/sql" "$ROOT/expected" "$ROOT/README.md" "$ROOT/docs" "$SOURCE"
        cp -r "$ROOT/test/t" "$ROOT/test/data" "$SOURCE/test"
    fi
}

core_build() { # folder, cmake options
    local folder=$BUILD/$1
    shift
    cmake -S "$ROOT" -B "$folder" -G 'Unix Makefiles' "$@" && cmake --build "$folder" --parallel "$jobs"
}

step_format() { make --no-print-directory -C "$ROOT" format-check && echo 'format: all files as .clang-format says'; }

step_house() { "$ROOT/test/check_house.sh"; }

step_build() {
    "$ROOT/test/setup/pgroot.sh"
    make --no-print-directory -C "$ROOT" check-clang
    echo "build: g++ $(g++ -dumpversion) and clang $(clang -dumpversion), warnings are errors"
}

# make install must not replace another project's library, unless told to.
step_install() {
    local target library
    target=$(mktemp -d)
    library=$target$("$PG_CONFIG" --pkglibdir)/vector.so
    mkdir -p "$(dirname "$library")"
    echo 'another library' > "$library"
    if make --no-print-directory -C "$ROOT" install DESTDIR="$target" > "$BUILD/check/refused.log" 2>&1; then echo 'not refused'; return 1; fi
    grep -q 'belongs to another project' "$BUILD/check/refused.log"
    grep -q 'another library' "$library"
    [ ! -e "$target$("$PG_CONFIG" --sharedir)/extension/vector.control" ]
    make -s --no-print-directory -C "$ROOT" install DESTDIR="$target" FORCE=1
    grep -q vectorkv "$library"
    make -s --no-print-directory -C "$ROOT" install DESTDIR="$target"
    [ -e "$target$("$PG_CONFIG" --sharedir)/extension/vectorkv.control" ]
    make -s --no-print-directory -C "$ROOT" uninstall DESTDIR="$target"
    [ ! -e "$library" ]
    [ -z "$(find "$target" -name 'vector*')" ]
    rm -rf "$target"
    echo 'install: 4 passed, 0 failed'
}

runner=() # of tests
core_tests() { # folder, options of ctest; a test that hangs fails
    "${runner[@]}" ctest --test-dir "$BUILD/$1" --output-on-failure --no-tests=error --timeout 600 "${@:2}"
}

step_unit() { core_build unit -DVKV_TESTS=ON -DVKV_CUDA=OFF && core_tests unit -j "$jobs"; }

# The same tests for ARM, under emulation, where the machine is none. Tests of whole graphs (files, and the recall of whitened
# directions) would take many minutes and have no instructions of their own.
step_arm() {
    local tests build=$BUILD/arm
    local cross=(-G 'Unix Makefiles' -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_BUILD_TYPE=Release
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
        -DCMAKE_CROSSCOMPILING_EMULATOR='qemu-aarch64-static;-L;/usr/aarch64-linux-gnu')
    [ "$(uname -m)" != aarch64 ] || { echo 'arm: this machine is one, and the step unit runs there'; return; }
    mapfile -t tests < <(cd "$ROOT/test/unit" && find . -name '*_test.cpp' ! -name graph_test.cpp ! -name graph_ties_test.cpp ! -name graph_find_test.cpp | sed 's|.*/||; s|\.cpp$||')
    cmake -S /usr/src/googletest -B "$build/gtest" "${cross[@]}" -DBUILD_GMOCK=OFF -DCMAKE_INSTALL_PREFIX="$build/prefix" &&
        cmake --build "$build/gtest" --parallel "$jobs" --target install &&
        cmake -S "$ROOT" -B "$build/core" "${cross[@]}" -DCMAKE_PREFIX_PATH="$build/prefix" -DVKV_TESTS=ON -DVKV_CUDA=OFF &&
        cmake --build "$build/core" --parallel "$jobs" --target vectorkv_helper "${tests[@]}" &&
        GTEST_FILTER='-Direction.Recall*' core_tests arm/core -j "$jobs" -R "^($(IFS="|"; echo "${tests[*]}"))\$"
}

step_asan() {
    core_build asan -DVKV_TESTS=ON -DVKV_SANITIZE=address,undefined && core_tests asan -j "$jobs"
}

# The thread sanitizer wants addresses where it expects them; setarch -R turns randomization off where that is allowed. The helper ends
# although a launch hangs, whose thread nobody can join. What has one thread only is left out.
step_tsan() {
    local runner=() tests=()
    mapfile -t tests < <(cd "$ROOT/test" && find unit gpu -name 'graph*_test.cpp' ! -name graph_find_test.cpp ! -name graph_ties_test.cpp \
        -o -name 'workers*_test.cpp' -o -name 'helper_*_test.cpp' | sed 's|.*/||; s|\.cpp$||')
    [ ${#tests[@]} -gt 0 ] || { echo 'no test of threads was found'; return 1; }
    ! setarch "$(uname -m)" -R true 2> /dev/null || runner=(setarch "$(uname -m)" -R)
    cmake -S "$ROOT" -B "$BUILD/tsan" -G 'Unix Makefiles' -DVKV_TESTS=ON -DVKV_SANITIZE=thread &&
        cmake --build "$BUILD/tsan" --parallel "$jobs" --target "${tests[@]}" &&
        TSAN_OPTIONS=report_thread_leaks=0 GTEST_FILTER='-*_threads1:*OneThread*' core_tests tsan -j "$jobs" -R "^($(IFS="|"; echo "${tests[*]}"))\$"
}

step_fuzz() {
    local target seconds targets corpus ran=0
    core_build fuzz -DCMAKE_CXX_COMPILER=clang++ -DVKV_FUZZ=ON -DVKV_TESTS=OFF -DVKV_SANITIZE=address,undefined
    mapfile -t targets < <(find "$BUILD/fuzz" -maxdepth 1 -name 'fuzz_*' -type f -perm -u+x | sort)
    [ ${#targets[@]} -gt 0 ] || { echo 'no fuzz target was built'; return 1; }
    seconds=$((${VKV_FUZZ_SECONDS:-60} / ${#targets[@]} + 1))
    for target in "${targets[@]}"; do
        corpus=$BUILD/fuzz/corpus/$(basename "$target")
        mkdir -p "$corpus"
        "$target" -max_total_time=$seconds -print_final_stats=1 -artifact_prefix="$BUILD/fuzz/" "$corpus" \
            $(ls -d "$ROOT/test/fuzz/corpus/$(basename "$target")" 2> /dev/null)
        ran=$((ran + 1))
    done
    echo "fuzz: $ran passed, 0 failed"
}

with_server() { # a command with a private cluster "check" to connect to
    local status=0
    "$ROOT/test/setup/cluster.sh" remove check
    EXTRA_CONF=$'fsync = off\nautovacuum = off' "$ROOT/test/setup/cluster.sh" start check
    (eval "$("$ROOT/test/setup/cluster.sh" env check)"; "$@") || status=$?
    "$ROOT/test/setup/cluster.sh" remove check
    return $status
}

regress() {
    local out=$BUILD/regress
    rm -rf "$out"
    mkdir -p "$out/results"
    chmod 777 "$out/results" # COPY TO writes there, as the server's user
    "${REGRESS_DRIVER:-$(dirname "$("$PG_CONFIG" --pgxs)")/../test/regress/pg_regress}" --inputdir="$SOURCE" --outputdir="$out" --bindir="$PGROOT$PG_BINDIR" \
        --dbname=contrib_regress --load-extension=vector $(cd "$SOURCE/sql" && ls -- *.sql | sed 's/\.sql$//') ||
        { head -n 200 "$out/regression.diffs"; return 1; }
}

step_sql() { "$ROOT/test/setup/pgroot.sh" && test_source && with_server regress; }

# The quickstart ends with a report whose figures make sense.
step_quickstart() {
    local report=$BUILD/check/quickstart.txt
    CLUSTER=check-quickstart "$ROOT/test/setup/quickstart.sh" > "$report" || { cat "$report"; return 1; }
    "$ROOT/test/setup/cluster.sh" remove check-quickstart
    awk '/^  recall@10/ { recall = $2 } /^  index .*bytes a vector/ { bytes = $4 } /^  query, server/ { time = $4 }
        END { printf "recall %s, %s bytes a vector, %s ms\n", recall, bytes, time; exit !(recall >= 0.95 && bytes > 0 && bytes < 1025 && time > 0) }' "$report"
    awk '/^  (f16|int8|int4) / { error[$1] = $NF; share[$1] = $3; n++ }
        END { printf "error f16 %s, int8 %s, int4 %s\n", error["f16"], error["int8"], error["int4"]
            exit !(n == 3 && error["f16"] > 0 && error["f16"] < 1e-5 && error["int8"] < 0.01 && error["int4"] < 0.2 && share["int4"] < 32) }' "$report"
    echo 'quickstart: 1 passed, 0 failed'
}

# The longest first, so that none of them runs alone at the end.
tap_files() {
    local long=(test/t/070_storm.pl test/t/004_concurrency.pl test/t/071_fault_matrix.pl)
    printf '%s\n' "${long[@]}"
    (cd "$SOURCE" && ls test/t/*.pl) | grep -vxFf <(printf '%s\n' "${long[@]}")
}

step_tap() { "$ROOT/test/setup/pgroot.sh" && tap; }

tap() {
    local pgxs temporary status=0
    pgxs=$(dirname "$("$PG_CONFIG" --pgxs)")/..
    test_source
    as_server_user rm -rf "$RUN/tap"
    as_server_user mkdir -p "$RUN/tap/data" "$RUN/tap/log"
    temporary=$(as_server_user mktemp -d /tmp/vectorkv.XXXXXX) # short: sockets go there
    as_server_user env TMPDIR="$temporary" PATH="$PGROOT$PG_BINDIR:$PATH" PERL5LIB="$pgxs/test/perl" PG_REGRESS="$pgxs/test/regress/pg_regress" \
        TESTDIR="$RUN/tap" TESTDATADIR="$RUN/tap/data" TESTLOGDIR="$RUN/tap/log" LC_ALL=C.UTF-8 \
        VKV_BUILD_SEED="${VKV_BUILD_SEED:-1}" VKV_STRESS_SECONDS="${VKV_STRESS_SECONDS:-60}" VKV_CRASH_ROUNDS="${VKV_CRASH_ROUNDS:-5}" \
        VKV_STORM_SECONDS="${VKV_STORM_SECONDS:-120}" VKV_STORM_ROUND="${VKV_STORM_ROUND:-20}" VKV_STORM_SEED="${VKV_STORM_SEED:-20261130}" \
        sh -c 'cd "$1" && shift && exec prove "$@"' sh "$SOURCE" -j "$jobs" --timer ${VKV_TAP:-$(tap_files)} || status=$?
    rm -rf "$temporary"
    return $status
}

# Kernels lose their barriers and waits one at a time, and a test fails each time. Answers of the helper are compared with attention in
# float64 by a reader of tiles that shares no code with ours. With CUDA the helper is built for every
# architecture, within the limits of registers, and says what it says where there is no GPU. Its own compiler is fetched when there is none.
step_gpu() {
    local cuda
    cmake -S "$ROOT" -B "$BUILD/unit" -G 'Unix Makefiles' -DVKV_TESTS=ON -DVKV_CUDA=OFF
    cmake --build "$BUILD/unit" --parallel "$jobs"
    "$ROOT/test/gpu/mutate.py" "$BUILD/unit/gpu/emulator/kernels_small_test"
    OUT=$BUILD/gpu "$ROOT/test/gpu/run" --rehearse --programs "$BUILD/unit" --steps self,torch --numpy
    cuda=$("$ROOT/test/setup/cuda.sh") || { echo 'gpu: NOT built with CUDA: there is no nvcc, and none could be fetched'; return; }
    cmake -S "$ROOT" -B "$BUILD/with-cuda" -G 'Unix Makefiles' -DVKV_TESTS=ON -DVKV_CUDA=ON -DVKV_CUDA_HOME="$cuda"
    cmake --build "$BUILD/with-cuda" --parallel "$jobs" --target vectorkv_helper cuda_test
    core_tests with-cuda -R '^(cuda_test|helper_no_device)$'
}

# Another PostgreSQL: built against its headers and installed into its private folder.
use_other() { # its pg_config; none where it could not be made, which must not lead to the system's
    [ -n "$1" ] || return 1
    PG_CONFIG=$1
    use_postgres
    export VKV_PGROOT=
    PGROOT=
    make -j "$jobs" --no-print-directory -C "$ROOT" install FORCE=1 PG_CONFIG="$PG_CONFIG"
}

other_server() {
    use_other "$1"
    test_source
    with_server regress
}

# The wheel's pg_regress of 16 drives both; its copy of 18 is a damaged file.
other_version() {
    local driver
    driver=$("$ROOT/test/setup/wheel.sh" 16)
    REGRESS_DRIVER=$(dirname "$("$driver" --pgxs)")/../test/regress/pg_regress
    other_server "$("$ROOT/test/setup/wheel.sh" "$1")"
}

# A server built with assertions: SQL and TAP tests.
step_assert() {
    other_server "$("$ROOT/test/setup/assert_postgres.sh")"
    tap
}

# Random queries: 100,000 of them, or VKV_SMITH_QUERIES, from the seed VKV_SMITH_SEED, on a server with assertions.
step_smith() {
    use_other "$("$ROOT/test/setup/assert_postgres.sh")"
    "$ROOT/test/smith/run" "${VKV_SMITH_QUERIES:-100000}" "${VKV_SMITH_SEED:-1}"
}
step_pg16() { other_version 16; }
step_pg18() { other_version 18; }

run_step() {
    local name=$1 log=$BUILD/check/$1.log started=$SECONDS
    declare -F "step_$name" > /dev/null || die "check.sh knows no step $name" "steps: ${STEPS[*]} pg16 pg18 assert smith"
    printf '== %s\n' "$name"
    # A subshell of its own keeps "set -e" in force inside the step.
    set +e
    (set -e; "step_$name") > "$log" 2>&1 < /dev/null
    local status=$?
    set -e
    if [ $status = 0 ]; then
        passed+=("$name")
        tail -n 4 "$log"
        printf 'ok: %s, %d s\n' "$name" $((SECONDS - started))
    else
        failed+=("$name")
        tail -n 80 "$log"
        printf 'FAILED: %s, %d s; all of its output is in %s\n' "$name" $((SECONDS - started)) "${log#"$ROOT"/}"
    fi
}

"$ROOT/test/setup/packages.sh" test
become_owner "$@"
use_postgres
mkdir -p "$BUILD/check"
choose_run_folder
for name in "${steps[@]}"; do run_step "$name"; done

echo
[ ${#failed[@]} = 0 ] || printf 'failed: %s\n' "${failed[*]}"
printf 'check: %d passed, %d failed\n' ${#passed[@]} ${#failed[@]}
[ ${#failed[@]} = 0 ]
