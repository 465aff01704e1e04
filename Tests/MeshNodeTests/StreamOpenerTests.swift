import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Streams that are being opened while the node takes over something else.
@Suite(.timeLimit(.minutes(3))) struct StreamOpenerTests {
    private static func snapshot(to port: UInt16, policy: String = "") throws -> NodeSnapshot {
        let text = """
            identity: /none
            listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.mesh:7"}]
            endpoints: [{match: "echo.mesh:7", direct: true, address: "127.0.0.1:\(port)"}]
            \(policy)
            """
        return try NodeSnapshot(
            configuration: try NodeConfiguration.parse(text, file: "f"),
            credential: try CredentialDirectory(TestCertificates.shared.path(.server)).load(),
            warn: { _ in }
        )
    }

    /// A reload asks again about streams that are open. One that it has overtaken is none of those, and was planned by
    /// what held before.
    @Test func whatAReloadOvertakesIsDecidedOnceMore() async throws {
        let echo = try EchoServer()
        let loop = EventLoop(name: "opener")
        let log = LogRecorder()
        let first = try Self.snapshot(to: echo.port)
        let denying = try Self.snapshot(
            to: echo.port,
            policy: "policy: [{name: no, action: DENY, rules: [{to: [{ports: [7]}]}]}]"
        )
        let destination = try Authority(parsing: "echo.mesh:7")
        for (next, isOpened) in [(first, true), (try Self.snapshot(to: echo.port), true), (denying, false)] {
            let logger = log.logger
            let refusal: StreamError? = await withCheckedContinuation { continuation in
                loop.submit {
                    let opener = StreamOpener(loop: loop, snapshot: first, logger: logger)
                    let request = StreamRequest(
                        source: .localUser,
                        sourceIP: .loopbackIPv4,
                        transport: nil,
                        destination: destination,
                        now: WallClock.system.seconds
                    )
                    _ = opener.open(opener.plan(request)) { result in
                        switch result {
                        case .success(let opened):
                            opened.stream.reset(StreamError(.closed, "the test is over"))
                            continuation.resume(returning: nil)
                        case .failure(let error): continuation.resume(returning: error)
                        }
                    }
                    // The connection comes up in a later turn.
                    opener.snapshot = next
                }
            }
            #expect((refusal == nil) == isOpened, "\(String(describing: refusal))")
            if let refusal {
                #expect(refusal.code == .denied && refusal.message == "policy changed while the stream was opened")
            }
        }
        let line = log.lines.first { $0.contains("policy changed while a stream was opened") }
        #expect(line?.contains("denied by") == true, "\(log.lines)")
        await loop.shutDown()
    }
}
