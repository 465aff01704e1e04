#!/usr/bin/env bash
# The main job, start to finish, against a real sshd: an SSH login becomes a mesh identity and a stream, the stream falls back
# to SSH when its port is blocked, and goes back.
#
#   scripts/demo.sh [--short] [--binary FILE]
#
# 1 GiB goes each way; with --short, for CI, 64 MiB. FILE is the static binary, operator's tool and device's agent in one.
#
# Everything runs in a network namespace and a temporary directory of its own, so that the packet filter it sets and the
# files it installs are not this machine's. Needs root for that (uses sudo otherwise). Cleans up also when interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

bytes=$((1 << 30))
binary=dist/bootstrap-linux-$(uname -m)
arguments=("$@")
while [ $# -gt 0 ]; do
    case "$1" in
    --short) bytes=$((64 << 20)) ;;
    --binary) binary=${2:?--binary needs a file}; shift ;;
    *) echo "usage: scripts/demo.sh [--short] [--binary FILE]" >&2; exit 2 ;;
    esac
    shift
done
bootstrap=$(realpath -- "$binary")
[ -x "$bootstrap" ] || { echo "$binary is missing: run 'make demo', which builds it" >&2; exit 1; }

if [ -z "${DEMO_ISOLATED:-}" ]; then
    elevate=()
    [ "$(id -u)" = 0 ] || elevate=(sudo)
    # A network, and mounts, of its own: what is installed "on the device" goes to a file system in memory.
    exec "${elevate[@]}" env DEMO_ISOLATED=1 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "${arguments[@]}"
fi

work=$(mktemp -d)
pids=()
finish() {
    status=$?
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    case $status in
    0) ;;
    130 | 143) echo "demo: interrupted; everything was removed" >&2 ;;
    *) echo "demo: failed (exit $status); everything was removed" >&2 ;;
    esac
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ bootstrap %s\033[0m\n' "$*"; "$bootstrap" "$@"; }
# Waits until file $1 has a line that matches $2 after line $3; at most $4 seconds.
await() {
    local deadline=$((SECONDS + ${4:-30}))
    until tail -n +"$((${3:-0} + 1))" "$1" 2>/dev/null | grep -qE "$2"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "demo: no line '$2' in ${4:-30} s; the last lines were:" >&2
            tail -n 20 "$1" >&2
            return 1
        fi
        sleep 0.1
    done
}
lines() { wc -l <"$1"; }

ip link set lo up
# The device's own disk, as far as this demonstration is concerned.
mkdir -p "$work/device" "$work/operator"
mount -t tmpfs none /opt
export HOME=$work/operator BOOTSTRAP_HOME=$work/operator/.bootstrap

step "An unmodified sshd on a loopback port, with a throw-away host key and user key"
mkdir -p /run/sshd "$HOME/.ssh"
chmod 700 "$HOME/.ssh"
ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$HOME/.ssh/id_ed25519"
cp "$HOME/.ssh/id_ed25519.pub" "$work/authorized_keys"
cat >"$work/sshd_config" <<CONFIG
Port 2222
ListenAddress 127.0.0.1
HostKey $work/host_key
AuthorizedKeysFile $work/authorized_keys
PidFile $work/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
CONFIG
/usr/sbin/sshd -D -e -f "$work/sshd_config" 2>"$work/sshd.log" &
pids+=($!)
await "$work/sshd.log" 'Server listening on'
echo "[127.0.0.1]:2222 $(cut -d' ' -f1-2 "$work/host_key.pub")" >"$HOME/.ssh/known_hosts"
echo "sshd $(/usr/sbin/sshd -V 2>&1 | grep -o 'OpenSSH_[^ ,]*' | head -1) listens on 127.0.0.1:2222"

step "A TCP service on the device, known to nobody else"
python3 scripts/checksum_service.py serve "$work/service.port" &
pids+=($!)
await "$work/service.port" '[0-9]'
service=$(cat "$work/service.port")
echo "checksum service on 127.0.0.1:$service"

step "1. The operator's certificate authority"
run ca init --trust-domain demo.example

step "2. Enrolment: an SSH login becomes a mesh identity"
run enroll root@127.0.0.1:2222 --name device1 --allow-port "$service" --agent-binary "$bootstrap"

step "3. A stream to the service, over mutual TLS and HTTP/2"
printf '\033[2m$ bootstrap connect device1 -L 7000:localhost:%s\033[0m\n' "$service"
"$bootstrap" connect device1 -L "7000:localhost:$service" >"$work/connect.log" 2>&1 &
connect=$!
pids+=("$connect")
await "$work/connect.log" 'path h2: '
cat "$work/connect.log"
for direction in up down; do python3 scripts/checksum_service.py "$direction" 127.0.0.1 7000 "$bytes"; done

node=$(cat /opt/bootstrap/state/node.pid 2>/dev/null || pgrep -f 'bootstrap node' | head -1)
hbone_port=15008

new_connection() { python3 scripts/checksum_service.py echo 127.0.0.1 7000 "$1"; echo "a new connection through the same -L works ($1)"; }

step "4a. The HBONE server is stopped: new connections go over SSH"
before=$(lines "$work/connect.log")
kill -STOP "$node"
new_connection "while the server is stopped"
await "$work/connect.log" 'path h2 → (h2-over-)?ssh' "$before"
tail -n +"$((before + 1))" "$work/connect.log"

step "     … and back, once it runs again"
before=$(lines "$work/connect.log")
kill -CONT "$node"
await "$work/connect.log" '→ h2: ' "$before" 90
new_connection "after it runs again"
tail -n +"$((before + 1))" "$work/connect.log"

step "4b. The HBONE port's packets are dropped: new connections go over SSH"
before=$(lines "$work/connect.log")
nft add table inet demo
nft add chain inet demo input '{ type filter hook input priority 0; }'
nft add rule inet demo input tcp dport "$hbone_port" drop
new_connection "while packets are dropped"
await "$work/connect.log" 'path h2 → (h2-over-)?ssh' "$before"
tail -n +"$((before + 1))" "$work/connect.log"

step "     … and back, once they pass"
before=$(lines "$work/connect.log")
nft delete table inet demo
await "$work/connect.log" '→ h2: ' "$before" 90
new_connection "after they pass again"
tail -n +"$((before + 1))" "$work/connect.log"

step "5. Clean up"
kill -TERM "$connect"
wait "$connect" || true
echo "Everything was in $work and in this demonstration's own network; both are gone now."
