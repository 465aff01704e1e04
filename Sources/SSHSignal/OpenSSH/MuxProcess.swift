import Streams

/// A command or subsystem on a channel of an `ssh` master. Confined to its loop.
final class MuxProcess: SSHProcess {
    private let channel: MuxChannel

    init(_ channel: MuxChannel) {
        self.channel = channel
        super.init(stream: channel)
        channel.onExtendedData = { [weak self] in self?.receivedStandardError($0) }
        channel.onClose = { [weak self, unowned channel] failure in
            // A server that tells no status at all has ended the channel for its own reasons.
            let exit = channel.exit ?? .signal("unknown")
            self?.ended(failure.map { .failure($0) } ?? .success(exit))
        }
    }

    deinit {
        // The last release may happen off the loop, when the connection has ended.
        let channel = LoopBound(channel, on: channel.loop)
        channel.loop.submit { channel.withValue { $0.close() } }
    }

    override func close() { channel.close() }
}
