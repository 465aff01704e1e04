#!/usr/bin/env bash
# The second half of the demonstration: programs join the mesh without knowing it. A captured curl reaches a service by its
# name; a client of the world reaches it through an ingress; and a captured curl reaches a server that is no member of the
# mesh, with TLS that the node adds.
#
#   scripts/demo-fronts.sh [--binary FILE]
#
#   curl ── capture ──┐                                   ┌── the service, 127.0.0.1:8080
#                     ├── node edge ══ HBONE ══ node web ─┘
#   curl ── https ────┘        └── TLS ── legacy.lan, no member of the mesh
#
# Everything runs in a network namespace and a temporary directory of its own. Needs root for that (uses sudo otherwise).
set -euo pipefail
cd "$(dirname "$0")/.."

binary=dist/bootstrap-linux-$(uname -m)
arguments=("$@")
while [ $# -gt 0 ]; do
    case "$1" in
    --binary) binary=${2:?--binary needs a file}; shift ;;
    *) echo "usage: scripts/demo-fronts.sh [--binary FILE]" >&2; exit 2 ;;
    esac
    shift
done
bootstrap=$(realpath -- "$binary")
[ -x "$bootstrap" ] || { echo "$binary is missing: run 'make demo', which builds it" >&2; exit 1; }

if [ -z "${DEMO_ISOLATED:-}" ]; then
    elevate=()
    [ "$(id -u)" = 0 ] || elevate=(sudo)
    exec "${elevate[@]}" env DEMO_ISOLATED=1 unshare --net --mount --pid --fork --kill-child --mount-proc "$0" "${arguments[@]}"
fi

