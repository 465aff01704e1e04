package import Streams

/// What is told of streams that fail while a peer cannot be reached: one line when that begins and one when it ends,
/// with counts, however many streams are tried meanwhile. A value without a clock.
package struct OutageLog {
    private var begun: UInt64?
    /// Streams that were asked for since it began.
    private var refused = 0
    /// Streams that were cut for the same reason, and what it was.
    private var cut: (reason: String, more: Int)?

    package init() {}

    /// A stream could not be opened, or was cut.
    ///
    /// - Returns: A line; nil where one was told that says it already.
    package mutating func failed(_ failure: ForwardFailure) -> String? {
        switch failure {
        case .notOpened(let destination, let error):
            guard begun == nil else {
                refused += 1
                return nil
            }
            return "no stream to \(destination): \(error.message)"
        case .cut(let destination, let error):
            if let known = cut, known.reason == error.message {
                cut?.more += 1
                return nil
            }
            // Those that a path takes with it have one reason; a peer that resets a stream means this one.
            if error.code != .reset { cut = (error.message, 0) }
            return "stream to \(destination) cut: \(error.message)"
        }
    }

    /// - Parameter now: Nanoseconds of any clock.
    package mutating func unreachable(_ error: StreamError, at now: UInt64) -> String? {
        guard begun == nil else { return nil }
        begun = now
        refused = 0
        let more = takeCut()
        return "\(error.message)\(more.isEmpty ? "" : " (\(more))"); trying again"
    }

    /// Some path carries streams again, or another one does.
    ///
    /// - Returns: What is to be said behind the line about the path; empty: nothing.
    package mutating func up(at now: UInt64) -> String {
        var parts: [String] = []
        if let begun {
            parts.append("unreachable for \((now &- begun) / 1_000_000_000) s")
            if refused > 0 {
                parts.append("\(refused) \(refused == 1 ? "connection was" : "connections were") refused")
            }
        }
        let more = takeCut()
        if !more.isEmpty { parts.append(more) }
        begun = nil
        refused = 0
        return parts.isEmpty ? "" : " (\(parts.joined(separator: ", ")))"
    }

    private mutating func takeCut() -> String {
        defer { cut = nil }
        guard let more = cut?.more, more > 0 else { return "" }
        return "\(more) more \(more == 1 ? "stream was" : "streams were") cut"
    }
}
