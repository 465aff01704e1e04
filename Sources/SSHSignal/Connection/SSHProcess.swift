import Platform
public import Streams

/// A command or subsystem that runs on the server. Confined to its connection's event loop. It ends when this object is
/// released.
public final class SSHProcess {
    /// Writes to the command's standard input, reads its standard output. Its end says nothing about the exit status.
    public let stream: ByteStream

    /// How the command ended, or why that is not known: the connection was lost. nil while it runs.
    public private(set) var result: Result<SSHExit, StreamError>?

    /// Called once, on the loop, when ``result`` is known. Output may still be unread then.
    public var onExit: ((Result<SSHExit, StreamError>) -> Void)? {
        didSet {
            guard let result, let onExit else { return }
            // From inside no method of the process or its stream.
            stream.loop.later { onExit(result) }
        }
    }

    /// Sees standard error as it arrives, besides ``standardErrorTail``; at once, from inside the setter, what the tail
    /// holds already.
    public var onStandardError: ((UnsafeRawBufferPointer) -> Void)? {
        didSet {
            if let onStandardError, !standardErrorTail.isEmpty { standardErrorTail.withUnsafeBytes(onStandardError) }
        }
    }

    /// The last 16 KiB of standard error.
    public private(set) var standardErrorTail: [UInt8] = []

    private static let tailLength = 16 << 10

    /// - Parameter channel: The command has been started on it.
    init(_ channel: some SessionChannel) {
        stream = channel
        channel.onExtendedData = { [weak self] in self?.receivedStandardError($0) }
        // A short command may have ended already: its answer and its end arrive together.
        if channel.closure == nil {
            channel.onClose = { [weak self, unowned channel] in self?.closed(channel) }
        } else {
            closed(channel)
        }
    }

    deinit {
        // The last reference may go elsewhere than on the loop.
        let bound = LoopBound(stream, on: stream.loop)
        if stream.loop.isCurrent { stream.close() } else { stream.loop.submit { bound.withValue { $0.close() } } }
    }

    /// Standard error's end as text, safe for a terminal.
    public var standardErrorText: String {
        let text = String(decoding: standardErrorTail, as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).map { Printable.clean($0, limit: Self.tailLength) }.joined(
            separator: "\n"
        )
    }

    /// Lets go of the command. One that still runs sees its standard input end, and often SIGHUP.
    public func close() { stream.close() }

    private func receivedStandardError(_ bytes: UnsafeRawBufferPointer) {
        standardErrorTail.append(contentsOf: bytes.suffix(Self.tailLength))
        if standardErrorTail.count > Self.tailLength {
            standardErrorTail.removeFirst(standardErrorTail.count - Self.tailLength)
        }
        onStandardError?(bytes)
    }

    private func closed(_ channel: some SessionChannel) {
        switch channel.closure {
        case .byServer: ended(.success(channel.exit))
        case .sessionEnded(let failure): ended(.failure(failure))
        case nil: break
        }
    }

    private func ended(_ result: Result<SSHExit, StreamError>) {
        guard self.result == nil else { return }
        self.result = result
        onExit?(result)
    }
}
