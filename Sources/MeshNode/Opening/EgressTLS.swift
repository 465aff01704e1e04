import H2Transport
import MeshIdentity
import MeshPaths
import Streams

/// TLS on the connections that this node dials without HBONE: whoever vouches for the servers, and what this side shows
/// them. The rules are those of the web (RFC 9525), not the mesh's.
final class EgressTLS: Sendable {
    private let context: TLSContext
    /// The file that they come from.
    private let roots: String
    private let showsCertificate: Bool

    init(_ files: DirectTLSFiles, settings: ConnectionSettings) throws(StreamError) {
        roots = files.roots
        showsCertificate = files.shown != nil
        var options = TLSContext.Options(applicationProtocols: [])
        options.handshakeTimeout = settings.handshakeTimeout
        context = try TLSContext(
            server: files.verifier,
            versions: .from12,
            key: files.shown?.key,
            chain: files.shown?.chain ?? [],
            options: options
        )
    }

    /// Speaks TLS over `socket`, with a server whose certificate must be for `name`.
    ///
    /// - Parameter completion: Called once, on the loop.
    /// - Returns: A stream that can be reset before it is done.
    func secure(
        _ socket: Socket,
        as name: String,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) -> ByteStream {
        let stream = TLSStream(over: socket, context: context, verifying: name)
        stream.startHandshake { [self] result in
            completion(result.map { _ in stream }.mapError { explained($0, name) })
        }
        return stream
    }

    /// Whom it was to be and who could have vouched for it belong to what went wrong. It is no matter of this mesh's
    /// identities, and refuses nobody.
    private func explained(_ error: StreamError, _ name: String) -> StreamError {
        var text = "no TLS with \(name), verified by the roots in \(roots)"
        if !showsCertificate { text += " and without a client certificate" }
        return StreamError(error.code == .timedOut ? .timedOut : .unreachable, "\(text): \(error.message)")
    }
}
