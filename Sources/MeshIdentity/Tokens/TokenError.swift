/// Why a token, or a file of keys, is not accepted. Never contains the token.
package struct TokenError: Error, Hashable, Sendable, CustomStringConvertible {
    package enum Code: String, Hashable, Sendable {
        /// There is none.
        case missing
        /// It is none, or not one that is read here.
        case malformed
        /// No key of the file fits, or the signature is not that key's.
        case signature
        /// It is past its time, or before it.
        case time
        /// It is somebody else's, or for somebody else.
        case scope
        /// The file of keys.
        case keys
    }

    package var code: Code
    package var message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message }

    /// What a 401 says in `www-authenticate` (RFC 6750 §3): no more than that, to whoever may be anybody.
    package var challenge: String { code == .missing ? "Bearer" : "Bearer error=\"invalid_token\"" }
}
