import CNGHTTP2
import Platform
import Streams

/// A gRPC call with one message each way, on a connection of its own: HTTP/2 by nghttp2, whose callbacks record and do nothing else.
///
/// Apart from ``H2Connection``, whose streams are tunnels: a request's body goes out before the answer here, and the outcome is in
/// trailers. Confined to the loop of the stream below; it keeps itself until `completion` is called, once.
final class GRPCExchange: StreamObserver {
    struct Request {
        /// `/package.Service/Method`.
        var path: String
        /// Whom the request is for, `host:port`.
        var authority: String
        /// Names in lower case.
        var metadata: HeaderFields
        var message: [UInt8]
        /// From now on; the server is told.
        var timeout: Duration
        /// Of the answer's body, in bytes.
        var limit = 1 << 20
    }

    private struct Answer {
        var status: Int?
        var contentType = ""
        var grpcStatus: Int?
        var grpcMessage = ""
        var body: [UInt8] = []
        var fields = 0
    }

    private let lower: ByteStream
    private let request: Request
    private let completion: (Result<[UInt8], any Error>) -> Void
    private var session: OpaquePointer?
    private var timer: LoopTimer?
    private var retained: GRPCExchange?

    private let body: [UInt8]
    private var bodySent = 0
    private var output: [UInt8] = []
    private var answer = Answer()
    /// Set by a callback: the stream is over, with this HTTP/2 error code.
    private var closeCode: UInt32?
    private var violation: StreamError?

    /// - Parameters:
    ///   - lower: A connected stream with its handshake done; the exchange owns it.
    ///   - request: What is asked.
    ///   - completion: The answer's message; ``GRPCStatus`` when the server says anything but OK, ``StreamError`` when it did not come to that.
    init(over lower: ByteStream, _ request: Request, completion: @escaping (Result<[UInt8], any Error>) -> Void) {
        self.lower = lower
        self.request = request
        self.completion = completion
        body = GRPCMessage.frame(request.message)
    }

    func start() {
        retained = self
        lower.observer = self
        let timer = LoopTimer(on: lower.loop) { [weak self] in self?.timeLimitReached() }
        timer.schedule(after: request.timeout)
        self.timer = timer
        guard open() else { return }
        send()
        // Bytes may have come with the handshake.
        receive()
    }

    // MARK: Request

