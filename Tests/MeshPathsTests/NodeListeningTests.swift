import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshPaths

/// A peer that does not know of listening for others.
@Suite(.timeLimit(.minutes(3))) struct NodeListeningTests {
    /// Confined to its loop.
    private final class Client {
        let paths: PeerPaths
        private(set) var refusals: [StreamError] = []

        init(port: UInt16, on loop: EventLoop) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            let access = PeerAccess(
                name: "camera",
                transports: [.h2],
                hbone: [try Authority(parsing: "127.0.0.1:\(port)")],
                expectation: .anyTrusted,
                login: nil
            )
            paths = PeerPaths(
                to: access,
                context: context,
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
                onChange: { _ in }
            )
            let destination = ForwardDestination.authority(try Authority(parsing: "127.0.0.1:1"))
            paths.forward(RemoteForward(bindHost: "localhost", port: 9000, destination: destination)) {
                [weak self] change in
                if case .refused(let error) = change { self?.refusals.append(error) }
            }
        }
    }

    @Test("it takes the request for a stream to a host of that name: it is left, and what to do is said")
    func older() async throws {
        let loop = EventLoop(name: "test")
        let peer = try await loop.execute { LoopBound(try AcceptingPeer(on: loop), on: loop) }
        let port = try await loop.execute { peer.withValue { $0.listener?.localAddress.port ?? 0 } }
        let client = try await loop.execute { LoopBound(try Client(port: port, on: loop), on: loop) }
        try await eventually("it is refused") {
            try await loop.execute { client.withValue { !$0.refusals.isEmpty } }
        }
        let message = try await loop.execute { client.withValue { $0.refusals[0].message } }
        #expect(message.contains("`bootstrap enroll camera`"), "\(message)")
        #expect(message.contains("camera has no SSH login"), "\(message)")
        try await eventually("the stream is reset") {
            try await loop.execute {
                peer.withValue { $0.streams.allSatisfy { $0.failure != nil } && !$0.streams.isEmpty }
            }
        }
        try await loop.execute {
            client.withValue { $0.paths.shutDown() }
            peer.withValue { $0.close() }
        }
        await loop.shutDown()
    }
}
