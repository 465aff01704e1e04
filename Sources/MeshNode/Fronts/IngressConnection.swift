import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// One client of a gateway for HTTP: each of its requests goes where the listener's routes say.
final class IngressConnection: HTTPConnection {
    private let listener: NodeConfiguration.Listener
    private let load: IngressLoad
    private let facts: PeerFacts
    private let isSecure: Bool
    private var request: (method: String, path: HTTPPath) = ("GET", .root)
    /// Whose token the request has, on a listener that asks for one.
    private var principal: String?
    private var hasRequest = false
    /// Requests in a row whose token does not hold.
    private var failures = 0
    private static let failureLimit = 3

    /// - Parameters:
    ///   - client: A socket, or TLS over one whose handshake is done.
    ///   - rules: What holds now: times and limits are those for as long as the connection lasts.
    init(
        _ client: ByteStream,
        by listener: NodeConfiguration.Listener,
        _ rules: IngressRules,
        _ load: IngressLoad,
        _ carrier: StreamCarrier
    ) {
        self.listener = listener
        self.load = load
        facts = PeerFacts(of: client)
        isSecure = client is TLSStream
        let times = rules.settings.timeouts
        super.init(
            client,
            from: facts.address?.address ?? .loopbackIPv4,
            carrier,
            timeouts: HTTPTimeouts(head: times.head, idle: times.idle, stall: times.idle, upstream: times.upstream),
            limits: rules.settings.limits.http
        )
    }

    override func start() {
        load.connections += 1
        super.start()
    }

    override func connectionEnded() { load.connections -= 1 }

    override func exchangeEnded() {
        if hasRequest { load.requests -= 1 }
        hasRequest = false
    }

    override func streamRequest(to destination: Authority) -> StreamRequest {
        IngressClient.request(of: facts, to: destination, head: request, principal: principal)
    }

    override var certificate: CertificateName? { facts.certificate }

    private var rules: IngressRules? { carrier.snapshot.ingress[listener.name] }

    override func finished(_ page: HTTPProxyPage) -> HTTPProxyPage {
        guard let seconds = rules?.settings.hsts else { return page }
        var page = page
        page.fields.append(Self.hsts, "max-age=\(seconds)")
        return page
    }

    private static let hsts = "Strict-Transport-Security"

    override func handle(_ head: HTTPRequestHead) {
        welcome()
        // Listeners have changed more than once since it was accepted, and its own is none of them.
        guard let rules else {
            return end(resetting: StreamError(.denied, "listener '\(listener.name)' is not there any more"))
        }
        if let refusal = IngressClient.refusal(of: facts, carrier) { return end(resetting: refusal) }
        do throws(HTTPError) {
            let target = try IngressTarget(of: head)
            let route = rules.routes.route(host: target.host, path: target.path)
            // Who is sent on to https is not asked for a token in the clear.
            let isRedirect = route == nil && rules.settings.redirectPort != nil
            guard isRedirect || readToken(of: head) else { return }
            guard let route else { return answerUnrouted(head, target, rules) }
            guard load.requests < rules.settings.limits.requests else {
                carrier.peerLog.log(.warning, "too many requests at once", of: "\(source)")
                return answer(.overloaded, to: head)
            }
            request = (head.method, target.path)
            var certificate: String?
            if let identity = facts.identity {
                certificate = "By=\(carrier.snapshot.credential.id);URI=\(identity)"
            }
            let client = IngressHeads.Client(address: source, isSecure: isSecure, certificate: certificate)
            var bare = head
            if let tokens, !tokens.forwardsToken { bare.fields.remove("authorization") }
            let (next, upgrade) = try IngressHeads.request(bare, target, to: route.to, from: client)
            var added = HTTPFields()
            if let seconds = rules.settings.hsts { added.append(Self.hsts, "max-age=\(seconds)") }
            let exchange = try HTTPExchange(
                head,
                as: next,
                upgrade: upgrade,
                to: route.to,
                isLast: carrier.isDraining,
                limits: limits,
                adding: added
            )
            load.requests += 1
            hasRequest = true
            carry(exchange)
        } catch {
            carrier.peerLog.log(.info, "bad request", of: "\(source)", ["reason": "\(error)"])
            answer(.bad(error), to: head, closes: true)
        }
    }

    private var tokens: TokenCheck? { carrier.snapshot.tokens[listener.name] }

    /// Returns false where a token is asked for and the request has none that holds, which the client has been told.
    private func readToken(of head: HTTPRequestHead) -> Bool {
        principal = nil
        guard let tokens else { return true }
        do throws(TokenError) {
            principal = try tokens.principal(of: head, field: "authorization")
            failures = 0
            return true
        } catch {
            failures += 1
            carrier.peerLog.log(
                .info,
                "no token that holds",
                of: "\(source)",
                ["listener": "\(listener.name)", "reason": "\(error)"]
            )
            // Whoever makes up tokens pays for another connection as often as this side for a few signatures.
            answer(.tokenNeeded(error, isProxy: false), to: head, closes: failures >= Self.failureLimit)
            return false
        }
    }

    private func answerUnrouted(_ head: HTTPRequestHead, _ target: IngressTarget, _ rules: IngressRules) {
        guard let port = rules.settings.redirectPort, let host = target.host else {
            return answer(.noRoute, to: head)
        }
        let name = host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host
        let place = "https://\(name)\(port == 443 ? "" : ":\(port)")\(target.target == "*" ? "/" : target.target)"
        answer(.moved(to: place, method: head.method), to: head)
    }
}
