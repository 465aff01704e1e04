import Foundation
import TestPeers
import Testing

/// Connections that are led to a node as they are: TPROXY, for what goes out and what comes in.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct TProxyTests {
    private let machine = CapturedMachine()

    @Test func programsAndOtherMachinesAreCaptured() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {interfaces: [lan], excludePorts: [81]}}"
        ])
        try await machine.expect(
            [
                "port 8080 from 198.51.100.1", "port 8080 from 2001:db8:1::1",
                "port 8080 from 198.51.100.1", "port 8080 from 2001:db8:1::1",
                "port 81 from 198.51.100.1", "port 81 from 10.77.0.2", "port 22 from 198.51.100.1",
                "port 9000 from 127.0.0.1", "port 9000 from 10.77.0.2",
                "ECONNRESET", "ECONNRESET",
                "removed", "port 80 from 198.51.100.1", "port 80 from 10.77.0.2",
            ],
            from: """
                serve far 22 80 81 8080
                serve here 9000
                ruleset >"$W/before"
                start_captured out
                ask 198.51.100.2 80
                ask 2001:db8:1::2 80
                ask_from behind 198.51.100.2 80
                ask_from behind 2001:db8:1::2 80
                ask 198.51.100.2 81
                ask_from behind 198.51.100.2 81
                ask 198.51.100.2 22
                ask 127.0.0.1 9000
                ask_from behind 10.77.0.1 9000
                ask 127.0.0.1 15001
                ask ::1 15001
                echo removed
                "$BIN" capture remove
                ask 198.51.100.2 80
                ask_from behind 198.51.100.2 80
                ruleset >"$W/after"
                cmp "$W/before" "$W/after"
                """
        )
    }

    /// The kernel lets go on what no socket takes, as if there were no rule: a rule of ours has to stop it.
    @Test func withoutAListenerNothingPassesInTheClear() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {interfaces: [lan]}}"
        ])
        try await machine.expect(
            [
                "port 8080 from 198.51.100.1", "ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED",
                "seen: 0",
            ],
            from: """
                serve far 80 8080
                # A service of this machine with the same port must not get what was meant for another one.
                serve here 80
                start_captured out
                ask 198.51.100.2 80
                kill -9 $node
                wait $node || true
                ip netns exec far nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 80 counter'
                ask 198.51.100.2 80
                ask 2001:db8:1::2 80
                ask_from behind 198.51.100.2 80
                ask_from behind 2001:db8:1::2 80
                echo seen: $(ip netns exec far nft list table inet t | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p')
                """
        )
    }

    /// Without the route, a marked packet takes the way to where it was going.
    @Test func withoutTheRouteNothingPassesInTheClear() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {}}"
        ])
        try await machine.expect(
            ["silence", "silence", "silence", "seen: 0", "port 8080 from 198.51.100.1"],
            from: """
                serve far 80 8080
                start_captured out
                ip netns exec far nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 80 counter'
                ip rule del priority 15001
                ip -6 route flush table 15001
                ask 198.51.100.2 80 --seconds 1
                ask 2001:db8:1::2 80 --seconds 1
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ip route flush table 15001
                ask 198.51.100.2 80 --seconds 1
                echo seen: $(ip netns exec far nft list table inet t | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p')
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ask 198.51.100.2 80
                """
        )
    }

    /// Rules may be set before IPv6 is up; what it carries then is not sent in the clear.
    @Test func ipv6MayComeLater() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {}}"
        ])
        try await machine.expect(
            ["1", "silence", "port 8080 from 2001:db8:1::1"],
            from: """
                serve far 80 8080
                start_node out
                echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ip -6 rule | grep -c 15001
                echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6
                ip address add 2001:db8:1::1/64 dev wire nodad
                ask 2001:db8:1::2 80 --seconds 1
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ask 2001:db8:1::2 80
                """
        )
    }

    /// Somebody else's rule of the same priority is not ours: it does not stand for ours, and it stays.
    @Test func aRuleOfAnotherWithOurPriorityIsLeftAlone() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {}}"
        ])
        try await machine.expect(
            ["port 8080 from 198.51.100.1", "everything is the same"],
            from: """
                serve far 80 8080
                ip rule add fwmark 0x1 lookup main priority 15001
                ruleset >"$W/before"
                start_captured out
                ask 198.51.100.2 80
                "$BIN" capture remove
                ruleset | cmp - "$W/before"
                echo everything is the same
                """
        )
    }

    @Test func openLetsItPass() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: tproxy, capture: {interfaces: [lan], onFailure: open}}"
        ])
        try await machine.expect(
            ["captured", "captured", "passed", "passed"],
            from: """
                serve far 80 8080
                start_captured out
                while [ "$(ask 198.51.100.2 80)" != "port 8080 from 198.51.100.1" ]; do :; done
                echo captured
                while [ "$(ask_from behind 2001:db8:1::2 80)" != "port 8080 from 2001:db8:1::1" ]; do :; done
                echo captured
                kill -9 $node
                while [ "$(ask 198.51.100.2 80)" != "port 80 from 198.51.100.1" ]; do :; done
                echo passed
                while [ "$(ask_from behind 2001:db8:1::2 80)" != "port 80 from fd77::2" ]; do :; done
                echo passed
                """
        )
    }

    /// A connection that was open before the rules is neither captured nor cut, and one that was captured goes on.
    @Test(arguments: ["tproxy", "redirect"])
    func openConnectionsAreLeftAlone(_ mode: String) async throws {
        try machine.configure([
            "{name: out, bind: \"0.0.0.0:15001\", protocol: transparent, mode: \(mode), capture: {interfaces: [lan]}}"
        ])
        try machine.directory.write(
            "talk.py",
            """
            import os, socket, subprocess
            def connect():
                s = socket.create_connection(("198.51.100.2", 80))
                print(s.makefile().readline().strip(), flush=True)
                return s
            def talk(s):
                s.sendall(b"again\\n")
                print(s.recv(100).decode().strip(), flush=True)
            install = [os.environ["BIN"], "capture", "install", "--config", os.environ["W"] + "/node.yaml"]
            before = connect()
            subprocess.run(install, stdout=subprocess.DEVNULL, check=True)
            talk(before)
            after = connect()
            subprocess.run(install, stdout=subprocess.DEVNULL, check=True)
            talk(after)
            talk(before)
            """
        )
        try await machine.expect(
            ["port 80 from 198.51.100.1", "again", "port 8080 from 198.51.100.1", "again", "again"],
            from: """
                serve far 80 8080
                start_node out
                python3 "$W/talk.py"
                """
        )
    }

    // MARK: Inbound

    @Test func plainConnectionsToServicesAreRefused() async throws {
        try machine.configure([
            "{name: in, bind: \"0.0.0.0:15006\", protocol: transparent, mode: tproxy, direction: inbound, plaintext: deny, capture: {}}"
        ])
        try await machine.expect(
            [
                "port 9000 from 198.51.100.2", "installed", "ECONNRESET", "ECONNRESET", "port 9000 from 127.0.0.1",
                "port 22 from 198.51.100.2", "port 80 from 198.51.100.1", "ECONNRESET", "killed", "ECONNREFUSED",
            ],
            from: """
                serve here 22 9000
                serve far 80
                start_node in
                ask_from far 198.51.100.1 9000
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                echo installed
                ask_from far 198.51.100.1 9000
                ask_from far 2001:db8:1::1 9000
                ask 127.0.0.1 9000
                ask_from far 198.51.100.1 22
                ask 198.51.100.2 80
                ask_from far 198.51.100.1 15006
                grep -q "plain connections are refused here" "$W/log"
                kill -9 $node
                echo killed
                ask_from far 198.51.100.1 9000
                """
        )
    }

    /// Who tracks no connections must not have open services for it.
    @Test func untrackedConnectionsAreRefusedAsWell() async throws {
        try machine.configure([
            "{name: in, bind: \"0.0.0.0:15006\", protocol: transparent, mode: tproxy, direction: inbound, plaintext: deny, capture: {}}"
        ])
        try await machine.expect(
            ["port 9000 from 198.51.100.2", "ECONNRESET"],
            from: """
                serve here 9000
                nft 'add table inet host; add chain inet host raw { type filter hook prerouting priority raw; }; add rule inet host raw iifname wire notrack'
                start_node in
                ask_from far 198.51.100.1 9000
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ask_from far 198.51.100.1 9000
                """
        )
    }

    @Test func policyDecidesWhichPlainConnectionsComeIn() async throws {
        try machine.configure(
            [
                "{name: in, bind: \"0.0.0.0:15006\", protocol: transparent, mode: tproxy, direction: inbound, plaintext: allow, capture: {}}"
            ],
            more: """
                policy:
                - name: far
                  action: ALLOW
                  rules:
                  - from: [{sourceIPs: ["198.51.100.2", "2001:db8:1::2"]}]
                    to: [{ports: [9000]}]
                """
        )
        try await machine.expect(
            [
                "port 9000 from 198.51.100.1", "port 9000 from 2001:db8:1::1", "ECONNRESET", "ECONNRESET", "filtered",
                "silence",
                "port 9000 from 198.51.100.1",
            ],
            from: """
                serve here 9000 9001
                start_captured in
                ask_from far 198.51.100.1 9000
                ask_from far 2001:db8:1::1 9000
                ask_from far 198.51.100.1 9001
                ask_from behind 10.77.0.1 9000
                # The machine's own filter sees the port that was asked for.
                nft 'add table inet host; add chain inet host input { type filter hook input priority 0; }; add rule inet host input iifname wire tcp dport 9000 drop'
                echo filtered
                ask_from far 198.51.100.1 9000 --seconds 1
                nft 'delete table inet host'
                ask_from far 198.51.100.1 9000
                """
        )
    }
}
