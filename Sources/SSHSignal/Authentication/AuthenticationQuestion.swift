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
    /// False: a jump host on the way asks, for which the destination's password is not.
    package var isFromDestination = true

    /// - Parameters:
    ///   - method: `password` or `keyboard-interactive`.
    ///   - destination: `user@host`.
    ///   - text: What to ask.
    ///   - instruction: What the server says beforehand.
    ///   - isSecret: The answer must not be shown.
    ///   - attempt: From 1.
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

    /// Whether the answer is the account's password, as far as the words tell: a password from a file is for no other
    /// question.
    public var isForPassword: Bool {
        guard isSecret else { return false }
        guard method != "password" else { return true }
        let text = text.lowercased()
        return text.contains("password") && !text.contains("one-time") && !text.contains("new ")
    }
}

/// Answers a question; nil when there is no answer. The session wipes its copy after use.
public typealias AuthenticationPrompt = @Sendable (AuthenticationQuestion) async -> [UInt8]?

/// Asks a person for the passphrase of a key; nil when there is no answer. The session wipes its copy after use.
public typealias PassphrasePrompt = @Sendable (PassphraseRequest) async -> [UInt8]?

/// What a person is asked.
public struct PassphraseRequest: Hashable, Sendable {
    /// The key file.
    public var name: String
    /// nil where the file hides its public half (an encrypted PEM file without a `.pub` file beside it).
    public var fingerprint: String?
    /// 1 for the first time, more after a wrong passphrase; at most 3.
    public var attempt: Int
}
