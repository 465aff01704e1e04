import HTTP1
import Logging
import Platform
import Streams

/// Serves metrics, or the administration: HTTP/1.1, one request for each connection. Confined to its loop.
final class OperationServer {
    typealias Handler = @Sendable (OperationRequest) async -> OperationResponse

    private let loop: EventLoop
    private let gate: OperationGate
    private let handler: Handler
    private let timeout: Duration
    private var listener: Listener?
    /// Where it will listen once ``takePlace()`` is called.
    private var place: SocketAddress?
    private var connections: [ObjectIdentifier: OperationConnection] = [:]
    /// Those that have not asked yet: whoever connects and says nothing shuts out no probe.
    private let newcomers = Newcomers(limit: OperationServer.limit)

    /// Of those that have not asked, and of those whose answer is under way.
    private static let limit = 64

    /// - Parameters:
    ///   - address: Where it listens, unless it goes on with `socket`.
    ///   - socket: One that another process has handed over.
    ///   - isHeir: Another process may have a Unix socket at `address`, which cannot be handed over: that one is
    ///     reached there until ``takePlace()``.
    ///   - loop: Where it lives.
    ///   - timeout: For each request, and for its response to be read.
    ///   - handler: Answers, from any thread.
    /// - Throws: ``Streams/StreamError`` when nothing can listen there.
    init(
        at address: SocketAddress,
        adopting socket: ListeningSocket?,
        replacing isHeir: Bool = false,
        on loop: EventLoop,
        timeout: Duration = .seconds(10),
        handler: @escaping Handler
    ) throws(StreamError) {
        self.loop = loop
        self.handler = handler
        self.timeout = timeout
        gate = OperationGate(bind: address.address)
        let bound = LoopBound(Weak(self), on: loop)
        let accept: @Sendable (Socket) -> Void = { socket in
            bound.withValue { server in
                if let server = server.value { server.accept(socket) } else { socket.close() }
            }
        }
        var options = ListenerOptions.defaults
        options.unixPermissions = 0o600
        if let socket {
            listener = try Listener(adopting: socket, on: loop, options: options, accept: accept)
        } else {
            var bind = address
            if isHeir, address.isUnix {
                bind = try Self.placeBeside(address)
                place = address
            }
            listener = try Listener(bind: bind, on: loop, options: options, accept: accept)
        }
    }

    /// In the same directory, since a file moves in one step only there.
    private static func placeBeside(_ address: SocketAddress) throws(StreamError) -> SocketAddress {
        if let longer = try? SocketAddress(unixPath: address.ip + ".new") { return longer }
        return try SocketAddress(unixPath: String(address.ip.dropLast()) + "~")
    }

    /// Is reached at its address from now on, and the process before it no longer: for the end of a start.
    ///
    /// - Throws: ``Streams/StreamError``; the process before it is reached still.
    func takePlace() throws(StreamError) {
        guard let listener, let place else { return }
        try listener.move(to: place)
        self.place = nil
    }

    var localAddress: SocketAddress? { listener?.localAddress }

    /// The listening socket, for a process that takes over; nil for a Unix socket, which that one makes anew.
    func duplicate(named name: String) throws -> ListeningSocket? {
        guard let listener, !listener.localAddress.isUnix else { return nil }
        return try listener.duplicate(named: name)
    }

    /// Accepts nothing more; who was accepted is answered.
    func close() {
        listener?.close()
        listener = nil
    }

    /// Drops whoever is still there.
    func shutDown() {
        close()
        for connection in Array(connections.values) { connection.end() }
    }

    private func accept(_ socket: Socket) {
        // Files of one user: another one who got hold of the path is nobody here.
        if socket.peerAddress?.isUnix ?? true, gate.bind == nil, socket.peerProcess?.isTrusted != true {
            return socket.reset(StreamError(.denied, "the process belongs to another user"))
        }
        let connection = OperationConnection(socket, gate, timeout: timeout, handler)
        let key = newcomers.add { [weak connection] in connection?.end() }.key
        connections[ObjectIdentifier(connection)] = connection
        connection.asks = { [weak self] in
            guard let self else { return false }
            // It is among the newcomers still.
            let isFree = connections.count - newcomers.count < Self.limit
            newcomers.remove(key)
            return isFree
        }
        connection.ended = { [weak self, unowned connection] in
            self?.newcomers.remove(key)
            self?.connections[ObjectIdentifier(connection)] = nil
        }
        connection.start()
    }

