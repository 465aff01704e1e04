import Foundation
import TestPeers
import Testing

/// Connections of programs that know of nothing, led to a node by rules that redirect them.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct RedirectTests {
    private let machine = CapturedMachine()

    /// How rules know the node, and what starts it so.
    enum Own: String, CaseIterable {
        case mark
        case user = "{uid: 4000}"
        case cgroup = "{cgroup: bootstrap-test-own}"

        var start: String {
            switch self {
            case .mark: "start_node out"
            // Without any privilege. It must be able to read its credential.
            case .user:
                """
                cp -r "\(TestCertificates.shared.path(.client))" "$W/own"
                # Not its configuration: root, who installs the rules, takes none that somebody else can change.
                chown 4000 "$W"
                chown -R 4000 "$W/own"
                sed -i "s|^identity: .*|identity: $W/own|" "$W/node.yaml"
                program=$BIN
                as_user() { exec setpriv --reuid 4000 --clear-groups "$program" "$@"; }
                BIN=as_user
                start_node out
                BIN=$program
                """
            case .cgroup:
                """
                root=/sys/fs/cgroup
                [ -e $root/cgroup.controllers ] || root=$root/unified
                mkdir -p $root/bootstrap-test-own
                trap 'kill -9 $node; wait $node || true; rmdir $root/bootstrap-test-own' EXIT
                program=$BIN
                in_cgroup() { exec bash -c 'echo 0 >'$root'/bootstrap-test-own/cgroup.procs; exec "$@"' - "$program" "$@"; }
                BIN=in_cgroup
                start_node out
                BIN=$program
                """
            }
        }
    }

    @Test(arguments: Own.allCases)
    func programsAreCapturedAndTheNodeIsNot(_ own: Own) async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {node: \(own.rawValue), excludePorts: [8081, 8080-8090], excludeUids: [4321], excludeCidrs: [10.77.0.2]}}"
        ])
        try await machine.expect(
            [
                "port 8080 from 198.51.100.1", "port 8080 from 2001:db8:1::1",
                // Another user, SSH, an excluded port, an excluded machine, this machine itself.
                "port 80 from 198.51.100.1", "port 22 from 198.51.100.1", "port 8081 from 198.51.100.1",
                "port 80 from 10.77.0.1", "port 9000 from 127.0.0.1",
                // QUIC: the kernel says so to the program at once.
                "EPERM", "EPERM", "udp 444 ?",
                // The listener itself leads nowhere.
                "ECONNRESET", "ECONNRESET",
                "after", "port 80 from 198.51.100.1",
            ],
            from: """
                serve far 22 80 443 444 8080 8081
                serve behind 80
                serve here 9000
                \(own.start)
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                ask 198.51.100.2 80
                ask 2001:db8:1::2 80
                ask 198.51.100.2 80 --uid 4321
                ask 198.51.100.2 22
                ask 198.51.100.2 8081
                ask 10.77.0.2 80
                ask 127.0.0.1 9000
                ask 198.51.100.2 443 --udp
                ask 2001:db8:1::2 443 --udp
                ask 198.51.100.2 444 --udp
                ask 127.0.0.1 15001
                ask ::1 15001
                echo after
                "$BIN" capture remove
                ask 198.51.100.2 80
                """
        )
    }

    @Test func onlyWhatIsIncludedIsCaptured() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {ports: [80, 90-95], cidrs: [\"198.51.100.0/24\"], uids: [0, 5000], gids: [0, 6000]}}"
        ])
        try await machine.expect(
            [
                "port 8080 from 198.51.100.1", "port 8080 from 198.51.100.1", "port 81 from 198.51.100.1",
                "port 80 from 2001:db8:1::1", "port 80 from 198.51.100.1", "port 80 from 198.51.100.1",
                "port 8080 from 198.51.100.1",
            ],
            from: """
                serve far 80 81 90 8080
                start_captured out
                ask 198.51.100.2 80
                ask 198.51.100.2 90
                ask 198.51.100.2 81
                ask 2001:db8:1::2 80
                ask 198.51.100.2 80 --uid 5001
                ask 198.51.100.2 80 --uid 5000 --gid 6001
                ask 198.51.100.2 80 --uid 5000 --gid 6000
                """
        )
    }

    @Test func onlyTheCgroupIsCaptured() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {cgroups: [bootstrap-test-in], excludeCgroups: [bootstrap-test-in/not]}}"
        ])
        try await machine.expect(
            ["port 80 from 198.51.100.1", "port 8080 from 198.51.100.1", "port 80 from 198.51.100.1"],
            from: """
                root=/sys/fs/cgroup
                [ -e $root/cgroup.controllers ] || root=$root/unified
                trap 'echo 0 >$root/cgroup.procs; rmdir $root/bootstrap-test-in/not $root/bootstrap-test-in' EXIT
                mkdir -p $root/bootstrap-test-in/not
                serve far 80 8080
                start_captured out
                inside() { bash -c 'echo 0 >'"$1"'/cgroup.procs; exec python3 "$PEERS/ask.py" 198.51.100.2 80'; }
                ask 198.51.100.2 80
                inside $root/bootstrap-test-in
                inside $root/bootstrap-test-in/not
                """
        )
    }

    /// REDIRECT to a port where nobody listens is a refusal; with `open` the rules notice by themselves.
    @Test func whatHappensWhenTheNodeIsKilledIsChosen() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {uids: [0], onFailure: closed}}",
            "{name: other, bind: \"127.0.0.1:15011\", protocol: transparent, capture: {uids: [5000], onFailure: open}}",
        ])
        try await machine.expect(
            [
                "closed before: ECONNREFUSED", "open before: port 80 from 198.51.100.1",
                "closed: port 8080 from 198.51.100.1", "open: port 8080 from 198.51.100.1",
                "open: port 8080 from 2001:db8:1::1",
                "closed after: ECONNREFUSED", "closed after: ECONNREFUSED",
                "open after: port 80 from 198.51.100.1", "open after: port 80 from 2001:db8:1::1",
            ],
            from: """
                serve far 80 8080
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                echo closed before: $(ask 198.51.100.2 80)
                echo open before: $(ask 198.51.100.2 80 --uid 5000)
                start_node other
                echo closed: $(ask 198.51.100.2 80)
                while [ "$(ask 198.51.100.2 80 --uid 5000)" = "port 80 from 198.51.100.1" ]; do :; done
                echo open: $(ask 198.51.100.2 80 --uid 5000)
                echo open: $(ask 2001:db8:1::2 80 --uid 5000)
                kill -9 $node
                echo closed after: $(ask 198.51.100.2 80)
                echo closed after: $(ask 2001:db8:1::2 80)
                while [ "$(ask 198.51.100.2 80 --uid 5000)" = ECONNREFUSED ]; do :; done
                while [ "$(ask 2001:db8:1::2 80 --uid 5000)" = ECONNREFUSED ]; do :; done
                echo open after: $(ask 198.51.100.2 80 --uid 5000)
                echo open after: $(ask 2001:db8:1::2 80 --uid 5000)
                """
        )
    }

    @Test func nothingIsLeftWhenTheNodeEnds() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {onFailure: open}}",
            "{name: more, bind: \"127.0.0.1:15011\", protocol: transparent, mode: tproxy, capture: {uids: [1], onFailure: open}}",
        ])
        try await machine.expect(
            ["captured", "port 80 from 198.51.100.1"],
            from: """
                serve far 80 8080
                ruleset >"$W/before"
                start_captured more
                while [ "$(ask 198.51.100.2 80)" != "port 8080 from 198.51.100.1" ]; do :; done
                echo captured
                kill $node
                wait $node
                ask 198.51.100.2 80
                ruleset >"$W/after"
                cmp "$W/before" "$W/after"
                """
        )
    }

    /// An orderly end is no leave to go on in the clear.
    @Test(arguments: ["redirect", "tproxy"])
    func rulesThatRefuseStayWhenTheNodeEnds(_ mode: String) async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, mode: \(mode), capture: {}}"
        ])
        try await machine.expect(
            ["port 8080 from 198.51.100.1", "ECONNREFUSED", "said", "port 80 from 198.51.100.1"],
            from: """
                serve far 80 8080
                start_captured out
                ask 198.51.100.2 80
                kill $node
                wait $node
                ask 198.51.100.2 80
                grep -q "bootstrap capture remove" "$W/log" && echo said
                "$BIN" capture remove
                ask 198.51.100.2 80
                """
        )
    }

    /// What the kernel does not track it cannot redirect, and must not let go.
    @Test(arguments: ["redirect", "tproxy"])
    func untrackedConnectionsDoNotLeave(_ mode: String) async throws {
        try machine.configure([
            "{name: out, bind: \"0.0.0.0:15001\", protocol: transparent, mode: \(mode), capture: {interfaces: [lan]}}"
        ])
        try await machine.expect(
            ["silence", "silence", "seen: 0"],
            from: """
                serve far 80 8080
                nft 'add table inet host; add chain inet host out { type filter hook output priority raw; }; add rule inet host out tcp dport 80 notrack'
                nft 'add chain inet host in { type filter hook prerouting priority raw; }; add rule inet host in tcp dport 80 notrack'
                ip netns exec far nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 80 counter'
                start_captured out
                ask 198.51.100.2 80 --seconds 1
                ask_from behind 198.51.100.2 80 --seconds 1
                echo seen: $(ip netns exec far nft list table inet t | sed -n 's/.*packets \\([0-9]*\\).*/\\1/p')
                """
        )
    }

    /// The rules are still there when the file asks for none any more.
    @Test func rulesOfAnEarlierConfigurationGoWithTheNode() async throws {
        try machine.configure([
            "{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {onFailure: open}}"
        ])
        try await machine.expect(
            ["reloaded", "port 80 from 198.51.100.1"],
            from: """
                serve far 80 8080
                ruleset >"$W/before"
                start_captured out
                sed -i 's/, capture: {.*}}/}/' "$W/node.yaml"
                kill -HUP $node
                until_line "reloaded" "$W/log"
                echo reloaded
                kill $node
                wait $node
                ask 198.51.100.2 80
                ruleset >"$W/after"
                cmp "$W/before" "$W/after"
                """
        )
    }

    @Test func otherMachinesAreCaptured() async throws {
        try machine.configure([
            "{name: out, bind: \"0.0.0.0:15001\", protocol: transparent, capture: {local: false, interfaces: [lan]}}"
        ])
        try await machine.expect(
            [
                "port 8080 from 198.51.100.1", "port 8080 from 2001:db8:1::1", "port 22 from 10.77.0.2",
                "port 80 from 198.51.100.1", "ECONNREFUSED", "udp 444 ?",
            ],
            from: """
                serve far 22 80 443 444 8080
                start_captured out
                ask_from behind 198.51.100.2 80
                ask_from behind 2001:db8:1::2 80
                ask_from behind 198.51.100.2 22
                ask 198.51.100.2 80
                ask_from behind 198.51.100.2 443 --udp
                ask_from behind 198.51.100.2 444 --udp
                """
        )
    }

    @Test func curlKnowsNothingOfIt() async throws {
        try machine.configure(["{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {}}"])
        try await machine.expect(
            ["200 from 198.51.100.2", "200 from 2001:db8:1::2", "2"],
            from: """
                mkdir "$W/www"
                ip netns exec far python3 -u -m http.server 8080 --bind :: --directory "$W/www" >"$W/http" 2>&1 &
                until_line Serving "$W/http"
                start_captured out
                curl -s -o /dev/null -w '%{http_code} from %{remote_ip}\\n' http://198.51.100.2/
                curl -s -o /dev/null -w '%{http_code} from %{remote_ip}\\n' 'http://[2001:db8:1::2]/'
                nft list table inet bootstrap | sed -n 's/.*packets \\([0-9]*\\).*"capture out"/\\1/p'
                """
        )
    }
}
