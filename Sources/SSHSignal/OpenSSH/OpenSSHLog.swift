import MeshIdentity
import Platform

/// What an `ssh` process writes to its standard error: its own complaints, the server's banner, what a `ProxyCommand`
/// says. Bounded, and safe for a terminal.
final class OpenSSHLog {
    /// Sees each line as it is complete.
    var onLine: ((String) -> Void)?
    /// The last lines, oldest first.
    private(set) var lines: [String] = []

    private var partial: [UInt8] = []

    /// At the level DEBUG1: what it says of the host keys it sees, `TYPE SHA256:…`.
    private var fingerprints: Set<String> = []

    private static let hostKeyLine = "debug1: Server host key: "
    private static let maximumLines = 40
    private static let maximumLength = 1000

    func append(_ bytes: UnsafeRawBufferPointer) {
        for byte in bytes {
            if byte == UInt8(ascii: "\n") {
                take()
            } else if partial.count < Self.maximumLength {
                partial.append(byte)
            }
        }
    }

    private func take() {
        let line = Printable.clean(partial, limit: Self.maximumLength)
        partial = []
        guard !line.isEmpty else { return }
        if line.hasPrefix("debug1: ") {
            if line.hasPrefix(Self.hostKeyLine) { fingerprints.insert(String(line.dropFirst(Self.hostKeyLine.count))) }
            return
        }
        if lines.count == Self.maximumLines { lines.removeFirst() }
        lines.append(line)
        onLine?(line)
    }

    /// The end of what it said, in one line.
    var lastWords: String? {
        if !partial.isEmpty { take() }
        return lines.isEmpty ? nil : lines.suffix(4).joined(separator: "; ")
    }

    /// The key that the level DEBUG1 told of, looked up in files of known hosts by its fingerprint: for an ssh that
    /// cannot show the key itself. nil when it is not there, and when the log tells of more than one: of a jump host's
    /// too, or of one that a server has made up in a message.
    func hostKey(in files: [String]) -> HostKey? {
        guard fingerprints.count == 1, let told = fingerprints.first else { return nil }
        let known = (try? KnownHosts(files: files))?.entries ?? []
        return known.map(\.key).first { told == "\($0.algorithm) \($0.fingerprint)" }
    }

    private static func range(of text: String, in line: String) -> Range<String.Index>? {
        var start = line.startIndex
        while start < line.endIndex {
            if line[start...].hasPrefix(text) { return start..<line.index(start, offsetBy: text.count) }
            start = line.index(after: start)
        }
        return nil
    }
}

extension OpenSSHLog {
    /// What made a login fail, by the words of OpenSSH's client, the last of them first.
    ///
    /// - Parameter isDirect: `ssh` dialled itself. Where a program or a jump host made the connection, its end before
    ///   the server's banner says that the way is closed, not that the server is busy.
    func loginFailure(of destination: String, isDirect: Bool, program: String) -> SSHError {
        let text = lastWords ?? "it ended without a word"
        var code = SSHError.Code.connectionLost
        for line in lines.reversed() {
            guard let found = Self.code(for: line, isDirect: isDirect) else { continue }
            code = found
            break
        }
        return SSHError(code, "\(destination), by way of \(program): \(text)")
    }

    private static let codes: [(SSHError.Code, [String])] = [
        (
            .hostKeyRefused,
            [
                "Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED", "host key is known for",
                "was revoked", "is revoked",
            ]
        ),
        (
            .authenticationRefused,
            ["Permission denied", "Too many authentication failures", "No more authentication methods"]
        ),
        (.timedOut, ["timed out", "Timeout, server"]),
        (
            .busy,
            ["Exceeded MaxStartups", "Not allowed at this time", "kex_exchange_identification", "banner exchange"]
        ),
        (.negotiationFailed, ["Unable to negotiate", "no matching"]),
        (
            .connectionFailed,
            ["Could not resolve", "Connection refused", "No route to host", "unreachable", "connect to host"]
        ),
        (.system, ["Bad configuration option", "bad configuration", "Bad owner or permissions", "keyword"]),
    ]

    private static func code(for line: String, isDirect: Bool) -> SSHError.Code? {
        for (code, texts) in codes where texts.contains(where: { range(of: $0, in: line) != nil }) {
            return code == .busy && !isDirect ? .connectionFailed : code
        }
        return nil
    }
}
