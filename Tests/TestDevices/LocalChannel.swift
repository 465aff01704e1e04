import Foundation
package import SSHSignal
import Synchronization
package import TestPeers

/// A command on this machine in place of one at the far end of an SSH session: what the far side does, without the
/// session.
package final class LocalChannel: RemoteChannel {
    package let process: ChildProcess
    private let position = Mutex(0)
    private let isClosed = Atomic(false)

    package init(_ command: String, _ arguments: [String] = [], environment: [String: String?] = [:]) throws {
        process = try ChildProcess(command, arguments, environment: environment, keepsInputOpen: true)
    }

    /// What an SSH server runs for `exec sh -s`, with a shell of choice.
    package static func shell(_ shell: [String], home: String, setup: String = "") throws -> LocalChannel {
        let environment: [String: String?] = ["HOME": home, "ENV": nil, "BASH_ENV": nil]
        guard !setup.isEmpty else {
            return try LocalChannel(shell[0], Array(shell.dropFirst()) + ["-s"], environment: environment)
        }
        // Mounts of its own, which end with it.
        return try LocalChannel(
            "unshare",
            ["--mount", "sh", "-ec", "\(setup)\nexec \"$@\"", "sh"] + shell + ["-s"],
            environment: environment
        )
    }

    package func read() async throws -> [UInt8]? {
        while true {
            guard !isClosed.load(ordering: .acquiring) else { throw DeadlineExceeded("the channel is closed") }
            let isComplete = process.standardOutput.isComplete
            let bytes = process.standardOutput.bytes
            let new: [UInt8] = position.withLock { position in
                defer { position = bytes.count }
                return Array(bytes[position...])
            }
            if !new.isEmpty { return new }
            if isComplete { return nil }
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    package func write(_ bytes: [UInt8]) async throws {
        guard !isClosed.load(ordering: .acquiring) else { throw DeadlineExceeded("the channel is closed") }
        // Blocks while the pipe is full, so not on a thread that the tests run on.
        try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<Void, any Error>) in
            DispatchQueue.global().async { [process] in continuation.resume(with: Result { try process.write(bytes) }) }
        }
    }

    package func finish() async { process.closeInput() }

    package func close() {
        guard !isClosed.exchange(true, ordering: .acquiringAndReleasing) else { return }
        // As when a connection goes: no more input, and a signal for what waits for none.
        DispatchQueue.global().async { [process] in
            process.signal(SIGHUP)
            process.closeInput()
        }
    }

    package func standardErrorText() async -> String {
        // Over SSH it comes in the order it was written; here it has a thread of its own.
        _ = try? await process.standardError.complete(within: .seconds(1))
        return process.standardError.text
    }
}

/// Passes everything on until a limit, then cuts: the far side sees its input end, this side an error.
package final class CutChannel: RemoteChannel {
    private let lower: any RemoteChannel
    private let sendLimit: Int
    private let receiveLimit: Int
    private let counts = Mutex((sent: 0, received: 0))

    package init(_ lower: any RemoteChannel, sendLimit: Int = .max, receiveLimit: Int = .max) {
        self.lower = lower
        self.sendLimit = sendLimit
        self.receiveLimit = receiveLimit
    }

    package var sent: Int { counts.withLock { $0.sent } }
    package var received: Int { counts.withLock { $0.received } }

    package func read() async throws -> [UInt8]? {
        guard let bytes = try await lower.read() else { return nil }
        let allowed = counts.withLock { counts in
            defer { counts.received += bytes.count }
            return max(0, receiveLimit - counts.received)
        }
        guard allowed < bytes.count else { return bytes }
        await lower.finish()
        lower.close()
        guard allowed > 0 else { throw DeadlineExceeded("cut") }
        return Array(bytes.prefix(allowed))
    }

    package func write(_ bytes: [UInt8]) async throws {
        let allowed = counts.withLock { counts in
            defer { counts.sent += bytes.count }
            return max(0, sendLimit - counts.sent)
        }
        try await lower.write(Array(bytes.prefix(allowed)))
        guard allowed < bytes.count else { return }
        await lower.finish()
        lower.close()
        throw DeadlineExceeded("cut")
    }

    package func finish() async { await lower.finish() }
    package func close() { lower.close() }
    package func standardErrorText() async -> String { await lower.standardErrorText() }
}

/// Passes everything on; the end of the input waits until the channel is closed, as where the far side has no room for
/// it.
package final class EndlessChannel: RemoteChannel {
    private let lower: any RemoteChannel
    private let closing: AsyncStream<Void>
    private let closed: AsyncStream<Void>.Continuation

    package init(_ lower: any RemoteChannel) {
        self.lower = lower
        (closing, closed) = AsyncStream.makeStream()
    }

    package func read() async throws -> [UInt8]? { try await lower.read() }
    package func write(_ bytes: [UInt8]) async throws { try await lower.write(bytes) }
    package func finish() async { for await _ in closing {} }

    package func close() {
        lower.close()
        closed.finish()
    }

    package func standardErrorText() async -> String { await lower.standardErrorText() }
}

/// The shells of the far sides there are.
package enum FarShell: String, CaseIterable {
    case dash
    case bash
    case busybox

    package var command: [String] { self == .busybox ? ["busybox", "ash"] : [rawValue] }
}
