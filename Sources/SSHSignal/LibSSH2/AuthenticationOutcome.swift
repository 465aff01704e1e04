/// SSH_MSG_USERAUTH_FAILURE (RFC 4252 §5.1): what the server would take next.
struct AuthenticationFailure: Hashable, Sendable {
    static let messageNumber: UInt8 = 51

    var methods: [String]
    /// What the server got was right, and it wants more.
    var isPartialSuccess: Bool

    /// nil where the bytes are no such message. They may be followed by others.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= 6, bytes[0] == Self.messageNumber else { return nil }
        let length = bytes[1..<5].reduce(0) { $0 << 8 | Int($1) }
        guard length <= 4096, bytes.count >= 6 + length, bytes[5 + length] <= 1 else { return nil }
        let names = bytes[5..<5 + length]
        guard names.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        methods = String(decoding: names, as: UTF8.self).split(separator: ",").map(String.init)
        isPartialSuccess = bytes[5 + length] == 1
    }
}

/// What one way of authenticating came to.
enum AuthenticationOutcome {
    case accepted
    /// Right, and the server wants one of these as well.
    case partial([String])
    /// There is nothing more to try this way.
    case exhausted
    /// There is no point in going on.
    case failed(SSHError)
}

/// What was tried and what came of it, for the error.
final class AuthenticationRecord {
    var notes: [String] = []
    /// What could not be tried with this engine.
    var limits: [EngineLimit] = []
}
