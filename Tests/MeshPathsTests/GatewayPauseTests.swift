import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// What a change of the network means for a gateway that could not be dialled.
@Suite(.timeLimit(.minutes(5))) struct GatewayPauseTests {
    /// Counts attempts that have come to nothing.
    private struct Failures: LogHandler {
        let count: Lock<Int>
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.warning

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            guard "\(event.message)".contains("no connection to the gateway") else { return }
            count.withLock { $0 += 1 }
        }
    }

    /// The pause is an hour at least: only the change can be why there is another attempt.
    @Test func aChangeEndsThePause() async throws {
        // It answers, and not as a gateway does.
        let server = try EchoServer()
        let failures = Lock(0)
        let loop = EventLoop(name: "test")
        let dialer = try await loop.execute {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            let dialer = GatewayDialer(
                to: try Authority(parsing: server.authority),
                expecting: .anyTrusted,
                context: context,
                settings: .defaults,
                pause: RedialPause(first: .seconds(7200)),
                on: loop,
                logger: Logger(label: "test") { _ in Failures(count: failures) }
            ) { _, _ in nil }
            dialer.start()
            return LoopBound(dialer, on: loop)
        }
        for attempts in 1...3 {
            try await eventually("attempt \(attempts)") { failures.withLock { $0 } == attempts }
            try await loop.execute { dialer.withValue { $0.networkChanged(NetworkChange()) } }
        }
        try await loop.execute { dialer.withValue { $0.stop() } }
        await loop.shutDown()
    }
}
