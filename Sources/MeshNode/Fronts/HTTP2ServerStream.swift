import CLinux
import H2Transport
import HTTP1
import MeshPolicy
import Streams

/// A workload that speaks HTTP/2, as a proxy's relay sees a server of HTTP/1.1: what is written to it are requests, one
/// after the other, what is read their responses. Confined to its loop.
final class HTTP2ServerStream: ByteStream, StreamObserver {
    private enum State {
        /// Waits for a request, or for the rest of its head.
        case head
        /// The request is asked; its content may go on meanwhile.
        case asked
        case over
    }

    private let server: HTTP2Server
    private var state = State.head
    private var ends = StreamEnds()
    private var stream: H2Stream?

    // The request.
    private var input: [UInt8] = []
    private var consumed = 0
    private var parser = HTTPHeadParser(limits: HTTP2ServerStream.limits)
    private var body: HTTPBodyReader?
    /// Where content lies in the input that the server has not taken.
    private var content = 0..<0

    // The response.
    private var output: [UInt8] = []
    private var written = 0
    private var hasHead = false
    private var writesChunks = false

    /// The proxy has written what comes in: its own limits were kept.
    private static let limits: HTTPLimits = {
        var limits = HTTPLimits()
        (limits.head, limits.firstLine, limits.fields) = (2 << 20, 2 << 20, 2000)
        return limits
    }()
    private static let room = 64 << 10

    /// Opens one by a session that others use, too.
    static func open(
        _ plan: StreamPlan,
        from client: ByteStream,
        _ carrier: StreamCarrier,
        completion: @escaping (Result<StreamOpener.Opened, StreamError>) -> Void
    ) -> StreamOpener.Cancellation {
        let ticket = carrier.records.begin(plan, at: carrier.front)
        ticket?.client = PeerFacts(of: client).address
        let cancel = carrier.servers.take(plan, carrier) { result in
            switch result {
            case .success(let server):
                var opened = server.opened
                opened.ticket = nil
                if let ticket { carrier.note(&opened, ticket) }
                completion(
                    .success(
                        StreamOpener.Opened(
                            stream: HTTP2ServerStream(server),
                            path: opened.path,
                            dialled: opened.dialled,
                            ticket: opened.ticket,
                            carriedBy: opened.lowest
                        )
                    )
                )
            case .failure(let error):
                carrier.report(error, to: plan.request.destination)
                ticket?.refuse(error)
                completion(.failure(error))
            }
        }
        return {
            cancel()
            if ticket?.isOpen == false { ticket?.giveUp() }
        }
    }

    private init(_ server: HTTP2Server) {
        self.server = server
        super.init(loop: server.opened.stream.loop)
    }

    override var peerDescription: String { server.opened.stream.peerDescription }

    /// Whether the session takes another request.
    var isUsable: Bool { state == .head && server.isFree }

