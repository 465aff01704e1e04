import HTTP1
import Platform

/// One request of a proxy's client and its response: what came from either side becomes what goes to the other. No I/O.
///
/// ```
///   client's bytes ─→ head, content ─→ toServer           toClient ←─ head, content ←─ server's bytes
/// ```
///
/// Both messages are read to their end and written anew, so that client, proxy and server agree about where they end.
struct HTTPExchange {
    let destination: Authority
    /// As the client has sent it.
    let request: HTTPRequestHead
    /// As the server gets it.
    private let next: HTTPRequestHead
    private let upgrade: String?
    /// What is set in each final response, in the place of what the server says.
    private let added: HTTPFields
    /// Whether the client is one of the world, whose trailers say nothing that a gateway says itself.
    private let dropsClaims: Bool
    private let limits: HTTPLimits

    /// What is to be sent next, either way.
    var toServer: [UInt8]
    var toClient: [UInt8] = []
    private var requestBody: HTTPBodyReader
    private(set) var isRequestRead = false
    /// Content of a request that does not say how much it has.
    private var chunkedBytes: UInt64 = 0

    private var answer: [UInt8] = []
    private var parser: HTTPHeadParser
    private var responseBody: HTTPBodyReader?
    private var response: HTTPResponseHead?
    private var writesChunks = false
    private var interims = 0
    private(set) var hasAnswerBegun = false
    private(set) var isAnswered = false
    /// Both sides speak another protocol from now on.
    private(set) var isUpgraded = false
    /// Bytes came after the response, which nobody has asked for.
    private var hasMoreThanAnswer = false
    /// The client's connection ends with this exchange.
    private(set) var closesClient: Bool

    /// A server that goes on with them says nothing else.
    private static let interimLimit = 32

    /// - Parameter isLast: The client's connection ends with it, whatever the request says.
    init(
        _ request: HTTPRequestHead,
        to destination: Authority,
        path: String,
        isLast: Bool = false,
        limits: HTTPLimits = HTTPLimits()
    ) throws(HTTPError) {
        let (next, upgrade) = try HTTPProxyHeads.request(request, to: destination, path: path)
        try self.init(request, as: next, upgrade: upgrade, to: destination, isLast: isLast, limits: limits)
    }

    /// - Parameters:
    ///   - next: What the server gets in its place, with the same content.
    ///   - upgrade: The protocol that both ask for.
    ///   - added: Set in each final response, in the place of what the server says.
    ///   - dropsClaims: Trailers go on without what a gateway says itself, as `next` is to be made.
    init(
        _ request: HTTPRequestHead,
        as next: HTTPRequestHead,
        upgrade: String?,
        to destination: Authority,
        isLast: Bool,
        limits: HTTPLimits,
        adding added: HTTPFields = HTTPFields(),
        dropsClaims: Bool = false
    ) throws(HTTPError) {
        if let limit = limits.body, case .length(let count) = request.framing, count > limit {
            throw Self.tooMuch(limit)
        }
        self.request = request
        self.destination = destination
        self.next = next
        self.limits = limits
        self.upgrade = upgrade
        self.added = added
        self.dropsClaims = dropsClaims
        toServer = next.bytes
        requestBody = HTTPBodyReader(request.framing, limits: limits)
        isRequestRead = requestBody.isOver
        parser = HTTPHeadParser(limits: limits)
        closesClient = isLast || !request.keepsAlive
    }

