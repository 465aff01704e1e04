import CLinux
import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// One client of an HTTP proxy: reads its requests one after the other, and has each go where it says. Confined to its
/// loop; keeps itself alive until it is done.
///
/// ```
///   head ─→ [password] ─→ CONNECT ───────→ open ─→ 200 ─→ relay                       (this object is over)
///    ↑                 ─→ http://host/… ─→ open, or the server of before ─→ exchange ──┐
///    │                 ─→ /proxy.pac ────→ page ───────────────────────────────────────┤
///    └──────────────────────────────── next request ──────────────────────────────────-┘
/// ```
final class HTTPProxyConnection: StreamObserver, TurnTask {
    enum State {
        /// Waits for a request, or for the rest of one.
        case head
        /// Its password is checked, or its stream opened.
        case waiting
        case exchange
        /// What was written last goes out; nothing more is read.
        case closing
        case over
    }

    struct Server {
        let stream: HTTPServerStream
        let authority: Authority
        let opened: StreamOpener.Opened
    }

    let client: Socket
    let carrier: StreamCarrier
    private let listener: NodeConfiguration.Listener
    let source: IPAddress
    var state = State.head
    var exchange: HTTPExchange?
    /// Where the exchange goes on, or the next one to the same server.
    var server: Server?
    /// What is asked for now, as far as rules read it.
    private var details: RequestDetails?
    var isReused = false
    /// An upgraded server has, and the client is to be told.
    var serverHasEnded = false
    private var cancel: StreamOpener.Cancellation?

    /// What was read, of which the first `consumed` bytes are done with.
    var input: [UInt8] = []
    var consumed = 0
    private var output: [UInt8] = []
    private var written = 0
    private var parser = HTTPHeadParser()
    private var timer: LoopTimer?
    private var newcomer: Newcomers.Key?
    private var failedPasswords = 0
    private var retained = Retained<HTTPProxyConnection>()

    /// For a head, from its first byte or the connection's begin; and for a client that is to take its last page.
    private static let headTimeout: Duration = .seconds(15)
    /// Between two requests.
    private static let idleTimeout: Duration = .seconds(60)
    private static let piece = 4096
    private static let passwordLimit = 3

    init(_ client: Socket, _ listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        self.client = client
        self.listener = listener
        self.carrier = carrier
        source = client.peerAddress?.address ?? .loopbackIPv4
    }

    var loop: EventLoop { client.loop }
    var clientDescription: String { client.peerDescription }
    var isLive: Bool { retained.isHeld }
    /// Whether the client may read why something failed.
    var isLocal: Bool { source.isLoopback }

    func start() {
        retained.hold(self)
        client.observer = self
        let timer = LoopTimer(on: loop) { [weak self] in self?.timedOut() }
        self.timer = timer
        timer.schedule(after: Self.headTimeout)
        newcomer = carrier.admit(from: source) { [weak self] in self?.end(resetting: .crowdedOut) }
        readHead()
    }

    // MARK: StreamObserver

    func streamReadable(_ stream: ByteStream) {
        switch state {
        case .head: readHead()
        case .exchange: if wantsRequestBytes, let server { server.stream.observer?.streamReadable(server.stream) }
        case .waiting, .closing, .over: break
        }
    }

    func streamWritable(_ stream: ByteStream) {
        guard flush(), output.isEmpty else { return }
        switch state {
        case .exchange:
            finishIfServerHas()
            goOn()
        case .closing: close()
        case .head, .waiting, .over: break
        }
    }

    func streamFailed(_ stream: ByteStream) { end(resetting: stream.failure ?? .closed(stream)) }

    // MARK: Heads

    /// The next request, after an exchange or a page.
    func nextRequest() {
        exchange = nil
        state = .head
        parser = HTTPHeadParser()
        timer?.schedule(after: input.count > consumed ? Self.headTimeout : Self.idleTimeout)
        // Who sends a thousand requests at once must not have a thousand calls on the stack.
        loop.nextTurn(self)
    }

    func runTurn() {
        switch state {
        case .head: readHead()
        case .exchange: goOn()
        case .waiting, .closing, .over: break
        }
    }

    private func readHead() {
        while state == .head {
            do throws(HTTPError) {
                if let end = try parser.end(in: input, from: consumed) {
                    let head = try parser.request(input[consumed..<end])
                    consumed = end
                    return handle(head)
                }
            } catch {
                carrier.peerLog.log(.info, "bad request", of: "\(source)", ["reason": "\(error)"])
                return answer(.bad(error), closes: true)
            }
            let isFirst = input.count == consumed
            switch readMore() {
            case .bytes: if isFirst { timer?.schedule(after: Self.headTimeout) }
            case .wouldBlock: return
            // In the middle of a head it is no request.
            case .end: return end(resetting: nil)
            case .failed: return end(resetting: client.failure ?? .closed(client))
            }
        }
    }

