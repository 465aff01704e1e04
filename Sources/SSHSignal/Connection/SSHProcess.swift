import CLibSSH2
import Glibc
import Platform
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

/// A command or subsystem that runs on the server. Confined to its connection's event loop.
public class SSHProcess {
    /// Writes to the command's standard input, reads its standard output. Its end says nothing about the exit status.
    public final let stream: ByteStream

    /// How the command ended, or why that is not known: the connection was lost. nil while it runs.
    public final private(set) var result: Result<SSHExit, StreamError>?

    /// Called once, on the loop, when ``result`` is known. Output may still be unread then.
    public final var onExit: ((Result<SSHExit, StreamError>) -> Void)? {
        didSet { if let result, let onExit { later { onExit(result) } } }
    }

    /// Sees standard error as it arrives, besides ``standardErrorTail``; at once, from inside the setter, what the tail holds already.
    public final var onStandardError: ((UnsafeRawBufferPointer) -> Void)? {
        didSet {
            if let onStandardError, !standardErrorTail.isEmpty { standardErrorTail.withUnsafeBytes(onStandardError) }
        }
    }

    /// The last 16 KiB of standard error.
    public final private(set) var standardErrorTail: [UInt8] = []

    private static let tailLength = 16 << 10

    init(stream: ByteStream) {
        self.stream = stream
    }

    /// Standard error's end as text, safe for a terminal.
    public final var standardErrorText: String {
        let text = String(decoding: standardErrorTail, as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).map { Printable.clean($0, limit: Self.tailLength) }.joined(
            separator: "\n"
        )
    }

    /// Lets go of the command. One that still runs sees its standard input end, and often SIGHUP.
    public func close() { fatalError("\(type(of: self)) does not override close()") }

    // MARK: For the engines

    /// Runs `work` on the loop, from inside no method of the process or its stream.
    func later(_ work: @escaping () -> Void) { stream.loop.later(work) }

    final func receivedStandardError(_ bytes: UnsafeRawBufferPointer) {
        standardErrorTail.append(contentsOf: bytes.suffix(Self.tailLength))
        if standardErrorTail.count > Self.tailLength {
            standardErrorTail.removeFirst(standardErrorTail.count - Self.tailLength)
        }
        onStandardError?(bytes)
    }

    final func ended(_ result: Result<SSHExit, StreamError>) {
        guard self.result == nil else { return }
        self.result = result
        onExit?(result)
    }
}

/// A process on a channel of libssh2.
final class SSHChannelProcess: SSHProcess {
    private let channel: SSHChannel
    private weak var session: SSHSession?

    init(_ channel: SSHChannel, session: SSHSession) {
        self.channel = channel
        self.session = session
        super.init(stream: channel)
        channel.onExtendedData = { [weak self] in self?.receivedStandardError($0) }
        // A short command may have ended already: its answer and its end arrive together.
        if channel.closure == nil {
            channel.onClose = { [weak self] in self?.closed() }
        } else {
            closed()
        }
    }

    deinit {
        // The last reference may go elsewhere than on the loop.
        let bound = LoopBound(channel, on: channel.loop)
        if channel.loop.isCurrent { channel.close() } else { channel.loop.submit { bound.withValue { $0.close() } } }
    }

    override func close() { channel.close() }

    override func later(_ work: @escaping () -> Void) { session?.later(work) }

    private func closed() {
        if case .sessionEnded(let failure) = channel.closure {
            ended(.failure(failure))
        } else {
            ended(.success(exit()))
        }
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

/// `text` as one word of a POSIX shell.
package func shellQuoted(_ text: String) -> String {
    "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
