import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// Streams that are being opened while the node takes over something else.
@Suite(.timeLimit(.minutes(10))) struct StreamOpenerTests {
    private static func snapshot(to port: UInt16, policy: String = "") throws -> NodeSnapshot {
        let text = """
            identity: /none
            listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.mesh:7"}]
            endpoints: [{match: "echo.mesh:7", direct: true, address: "127.0.0.1:\(port)"}]
            \(policy)
            """
        return try NodeSnapshot(
            configuration: try NodeConfiguration.parse(text, file: "f"),
            identity: NodeIdentity(credential: try CredentialDirectory(TestCertificates.shared.path(.server)).load()),
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

    /// Each stream is told that its peer cannot be had; that is one change, and not a line for each of them.
    @Test func aPeerThatCannotBeHadIsOneChange() async throws {
        let text = """
            identity: /none
            listeners: [{name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.mesh:7"}]
            endpoints:
            - match: "echo.mesh:7"
              hbone: "127.0.0.1:\(FreePort.next())"
              identity: "spiffe://mesh.example/ns/prod/sa/echo"
            """
        let snapshot = try NodeSnapshot(
            configuration: try NodeConfiguration.parse(text, file: "f"),
            identity: NodeIdentity(credential: try CredentialDirectory(TestCertificates.shared.path(.client)).load()),
            warn: { _ in }
        )
        let loop = EventLoop(name: "opener")
        let (log, changes) = (LogRecorder(), Lock<[String]>([]))
        let logger = log.logger
        let destination = try Authority(parsing: "echo.mesh:7")
        let opener = try await loop.execute {
            let opener = StreamOpener(loop: loop, snapshot: snapshot, logger: logger) { change in
                changes.withLock { $0.append("\(change)") }
            }
            return LoopBound(opener, on: loop)
        }
        let start = ContinuousClock.now
        for _ in 0..<15 {
            let isOpened: Bool = await withCheckedContinuation { continuation in
                loop.submit {
                    opener.withValue { opener in
                        let request = StreamRequest(
                            source: .localUser,
                            sourceIP: .loopbackIPv4,
                            transport: nil,
                            destination: destination,
                            now: WallClock.system.seconds
                        )
                        _ = opener.open(opener.plan(request)) { result in
                            if case .success = result {
                                continuation.resume(returning: true)
                            } else {
                                continuation.resume(returning: false)
                            }
                        }
                    }
                }
            }
            #expect(!isOpened)
        }
        #expect(changes.withLock { $0.count } == 1, "\(changes.withLock { $0 })")
        // So many lines in ten seconds: all of them where that took longer.
        let lines = log.lines.count { $0.contains("unreachable on every path") }
        #expect(lines == 10 || lines > 10 && ContinuousClock.now - start > .seconds(10), "\(log.lines)")
        try await loop.execute { opener.withValue { $0.shutDown() } }
        await loop.shutDown()
    }
}
