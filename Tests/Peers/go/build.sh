#!/bin/sh
# Compiles peer.go once for each version of it and prints where the binary is. Needs Debian's golang-go and
# golang-golang-x-net-dev, and no network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${BOOTSTRAP_TESTS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/bootstrap-tests}/go
version=$( (cat "$here/peer.go"; go version) | sha256sum | cut -c1-16)
binary=$cache/peer-$version
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9 # tests that start together compile once
if [ ! -x "$binary" ]; then
    rm -f "$cache"/peer-*
    # Debian's packages lie in a GOPATH, and -p 2 leaves the other tests some of the machine.
    GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$cache/objects CGO_ENABLED=0 GOFLAGS= go build -p 2 -o "$binary.new" "$here/peer.go" >&2
    mv "$binary.new" "$binary"
fi
echo "$binary"
