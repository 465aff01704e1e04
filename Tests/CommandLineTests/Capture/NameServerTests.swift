import Foundation
import TestPeers
import Testing

/// The `dns` listener: names of the mesh, everything else, and captured programs that use names.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct NameServerTests {
    private let machine = CapturedMachine()

    /// A peer for `*.prod` and `db.test`, which is never reached here.
    private func configure(_ listeners: [String]) throws {
        try machine.directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            \(listeners.map { "- \($0)" }.joined(separator: "\n"))
            endpoints:
            - {match: "db.test:5432", hbone: "198.51.100.2:15008"}
            - {match: "*.prod", hbone: "198.51.100.2:15008"}
            - {match: "plain.test", direct: true}
            default: direct
            """
        )
    }

    @Test func namesOfTheMeshHaveAddressesAndOthersAreAskedFor() async throws {
        try configure([
            "{name: names, bind: \"127.0.0.1:5300\", protocol: dns, names: {upstreams: [\"127.0.0.1:5301\"], ipv4: 198.18.0.0/24, ttl: 7}}"
        ])
        let output = try await machine.run(
            """
            python3 "$PEERS/names.py" serve 127.0.0.1 5301 >"$W/upstream" &
            until_line listening "$W/upstream"
            start_node names
            ask() { python3 "$PEERS/names.py" ask 127.0.0.1 5300 "$@"; }
            ask db.test A
            ask DB.test A | sed 's/.*/case &/'
            ask db.test AAAA edns
            ask db.test HTTPS
            ask db.test A tcp
            ask web.prod A
            reverse=$(ask db.test A | sed 's/NOERROR \\([0-9]*\\)\\.\\([0-9]*\\)\\.\\([0-9]*\\)\\.\\([0-9]*\\)/\\4.\\3.\\2.\\1.in-addr.arpa/')
            ask $reverse PTR
            ask 255.0.18.198.in-addr.arpa PTR
            ask prod A
            ask plain.test A
            ask none.test A
            ask missing.test A
            ask forged.test A
            ask big.test TXT
            ask big.test TXT tcp
            kill -9 $node; wait $node || true
            start_node names
            echo restarted
            ask web.prod A
            ask db.test A
            """
        )
        let lines = output.standardOutput.split(separator: "\n").map(String.init)
        try #require(lines.count == 18, "\(output)\n\((try? machine.directory.read("log")) ?? "")")
        let db = lines[0]
        #expect(db.hasPrefix("NOERROR 198.18.0."))
        #expect(lines[1] == "case \(db)")
        #expect(lines[2].hasPrefix("NOERROR fd6d:6573:6800::") && lines[2].hasSuffix(" EDNS"))
        #expect(lines[3] == "NOERROR SOA 7")
        #expect(lines[4] == db)
        #expect(lines[5].hasPrefix("NOERROR 198.18.0.") && lines[5] != db)
        #expect(
            lines[6...14] == [
                "NOERROR db.test", "NXDOMAIN SOA 7", "NOERROR 203.0.113.9", "NOERROR 203.0.113.9", "NOERROR",
                "NXDOMAIN", "SERVFAIL", "NOERROR truncated", "NOERROR records 20",
            ]
        )
        #expect(lines[15...] == ["restarted", lines[5], db], "addresses stay")
    }

    @Test func whatIsNoQuestionGetsAFittingAnswer() async throws {
        try configure([
            "{name: names, bind: \"127.0.0.1:5300\", protocol: dns, names: {upstreams: [\"127.0.0.1:5301\"]}}"
        ])
        try await machine.expect(
            [
                // Too short; an answer; another operation; two questions; a pointer in the question; another EDNS
                // version.
                "silence", "silence", "123490040000000000000000", "123481010000000000000000",
                "123481010000000000000000",
                "12348100000000000000000100002904d001000000" + "0000",
                // Nobody to ask.
                "SERVFAIL",
            ],
            from: """
                start_node names
                raw() { python3 "$PEERS/names.py" raw 127.0.0.1 5300 "$1"; }
                raw 1234
                raw 1234810000010000000000000161000001000100
                raw 1234100000010000000000000161000006000100
                raw 12340100000200000000000001610000010001016100000100
                raw 123401000001000000000000c00c00010001
                raw 12340100000100000000000101610000010001000029100000010000000000
                python3 "$PEERS/names.py" ask 127.0.0.1 5300 other.test A
                """
        )
    }

    /// Machines behind the interfaces may ask whichever address they like, and are answered from it; others may not.
    @Test func onlyMachinesBehindTheInterfacesAreAnswered() async throws {
        try configure([
            "{name: names, bind: \"0.0.0.0:15053\", protocol: dns, capture: {local: false, interfaces: [lan]}, names: {upstreams: [\"127.0.0.1:5301\"]}}"
        ])
        try await machine.expect(
            [
                "12348580", "rules", "silence", "silence", "NOERROR 198.1", "NOERROR 198.1", "NOERROR 198.1",
                "NOERROR 198.1", "NOERROR 198.1",
            ],
            from: """
                start_node names
                ip address add 10.77.0.9/24 dev lan
                question=12340100000100000000000002646204746573740000010001
                on far python3 "$PEERS/names.py" raw 198.51.100.1 15053 $question | cut -c -8
                "$BIN" capture install --config "$W/node.yaml" >/dev/null
                echo rules
                on far python3 "$PEERS/names.py" raw 198.51.100.1 15053 $question
                on far python3 "$PEERS/names.py" raw 10.77.0.1 15053 $question
                ask() { on behind python3 "$PEERS/names.py" ask "$@" db.test A | cut -c -13; }
                ask 198.51.100.2 53
                ask 10.77.0.1 53
                ask 10.77.0.9 15053
                ask fd77::1 15053
                python3 "$PEERS/names.py" ask 127.0.0.1 15053 db.test A | cut -c -13
                """
        )
    }

    /// A captured program looks a name up and connects to it; policy and routes see the name.
    @Test(arguments: ["redirect", "tproxy"])
    func capturedProgramsUseNames(_ mode: String) async throws {
        try machine.directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: names, bind: "0.0.0.0:15053", protocol: dns, capture: {interfaces: [lan]}}
            - {name: out, bind: "0.0.0.0:15001", protocol: transparent, mode: \(mode), capture: {interfaces: [lan]}}
            - {name: hbone, bind: "198.51.100.1:15008", protocol: hbone}
            endpoints:
            - {match: "db.test:5432", address: "198.51.100.1:5432", hbone: "198.51.100.1:15008", identity: "spiffe://mesh.example/ns/prod/sa/client"}
            default: direct
            policy:
            - name: db
              action: ALLOW
              rules:
              - from: [{namespaces: [prod]}]
                to: [{ports: [5432]}]
            """
        )
        try await machine.expect(
            [
                "NOERROR 198.19.", "NOERROR 198.19.", "NOERROR 203.0.113.9", "port 5432 from 198.51.100.1",
                "port 5432 from 198.51.100.1", "NOERROR 203.0.113.9", "port 5432 from 198.51.100.1", "1", "ECONNRESET",
                "NOERROR 203.0.113.9",
            ],
            from: """
                echo nameserver 198.51.100.2 >"$W/resolv.conf"
                mount --bind "$W/resolv.conf" /etc/resolv.conf
                echo 'hosts: dns' >"$W/nsswitch.conf"
                mount --bind "$W/nsswitch.conf" /etc/nsswitch.conf
                ip netns exec far python3 "$PEERS/names.py" serve 198.51.100.2 53 >"$W/upstream" &
                until_line listening "$W/upstream"
                ask_names() { on "$1" python3 "$PEERS/names.py" ask "${@:2}"; }
                serve here 5432
                start_captured hbone
                python3 "$PEERS/names.py" ask 198.51.100.2 53 db.test A | cut -c -15
                python3 "$PEERS/names.py" ask 198.51.100.2 53 db.test A tcp | cut -c -15
                python3 "$PEERS/names.py" ask 198.51.100.2 53 plain.test A tcp
                ask db.test 5432
                python3 "$PEERS/ask.py" fd6d:6573:6800::$(python3 "$PEERS/names.py" ask 198.51.100.2 53 db.test AAAA | sed 's/.*:://') 5432
                # Another machine has the same names.
                address=$(ask_names behind 10.77.0.1 53 db.test A | sed 's/NOERROR //')
                [ "$address" = "$(ask_names behind 198.51.100.2 53 db.test A | sed 's/NOERROR //')" ]
                ask_names behind 198.51.100.2 53 plain.test A
                ask_from behind $address 5432
                # What the node asks is in a zone of its own.
                nft list chain inet bootstrap dns-zone | grep -c 'udp dport 53 counter packets [1-9]'
                # Given to no name.
                ask 198.18.0.1 5432
                "$BIN" capture remove
                python3 "$PEERS/names.py" ask 198.51.100.2 53 db.test A
                """
        )
    }
}
