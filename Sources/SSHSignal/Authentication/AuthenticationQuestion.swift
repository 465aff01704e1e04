/// Something that the server, or a password login, wants from a person.
public struct AuthenticationQuestion: Hashable, Sendable {
    /// `password` or `keyboard-interactive`.
    public var method: String
    /// `user@host`
    public var destination: String
    /// What to ask; the server's own words for keyboard-interactive, made safe for a terminal.
    public var text: String
    /// What the server says beforehand; empty for most.
    public var instruction: String
    /// The answer must not be shown.
    public var isSecret: Bool
    /// 1 for the first try of this connection.
    public var attempt: Int

    public init(
        method: String,
        destination: String,
        text: String,
        instruction: String = "",
        isSecret: Bool = true,
        attempt: Int = 1
    ) {
        self.method = method
        self.destination = destination
        self.text = text
        self.instruction = instruction
        self.isSecret = isSecret
        self.attempt = attempt
    }

    /// Whether the answer is the account's password, as far as the words tell: a password from a file is for no other question.
    public var isForPassword: Bool {
        guard isSecret else { return false }
        guard method != "password" else { return true }
        let text = text.lowercased()
        return text.contains("password") && !text.contains("one-time") && !text.contains("new ")
    }
}

/// Answers a question; nil when there is no answer. The session wipes its copy after use.
public typealias AuthenticationPrompt = @Sendable (AuthenticationQuestion) async -> [UInt8]?

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
