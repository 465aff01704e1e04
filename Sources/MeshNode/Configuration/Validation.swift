import CLinux
import Glibc
import MeshIdentity
import MeshPolicy
public import Platform
import Streams
import YAML

/// What this build can serve: one list, extended as parts arrive. Whatever a configuration asks for beyond it is an
/// error, never silence.
enum BuildFeatures {
    static let protocols: Set<NodeConfiguration.ListenerProtocol> = [
        .hbone, .tcp, .socks5, .httpProxy, .transparent, .dns, .sni, .tls,
        .http, .https,
    ]
    /// Of the keys of an endpoint that stand for a feature of their own.
    static let endpointKeys: Set<String> = ["labels", "token", "via"]
    /// Of the top-level keys that open a listener of their own.
    static let services: Set<String> = ["admin", "metrics"]
}

extension NodeConfiguration {
    /// ``load(_:)`` and ``validate(checkingFiles:)``: what `bootstrap node --check` does.
    public static func check(_ path: String) throws(ConfigurationError) -> NodeConfiguration {
        let configuration = try load(path)
        try configuration.validate()
        return configuration
    }

    /// Checks the configuration against itself, against this build and, with `checkingFiles`, against the files it
    /// names.
    ///
    /// Throws every problem at once. The addresses to listen on are not tried: another process may hold them rightly
    /// until this one takes over.
    public func validate(checkingFiles: Bool = true) throws(ConfigurationError) {
        let diagnostics = Diagnostics(file: file)
        validateListeners(diagnostics)
        validateEndpoints(diagnostics)
        validateForwarding(diagnostics)
        validatePolicy(diagnostics)
        validateIssuers(diagnostics)
        validateTrust(diagnostics)
        if renewal != nil, identity.workloadAPI != nil {
            diagnostics.report(
                "'renewal' renews the files of a credential directory, and with 'workloadAPI' the agent renews: remove it",
                at: positions["renewal"]
            )
        }
        if checkingFiles { validateFiles(diagnostics) }
        try diagnostics.throwIfAny()
    }

    private func validateListeners(_ diagnostics: Diagnostics) {
        if listeners.isEmpty, reverse.isEmpty {
            diagnostics.report("needs at least one listener, or the node has nothing to do", at: positions["listeners"])
        }
        var names: [String: SourcePosition?] = [:]
        for listener in listeners {
            if let first = names.updateValue(listener.position, forKey: listener.name) {
                let place = first.map { ", also at line \($0.line)" } ?? ""
                diagnostics.report(
                    "listener '\(listener.name)' is there twice\(place): names must be unique",
                    at: listener.position
                )
            }
            if !BuildFeatures.protocols.contains(listener.protocol) {
                let available = BuildFeatures.protocols.map(\.rawValue).sorted().joined(separator: ", ")
                diagnostics.report(
                    "listener '\(listener.name)': protocol \(listener.protocol.rawValue) is not available in this build "
                        + "(available: \(available))",
                    at: listener.position
                )
            }
        }

        let blocks = listeners.filter { $0.protocol == .dns }.map(\.names.blocks)
        if let first = blocks.first,
            let other = listeners.first(where: { $0.protocol == .dns && $0.names.blocks != first })
        {
            diagnostics.report(
                "listener '\(other.name)': 'ipv4' and 'ipv6' of 'names' must be the same for all dns listeners: an address "
                    + "stands for one name",
                at: other.position
            )
        }

        validateCapture(diagnostics)

        let services = [("admin", admin), ("metrics", metrics)]
        for (key, bind) in services {
            guard let bind else { continue }
            if !BuildFeatures.services.contains(key) {
                diagnostics.report("'\(key)' is not available in this build: remove it", at: positions[key])
            }
            if key == "admin", !bind.address.isLoopback {
                diagnostics.report(
                    "'admin' asks nobody who they are and must be on loopback, not \(bind): write 127.0.0.1:\(bind.port), or "
                        + "the path of a Unix socket",
                    at: positions[key]
                )
            }
        }

        var seen: [(what: String, bind: BindAddress)] = []
        let all =
            listeners.map { ("listener '\($0.name)'", $0.bind, $0.position) }
            + services.compactMap { key, bind in bind.map { ("'\(key)'", $0, positions[key]) } }
        for (what, bind, position) in all {
            if let other = seen.first(where: { $0.bind.overlaps(bind) }) {
                diagnostics.report("\(what) would listen on \(bind), which \(other.what) has already", at: position)
            }
            seen.append((what, bind))
        }
    }

