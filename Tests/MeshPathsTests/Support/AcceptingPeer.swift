import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers

/// An HBONE server that takes every request. Confined to its loop.
final class AcceptingPeer {
    private(set) var listener: Listener?
    private var server: HBONEServer?
    private(set) var streams: [ByteStream] = []
    private var received = 0

    /// - Parameter root: Who vouches for its clients.
    init(
        _ kind: TestCertificates.Kind = .server,
        trusting root: String = "root",
        on loop: EventLoop,
        address: String = "127.0.0.1"
    ) throws {
        let certificates = TestCertificates.shared
        let trust = try TrustBundle(trustDomain: TrustDomain("mesh.example"), roots: [certificates.ca(root)])
        let context = try TLSContext(
            role: .server,
            credential: certificates.credential(kind),
            trust: TrustBundleSet(trust)
        )
        let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        server = try HBONEServer(on: loop, context: context, logger: quiet) { [weak self] request in
            if let stream = request.accept() { self?.streams.append(stream) }
        }
        let bound = LoopBound(Weak(self), on: loop)
        listener = try Listener(bind: SocketAddress(ip: address, port: 0), on: loop) { socket in
            bound.withValue { weak in weak.peer?.accept(socket) }
        }
    }

    private func accept(_ socket: Socket) { server?.accept(socket) }

    /// Takes no more streams on the connections that there are.
    func drain() { server?.forEachConnection { $0.drain(deadline: nil) } }

    /// Bytes of all streams so far.
    func readAll() -> Int {
        withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 1) { buffer in
            for stream in streams {
                while case .bytes(let count) = stream.read(into: buffer) { received += count }
            }
        }
        return received
    }

    func close() {
        listener?.close()
        server?.abort()
    }

    private final class Weak {
        weak var peer: AcceptingPeer?
        init(_ peer: AcceptingPeer) { self.peer = peer }
    }
}
