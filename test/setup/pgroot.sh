#!/bin/bash
# Makes a private copy of the PostgreSQL installation with our extensions in it: pgroot.sh.  The copy mirrors the absolute paths of
# the original under build/pgroot, so that "make install DESTDIR=..." puts them there, and PostgreSQL, which looks for its
# libraries and files relative to its own program, finds it.  Programs are copied (PostgreSQL resolves links to itself), everything
# else is linked.  The system's installation is read only.
. "$(dirname "$0")/lib.sh"
become_owner "$@"
use_postgres
choose_run_folder

link_files() { # every entry of a folder except libraries and extensions called as ours are
    local from=$1 to=$PGROOT$1 entry
    mkdir -p "$to"
    for entry in "$from"/*; do
        case ${entry##*/} in vector.so | vector.control | vector--* | vectorkv.control | vectorkv--* | extension) continue ;; esac
        ln -sfn "$entry" "$to/${entry##*/}"
    done
}

stamp="$("$PG_CONFIG" --version) $PG_BINDIR $(stat -c %Y "$PG_BINDIR/postgres")"
if [ "$(cat "$PGROOT/stamp" 2> /dev/null)" != "$stamp" ]; then
    rm -rf "$PGROOT"
    mkdir -p "$PGROOT$PG_BINDIR"
    cp -L "$PG_BINDIR"/* "$PGROOT$PG_BINDIR"
    link_files "$("$PG_CONFIG" --pkglibdir)"
    link_files "$("$PG_CONFIG" --sharedir)"
    link_files "$("$PG_CONFIG" --sharedir)/extension"
    mkdir -p "$PGROOT$(dirname "$("$PG_CONFIG" --includedir-server)")"
    ln -sfn "$("$PG_CONFIG" --includedir-server)" "$PGROOT$("$PG_CONFIG" --includedir-server)"
    # Libraries that an installation outside the system's paths brings along.
    case $("$PG_CONFIG" --libdir) in
        /usr/lib | /usr/lib/*-linux-gnu | /usr/lib64) ;;
        *) [ "$("$PG_CONFIG" --libdir)" = "$("$PG_CONFIG" --pkglibdir)" ] || link_files "$("$PG_CONFIG" --libdir)" ;;
    esac
    printf %s "$stamp" > "$PGROOT/stamp"
fi
make -s -j "$(nproc)" -C "$ROOT" install DESTDIR="$PGROOT" PG_CONFIG="$PG_CONFIG" > "$BUILD/install.log" 2>&1 || {
    tail -n 40 "$BUILD/install.log" >&2
    die "the build failed" "its output is in $BUILD/install.log"
}
