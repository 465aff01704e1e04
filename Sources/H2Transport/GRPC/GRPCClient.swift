package import MeshIdentity
package import Platform
import Streams

/// Makes gRPC calls with one message each way, to a server that is verified by its name. Each call has a connection of
/// its own: this is for the rare question to somebody else's service, not for streams.
package struct GRPCClient: Sendable {
    /// Where the server is. A name is resolved for each call.
    package let address: Authority
    /// Who it must be.
    package let server: ServerVerifier

    private static let refusalTimeout = Duration.milliseconds(250)

    package init(_ address: Authority, server: ServerVerifier) {
        self.address = address
        self.server = server
    }

    /// - Parameters:
    ///   - path: `/package.Service/Method`.
    ///   - metadata: Names in lower case. `authorization` is a secret: it is neither logged nor indexed by HPACK.
    ///   - message: As the service's protocol has it.
    ///   - timeout: For the whole of it, beginning with the name's resolution.
    /// - Returns: The answer's message.
    /// - Throws: ``GRPCStatus`` when the server answers with anything but OK; ``Streams/StreamError`` when it did not
    ///   come to an answer: `authentication` for a server that is not who it must be, `timedOut`, `unreachable`,
    ///   `refused`, `protocolViolation`.
    package func call(
        _ path: String,
        metadata: HeaderFields = [:],
        message: [UInt8],
        timeout: Duration
    ) async throws -> [UInt8] {
        let deadline = ContinuousClock.now + timeout
        let addresses = try await Resolver.resolve(host: address.host, port: address.port)
        guard !addresses.isEmpty else { throw StreamError(.unreachable, "\(address) has no address") }
        let loop = EventLoop(name: "grpc")
        do {
            let answer = try await call(path, metadata, message, addresses, deadline, on: loop)
            await loop.shutDown()
            return answer
        } catch {
            // A server that was refused is told why, and its stream is let go of then; both are the loop's.
            try? await Task.sleep(for: Self.refusalTimeout + .milliseconds(50))
            await loop.shutDown()
            throw error
        }
    }

    private func call(
        _ path: String,
        _ metadata: HeaderFields,
        _ message: [UInt8],
        _ addresses: [SocketAddress],
        _ deadline: ContinuousClock.Instant,
        on loop: EventLoop
    ) async throws -> [UInt8] {
        let limit = Dialer.Options(timeout: try left(until: deadline))
        let socket = try await Dialer.connect(to: .addresses(addresses), on: loop, options: limit) {
            LoopBound($0, on: loop)
        }
        var options = TLSContext.Options(applicationProtocols: ["h2"])
        options.handshakeTimeout = try left(until: deadline)
        options.refusalTimeout = Self.refusalTimeout
        let context = try TLSContext(server: server, options: options)
        return try await withCheckedThrowingContinuation { continuation in
            let isRunning = loop.submitIfRunning {
                let stream = socket.withValue {
                    TLSStream(over: $0, context: context, expecting: .anyTrusted, serverName: sni)
                }
                stream.startHandshake { result in
                    switch result {
                    case .failure(let error): continuation.resume(throwing: error)
                    case .success(let peer):
                        guard peer.applicationProtocol == "h2" else {
                            let error = StreamError(.protocolViolation, "\(address) does not speak HTTP/2 (ALPN h2)")
                            stream.reset(error)
                            return continuation.resume(throwing: error)
                        }
                        let request = GRPCExchange.Request(
                            path: path,
                            authority: authority,
                            metadata: metadata,
                            message: message,
                            timeout: max(.milliseconds(1), deadline - .now)
                        )
                        GRPCExchange(over: stream, request) { continuation.resume(with: $0) }.start()
                    }
                }
            }
            if !isRunning { continuation.resume(throwing: StreamError(.closed, "the event loop has shut down")) }
        }
    }

    private func left(until deadline: ContinuousClock.Instant) throws(StreamError) -> Duration {
        let left = deadline - .now
        guard left > .zero else { throw StreamError(.timedOut, "\(address) could not be asked in time") }
        return left
    }

    /// By the name that it is verified for, wherever it is.
    private var authority: String {
        (try? Authority(host: server.name, port: address.port).description) ?? address.description
    }

    /// Addresses are no server names (RFC 6066 §3).
    private var sni: String? { (try? SocketAddress(ip: server.name, port: 0)) == nil ? server.name : nil }
}
