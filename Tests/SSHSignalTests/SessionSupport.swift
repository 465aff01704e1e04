import Foundation
import SSHSignal
import Streams
import TestPeers
import Testing

/// Accepts every key and remembers which it saw; for tests that are not about host keys.
final class AnyHostKey: HostKeyVerifier {
    let preferredAlgorithms: [String]
    init(_ preferredAlgorithms: [String] = []) { self.preferredAlgorithms = preferredAlgorithms }
    func check(_ key: HostKey) async throws {}
}

/// One event loop for all tests of the suites: they mostly wait for servers.
let testLoops = EventLoopGroup(count: 2)

extension OpenSSHServer {
    var configuration: SSHSessionConfiguration {
        SSHSessionConfiguration(user: Self.user, credentials: [.keyFile(path: userKey)])
    }

    func connect(
        _ configuration: SSHSessionConfiguration? = nil,
        verifier: any HostKeyVerifier = AnyHostKey(),
        on loop: EventLoop = testLoops.next()
    ) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: port,
            configuration: configuration ?? self.configuration,
            hostKeyVerifier: verifier,
            on: loop
        )
    }
}

extension DropbearServer {
    func connect(on loop: EventLoop = testLoops.next()) async throws -> SSHClient {
        try await SSHClient.connect(
            host: "127.0.0.1",
            port: port,
            configuration: SSHSessionConfiguration(user: Self.user, credentials: [.keyFile(path: userKey)]),
            hostKeyVerifier: AnyHostKey(),
            on: loop
        )
    }
}

/// The error that `body` throws.
func failure<Success>(_ body: () async throws -> Success) async -> SSHError? {
    do {
        _ = try await body()
        return nil
    } catch {
        return error as? SSHError ?? (error as? StreamError).map { SSHError(.system, "StreamError \($0.code): \($0)") }
    }
}
