#!/bin/bash
# Runs a test command once. Its output goes to the terminal and to a log; when it fails, the failures are repeated at the end, where
# they are found even if only the last lines of a long run are kept. The last lines are Swift Testing's own summary and the counts:
#
#   ✔ Test run with 1069 tests in 160 suites passed after 312.4 seconds.
#   1069 passed, 0 failed
#
# A run that executes no test fails: a filter that matches nothing proves nothing.
#
#   scripts/run-tests.sh LOG COMMAND…
set -uo pipefail
# Plain text, also where a terminal is seen.
export NO_COLOR=1
log=$1
shift
mkdir -p "$(dirname "$log")"

"$@" 2>&1 | tee "$log" | grep --line-buffered -Ev '^◇ |^✔ Test |^✔ Suite|^(✔|✘) Test run with |^\[[0-9]+/[0-9]+\] '
status=${PIPESTATUS[0]}

if [ "$status" -ne 0 ]; then
    printf '\n=== What failed (the whole log: %s)\n' "$log"
    # An issue's details follow it, indented.
    grep -A 6 -E '^✘ .*recorded an issue|^✘ .* failed|error:|Fatal error|Sanitizer|signal code' "$log" | grep -Ev '^◇ |^✔ |^--$' | tail -n 60
    # A crash: what the thread did, and which tests were running (several run at once, in one process).
    if grep -q ' crashed:$' "$log"; then
        printf '\n=== Where it crashed\n'
        sed -n '/^Thread .* crashed:$/,/^Thread .*:$/p' "$log" | grep -E '^Thread .* crashed|^ *[0-9]+ .* in ' | cut -c1-300 | head -n 40
        printf '\n=== Running at that time\n'
        awk '$2 == "Test" && $3 != "case" && $3 != "run" {
                 mark = $1
                 if (!sub(/ (started\.|(with [0-9]+ test cases? )?(passed|failed) after .*|skipped.*)$/, "")) next
                 sub(/^[^ ]+ Test /, "")
                 running[$0] += mark == "◇" ? 1 : -1
             }
             END { for (test in running) if (running[test] > 0) print test }' "$log" | sort
    fi
fi

# Each test has a line of its own when it ends; the cases of one with arguments have more, which are not counted.
count() { grep -E "$1" "$log" | grep -cvE '^(✔|✘|➜) Test (case|run) '; }
passed=$(count '^(✔|✘) Test .* passed after ')
failed=$(count '^✘ Test .* failed after ')
skipped=$(count '^➜ Test .* skipped')
summary=$(grep -E '^(✔|✘) Test run with [0-9]+ tests? ' "$log")
if [ $((passed + failed)) -eq 0 ]; then
    echo "error: no test was executed"
    [ "$status" -ne 0 ] || status=1
elif [ -z "$summary" ]; then
    echo "error: the run did not come to its end"
    [ "$status" -ne 0 ] || status=1
fi
echo
[ -z "$summary" ] || printf '%s\n' "$summary"
if [ "$skipped" -gt 0 ]; then
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
    printf '%d passed, %d failed\n' "$passed" "$failed"
fi
exit "$status"
