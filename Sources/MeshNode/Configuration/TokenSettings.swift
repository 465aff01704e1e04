package import MeshIdentity
import MeshPolicy
package import Platform
import Streams
import YAML

/// `jwt:` of a listener that reads HTTP or HBONE: who may enter with a request.
package struct TokenSettings: Hashable, Sendable {
    /// Whose tokens are taken.
    package struct Issuer: Hashable, Sendable {
        /// What `iss` must be, letter by letter.
        package var name: String
        /// One of which `aud` must have.
        package var audiences: [String]
        package var keys: KeySource

        package init(name: String, audiences: [String], keys: KeySource) {
            self.name = name
            self.audiences = audiences
            self.keys = keys
        }
    }

    /// Where an issuer's public keys are.
    package enum KeySource: Hashable, Sendable {
        /// Read again with every reload, and when it has changed.
        case file(String)
        /// Fetched again and again.
        case web(KeyAddress)
    }

    /// An HTTPS URL, and who may vouch for its server.
    package struct KeyAddress: Hashable, Sendable, CustomStringConvertible {
        package var authority: Authority
        /// Path and query.
        package var target: String
        /// A file of certificates; nil: the system's.
        package var roots: String?

        package var description: String { "https://\(authority)\(target)" }
    }

    /// At least one, each once.
    package var issuers: [Issuer]
    /// The server gets the token, too; else whoever serves could use it in the client's name.
    package var forwardsToken: Bool

    package init(issuers: [Issuer], forwardsToken: Bool = false) {
        self.issuers = issuers
        self.forwardsToken = forwardsToken
    }

    package init(issuer: String, audiences: [String], keyFile: String, forwardsToken: Bool = false) {
        self.init(
            issuers: [Issuer(name: issuer, audiences: audiences, keys: .file(keyFile))],
            forwardsToken: forwardsToken
        )
    }

    /// What is read again when it has changed.
    var watchedFiles: [String] {
        issuers.compactMap { issuer in
            switch issuer.keys {
            case .file(let path): path
            case .web(let address): address.roots
            }
        }
    }

    /// Reads the files of keys.
    ///
    /// - Parameter rings: The keys that are fetched.
    /// - Throws: What is wrong with them.
    package func verifiers(_ rings: TokenKeyRings = TokenKeyRings()) throws(TokenError) -> TokenVerifiers {
        var verifiers: [TokenVerifier] = []
        for issuer in issuers {
            let keys: TokenKeyRing
            switch issuer.keys {
            case .file(let path): keys = TokenKeyRing(try TokenKeys(loading: path))
            case .web(let address): keys = try rings.ring(for: address)
            }
            verifiers.append(TokenVerifier(issuer: issuer.name, audiences: issuer.audiences, keys: keys))
        }
        return TokenVerifiers(verifiers)
    }
}

extension NodeConfiguration {
    /// Policy sees `ISSUER/SUBJECT`, and a subject may have slashes: where one issuer is the beginning of another, it
    /// could give its clients the names of the other's.
    func validateIssuers(_ diagnostics: Diagnostics) {
        let issuers = listeners.flatMap { listener in
            (listener.tokens?.issuers ?? []).map { (listener: listener, name: $0.name) }
        }
        for long in issuers {
            let short = issuers.first { long.name.utf8.starts(with: ($0.name + "/").utf8) }
            guard let short else { continue }
            diagnostics.report(
                "listener '\(long.listener.name)': 'jwt': the issuer '\(long.name)' begins with '\(short.name)/', and "
                    + "'\(short.name)' is an issuer of listener '\(short.listener.name)': its subjects could be taken "
                    + "for those of the other; remove one, or have it on a node of its own",
                at: long.listener.position
            )
        }
    }
}

struct TokenSettingsDecoder {
    let diagnostics: Diagnostics
    /// From the file's directory.
    let resolve: (String) -> String

