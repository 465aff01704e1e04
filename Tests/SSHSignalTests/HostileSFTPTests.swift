import Foundation
import Streams
import TestPeers
import Testing

@testable import SSHSignal

/// SFTP servers that would have this side wait, or keep what they say, for ever.
@Suite(.serialized, .timeLimit(.minutes(10))) struct HostileSFTPTests {
    private static func server(_ mode: String) async throws -> OpenSSHServer {
        let script = TestTools.repository + "/Tests/Peers/sftp/hostile.py"
        return try await OpenSSHServer(
            configuration: ["Subsystem sftp \(TestTools.python) \(script) \(mode)"],
            sftp: false
        )
    }

    @Test("a directory without end is given up") func endless() async throws {
        let server = try await Self.server("endless")
        let client = try await server.connect()
        let files = try #require(try await SFTPFiles.open(client))
        let error = await sshFailure { try await files.children(of: "somewhere") }
        #expect(error?.code == .transferFailed)
        #expect(
            error?.message.contains("somewhere: the server lists more than 64 MiB of names") == true,
            "\(error?.message ?? "")"
        )
        // The session is of use all the same.
        try await files.makeDirectory("other", permissions: 0o700)
        await client.close()
    }

    @Test("no more names are the end of a directory") func empty() async throws {
        let server = try await Self.server("empty")
        let client = try await server.connect()
        let files = try #require(try await SFTPFiles.open(client))
        #expect(try await files.children(of: "somewhere") == [])
        await client.close()
    }

    @Test("a server that answers nothing is not waited for", arguments: ["mute", "stalled"])
    func silent(mode: String) async throws {
        let server = try await Self.server(mode)
        let client = try await server.connect()
        let loop = client.loop
        let error = await sshFailure {
            let session = try await client.perform {
                (connection, completion: @escaping (Result<LoopBound<SFTPSession>?, SSHError>) -> Void) in
                SFTPSession.open(on: connection, patience: .milliseconds(200)) {
                    completion($0.map { $0.map { LoopBound($0, on: loop) } })
                }
            }
            let bound = try #require(session)
            _ = try await client.perform {
                (_, completion: @escaping (Result<SFTPPacket.Answer, SSHError>) -> Void) in
                bound.withValue { session in
                    session.run(
                        SFTPQuestion({ SFTPPacket.openDirectory(id: $0, path: "d") }, completion: completion)
                    )
                }
            }
        }
        #expect(error?.code == .timedOut, "\(error?.message ?? "")")
        await client.close()
    }

    @Test("a pipe keeps no more than so much of what comes early") func gap() async throws {
        let directory = TemporaryDirectory()
        let pipe = directory.path("pipe")
        #expect(mkfifo(pipe, 0o600) == 0)
        let reader = open(pipe, O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        let file = try DownloadFile(target: pipe, permissions: 0o600)
        let piece = [UInt8](repeating: 7, count: 1 << 20)
        var kept = 0
        let error = await sshFailure {
            for number in 1...100 {
                try file.write(piece, at: UInt64(number) << 20)
                kept = number
            }
        }
        #expect(kept == 64)
        #expect(
            error?.message.contains("the server sends what is behind byte 0, and not that") == true,
            "\(error?.message ?? "")"
        )
    }
}
