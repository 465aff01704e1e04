#!/bin/bash
# Builds the binary that is uploaded to devices: fully static, stripped, optimised for size. docs/architecture.md says why.
# Beside it what travels to devices that can undo it: OUTPUT.HASH.zst and OUTPUT.HASH.xz, where HASH begins the binary's SHA-256.
#
#   scripts/build-static.sh OUTPUT
#
# What it prints at the end (size, compressed sizes, what it needs at run time) is checked too: a shared library that
# sneaks in, more than 25 MB, or more than 9 MB compressed, fails the build.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:?usage: scripts/build-static.sh OUTPUT}
limit=$((25 * 1000 * 1000))
compressed_limit=$((9 * 1000 * 1000))
log=$(mktemp)
trap 'rm -f "$log"' EXIT
mkdir -p .build-static
map=$PWD/.build-static/bootstrap.map names=$PWD/.build-static/static-names.o stand_in=$PWD/.build-static/stand-in
# The C library's name service is not part of it (the file says why); libraries that mention it find this instead.
clang -c -Os -Wall -Werror -o "$names" scripts/static-names.c

# swift-argument-parser's FoundationEssentials (the file says why); found before the toolchain's.
mkdir -p "$stand_in"
swiftc -swift-version 6 -parse-as-library -module-name FoundationEssentials -package-name bootstrap -wmo -Osize \
    -Xfrontend -function-sections -enforce-exclusivity=unchecked \
    -emit-module -emit-module-path "$stand_in/FoundationEssentials.swiftmodule" -c -o "$stand_in/FoundationEssentials.o" \
    scripts/stand-in/FoundationEssentials.swift Sources/Platform/Text/JSONEncoding.swift

options=(
    -c release --product bootstrap --scratch-path .build-static
    --static-swift-stdlib -Xswiftc -static-executable -Xswiftc -Osize
    # A section for each function, so that the linker drops those that nothing calls.
    -Xswiftc -Xfrontend -Xswiftc -function-sections
    -Xswiftc -enforce-exclusivity=unchecked
    # GNU ld: the only one that can drop a section of one archive and keep it of another (scripts/static.ld).
    -Xswiftc -use-ld=bfd -Xlinker -T -Xlinker "$PWD/scripts/static.ld"
    -Xlinker --gc-sections -Xlinker -s -Xlinker -O2
    -Xlinker "$names" -Xlinker -Map="$map"
    -Xswiftc -I -Xswiftc "$stand_in" -Xlinker "$stand_in/FoundationEssentials.o"
    # libssh2.a's compression; its .pc file tells only `pkg-config --static`, which the package manager does not ask.
    -Xlinker -lz
    # libsqlite3.a's SQL functions of mathematics.
    -Xlinker -lm
)
# Linked anew each time: the linker's warnings and its map are part of the result.
rm -f .build-static/release/bootstrap "$map"

if ! swift build "${options[@]}" >"$log" 2>&1; then
    cat "$log"
    exit 1
fi
# glibc warns of dlopen too, which is not reached: SQLite's extensions, which nobody loads, and the like
# (docs/dependencies.md). What it says of names and accounts is an error; the rest is shown.
warnings=$(grep -E '(warning|error):' "$log" | grep -vE "Using 'dlopen' in statically linked|mktemp' is dangerous" || true)
[ -z "$warnings" ] || printf '%s\n' "$warnings"
if grep -q 'in statically linked applications' <<<"$warnings"; then
    echo "error: it asks the C library's name service, which crashes in a static program: see scripts/static-names.c" >&2
    exit 1
fi
if ! [ -s "$map" ]; then
    echo "error: the linker has written no map ($map): what is linked of the name service is not known" >&2
    exit 1
fi
if grep -E '^[^ ].*libc\.a\((nss_|getaddrinfo|getnameinfo|gethst|getpw|getgr(gid|nam|ent|ouplist)|getsrv|getserv)[a-z0-9_]*\.o\)$' "$map"; then
    echo "error: members of libc.a that belong to the name service are linked (above; $map says for whom)" >&2
    exit 1
fi

mkdir -p "$(dirname "$output")"
cp .build-static/release/bootstrap "$output.new"
mv -f "$output.new" "$output"

# Made here, once: it takes half a minute. The device checks the hash of what comes out. Undoing them needs 3 and 9 MB of memory; the
# window of 2 MB costs zstd 1 % of its size, and saves a fifth of the time there. Small systems have xz with CRC-32 only.
hash=$(sha256sum "$output" | cut -c1-12)
rm -f "$output".*.zst "$output".*.xz
zstd -q -19 --no-check --zstd=wlog=21 -c "$output" >"$output.new" && mv -f "$output.new" "$output.$hash.zst"
xz -6 --check=crc32 -c "$output" >"$output.new" && mv -f "$output.new" "$output.$hash.xz"

size=$(stat -c %s "$output")
printf '%s: %s bytes, %s as zstd, %s as xz, %s as gzip\n' "$output" "$size" "$(stat -c %s "$output.$hash.zst")" \
    "$(stat -c %s "$output.$hash.xz")" "$(gzip -4 -c "$output" | wc -c)"
file -b "$output"
if readelf -d "$output" | grep -q NEEDED; then
    readelf -d "$output" | grep NEEDED
    echo "error: it needs shared libraries at run time" >&2
    exit 1
fi
printf 'needs at run time: Linux %s or newer, %s; no shared library\n' \
    "$(readelf -n "$output" | sed -n 's/.*ABI: //p' | head -1)" "$(uname -m)"
if [ "$size" -gt "$limit" ]; then
    echo "error: more than $limit bytes" >&2
    exit 1
fi
if [ "$(stat -c %s "$output.$hash.zst")" -gt "$compressed_limit" ]; then
    echo "error: more than $compressed_limit bytes as zstd" >&2
    exit 1
fi
