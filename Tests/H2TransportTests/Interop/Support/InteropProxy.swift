import Foundation
import Streams
import TestPeers
import Testing

/// Somebody else's proxy between our client and our server.
struct InteropProxy {
    /// As messages call it.
    let name: String
    let program: String
    /// In Tests/Peers: `@NAME@` in it stands for a value.
    let configuration: String
    /// What the program is told, with the configuration's file.
    let arguments: @Sendable (_ file: String) -> [String]

    /// Our server, the proxy in front of it, and our client.
    ///
    /// - Parameters:
    ///   - port: Where the client finds the proxy.
    ///   - values: Of the configuration; SERVER is our server's port.
    ///   - directory: For the configuration.
    func run(
        port: UInt16,
        values: [String: String],
        in directory: TemporaryDirectory = TemporaryDirectory(),
        _ body: (OnLoop<PoolUser>, OnLoop<RelayingServer>) async throws -> Void
    ) async throws {
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            var values = values
            values["SERVER"] = String(try await server { $0.port })
            var text = try String(
                contentsOfFile: "\(TestTools.repository)/Tests/Peers/\(configuration)",
                encoding: .utf8
            )
            for (name, value) in values { text = text.replacingOccurrences(of: "@\(name)@", with: value) }
            let file = try directory.write("proxy.conf", text)
            let proxy = try ChildProcess(program, arguments(file))
            try await eventually("\(name) listens") {
                guard proxy.isRunning else { throw DeadlineExceeded(proxy.standardError.text) }
                let address = try SocketAddress(ip: "127.0.0.1", port: port)
                return (try? await Dialer.connect(to: .address(address), on: loop) { $0.close() }) != nil
            }
            let user = try await OnLoop(loop) { try PoolUser(on: loop, port: port) }
            try await body(user, server)
            try await user { $0.close() }
            await proxy.stop()
            try await server { $0.close() }
        }
    }

    /// A tunnel to `authority`.
    ///
    /// - Returns: Its place among the client's streams.
    static func open(_ user: OnLoop<PoolUser>, _ authority: String) async throws -> Int {
        let count = try await user {
            $0.open(authority, keepsBytes: true)
            return $0.streams.count
        }
        try await user.until("the tunnel opens") { $0.streams.count > count || !$0.failures.isEmpty }
        let failures = try await user { $0.failures }
        try #require(failures == [])
        return count
    }
}
