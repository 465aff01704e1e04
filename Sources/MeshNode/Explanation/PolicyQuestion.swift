package import MeshIdentity
package import MeshPolicy
import Platform
import Streams

/// What somebody asks policy: who wants to go where, over what. `bootstrap explain` and the administration of a node
/// ask it in the same words.
package struct PolicyQuestion: Sendable {
    package enum Key: String, CaseIterable, Sendable {
        /// A SPIFFE ID, `ns/NAMESPACE/sa/NAME` in the node's own trust domain, `local` or `anyone`.
        case from
        /// `HOST:PORT`, or the URL that is asked for at an `http` or `https` listener.
        case to
        /// Whoever connects there asks, in the place of ``from``.
        case listener
        /// The address that the peer comes from.
        case sourceIP
        /// What the stream comes over.
        case transport
        /// Of a request of HTTP.
        case method, path, requestPrincipal
    }

    /// A question that makes no sense.
    package struct Mistake: Error, Hashable, Sendable, CustomStringConvertible {
        package let description: String
        /// There is an answer all the same: the stream is not let in.
        package var isRefusal = false
    }

    /// How the parts of a question are called where it is asked.
    package enum Style: Sendable {
        case options, parameters
    }

    private let parts: [Key: String]
    private let style: Style

    /// - Parameters:
    ///   - parts: What is said; the rest is the default.
    ///   - style: How mistakes call them.
    package init(_ parts: [Key: String], style: Style) {
        self.parts = parts
        self.style = style
    }

    /// - Parameter query: Of a request to the administration.
    init(query: [String: String]) throws(Mistake) {
        var parts: [Key: String] = [:]
        for (name, value) in query {
            guard let key = Key(rawValue: name) else {
                let known = Key.allCases.map(\.rawValue).joined(separator: ", ")
                throw Mistake(description: "'\(name)' is no part of a question: there are \(known)")
            }
            // An empty field of a form says nothing.
            if !value.isEmpty { parts[key] = value }
        }
        self.init(parts, style: .parameters)
        try check()
    }

    private func name(_ key: Key) -> String {
        switch (style, key) {
        case (.parameters, _): "'\(key.rawValue)'"
        case (.options, .sourceIP): "--source-ip"
        case (.options, .requestPrincipal): "--request-principal"
        case (.options, _): "--\(key.rawValue)"
        }
    }

    private func mistake(_ key: Key, _ reason: String, isRefusal: Bool = false) -> Mistake {
        let value = parts[key].map { " \($0)" } ?? ""
        return Mistake(description: "\(name(key))\(value): \(reason)", isRefusal: isRefusal)
    }

    /// Whether its parts go together.
    package func check() throws(Mistake) {
        guard (parts[.method] == nil) == (parts[.path] == nil), parts[.requestPrincipal] == nil || parts[.path] != nil
        else {
            throw Mistake(
                description: "\(name(.method)), \(name(.path)) and \(name(.requestPrincipal)) are of one request: "
                    + "give \(name(.method)) and \(name(.path))"
            )
        }
        guard parts[.listener] == nil || parts[.from] == nil else {
            throw mistake(.listener, "says who asks: leave \(name(.from)) away")
        }
        guard parts[.listener] != nil || parts[.from] != nil else {
            throw Mistake(description: "\(name(.from)) is missing: who asks?")
        }
        guard parts[.listener] != nil || parts[.to] != nil else {
            throw Mistake(description: "\(name(.to)) is missing: where is the stream to go?")
        }
    }

    /// What is to be decided.
    ///
    /// - Parameters:
    ///   - own: The node's identity, if it is known.
    ///   - configuration: What holds there.
    package func request(own: SPIFFEID?, _ configuration: NodeConfiguration) throws(Mistake) -> StreamRequest {
        let (from, to) = try question(configuration)
        guard let transport = Transport(rawValue: parts[.transport] ?? Transport.h2.rawValue) else {
            throw mistake(.transport, "must be one of \(Transport.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        guard let sourceIP = IPAddress(parts[.sourceIP] ?? "127.0.0.1") else {
            throw mistake(.sourceIP, "is not an IP address")
        }
        let source = try source(from, own: own)
        return StreamRequest(
            source: source,
            sourceIP: sourceIP,
            // A local user's stream has come over nothing yet: each way to its peer is decided for itself.
            transport: source == .localUser && parts[.transport] == nil ? nil : transport,
            destination: to,
            details: parts[.method].flatMap { method in
                // As where tokens are verified: without one in the question the request has none.
                parts[.path].map {
                    RequestDetails(method: method, target: $0, principal: parts[.requestPrincipal], isTokenRead: true)
                }
            },
            now: WallClock.system.seconds
        )
    }

    /// Who asks, and for what.
    private func question(_ configuration: NodeConfiguration) throws(Mistake) -> (from: String, to: Authority) {
        var from = parts[.from] ?? "local"
        var target: Authority?
        if let listener = parts[.listener] {
            guard let found = configuration.listeners.first(where: { $0.name == listener }) else {
                let names = configuration.listeners.map(\.name).joined(separator: ", ")
                throw mistake(.listener, "there is no such listener (there are: \(names))")
            }
            guard [.tcp, .socks5, .httpProxy, .sni].contains(found.protocol) || found.protocol.isIngress else {
                throw mistake(
                    .listener,
                    "who connects to \(found.protocol.rawValue) is told by \(name(.from)); instead of \(name(.listener)), "
                        + "write \(name(.from)) SPIFFE-ID (or anyone, local) \(name(.to)) HOST:PORT"
                )
            }
            // As the fronts have it.
            let isOpen = found.protocol == .sni && !found.bind.address.isLoopback
            from = isOpen || found.protocol.isIngress ? "anyone" : "local"
            target = found.forwardTo
            if [.http, .https].contains(found.protocol) { return (from, try routed(by: found)) }
        }
        if let to = parts[.to] {
            let asked: Authority
            do throws(AddressError) { asked = try Authority(parsing: to) } catch { throw mistake(.to, error.message) }
            guard target == nil || target == asked else {
                let only = target?.description ?? ""
                throw mistake(.to, "listener \(parts[.listener] ?? "") leads to \(only) only")
            }
            target = asked
        }
        guard let target else { throw mistake(.listener, "say with \(name(.to)) where the stream goes") }
        return (from, target)
    }

    private func routed(by listener: NodeConfiguration.Listener) throws(Mistake) -> Authority {
        guard let url = parts[.to] else { throw mistake(.listener, "say with \(name(.to)) which URL is asked for") }
        let target: Authority?
        do throws(StreamError) {
            target = try listener.destination(of: url)
        } catch {
            throw mistake(.to, error.message)
        }
        guard let target else {
            let reason = "no route of listener \(listener.name) matches, and the answer is 404"
            throw mistake(.to, reason, isRefusal: true)
        }
        return target
    }

    private func source(_ from: String, own: SPIFFEID?) throws(Mistake) -> StreamRequest.Source {
        func peer(_ id: String) throws(Mistake) -> StreamRequest.Source {
            do throws(SPIFFEIDError) { return .peer(try SPIFFEID(id)) } catch { throw mistake(.from, "\(error)") }
        }
        switch from {
        case "local": return .localUser
        case "anyone": return .unauthenticated
        case let id where id.contains("://"): return try peer(id)
        case let word where !word.contains("/"):
            let hint = Spelling.nearest(to: word, among: ["local", "anyone"]).map { "; did you mean '\($0)'?" } ?? ""
            throw mistake(.from, "is no SPIFFE ID, no ns/NAMESPACE/sa/NAME, and not 'local' or 'anyone'\(hint)")
        default:
            guard let own else {
                throw mistake(.from, "the node's trust domain is not known; write the whole SPIFFE ID")
            }
            return try peer("spiffe://\(own.trustDomain)/\(from)")
        }
    }
}
