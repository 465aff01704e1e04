public import MeshIdentity
public import Streams

/// How an ``H2ClientPool`` gets a connection to a peer, and what two streams must have in common to share one.
public struct H2Endpoint {
    /// Equal keys share connections. It holds whatever decides trust: who we are, whom we expect, and where.
    package struct Key: Hashable, CustomStringConvertible {
        /// Our side: the object that holds our credential. A renewed one makes new connections.
        let credential: ObjectIdentifier
        package let expectation: PeerExpectation
        /// An address, or a name for the way there.
        package let location: String

        package var description: String { "\(expectation) at \(location)" }
    }

    /// Called once, on the event loop of the dial, with what was connected or why not.
    public typealias Completion<Success> = (Result<Success, StreamError>) -> Void

    package let key: Key
    /// Makes a stream that HTTP/2 can start on; it says itself who is at the other end, see ``PeerFacts``.
    let connect: (EventLoop, @escaping Completion<ByteStream>) -> Void

    /// Mutual TLS over TCP.
    ///
    /// - Parameter address: Where the server listens.
    /// - Parameter context: Our credential and whom we trust; a client context.
    /// - Parameter expectation: Whose certificate the server must show.
    /// - Parameter timeout: For the TCP connection; the handshake has its own.
    /// - Parameter unsentLimit: Bytes the kernel may hold unsent; see ``Streams/SocketOptions/unsentLimit``.
    public static func tcp(
        _ address: SocketAddress,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        timeout: Duration = .seconds(10),
        unsentLimit: Int = 128 << 10
    ) -> H2Endpoint {
        over(address.description, context: context, expecting: expectation) { loop, completion in
            let options = Dialer.Options(timeout: timeout, socket: SocketOptions(unsentLimit: unsentLimit))
            Dialer.connect(to: .address(address), on: loop, options: options) { completion($0.map { $0 }) }
        }
    }

    /// Mutual TLS over any stream: an SSH channel, a tunnel through a gateway.
    ///
    /// - Parameters:
    ///   - location: Tells one way from another, and names it in errors.
    ///   - context: Our credential and whom we trust; a client context.
    ///   - expectation: Whose certificate the server must show.
    ///   - dial: Makes a connected stream on the loop and calls back there once.
    public static func over(
        _ location: String,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        dial: @escaping (EventLoop, @escaping Completion<ByteStream>) -> Void
    ) -> H2Endpoint {
        over(location, context: context, expecting: expectation, current: { context }, dial: dial)
    }

    /// As ``over(_:context:expecting:dial:)``, with a credential that may have been renewed by the time of the
    /// handshake.
    ///
    /// - Parameters:
    ///   - current: Asked on the loop when a stream is connected.
    ///   - dialAgain: Makes a stream whose packets are small, beside the first where its handshake stalls; see
    ///     `HandshakeRace`. nil: there is none.
    ///   - overtaken: Told when the second one was faster.
    package static func over(
        _ location: String,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        current: @escaping () -> TLSContext,
        dial: @escaping (EventLoop, @escaping Completion<ByteStream>) -> Void,
        again dialAgain: ((EventLoop, @escaping Completion<ByteStream>) -> Void)? = nil,
        overtaken: @escaping () -> Void = {}
    ) -> H2Endpoint {
        let key = Key(credential: ObjectIdentifier(context), expectation: expectation, location: location)
        return over(key, dial, again: dialAgain, overtaken: overtaken) {
            TLSStream(over: $0, context: current(), expecting: expectation)
        }
    }

    private static func over(
        _ key: Key,
        _ dial: @escaping (EventLoop, @escaping Completion<ByteStream>) -> Void,
        again dialAgain: ((EventLoop, @escaping Completion<ByteStream>) -> Void)?,
        overtaken: @escaping () -> Void,
        secure: @escaping (ByteStream) -> TLSStream
    ) -> H2Endpoint {
        H2Endpoint(key: key) { loop, completion in
            if let dialAgain {
                return HandshakeRace(
                    { dial(loop, $0) },
                    again: { dialAgain(loop, $0) },
                    secure: secure,
                    overtaken: overtaken,
                    on: loop,
                    completion: completion
                ).start()
            }
            dial(loop) { result in
                switch result {
                case .failure(let error): completion(.failure(error))
                case .success(let lower):
                    let stream = secure(lower)
                    stream.startHandshake { result in
                        completion(result.map { _ in stream })
                    }
                }
            }
        }
    }

    /// A proxy that is no member of a mesh: it is verified by its name, as web clients do, and has to choose HTTP/2.
    ///
    /// - Parameters:
    ///   - name: Whose certificate it must show.
    ///   - context: Who may vouch for it.
    ///   - current: Asked on the loop when a stream is connected.
    package static func proxy(
        _ name: String,
        context: TLSContext,
        current: @escaping () -> TLSContext,
        dial: @escaping (EventLoop, @escaping Completion<ByteStream>) -> Void,
        again dialAgain: ((EventLoop, @escaping Completion<ByteStream>) -> Void)? = nil,
        overtaken: @escaping () -> Void = {}
    ) -> H2Endpoint {
        let key = Key(credential: ObjectIdentifier(context), expectation: .anyTrusted, location: name)
        let lower = over(key, dial, again: dialAgain, overtaken: overtaken) {
            TLSStream(over: $0, context: current(), verifying: name)
        }
        return H2Endpoint(key: key) { loop, completion in
            lower.connect(loop) { result in
                guard case .success(let stream) = result, (stream as? TLSStream)?.peer?.applicationProtocol != "h2"
                else { return completion(result) }
                let error = StreamError(
                    .protocolViolation,
                    "the proxy \(name) did not choose HTTP/2 (ALPN h2): it speaks HTTP/1.1 there, which carries no tunnel; "
                        + "turn HTTP/2 on for its listener"
                )
                stream.reset(error)
                completion(.failure(error))
            }
        }
    }
}
