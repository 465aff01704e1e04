import Foundation

/// The stand-in for a SPIFFE agent: a real gRPC server (grpcio) on a Unix socket. `Tests/Peers/workload/agent.py` says
/// what is made up, and what it can be told to send.
public final class WorkloadAPIServer: Sendable {
    /// Has the roots, and the credentials of peers.
    public let directory: TemporaryDirectory
    public var socket: String { directory.path("agent.sock") }
    private let process: ChildProcess

    /// - Parameter directory: Of one that has ended: this one has its roots.
    public init(in directory: TemporaryDirectory = TemporaryDirectory()) async throws {
        self.directory = directory
        process = try ChildProcess(
            TestTools.python,
            [
                TestTools.repository + "/Tests/Peers/workload/agent.py", directory.path("agent.sock"), directory.path,
            ],
            keepsInputOpen: true
        )
        _ = try await process.standardOutput.line(containing: "ready")
    }

    /// - Parameter order: JSON on one line.
    public func send(_ order: String) throws { try process.write(order + "\n") }

    /// `stream` for each who asks, and `sent N` for each order.
    public var output: OutputLog { process.standardOutput }

    public func stop() async { await process.stop() }
}
