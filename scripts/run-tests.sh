#!/bin/bash
# Runs a test command. Its output goes to the terminal and to a log; when it fails, the failures are repeated at the end, where
# they are found even if only the last lines of a long run are kept.
#
#   scripts/run-tests.sh LOG COMMAND…
set -uo pipefail
log=$1
shift
mkdir -p "$(dirname "$log")"

"$@" 2>&1 | tee "$log" | grep --line-buffered -Ev '^◇ |^✔ Test (case )?|^✔ Suite|^\[[0-9]+/[0-9]+\] '
status=${PIPESTATUS[0]}

if [ "$status" -ne 0 ]; then
    printf '\n=== What failed (the whole log: %s)\n' "$log"
    # An issue's details follow it, indented.
    grep -A 6 -E '^✘ .*recorded an issue|^✘ .* failed|error:|Fatal error|Sanitizer|signal code' "$log" | grep -Ev '^◇ |^✔ |^--$' | tail -n 60
    exit "$status"
fi
