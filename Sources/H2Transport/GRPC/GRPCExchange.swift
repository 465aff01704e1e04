import CoreMetrics
import Platform
import Streams

/// A gRPC call: a POST on an ``H2Connection`` of its own, whose outcome is in the trailers. With one message each way,
/// or with many messages from the server, for as long as both are there. Confined to the loop of the stream below; it
/// keeps itself until `completion` is called, once.
final class GRPCExchange: StreamObserver, H2ConnectionDelegate {
    struct Request {
        /// `/package.Service/Method`.
        var path: String
        /// Of the connection: `http` is one without TLS.
        var scheme = "https"
        /// Whom the request is for, `host:port`.
        var authority: String
        /// Names in lower case.
        var metadata: HeaderFields
        var message: [UInt8]
        /// Whether the server is told that nothing follows the message.
        var endsRequest = true
        /// From now on; the server is told.
        var timeout: Duration
        /// Of the answer's body, in bytes; of each message, where there may be many.
        var limit = 1 << 20
        /// The server is on this machine.
        var isLocal = false
        /// Given each message as it comes, on the loop. The call then goes on until somebody ends it, and ``timeout``
        /// is for the first message. nil: there is one, and it is the outcome.
        var each: (([UInt8]) -> Void)?

        var head: RequestHead {
            let milliseconds = max(1, Int64(timeout / .milliseconds(1)))
            var fields: HeaderFields = ["te": "trailers", "content-type": "application/grpc"]
            if each == nil {
                // At most eight digits.
                let value = milliseconds < 100_000_000 ? "\(milliseconds)m" : "\(milliseconds / 1000)S"
                fields.append("grpc-timeout", value)
            }
            for field in metadata { fields.append(field.name, field.value) }
            return RequestHead("POST", scheme: scheme, authority: authority, path: path, fields: fields)
        }
    }

    private let lower: ByteStream
    private let request: Request
    /// nil once it was called.
    private var completion: ((Result<[UInt8], any Error>) -> Void)?
    private var connection: H2Connection?
    private var stream: H2Stream?
    private var timer: LoopTimer?
    private var retained = Retained<GRPCExchange>()
    private let body: [UInt8]
    private var bodySent = 0
    private var answer: [UInt8] = []

    /// - Parameters:
    ///   - lower: A connected stream with its handshake done; the exchange owns it.
    ///   - request: What is asked.
    ///   - completion: The answer's message; ``GRPCStatus`` when the server says anything but OK, ``StreamError`` when
    ///     it did not come to that.
    init(over lower: ByteStream, _ request: Request, completion: @escaping (Result<[UInt8], any Error>) -> Void) {
        self.lower = lower
        self.request = request
        self.completion = completion
        body = GRPCMessage.frame(request.message)
    }

    func start() {
        retained.hold(self)
        let timer = LoopTimer(on: lower.loop) { [weak self] in self?.timeLimitReached() }
        timer.schedule(after: request.timeout)
        self.timer = timer
        var configuration = H2Configuration.defaults
        configuration.limits.headerFields = 128
        // Calls are no part of what the transport measures of the mesh.
        configuration.metrics = .none
        configuration.age.maximum = nil
        // The call has one limit of time, which is its own.
        configuration.requestTimeout = request.timeout + .seconds(1)
        if request.each == nil {
            configuration.keepAlive.interval = request.timeout + .seconds(1)
        } else if request.isLocal {
            // No network can lose it. gRPC's servers take PINGs for a flood that come within 5 min, unless they were
            // told otherwise.
            configuration.keepAlive.interval = .seconds(600)
            configuration.keepAlive.timeout = .seconds(20)
        } else {
            // A server that hangs is found by PINGs; gRPC's own take one that comes after 5 s for a flood.
            configuration.keepAlive.interval = .seconds(10)
            configuration.keepAlive.timeout = .seconds(5)
        }
        do throws(StreamError) {
            let connection = try H2Connection(
                over: lower,
                role: .client,
                configuration: configuration,
                delegate: self
            )
            self.connection = connection
            stream = connection.openExchange(request.head) { [weak self] result in
                switch result {
                case .success: self?.receive()
                case .failure(let failure): self?.failed(failure.error)
                }
            }
            stream?.observer = self
            send()
        } catch {
            end(.failure(error))
        }
    }

    private func send() {
        guard let stream else { return }
        while bodySent < body.count {
            let result = body.withUnsafeBytes { stream.write(UnsafeRawBufferPointer(rebasing: $0[bodySent...])) }
            // A server that reads no more may still answer.
            guard case .bytes(let count) = result else { return }
            bodySent += count
        }
        if request.endsRequest { stream.finish() }
    }