    private final class Weak {
        weak var value: OperationServer?
        init(_ value: OperationServer) { self.value = value }
    }
}

/// One request and its response. Confined to its loop; its server keeps it until it has ended.
final class OperationConnection: StreamObserver {
    var ended: () -> Void = {}
    /// Whether it may ask: called once, when its request is there.
    var asks: () -> Bool = { true }
    private let client: Socket
    private let gate: OperationGate
    private let handler: OperationServer.Handler
    private var parser = HTTPHeadParser()
    private var input: [UInt8] = []
    private var output: [UInt8] = []
    private var written = 0
    private var state = State.head
    private var timer: LoopTimer?

    private enum State {
        case head
        /// The handler is at work.
        case asked
        case answering
        case over
    }

    private let timeout: Duration

    /// - Parameter timeout: For the request, and for the response to be read.
    init(
        _ client: Socket,
        _ gate: OperationGate,
        timeout: Duration,
        _ handler: @escaping OperationServer.Handler
    ) {
        self.client = client
        self.gate = gate
        self.timeout = timeout
        self.handler = handler
    }

    func start() {
        client.observer = self
        let timer = LoopTimer(on: client.loop) { [weak self] in self?.timedOut() }
        timer.schedule(after: timeout)
        self.timer = timer
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) { flush() }
    func streamFailed(_ stream: ByteStream) { end() }

    private func timedOut() {
        // Who has said nothing is told nothing.
        guard state == .head, !input.isEmpty else { return end() }
        answer(OperationResponse(408, "the head of the request did not come in time"))
    }

    private func read() {
        while state == .head {
            let result = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
                let result = client.read(into: buffer)
                if case .bytes(let count) = result { input.append(contentsOf: buffer[..<count]) }
                return result
            }
            switch result {
            case .bytes: parse()
            case .wouldBlock: return
            case .end, .failed: return end()
            }
        }
    }

    private func parse() {
        do throws(HTTPError) {
            guard let end = try parser.end(in: input, from: 0) else { return }
            let head = try parser.request(input[..<end])
            switch gate.check(head) {
            case .success(let request): ask(request, hasBody: head.method != "HEAD")
            case .failure(let refusal): answer(refusal.response)
            }
        } catch {
            answer(OperationResponse(error.status, error.message))
        }
    }

    private func ask(_ request: OperationRequest, hasBody: Bool) {
        guard asks() else { return answer(OperationResponse(503, "too many ask at once"), hasBody: hasBody) }
        state = .asked
        // What takes longer than a scrape may is a loop that hangs: for the handler to find out.
        timer?.schedule(after: .seconds(60))
        let (bound, handler) = (LoopBound(self, on: client.loop), handler)
        let loop = client.loop
        Task {
            let response = await handler(request)
            loop.submit { bound.withValue { $0.answer(response, hasBody: hasBody) } }
        }
    }

    private func answer(_ response: OperationResponse, hasBody: Bool = true) {
        guard state == .head || state == .asked else { return }
        state = .answering
        timer?.schedule(after: timeout)
        var fields = HTTPFields()
        fields.append("content-type", response.type)
        fields.append("content-length", "\(response.body.count)")
        if let allow = response.allow { fields.append("allow", allow) }
        if let time = response.retryAfter { fields.append("retry-after", "\(time)") }
        fields.append("cache-control", "no-store")
        fields.append("content-security-policy", response.contentPolicy)
        fields.append("cross-origin-resource-policy", "same-origin")
        fields.append("x-content-type-options", "nosniff")
        fields.append("connection", "close")
        let head = HTTPResponseHead(
            status: response.status,
            reason: Array(HTTPStatus.reason(of: response.status).utf8),
            fields: fields,
            framing: .length(UInt64(response.body.count))
        )
        output = head.bytes + (hasBody ? response.body : [])
        flush()
    }

    private func flush() {
        guard state == .answering else { return }
        while written < output.count {
            switch output[written...].withUnsafeBytes({ client.write($0) }) {
            case .bytes(let count): written += count
            case .wouldBlock: return
            case .failed: return end()
            }
        }
        state = .over
        timer?.cancel()
        client.finish()
        client.close()
        ended()
    }

    func end() {
        guard state != .over else { return }
        state = .over
        timer?.cancel()
        client.reset(StreamError(.closed, "the request came to nothing"))
        ended()
    }
}
