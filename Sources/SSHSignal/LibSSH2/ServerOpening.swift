import Platform

/// What a server says first. Lines may come before its version (RFC 4253 §4.2), and sshd explains in one why it lets
/// nobody in.
enum ServerOpening {
    private static let version = Array("SSH-".utf8)
    private static let refusals = ["Exceeded MaxStartups", "Not allowed at this time"]
    private static let longestQuote = 80

    /// What somebody has said who is no SSH server, for people; nil: it may be one, or nothing has come.
    static func stranger(in opening: [UInt8]) -> String? {
        let lines = opening.split(separator: 10)
        guard let last = lines.last else { return nil }
        guard !lines.contains(where: { $0.starts(with: version) }) else { return nil }
        // The rest of it is on its way.
        guard opening.last == 10 || !version.starts(with: last) else { return nil }
        let text = String(decoding: opening, as: UTF8.self)
        guard !refusals.contains(where: { text.contains($0) }) else { return nil }
        guard opening.allSatisfy({ $0 >= 32 || $0 == 9 || $0 == 10 || $0 == 13 }) else {
            let words = opening.prefix(8).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
            return "bytes that are no text: \(words.joined(separator: " "))"
        }
        let first = lines.first { $0.contains { $0 > 32 } } ?? last
        return "'\(Printable.clean(String(decoding: first.prefix(longestQuote), as: UTF8.self)))'"
    }
}
