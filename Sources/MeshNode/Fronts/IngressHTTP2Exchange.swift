import CLinux
import H2Transport
import HTTP1
import Logging
import MeshPolicy
import Streams

/// The request of a client of HTTP/2 at a server that speaks it, too: a stream of the session that all requests to that
/// server share. Ends, trailers and codes of resets go through both ways.
final class IngressHTTP2Exchange: IngressExchange {
    private let takesTrailers: Bool
    private var stream: H2Stream?
    private var hasSentContent = false
    private var isSecondTry = false

    init(
        _ front: H2Stream,
        _ passage: IngressGate.Passage,
        of connection: IngressHTTP2Connection,
        takesTrailers: Bool
    ) {
        self.takesTrailers = takesTrailers
        super.init(front, passage, of: connection)
    }

    // MARK: The way there

    override func open() {
        var isDone = false
        let ticket = carrier.records.begin(plan, at: carrier.front)
        ticket?.client = connection.gate.facts.address
        self.ticket = ticket
        let cancel = carrier.servers.take(plan, carrier) { [self] result in
            isDone = true
            self.cancel = nil
            switch result {
            case .success(let server): attach(server)
            case .failure(let error):
                carrier.report(error, to: destination)
                ticket?.refuse(error)
                answerInstead(.failed(error, isLocal: false), error)
            }
        }
        if !isDone {
            self.cancel = {
                cancel()
                ticket?.giveUp()
            }
        }
    }

    private func attach(_ server: HTTP2Server) {
        var opened = server.opened
        opened.ticket = nil
        if let ticket { carrier.note(&opened, ticket) }
        ask(server)
        join(opened)
    }

    private func ask(_ server: HTTP2Server) {
        let head = HTTP2Heads.request(passage.head, takesTrailers: takesTrailers)
        let isEmpty = front.isEmptyAtEnd
        let stream = server.connection?.openExchange(head, ends: isEmpty) { [weak self] result in
            switch result {
            case .success(let stream): self?.answered(stream)
            case .failure(let failure): self?.refused(failure)
            }
        }
        if isEmpty { requestIsSent() }
        self.stream = stream
        stream?.observer = self
        stream?.onInterim = { [weak self] status, fields in
            guard let self, phase == .head else { return }
            _ = front.respond(status, HTTP2Heads.response(fields, adding: HTTPFields()))
        }
    }

    /// The server has done nothing with it (RFC 9113 §8.7), and nothing is lost that could not be sent again.
    private func refused(_ failure: ConnectFailure) {
        guard phase == .head else { return }
        let code = stream?.receivedReset
        stream = nil
        guard failure.isRetryable, !hasSentContent, !isSecondTry else {
            if let code {
                front.resetCode = code
                return resetClient(failure.error)
            }
            // The session is lost, and nobody knows what has become of the request.
            let isLost = [.truncated, .closed, .draining].contains(failure.error.code)
            return failed(isLost ? StreamError(.unreachable, failure.error.message) : failure.error)
        }
        isSecondTry = true
        var isDone = false
        let cancel = carrier.servers.take(plan, carrier) { [self] result in
            isDone = true
            self.cancel = nil
            switch result {
            case .success(let server):
                ask(server)
                wakeWriter()
                if isRequestOver { sendEnd() }
            case .failure(let error): failed(error)
            }
        }
        if !isDone { self.cancel = cancel }
    }

    override func dismiss(_ reason: StreamError?) {
        guard let stream else { return }
        self.stream = nil
        stream.observer = nil
        if let reason {
            stream.resetCode = front.receivedReset
            stream.reset(reason)
        } else {
            stream.close()
        }
    }

    // MARK: The request

    override func send(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard let stream else { return blockWriter() }
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        let result = stream.write(vectors)
        switch result {
        case .bytes(let count):
            hasSentContent = true
            if count < offered { _ = blockWriter() }
            return result
        // A server that reads no more may still answer; a stream that has failed says so by itself.
        case .wouldBlock, .failed: return blockWriter()
        }
    }

    override func sendEnd() {
        guard let stream else { return }
        stream.trailersToSend = HTTP2Heads.requestTrailers(front.receivedTrailers)
        stream.finish()
        requestIsSent()
    }

    // MARK: The answer

    private func answered(_ stream: H2Stream) {
        guard phase == .head, let response = stream.response else { return }
        let fields = HTTP2Heads.response(response.headers, adding: passage.added)
        answer(response.status, fields, ends: stream.isEmptyAtEnd)
    }

    override func receive(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard let stream else { return refuseRead() }
        let result = stream.read(into: buffer)
        switch result {
        case .end: front.trailersToSend = stream.receivedTrailers
        case .failed:
            front.resetCode = stream.receivedReset
            fail(stream.failure ?? .closed(stream))
        case .bytes, .wouldBlock: break
        }
        return result
    }

    override func streamReadable(_ stream: ByteStream) {
        if stream === self.stream, phase == .body { wakeReader() }
    }

    override func streamWritable(_ stream: ByteStream) {
        if stream === self.stream { wakeWriter() }
    }

    override func streamFailed(_ stream: ByteStream) {
        guard stream === self.stream else { return super.streamFailed(stream) }
        front.resetCode = self.stream?.receivedReset
        failed(stream.failure ?? .closed(stream))
    }
}
