import MeshIdentity
import Platform

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

/// SSH_MSG_USERAUTH_BANNER (RFC 4252 §5.4): what the server says before the login.
struct AuthenticationBanner: Hashable, Sendable {
    static let messageNumber: UInt8 = 53

    /// Line by line, cleaned of what a terminal would take for a command; empty where nothing is said.
    var lines: [String]

    private static let maximumLines = 200
    private static let maximumLength = 1000

    /// nil where the bytes are no such message. They may be followed by others.
    init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count >= 9, bytes[0] == Self.messageNumber else { return nil }
        var reader = SSHWireReader(bytes.dropFirst())
        guard let text = reader.string(), let language = reader.string(), language.count <= 64 else { return nil }
        lines = text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).prefix(Self.maximumLines)
            .map { line in
                let text = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
                let tab = UInt8(ascii: "\t")
                return Printable.cleanLine(text.map { $0 == tab ? 0x20 : $0 }, limit: Self.maximumLength)
            }
        while lines.last?.isEmpty == true { lines.removeLast() }
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
