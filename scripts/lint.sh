#!/bin/bash
# Checks what review would otherwise have to find: format, forbidden imports, file size, import direction, leftovers.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0
fail() {
    printf 'lint: %s\n' "$*" >&2
    failed=1
}

# What a grep finds is a mistake; the reason is the first argument, the rest goes to grep.
forbid() {
    local reason=$1 found
    shift
    found=$(grep -rnE "$@" 2>/dev/null)
    [ -z "$found" ] || fail "$reason"$'\n'"$found"
}

# Packages beside the main one, without their .build folders.
others=(Benchmarks/Package.swift Benchmarks/Sources Benchmarks/Instructions/Package.swift Benchmarks/Instructions/Sources
    Examples/Package.swift Examples/Sources Examples/NIO/Package.swift Examples/NIO/Sources
    Bridges/H2TransportNIO/Package.swift Bridges/H2TransportNIO/Sources Bridges/H2TransportNIO/Tests)
swift format lint --strict --parallel -r Package.swift Sources Tests "${others[@]}" || fail "run 'make format'"

forbid "Sources must not import Foundation, nor FoundationEssentials: a fifth of the static binary (docs/dependencies.md)" \
    '^[^/]*\bimport +(struct +|class +|enum +|func +)?(Foundation|FoundationEssentials|FoundationNetworking|FoundationInternationalization|FoundationXML)\b' \
    --include='*.swift' Sources
forbid "finish it or file an issue; the code keeps no notes to self" \
    '\b(TODO|FIXME|XXX)\b' --include='*.swift' --include='*.h' --include='*.sh' --include='*.py' \
    --exclude=lint.sh --exclude-dir='.build*' Sources Tests Benchmarks scripts "${others[@]}"
forbid "the core must not import SwiftNIO: the bridge is a package of its own (docs/dependencies.md)" \
    '^[^/]*\bimport +(struct +|class +|enum +|func +)?_?NIO' --include='*.swift' Sources
forbid "no absolute paths of one machine in Sources" '"(/tmp/|/root/|/home/)' --include='*.swift' Sources

found=$(git ls-files -z '*.swift' '*.md' | xargs -0 python3 scripts/wrap_comments.py --check) || fail "run 'make format'"$'\n'"$found"

found=$(git grep -nIE '\b[Mm]end(s|ed|ing)?\b|Mend[A-Z]' -- . ':!scripts/lint.sh' | grep -v 'case fix = "mend"')
[ -z "$found" ] || fail "say it in plain English: fix, or repair"$'\n'"$found"

while IFS= read -r file; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 600 ] || fail "$file has $lines lines; split it by responsibility (600 at most, about 400 in general)"
done < <(find Sources -name '*.swift')

# Imports point down only: Platform <- Streams <- MeshIdentity <- {H2Transport, SSHSignal} <- MeshPaths <- MeshNode <- bootstrap.
not_above() {
    local module=$1
    shift
    local pattern
    pattern=$(IFS='|' && printf '%s' "$*")
    forbid "$module must not import $*: imports point down only (docs/architecture.md)" \
        "^[^/]*\bimport +(struct +|class +|enum +|func +)?($pattern)\b" --include='*.swift' "Sources/$module"
}
not_above Platform Streams MeshIdentity H2Transport SSHSignal MeshNode COpenSSL CNGHTTP2 CLibSSH2 CLibYAML CSQLite CCAres
not_above Streams MeshIdentity H2Transport SSHSignal MeshNode COpenSSL CNGHTTP2 CLibSSH2 CLibYAML CSQLite
not_above HTTP1 Platform Streams MeshIdentity H2Transport SSHSignal MeshPolicy MeshPaths MeshNode Glibc CLinux COpenSSL
not_above YAML Streams MeshIdentity H2Transport SSHSignal MeshNode COpenSSL CNGHTTP2 CLibSSH2 CSQLite CCAres
not_above MeshIdentity H2Transport SSHSignal MeshNode CNGHTTP2 CLibSSH2 CLibYAML CSQLite CCAres
not_above H2Transport SSHSignal MeshNode CLibSSH2 CLibYAML CSQLite CCAres
not_above MeshDirectory SSHSignal Fleet Agent MeshPolicy MeshPaths MeshNode COpenSSL CNGHTTP2 CLibSSH2 CLibYAML CSQLite CCAres
for module in Platform Streams YAML MeshIdentity H2Transport SSHSignal Agent MeshPolicy MeshPaths; do not_above "$module" MeshDirectory; done
not_above SSHSignal Fleet H2Transport MeshNode CNGHTTP2 CLibYAML CSQLite CCAres
not_above Fleet Agent MeshNode CLibSSH2 CNGHTTP2 COpenSSL CLibYAML CCAres
not_above Agent Fleet H2Transport MeshNode CLibSSH2 CNGHTTP2 COpenSSL CLibYAML CSQLite CCAres
not_above MeshPolicy H2Transport SSHSignal Agent MeshPaths MeshNode YAML Glibc CLinux COpenSSL CNGHTTP2 CLibSSH2 CLibYAML CSQLite CCAres
not_above MeshPaths Agent MeshNode YAML COpenSSL CNGHTTP2 CLibSSH2 CLibYAML CSQLite CCAres
for module in Streams YAML MeshIdentity H2Transport SSHSignal Agent; do not_above "$module" MeshPolicy MeshPaths; done
not_above MeshNode CLibSSH2 CNGHTTP2 CSQLite CLibYAML CCAres
for module in Platform Streams YAML MeshIdentity SSHSignal Fleet Agent MeshPolicy MeshPaths MeshNode bootstrap; do
    not_above "$module" CAESGCM
done
not_above bootstrap CLibSSH2 CNGHTTP2 COpenSSL CLibYAML CSQLite CCAres

# The folders inside a module point one way, too.
found=$(python3 scripts/check-rooms.py 2>&1) || fail "a folder must not know those above or beside it (scripts/rooms.txt)"$'\n'"$found"

# Files and folders that the documents name exist.
while IFS=: read -r document path; do
    [ -e "$path" ] || git check-ignore -q "$path" || fail "$document names $path, which does not exist"
done < <(grep -oE '`(Sources|Tests|Benchmarks|Bridges|Examples|scripts|docs)/[A-Za-z0-9_./-]+`' ./*.md docs/*.md docs/decisions/*.md 2>/dev/null | tr -d '`' | sort -u)

# So do those that they link to.
while IFS=: read -r document target; do
    [ -e "$(dirname "$document")/$target" ] || fail "$document links to $target, which does not exist"
done < <(grep -oE '\]\([A-Za-z0-9_./-]+[)#]' ./*.md docs/*.md docs/decisions/*.md 2>/dev/null | sed -E 's/\]\(//; s/[)#]$//' | sort -u)

# Commands that README.md promises exist.
while IFS= read -r target; do
    grep -qE "^$target:" Makefile || fail "README.md names 'make $target', which the Makefile does not have"
done < <(grep -ohE '\bmake [a-z-]+' README.md 2>/dev/null | grep -vE 'make (sure|it|an?|the)$' | awk '{print $2}' | sort -u)

[ "$failed" = 0 ] && echo "lint: clean"
exit "$failed"
