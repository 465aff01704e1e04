import Foundation

/// The stand-in for istiod's CA: a real gRPC server (grpcio) with real messages (protobuf).
/// `Tests/Peers/istiod/istiod.py` says what is made up, and which modes there are.
public final class IstiodServer: Sendable {
    /// Has `server-root.pem`, `other-root.pem` and `root.pem`, and `token`, which the server accepts for
    /// `spiffe://test.example/ns/default/sa/dev7`.
    public let directory = TemporaryDirectory()
    public let port: UInt16
    private let process: ChildProcess

    /// The name in the server's certificate; `localhost` is another.
    public static let name = "istiod.istio-system.svc"

    public init(_ mode: String = "ok") async throws {
        process = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/istiod/istiod.py", directory.path, mode],
            keepsInputOpen: true
        )
        let ready = try await process.standardOutput.line(containing: "ready ")
        guard let port = UInt16(ready.split(separator: " ").last ?? "") else {
            throw DeadlineExceeded("istiod.py says '\(ready)'")
        }
        self.port = port
        try directory.write("token", "good-token\n", permissions: 0o600)
    }

    /// What the server was asked.
    public struct Call: Decodable, Sendable {
        public var authorization: String
        public var seconds: Int64
        /// Seconds that the client waits.
        public var left: Double
        /// Bytes of fields that it did not expect.
        public var unknown: Int
    }

    public func calls() throws -> [Call] {
        guard let text = try? directory.read("calls") else { return [] }
        return try text.split(separator: "\n").map { try JSONDecoder().decode(Call.self, from: Data($0.utf8)) }
    }

    public func stop() async { await process.stop() }
}