work=$(mktemp -d)
pids=()
finish() {
    status=$?
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    [ "$status" = 0 ] || { tail -n 20 "$work"/*.log; echo "demo: failed (exit $status); everything was removed"; } >&2
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
run() { printf '\033[2m$ bootstrap %s\033[0m\n' "$*"; "$bootstrap" "$@"; }
# Starts a program and waits until its log has a line that matches $2: start LOG PATTERN COMMAND…
start() {
    local log=$work/$1.log pattern=$2 deadline=$((SECONDS + 30))
    shift 2
    : >"$log"
    "$@" >"$log" 2>&1 &
    pids+=("$!")
    until grep -qE "$pattern" "$log"; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "demo: no line '$pattern' in $log within 30 s" >&2; return 1; }
        sleep 0.1
    done
}

export HOME=$work BOOTSTRAP_HOME=$work/.bootstrap
# A machine with a network behind it where nobody answers: what is captured never gets there.
ip link set lo up
ip link add wire type veth peer name far
ip address add 192.0.2.10/24 dev wire
ip link set wire up
ip link set far up
ip route add default via 192.0.2.1
echo 'nameserver 192.0.2.1' >"$work/resolv.conf"
mount --bind "$work/resolv.conf" /etc/resolv.conf
printf '127.0.0.1 localhost\n192.0.2.20 legacy.lan\n' >"$work/hosts"
mount --bind "$work/hosts" /etc/hosts
printf 'hosts: files dns\n' >"$work/nsswitch.conf"
mount --bind "$work/nsswitch.conf" /etc/nsswitch.conf

step "6. A service, the two nodes' identities, and a server that is no member of the mesh"
mkdir "$work/page"
echo 'the page of web.prod' >"$work/page/index.html"
start service 'Serving HTTP' python3 -u -m http.server --bind 127.0.0.1 --directory "$work/page" 8080
run ca init --trust-domain demo.example
for name in edge web; do run ca issue --id "ns/prod/sa/$name" --out "$work/$name"; done
# A CA of the web, the ingress's certificate, and the other server's.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj '/CN=demo roots' \
    -keyout "$work/roots.key" -out "$work/roots.pem" 2>/dev/null
for name in web.example legacy.lan; do
    mkdir -m 700 "$work/$name"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
        -keyout "$work/$name/key.pem" -out "$work/$name/request.pem" 2>/dev/null
    chmod 600 "$work/$name/key.pem"
    openssl x509 -req -in "$work/$name/request.pem" -CA "$work/roots.pem" -CAkey "$work/roots.key" -days 1 \
        -extfile <(printf 'subjectAltName=DNS:%s\nextendedKeyUsage=serverAuth\n' "$name") \
        -out "$work/$name/cert-chain.pem" 2>/dev/null
done
(cd "$work/page" && start legacy ACCEPT openssl s_server -accept 192.0.2.10:8443 -cert "$work/legacy.lan/cert-chain.pem" \
    -key "$work/legacy.lan/key.pem" -WWW)

cat >"$work/web.yaml" <<YAML
identity: $work/web
listeners:
- {name: hbone, bind: "192.0.2.10:15008", protocol: hbone}
policy:
- name: edge
  action: ALLOW
  rules:
  - from: [{principals: [demo.example/ns/prod/sa/edge]}]
    to: [{hosts: ["127.0.0.1"], ports: [8080]}]
YAML
cat >"$work/edge.yaml" <<YAML
identity: $work/edge
listeners:
- {name: out, bind: "127.0.0.1:15001", protocol: transparent, mode: redirect, capture: {}}
- {name: names, bind: "127.0.0.1:15053", protocol: dns, capture: {}, names: {upstreams: ["192.0.2.1:53"]}}
- name: world
  bind: "192.0.2.10:443"
  protocol: https
  credentials: [$work/web.example]
  routes: [{host: web.example, to: "web.prod:80"}]
endpoints:
- {match: "web.prod:80", address: "127.0.0.1:8080", hbone: "192.0.2.10:15008", identity: "spiffe://demo.example/ns/prod/sa/web"}
- {match: "192.0.2.20:80", address: "192.0.2.10:8443", direct: true, tls: {serverName: legacy.lan, roots: $work/roots.pem}}
policy:
- name: the-world-reads
  action: ALLOW
  rules:
  - to: [{hosts: [web.prod], ports: [80], methods: [GET, HEAD]}]
accessLog: {file: $work/access.json}
YAML
start web '^ready hbone' "$bootstrap" node --config "$work/web.yaml"
start edge '^ready world' "$bootstrap" node --config "$work/edge.yaml"

expect() { # TEXT COMMAND…: what it prints has that text
    local text=$1 output
    shift
    printf '\033[2m$ %s\033[0m\n' "$*"
    output=$("$@" 2>&1) || { echo "$output" >&2; return 1; }
    printf '%s\n' "$output" | head -n 3
    [[ $output == *"$text"* ]] || { echo "demo: '$text' is not in what was printed" >&2; return 1; }
}

step "7. Capture: a program that knows nothing of the mesh reaches the service by its name"
nft list ruleset >"$work/rules-before"
run capture install --config "$work/edge.yaml"
run capture verify --config "$work/edge.yaml"
expect 'the page of web.prod' curl -sS --max-time 20 http://web.prod/

step "8. Ingress: a client of the world reaches it over HTTPS, and may read only"
expect 'the page of web.prod' curl -sS --max-time 20 --cacert "$work/roots.pem" --resolve web.example:443:192.0.2.10 https://web.example/
expect '403' curl -sS --max-time 20 -o /dev/null -w '%{http_code}\n' --cacert "$work/roots.pem" \
    --resolve web.example:443:192.0.2.10 -X DELETE https://web.example/

step "9. Egress: the same program reaches a server that is no member, and the node adds TLS and looks at the certificate"
expect 'the page of web.prod' curl -sS --max-time 20 --http1.0 http://legacy.lan/index.html

step "10. What the streams were: the access log"
# A line is there when its stream has ended, and is written a moment later.
deadline=$((SECONDS + 20))
until grep -q '"peer":"spiffe://demo.example/ns/prod/sa/web"' "$work/access.json"; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "demo: no line with the peer in the access log" >&2; exit 1; }
    sleep 0.1
done
show grep '"peer":"spiffe://demo.example/ns/prod/sa/web"' "$work/access.json"

step "11. Clean up"
run capture remove
nft list ruleset >"$work/rules-after"
cmp "$work/rules-before" "$work/rules-after"
echo "The packet filter is what it was before."
