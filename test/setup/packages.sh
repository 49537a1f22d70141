#!/bin/bash
# Installs what is missing: packages.sh [build|test].  "build" is what it takes to build and to run a server, "test" adds the
# compilers and libraries of the tests.  Asks for a command or file each, so that it does nothing on a machine that has them from
# elsewhere; installs with apt-get, as root or through sudo.  A new PostgreSQL package gets no cluster of its own and starts none.
. "$(dirname "$0")/lib.sh"

scope=${1:-test}
missing=()

need() { # package, then the command that succeeds when nothing is to be done
    local package=$1
    shift
    "$@" > /dev/null 2>&1 || missing+=("$package")
}

default_major() { # the newest supported version that apt offers, the distribution's own first
    local major
    for major in $(seq $MIN_MAJOR $MAX_MAJOR); do
        if apt-cache show "postgresql-server-dev-$major" > /dev/null 2>&1; then echo "$major"; return; fi
    done
    die "apt offers no PostgreSQL $MIN_MAJOR to $MAX_MAJOR" "install one with its server headers and set PG_CONFIG"
}

need g++ have g++
need make have make
need cmake have cmake
need binutils have nm
need python3 have python3
need util-linux have setpriv
if [ "$scope" = test ]; then
    need clang have clang++
    need clang-format-14 have clang-format-14
    need libclang-rt-14-dev ls /usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-"$(uname -m)".a
    need libgtest-dev test -f /usr/include/gtest/gtest.h
    need perl have prove
    need python3-pip python3 -m pip --version
    need python3-numpy sh -c 'python3 -c "import numpy" || /usr/bin/python3 -c "import numpy"'
    need libipc-run-perl perl -MIPC::Run -e 1
    if [ "$(uname -m)" != aarch64 ]; then
        need g++-aarch64-linux-gnu have aarch64-linux-gnu-g++
        need qemu-user-static have qemu-aarch64-static
    fi
fi
postgres_missing=false
(find_pg_config) > /dev/null || postgres_missing=true

if [ ${#missing[@]} = 0 ] && ! $postgres_missing; then exit 0; fi

elevate=()
if ! is_root; then
    have sudo || die "missing packages: ${missing[*]:-} $($postgres_missing && echo postgresql postgresql-server-dev)" \
        "install them as root, or run test/setup/packages.sh $scope as root"
    elevate=(sudo)
fi
have apt-get || die "missing: ${missing[*]:-} $($postgres_missing && echo PostgreSQL with server headers)" "install them; only apt-get is known here"

say "packages: updating the list"
"${elevate[@]}" apt-get update -qq
if $postgres_missing; then
    [ -z "${PG_CONFIG:-}" ] || die "PG_CONFIG=$PG_CONFIG has no PostgreSQL $MIN_MAJOR to $MAX_MAJOR server with headers"
    major=$(default_major)
    missing+=("postgresql-$major" "postgresql-server-dev-$major")
fi

# Debian's server package makes and starts a cluster "main" unless told not to, and starts the clusters that were stopped.  Both
# switches are ours for the time of the installation only.
no_cluster=/etc/postgresql-common/createcluster.d/vectorkv-setup.conf
no_start=/usr/sbin/policy-rc.d
quiet_services() {
    "${elevate[@]}" mkdir -p "$(dirname $no_cluster)"
    echo 'create_main_cluster = false' | "${elevate[@]}" tee $no_cluster > /dev/null
    if [ ! -e $no_start ]; then
        printf '#!/bin/sh\nexit 101\n' | "${elevate[@]}" tee $no_start > /dev/null
        "${elevate[@]}" chmod 755 $no_start
        made_no_start=true
    fi
}
made_no_start=false
restore_services() {
    "${elevate[@]}" rm -f $no_cluster
    ! $made_no_start || "${elevate[@]}" rm -f $no_start
}
if $postgres_missing; then
    trap restore_services EXIT
    quiet_services
fi

say "packages: installing ${missing[*]}"
log=$(mktemp)
if ! "${elevate[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install ${missing[*]}"
fi
rm -f "$log"
say "packages: done"
