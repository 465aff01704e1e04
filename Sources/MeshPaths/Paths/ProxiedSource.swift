import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// `h2` through infrastructure that is not trusted: one request of HTTP/2 to a proxy for each stream, and inside of it
/// mutual TLS with the peer. Confined to its event loop.
///
///     TCP ─ TLS with the proxy (web) ─ HTTP/2 ─ stream: x-tun, token ─ TLS with the peer (mesh) ─ bytes
///
/// The path is up when the proxy answers: whether the peer does, each stream finds out. A proxy that sends the stream
/// somewhere else, or takes it for itself, meets an identity that it cannot prove.
final class ProxiedSource: PathSource {
    var events: PathEvents {
        get { outer.events }
        set { outer.events = newValue }
    }
    private(set) var peer: SPIFFEID?

    private let outer: TunnelSource
    private var proxy: ProxyAccess
    private let tokens: ProxyTokens?
    /// With the peer.
    private var context: TLSContext
    private let expectation: PeerExpectation
    private let loop: EventLoop
    /// Streams that wait for a token or for the peer's handshake.
    private var opening = 0
    /// Those that are open, to be cut when the peer's certificate is revoked.
    private var streams: [Weak] = []
    private var longest = 64

    private struct Weak { weak var stream: TLSStream? }

    init(
        _ proxy: ProxyAccess,
        over dial: @escaping TunnelSource.LowerDialer,
        again dialAgain: @escaping TunnelSource.LowerDialer,
        context: TLSContext,
        expecting expectation: PeerExpectation,
        settings: ConnectionSettings,
        on loop: EventLoop,
        logger: Logger
    ) {
        self.proxy = proxy
        self.context = context
        self.expectation = expectation
        self.loop = loop
        tokens = proxy.token.map { ProxyTokens($0, for: proxy.audience, on: loop, logger: logger) }
        outer = TunnelSource(
            over: dial,
            again: dialAgain,
            as: .h2,
            context: proxy.context,
            expecting: .anyTrusted,
            proxy: proxy.name,
            settings: Self.outer(settings),
            on: loop
        )
    }

    var streamCount: Int { max(opening, outer.streamCount) }
    var roundTripTime: Duration? { outer.roundTripTime }

    func networkChanged(_ change: NetworkChange) { outer.networkChanged(change) }
    func establish() { outer.establish() }
    func release() { outer.release() }
    func reset() { outer.reset() }

    /// Who is not trusted is told no more than what leads the stream.
    private static func outer(_ settings: ConnectionSettings) -> ConnectionSettings {
        var settings = settings
        settings.traceparent = .never
        return settings
    }

    func use(_ context: TLSContext, _ settings: ConnectionSettings) {
        let before = self.context
        self.context = context
        outer.use(proxy.context, Self.outer(settings))
        guard !context.trust.hasSameObjections(as: before.trust) else { return }
        for stream in streams.compactMap(\.stream) {
            guard let peer = stream.peer, let identity = peer.identity, let certificate = peer.certificate,
                let objection = context.trust.objection(to: certificate, of: identity)
            else { continue }
            stream.cut(StreamError(.authentication, objection))
        }
    }

    /// The files that say who may vouch for the proxy are others now; whatever else there is to know is as it was.
    func use(_ proxy: ProxyAccess) { self.proxy = proxy }

    // MARK: Streams

    typealias Completion = (Result<ByteStream, PathFailure>) -> Void

    func open(to authority: Authority, headers: HeaderFields, completion: @escaping Completion) {
        opening += 1
        let end: Completion = { [self] result in
            opening -= 1
            completion(result)
        }
        guard let tokens else { return ask(for: authority, headers, token: nil, isAgain: false, end) }
        tokens.current { [self] result in
            switch result {
            case .success(let token): ask(for: authority, headers, token: token, isAgain: false, end)
            case .failure(let error): loop.later { end(.failure(.refused(error))) }
            }
        }
    }

    private func ask(
        for authority: Authority,
        _ headers: HeaderFields,
        token: String?,
        isAgain: Bool,
        _ completion: @escaping Completion
    ) {
        let carried = headers["x-tun"]
        var fields: HeaderFields = ["x-tun": carried ?? authority.description]
        if let token { fields.append("authorization", "Bearer \(token)") }
        // What nodes need to notice a circle; whatever else there is to say of the stream is not for this proxy.
        for name in ["forwarded", "traceparent"] {
            if let value = headers[name] { fields.append(name, value) }
        }
        let request = ConnectRequest(authority: proxy.authority, method: proxy.method, headers: fields)
        outer.open(request) { [self] result, response in
            switch result {
            case .success(let stream) where carried != nil:
                // Somebody else's TLS, which is not for this node to end.
                completion(.success(stream))
            case .success(let stream): secure(stream, to: authority, completion)
            case .failure(let failure):
                guard let response else { return completion(.failure(failure)) }
                if response.status == 401, let token, let tokens, !isAgain {
                    return tokens.another(insteadOf: token) { [self] result in
                        switch result {
                        case .success(let other): ask(for: authority, headers, token: other, isAgain: true, completion)
                        case .failure(let error): loop.later { completion(.failure(.refused(error))) }
                        }
                    }
                }
                completion(.failure(explained(failure, response)))
            }
        }
    }

    /// What can be done about an answer.
    private func explained(_ failure: PathFailure, _ response: ConnectResponse) -> PathFailure {
        guard case .refused(let error) = failure else { return failure }
        let remedy: String
        switch response.status {
        case 401 where proxy.token == nil: remedy = "it asks for a token: add 'token' to the endpoint"
        case 401:
            remedy = "it does not accept the token, which must be of an issuer that it knows, for \(proxy.audience)"
        case 403: remedy = "it, or the gateway behind it, does not let this client through to the destination"
        case 404: remedy = "it has no route for \(proxy.method) with the host \(proxy.authority)"
        case 400, 405, 501: remedy = "it takes no \(proxy.method): try the other one of 'tun: POST' and 'tun: CONNECT'"
        case 408, 504: remedy = "what is behind it did not answer in time"
        case 431: remedy = "the request is too large for it: the token is too long"
        case 502, 503: remedy = "it does not reach what is behind it"
        default: return failure
        }
        return .refused(StreamError(error.code, "\(error.message) (\(remedy))"))
    }

    private func secure(_ stream: ByteStream, to authority: Authority, _ completion: @escaping Completion) {
        let secured = TLSStream(
            over: stream,
            context: context,
            expecting: expectation,
            serverName: InnerName.of(authority),
            offersProtocols: false
        )
        secured.endsLowerWithBoth = true
        secured.startHandshake { [self] result in
            switch result {
            case .success(let peer):
                self.peer = peer.identity
                if let identity = peer.identity, let certificate = peer.certificate,
                    let objection = context.trust.objection(to: certificate, of: identity)
                {
                    let error = StreamError(.authentication, objection)
                    secured.reset(error)
                    return completion(.failure(.refused(error)))
                }
                keep(secured)
                completion(.success(secured))
            case .failure(let error):
                let text =
                    "the proxy \(proxy.name) has opened a stream to \(authority), and at its end nobody proves to be "
                    + "\(expectation)"
                completion(.failure(.refused(StreamError(error.code, "\(text): \(error.message)"))))
            }
        }
    }

    private func keep(_ stream: TLSStream) {
        if streams.count >= longest {
            streams.removeAll { $0.stream == nil }
            longest = max(64, streams.count * 2)
        }
        streams.append(Weak(stream: stream))
    }
}
