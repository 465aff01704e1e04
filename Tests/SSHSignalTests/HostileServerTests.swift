import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// Servers that never let a login end: each is given up in time, with what it did, and the loop serves others
/// meanwhile.
@Suite(.timeLimit(.minutes(5))) struct HostileServerTests {
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