    /// The listener's own protocol says whether it may have them.
    func decode(_ mapping: MappingDecoder, into listener: inout NodeConfiguration.Listener) {
        guard let node = mapping["jwt"] else { return }
        let report = { [name = listener.name] (message: String) in
            diagnostics.report("listener '\(name)': \(message)", at: mapping.position(of: "jwt"))
        }
        let kind = listener.protocol
        guard kind == .http || kind == .https || kind == .httpProxy || kind == .hbone else {
            return report(
                "'jwt' is for protocols http, https, http-proxy and hbone, whose requests have tokens: remove it"
            )
        }
        if mapping["users"] != nil {
            report("'users' and 'jwt' both say who may come in, and a request has room for one of them: remove one")
        }
        listener.tokens = decode(node)
        if kind == .httpProxy, listener.tokens?.forwardsToken == true {
            report("'forwardToken' is for http and https: a proxy's own token never goes on; remove it")
        }
    }

    /// One issuer, or a list of them.
    func decode(_ node: YAMLNode) -> TokenSettings? {
        guard case .sequence = node.content else {
            return issuer(node).map { .init(issuers: [$0.0], forwardsToken: $0.1) }
        }
        let all = node.list("'jwt'", diagnostics, issuer) ?? []
        guard let first = all.first else { return nil }
        for (index, (issuer, forwards)) in all.enumerated() {
            if all[..<index].contains(where: { $0.0.name == issuer.name }) {
                diagnostics.report("'jwt': the issuer '\(issuer.name)' is there twice: remove one", at: node.position)
            }
            if forwards != first.1 {
                diagnostics.report(
                    "'jwt': 'forwardToken' must be the same for all issuers of a listener: its server is the same",
                    at: node.position
                )
            }
        }
        return TokenSettings(issuers: all.map(\.0), forwardsToken: first.1)
    }

    private func issuer(_ node: YAMLNode) -> (TokenSettings.Issuer, Bool)? {
        let required = ["issuer", "audience", "jwks"]
        let keys = required + ["roots", "forwardToken"]
        guard let mapping = MappingDecoder(node, what: "'jwt'", keys: keys, required: required, diagnostics) else {
            return nil
        }
        let name = mapping.string("issuer")
        let audiences = mapping["audience"]?.list("'audience'", diagnostics) {
            $0.parsed("'audience'", diagnostics) { (text: String) throws -> String in text }
        }
        let source = mapping.value("jwks") { try keySource($0, roots: mapping.string("roots").map(resolve)) }
        if mapping["roots"] != nil, case .file? = source {
            diagnostics.report(
                "'roots' of 'jwt' say who may vouch for the server of an https URL, and 'jwks' is a file: remove it",
                at: mapping.position(of: "roots")
            )
        }
        let forwardsToken = mapping.bool("forwardToken") ?? false
        guard let name, let audiences, let source else { return nil }
        return (TokenSettings.Issuer(name: name, audiences: audiences, keys: source), forwardsToken)
    }

    private func keySource(_ text: String, roots: String?) throws -> TokenSettings.KeySource {
        guard text.contains("://") else { return .file(resolve(text)) }
        let scheme = "https://"
        guard text.hasPrefix(scheme) else {
            throw StreamError(
                .badRequest,
                "'\(text.prefix(80))' must be a file or an https URL: nobody could verify other keys"
            )
        }
        let rest = text.dropFirst(scheme.count)
        let host = rest.prefix { $0 != "/" && $0 != "?" && $0 != "#" }
        var target = rest[host.endIndex...]
        if target.first != "/" { target = "/" + target }
        let isClean = target.utf8.allSatisfy { (0x21...0x7E).contains($0) && $0 != UInt8(ascii: "#") }
        guard isClean, !host.contains("@") else {
            throw StreamError(.badRequest, "'\(text.prefix(80))' is no URL of a server: write https://HOST[:PORT]/PATH")
        }
        let hasPort =
            host.last == "]"
            ? false : host.drop { $0 != "]" }.contains(":") || !host.hasPrefix("[") && host.contains(":")
        let authority = try Authority(parsing: hasPort ? String(host) : "\(host):443")
        return .web(TokenSettings.KeyAddress(authority: authority, target: String(target), roots: roots))
    }
}
