#!/bin/bash
# Has DocC build the documentation of every library module, in one archive so that they may link to each other's symbols. A
# warning, which is mostly a link that leads nowhere, is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
modules=(Platform Streams MeshIdentity H2Transport SSHSignal MeshNode)
graphs=.build/symbol-graphs
rm -rf "$graphs"
mkdir -p "$graphs"
swift build
bin=$(swift build --show-bin-path)
# The C modules are found by their module maps, as in a build.
c_modules=()
for map in Sources/*/module.modulemap Sources/*/include/module.modulemap; do c_modules+=(-I "$(dirname "$map")"); done
for module in "${modules[@]}"; do
    swift symbolgraph-extract -module-name "$module" -minimum-access-level public -skip-synthesized-members \
        -output-dir "$graphs" -target "$(uname -m)-unknown-linux-gnu" -I "$bin/Modules" "${c_modules[@]}"
done
log=.build/docc.log
if ! docc convert --additional-symbol-graph-dir "$graphs" --fallback-display-name bootstrap \
    --fallback-bundle-identifier bootstrap --output-path .build/documentation.doccarchive \
    --warnings-as-errors >"$log" 2>&1 || grep -q '^warning' "$log"; then
    cat "$log" >&2
    echo "docs: broken documentation comments, see above" >&2
    exit 1
fi
echo "docs: .build/documentation.doccarchive"