    private func receive() {
        guard let stream else { return }
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while completion != nil {
            switch chunk.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let count) where request.each != nil:
                answer.append(contentsOf: chunk[..<count])
                deliver()
            case .bytes(let count):
                guard answer.count + count <= request.limit else {
                    let message = "\(lower.peerDescription) answers with more than \(request.limit) bytes"
                    return end(.failure(StreamError(.limit, message)))
                }
                answer.append(contentsOf: chunk[..<count])
            case .wouldBlock: return
            case .end: return end(outcome(stream))
            case .failed: return failed(stream.failure)
            }
        }
    }

    /// Hands on the messages that are whole.
    private func deliver() {
        do throws(StreamError) {
            while completion != nil, let message = try GRPCMessage.next(from: &answer, limit: request.limit) {
                timer?.cancel()
                request.each?(message)
            }
        } catch {
            end(.failure(StreamError(error.code, "\(lower.peerDescription): \(error.message)")))
        }
    }

    private func outcome(_ stream: H2Stream) -> Result<[UInt8], any Error> {
        let peer = lower.peerDescription
        func failure(_ text: String) -> Result<[UInt8], any Error> {
            .failure(StreamError(.protocolViolation, "\(peer) \(text)"))
        }
        guard let response = stream.response else { return failure("ended the call without an answer") }
        guard response.status == 200 else {
            return failure("answers with HTTP status \(response.status); is that a gRPC server?")
        }
        let contentType = response.headers["content-type"] ?? ""
        guard contentType.hasPrefix("application/grpc") else {
            return failure("answers with '\(Printable.escape(contentType))' instead of gRPC")
        }
        guard stream.trailers?.isTooLarge != true else {
            return .failure(StreamError(.limit, "\(peer) answers with too many header fields"))
        }
        // An answer without a body has everything in its head.
        let fields = stream.trailers?.fields ?? response.headers
        guard let value = fields["grpc-status"] else { return failure("ended the call without a grpc-status") }
        let status = Int(value) ?? 2
        guard status == 0 else {
            let message = fields["grpc-message"].map(GRPCStatus.decode(message:)) ?? ""
            return .failure(GRPCStatus(code: status, message: message))
        }
        guard request.each == nil else { return .success([]) }
        do throws(StreamError) {
            return .success(try GRPCMessage.parse(answer))
        } catch {
            return failure(": \(error.message)")
        }
    }

    // MARK: The end

    /// Gives up.
    func cancel() { end(.failure(StreamError(.cancelled, "the call to \(lower.peerDescription) was given up"))) }

    private func timeLimitReached() {
        end(.failure(StreamError(.timedOut, "\(lower.peerDescription) did not answer within \(request.timeout)")))
    }

    /// There will be no answer: the server reset the call, or its connection is gone.
    private func failed(_ error: StreamError?) {
        let peer = lower.peerDescription
        let error = connection?.failure ?? error
        switch error?.code {
        case nil, .truncated:
            end(.failure(StreamError(.truncated, "\(peer) closed the connection before it had answered")))
        case .limit: end(.failure(StreamError(.limit, "\(peer) answers with too many header fields")))
        case .reset, .draining:
            let reason = error.map { ": \($0.message)" } ?? ""
            end(.failure(StreamError(.protocolViolation, "\(peer) ended the call without an answer\(reason)")))
        default: end(.failure(error ?? StreamError(.truncated, peer)))
        }
    }

    private func end(_ result: Result<[UInt8], any Error>) {
        // Aborting the connection below fails the call once more: the first outcome is the one that counts.
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        stream?.observer = nil
        connection?.delegate = nil
        switch result {
        case .success:
            // Where the server answered without having read everything.
            stream?.close()
            connection?.drain(deadline: .seconds(1))
        case .failure:
            if let connection {
                connection.abort(StreamError(.closed, "the call is over"))
            } else {
                lower.reset(StreamError(.closed, "the call is over"))
            }
        }
        completion(result)
        retained.release()
    }

    func streamReadable(_ stream: ByteStream) { receive() }
    func streamWritable(_ stream: ByteStream) { send() }
    func streamFailed(_ stream: ByteStream) { failed(stream.failure) }

    // MARK: H2ConnectionDelegate

    func connection(_ connection: H2Connection, received request: PendingConnect) { request.reject(.denied()) }
    func connection(_ connection: H2Connection, closed reason: StreamError?) { failed(reason) }
}