    /// What two listeners capture alike, one of them gets, and nothing says which.
    private func validateCapture(_ diagnostics: Diagnostics) {
        for (index, listener) in listeners.enumerated() {
            guard let scope = listener.capture?.scope else { continue }
            let earlier = listeners[..<index].first { other in
                other.protocol == listener.protocol && other.capture?.scope == scope
                    && other.transparency.direction == listener.transparency.direction
            }
            guard let earlier else { continue }
            diagnostics.report(
                "listener '\(listener.name)': captures the same as listener '\(earlier.name)', and one of the two would get "
                    + "nothing: tell them apart, by 'ports', 'cidrs', 'uids' or 'interfaces', or remove one",
                at: listener.capture?.position ?? listener.position
            )
        }
    }

    private func validateEndpoints(_ diagnostics: Diagnostics) {
        var first: [EndpointMatch: SourcePosition?] = [:]
        for endpoint in endpoints {
            let report = { (message: String) in
                diagnostics.report("endpoint '\(endpoint.match)': \(message)", at: endpoint.position)
            }
            if let earlier = first[endpoint.match] {
                report("is never used, since line \(earlier?.line ?? 0) has the same 'match': remove one")
            } else {
                first[endpoint.match] = .some(endpoint.position)
            }
            if let problem = endpoint.problemWithListening { report(problem) }
            if endpoint.tunnel != nil, !endpoint.via.isEmpty {
                report("'via' and 'labels: {tun: …}' are two ways through others: remove one")
            }
            let asked = [
                ("labels", endpoint.tunnel != nil), ("token", endpoint.token != nil), ("via", !endpoint.via.isEmpty),
            ]
            for (key, isAsked) in asked where isAsked && !BuildFeatures.endpointKeys.contains(key) {
                report("'\(key)' is not available in this build: remove it")
            }
        }
    }

    /// A listener whose destination can never be reached is found here, not by its first user.
    private func validateForwarding(_ diagnostics: Diagnostics) {
        let planner = StreamPlanner(rules(), own: nil, ownAddresses: [])
        for listener in listeners {
            func check(_ destination: Authority, _ what: String, at position: SourcePosition?) {
                let request = StreamRequest(
                    source: listener.protocol == .tcp ? .localUser : .unauthenticated,
                    sourceIP: .loopbackIPv4,
                    transport: nil,
                    destination: destination,
                    now: 0
                )
                // Only the way counts: what policy says of it may change with the time of day.
                let route = planner.plan(request).route
                guard let refusal = route.refusal else { return }
                // What a directory says is not known here, and changes.
                guard directory == nil || route.endpoint != nil else { return }
                diagnostics.report("listener '\(listener.name)': \(what): \(refusal.message)", at: position)
            }
            if let forwardTo = listener.forwardTo { check(forwardTo, "forwardTo", at: listener.position) }
            for route in listener.ingress.routes { check(route.to, "route '\(route.description)'", at: route.position) }
        }
    }

    /// A rule about HTTP where nobody reads it, or about tokens where nobody verifies them, would allow nothing, or
    /// deny everything.
    private func validatePolicy(_ diagnostics: Diagnostics) {
        let readers: Set<ListenerProtocol> = [.http, .https, .httpProxy]
        let readsHTTP = listeners.contains { readers.contains($0.protocol) }
        let readsTokens = listeners.contains { $0.tokens != nil }
        for policy in policy ?? [] {
            func report(_ message: String, at rule: AuthorizationPolicy.Rule) {
                let issue = ConfigurationError.Issue(
                    file: policy.importedFrom ?? file,
                    position: rule.position,
                    message: "policy '\(policy.name)': \(message)"
                )
                diagnostics.add(ConfigurationError(issues: [issue]))
            }
            for rule in policy.rules {
                if rule.readsHTTP, !readsHTTP {
                    report(
                        "methods and paths are read by listeners of protocol http, https and http-proxy, and there is "
                            + "none: the rule would decide about streams that it cannot see into",
                        at: rule
                    )
                }
                if rule.readsToken, !readsTokens {
                    report(
                        "requestPrincipals are of tokens that a listener verifies, and none has the key 'jwt': the "
                            + "rule would decide about tokens that nobody has looked at",
                        at: rule
                    )
                }
            }
        }
    }

    /// What is no error, and most likely not what was meant.
    package var warnings: [ConfigurationError.Issue] {
        // With another listener that reads requests, the rule may be for those who come in there.
        guard !listeners.contains(where: { $0.protocol == .http || $0.protocol == .https }),
            let proxy = listeners.first(where: { $0.protocol == .httpProxy })
        else { return [] }
        var warnings: [ConfigurationError.Issue] = []
        for policy in policy ?? [] where policy.action == .allow && !policy.dryRun {
            for rule in policy.rules where rule.readsHTTP || rule.readsToken {
                // One that names its transports forbids the others.
                let namesTransport = rule.when.contains { if case .transport = $0 { true } else { false } }
                guard !namesTransport else { continue }
                let message =
                    "policy '\(policy.name)': this ALLOW rule keeps nobody out: only listener '\(proxy.name)' reads "
                    + "requests, and its users are local, who may open whatever routing knows; to limit them, "
                    + "write a DENY policy with notMethods, notPaths or notRequestPrincipals"
                warnings.append(
                    ConfigurationError.Issue(
                        file: policy.importedFrom ?? file,
                        position: rule.position,
                        message: message
                    )
                )
            }
        }
        return warnings
    }

