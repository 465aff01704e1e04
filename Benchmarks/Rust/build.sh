#!/bin/sh
# Compiles the Rust peer once for each version of it and prints where the binary is. Needs cargo and Debian's
# librust-h2-dev, librust-tokio-dev, librust-tokio-rustls-dev and librust-rustls-pemfile-dev, and no network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${BOOTSTRAP_TESTS_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/bootstrap-tests}/rust
registry=/usr/share/cargo/registry
for crate in h2 tokio tokio-rustls rustls-pemfile; do
    ls -d "$registry/$crate"-[0-9]* >/dev/null 2>&1 || { echo "$registry has no $crate: run scripts/install-dependencies.sh bench" >&2; exit 1; }
done
version=$( (cat "$here/Cargo.toml" "$here"/src/*.rs; ls "$registry"; cargo --version) | sha256sum | cut -c1-16)
binary=$cache/peer-$version
mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
if [ ! -x "$binary" ]; then
    # A copy, because cargo writes its lock file beside the manifest: the versions in it are this machine's.
    rm -rf "$cache"/peer-* "$cache/source"
    mkdir -p "$cache/source"
    cp -R "$here/Cargo.toml" "$here/src" "$cache/source"
    (cd "$cache/source" && CARGO_HOME=$cache/home CARGO_TARGET_DIR=$cache/target cargo build --quiet --release --offline --jobs 1 \
        --config 'source.crates-io.replace-with = "debian"' \
        --config "source.debian.directory = \"$registry\"" >&2)
    mv "$cache/target/release/rust-peer" "$binary"
fi
echo "$binary"
