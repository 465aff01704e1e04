package import MeshIdentity
import Platform
import Streams
import YAML

/// `jwt:` of a listener that reads HTTP: who may enter.
package struct TokenSettings: Hashable, Sendable {
    /// What `iss` must be, letter by letter.
    package var issuer: String
    /// One of which `aud` must have.
    package var audiences: [String]
    /// The file of the issuer's public keys, read again with every reload, and when it has changed.
    package var keyFile: String

    package init(issuer: String, audiences: [String], keyFile: String) {
        self.issuer = issuer
        self.audiences = audiences
        self.keyFile = keyFile
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

    func decode(_ node: YAMLNode) -> TokenSettings? {
        let keys = ["issuer", "audience", "jwks"]
        guard let mapping = MappingDecoder(node, what: "'jwt'", keys: keys, required: keys, diagnostics) else {
            return nil
        }
        let issuer = mapping.string("issuer")
        let audiences = mapping["audience"]?.list("'audience'", diagnostics) {
            $0.parsed("'audience'", diagnostics) { (text: String) throws -> String in text }
        }
        let keyFile = mapping.string("jwks").map(resolve)
        guard let issuer, let audiences, let keyFile else { return nil }
        return TokenSettings(issuer: issuer, audiences: audiences, keyFile: keyFile)
    }
}
