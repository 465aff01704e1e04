import Glibc
public import H2Transport
import MeshIdentity
public import NIOCore
import NIOPosix
public import Platform
public import Streams

// A NIO channel for each CONNECT stream, through a socket pair: NIO has one end, a relay on our event loop joins the
// other with the stream. Back-pressure, half-close and resets pass through.

extension HBONEClient {
    /// Opens a stream and hands it to NIO as a connected channel, which NIO owns.
    ///
    /// - Parameters:
    ///   - authority: Where the stream is to end.
    ///   - peer: The HBONE server it goes through; nil is port 15008 on the authority's own host.
    ///   - headers: Metadata for the other side.
    ///   - group: Event loops of `NIOPosix`.
    ///   - initializer: Sets up the pipeline, before any byte is read. ``MeshStreamHandler`` is in it already.
    /// - Returns: What `initializer` made.
    /// - Throws: ``H2Transport/ConnectFailure`` when the stream did not open.
    public func connectChannel<Output: Sendable>(
        to authority: Authority,
        through peer: HBONEPeer? = nil,
        headers: HeaderFields = [:],
        on group: any NIOCore.EventLoopGroup,
        initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Output>
    ) async throws -> Output {
        let stream = try await openStream(to: authority, through: peer, headers: headers)
        let bridged = try await stream.loop.execute { try stream.withValue { try BridgedStream($0) } }
        return try await bridged.channel(on: group, initializer)
    }

    /// Opens a stream and hands it to NIO as a connected channel with an empty pipeline.
    public func connectChannel(
        to authority: Authority,
        through peer: HBONEPeer? = nil,
        headers: HeaderFields = [:],
        on group: any NIOCore.EventLoopGroup
    ) async throws -> any Channel {
        try await connectChannel(to: authority, through: peer, headers: headers, on: group) { channel in
            channel.eventLoop.makeSucceededFuture(channel)
        }
    }
}

extension HBONEListener {
    /// Serves each admitted stream as a NIO channel, as a `ServerBootstrap` does with its connections. Returns when the
    /// task is cancelled, or the listener has been drained and every handler has returned.
    ///
    /// - Parameters:
    ///   - group: Event loops of `NIOPosix`.
    ///   - admit: See `HBONEListener.serve(admit:handler:)`.
    ///   - initializer: Sets up the pipeline of each channel, before any byte is read. ``MeshStreamHandler`` is in it
    ///     already.
    ///   - handler: Gets what `initializer` made, in a task of its own.
    public func serveChannels<Output: Sendable>(
        on group: any NIOCore.EventLoopGroup,
        admit: HBONEAdmissionHook? = nil,
        initializer: @escaping @Sendable (any Channel, HBONERequest) -> EventLoopFuture<Output>,
        handler: @escaping @Sendable (Output) async -> Void
    ) async {
        let (streams, arrive) = AsyncStream.makeStream(of: (BridgedStream, HBONERequest).self)
        await withDiscardingTaskGroup { tasks in
            tasks.addTask {
                await self.serveOnLoop(admit: admit) { stream, request in
                    // Without descriptors for a pair the stream is reset, which the client sees.
                    guard let bridged = try? BridgedStream(stream) else { return }
                    if case .terminated = arrive.yield((bridged, request)) { bridged.abandon() }
                }
                arrive.finish()
            }
            for await (stream, request) in streams {
                tasks.addTask {
                    let output = try? await stream.channel(on: group) { initializer($0, request) }
                    if let output { await handler(output) }
                }
            }
        }
    }
}

/// A stream whose bridge runs, with the descriptor that NIO has not taken yet. Use it once.
struct BridgedStream: Sendable {
    private let peer: SPIFFEID
    private let request: ConnectRequest
    private let ending = StreamEnding()
    private let bridge: LoopBound<SocketBridge>
    private let descriptor: Int32

    /// On the stream's loop. Owns the stream from now on.
    init(_ stream: H2Stream) throws {
        guard let peer = stream.peer else {
            let error = stream.failure ?? StreamError(.truncated, "the connection ended when the stream opened")
            stream.reset(error)
            throw error
        }
        self.peer = peer
        request = stream.request
        let (bridge, descriptor) = try SocketBridge.start(stream, ending: ending)
        self.bridge = LoopBound(bridge, on: stream.loop)
        self.descriptor = descriptor
    }

    /// Makes the channel. When `initializer` fails, the channel is closed, and the stream with it.
    func channel<Output: Sendable>(
        on group: any NIOCore.EventLoopGroup,
        _ initializer: @escaping @Sendable (any Channel) -> EventLoopFuture<Output>
    ) async throws -> Output {
        let bridge = bridge
        let handler = MeshStreamHandler(peer: peer, request: request, ending: ending) {
            bridge.loop.submit { bridge.withValue { $0.channelClosed() } }
        }
        return try await ClientBootstrap(group: group)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .withConnectedSocket(descriptor) { channel in
                channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler) }
                    .flatMap { initializer(channel) }
            }
    }

    /// Nobody wants it: the peer sees a reset or an end.
    func abandon() { close(descriptor) }
}
