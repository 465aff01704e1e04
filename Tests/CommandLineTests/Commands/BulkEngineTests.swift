import Foundation
import TestPeers
import Testing

/// `connect --path ssh` and large transfers: by the `ssh` program where there is one, and intact in any case.
@Suite(.timeLimit(.minutes(10))) struct BulkEngineTests {
    private func exchange(_ port: UInt16) async throws {
        let sent = Pattern.bytes(6_000_000, seed: 4)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
    }

    private func connect(
        _ journey: Journey,
        to backend: EchoServer,
        path: String? = nil
    ) async throws -> (ChildProcess, UInt16) {
        let port = FreePort.next()
        let environment: [String: String?] = [
            "HOME": journey.home, "BOOTSTRAP_HOME": journey.directory.path("home/.bootstrap"), "SSH_AUTH_SOCK": nil,
        ]
        let process = try ChildProcess(
            TestTools.bootstrap,
            ["connect", journey.destination, "--path", "ssh", "-L", "\(port):localhost:\(backend.port)"]
                + journey.sshOptions,
            environment: path.map { path in environment.merging(["PATH": path]) { $1 } } ?? environment
        )
        _ = try await process.standardOutput.line(containing: "path ssh: ")
        return (process, port)
    }

    private func logins(_ journey: Journey) -> Int {
        journey.sshd.log.split(whereSeparator: \.isNewline).filter { $0.contains("Accepted publickey") }.count
    }

    @Test func theProgramIsTakenByItself() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        let (process, port) = try await connect(journey, to: backend)
        // Until a busy machine has shown a round trip as short as loopback's.
        try await eventually("the ssh program has logged in") {
            try await exchange(port)
            return logins(journey) == 2
        }
        for _ in 0..<2 { try await exchange(port) }
        #expect(logins(journey) == 2)
        // Nobody is told, and nothing stays behind.
        process.signal(SIGTERM)
        _ = try await process.exit()
        #expect(!process.standardError.text.contains("by way of"), "\(process.standardError.text)")
        try await eventually("the ssh program has ended") { journey.sshd.sessionProcesses.isEmpty }
        await journey.stop()
    }

    @Test func withoutTheProgramThereIsOneLogin() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try journey.directory.makeDirectory("bin")
        let (process, port) = try await connect(journey, to: backend, path: journey.directory.path("bin"))
        for _ in 0..<3 { try await exchange(port) }
        try await journey.sshd.logged("Accepted publickey")
        #expect(logins(journey) == 1)
        process.signal(SIGTERM)
        _ = try await process.exit()
        await journey.stop()
    }
}
