public import H2Transport
public import MeshIdentity
public import NIOCore
import Streams

/// The first handler in the pipeline of each bridged channel: knows who is at the other end, and turns an aborted
/// stream into an error instead of an end.
///
/// `channel.pipeline.handler(type: MeshStreamHandler.self)` finds it.
public final class MeshStreamHandler: ChannelInboundHandler, Sendable {
    public typealias InboundIn = ByteBuffer
    public typealias InboundOut = ByteBuffer

    /// The other side, as its certificate proved.
    public let peer: SPIFFEID
    /// What was asked for. On a server: text that the peer wrote.
    public let request: ConnectRequest
    private let ending: StreamEnding
    private let closed: @Sendable () -> Void

    init(peer: SPIFFEID, request: ConnectRequest, ending: StreamEnding, closed: @escaping @Sendable () -> Void) {
        self.peer = peer
        self.request = request
        self.ending = ending
        self.closed = closed
    }

    public func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed, let failure = ending.takeFailure() {
            context.fireErrorCaught(failure)
            context.close(promise: nil)
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }

    public func channelInactive(context: ChannelHandlerContext) {
        if let failure = ending.takeFailure() { context.fireErrorCaught(failure) }
        closed()
        context.fireChannelInactive()
    }
}