    /// Whether it can be asked again when the connection is lost before an answer (RFC 9110 §9.2.2).
    var isRepeatable: Bool {
        request.framing == .none && !hasAnswerBegun
            && ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].contains(request.method)
    }

    /// Whether the server has got anything of the request.
    var hasBegun = false

    /// The same from its beginning, for another connection.
    var again: HTTPExchange? {
        try? HTTPExchange(
            request,
            as: next,
            upgrade: upgrade,
            to: destination,
            isLast: closesClient,
            limits: limits,
            adding: added,
            dropsClaims: dropsClaims
        )
    }

    private static func tooMuch(_ limit: UInt64) -> HTTPError {
        HTTPError(413, "the content is longer than \(limit) bytes")
    }

    /// Whether the client has something of the final response.
    var isAnswerShown: Bool { response != nil || isUpgraded }

    /// Whether the server's connection has taken the whole request. It takes what its window has room for: a server
    /// that answers early leaves the rest here, and would read another request in its place.
    var isRequestSent: Bool { hasBegun && isRequestRead && toServer.isEmpty }

    /// Whether the connection to the server can have another exchange after this one.
    var keepsServer: Bool {
        isRequestSent && isAnswered && !hasMoreThanAnswer && !isUpgraded && response?.keepsAlive == true
    }

    // MARK: From the client

    /// How many of the client's next bytes are content as they stand.
    var plainRequestBytes: Int {
        guard !isRequestRead, toServer.isEmpty, request.framing != .chunked else { return 0 }
        return Int(clamping: requestBody.plainBytes ?? 0)
    }

    /// So many of ``plainRequestBytes`` went past this value.
    mutating func skipRequest(_ count: Int) {
        requestBody.skip(count)
        if requestBody.isOver { isRequestRead = true }
    }

    /// Takes content from the client's bytes into ``toServer``, one piece at most.
    ///
    /// - Parameter index: Where it stands in the bytes; goes on.
    mutating func readRequest(_ bytes: [UInt8], _ index: inout Int) throws(HTTPError) {
        guard !isRequestRead else { return }
        let isChunked = request.framing == .chunked
        switch try requestBody.next(in: bytes, from: index) {
        case .content(let range):
            if isChunked {
                chunkedBytes += UInt64(range.count)
                if let limit = limits.body, chunkedBytes > limit { throw Self.tooMuch(limit) }
                toServer += HTTPChunk.start(range.count)
            }
            toServer += bytes[range]
            if isChunked { toServer += [13, 10] }
            index = range.upperBound
            if requestBody.isOver { isRequestRead = true }
        case .needsMore(let consumed): index = consumed
        case .end(let next, var trailers):
            if dropsClaims { trailers.all.removeAll { IngressHeads.isClaim($0.name.lowercased()) } }
            if isChunked { toServer += HTTPChunk.end(trailers) }
            index = next
            isRequestRead = true
        }
    }

    // MARK: From the server

    /// How many of the server's next bytes are content as they stand.
    var plainAnswerBytes: Int {
        guard let responseBody, !isAnswered, toClient.isEmpty, answer.isEmpty, !writesChunks,
            response?.framing != .chunked
        else { return 0 }
        return Int(clamping: responseBody.plainBytes ?? 0)
    }

    mutating func skipAnswer(_ count: Int) {
        responseBody?.skip(count)
        if response?.framing != .untilClose, responseBody?.isOver == true { isAnswered = true }
    }

    /// What the server has sent. Once ``isAnswered``, there must be no more.
    ///
    /// - Throws: What is wrong with it; what ``toClient`` has got before stands.
    mutating func receive(_ bytes: UnsafeRawBufferPointer) throws(HTTPError) {
        guard !bytes.isEmpty else { return }
        hasAnswerBegun = true
        if isAnswered {
            hasMoreThanAnswer = true
            return
        }
        if isUpgraded {
            toClient.append(contentsOf: bytes)
            return
        }
        answer.append(contentsOf: bytes)
        var index = 0
        defer { answer.removeSubrange(..<index) }
        while !isAnswered {
            if isUpgraded {
                toClient += answer[index...]
                index = answer.count
                return
            }
            if responseBody == nil {
                guard let end = try parser.end(in: answer, from: index) else { return }
                let head = try parser.response(answer[index..<end], to: request.method)
                index = end
                try take(head)
            } else if try !readAnswer(&index) {
                return
            }
        }
        if index < answer.count { hasMoreThanAnswer = true }
        index = answer.count
    }

    private mutating func take(_ head: HTTPResponseHead) throws(HTTPError) {
        if head.isInterim {
            interims += 1
            guard interims <= Self.interimLimit else { throw HTTPError(400, "there is no end of interim responses") }
            // HTTP/1.0 knows none.
            guard request.version == .http11 else { return }
            toClient +=
                HTTPProxyHeads.response(head, to: request, framing: .none, closes: false).bytes
            return
        }
        if head.status == 101 {
            guard upgrade != nil else { throw HTTPError(400, "the protocol changes, and nobody has asked for it") }
            toClient += HTTPProxyHeads.response(head, to: request, framing: .none, closes: false).bytes
            isUpgraded = true
            closesClient = true
            return
        }
        var framing = head.framing
        if framing == .chunked || framing == .untilClose {
            framing = request.version == .http11 ? .chunked : .untilClose
        }
        // A request that is not read to its end is the last one.
        if framing == .untilClose || !isRequestRead { closesClient = true }
        writesChunks = framing == .chunked
        var shown = HTTPProxyHeads.response(head, to: request, framing: framing, closes: closesClient)
        for field in added.all { shown.fields.replace(field.name, field.text) }
        toClient += shown.bytes
        response = head
        responseBody = HTTPBodyReader(head.framing, limits: limits)
        if head.framing == .none || head.framing == .length(0) { isAnswered = true }
    }

    /// Returns whether to go on.
    private mutating func readAnswer(_ index: inout Int) throws(HTTPError) -> Bool {
        guard var body = responseBody else { return false }
        defer { responseBody = body }
        switch try body.next(in: answer, from: index) {
        case .content(let range):
            if writesChunks { toClient += HTTPChunk.start(range.count) }
            toClient += answer[range]
            if writesChunks { toClient += [13, 10] }
            index = range.upperBound
            if response?.framing != .untilClose, body.isOver { isAnswered = true }
            return true
        case .needsMore(let consumed):
            index = consumed
            return false
        case .end(let next, let trailers):
            index = next
            if writesChunks { toClient += HTTPChunk.end(trailers) }
            isAnswered = true
            return false
        }
    }

    /// The server has ended. Returns whether the response was whole.
    mutating func end() -> Bool {
        if isAnswered || isUpgraded { return true }
        guard response?.framing == .untilClose else { return false }
        if writesChunks { toClient += HTTPChunk.end() }
        isAnswered = true
        return true
    }
}
