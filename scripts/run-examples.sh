#!/bin/bash
# Runs the programs of Examples against each other, with certificates from `bootstrap ca issue`, and checks what they print.
#
#   scripts/run-examples.sh BOOTSTRAP-BINARY [core] [nio]     default: core
#
# core: echo-server, echo-client and filter-node. nio: the bridge's tests, gRPC and Hummingbird over the mesh (a first build takes minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
bootstrap=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- core
work=$(mktemp -d)
server=
stop_server() {
    [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    server=
}
filter_node=
trap 'stop_server; [ -z "$filter_node" ] || kill "$filter_node" 2>/dev/null || true; rm -rf "$work"' EXIT
fail() {
    printf 'examples: %s\n' "$*" >&2
    for log in "$work"/*.log; do [ ! -s "$log" ] || { echo "--- ${log##*/}" >&2; cat "$log" >&2; }; done
    exit 1
}

export BOOTSTRAP_HOME=$work/home
"$bootstrap" ca init --trust-domain example.org >"$work/ca.log" 2>&1 || fail "ca init"
for name in default/sa/server default/sa/client other/sa/client; do
    "$bootstrap" ca issue --id "ns/$name" --out "$work/${name//\//-}" >>"$work/ca.log" 2>&1 || fail "ca issue"
done
us=$work/default-sa-client
them=$work/other-sa-client

# Starts a server on a port of the kernel's choice and sets `address`.
start_server() {
    stop_server
    # Not the address of the one before.
    : >"$work/server.log"
    # A pipe or a file makes stdout fully buffered.
    stdbuf -oL "$@" "$work/default-sa-server" 127.0.0.1:0 >"$work/server.log" 2>&1 &
    server=$!
    local deadline=$((SECONDS + 60))
    until address=$(sed -n 's/^ready \([0-9.:]*\) .*/\1/p' "$work/server.log") && [ -n "$address" ]; do
        kill -0 "$server" 2>/dev/null || fail "${1##*/} has ended"
        [ $SECONDS -lt $deadline ] || fail "${1##*/} is not ready after a minute"
        sleep 0.1
    done
}

# expect NAME TEXT COMMAND...: what the command prints is exactly this.
expect() {
    local name=$1 wanted=$2 got
    shift 2
    # Of a function, whatever can wait in it has limits of its own.
    local limit=(timeout 120)
    [ "$(type -t "$1")" != function ] || limit=()
    got=$("${limit[@]}" "$@" 2>"$work/client.log") || fail "$name: exit status $?, printed: $got"
    [ "$got" = "$wanted" ] || fail "$name printed:"$'\n'"$got"$'\n'"and should have printed:"$'\n'"$wanted"
    echo "examples: $name"
}

# through ADDRESS BYTES SECONDS: sends so many bytes and reads to the end. Prints how many came back, whether they are the
# same, and whether it took so long at least.
through() {
    python3 - "$@" <<'PROGRAM'
import socket, sys, threading, time

host, port = sys.argv[1].rsplit(":", 1)
data = (bytes(range(97, 123)) * (int(sys.argv[2]) // 26 + 1))[: int(sys.argv[2])]
connection = socket.create_connection((host, int(port)), timeout=60)
began = time.monotonic()


def send():
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


threading.Thread(target=send).start()
received = b"".join(iter(lambda: connection.recv(65536), b""))
print(len(received), received == data, time.monotonic() - began >= float(sys.argv[3]))
PROGRAM
}

# The filters of filter-node, in front of the echo server at `address`.
filters() {
    local bin=$1 limited recorded deadline=$((SECONDS + 60))
    stdbuf -oL "$bin/filter-node" "$us" "$address" 65536 "$work/record" >"$work/filter.log" 2>&1 &
    filter_node=$!
    until limited=$(sed -n 's/^ready \([0-9.:]*\) limited$/\1/p' "$work/filter.log") && [ -n "$limited" ] &&
        recorded=$(sed -n 's/^ready \([0-9.:]*\) recorded$/\1/p' "$work/filter.log") && [ -n "$recorded" ]; do
        kill -0 "$filter_node" 2>/dev/null || fail "filter-node has ended"
        [ $SECONDS -lt $deadline ] || fail "filter-node is not ready after a minute"
        sleep 0.1
    done
    # Half a second's worth at once, and the rest at 65,536 bytes a second.
    expect "a filter that limits the rate" "131072 True True" through "$limited" 131072 1.5
    expect "a filter that records" "20 True True" through "$recorded" 20 0
    until grep -qx ended "$work/record"; do
        [ $SECONDS -lt $deadline ] || fail "the recorder does not know that the stream has ended"
        sleep 0.1
    done
    [ "$(cat "$work/record")" = $'\n> abcdefghijklmnopqrst\n< abcdefghijklmnopqrst\nended' ] ||
        fail "recorded was: $(cat "$work/record")"
    expect "a record that is full" "262144 True True" through "$recorded" 262144 0
    [ "$(stat -c %s "$work/record")" = 65536 ] || fail "the record has $(stat -c %s "$work/record") bytes"
    kill "$filter_node" && wait "$filter_node" || true
    filter_node=
}

refused='no stream: spiffe://example.org/ns/default/sa/server answered 403 for'

core() {
    swift build --package-path Examples
    local bin
    bin=$(swift build --package-path Examples --show-bin-path)
    start_server "$bin/echo-server"
    expect "echo" "talking to spiffe://example.org/ns/default/sa/server, which says service=echo
hello, mesh
1048576 bytes came back" "$bin/echo-client" "$us" "$address"
    expect "echo, a destination that is refused" "$refused echo.prod:8: this is the echo service, port 7 (denied)" \
        "$bin/echo-client" "$us" "$address" echo.prod:8
    grep -qx 'spiffe://example.org/ns/default/sa/client asks for echo.prod:7, baggage: example=echo-client' \
        "$work/server.log" || fail "echo-server did not see who asked"
    # The client expects its own namespace, too: it does not even send its request.
    expect "echo, from another namespace" "no stream: authentication" \
        bash -c '"$@" | sed "s/^no stream: .*(authentication)$/no stream: authentication/"' - \
        "$bin/echo-client" "$them" "$address"
    filters "$bin"
}

nio() {
    swift test --package-path Bridges/H2TransportNIO
    swift build --package-path Examples/NIO
    local bin
    bin=$(swift build --package-path Examples/NIO --show-bin-path)
    start_server "$bin/grpc-server"
    expect "gRPC" "hello, mesh
1000 numbers, sum 499500" "$bin/grpc-client" "$us" "$address"
    start_server "$bin/web-server"
    expect "Hummingbird" "200 hello, spiffe://example.org/ns/default/sa/client
200 16777216" "$bin/web-client" "$us" "$address"
    # Figures of a debug build, which say nothing: that it runs is what is checked.
    timeout 300 "$bin/bridge-cost" "$us" "$work/default-sa-server" 16 >"$work/client.log" 2>&1 || fail "bridge-cost"
    echo "examples: bridge-cost"
}

for group in "$@"; do
    case $group in
    core) core ;;
    nio) nio ;;
    *) fail "unknown group '$group': core or nio" ;;
    esac
done
