# Sourced by the tests of capture, in a network, mount and process namespace of their own. This machine has a neighbour behind
# `wire` that is also its way to everywhere, and one behind `lan` that has this machine as its way.
#
#   far 198.51.100.2, 2001:db8:1::2 ── wire ── this machine ── lan ── behind 10.77.0.2, fd77::2
set -eu
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
connect() { # INTERFACE NAMESPACE IPV4 IPV6: this machine has .1 and ::1, the other one .2 and ::2
    ip netns add "$2"
    ip link add "$1" type veth peer name "$1" netns "$2"
    ip address add "$3.1/24" dev "$1"
    ip address add "$4::1/64" dev "$1" nodad
    ip -n "$2" address add "$3.2/24" dev "$1"
    ip -n "$2" address add "$4::2/64" dev "$1" nodad
    ip link set "$1" up
    ip -n "$2" link set "$1" up
    ip -n "$2" link set lo up
}
connect wire far 198.51.100 2001:db8:1
connect lan behind 10.77.0 fd77
ip route add default via 198.51.100.2
ip route add default via 2001:db8:1::2
ip -n far route add 10.77.0.0/24 via 198.51.100.1
ip -n far route add fd77::/64 via 2001:db8:1::1
ip -n behind route add default via 10.77.0.1
ip -n behind route add default via fd77::1
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

until_line() { while ! grep -q "$1" "$2"; do :; done; }
serve() { # NAMESPACE PORT…; `here` is this machine
    place=$1
    shift
    : >"$W/$place.ports"
    on "$place" python3 "$PEERS/who.py" "$@" >"$W/$place.ports" &
    until_line listening "$W/$place.ports"
}
on() { # NAMESPACE COMMAND…
    if [ "$1" = here ]; then shift; "$@"; else ip netns exec "$@"; fi
}
ask() { python3 "$PEERS/ask.py" "$@"; }
ask_from() { on "$1" python3 "$PEERS/ask.py" "${@:2}"; }
start_node() { # LISTENER: the last one of the configuration
    # Emptied here: the node's own process may come to it later, and the node before it has said that it is ready.
    : >"$W/ready"
    "$BIN" node --config "$W/node.yaml" --loops 1 >"$W/ready" 2>"$W/log" &
    node=$!
    until_line "ready $1" "$W/ready"
}
start_captured() { # LISTENER, as for start_node: the node, then the rules that lead to it
    start_node "$1"
    "$BIN" capture install --config "$W/node.yaml" >/dev/null
}
ruleset() { # What capture may have changed; the kernel changes other routes by itself.
    nft -s list ruleset
    ip rule
    ip -6 rule
    { ip route show table 15001 && ip -6 route show table 15001; } 2>/dev/null || true
}