    private func validateFiles(_ diagnostics: Diagnostics) {
        if let path = accessLog?.path, let problem = problemWriting(path) {
            diagnostics.report("'accessLog': \(path): \(problem)", at: positions["accessLog"])
        }
        // What an agent would say, it says to the process that it is about.
        if let directory = identity.directory {
            checkCredential(directory, key: "identity", at: positions["identity"], diagnostics)
        }
        validateTrustFiles(diagnostics)
        for listener in listeners {
            checkServerCredentials(of: listener, diagnostics)
            if let tokens = listener.tokens {
                do throws(TokenError) {
                    _ = try tokens.verifiers()
                } catch {
                    diagnostics.report("listener '\(listener.name)': 'jwt': \(error)", at: listener.position)
                }
            }
            if let users = listener.users {
                do throws(ConfigurationError) {
                    _ = try UserFile(loading: users)
                } catch {
                    for issue in error.issues {
                        diagnostics.report("listener '\(listener.name)': 'users': \(issue)", at: listener.position)
                    }
                }
            }
        }
        for endpoint in endpoints {
            if let (_, files) = endpoint.proxyTLS {
                do throws(StreamError) {
                    _ = try DirectTLSFiles(loading: files)
                } catch {
                    diagnostics.report("endpoint '\(endpoint.match)': 'proxy': \(error.message)", at: endpoint.position)
                }
            }
            if endpoint.direct, let tls = endpoint.tls {
                do throws(StreamError) {
                    _ = try DirectTLSFiles(loading: tls)
                } catch {
                    diagnostics.report("endpoint '\(endpoint.match)': 'tls': \(error.message)", at: endpoint.position)
                }
            }
            let files = [
                ("token", endpoint.token?.watchedFile), ("ssh identityFile", endpoint.ssh?.identityFile),
                ("ssh knownHosts", endpoint.ssh?.knownHosts), ("ssh config", endpoint.ssh?.config),
            ]
            for (key, file) in files {
                guard let file, let problem = problemReading(file) else { continue }
                diagnostics.report("endpoint '\(endpoint.match)': \(key) \(file): \(problem)", at: endpoint.position)
            }
        }
    }

    private func checkServerCredentials(of listener: Listener, _ diagnostics: Diagnostics) {
        let directories = listener.gateway?.credentials ?? listener.ingress.credentials
        for (index, directory) in directories.enumerated() {
            let report = { (message: String) in
                diagnostics.report("listener '\(listener.name)': 'credentials': \(message)", at: listener.position)
            }
            do {
                let credential = try CredentialDirectory(directory).loadServer()
                guard index > 0, credential.leaf.dnsNames.isEmpty else { continue }
                report(
                    "the certificate in \(directory) has no DNS name, so that no client would ever get it: remove it"
                )
            } catch {
                report("\(error)")
            }
        }
    }

    private func checkCredential(
        _ directory: String,
        key: String,
        at position: SourcePosition?,
        _ diagnostics: Diagnostics
    ) {
        do {
            _ = try CredentialDirectory(directory).load()
        } catch {
            // An expired credential is renewed by the running node; one that was never good is not.
            guard error.code != .expired else { return }
            diagnostics.report("'\(key)': \(error)", at: position)
        }
    }

    private func problemWriting(_ path: String) -> String? {
        var status = stat()
        if stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR { return "is a directory: name a file in it" }
        if access(path, W_OK) == 0 { return nil }
        guard errno == ENOENT else { return String(cString: strerror(errno)) }
        let directory = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
        return access(directory, W_OK | X_OK) == 0 ? nil : "\(directory): \(String(cString: strerror(errno)))"
    }

    private func problemReading(_ path: String) -> String? {
        access(path, R_OK) == 0 ? nil : String(cString: strerror(errno))
    }
}

extension NodeConfiguration.BindAddress {
    /// Whether the system refuses to listen on both.
    fileprivate func overlaps(_ other: NodeConfiguration.BindAddress) -> Bool {
        guard port == other.port, port != 0 else { return false }
        return address == other.address
            || address.isIPv4 == other.address.isIPv4 && (address.isUnspecified || other.address.isUnspecified)
    }
}

extension NodeConfiguration.Capture {
    /// What is captured, and nothing else: for a comparison.
    fileprivate var scope: NodeConfiguration.Capture {
        var scope = self
        (scope.node, scope.onFailure, scope.position) = (.mark, .closed, nil)
        return scope
    }
}
