# What the scripts share: where things are, which PostgreSQL, and which user may run a server.  Sourced, never run.
# shellcheck shell=bash disable=SC2034
#
# PostgreSQL refuses to run as root.  A root caller of a checkout that belongs to somebody becomes that user once the packages are
# installed (become_owner); a root caller of root's checkout keeps building as root and runs servers as the user postgres.  What
# those servers need (a private copy of the installation, data, logs) lies in build/pgroot and build/run, or in a folder
# under TMPDIR when the server's user cannot reach the checkout.

set -euo pipefail
umask 022
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
BUILD=$ROOT/build
MIN_MAJOR=15
MAX_MAJOR=18

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 1; }
have() { command -v "$1" > /dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# An installation with a server, its headers and PGXS, of a version that is supported.
usable_pg_config() {
    local config=$1 major
    [ -x "$config" ] || config=$(command -v "$config" 2> /dev/null) || return 1
    major=$("$config" --version 2> /dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
    [ -n "$major" ] && [ "$major" -ge $MIN_MAJOR ] && [ "$major" -le $MAX_MAJOR ] || return 1
    [ -x "$("$config" --bindir)/postgres" ] && [ -f "$("$config" --pgxs)" ] && [ -f "$("$config" --includedir-server)/postgres.h" ]
}

# Prints the pg_config to use: the caller's PG_CONFIG, else the one in PATH, else the newest of Debian's layout.
find_pg_config() {
    local config
    if [ -n "${PG_CONFIG:-}" ]; then
        usable_pg_config "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG has no PostgreSQL $MIN_MAJOR to $MAX_MAJOR server with headers"
        command -v "$PG_CONFIG"
        return
    fi
    for config in pg_config $(ls -d /usr/lib/postgresql/*/bin/pg_config 2> /dev/null | sort -rV); do
        case $(command -v "$config") in */pgroot/*) continue ;; esac # a private installation is made from another one
        if usable_pg_config "$config"; then command -v "$config"; return; fi
    done
    return 1
}

use_postgres() {
    PG_CONFIG=$(find_pg_config) || die "no PostgreSQL $MIN_MAJOR to $MAX_MAJOR with server headers found" "run test/setup/packages.sh"
    export PG_CONFIG
    PG_BINDIR=$("$PG_CONFIG" --bindir)
    PG_MAJOR=$("$PG_CONFIG" --version | sed 's/^PostgreSQL \([0-9]*\).*/\1/')
}

# Starts the calling script anew as the checkout's owner when root called it for somebody.
become_owner() {
    local owner
    is_root || return 0
    owner=$(stat -c %U "$ROOT")
    [ "$owner" != root ] && [ "$owner" != UNKNOWN ] || return 0
    exec runuser -u "$owner" -- env HOME="$(getent passwd "$owner" | cut -d: -f6)" USER="$owner" LOGNAME="$owner" "$0" "$@"
}

# Sets SERVER_USER, RUN (data, sockets, logs) and PGROOT (the private installation; empty when PG_CONFIG's own is one).
choose_run_folder() {
    SERVER_USER=$(id -un)
    RUN=$BUILD/run
    PGROOT=${VKV_PGROOT-$BUILD/pgroot}
    if is_root; then
        SERVER_USER=postgres
        id postgres > /dev/null 2>&1 || SERVER_USER=nobody
        mkdir -p "$BUILD"
        if ! runuser -u "$SERVER_USER" -- test -x "$BUILD"; then
            RUN=${TMPDIR:-/tmp}/vectorkv-run-$(printf %s "$ROOT" | cksum | cut -d' ' -f1)
            PGROOT=${VKV_PGROOT-$RUN/pgroot}
        fi
        if [ ! -d "$RUN" ]; then
            [ "$RUN" = "$BUILD/run" ] || say "note: user $SERVER_USER cannot enter $BUILD: the private cluster is in $RUN" >&2
            install -d -o "$SERVER_USER" -m 755 "$RUN"
        fi
        # A folder that somebody else made under TMPDIR is not ours to trust.
        [ "$(stat -c %U "$RUN")" = "$SERVER_USER" ] || die "$RUN does not belong to $SERVER_USER" "remove it"
    else
        mkdir -p "$RUN"
    fi
}

# Runs a command as the user that may run servers, in a folder that this user can enter.
as_server_user() {
    if is_root; then
        (cd "$RUN" && exec runuser -u "$SERVER_USER" -- env HOME="$RUN" USER="$SERVER_USER" LOGNAME="$SERVER_USER" "$@")
    else
        "$@"
    fi
}
