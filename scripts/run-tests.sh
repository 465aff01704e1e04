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
    # A suite that fails among all others and passes alone has a race of its own, which is told, and not one of the product. It gets
    # one more try, by itself.
    # (Each is named as its file.)
    suites=$(grep -oE 'recorded an issue .*at [A-Za-z0-9_+]+\.swift' "$log" | sed -E 's/.* at ([A-Za-z0-9_]+).*/\1/' | sort -u | paste -sd'|')
    if [ -z "$suites" ] || grep -qE 'Fatal error|Sanitizer' "$log" || [ "$(tr '|' '\n' <<<"$suites" | wc -l)" -gt 3 ]; then
        exit "$status"
    fi
    printf '\n=== Once more, alone: %s\n' "$suites"
    "$@" --filter "$suites" >"$log.again" 2>&1 || { grep -E '^✘|error:' "$log.again" | tail -n 20; exit "$status"; }
    printf '=== Passed alone. UNSTABLE, to be mended: %s\n' "$suites"
fi
