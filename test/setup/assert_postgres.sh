#!/bin/bash
# Builds PostgreSQL 15 with assertions from the distribution's source package, once, and prints the path of its pg_config: assert_postgres.sh.
# Everything lies in build/run/assert (VKV_ASSERT_CACHE chooses another folder, to be kept between checkouts).  A package list of its own is
# used: the machine's sources are left as they are.
. "$(dirname "$0")/lib.sh"
become_owner "$@"
choose_run_folder
folder=${VKV_ASSERT_CACHE:-$RUN/assert}
prefix=$folder/install
if [ ! -f "$folder/done" ]; then
    have apt-get || die "the source package is fetched with apt-get" "set PG_CONFIG to a PostgreSQL built with --enable-cassert"
    rm -rf "$folder"
    mkdir -p "$folder/lists/partial" "$folder/source"
    printf 'deb-src http://deb.debian.org/debian%s bookworm%s main\n' '' '' -security -security > "$folder/sources.list"
    apt=(-o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$folder/lists" -o APT::Sandbox::User=root)
    log=$folder/log
    apt-get "${apt[@]}" -qq update > "$log" 2>&1 || { tail -n 20 "$log" >&2; die "no list of source packages"; }
    # The newest version whose files are still there: mirrors keep lists of packages that are gone.
    fetched=false
    for version in $(apt-cache "${apt[@]}" showsrc postgresql-15 | sed -n 's/^Version: //p' | sort -rV); do
        if (cd "$folder/source" && apt-get "${apt[@]}" -qq source --download-only "postgresql-15=$version") >> "$log" 2>&1; then fetched=true; break; fi
    done
    $fetched || { tail -n 20 "$log" >&2; die "the source of PostgreSQL 15 could not be fetched"; }
    tar -xf "$folder"/source/postgresql-15_*.orig.tar.* -C "$folder/source" --strip-components=1
    # The tarball holds what bison and flex generate. Readline, zlib and ICU are not needed by any test. PostgreSQL's makefiles generate
    # headers where they are called first only: not when they think that a make of ours called them.
    (unset MAKELEVEL MAKEFLAGS MFLAGS && cd "$folder/source" &&
        ./configure --prefix="$prefix" --enable-cassert --enable-debug --enable-tap-tests --without-readline --without-zlib --without-icu CFLAGS=-O1 &&
        make -s -j "$(nproc)" && make -s install && make -s -j "$(nproc)" -C contrib && make -s -C contrib install) >> "$log" 2>&1 ||
        { tail -n 40 "$log" >&2; die "PostgreSQL with assertions could not be built" "its output is in $log"; }
    rm -rf "$folder/source" "$folder/lists"
    touch "$folder/done"
fi
echo "$prefix/bin/pg_config"
