import Platform

/// A JSON Web Token in the compact form of a signature (RFC 7519, RFC 7515): read, and not believed. ``TokenVerifier``
/// says whether it is true.
package struct JSONWebToken: Hashable, Sendable {
    /// More is no token.
    package static let maximumLength = 8 << 10

    let algorithm: String
    let keyID: String?
    let claims: [String: StrictJSON]
    /// What is signed.
    let signedText: [UInt8]
    let signature: [UInt8]

    /// - Throws: ``TokenError`` with code `malformed`.
    package init(parsing text: some StringProtocol) throws(TokenError) {
        guard text.utf8.count <= Self.maximumLength else {
            throw Self.malformed("it is longer than \(Self.maximumLength) bytes")
        }
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 3, let signature = Base64.decodeURL(parts[2]), !signature.isEmpty else {
            throw Self.malformed("it does not have three parts in unpadded base64url, the last of them a signature")
        }
        let header = try Self.object(parts[0], "header")
        claims = try Self.object(parts[1], "claims")
        self.signature = signature
        signedText = Array("\(parts[0]).\(parts[1])".utf8)
        // Whoever does not understand it must refuse it (RFC 7515 §4.1.11), and nothing of it is understood here.
        guard header["crit"] == nil else { throw Self.malformed("its header has 'crit'") }
        guard let algorithm = header["alg"]?.text else { throw Self.malformed("its header has no 'alg'") }
        self.algorithm = algorithm
        keyID = try header["kid"].map { value throws(TokenError) in
            guard let text = value.text else { throw Self.malformed("its 'kid' is no text") }
            return text
        }
        // A token that was made for something else is none for this (RFC 8725 §3.11).
        if let kind = header["typ"] {
            var name = kind.text?.lowercased() ?? ""
            if name.hasPrefix("application/") { name.removeFirst("application/".count) }
            guard name == "jwt" || name == "at+jwt" else {
                throw Self.malformed("its 'typ' is neither JWT nor at+jwt")
            }
        }
    }

    private static func object(_ part: some StringProtocol, _ name: String) throws(TokenError) -> [String: StrictJSON] {
        guard let bytes = Base64.decodeURL(part) else { throw malformed("its \(name) is not in unpadded base64url") }
        do throws(StrictJSON.Unreadable) {
            guard case .object(let members) = try StrictJSON(parsing: bytes) else {
                throw StrictJSON.Unreadable(place: 0, what: "no object")
            }
            return members
        } catch {
            throw malformed("its \(name) is not JSON that has one meaning: \(error)")
        }
    }

    // MARK: Believed by nobody, for those who show a token

    /// When a token says that it ends, in seconds since 1970; nil where it does not, or is of another kind. It can be
    /// counted with: whatever is no time of this world says nothing.
    package static func unverifiedEnd(of text: String) -> Int64? {
        guard case .number(let end)? = unverifiedClaims(of: text)?["exp"] else { return nil }
        return end.magnitude < 1e12 ? Int64(end.rounded(.down)) : nil
    }

    /// Whom a token says that it is for; nil where it does not, or is of another kind.
    package static func unverifiedAudiences(of text: String) -> [String]? {
        switch unverifiedClaims(of: text)?["aud"] {
        case .array(let names)?: names.compactMap(\.text)
        case .string(let name)?: [name]
        default: nil
        }
    }

    private static func unverifiedClaims(of text: String) -> [String: StrictJSON]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 3 ? try? object(parts[1], "claims") : nil
    }

    static func malformed(_ what: String) -> TokenError {
        TokenError(.malformed, "this is no token that is read: \(what)")
    }
}
