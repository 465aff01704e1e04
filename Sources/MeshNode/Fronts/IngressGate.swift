import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// What becomes of the requests of one client of a gateway, in whatever version of HTTP it speaks: its routes, its
/// limits, the token that it asks for, and the head that the server gets.
struct IngressGate {
    /// A request that goes on.
    struct Passage {
        let route: NodeConfiguration.IngressRoute
        let method: String
        /// Whose token the request has, on a listener that asks for one.
        let principal: String?
        /// As the server gets it.
        let head: HTTPRequestHead
        /// The protocol that client and server may change to.
        let upgrade: String?
        /// What is set in each final response, in the place of what the server says.
        let added: HTTPFields
    }

    enum Verdict {
        case carry(Passage)
        case answer(HTTPProxyPage)
        /// The same, since it has no token that holds.
        case unauthorized(HTTPProxyPage)
    }

    let listener: NodeConfiguration.Listener
    let load: IngressLoad
    let facts: PeerFacts
    let isSecure: Bool
    let carrier: StreamCarrier

    /// Requests in a row without a token that holds; the connection ends with the last of them. Whoever makes up tokens
    /// pays for another connection as often as this side for a few signatures.
    static let failureLimit = 3
    private static let hsts = "Strict-Transport-Security"

    /// - Parameter client: A socket, or TLS over one whose handshake is done.
    init(_ client: ByteStream, by listener: NodeConfiguration.Listener, _ load: IngressLoad, _ carrier: StreamCarrier) {
        self.listener = listener
        self.load = load
        self.carrier = carrier
        facts = PeerFacts(of: client)
        isSecure = client is TLSStream
    }

    var source: IPAddress { facts.address?.address ?? .loopbackIPv4 }

    /// What holds now; nil: listeners have changed more than once since the client came, and its own is none of them;
    /// or the name stands for another listener by now, which asks for no token where this one did.
    var rules: IngressRules? {
        let snapshot = carrier.snapshot
        if listener.tokens != nil, snapshot.tokens[listener.name] == nil { return nil }
        return snapshot.ingress[listener.name]
    }

    /// - Parameter version: That of the client's HTTP, as `via` has it.
    func decide(
        _ head: HTTPRequestHead,
        by rules: IngressRules,
        version: String? = nil
    ) throws(HTTPError) -> Verdict {
        let target = try IngressTarget(of: head)
        let route = rules.routes.route(host: target.host, path: target.path)
        // Who is sent on to https is not asked for a token in the clear.
        let isRedirect = route == nil && rules.settings.redirectPort != nil
        let tokens = carrier.snapshot.tokens[listener.name]
        var principal: String?
        if let tokens, !isRedirect {
            do throws(TokenError) {
                principal = try tokens.principal(of: head, field: "authorization")
            } catch {
                carrier.peerLog.log(
                    .info,
                    "no token that holds",
                    of: "\(source)",
                    ["listener": "\(listener.name)", "reason": "\(error)"]
                )
                return .unauthorized(.tokenNeeded(error, isProxy: false))
            }
        }
        guard let route else { return .answer(Self.unrouted(head, target, rules)) }
        guard load.requests < rules.settings.limits.requests else {
            carrier.peerLog.log(.warning, "too many requests at once", of: "\(source)")
            return .answer(.overloaded)
        }
        var certificate: String?
        if let identity = facts.identity {
            certificate = "By=\(carrier.snapshot.credential.id);URI=\(identity)"
        }
        let client = IngressHeads.Client(
            address: source,
            isSecure: isSecure,
            certificate: certificate,
            version: version ?? "1.\(head.version.rawValue)"
        )
        var bare = head
        if let tokens, !tokens.forwardsToken { bare.fields.remove("authorization") }
        let (next, upgrade) = try IngressHeads.request(bare, target, to: route.to, from: client)
        var added = HTTPFields()
        if let seconds = rules.settings.hsts { added.append(Self.hsts, "max-age=\(seconds)") }
        return .carry(
            Passage(
                route: route,
                method: head.method,
                principal: principal,
                head: next,
                // No version of HTTP but 1.1 has it.
                upgrade: route.h2 ? nil : upgrade,
                added: added
            )
        )
    }

    func streamRequest(for passage: Passage) -> StreamRequest {
        IngressClient.request(
            of: facts,
            to: passage.route.to,
            // The path in the spelling that the server gets: what routes make of it, the server does not.
            head: (passage.method, passage.head.target),
            principal: passage.principal
        )
    }

    /// What the listener says with each answer.
    func finished(_ page: HTTPProxyPage) -> HTTPProxyPage {
        guard let seconds = rules?.settings.hsts else { return page }
        var page = page
        page.fields.append(Self.hsts, "max-age=\(seconds)")
        return page
    }

    private static func unrouted(
        _ head: HTTPRequestHead,
        _ target: IngressTarget,
        _ rules: IngressRules
    ) -> HTTPProxyPage {
        guard let port = rules.settings.redirectPort, let host = target.host else { return .noRoute }
        let name = host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host
        let place = "https://\(name)\(port == 443 ? "" : ":\(port)")\(target.target == "*" ? "/" : target.target)"
        return .moved(to: place, method: head.method)
    }
}
