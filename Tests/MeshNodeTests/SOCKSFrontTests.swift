import Foundation
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

@Suite(.timeLimit(.minutes(10))) struct SOCKSFrontTests {
    private static let socks = "- {name: socks, bind: \"127.0.0.1:0\", protocol: socks5}"
    private static let reply: [UInt8] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0]

    private static func request(_ name: String, _ port: UInt16) -> [UInt8] {
        [5, 1, 0, 3, UInt8(name.utf8.count)] + Array(name.utf8) + [UInt8(port >> 8), UInt8(port & 255)]
    }

    private static let greeting: [UInt8] = [5, 1, 0]

    /// All at once: the stream's bytes are in the same packet as the handshake.
    @Test func everyVersionLeadsThereWithItsFirstBytes() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(
            Self.socks,
            names: ["web.mesh:80": backend.port, "10.1.2.3:80": backend.port, "[fd00::7]:80": backend.port]
        )
        let socks = try nodes.port("socks")
        let v6: [UInt8] = [5, 1, 0, 4, 0xFD] + [UInt8](repeating: 0, count: 14) + [7, 0, 80]
        let old: [UInt8] = [4, 1, 0, 80]
        let handshakes: [([UInt8], [UInt8])] = [
            (Self.greeting + Self.request("Web.Mesh", 80), [5, 0] + Self.reply),
            (Self.greeting + [5, 1, 0, 1, 10, 1, 2, 3, 0, 80], [5, 0] + Self.reply),
            (Self.greeting + v6, [5, 0] + Self.reply),
            (old + [10, 1, 2, 3] + Array("me".utf8) + [0], [0, 0x5A, 0, 0, 0, 0, 0, 0]),
            (old + [0, 0, 0, 1, 0] + Array("web.mesh".utf8) + [0], [0, 0x5A, 0, 0, 0, 0, 0, 0]),
        ]
        for (handshake, answer) in handshakes {
            for early in [[], [1, 2, 3], Pattern.bytes(40_000, seed: 4)] as [[UInt8]] {
                let (received, ending) = try await TCPClient.exchange(port: socks, sending: handshake + early)
                #expect(ending == .endOfStream)
                #expect(received == answer + early, "\(handshake)")
            }
        }
        await nodes.stop()
    }

    @Test func theAnswerSaysWhatBecameOfIt() async throws {
        let closed = FreePort.next()
        let backend = try EchoServer()
        let nodes = try await FrontNodes(
            Self.socks,
            names: ["closed.mesh:80": closed, "denied.mesh:80": backend.port],
            denied: [backend.port]
        )
        let socks = try nodes.port("socks")
        let expected: [(String, UInt8)] = [
            ("closed.mesh", 5), ("denied.mesh", 2), ("unknown.example", 2), ("nobody.mesh", 4), ("127.0.0.1", 2),
        ]
        for (name, code) in expected {
            let (received, ending) = try await TCPClient.exchange(
                port: socks,
                sending: Self.greeting + Self.request(name, 80) + [1, 2, 3],
                staysOpen: true
            )
            #expect(Array(received.prefix(4)) == [5, 0, 5, code], "\(name): \(received)")
            #expect(ending == .endOfStream, "\(name)")
        }
        // BIND and UDP ASSOCIATE.
        for command in [2, 3] as [UInt8] {
            let (received, _) = try await TCPClient.exchange(
                port: socks,
                sending: Self.greeting + [5, command, 0, 1, 10, 1, 2, 3, 0, 80],
                staysOpen: true
            )
            #expect(Array(received.prefix(4)) == [5, 0, 5, 7])
        }
        #expect(backend.accepted == 0)
        await nodes.stop()
    }

    /// A node does not dial itself, by whatever name.
    @Test func aFrontDoesNotLeadToItself() async throws {
        let nodes = try await FrontNodes(
            Self.socks + "\n- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy}",
            names: [:],
            more: "default: direct"
        )
        let socks = try nodes.port("socks")
        for port in [socks, try nodes.port("proxy")] {
            for name in ["127.0.0.1", "localhost", "::ffff:127.0.0.1"] {
                let (received, _) = try await TCPClient.exchange(
                    port: socks,
                    sending: Self.greeting + Self.request(name, port),
                    staysOpen: true
                )
                #expect(Array(received.prefix(4)) == [5, 0, 5, 2], "\(name):\(port)")
            }
        }
        await nodes.stop()
    }

    /// Who is slow holds a place for as long as a handshake may last, and no longer.
    @Test func whoIsTooSlowIsSentAway() async throws {
        let nodes = try await FrontNodes(
            Self.socks + "\n- {name: proxy, bind: \"127.0.0.1:0\", protocol: http-proxy}",
            names: [:]
        )
        let (socks, proxy) = (try nodes.port("socks"), try nodes.port("proxy"))
        async let slow = TCPClient.exchange(port: socks, sending: [5, 1], staysOpen: true)
        async let silent = TCPClient.exchange(port: proxy, sending: [], staysOpen: true)
        async let half = TCPClient.exchange(port: proxy, sending: Array("GET / HTT".utf8), staysOpen: true)
        #expect(try await slow.1 == .broken(ECONNRESET))
        #expect(try await silent.1 == .endOfStream)
        #expect(String(decoding: try await half.received, as: UTF8.self).hasPrefix("HTTP/1.1 408 "))
        await nodes.stop()
    }

    private static func login(_ user: String, _ password: String) -> [UInt8] {
        [5, 1, 2, 1, UInt8(user.utf8.count)] + Array(user.utf8) + [UInt8(password.utf8.count)] + Array(password.utf8)
    }

    @Test func usersComeInWithTheirPasswordsAndNobodyElse() async throws {
        let backend = try EchoServer()
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        let nodes = try await FrontNodes(
            "- {name: socks, bind: \"127.0.0.1:0\", protocol: socks5, users: users}",
            names: ["web.mesh:80": backend.port],
            files: ["users": "# who\nann:\(hash)\n"]
        )
        let socks = try nodes.port("socks")
        func attempt(_ handshake: [UInt8]) async throws -> [UInt8] {
            try await TCPClient.exchange(port: socks, sending: handshake + Self.request("web.mesh", 80) + [9]).received
        }
        // The second time it is known.
        for _ in 0..<2 {
            let received = try await attempt(Self.login("ann", "secret"))
            #expect(received == [5, 2, 1, 0] + Self.reply + [9])
        }
        for (user, password) in [("ann", "Secret"), ("bob", "secret"), ("ann", "secret ")] {
            #expect(try await attempt(Self.login(user, password)) == [5, 2, 1, 1])
        }
        #expect(try await attempt(Self.greeting) == [5, 0xFF])
        #expect(try await attempt([5, 1, 2, 1, 0, 0]) == [5, 2, 1, 1])
        #expect(try await attempt([5, 1, 2, 5, 1, 97, 1, 97]) == [5, 2, 1, 1])
        let old = try await TCPClient.exchange(port: socks, sending: [4, 1, 0, 80, 10, 1, 2, 3, 0]).received
        #expect(old == [0, 0x5B, 0, 0, 0, 0, 0, 0])
        let log = nodes.nearLog.lines.joined(separator: "\n")
        #expect(!log.contains("ecret"), "a password is in the log")

        // A changed file holds from the reload on; a broken one changes nothing.
        let other = try PasswordHash(of: Array("other".utf8), iterations: 10_000)
        _ = try nodes.directory.write("users", "ann:\(other)\n")
        await nodes.near.reloadIfChanged()
        #expect(try await attempt(Self.login("ann", "secret")) == [5, 2, 1, 1])
        #expect(try await attempt(Self.login("ann", "other")) == [5, 2, 1, 0] + Self.reply + [9])
        _ = try nodes.directory.write("users", "ann:nonsense\n")
        await nodes.near.reloadIfChanged()
        #expect(try await attempt(Self.login("ann", "other")) == [5, 2, 1, 0] + Self.reply + [9])
        #expect(nodes.nearLog.lines.contains { $0.contains("users:1:1: user 'ann': the hash must be") })
        await nodes.stop()
    }

    /// A password that is right lets in as many as have it, however many come at once.
    @Test func manyComeInAtOnceWithOnePassword() async throws {
        let backend = try EchoServer()
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 200_000)
        let nodes = try await FrontNodes(
            "- {name: socks, bind: \"127.0.0.1:0\", protocol: socks5, users: users}",
            names: ["web.mesh:80": backend.port],
            files: ["users": "ann:\(hash)\n"]
        )
        let socks = try nodes.port("socks")
        func attempts(_ passwords: [String]) async throws -> [[UInt8]] {
            try await withThrowingTaskGroup(of: [UInt8].self) { group in
                for password in passwords {
                    let handshake = Self.login("ann", password) + Self.request("web.mesh", 80) + [9]
                    group.addTask { try await TCPClient.exchange(port: socks, sending: handshake).received }
                }
                var received: [[UInt8]] = []
                for try await next in group { received.append(next) }
                return received
            }
        }
        let welcome: [UInt8] = [5, 2, 1, 0] + Self.reply + [9]
        let right = try await attempts(Array(repeating: "secret", count: 12))
        #expect(right.count == 12)
        #expect(right.allSatisfy { $0 == welcome }, "\(right)")
        // Nobody has looked at some of them, who are not told that they are wrong.
        let wrong = try await attempts((0..<12).map { "wrong \($0)" })
        #expect(wrong.allSatisfy { $0 == [5, 2, 1, 1] || $0 == [5, 2] }, "\(wrong)")
        let known = try await attempts(["secret"])
        #expect(known == [welcome])
        await nodes.stop()
    }

    /// Who connects and says nothing holds nobody up, and who hangs up leaves nothing.
    @Test func silentAndHalfFinishedClientsHarmNobody() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(Self.socks, names: ["web.mesh:80": backend.port])
        let socks = try nodes.port("socks")
        let handshake = Self.greeting + Self.request("web.mesh", 80)
        var silent: [TCPConversation] = []
        for _ in 0..<200 { silent.append(try await TCPConversation(port: socks)) }
        for count in 0..<handshake.count {
            let (received, _) = try await TCPClient.exchange(port: socks, sending: Array(handshake[..<count]))
            #expect(received.count <= 2)
        }
        let (received, _) = try await TCPClient.exchange(port: socks, sending: handshake + [7])
        #expect(received == [5, 0] + Self.reply + [7])
        silent = []
        try await eventually("no stream is left") { await nodes.near.liveStreams() == 0 }
        await nodes.stop()
    }

    /// A stream that policy takes away ends, whichever front has made it.
    @Test func aReloadCutsAStreamThatLostItsRight() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(Self.socks, names: ["web.mesh:80": backend.port])
        let socks = try nodes.port("socks")
        let handshake = Self.greeting + Self.request("web.mesh", 80)
        async let outcome = TCPClient.exchange(port: socks, sending: handshake, staysOpen: true)
        try await eventually("the stream is open") { await nodes.near.liveStreams() == 1 }
        let text = try String(contentsOfFile: nodes.clientFile, encoding: .utf8)
        _ = try nodes.directory.write(
            "near.yaml",
            text + "\npolicy:\n- {name: no, action: DENY, rules: [{to: [{hosts: [web.mesh]}]}]}\n"
        )
        try await nodes.near.reload()
        let (received, ending) = try await outcome
        #expect(received == [5, 0] + Self.reply)
        #expect(ending == .broken(ECONNRESET))
        await nodes.stop()
    }
}
