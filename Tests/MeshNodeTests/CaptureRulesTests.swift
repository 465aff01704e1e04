import Foundation
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// What rules are made of `capture:`, and which of its keys are refused.
@Suite struct CaptureRulesTests {
    private func configuration(_ listeners: String, _ more: String = "") throws -> NodeConfiguration {
        try NodeConfiguration.parse("identity: i\nlisteners: [\(listeners)]\ndefault: direct\n\(more)", file: "f")
    }

    private func chain(_ name: String, of text: String) throws -> [String] {
        let rest = try #require(text.components(separatedBy: "chain \(name) {\n").dropFirst().first, "\(text)")
        return (rest.components(separatedBy: "\n\t}").first ?? "").split(separator: "\n").map {
            $0.trimmingCharacters(in: .whitespaces)
        }
    }

    @Test func whatIsNeverCapturedComesFirst() throws {
        let configuration = try configuration(
            "{name: out, bind: \"127.0.0.1:1\", protocol: transparent, capture: {node: {cgroup: a/b.service}, excludePorts: [90-100, 95, 80]}}",
            "endpoints: [{match: x.test, ssh: {destination: \"ops@x.test:2222\"}}]"
        )
        var surroundings = CaptureSurroundings()
        surroundings.sshPorts = [22, 2022]
        let rules = try chain("output/out", of: CaptureRules(configuration, on: surroundings).text)
        #expect(
            rules.dropFirst() == [
                "meta l4proto != tcp counter return",
                "tcp flags & (fin | syn | rst | ack) != syn counter return",
                "fib daddr type { local, broadcast, multicast } counter return",
                "ip daddr 169.254.0.0/16 counter return comment \"link-local\"",
                "ip6 daddr fe80::/10 counter return comment \"link-local\"",
                "socket cgroupv2 level 2 \"a/b.service\" counter return comment \"the node's own\"",
                "th dport { 22, 2022, 2222 } counter return comment \"SSH\"",
                "th dport { 80, 90-100 } counter return",
                "meta l4proto tcp counter redirect to :1 comment \"capture out\"",
            ]
        )
    }

    /// A socket of the kernel has no user: rules about users must be those that act.
    @Test func usersAreAskedByTheRuleThatActs() throws {
        let configuration = try configuration(
            """
            {name: a, bind: "127.0.0.1:1", protocol: transparent, capture: {uids: [5, 6], gids: [7], cgroups: [x]}},
            {name: b, bind: "127.0.0.1:2", protocol: transparent, mode: tproxy, capture: {uids: [5]}}
            """
        )
        let text = CaptureRules(configuration, on: CaptureSurroundings()).text
        #expect(!text.contains("skuid !=") && !text.contains("skgid !="), "\(text)")
        let redirecting = try chain("output/a", of: text)
        #expect(
            redirecting.last == "socket cgroupv2 level 1 \"x\" meta skuid { 5, 6 } meta skgid { 7 } meta l4proto tcp "
                + "counter redirect to :1 comment \"capture a\""
        )
        let proxying = try chain("output/b", of: text)
        #expect(proxying.last?.hasPrefix("meta skuid { 5 } counter ct mark set") == true, "\(proxying)")
    }

    /// A question over TCP is the name server's, whichever chain comes first.
    @Test(arguments: ["redirect", "tproxy"]) func questionsOverTCPAreForTheNameServer(_ mode: String) throws {
        let configuration = try configuration(
            """
            {name: out, bind: "0.0.0.0:1", protocol: transparent, mode: \(mode), capture: {interfaces: [lan]}},
            {name: names, bind: "0.0.0.0:2", protocol: dns, capture: {interfaces: [lan], excludeUids: [7]}}
            """
        )
        var surroundings = CaptureSurroundings()
        surroundings.nameServers = [.loopbackIPv4]
        let text = CaptureRules(configuration, on: surroundings).text
        #expect(try chain("output/out", of: text).contains("th dport 53 counter jump taken/names"))
        let forwarded = mode == "tproxy" ? "forwarded/out" : "prerouting/out"
        #expect(try chain(forwarded, of: text).contains("th dport 53 counter jump taken-forwarded/names"))
        // What the name server leaves alone is a connection like any other.
        let taken = try chain("taken/names", of: text)
        #expect(taken.contains("meta skuid { 7 } counter return") && taken.last == "counter accept", "\(taken)")
        #expect(try chain("output/names", of: text).first?.contains("priority -111") == true)
        #expect(
            try chain("direct/names", of: text).suffix(4) == [
                "th dport != 2 counter return", "iifname { \"lo\", \"lan\" } counter return",
                "ct status dnat counter return", "counter drop comment \"not captured\"",
            ]
        )
    }

    @Test func ourPolicyRuleIsKnownByAllThatItSays() {
        #expect(CaptureInstaller.isOurs("15001:\tfrom all fwmark 0xc000000/0xf000000 lookup 15001"[...]))
        #expect(CaptureInstaller.isOurs("15001:\tfrom all fwmark 0xc000000/0xf000000 lookup named "[...]))
        for other in [
            "15001:\tfrom all fwmark 0x1 lookup 15001", "15001:\tfrom all lookup main",
            "15001:\tfrom all fwmark 0xc000000/0xf000000 lookup 7",
            "1:\tfrom all fwmark 0xc000000/0xf000000 lookup 15001",
            "15001:\tfrom all fwmark 0xc000000/0xf000000 iif lo lookup 15001", "",
        ] {
            #expect(!CaptureInstaller.isOurs(other[...]), "\(other)")
        }
    }

    /// The node's own is known in each listener's chains, however it is known.
    @Test func ownTrafficIsKnownToAllListeners() throws {
        let configuration = try configuration(
            """
            {name: a, bind: "127.0.0.1:1", protocol: transparent, capture: {node: {uid: 5}}},
            {name: b, bind: "127.0.0.1:2", protocol: transparent, mode: tproxy, capture: {node: mark}}
            """
        )
        let text = CaptureRules(configuration, on: CaptureSurroundings()).text
        for name in ["output/a", "output/b", "quic/a", "quic/b"] {
            let rules = try chain(name, of: text)
            #expect(rules.contains("meta skuid 5 counter return comment \"the node's own\""), "\(name)")
            #expect(
                rules.contains("meta mark & 0x0f000000 == 0x0b000000 counter return comment \"the node's own\""),
                "\(name)"
            )
        }
    }

    /// Blocks of one family alone leave the other out, and blocks in blocks are not written.
    @Test func blocksAreOfBothFamilies() throws {
        let configuration = try configuration(
            "{name: out, bind: \"127.0.0.1:1\", protocol: transparent, capture: {cidrs: [10.1.0.0/16, 10.0.0.0/8, 192.0.2.1]}}"
        )
        let rules = try chain("output/out", of: CaptureRules(configuration, on: CaptureSurroundings()).text)
        #expect(rules.contains("ip daddr != { 10.0.0.0/8, 192.0.2.1/32 } counter return"), "\(rules)")
        #expect(rules.contains("meta nfproto ipv6 counter return"))
    }

    /// A listener that is captured is there for both families.
    @Test(arguments: [("127.0.0.1", "[::1]"), ("0.0.0.0", "[::]"), ("[::1]", "127.0.0.1"), ("[::]", "0.0.0.0")])
    func listenersHaveATwin(_ bind: String, _ twin: String) throws {
        let configuration = try configuration("{name: out, bind: \"\(bind):1\", protocol: transparent, capture: {}}")
        #expect(configuration.listeners[0].twin?.bind.description == "\(twin):1")
        #expect(configuration.listeners[0].socketOptions.isIPv6Only == true)
        #expect(configuration.rules().sockets.map { "\($0.address)" }.count == 2)
    }

    @Test(arguments: [
        ("mode: tproxy, direction: sideways", "'direction' must be one of outbound, inbound, not 'sideways'"),
        ("mode: nat", "'mode' must be one of redirect, tproxy, not 'nat'"),
        ("direction: inbound", "'direction: inbound' needs 'mode: tproxy'"),
        ("plaintext: allow", "'plaintext' is for 'direction: inbound' only"),
        ("capture: {port: [1]}", "unknown key 'port' in 'capture': did you mean 'ports'?"),
        ("capture: {ports: [http]}", "'http' is neither a port from 1 to 65535 nor a range"),
        ("capture: {cidrs: [10.0.0.1/8]}", "has bits set after its prefix: write 10.0.0.0/8"),
        ("capture: {uids: [root]}", "'root' is not a number of a user or group: `id` tells it"),
        ("capture: {gids: [-1]}", "'-1' is not a number of a user or group"),
        ("capture: {cgroups: [../x]}", "is not a path below the root of cgroup v2"),
        ("capture: {cgroups: ['a\"b']}", "is not a path below the root of cgroup v2"),
        ("capture: {interfaces: ['eth0 drop']}", "is not the name of an interface"),
        ("capture: {onFailure: maybe}", "'onFailure' must be one of closed, open, not 'maybe'"),
        ("capture: {node: {}}", "write mark, {uid: NUMBER} or {cgroup: PATH}"),
        ("capture: {node: {uid: 1, cgroup: a}}", "write mark, {uid: NUMBER} or {cgroup: PATH}"),
        ("capture: {local: false}", "'local: false' without 'interfaces' captures nothing"),
        (
            "capture: {local: false, interfaces: [a], uids: [1]}",
            "programs of this machine, which 'local: false' leaves out"
        ),
        ("capture: {interfaces: [a]}", "'interfaces' needs 0.0.0.0:1 in 'bind'"),
        ("mode: tproxy, direction: inbound, capture: {uids: [1]}", "they mean nothing when inbound"),
        ("capture: {ports: [80, 22]}", "'ports' has 22, and SSH is never captured"),
    ])
    func whatMakesNoSenseIsRefused(_ keys: String, _ message: String) throws {
        let error = #expect(throws: ConfigurationError.self) {
            try configuration("{name: out, bind: \"127.0.0.1:1\", protocol: transparent, \(keys)}")
        }
        #expect(
            error?.issues.contains { $0.message.contains(message) && $0.position?.line == 2 } == true,
            "\(error as Any)"
        )
    }

    @Test(arguments: [
        (
            "{name: a, bind: \"127.0.0.1:1\", protocol: hbone, mode: redirect}",
            "'mode' is for protocol transparent only"
        ),
        (
            "{name: a, bind: \"127.0.0.1:1\", protocol: hbone, capture: {}}",
            "'capture' is for the protocols transparent and dns"
        ),
        ("{name: a, bind: \"127.0.0.1:0\", protocol: transparent, capture: {}}", "'capture' needs a port in 'bind'"),
        ("{name: a, bind: \"10.0.0.1:1\", protocol: transparent, capture: {}}", "'capture' is for IPv4 and IPv6 alike"),
        ("{name: a, bind: \"127.0.0.1:1\", protocol: transparent, forwardTo: \"a:1\"}", "'forwardTo' means nothing"),
    ])
    func listenersThatMakeNoSenseAreRefused(_ listener: String, _ message: String) throws {
        let error = #expect(throws: ConfigurationError.self) { try configuration(listener) }
        #expect(error?.issues.contains { $0.message.contains(message) } == true, "\(error as Any)")
    }

    /// Which of the two gets it nothing would say.
    @Test(arguments: [
        ("transparent, capture: {}", "transparent, capture: {onFailure: open}", true),
        ("transparent, capture: {}", "transparent, mode: tproxy, capture: {}", true),
        ("dns, capture: {}", "dns, capture: {}", true), ("transparent, capture: {}", "dns, capture: {}", false),
        ("transparent, capture: {uids: [1]}", "transparent, capture: {}", false),
        ("transparent, capture: {}", "transparent", false),
        ("transparent, capture: {}", "transparent, mode: tproxy, direction: inbound, capture: {}", false),
    ])
    func twoListenersDoNotCaptureTheSame(_ one: String, _ other: String, _ isRefused: Bool) throws {
        let configuration = try configuration(
            "{name: a, bind: \"127.0.0.1:1\", protocol: \(one)}, {name: b, bind: \"127.0.0.1:2\", protocol: \(other)}"
        )
        var issues: [String] = []
        do {
            try configuration.validate(checkingFiles: false)
        } catch {
            issues = error.issues.map(\.message)
        }
        let isSaid = issues.contains { $0.hasPrefix("listener 'b': captures the same as listener 'a'") }
        #expect(isSaid == isRefused, "\(issues)")
    }

    @Test(
        arguments: [
            ("dns, capture: {}", ["a question to 192.0.2.53 port 53", "a question to ::1 port 53"], ""),
            ("dns, capture: {excludeCidrs: [192.0.2.0/24]}", ["a question to ::1 port 53"], ""),
            ("transparent, capture: {cidrs: [10.0.0.0/8], ports: [7]}", ["a connection to 10.0.0.0 port 7"], ""),
            ("dns, capture: {cgroups: [a]}", [], "it captures programs of its cgroups only"),
            (
                "transparent, capture: {excludeUids: [\(getuid())]}", [],
                "it does not capture programs of uid \(getuid())"
            ),
            ("transparent, mode: tproxy, direction: inbound, capture: {}", [], "it captures what others send here"),
        ] as [(String, [String], String)]
    )
    func whatCanBeTried(_ keys: String, _ trials: [String], _ obstacle: String) throws {
        let listener = try configuration("{name: a, bind: \"127.0.0.1:1\", protocol: \(keys)}").listeners[0]
        let servers = ["192.0.2.53", "192.0.2.54", "::1"].compactMap { IPAddress($0) }
        let found = Result { () throws(CaptureTrial.Untried) in
            try CaptureTrial.trials(for: listener, nameServers: servers).map(\.description)
        }
        let expected: Result<[String], CaptureTrial.Untried> =
            obstacle.isEmpty ? .success(trials) : .failure(.init(reason: obstacle))
        #expect(found == expected)
    }

    @Test func surroundingsAreReadFromTheMachinesFiles() throws {
        let directory = TemporaryDirectory()
        try directory.makeDirectory("sshd_config.d")
        let sshd = try directory.write(
            "sshd_config",
            "# Port 1\nport 2022\nListenAddress [::]:2023\nListenAddress ::1\n"
        )
        try directory.write("sshd_config.d/a.conf", "Port=2024\nListenAddress 10.0.0.1:22\n")
        let resolver = try directory.write(
            "resolv.conf",
            "nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver ::1\nnameserver 192.0.2.53\nsearch x\n"
        )
        try directory.makeDirectory("units/ssh.socket.d")
        try directory.write("units/ssh.socket", "[Socket]\n# ListenStream=1\nListenStream=2025\nAccept=no\n")
        try directory.write("units/ssh.socket.d/addresses.conf", "ListenStream=\nListenStream=[::]:2026\n")
        // As proc(5) writes it: 2027 and 2028 are listened on, by sshd and by another; 2029 is a connection of sshd's.
        try directory.makeDirectory("proc/thread-self/net")
        for (process, name) in [("10", "sshd"), ("11", "other")] {
            try directory.makeDirectory("proc/\(process)/fd")
            try directory.write("proc/\(process)/comm", name + "\n")
        }
        func line(_ port: Int, _ state: String, _ inode: Int) -> String {
            "0: 00000000:\(String(port, radix: 16, uppercase: true)) 00000000:0000 \(state) 0:0 00:0 0 0 0 \(inode) 1\n"
        }
        try directory.write(
            "proc/thread-self/net/tcp",
            "sl local_address rem_address st\n" + line(2027, "0A", 71) + line(2028, "0A", 72) + line(2029, "01", 73)
        )
        for (link, inode) in [("10/fd/3", 71), ("11/fd/3", 72), ("10/fd/4", 73)] {
            try #require(symlink("socket:[\(inode)]", directory.path + "/proc/" + link) == 0)
        }
        // Whom a login reaches first decides.
        let client = try directory.write(
            "ssh_config",
            "Host box\nPort 2030\nHost inner\nPort 2031\nProxyJump gate\nHost gate\nPort 2032\n"
        )
        let configuration = try configuration(
            "{name: out, bind: \"127.0.0.1:1\", protocol: transparent, capture: {}}",
            """
            endpoints:
            - {match: x.test, ssh: {destination: box, config: "\(client)"}}
            - {match: y.test, ssh: {destination: inner, config: "\(client)"}}
            """
        )
        let ssh = SSHPorts(
            configuration: sshd,
            units: [directory.path + "/units"],
            processes: directory.path + "/proc"
        )
        let surroundings = CaptureSurroundings.read(for: configuration, ssh, resolver: resolver)
        #expect(surroundings.sshPorts == [22, 2022, 2023, 2024, 2025, 2026, 2027, 2030, 2032])
        #expect(surroundings.nameServers.map(\.description) == ["192.0.2.53", "::1"])
        #expect(CaptureSurroundings.nameServers("/nonexistent").map(\.description) == ["127.0.0.1"])
    }
}
