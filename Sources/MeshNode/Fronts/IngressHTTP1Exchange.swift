import CLinux
import H2Transport
import HTTP1
import Logging
import MeshPolicy
import Streams

/// The request of a client of HTTP/2 at a server of HTTP/1.1. Both messages are written anew: where one ends is what
/// HTTP/2 says, and no byte of a client decides about it.
final class IngressHTTP1Exchange: IngressExchange {
    private var opened: StreamOpener.Opened?
    /// It has answered another request before.
    private var isReused = false

    // To the server.
    /// What goes before the next content: the head, or what stands between chunks.
    private var output: [UInt8] = []
    private var written = 0
    /// What is left of the chunk that was begun.
    private var chunkLeft = 0
    private var endIsQueued = false
    private var sentBody: UInt64 = 0

    // From the server.
    private var input: [UInt8] = []
    private var consumed = 0
    private var parser: HTTPHeadParser
    private var body: HTTPBodyReader?
    private var response: HTTPResponseHead?
    /// Where content lies in the input that was not read yet.
    private var content = 0..<0
    private var interims = 0
    private var hasHeard = false
    private var keepsServer = false

    private static let piece = 16 << 10
    private static let interimLimit = 32

    override init(_ front: H2Stream, _ passage: IngressGate.Passage, of connection: IngressHTTP2Connection) {
        parser = HTTPHeadParser(limits: connection.settings.limits.http)
        super.init(front, passage, of: connection)
    }

    private var limits: HTTPLimits { connection.settings.limits.http }
    private var isChunked: Bool { passage.head.framing == .chunked }
    /// How much content the server was told of; nil: as much as comes.
    private var length: UInt64? {
        switch passage.head.framing {
        case .none: 0
        case .length(let count): count
        case .chunked, .untilClose: nil
        }
    }

    // MARK: The way there

    override func open() {
        if let server = connection.takeServer(for: plan) {
            isReused = true
            var opened = server.opened
            opened.ticket = nil
            if let ticket = carrier.records.begin(plan, at: carrier.front) {
                ticket.client = connection.gate.facts.address
                carrier.note(&opened, ticket)
            }
            return attach(opened)
        }
        openAnew()
    }

    private func openAnew() {
        var isDone = false
        let cancel = carrier.open(plan, from: connection.lower) { [self] result in
            isDone = true
            self.cancel = nil
            switch result {
            case .success(let opened): attach(opened)
            case .failure(let error): answerInstead(.failed(error, isLocal: false), error)
            }
        }
        if !isDone { self.cancel = cancel }
    }

    private func attach(_ opened: StreamOpener.Opened) {
        self.opened = opened
        opened.stream.observer = self
        output = passage.head.bytes
        join(opened)
        flush()
        readHead()
    }

