import CLibSSH2
import Glibc
public import Streams

/// How a command ended.
public enum SSHExit: Hashable, Sendable, CustomStringConvertible {
    /// Its exit status. libssh2 cannot tell a status that the server did not send from 0: where it matters, have the command
    /// print what proves its success.
    case status(Int32)
    /// The signal that ended it, without "SIG".
    case signal(String)

    public var description: String {
        switch self {
        case .status(let status): "exit status \(status)"
        case .signal(let name): "signal \(name)"
        }
    }

    public var isSuccess: Bool { self == .status(0) }
}

/// A command or subsystem that runs on the server. Confined to the session's event loop.
public final class SSHProcess {
    /// Writes to the command's standard input, reads its standard output. Its end says nothing about the exit status.
    public let stream: ByteStream

    /// How the command ended, or why that is not known: the session was lost. nil while it runs.
    public private(set) var result: Result<SSHExit, StreamError>?

    /// Called once, on the loop, when ``result`` is known. Output may still be unread then.
    public var onExit: ((Result<SSHExit, StreamError>) -> Void)? {
        didSet { if let result, let onExit { session?.later { onExit(result) } } }
    }

    /// Sees standard error as it arrives, besides ``standardErrorTail``.
    public var onStandardError: ((UnsafeRawBufferPointer) -> Void)?

    /// The last 16 KiB of standard error.
    public private(set) var standardErrorTail: [UInt8] = []

    private let channel: SSHChannel
    private weak var session: SSHSession?

    private static let tailLength = 16 << 10

    init(_ channel: SSHChannel, session: SSHSession) {
        self.channel = channel
        self.session = session
        stream = channel
        channel.onExtendedData = { [weak self] in self?.receivedStandardError($0) }
        // A short command may have ended already: its answer and its end arrive together.
        if channel.closure == nil {
            channel.onClose = { [weak self] in self?.closed() }
        } else {
            closed()
        }
    }

    deinit { channel.close() }

    /// Standard error's end as text, safe for a terminal.
    public var standardErrorText: String {
        let text = String(decoding: standardErrorTail, as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).map { Printable.clean($0, limit: Self.tailLength) }.joined(
            separator: "\n"
        )
    }

    /// Ends the channel. A command that still runs sees its standard input end, and often SIGHUP.
    public func close() { channel.close() }

    private func receivedStandardError(_ bytes: UnsafeRawBufferPointer) {
        standardErrorTail.append(contentsOf: bytes.suffix(Self.tailLength))
        if standardErrorTail.count > Self.tailLength {
            standardErrorTail.removeFirst(standardErrorTail.count - Self.tailLength)
        }
        onStandardError?(bytes)
    }

    private func closed() {
        let result: Result<SSHExit, StreamError>
        if case .sessionEnded(let failure) = channel.closure {
            result = .failure(failure)
        } else {
            result = .success(exit())
        }
        self.result = result
        onExit?(result)
    }

    private func exit() -> SSHExit {
        var name: UnsafeMutablePointer<CChar>?
        var length = 0
        libssh2_channel_get_exit_signal(channel.raw, &name, &length, nil, nil, nil, nil)
        if let name {
            // libssh2 allocated it with the session's allocator, which is malloc.
            defer { free(name) }
            return .signal(Printable.clean(String(cString: name)))
        }
        return .status(libssh2_channel_get_exit_status(channel.raw))
    }
}

extension SSHSession {
    /// Runs `command` with the account's login shell (RFC 4254 §6.5).
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call, when the server has started it. The
    ///   process ends when it is released.
    /// - Parameter command: A command line for the account's shell.
    public func execute(_ command: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess("exec", command, window: 1 << 20) { [unowned self] result in
            completion(result.map { SSHProcess($0, session: self) })
        }
    }

    /// Starts a subsystem, such as `sftp`.
    public func startSubsystem(_ name: String, completion: @escaping (Result<SSHProcess, SSHError>) -> Void) {
        startProcess("subsystem", name, window: 256 << 10) { [unowned self] result in
            completion(result.map { SSHProcess($0, session: self) })
        }
    }
}

/// `text` as one word of a POSIX shell.
package func shellQuoted(_ text: String) -> String {
    "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
