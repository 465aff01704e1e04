import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// A machine that has slept past the end of its own certificate.
@Suite(.timeLimit(.minutes(10))) struct ExpiredCredentialTests {
    private static func context(_ kind: TestCertificates.Kind) throws -> TLSContext {
        let certificates = TestCertificates.shared
        return try TLSContext(
            role: .client,
            credential: certificates.credential(kind),
            trust: TrustBundleSet(certificates.bundle())
        )
    }

    /// Nothing is dialled with it while the next one is being made: a peer that refuses it is refused on every path.
    @Test func waitsForTheNextCertificate() async throws {
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: .directory(TestCertificates.shared.path(.server)),
            logger: Logger(label: "listener")
        )
        let serving = Task { await listener.serve { _ in } }
        let port = listener.localAddress.port
        let loop = EventLoop(name: "laptop")
        let changes = AsyncStream<String>.makeStream()
        let paths = try await loop.execute {
            let hbone = [try Authority(parsing: "127.0.0.1:\(port)")]
            let access = PeerAccess(
                name: "server",
                transports: [.h2],
                hbone: hbone,
                expectation: .anyTrusted,
                login: nil
            )
            let paths = PeerPaths(
                to: access,
                context: try Self.context(.expired),
                on: loop,
                logger: Logger(label: "paths")
            ) { changes.continuation.yield("\($0)") }
            paths.start()
            return LoopBound(paths, on: loop)
        }
        // Not before the dial is held: this is its next turn.
        try await loop.execute { paths.withValue { $0.start() } }
        let next = try Self.context(.client)
        try await loop.execute { paths.withValue { $0.use(next) } }
        var iterator = changes.stream.makeAsyncIterator()
        #expect(await iterator.next() == "path h2: first path that answered")
        try await loop.execute { paths.withValue { $0.shutDown() } }
        await loop.shutDown()
        await listener.close()
        await serving.value
    }
}