    /// A server that has ended a connection that nobody used may not have seen the request (RFC 9110 §9.2.2).
    private var mayAskAgain: Bool {
        isReused && !hasHeard && phase == .head && passage.head.framing == .none
            && ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].contains(passage.method)
    }

    private func askAgain() {
        opened?.stream.observer = nil
        opened?.stream.reset(StreamError(.closed, "the server has gone"))
        opened = nil
        isReused = false
        (output, written, input, consumed) = ([], 0, [], 0)
        let carrier = carrier
        var isDone = false
        let cancel = carrier.opener.open(plan) { [self] result in
            isDone = true
            self.cancel = nil
            switch result {
            case .success(let opened):
                self.opened = opened
                opened.stream.observer = self
                output = passage.head.bytes
                flush()
                readHead()
            case .failure(let error):
                carrier.report(error, to: destination)
                failed(error)
            }
        }
        if !isDone { self.cancel = cancel }
    }

    override func dismiss(_ reason: StreamError?) {
        guard let opened else { return }
        self.opened = nil
        opened.stream.observer = nil
        if let reason { return opened.stream.reset(reason) }
        if keepsServer, output.isEmpty, endIsQueued, chunkLeft == 0, input.count == consumed {
            connection.keep(opened, of: plan)
        } else if endIsQueued, output.isEmpty {
            opened.stream.finish()
            opened.stream.close()
        } else {
            // It has a part of the request only, and must not take it for the whole.
            opened.stream.reset(StreamError(.closed, "the server has answered before the request was over"))
        }
    }

    // MARK: To the server

    /// Writes what stands before content. Returns whether that is done.
    @discardableResult
    private func flush() -> Bool {
        guard let stream = opened?.stream else { return output.isEmpty }
        while written < output.count {
            switch output[written...].withUnsafeBytes({ stream.write($0) }) {
            case .bytes(let count): written += count
            case .wouldBlock: return false
            case .failed: return false
            }
        }
        if !output.isEmpty {
            output.removeAll(keepingCapacity: output.capacity <= 4096)
            written = 0
        }
        if endIsQueued { requestIsSent() }
        return true
    }

    override func send(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard let stream = opened?.stream else { return blockWriter() }
        let offered = vectors.reduce(0) { $0 + $1.iov_len }
        guard offered > 0 else { return .bytes(0) }
        if let length, sentBody &+ UInt64(offered) > length { return misfits("longer") }
        if isChunked, chunkLeft == 0 {
            if let limit = limits.body, sentBody &+ UInt64(offered) > limit { return tooMuch(limit) }
            output += HTTPChunk.start(offered)
            chunkLeft = offered
        }
        guard flush() else { return stream.failure == nil ? blockWriter() : serverIsGone() }
        // Of more than a chunk has room for, which began with less, the rest of the chunk goes first.
        let isPart = isChunked && chunkLeft < offered
        let part = isPart ? first(vectors, chunkLeft) : UnsafeRawBufferPointer(start: nil, count: 0)
        let result = isPart ? stream.write(part) : stream.write(vectors)
        switch result {
        case .bytes(let count):
            sentBody &+= UInt64(count)
            var isFull = count < (isPart ? part.count : offered)
            if isChunked {
                chunkLeft -= count
                if chunkLeft == 0 {
                    output += [13, 10]
                    if !flush() { isFull = true }
                }
            }
            if count < offered {
                _ = blockWriter()
                // The server's stream wakes whom it has refused something, and it has refused nothing.
                if !isFull { loop.later { [self] in wakeWriter() } }
            }
            return result
        case .wouldBlock: return blockWriter()
        case .failed: return serverIsGone()
        }
    }

    /// The first of the bytes, `count` at most.
    private func first(_ vectors: UnsafeBufferPointer<iovec>, _ count: Int) -> UnsafeRawBufferPointer {
        let vector = vectors.first { $0.iov_len > 0 } ?? iovec()
        return UnsafeRawBufferPointer(start: vector.iov_base, count: min(count, vector.iov_len))
    }

    /// It may have answered all the same; whoever reads from it finds out.
    private func serverIsGone() -> WriteResult {
        loop.later { [self] in
            guard phase == .head || phase == .body, let stream = opened?.stream else { return }
            if phase == .head { readHead() }
            if phase == .head || phase == .body { failed(stream.failure ?? .closed(stream)) }
        }
        return blockWriter()
    }

    private func tooMuch(_ limit: UInt64) -> WriteResult {
        loop.later { [self] in
            let error = HTTPError(413, "the content is longer than \(limit) bytes")
            if phase == .head {
                answerInstead(.bad(error), StreamError(.limit, error.message))
            } else {
                failed(StreamError(.limit, error.message))
            }
        }
        return blockWriter()
    }

    /// A client keeps to its length, or HTTP/2 has reset it: what differs has been changed on this node. The server
    /// would take what is too much for another request.
    @discardableResult
    private func misfits(_ difference: String) -> WriteResult {
        loop.later { [self] in
            failed(StreamError(.protocolViolation, "a filter has made the content \(difference) than the head says"))
        }
        return blockWriter()
    }

    override func sendEnd() {
        if let length, sentBody != length {
            misfits("shorter")
            return
        }
        if isChunked { output += HTTPChunk.end(HTTP2Heads.trailers(front.receivedTrailers)) }
        endIsQueued = true
        flush()
    }

    // MARK: From the server

    override func streamWritable(_ stream: ByteStream) {
        guard stream === opened?.stream else { return }
        if flush() { wakeWriter() }
    }

    override func streamReadable(_ stream: ByteStream) {
        guard stream === opened?.stream else { return super.streamReadable(stream) }
        switch phase {
        case .head: readHead()
        case .body: wakeReader()
        case .opening, .page, .ended, .over: break
        }
    }

    override func streamFailed(_ stream: ByteStream) {
        guard stream === opened?.stream else { return super.streamFailed(stream) }
        let error = stream.failure ?? .closed(stream)
        if mayAskAgain { return askAgain() }
        failed(error)
    }

    private func readMore() -> ReadResult {
        guard let stream = opened?.stream else { return .wouldBlock }
        if consumed == input.count {
            input.removeAll(keepingCapacity: true)
            consumed = 0
        } else if consumed >= Self.piece {
            input.removeSubrange(..<consumed)
            consumed = 0
        }
        return withUnsafeTemporaryAllocation(byteCount: Self.piece, alignment: 1) { buffer in
            let result = stream.read(into: buffer)
            if case .bytes(let count) = result { input.append(contentsOf: buffer[..<count]) }
            return result
        }
    }

    private func readHead() {
        while phase == .head, opened != nil {
            do throws(HTTPError) {
                while phase == .head, let end = try parser.end(in: input, from: consumed) {
                    let head = try parser.response(input[consumed..<end], to: passage.method)
                    consumed = end
                    try take(head)
                }
            } catch {
                carrier.peerLog.log(.warning, "bad response", of: "\(destination)", label: "to", ["reason": "\(error)"])
                return failed(StreamError(.protocolViolation, "the server's response cannot be read: \(error)"))
            }
            guard phase == .head else { return }
            switch readMore() {
            case .bytes: hasHeard = true
            case .wouldBlock: return
            case .end:
                if mayAskAgain { return askAgain() }
                return failed(StreamError(.truncated, "the server ended before its response did"))
            case .failed:
                if mayAskAgain { return askAgain() }
                return failed(opened.map { $0.stream.failure ?? .closed($0.stream) } ?? .closed(self))
            }
        }
    }

    private func take(_ head: HTTPResponseHead) throws(HTTPError) {
        if head.isInterim {
            interims += 1
            guard interims <= Self.interimLimit else { throw HTTPError(400, "there is no end of interim responses") }
            _ = front.respond(head.status, HTTP2Heads.response(head, adding: HTTPFields()))
            return
        }
        guard head.status != 101 else {
            throw HTTPError(400, "the protocol changes, and nobody has asked for it")
        }
        response = head
        keepsServer = head.keepsAlive
        let isEmpty = head.framing == .none || head.framing == .length(0)
        if !isEmpty { body = HTTPBodyReader(head.framing, limits: limits) }
        answer(head.status, HTTP2Heads.response(head, adding: passage.added), ends: isEmpty)
    }

    override func receive(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        while let stream = opened?.stream, body != nil {
            if !content.isEmpty {
                let count = min(content.count, buffer.count)
                input[content.prefix(count)].withUnsafeBytes { buffer.copyMemory(from: $0) }
                content = content.dropFirst(count)
                consumed = content.lowerBound
                return .bytes(count)
            }
            if body?.isOver == true { return .end }
            if consumed == input.count, let plain = body?.plainBytes {
                let room = UnsafeMutableRawBufferPointer(
                    rebasing: buffer[..<Int(min(UInt64(buffer.count), plain))]
                )
                let result = stream.read(into: room)
                switch result {
                case .bytes(let count): body?.skip(count)
                case .wouldBlock: break
                case .end: return serverEnded()
                case .failed: fail(stream.failure ?? .closed(stream))
                }
                return result
            }
            do throws(HTTPError) {
                switch try body?.next(in: input, from: consumed) {
                case .content(let range):
                    content = range
                    continue
                case .needsMore(let index): consumed = index
                case .end(let next, let trailers):
                    consumed = next
                    front.trailersToSend = HTTP2Heads.trailers(trailers)
                    return .end
                case nil: return .wouldBlock
                }
            } catch {
                fail(StreamError(.protocolViolation, "the server's response cannot be read: \(error)"))
                return .failed
            }
            switch readMore() {
            case .bytes: continue
            case .wouldBlock: return .wouldBlock
            case .end: return serverEnded()
            case .failed:
                fail(stream.failure ?? .closed(stream))
                return .failed
            }
        }
        return refuseRead()
    }

    private func serverEnded() -> ReadResult {
        if body?.mayEndHere == true { return .end }
        fail(StreamError(.truncated, "the server ended before its response did"))
        return .failed
    }
}