    private func open() -> Bool {
        var callbacks: OpaquePointer?
        guard nghttp2_session_callbacks_new(&callbacks) == 0 else { fatalError("out of memory") }
        defer { nghttp2_session_callbacks_del(callbacks) }
        nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onDataChunk)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onStreamClose)
        let me = Unmanaged.passUnretained(self).toOpaque()
        guard nghttp2_session_client_new(&session, callbacks, me) == 0 else { fatalError("out of memory") }
        let settings = [
            nghttp2_settings_entry(settings_id: Int32(NGHTTP2_SETTINGS_ENABLE_PUSH.rawValue), value: 0),
            nghttp2_settings_entry(settings_id: Int32(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE.rawValue), value: 16384),
        ]
        var result = nghttp2_submit_settings(session, UInt8(NGHTTP2_FLAG_NONE.rawValue), settings, settings.count)
        let block = HeaderBlock(call: request.path, authority: request.authority, fields: fields)
        if let field = block.invalidField() {
            end(
                .failure(StreamError(.badRequest, "the header field '\(field)' has a value that HTTP/2 does not allow"))
            )
            return false
        }
        if result == 0 {
            var provider = nghttp2_data_provider()
            provider.read_callback = readBody
            result = block.withFields { fields, count in
                nghttp2_submit_request(session, nil, fields, count, &provider, nil)
            }
        }
        guard result >= 0 else {
            end(.failure(StreamError(.system, "HTTP/2 request: \(String(cString: nghttp2_strerror(result)))")))
            return false
        }
        return true
    }

    private var fields: HeaderFields {
        let milliseconds = max(1, Int64(request.timeout / .milliseconds(1)))
        var fields: HeaderFields = [
            "te": "trailers", "content-type": "application/grpc",
            // At most eight digits.
            "grpc-timeout": milliseconds < 100_000_000 ? "\(milliseconds)m" : "\(milliseconds / 1000)S",
        ]
        for field in request.metadata { fields.append(field.name, field.value) }
        return fields
    }

    /// From inside nghttp2.
    fileprivate func fill(_ buffer: UnsafeMutablePointer<UInt8>, _ length: Int) -> (count: Int, isEnd: Bool) {
        let count = min(length, body.count - bodySent)
        body.withUnsafeBufferPointer { bytes in
            if count > 0, let base = bytes.baseAddress { buffer.update(from: base + bodySent, count: count) }
        }
        bodySent += count
        return (count, bodySent == body.count)
    }

    private func send() {
        while let session {
            while !output.isEmpty {
                switch output.withUnsafeBytes({ lower.write($0) }) {
                case .bytes(let count): output.removeFirst(count)
                case .wouldBlock: return
                case .failed: return lost()
                }
            }
            var bytes: UnsafePointer<UInt8>?
            let count = nghttp2_session_mem_send(session, &bytes)
            guard count > 0, let bytes else { return }
            output = Array(UnsafeBufferPointer(start: bytes, count: Int(count)))
        }
    }

    // MARK: Answer

    private func receive() {
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        while let session {
            switch chunk.withUnsafeMutableBytes({ lower.read(into: $0) }) {
            case .bytes(let count):
                let result = nghttp2_session_mem_recv(session, chunk, count)
                if let violation { return end(.failure(violation)) }
                if result < 0 {
                    let reason = String(cString: nghttp2_strerror(Int32(result)))
                    return end(
                        .failure(StreamError(.protocolViolation, "no HTTP/2 from \(lower.peerDescription): \(reason)"))
                    )
                }
                if let closeCode { return end(outcome(closeCode)) }
                // What nghttp2 answers: acknowledgments, credit.
                send()
                if self.session != nil, nghttp2_session_want_read(session) == 0,
                    nghttp2_session_want_write(session) == 0
                {
                    let message = "\(lower.peerDescription) broke the rules of HTTP/2, or ended the connection"
                    return end(.failure(StreamError(.protocolViolation, message)))
                }
            case .wouldBlock: return
            case .end:
                let message = "\(lower.peerDescription) closed the connection before it had answered"
                return end(.failure(StreamError(.truncated, message)))
            case .failed: return lost()
            }
        }
    }

    /// From inside nghttp2, as the two below.
    fileprivate func received(name: String, value: String) {
        answer.fields += 1
        guard answer.fields <= 128 else {
            violation = StreamError(.limit, "\(lower.peerDescription) answers with too many header fields")
            return
        }
        switch name {
        case ":status":
            // What comes before the final one (1xx) does not count.
            answer.status = Int(value)
        case "content-type": answer.contentType = value
        case "grpc-status": answer.grpcStatus = Int(value) ?? 2
        case "grpc-message": answer.grpcMessage = GRPCStatus.decode(message: value)
        default: break
        }
    }

    fileprivate func received(_ bytes: UnsafeBufferPointer<UInt8>) {
        guard answer.body.count + bytes.count <= request.limit else {
            violation = StreamError(.limit, "\(lower.peerDescription) answers with more than \(request.limit) bytes")
            return
        }
        answer.body.append(contentsOf: bytes)
    }

    fileprivate func closed(_ code: UInt32) { closeCode = code }

    private func outcome(_ code: UInt32) -> Result<[UInt8], any Error> {
        let peer = lower.peerDescription
        func failure(_ text: String) -> Result<[UInt8], any Error> {
            .failure(StreamError(.protocolViolation, "\(peer) \(text)"))
        }
        guard let status = answer.status else {
            return failure("ended the call without an answer (HTTP/2 error \(code))")
        }
        guard status == 200 else { return failure("answers with HTTP status \(status); is that a gRPC server?") }
        guard answer.contentType.hasPrefix("application/grpc") else {
            return failure("answers with '\(printable(answer.contentType))' instead of gRPC")
        }
        guard let grpcStatus = answer.grpcStatus else {
            return failure("ended the call without a grpc-status (HTTP/2 error \(code))")
        }
        guard grpcStatus == 0 else { return .failure(GRPCStatus(code: grpcStatus, message: answer.grpcMessage)) }
        do throws(StreamError) {
            return .success(try GRPCMessage.parse(answer.body))
        } catch {
            return failure(": \(error.message)")
        }
    }

    // MARK: The end

    private func timeLimitReached() {
        end(.failure(StreamError(.timedOut, "\(lower.peerDescription) did not answer within \(request.timeout)")))
    }

    private func lost() {
        let message = "the connection to \(lower.peerDescription) failed before it had answered"
        end(.failure(lower.failure ?? StreamError(.truncated, message)))
    }

    private func end(_ result: Result<[UInt8], any Error>) {
        guard retained != nil else { return }
        timer?.cancel()
        lower.observer = nil
        switch result {
        case .success:
            lower.finish()
            lower.close()
        case .failure: lower.reset(StreamError(.closed, "the call is over"))
        }
        nghttp2_session_del(session)
        session = nil
        completion(result)
        retained = nil
    }

    func streamReadable(_ stream: ByteStream) { receive() }
    func streamWritable(_ stream: ByteStream) { send() }
    func streamFailed(_ stream: ByteStream) { lost() }
}

private func owner(_ userData: UnsafeMutableRawPointer?) -> GRPCExchange {
    guard let userData else { preconditionFailure("nghttp2 lost its user data") }
    return Unmanaged<GRPCExchange>.fromOpaque(userData).takeUnretainedValue()
}

private let onHeader: nghttp2_on_header_callback = { _, _, name, nameLength, value, valueLength, _, userData in
    owner(userData).received(
        name: String(decoding: UnsafeBufferPointer(start: name, count: nameLength), as: UTF8.self),
        value: String(decoding: UnsafeBufferPointer(start: value, count: valueLength), as: UTF8.self)
    )
    return 0
}

private let onDataChunk: nghttp2_on_data_chunk_recv_callback = { _, _, _, data, length, userData in
    owner(userData).received(UnsafeBufferPointer(start: data, count: length))
    return 0
}

private let onStreamClose: nghttp2_on_stream_close_callback = { _, _, code, userData in
    owner(userData).closed(code)
    return 0
}

private let readBody: nghttp2_data_source_read_callback = { _, _, buffer, length, flags, _, userData in
    guard let buffer, let flags else { return Int(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue) }
    let (count, isEnd) = owner(userData).fill(buffer, length)
    if isEnd { flags.pointee |= UInt32(NGHTTP2_DATA_FLAG_EOF.rawValue) }
    return count
}
