#!/bin/bash
# Extracts the documentation comments of every library module and has DocC check them: a broken link is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
graphs=.build/symbol-graphs
rm -rf "$graphs"
mkdir -p "$graphs" .build/documentation
swift build
for module in Streams MeshIdentity H2Transport SSHSignal MeshNode; do
    mkdir -p "$graphs/$module"
    swift symbolgraph-extract -module-name "$module" -minimum-access-level public -output-dir "$graphs/$module" \
        -I "$(swift build --show-bin-path)/Modules" -I Sources/CLinux -I Sources/COpenSSL -I Sources/CNGHTTP2 \
        -I Sources/CLibSSH2 -I Sources/CLibYAML -target "$(uname -m)-unknown-linux-gnu"
    docc convert --additional-symbol-graph-dir "$graphs/$module" --fallback-display-name "$module" \
        --fallback-bundle-identifier "bootstrap.$module" --output-path ".build/documentation/$module.doccarchive" \
        --warnings-as-errors --analyze=false 2>&1 || { echo "docs: $module has broken documentation comments" >&2; exit 1; }
done
echo "docs: .build/documentation"