    // MARK: The request

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard ends.isWritable, state != .over else { return refuseWrite() }
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        let room = Self.room - (input.count - consumed)
        guard room > 0 else { return ends.blockWriter() }
        if consumed > 0 {
            input.removeSubrange(..<consumed)
            content = content.lowerBound - consumed..<content.upperBound - consumed
            consumed = 0
        }
        var accepted = 0
        for vector in vectors where accepted < room {
            let piece = UnsafeRawBufferPointer(start: vector.iov_base, count: min(vector.iov_len, room - accepted))
            input.append(contentsOf: piece)
            accepted += piece.count
        }
        // What comes of it is told when the loop comes round.
        do throws(HTTPError) {
            try passOn()
        } catch {
            failLater(StreamError(.badRequest, error.message))
        }
        return ends.accept(accepted, of: offered)
    }

    private func passOn() throws(HTTPError) {
        while true {
            switch state {
            case .over: return
            case .head:
                guard let end = try parser.end(in: input, from: consumed) else { return }
                let head = try parser.request(input[consumed..<end])
                consumed = end
                content = end..<end
                try ask(head)
            case .asked:
                guard var body, let stream else { return }
                if !content.isEmpty {
                    switch input[content].withUnsafeBytes({ stream.write($0) }) {
                    case .bytes(let count): content = content.dropFirst(count)
                    // A server that reads no more may still answer.
                    case .wouldBlock, .failed: return
                    }
                    consumed = content.lowerBound
                    continue
                }
                switch try body.next(in: input, from: consumed) {
                case .content(let range): content = range
                case .needsMore(let index):
                    consumed = index
                    self.body = body
                    return
                case .end(let next, let trailers):
                    consumed = next
                    content = next..<next
                    self.body = nil
                    stream.trailersToSend = HTTP2Heads.requestTrailers(HTTP2Heads.trailers(trailers))
                    return stream.finish()
                }
                self.body = body
            }
        }
    }

    private func ask(_ head: HTTPRequestHead) throws(HTTPError) {
        guard let connection = server.connection else { return failLater(.closed(self)) }
        state = .asked
        hasHead = false
        let isEmpty = head.framing.isEmpty
        body = isEmpty ? nil : HTTPBodyReader(head.framing, limits: Self.limits)
        let request = HTTP2Heads.request(head, takesTrailers: true)
        let stream = connection.openExchange(request, ends: isEmpty) { [weak self] result in
            guard let self, state == .asked else { return }
            switch result {
            case .success(let stream): answered(stream, to: head)
            case .failure(let failure): failNow(failure.error)
            }
        }
        self.stream = stream
        stream?.observer = self
        stream?.onInterim = { [weak self] status, fields in
            guard let self, state == .asked else { return }
            put(status, fields, framing: .none)
        }
    }

    override func finish() {
        guard ends.finish() else { return }
        loop.later { [self] in
            if ends.wakeReader() { observer?.streamReadable(self) }
        }
    }

    // MARK: The response

    private func answered(_ stream: H2Stream, to head: HTTPRequestHead) {
        guard let response = stream.response else { return }
        let isEmpty =
            head.method == "HEAD" || response.status == 204 || response.status == 304 || stream.isEmptyAtEnd
        let length = response.headers["content-length"].flatMap { UInt64($0) }
        writesChunks = !isEmpty && length == nil
        let framing: HTTPFraming = writesChunks ? .chunked : isEmpty ? .none : .length(length ?? 0)
        hasHead = true
        put(response.status, response.headers, framing: framing)
    }

    private func put(_ status: Int, _ headers: HeaderFields, framing: HTTPFraming) {
        var fields = HTTPFields()
        for field in headers { fields.append(field.name, field.value) }
        if framing == .chunked { fields.append("transfer-encoding", "chunked") }
        let hasLength = fields.contains("content-length")
        if framing == .none, status >= 200, status != 204, status != 304, !hasLength {
            fields.append("content-length", "0")
        }
        let reason = Array(HTTPStatus.reason(of: status).utf8)
        output += HTTPResponseHead(status: status, reason: reason, fields: fields, framing: framing).bytes
        if ends.wakeReader() { observer?.streamReadable(self) }
    }

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard failure == nil, state != .over else { return refuseRead() }
        while true {
            if written < output.count {
                let count = min(output.count - written, buffer.count)
                output[written..<written + count].withUnsafeBytes { buffer.copyMemory(from: $0) }
                written += count
                if written == output.count { (output, written) = ([], 0) }
                return .bytes(count)
            }
            if ends.writing != .open, stream == nil { return ends.deliverEnd() }
            guard hasHead, let stream else { return ends.blockReader() }
            // `ffffffff`, CRLF before the content, and CRLF behind it.
            let frame = writesChunks ? 12 : 0
            guard buffer.count > frame else {
                if let result = stage(stream) { return result }
                continue
            }
            let space = UnsafeMutableRawBufferPointer(
                rebasing: buffer[(frame == 0 ? 0 : 10)..<buffer.count - frame / 6]
            )
            switch stream.read(into: space) {
            case .bytes(let count):
                guard writesChunks else { return .bytes(count) }
                let digits = String(count, radix: 16)
                let start = String(repeating: "0", count: 8 - digits.utf8.count) + digits + "\r\n"
                buffer.copyBytes(from: start.utf8)
                buffer[10 + count] = 13
                buffer[11 + count] = 10
                return .bytes(count + frame)
            case .wouldBlock: return ends.blockReader()
            case .failed:
                fail(stream.failure ?? .closed(stream))
                return .failed
            case .end:
                if writesChunks { output += HTTPChunk.end(HTTP2Heads.trailers(stream.receivedTrailers)) }
                answerIsOver()
            }
        }
    }

    /// For a reader with less room than a chunk needs. Returns nil where there is output.
    private func stage(_ stream: H2Stream) -> ReadResult? {
        var piece = [UInt8](repeating: 0, count: 1024)
        switch piece.withUnsafeMutableBytes({ stream.read(into: $0) }) {
        case .bytes(let count):
            output += HTTPChunk.start(count) + piece[..<count] + [13, 10]
            return nil
        case .wouldBlock: return ends.blockReader()
        case .failed:
            fail(stream.failure ?? .closed(stream))
            return .failed
        case .end:
            output += HTTPChunk.end(HTTP2Heads.trailers(stream.receivedTrailers))
            answerIsOver()
            return nil
        }
    }

    private func answerIsOver() {
        guard let stream else { return }
        self.stream = nil
        hasHead = false
        stream.observer = nil
        stream.close()
        // A request that was not read to its end is the last one.
        if body == nil { state = .head }
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) {
        if hasHead, ends.wakeReader() { observer?.streamReadable(self) }
    }

    func streamWritable(_ stream: ByteStream) {
        do throws(HTTPError) {
            try passOn()
        } catch {
            return failNow(StreamError(.badRequest, error.message))
        }
        if input.count - consumed < Self.room, ends.wakeWriter() { observer?.streamWritable(self) }
    }

    func streamFailed(_ stream: ByteStream) {
        guard stream === self.stream else { return }
        failNow(stream.failure ?? .closed(stream))
    }

    private func failNow(_ error: StreamError) {
        guard state != .over else { return }
        letGo(error)
        fail(error)
        observer?.streamFailed(self)
    }

    private func failLater(_ error: StreamError) { loop.later { [self] in failNow(error) } }

    // MARK: The end

    override func reset(_ reason: StreamError) {
        letGo(reason)
        fail(reason)
    }

    override func close() {
        letGo(StreamError(.closed, "the client has left"))
        fail(.closedByOwner)
    }

    private func letGo(_ reason: StreamError) {
        guard state != .over else { return }
        state = .over
        ends.release()
        let stream = stream
        self.stream = nil
        stream?.observer = nil
        stream?.reset(reason)
    }
}
