import Foundation
import Streams

/// What a process wrote to one of its outputs so far, with a way to wait for more.
public final class OutputLog: Sendable {
    private struct State {
        var bytes: [UInt8] = []
        var isComplete = false
    }

    private let state = Lock(State())

    init() {}

    /// Starts a thread that reads `descriptor` to its end and closes it.
    func follow(_ descriptor: Int32) {
        let thread = Thread { [self] in
            var chunk = [UInt8](repeating: 0, count: 64 << 10)
            while true {
                let count = Glibc.read(descriptor, &chunk, chunk.count)
                if count > 0 {
                    state.withLock { $0.bytes.append(contentsOf: chunk[..<count]) }
                } else if count == 0 || errno != EINTR {
                    break
                }
            }
            close(descriptor)
            state.withLock { $0.isComplete = true }
        }
        thread.start()
    }

    /// Everything so far.
    public var bytes: [UInt8] {
        state.withLock { $0.bytes }
    }

    /// Everything so far, as text.
    public var text: String {
        String(decoding: bytes, as: UTF8.self)
    }

    /// The complete lines so far, without their ends, and the last one even where its end is missing.
    public var lines: [String] {
        text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }

    /// Whether the other end closed it.
    public var isComplete: Bool {
        state.withLock { $0.isComplete }
    }

    /// Waits for the first line that satisfies `predicate` and returns it.
    @discardableResult
    public func line(
        _ what: String = "a line",
        within limit: Duration = .seconds(90),
        where predicate: (String) -> Bool
    ) async throws -> String {
        var found: String?
        do {
            try await eventually(what, within: limit) {
                // Complete before the look, so that nothing that came with the end is missed.
                let complete = isComplete
                found = lines.first(where: predicate)
                if found == nil, complete {
                    throw DeadlineExceeded("the output ended without \(what); it was:\n\(text)")
                }
                return found != nil
            }
        } catch let error as DeadlineExceeded {
            throw DeadlineExceeded(
                error.description.contains("it was:") ? error.description : "\(error); it was:\n\(text)"
            )
        }
        return found ?? ""
    }

    /// Waits for a line that contains `text` and returns it.
    @discardableResult
    public func line(containing text: String, within limit: Duration = .seconds(90)) async throws -> String {
        try await line("a line with '\(text)'", within: limit) { $0.contains(text) }
    }

    /// Waits for the end of the output and returns all of it.
    public func complete(within limit: Duration = .seconds(90)) async throws -> String {
        try await eventually("the output ends", within: limit) { isComplete }
        return text
    }
}
