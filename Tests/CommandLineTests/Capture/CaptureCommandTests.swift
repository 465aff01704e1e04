import Foundation
import TestPeers
import Testing

/// `bootstrap capture`: what it sets, what it leaves, and what it says.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct CaptureCommandTests {
    private let machine = CapturedMachine()

    private static let listeners = [
        "{name: 1.out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {cidrs: [192.0.2.0/24, 198.51.100.0/24, \"::/0\"], excludePorts: [81], onFailure: open}}",
        "{name: route, bind: \"127.0.0.1:15011\", protocol: transparent, mode: tproxy, capture: {interfaces: [lan], cidrs: [203.0.113.0/24]}}",
        "{name: in, bind: \"0.0.0.0:15006\", protocol: transparent, mode: tproxy, direction: inbound, capture: {ports: [9000-9010]}}",
    ]

    /// firewalld's table and those of Docker's iptables, as they look on a machine that has both.
    @Test func foreignTablesAreByteForByteWhatTheyWere() async throws {
        try machine.configure(Self.listeners)
        try await machine.expect(
            ["installed", "foreign tables are the same", "everything is the same", "and again"],
            from: """
                nft -f "$PEERS/firewalld.nft"
                nft -f "$PEERS/docker.nft"
                ruleset >"$W/before"
                nft -s list ruleset >"$W/tables"
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                "$BIN" capture install -q --config "$W/node.yaml"
                echo installed
                [ $(ip rule | grep -c 15001) = 1 ] && [ $(ip -6 rule | grep -c 15001) = 1 ]
                nft -s list table inet bootstrap >"$W/ours"
                nft -s list ruleset | head -n -$(wc -l <"$W/ours") | cmp - "$W/tables"
                echo foreign tables are the same
                "$BIN" capture remove --config "$W/node.yaml"
                ruleset | cmp - "$W/before"
                echo everything is the same
                "$BIN" capture remove
                ruleset | cmp - "$W/before"
                echo and again
                """
        )
    }

    /// firewalld refuses IPv6 that is redirected to ::1, since its rule sees the interface from before: that fails
    /// closed.
    @Test(arguments: [("redirect", "EHOSTUNREACH"), ("tproxy", "port 8080 from 2001:db8:1::1")])
    func captureWorksBesideThem(_ mode: String, _ overIPv6: String) async throws {
        try machine.configure([
            "{name: names, bind: \"127.0.0.1:15053\", protocol: dns, capture: {}}",
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: \(mode), capture: {}}",
        ])
        try await machine.expect(
            ["port 8080 from 198.51.100.1", overIPv6],
            from: """
                serve far 80 8080
                nft -f "$PEERS/firewalld.nft"
                nft -f "$PEERS/docker.nft"
                start_captured out
                ask 198.51.100.2 80
                ask 2001:db8:1::2 80
                """
        )
    }

    @Test func eachRuleCounts() async throws {
        try machine.configure(Self.listeners)
        let output = try await machine.run(
            """
            "$BIN" capture install --config "$W/node.yaml" >/dev/null
            nft list table inet bootstrap
            """
        )
        let rules = output.standardOutput.split(separator: "\n").filter { $0.hasPrefix("\t\t") }
            .filter {
                !["type ", "size ", "flags ", "timeout ", "elements "].contains(where: $0.dropFirst(2).hasPrefix)
            }
        #expect(rules.count > 40, "\(output.standardError)")
        for rule in rules {
            #expect(rule.contains(" counter packets ") || rule.hasPrefix("\t\tcounter packets "), "\(rule)")
        }
    }

    @Test func verifyComparesAndTries() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {excludePorts: [80]}}"
        ])
        try await machine.expect(
            [
                "there is no table inet bootstrap: `bootstrap capture install` makes it", "1",
                "rules are as node.yaml asks for", "capture out: 0 so far",
                "capture out: a connection to 192.0.2.1 port 8080 was captured, but nobody listens on 127.0.0.1:15001: start the node",
                "capture out: a connection to 2001:db8::1 port 8080 was captured, but nobody listens on 127.0.0.1:15001: start the node",
                "1",
                "rules are as node.yaml asks for", "capture out: 2 so far",
                "capture out: a connection to 192.0.2.1 port 8080 was captured, and taken",
                "capture out: a connection to 2001:db8::1 port 8080 was captured, and taken", "0",
                "not ours: chain output/out: tcp dport 8080 counter return", "1",
                "missing: chain output/out: th dport 80 counter return", "1",
            ],
            from: """
                cd "$W"
                verify() { "$BIN" capture verify --config node.yaml 2>/dev/null && echo 0 || echo $?; }
                verify
                "$BIN" capture install --config node.yaml >/dev/null
                verify
                start_node out
                verify
                nft insert rule inet bootstrap output/out tcp dport 8080 counter return
                verify | grep -e ours -e '^1'
                "$BIN" capture install --config node.yaml >/dev/null
                handle=$(nft -a list chain inet bootstrap output/out | sed -n 's/.*dport 80 .*handle //p')
                nft delete rule inet bootstrap output/out handle $handle
                verify | grep -e missing -e '^1'
                """
        )
    }

    /// A name server is tried by a question about an address of the mesh, which only it can answer.
    @Test func verifyAsksANameServer() async throws {
        try machine.configure(["{name: names, bind: \"127.0.0.1:15053\", protocol: dns, capture: {}}"])
        try await machine.expect(
            [
                "capture names 127.0.0.1:15053",
                "nobody listens on 127.0.0.1:15053 yet: what names captures is refused until the node runs",
                "rules are as node.yaml asks for", "capture names: 0 so far",
                "capture names: a question to 198.51.100.2 port 53 was captured, but",
                "1", "capture names 127.0.0.1:15053", "rules are as node.yaml asks for", "capture names: 0 so far",
                "capture names: a question to 198.51.100.2 port 53 was captured, and taken", "0",
            ],
            from: """
                cd "$W"
                echo nameserver 198.51.100.2 >"$W/resolv.conf"
                mount --bind "$W/resolv.conf" /etc/resolv.conf
                set -o pipefail
                verify() { "$BIN" capture verify --config node.yaml 2>/dev/null | sed 's/, but .*/, but/' && echo 0 || echo $?; }
                "$BIN" capture install --config node.yaml 2>&1
                verify
                start_node names
                "$BIN" capture install --config node.yaml 2>&1
                verify
                """
        )
    }

    /// The rules of another configuration differ in many lines: they are told in one.
    @Test func verifyOfAnotherConfigurationIsShort() async throws {
        try machine.configure(["{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {}}"])
        try await machine.expect(
            [
                "the rules are those of another configuration than other.yaml: N are missing, N are not of it (-v lists them). "
                    + "`bootstrap capture install --config other.yaml` sets them",
                "1", "listed",
            ],
            from: """
                cd "$W"
                sed 's/name: out/name: other/' node.yaml >other.yaml
                "$BIN" capture install -q --config node.yaml
                "$BIN" capture verify --config other.yaml >short 2>/dev/null || code=$?
                sed -n '1s/[0-9][0-9]*/N/gp' short
                echo $code
                "$BIN" capture verify -v --config other.yaml >long 2>/dev/null || true
                [ $(grep -c '^missing: ' long) -gt 5 ] && [ $(grep -c '^not ours: ' long) -gt 5 ] && echo listed
                """
        )
    }

    /// Rules that went with the node before, or were never set, are missed at its start.
    @Test func aNodeWithoutItsRulesSaysSo() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {onFailure: open}}"
        ])
        try await machine.expect(
            ["1", "0", "1"],
            from: """
                said() { kill $node; wait $node || true; grep -c 'nothing is captured: the rules are not set' "$W/log" || true; }
                start_node out
                said
                "$BIN" capture install -q --config "$W/node.yaml"
                start_node out
                said
                start_node out
                said
                """
        )
    }

    @Test func aCgroupThatIsNotThereIsNamed() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {cgroups: [not/there.service]}}"
        ])
        let output = try await machine.run("\"$BIN\" capture install --config \"$W/node.yaml\" || echo $?")
        #expect(output.standardOutput == "1\n")
        #expect(
            output.standardError.hasPrefix("error: there is no cgroup not/there.service (/sys/fs/cgroup/"),
            "\(output)"
        )
    }

    @Test func anotherNamespaceIsNamedByItsPath() async throws {
        try machine.configure(Self.listeners)
        try await machine.expect(
            ["0", "1", "0"],
            from: """
                "$BIN" capture install --config "$W/node.yaml" --netns /run/netns/behind >/dev/null
                nft list ruleset | grep -c 'table inet bootstrap' || true
                on behind nft list ruleset | grep -c 'table inet bootstrap'
                "$BIN" capture remove --netns /run/netns/behind
                on behind nft list ruleset | grep -c 'table inet bootstrap' || true
                """
        )
    }

    @Test func whoeverMayNotIsToldWhatToDo() async throws {
        try machine.configure(Self.listeners)
        let output = try await machine.run(
            """
            cd "$W"
            setpriv --bounding-set=-net_admin "$BIN" capture install --config node.yaml || echo $?
            unshare --mount bash -c 'mount -t tmpfs none /usr/sbin; "$BIN" capture install --config node.yaml || echo $?'
            sed -i 's/, capture: {.*}}/}/' node.yaml
            "$BIN" capture install --config node.yaml || echo $?
            """
        )
        let errors = output.standardError.split(separator: "\n")
        #expect(output.standardOutput == "1\n1\n2\n", "\(output.standardError)")
        try #require(errors.count == 3, "\(errors)")
        #expect(errors[0].contains("rules need root, or CAP_NET_ADMIN in this network namespace"), "\(errors)")
        #expect(errors[1].contains("there is no program 'nft'"), "\(errors)")
        for error in errors[..<2] {
            #expect(error.contains("Listeners with protocol tcp or socks5 need no rules, and no privilege"), "\(error)")
        }
        #expect(errors[2].contains("no listener has 'capture'"), "\(errors)")
    }

    /// A node that cannot mark its connections would capture them, and be led to itself.
    @Test func aNodeThatMayNotSaysSoBeforeItListens() async throws {
        try machine.configure(["{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {}}"])
        let output = try await machine.run(
            """
            setpriv --bounding-set=-net_admin,-net_raw "$BIN" node --config "$W/node.yaml" || echo $?
            sed -i 's/capture: {}/mode: tproxy, capture: {node: {uid: 0}}/' "$W/node.yaml"
            setpriv --bounding-set=-net_admin,-net_raw "$BIN" node --config "$W/node.yaml" || echo $?
            """
        )
        #expect(output.standardOutput == "1\n1\n")
        let errors = output.standardError.split(separator: "\n").filter { $0.hasPrefix("error: ") }
        try #require(errors.count == 2, "\(output.standardError)")
        #expect(errors[0].contains("marking own connections: Operation not permitted. It needs root or CAP_NET_ADMIN"))
        #expect(errors[1].contains("setting IP_TRANSPARENT: permission denied"))
    }

    /// Ended at every step: before and after each program that it runs.
    @Test(arguments: ["install", "remove"])
    func killedAtAnyStepItHasDoneAllOrNothing(_ command: String) async throws {
        try machine.configure(Self.listeners)
        try await machine.expect(
            ["every step was met", "everything is the same"],
            from: """
                ruleset >"$W/before"
                cd "$W"
                mkdir steps
                for program in nft ip; do
                    real=$(command -v $program)
                    printf '#!/bin/bash\\nn=$(($(cat "$W/step") + 1)); echo $n >"$W/step"\\n[ $n != "$KILL" ] || { kill -9 $PPID; exit 1; }\\n%s "$@"; code=$?\\n[ "$n+" != "$KILL" ] || kill -9 $PPID\\nexit $code\\n' $real >steps/$program
                    chmod +x steps/$program
                done
                whole="$("$BIN" capture install --config node.yaml >/dev/null; nft -s list table inet bootstrap)"
                "$BIN" capture remove
                steps=0
                for ((n = 1; ; n++)); do
                    for when in $n $n+; do
                        if [ \(command) = remove ]; then "$BIN" capture install --config node.yaml >/dev/null; fi
                        echo 0 >step
                        code=0; KILL=$when PATH=$W/steps:$PATH "$BIN" capture \(command) --config node.yaml >/dev/null || code=$?
                        there="$(nft -s list table inet bootstrap 2>/dev/null || true)"
                        # All of it, with the routes that it needs, or nothing that leads anywhere.
                        if [ -n "$there" ]; then
                            [ "$there" = "$whole" ] || echo "half a table at $when"
                            ip route show table 15001 | grep -q 'local default' && ip rule | grep -q 15001 || echo "no route at $when"
                        fi
                        "$BIN" capture remove
                        [ $code != 0 ] || break 2
                        steps=$((steps + 1))
                    done
                done
                [ $steps -ge 4 ] && echo every step was met
                ruleset | cmp - before
                echo everything is the same
                """
        )
    }
}
