#!/bin/bash
# Every `bootstrap` command and option in the examples of README.md and docs/commands.md exists in the binary, and README.md's
# configuration is valid.
#
#   scripts/check-readme.sh BINARY
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
failed=0
while read -r line; do
    words=()
    options=()
    for word in $line; do
        case $word in
        '#'* | --) break ;;
        -*) options+=("$word") ;;
        # The command is the words before the first option or argument: letters only.
        *) if [ ${#options[@]} = 0 ] && [[ $word =~ ^[a-z]+$ ]]; then words+=("$word"); fi ;;
        esac
    done
    # The argument parser's own option, which --help leaves out: what it is for is run.
    if [[ $line =~ --generate-completion-script\ ([a-z]+) ]]; then
        if [ -z "$("$binary" --generate-completion-script "${BASH_REMATCH[1]}" 2>/dev/null)" ]; then
            echo "documentation: '$line' prints nothing" >&2
            failed=1
        fi
        continue
    fi
    if ! help=$("$binary" "${words[@]:1}" --help 2>&1); then
        echo "documentation: '${words[*]}' does not exist" >&2
        failed=1
        continue
    fi
    for option in "${options[@]}"; do
        if ! grep -qE -- "(^|[ ,])$option\b" <<<"$help"; then
            echo "documentation: '${words[*]}' has no option $option" >&2
            failed=1
        fi
    done
done < <(grep -hE '^    bootstrap ' README.md docs/commands.md)

# The configuration, beside an identity made by the commands above it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export BOOTSTRAP_HOME=$work/home
sed -n '/^```yaml$/,/^```$/{/^```/d;p}' README.md >"$work/node.yaml"
cd "$work"
if ! { "$binary" ca init --trust-domain example.org && "$binary" ca issue --id ns/default/sa/web --out identity \
    && "$binary" node --config node.yaml --check; } >"$work/log" 2>&1 </dev/null; then
    cat "$work/log" >&2
    echo "README.md: its configuration is not accepted" >&2
    failed=1
fi

[ "$failed" = 0 ] && echo "README.md, docs/commands.md: every command and option exists, the configuration is valid"
exit "$failed"
