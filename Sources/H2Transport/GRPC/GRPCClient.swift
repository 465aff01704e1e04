package import MeshIdentity
package import Platform
package import Streams

/// Makes gRPC calls to a server that is verified by its name, or that has a Unix socket of this machine: with one
/// message each way, or with many from the server. Each call has a connection of its own: this is for the rare question
/// to somebody else's service, not for streams.
package struct GRPCClient: Sendable {
    private enum Place: Sendable {
        case network(Authority, ServerVerifier, ClientCertificate?)
        /// Whoever may make a socket there is trusted: no TLS.
        case unixSocket(SocketAddress)
    }

    private let place: Place

    private static let refusalTimeout = Duration.milliseconds(250)

    /// - Parameters:
    ///   - address: Where the server is. A name is resolved for each call.
    ///   - server: Who it must be.
    ///   - shown: What is shown when it asks who calls; nil: nothing.
    package init(_ address: Authority, server: ServerVerifier, showing shown: ClientCertificate? = nil) {
        place = .network(address, server, shown)
    }

    /// - Parameter socket: Of a server that speaks HTTP/2 there without TLS.
    package init(unixSocket socket: SocketAddress) { place = .unixSocket(socket) }

    /// - Parameters:
    ///   - path: `/package.Service/Method`.
    ///   - metadata: Names in lower case. `authorization` is a secret: it is neither logged nor indexed by HPACK.
    ///   - message: As the service's protocol has it.
    ///   - limit: Of the answer, in bytes.
    ///   - timeout: For the whole of it, beginning with the name's resolution.
    /// - Returns: The answer's message.
    /// - Throws: ``GRPCStatus`` when the server answers with anything but OK; ``Streams/StreamError`` when it did not
    ///   come to an answer: `authentication` for a server that is not who it must be, `timedOut`, `unreachable`,
    ///   `refused`, `protocolViolation`.
    package func call(
        _ path: String,
        metadata: HeaderFields = [:],
        message: [UInt8],
        limit: Int = 1 << 20,
        timeout: Duration
    ) async throws -> [UInt8] {
        let call = Call(path: path, metadata: metadata, message: message, limit: limit, each: nil)
        return try await run(call, timeout)
    }

    /// Asks for messages for as long as the server sends them, or until the task is cancelled.
    ///
    /// - Parameters:
    ///   - path: `/package.Service/Method`.
    ///   - metadata: Names in lower case.
    ///   - message: What is asked; nothing follows it.
    ///   - endsRequest: Whether that is told. A method that takes one message may wait for the end of the request
    ///     before it begins (grpc-java and tonic do); one that takes a stream of them may take the end for that of the
    ///     call.
    ///   - limit: Of a message, in bytes.
    ///   - timeout: Until the first message.
    ///   - each: Given every message, in turn, on a thread of the call's: not for work that takes long.
    /// - Throws: As ``call(_:metadata:message:limit:timeout:)``; `CancellationError` when the task was cancelled.
    package func subscribe(
        _ path: String,
        metadata: HeaderFields = [:],
        message: [UInt8],
        endsRequest: Bool,
        limit: Int = 1 << 20,
        timeout: Duration,
        each: @escaping @Sendable ([UInt8]) -> Void
    ) async throws {
        var call = Call(path: path, metadata: metadata, message: message, limit: limit, each: each)
        call.endsRequest = endsRequest
        do {
            _ = try await run(call, timeout)
        } catch {
            if Task.isCancelled { throw CancellationError() }
            throw error
        }
    }

    /// A call that somebody may give up at any moment.
    private struct Running: Sendable {
        var isCancelled = false
        var exchange: LoopBound<GRPCExchange>?
    }

    private struct Call: Sendable {
        let path: String
        let metadata: HeaderFields
        let message: [UInt8]
        var endsRequest = true
        let limit: Int
        let each: (@Sendable ([UInt8]) -> Void)?
    }

    private func run(_ call: Call, _ timeout: Duration) async throws -> [UInt8] {
        let deadline = ContinuousClock.now + timeout
        let addresses: [SocketAddress]
        switch place {
        case .network(let address, _, _):
            addresses = try await Resolver.resolve(host: address.host, port: address.port)
            guard !addresses.isEmpty else { throw StreamError(.unreachable, "\(address) has no address") }
        case .unixSocket(let socket): addresses = [socket]
        }
        let loop = try EventLoop(starting: "grpc")
        do {
            let answer = try await run(call, addresses, deadline, on: loop)
            await loop.shutDown()
            return answer
        } catch {
            // A server that was refused is told why, and its stream is let go of then; both are the loop's.
            if !Task.isCancelled { try? await Task.sleep(for: Self.refusalTimeout + .milliseconds(50)) }
            await loop.shutDown()
            throw error
        }
    }

    private func run(
        _ call: Call,
        _ addresses: [SocketAddress],
        _ deadline: ContinuousClock.Instant,
        on loop: EventLoop
    ) async throws -> [UInt8] {
        let limit = Dialer.Options(timeout: try left(until: deadline))
        let socket = try await Dialer.connect(to: .addresses(addresses), on: loop, options: limit) {
            LoopBound($0, on: loop)
        }
        let handshake: Handshake?
        switch place {
        case .network(let address, let server, let shown):
            var options = TLSContext.Options(applicationProtocols: ["h2"])
            options.handshakeTimeout = try left(until: deadline)
            options.refusalTimeout = Self.refusalTimeout
            handshake = Handshake(
                address: address,
                server: server,
                context: try TLSContext(server: server, key: shown?.key, chain: shown?.chain ?? [], options: options)
            )
        case .unixSocket: handshake = nil
        }
        let running = Lock(Running())
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let isRunning = loop.submitIfRunning {
                    func ask(over stream: ByteStream) {
                        let request = GRPCExchange.Request(
                            path: call.path,
                            scheme: handshake == nil ? "http" : "https",
                            // gRPC's own name for whoever has a Unix socket.
                            authority: handshake?.authority ?? "localhost",
                            metadata: call.metadata,
                            message: call.message,
                            endsRequest: call.endsRequest,
                            timeout: max(.milliseconds(1), deadline - .now),
                            limit: call.limit,
                            isLocal: handshake == nil,
                            each: call.each
                        )
                        let exchange = GRPCExchange(over: stream, request) { continuation.resume(with: $0) }
                        exchange.start()
                        let isCancelled = running.withLock { running in
                            running.exchange = LoopBound(exchange, on: loop)
                            return running.isCancelled
                        }
                        if isCancelled { exchange.cancel() }
                    }
                    guard let handshake else { return ask(over: socket.withValue { $0 }) }
                    handshake.start(over: socket.withValue { $0 }) { result in
                        switch result {
                        case .failure(let error): continuation.resume(throwing: error)
                        case .success(let stream): ask(over: stream)
                        }
                    }
                }
                if !isRunning { continuation.resume(throwing: StreamError(.closed, "the event loop has shut down")) }
            }
        } onCancel: {
            let exchange = running.withLock { running in
                running.isCancelled = true
                return running.exchange
            }
            guard let exchange else { return }
            loop.submit { exchange.withValue { $0.cancel() } }
        }
    }

    private func left(until deadline: ContinuousClock.Instant) throws(StreamError) -> Duration {
        let left = deadline - .now
        guard left > .zero else { throw StreamError(.timedOut, "\(name) could not be asked in time") }
        return left
    }

    private var name: String {
        switch place {
        case .network(let address, _, _): address.description
        case .unixSocket(let socket): socket.description
        }
    }
}

/// Makes sure who the server is.
private struct Handshake: Sendable {
    let address: Authority
    let server: ServerVerifier
    let context: TLSContext

    func start(over socket: Socket, _ completion: @escaping (Result<TLSStream, StreamError>) -> Void) {
        let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted, serverName: sni)
        stream.startHandshake { result in
            switch result {
            case .failure(let error): completion(.failure(error))
            case .success(let peer):
                guard peer.applicationProtocol == "h2" else {
                    let error = StreamError(.protocolViolation, "\(address) does not speak HTTP/2 (ALPN h2)")
                    stream.reset(error)
                    return completion(.failure(error))
                }
                completion(.success(stream))
            }
        }
    }

    /// By the name that it is verified for, wherever it is.
    var authority: String {
        (try? Authority(host: server.name, port: address.port).description) ?? address.description
    }

    /// Addresses are no server names (RFC 6066 §3).
    private var sni: String? { (try? SocketAddress(ip: server.name, port: 0)) == nil ? server.name : nil }
}
