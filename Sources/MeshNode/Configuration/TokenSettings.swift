package import MeshIdentity
import Platform
import Streams
import YAML

/// `jwt:` of a listener that reads HTTP: who may enter with a request.
package struct TokenSettings: Hashable, Sendable {
    /// What `iss` must be, letter by letter.
    package var issuer: String
    /// One of which `aud` must have.
    package var audiences: [String]
    /// The file of the issuer's public keys, read again with every reload, and when it has changed.
    package var keyFile: String
    /// The server gets the token, too; else whoever serves could use it in the client's name.
    package var forwardsToken: Bool

    package init(issuer: String, audiences: [String], keyFile: String, forwardsToken: Bool = false) {
        self.issuer = issuer
        self.audiences = audiences
        self.keyFile = keyFile
        self.forwardsToken = forwardsToken
    }

    /// Reads the file of keys.
    ///
    /// - Throws: What is wrong with it.
    package func verifier() throws(TokenError) -> TokenVerifier {
        TokenVerifier(issuer: issuer, audiences: audiences, keys: try TokenKeys(loading: keyFile))
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
        guard kind == .http || kind == .https || kind == .httpProxy else {
            return report("'jwt' is for protocols http, https and http-proxy, whose requests have tokens: remove it")
        }
        if mapping["users"] != nil {
            report("'users' and 'jwt' both say who may come in, and a request has room for one of them: remove one")
        }
        listener.tokens = decode(node)
        if kind == .httpProxy, listener.tokens?.forwardsToken == true {
            report("'forwardToken' is for http and https: a proxy's own token never goes on; remove it")
        }
    }

    func decode(_ node: YAMLNode) -> TokenSettings? {
        let required = ["issuer", "audience", "jwks"]
        let keys = required + ["forwardToken"]
        guard let mapping = MappingDecoder(node, what: "'jwt'", keys: keys, required: required, diagnostics) else {
            return nil
        }
        let issuer = mapping.string("issuer")
        let audiences = mapping["audience"]?.list("'audience'", diagnostics) {
            $0.parsed("'audience'", diagnostics) { (text: String) throws -> String in text }
        }
        let keyFile = mapping.string("jwks").map(resolve)
        let forwardsToken = mapping.bool("forwardToken") ?? false
        guard let issuer, let audiences, let keyFile else { return nil }
        return TokenSettings(issuer: issuer, audiences: audiences, keyFile: keyFile, forwardsToken: forwardsToken)
    }
}
