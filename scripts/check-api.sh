#!/bin/bash
# The public API of each library product, as the compiler knows it, against what is kept in docs/api: a change of the API is a diff of a
# text file, which is made on purpose and reviewed. Also: how many public declarations have no documentation comment (docs/api/undocumented.txt
# has the limit for each module, which only goes down), and that comments name the parameters there are, in their order.
#
#   scripts/check-api.sh              after a debug build: fails on a difference
#   scripts/check-api.sh --update     writes the present API, and lowers the limits to what is there
set -euo pipefail
cd "$(dirname "$0")/.."
update=no
[ "${1:-}" = --update ] && update=yes
build=.build/debug
folder=docs/api
limits=$folder/undocumented.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() {
    printf 'api: %s\n' "$*" >&2
    failed=1
}

modules=$(sed -nE 's/^ *\.library\(name: "([A-Za-z0-9_]+)".*/\1/p' Package.swift | sort)
target=$(swiftc -print-target-info | python3 -c 'import json, sys; print(json.load(sys.stdin)["target"]["triple"])')
options=(-target "$target" -I "$build/Modules")
for map in Sources/C*/module.modulemap Sources/C*/include/module.modulemap; do options+=(-Xcc "-fmodule-map-file=$PWD/$map"); done

# extract MODULE LEVEL FOLDER
extract() {
    mkdir -p "$3"
    swift-symbolgraph-extract -module-name "$1" "${options[@]}" -minimum-access-level "$2" -skip-synthesized-members \
        -output-dir "$3" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}

mkdir -p "$folder"
touch "$work/limits"
for module in $modules; do
    if [ ! -e "$build/Modules/$module.swiftmodule" ]; then
        echo "api: $module is not built: swift build" >&2
        exit 1
    fi
    kept=$folder/$module.txt
    extract "$module" public "$work/$module"
    python3 scripts/api_surface.py surface "$work/$module" >"$work/$module.txt"
    if [ "$update" = yes ]; then
        cp "$work/$module.txt" "$kept"
    elif [ ! -e "$kept" ]; then
        fail "$kept does not exist; run 'make api-update', and commit it"
    elif ! diff -U 0 --label "$kept" "$kept" --label "now" "$work/$module.txt" >"$work/diff"; then
        grep -v '^@@' "$work/diff" >&2
        fail "the API of $module has changed; if it is meant, run 'make api-update', and commit $kept with the change"
    fi

    python3 scripts/api_surface.py undocumented "$work/$module" >"$work/undocumented"
    count=$(wc -l <"$work/undocumented")
    limit=$(awk -v module="$module" '$1 == module { print $2 }' "$limits" 2>/dev/null || true)
    if [ -z "$limit" ] && [ "$update" = yes ]; then
        [ "$count" = 0 ] || echo "api: $module is new in $limits, with $count public declarations without a comment" >&2
        limit=$count
    fi
    if [ "$count" -gt "${limit:-0}" ]; then
        [ "$count" -le 40 ] && cat "$work/undocumented" >&2
        fail "$count public declarations of $module have no documentation comment; ${limit:-0} are allowed ($limits)"
    fi
    echo "$module $((count < ${limit:-0} ? count : ${limit:-0}))" >>"$work/limits"
    printf 'api: %s: %s declarations, %s of them without a comment\n' "$module" "$(grep -cvE ': (conforms to|inherits from) ' "$work/$module.txt")" "$count"
done

# All modules, and not only what is public in them.
for path in Sources/*/; do
    module=$(basename "$path")
    [ -e "$build/Modules/$module.swiftmodule" ] || continue
    extract "$module" internal "$work/$module.all"
    python3 scripts/api_surface.py parameters "$work/$module.all" >"$work/parameters"
    if [ -s "$work/parameters" ]; then
        cat "$work/parameters" >&2
        fail "documentation comments of $module do not have the parameters as they are"
    fi
done

shopt -s nullglob
for kept in "$folder"/*.txt; do
    module=$(basename "$kept" .txt)
    if [ "$kept" != "$limits" ] && ! grep -qx "$module" <<<"$modules"; then
        if [ "$update" = yes ]; then rm "$kept"; else fail "$kept is of a module that is no product; run 'make api-update'"; fi
    fi
done
[ "$update" = no ] || cp "$work/limits" "$limits"
exit "$failed"
