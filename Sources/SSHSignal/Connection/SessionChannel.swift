import Streams

/// A session channel (RFC 4254 §6) of either engine: the standard input and output of a command as a byte stream, and
/// what comes beside them.
///
/// Only what happens a few times in the life of a channel is asked for here. Bytes go through the class,
/// ``Streams/ByteStream``, with no existential on their way.
protocol SessionChannel: ByteStream {
    /// Receives standard error, which would otherwise fill the window.
    var onExtendedData: ((UnsafeRawBufferPointer) -> Void)? { get set }
    /// How the channel ended for good; nil while it has not.
    var closure: ChannelClosure? { get }
    /// Called once when ``closure`` is set.
    var onClose: (() -> Void)? { get set }
    /// How the command ended. To be asked once the server has closed the channel.
    var exit: SSHExit { get }
}

/// How a channel ended for good.
enum ChannelClosure {
    case byServer
    case sessionEnded(StreamError)
}

extension StreamError {
    /// Why nothing can be written any more to a channel that the server has closed.
    static func closedByServer(_ peer: String) -> StreamError {
        StreamError(.closed, "\(peer) closed the channel and takes no more bytes")
    }
}
