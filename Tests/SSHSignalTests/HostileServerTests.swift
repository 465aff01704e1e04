import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Servers that never let a login end: each is given up in time, with what it did, and the loop serves others
/// meanwhile.
@Suite(.timeLimit(.minutes(10))) struct HostileServerTests {
    enum Behavior: String, CaseIterable, Sendable {
        case endlessLines, endlessLine, endlessGarbageAfterTheBanner, silence, silenceAfterTheBanner, longestPacket

        var greeting: [UInt8] {
            switch self {
            case .endlessLines, .endlessLine, .silence: []
            case .endlessGarbageAfterTheBanner, .silenceAfterTheBanner: Array("SSH-2.0-hostile\r\n".utf8)
            // A packet of nearly four gigabytes, of which more and more comes.
            case .longestPacket: Array("SSH-2.0-hostile\r\n".utf8) + [0xff, 0xff, 0xff, 0xf0, 4, 20]
            }
        }

        var refrain: [UInt8] {
            switch self {
            case .endlessLines: Array(repeatElement(Array("welcome\r\n".utf8), count: 1000).joined())
            case .endlessLine: [UInt8](repeating: UInt8(ascii: "x"), count: 64 << 10)
            case .endlessGarbageAfterTheBanner, .longestPacket: [UInt8](repeating: 0xa5, count: 64 << 10)
            case .silence, .silenceAfterTheBanner: []
            }
        }
    }

    @Test(arguments: Behavior.allCases)
    func isGivenUp(_ behavior: Behavior) async throws {
        let server = try ScriptedServer(greeting: behavior.greeting, refrain: behavior.refrain)
        let directory = TemporaryDirectory()
        let login = try SSHLogin(
            to: Destination(user: "u", host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: [
                    "ConnectTimeout=3", "UserKnownHostsFile=\(directory.path("known_hosts"))",
                    "StrictHostKeyChecking=yes",
                ]
            ),
            prompts: .init(warn: { _ in })
        )
        let loops = EventLoopGroup(count: 1)
        let loop = loops.next()
        let attempt = Task { () -> SSHError? in
            do throws(SSHError) {
                await (try login.connect(on: loop)).close()
                return nil
            } catch {
                return error
            }
        }
        try await eventually("it has connected") { server.accepted > 0 }
        let answered = Lock(false)
        loop.submit { answered.withLock { $0 = true } }
        try await eventually("the loop goes on") { answered.withLock { $0 } }
        let error = try #require(await attempt.value)
        let expected: Set<SSHError.Code> = [
            .timedOut, .negotiationFailed, .protocolViolation, .connectionLost, .connectionFailed,
        ]
        #expect(expected.contains(error.code), "\(behavior): \(error.code) \(error.message)")
        #expect(error.message.contains("127.0.0.1"), "\(behavior): \(error.message)")
        try await eventually("the connection is let go") { server.open == 0 }
        #expect(!FileManager.default.fileExists(atPath: directory.path("known_hosts")))
        await loops.shutDown()
    }
}

/// Ports on which something else listens.
@Suite(.timeLimit(.minutes(10))) struct StrangerTests {
    /// Said with what it has said, and not tried again as a busy server is.
    @Test(arguments: [
        (Array("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".utf8), "'HTTP/1.1 400 Bad Request'"),
        (Array("\r\n220 mail ESMTP".utf8), "'220 mail ESMTP'"),
        ([0x15, 3, 1, 0, 2, 2, 0x46], "bytes that are no text: 15 03 01 00 02 02 46"),
        (Array("\u{1B}[2Jhello\n".utf8), "bytes that are no text: 1b 5b"),
    ])
    func whoDoesNotSpeakSSHIsAskedOnce(greeting: [UInt8], said: String) async throws {
        let server = try ScriptedServer(greeting: greeting, ends: true)
        let directory = TemporaryDirectory()
        let login = try SSHLogin(
            to: Destination(user: "u", host: "127.0.0.1", port: server.port),
            arguments: SSHArguments(
                configurationFile: "none",
                options: ["UserKnownHostsFile=\(directory.path("known_hosts"))", "ConnectTimeout=600"]
            ),
            prompts: .init(warn: { Issue.record("\($0)") })
        )
        let error = try #require(await sshFailure { try await login.connect(on: testLoops.next()) })
        #expect(error.code == .connectionFailed, "\(error)")
        let place = "127.0.0.1:\(server.port) does not speak SSH (it said: \(said)"
        #expect(error.message.contains(place) && error.message.contains("-p names"), "\(error)")
        #expect(server.accepted == 1)
    }

    /// A version may be on its way, other lines come before it, and what sshd itself says is no other program's.
    @Test(arguments: [
        "", "S", "SSH", "SSH-2.0-OpenSSH_9", "welcome\r\nSSH-2.0-x\r\n", "welcome\r\nSS", "Exceeded MaxStartups\r\n",
        "Not allowed at this time\r\n",
    ])
    func whoMayBeSSHD(opening: String) {
        #expect(ServerOpening.stranger(in: Array(opening.utf8)) == nil)
    }
}