    /// Reads a piece into the input.
    func readMore() -> ReadResult {
        if consumed == input.count {
            input.removeAll(keepingCapacity: input.capacity <= 4 * Self.piece)
            consumed = 0
        } else if consumed >= Self.piece {
            input.removeSubrange(..<consumed)
            consumed = 0
        }
        return withUnsafeTemporaryAllocation(byteCount: Self.piece, alignment: 1) { buffer in
            let result = client.read(into: buffer)
            if case .bytes(let count) = result { input.append(contentsOf: buffer[..<count]) }
            return result
        }
    }

    private func handle(_ head: HTTPRequestHead) {
        timer?.cancel()
        state = .waiting
        let target: HTTPProxyTarget
        do throws(HTTPError) {
            target = try HTTPProxyTarget(of: head)
        } catch {
            return answer(.bad(error), to: head, closes: true)
        }
        admit(head, target)
    }

    /// Has a request served if its client may. Each is asked about: a reload may have changed who may since the last.
    private func admit(_ head: HTTPRequestHead, _ target: HTTPProxyTarget) {
        let access = carrier.access(to: listener)
        let check: PasswordCheck
        switch access {
        case .everybody: return serve(head, target)
        case .nobody: return end(resetting: StreamError(.denied, "listener '\(listener.name)' has no users any more"))
        case .users(let users): check = users
        }
        let isOwn = if case .own = target { true } else { false }
        let field = head.fields.values(isOwn ? "authorization" : "proxy-authorization")
        guard field.count == 1, let (user, password) = Self.credentials(field[0]) else {
            return askForPassword(head, isOwn: isOwn)
        }
        check.check(user: user, password: password, from: source, on: loop) { [weak self] verdict in
            guard let self, isLive else { return }
            switch verdict {
            case .right:
                // It was the right one when it was asked about.
                guard carrier.access(to: listener).isSame(as: access) else { return admit(head, target) }
                failedPasswords = 0
                serve(head, target)
            case .wrong:
                carrier.peerLog.log(.notice, "a wrong name or password", of: "\(source)")
                askForPassword(head, isOwn: isOwn)
            case .busy:
                carrier.peerLog.log(.notice, "too many passwords at once", of: "\(source)")
                answer(.busy, to: head, closes: true)
            }
        }
    }

    /// Whoever goes on without one must not hold a connection for as long as he likes.
    private func askForPassword(_ head: HTTPRequestHead, isOwn: Bool) {
        failedPasswords += 1
        answer(.passwordNeeded(isOwn: isOwn), to: head, closes: failedPasswords >= Self.passwordLimit)
    }

    /// RFC 7617 §2.
    static func credentials(_ field: String) -> (user: [UInt8], password: [UInt8])? {
        let parts = field.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, HTTPFields.isSame(String(parts[0]), "basic"), let bytes = Base64.decode(parts[1]),
            let colon = bytes.firstIndex(of: UInt8(ascii: ":"))
        else { return nil }
        return (Array(bytes[..<colon]), Array(bytes[(colon + 1)...]))
    }

    private func serve(_ head: HTTPRequestHead, _ target: HTTPProxyTarget) {
        if let newcomer { carrier.newcomers.remove(newcomer) }
        newcomer = nil
        switch target {
        case .own(let path): answer(ownPage(path, head), to: head)
        case .tunnel(let authority): tunnel(to: authority, head)
        case .server(let authority, let path):
            do throws(HTTPError) {
                if try HTTPProxyHeads.maxForwards(head) == 0 { return answer(.options, to: head) }
                exchange = try HTTPExchange(head, to: authority, path: path, isLast: carrier.isDraining)
            } catch {
                return answer(.bad(error), to: head, closes: true)
            }
            details = RequestDetails(method: head.method, target: path)
            if let server, server.authority == authority, mayGoOn(over: server) {
                isReused = true
                state = .exchange
                return server.stream.wake()
            }
            openServer()
        }
    }

    /// Whether policy lets this request have the stream of the one before. Otherwise it is asked for one of its own,
    /// and told why there is none.
    private func mayGoOn(over server: Server) -> Bool {
        let request = carrier.request(of: client, to: server.authority, details: details)
        let dialled = server.opened.dialled.flatMap { peer in peer.address.map { ($0, peer.port) } }
        let planner = carrier.snapshot.planner
        guard planner.refusal(of: request, over: server.opened.path, dialled: dialled) == nil else { return false }
        // AUDIT policies log each request.
        _ = carrier.opener.plan(request)
        return true
    }

