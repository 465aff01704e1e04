import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers

@testable import MeshNode

/// A client of a node's HBONE server that says what a test wants it to say. Confined to its loop.
final class AskingPeer {
    private var stream: TLSStream?
    private(set) var connection: H2Connection?
    /// What it was given, which goes on for as long as this is there.
    private(set) var streams: [H2Stream] = []

    typealias Bound = LoopBound<AskingPeer>

    /// What the node has answered.
    struct Answer: Sendable {
        let response: ConnectResponse?
        /// nil: a stream was opened.
        let failure: ConnectFailure?
    }

    private init() {}

    /// - Parameters:
    ///   - port: Where the node listens.
    ///   - loop: Where it lives.
    ///   - kind: Whose credential is shown.
    static func connect(
        to port: UInt16,
        on loop: EventLoop,
        as kind: TestCertificates.Kind = .client
    ) async throws -> Bound {
        let certificates = TestCertificates.shared
        let context = try TLSContext(
            role: .client,
            credential: certificates.credential(kind),
            trust: TrustBundleSet(certificates.bundle())
        )
        let address = try SocketAddress(ip: "127.0.0.1", port: port)
        return try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                let peer = AskingPeer()
                Dialer.connect(to: .address(address), on: loop) { result in
                    switch result {
                    case .failure(let error): continuation.resume(throwing: error)
                    case .success(let socket):
                        let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted)
                        peer.stream = stream
                        stream.startHandshake { result in
                            continuation.resume(
                                with: Result {
                                    _ = try result.get()
                                    peer.connection = try H2Connection(over: stream, role: .client)
                                    return LoopBound(peer, on: loop)
                                }
                            )
                        }
                    }
                }
            }
        }
    }
}

extension LoopBound where Value == AskingPeer {
    /// Asks for a stream.
    func ask(_ authority: String, _ headers: HeaderFields = [:]) async throws -> AskingPeer.Answer {
        try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                withValue { peer in
                    guard let connection = peer.connection else {
                        return continuation.resume(throwing: StreamError(.closed, "there is no connection"))
                    }
                    connection.openStream(ConnectRequest(authority: authority, headers: headers)) { result in
                        switch result {
                        case .success(let stream):
                            peer.took(stream)
                            continuation.resume(returning: AskingPeer.Answer(response: stream.response, failure: nil))
                        case .failure(let failure):
                            continuation.resume(
                                returning: AskingPeer.Answer(response: failure.response, failure: failure)
                            )
                        }
                    }
                }
            }
        }
    }

    /// Has the node listen, as one who can come back for it.
    func askToListen(_ port: UInt16, on interface: String = "localhost") async throws -> AskingPeer.Answer {
        try await ask("listen.bootstrap:\(port)", ["x-listen": interface, "resumable": "1"])
    }

    /// Is gone without a word.
    func die() async throws {
        try await loop.execute { withValue { $0.connection?.abort(StreamError(.reset, "it dies")) } }
    }
}

extension AskingPeer {
    fileprivate func took(_ stream: H2Stream) { streams.append(stream) }
}
