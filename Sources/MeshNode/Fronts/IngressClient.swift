import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// What the fronts have in common that take what the world sends.
enum IngressClient {
    /// What somebody asks for who came in by an ingress. He proves who he is with a certificate of the mesh, or is
    /// anybody: also on loopback, where whoever terminates connections for the world may sit in front.
    ///
    /// - Parameters:
    ///   - client: What its connection says: a socket, or TLS over one.
    ///   - head: Of the request, with its target as the server gets it; nil where nobody reads requests.
    ///   - principal: Whose token the request has, on a listener that asks for one.
    static func request(
        of client: PeerFacts,
        to destination: Authority,
        head: (method: String, target: String)? = nil,
        principal: String? = nil
    ) -> StreamRequest {
        StreamRequest(
            source: client.identity.map { .peer($0) } ?? .unauthenticated,
            sourceIP: client.address?.address ?? .loopbackIPv4,
            transport: nil,
            destination: destination,
            details: head.map {
                RequestDetails(method: $0.method, target: $0.target, principal: principal)
            },
            now: WallClock.system.seconds
        )
    }

    /// Why a client whose connection goes on must not ask for more: what it has shown does not hold any longer.
    static func refusal(of client: PeerFacts, _ carrier: StreamCarrier) -> StreamError? {
        guard let identity = client.identity, let certificate = client.certificate else { return nil }
        if let objection = carrier.snapshot.server.trust.objection(to: certificate, of: identity) {
            return StreamError(.authentication, objection)
        }
        guard let end = client.peerExpiresAt, end < WallClock.system.seconds else { return nil }
        return StreamError(.authentication, "the certificate of \(identity) has expired")
    }

    /// Ends TLS on an accepted connection. Nobody waits for the handshake of a client that has gone or is too slow.
    ///
    /// - Parameter completion: Called when the client is known; never where it is not.
    static func handshake(
        _ socket: Socket,
        by listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier,
        completion: @escaping (TLSStream) -> Void
    ) {
        // Its name has come to mean something else.
        guard let context = carrier.snapshot.ingress[listener.name]?.server else {
            return socket.reset(.closed(socket))
        }
        let source = socket.peerAddress?.address ?? .loopbackIPv4
        let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted)
        let newcomers = carrier.newcomers
        let key = carrier.admit(from: source) { [weak stream] in stream?.reset(.crowdedOut) }
        stream.startHandshake { result in
            newcomers.remove(key)
            let failure: StreamError
            switch result {
            case .success:
                // Revoked or expired while the handshake ran, which had the trust of its beginning.
                guard let refusal = Self.refusal(of: PeerFacts(of: stream), carrier) else { return completion(stream) }
                stream.reset(refusal)
                failure = refusal
            case .failure(let error): failure = error
            }
            carrier.records.handshakeFailed(failure.code, at: carrier.front)
            // Whoever goes again without a word, as a probe of the port does, is no matter of TLS.
            let isTold = failure.code == .authentication || failure.code == .protocolViolation
            carrier.peerLog.log(
                isTold ? .warning : .info,
                "no TLS handshake",
                of: "\(source)",
                ["listener": "\(listener.name)", "reason": "\(failure)"]
            )
        }
    }
}