    private func ownPage(_ path: String, _ head: HTTPRequestHead) -> HTTPProxyPage {
        guard path == "/proxy.pac", head.method == "GET" || head.method == "HEAD" else { return .notHere }
        let host = head.fields.first("host").flatMap { text in
            (try? Authority(parsing: text)) ?? (try? Authority(parsing: "\(text):80"))
        }
        // A page of the web that has given its own name this address must not read which services there are.
        let hasUsers = if case .users = carrier.access(to: listener) { true } else { false }
        guard let host, host.address != nil || host.host == "localhost" || hasUsers else { return .notHere }
        let script = PACFile.script(proxy: host, endpoints: carrier.snapshot.configuration.endpoints.map(\.match))
        return HTTPProxyPage(status: 200, text: script, type: "application/x-ns-proxy-autoconfig")
    }

    // MARK: Streams

    private func open(
        _ authority: Authority,
        _ completion: @escaping (Result<(StreamOpener.Opened, StreamRequest), StreamError>) -> Void
    ) {
        let request = carrier.request(of: client, to: authority, details: details)
        var isDone = false
        let cancel = carrier.open(request) { [self] result in
            isDone = true
            self.cancel = nil
            completion(result.map { ($0, request) })
        }
        if !isDone { self.cancel = cancel }
    }

    private func tunnel(to authority: Authority, _ head: HTTPRequestHead) {
        // What goes through it nobody reads.
        details = nil
        open(authority) { [self] result in
            switch result {
            case .success(let (opened, request)):
                write(Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8))
                guard isLive, output.isEmpty else {
                    opened.abandon()
                    return end(resetting: .closed(client))
                }
                server?.stream.letGo()
                server = nil
                state = .over
                carrier.join(client, early: Array(input[consumed...]), opened, request)
                retained.release()
            // What the client has sent in hope of a stream must not be taken for requests.
            case .failure(let error): answer(.failed(error, isLocal: isLocal), to: head, closes: true)
            }
        }
    }

    /// Opens a connection for the exchange.
    func openServer() {
        guard let exchange else { return }
        server?.stream.letGo()
        server = nil
        isReused = false
        state = .waiting
        open(exchange.destination) { [self] result in
            switch result {
            case .success(let (opened, request)):
                state = .exchange
                let stream = HTTPServerStream(for: self)
                server = Server(stream: stream, authority: exchange.destination, opened: opened)
                // A reload decides about the request of then, which need not be the one that the stream was opened for.
                carrier.join(stream, opened, request) { [weak self] in
                    self.map { $0.carrier.request(of: $0.client, to: request.destination, details: $0.details) }
                }
            case .failure(let error): answerInstead(.failed(error, isLocal: isLocal))
            }
        }
    }

    // MARK: Output

    /// A page in the place of an exchange's response, which has not begun.
    func answerInstead(_ page: HTTPProxyPage) {
        guard let exchange else { return }
        let closes = !exchange.isRequestRead || exchange.closesClient
        self.exchange = nil
        answer(page, to: exchange.request, closes: closes)
    }

    private func answer(_ page: HTTPProxyPage, to head: HTTPRequestHead? = nil, closes: Bool = false) {
        let keeps = !closes && head?.keepsAlive == true && head?.framing.isEmpty == true
        write(page.response(to: head?.method ?? "GET", closes: !keeps))
        guard isLive else { return }
        if keeps, output.isEmpty { return nextRequest() }
        server?.stream.letGo()
        server = nil
        close()
    }

    func write(_ bytes: [UInt8]) {
        if output.isEmpty { output = bytes } else { output += bytes }
        _ = flush()
    }

    var hasOutput: Bool { !output.isEmpty }

    /// Returns false where the client is gone.
    private func flush() -> Bool {
        while written < output.count {
            switch output[written...].withUnsafeBytes({ client.write($0) }) {
            case .bytes(let count): written += count
            case .wouldBlock: return true
            case .failed:
                end(resetting: client.failure ?? .closed(client))
                return false
            }
        }
        output = []
        written = 0
        return true
    }

    private func timedOut() {
        switch state {
        case .head where input.count > consumed:
            answer(.bad(HTTPError(408, "the head of the request did not come in time")), closes: true)
        case .head: end(resetting: nil)
        default: end(resetting: StreamError(.timedOut, "the HTTP client does not read"))
        }
    }

    /// Everything was said, and goes out.
    func close() {
        if output.isEmpty { return end(resetting: nil) }
        state = .closing
        timer?.schedule(after: Self.headTimeout)
    }

    func end(resetting reason: StreamError?) {
        guard retained.isHeld else { return }
        state = .over
        timer?.cancel()
        if let newcomer { carrier.newcomers.remove(newcomer) }
        cancel?()
        cancel = nil
        if let server {
            if let reason, exchange != nil { server.stream.abort(reason) } else { server.stream.letGo() }
        }
        server = nil
        exchange = nil
        if let reason {
            client.reset(reason)
        } else {
            client.finish()
            client.close()
        }
        retained.release()
    }
}
