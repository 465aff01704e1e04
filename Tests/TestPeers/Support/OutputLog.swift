import CLinux
import Foundation
import Streams

/// What a process wrote to one of its outputs so far, with a way to wait for more.
public final class OutputLog: Sendable {
    private struct State {
        var bytes: [UInt8] = []
        var isComplete = false
        /// The pipe, until its end.
        var descriptor: Int32?

        /// Takes what is in the pipe now, as much as a pipe may hold.
        mutating func take() {
            guard let descriptor, !isComplete else { return }
            var chunk = [UInt8](repeating: 0, count: 64 << 10)
            for _ in 0..<16 {
                let count = Glibc.read(descriptor, &chunk, chunk.count)
                if count > 0 {
                    bytes.append(contentsOf: chunk[..<count])
                } else if count == 0 || errno != EINTR && errno != EAGAIN {
                    isComplete = true
                    return
                } else if errno == EAGAIN {
                    return
                }
            }
        }
    }

    private let state = Lock(State())

    init() {}

    /// Starts a thread that reads `descriptor` to its end and closes it.
    func follow(_ descriptor: Int32) {
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        state.withLock { $0.descriptor = descriptor }
        let thread = Thread { [self] in
            var isComplete = false
            while !isComplete {
                var events = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
                _ = poll(&events, 1, -1)
                isComplete = state.withLock { state in
                    state.take()
                    if state.isComplete { state.descriptor = nil }
                    return state.isComplete
                }
            }
            close(descriptor)
        }
        thread.start()
    }

    /// Everything that was written so far: whoever looks reads the pipe, and waits for no thread that does.
    public var bytes: [UInt8] {
        state.withLock { state in
            state.take()
            return state.bytes
        }
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
        state.withLock { state in
            state.take()
            return state.isComplete
        }
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
