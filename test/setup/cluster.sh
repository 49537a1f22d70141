#!/bin/bash
# A private PostgreSQL cluster: cluster.sh start|stop|remove|env NAME, cluster.sh stop-all.  Its programs are those of pgroot.sh, its data
# and log lie in build/run/NAME (see lib.sh), it listens on a unix socket of its own and on no network address.  "env" prints the
# shell lines that make psql connect.  EXTRA_CONF holds further lines of postgresql.conf for a new cluster.
. "$(dirname "$0")/lib.sh"

action=${1:-}
name=${2:-quickstart}
[ -n "$action" ] || die "usage: cluster.sh start|stop|remove|env NAME | stop-all"
become_owner "$@"
if [ ! -d "$BUILD" ] && [ "$action" != start ]; then exit 0; fi
choose_run_folder

socket_folder() { cat "$RUN/$name/socket_folder"; }
is_running() { [ -f "$RUN/$name/data/postmaster.pid" ] && as_server_user "$(bin)/pg_ctl" status -D "$RUN/$name/data" > /dev/null; }
bin() { cat "$RUN/$name/bindir"; }

# A unix socket's path may have 107 bytes; a deep checkout gets a short folder elsewhere.
make_socket_folder() {
    local folder=$RUN/$name/socket
    if [ ${#folder} -gt 80 ]; then folder=$(as_server_user mktemp -d /tmp/vectorkv.XXXXXX); else as_server_user mkdir -p -m 700 "$folder"; fi
    as_server_user sh -c 'printf %s "$1" > "$2"' sh "$folder" "$RUN/$name/socket_folder"
}

settings() {
    cat << CONF
listen_addresses = ''
unix_socket_directories = '$(socket_folder)'
port = 5432
shared_buffers = 256MB
maintenance_work_mem = 256MB
max_wal_size = 2GB
wal_level = replica
log_line_prefix = '%m [%p] '
CONF
    printf '%s\n' "${EXTRA_CONF:-}"
}

start() {
    use_postgres
    [ -x "$PGROOT$PG_BINDIR/postgres" ] || die "no private installation in $PGROOT" "run test/setup/pgroot.sh"
    if is_running; then return; fi
    if [ ! -f "$RUN/$name/data/PG_VERSION" ] || [ "$(cat "$RUN/$name/data/PG_VERSION")" != "$PG_MAJOR" ]; then
        remove
        as_server_user mkdir -p "$RUN/$name"
        as_server_user sh -c 'printf %s "$1" > "$2"' sh "$PGROOT$PG_BINDIR" "$RUN/$name/bindir"
        make_socket_folder
        as_server_user "$(bin)/initdb" -D "$RUN/$name/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 > "$BUILD/initdb.log" 2>&1 ||
            { cat "$BUILD/initdb.log" >&2; die "initdb failed"; }
        settings | as_server_user tee -a "$RUN/$name/data/postgresql.conf" > /dev/null
    fi
    [ -d "$(socket_folder)" ] || make_socket_folder_again
    as_server_user "$(bin)/pg_ctl" start -w -s -D "$RUN/$name/data" -l "$RUN/$name/log" < /dev/null ||
        { tail -n 20 "$RUN/$name/log" >&2; die "the private cluster $name does not start"; }
}

# The short folder under /tmp may have been swept away between two starts.
make_socket_folder_again() {
    make_socket_folder
    as_server_user sh -c 'printf "unix_socket_directories = '"'%s'"'\n" "$1" >> "$2"' sh "$(socket_folder)" "$RUN/$name/data/postgresql.conf"
}

stop() {
    [ -f "$RUN/$name/bindir" ] || return 0
    ! is_running || as_server_user "$(bin)/pg_ctl" stop -w -s -m fast -D "$RUN/$name/data"
}

remove() {
    stop
    if [ -f "$RUN/$name/socket_folder" ]; then rm -rf "$(socket_folder)"; fi
    rm -rf "${RUN:?}/$name"
}

case $action in
    start) start ;;
    stop) stop ;;
    remove) remove ;;
    env)
        [ -f "$RUN/$name/bindir" ] || die "no cluster $name" "cluster.sh start $name"
        printf 'export PGHOST=%q PGPORT=5432 PGUSER=postgres PATH=%q:$PATH\n' "$(socket_folder)" "$(bin)"
        ;;
    stop-all)
        for folder in "$RUN"/*/bindir; do
            [ -f "$folder" ] || continue
            name=$(basename "$(dirname "$folder")")
            remove
        done
        [ "$RUN" = "$BUILD/run" ] || rm -rf "${RUN:?}"
        ;;
    *) die "cluster.sh knows no $action" ;;
esac
