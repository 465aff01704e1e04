package import H2Transport
package import MeshIdentity
package import Streams

/// Tries one address of a peer's HBONE server the way a path would: TCP, mutual TLS, a PING that is answered. A port
/// that merely takes connections proves nothing.
package enum TunnelProbe {
    package struct Answer: Sendable {
        /// Whom its certificate names.
        package var peer: SPIFFEID?
        /// Until the connection could have carried a stream.
        package var duration: Duration
        /// When the first certificate of its chain ends, in seconds since 1970.
        package var certificatesExpireAt: Int64?
        /// Which certificate it has shown.
        package var certificate: CertificateName?
    }

    /// - Parameters:
    ///   - address: Where the server listens.
    ///   - context: Our credential, and whom we trust.
    ///   - expectation: Who the peer must be.
    ///   - timeout: For the TCP connection.
    ///   - loop: Where the attempt is made.
    /// - Throws: ``Streams/StreamError``: `refused` (nobody listens), `timedOut` (a firewall drops it),
    ///   `authentication` and so on.
    package static func run(
        _ address: SocketAddress,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        timeout: Duration = .seconds(5),
        on loop: EventLoop
    ) async throws(StreamError) -> Answer {
        try await run(context: context, expecting: expectation, on: loop) { completion in
            Dialer.connect(to: .address(address), on: loop, options: Dialer.Options(timeout: timeout)) {
                completion($0.map { $0 })
            }
        }
    }

    /// The same over a stream that stands, such as an SSH channel; it is used up.
    ///
    /// - Parameters:
    ///   - stream: Leads to the peer's HBONE server.
    ///   - context: Our credential, and whom we trust.
    ///   - expectation: Who the peer must be.
    package static func run(
        over stream: LoopBound<ByteStream>,
        context: TLSContext,
        expecting expectation: PeerExpectation
    ) async throws(StreamError) -> Answer {
        try await run(context: context, expecting: expectation, on: stream.loop) { completion in
            stream.withValue { completion(.success($0)) }
        }
    }

    private static func run(
        context: TLSContext,
        expecting expectation: PeerExpectation,
        on loop: EventLoop,
        dial: @escaping @Sendable (@escaping (Result<ByteStream, StreamError>) -> Void) -> Void
    ) async throws(StreamError) -> Answer {
        let start = ContinuousClock.now
        let result: Result<Answer, StreamError> = await withCheckedContinuation { continuation in
            loop.submit {
                let endpoint = H2Endpoint.over("probe", context: context, expecting: expectation) { dial($1) }
                let attempt = ConnectionDial(
                    to: endpoint,
                    configuration: .defaults,
                    firstAnswer: ConnectionGroupDriver.Settings.firstAnswerOfPath,
                    on: loop
                )
                attempt.start { result in
                    continuation.resume(
                        returning: result.map { connection in
                            let answer = Answer(
                                peer: connection.peer,
                                duration: .now - start,
                                certificatesExpireAt: connection.certificatesExpireAt,
                                certificate: connection.peerCertificate
                            )
                            connection.close()
                            return answer
                        }
                    )
                }
            }
        }
        return try result.get()
    }
}
