public import MeshIdentity
public import Streams

/// One CONNECT stream for tasks: read with ``inbound``, write with ``write(_:)-([UInt8])``, half-close with
/// ``finish()``.
///
/// It lives in the scope that made it (``HBONEClient/withStream(to:through:headers:isolation:_:)``, the handler of
/// ``HBONEListener/serve(admit:handler:)``): at the end of that scope it is finished and closed, and it is reset where
/// the scope throws or its task is cancelled. Safe to use from several tasks: one may read while others write.
///
/// Back-pressure goes both ways: a reader that does not read stops the peer, after the flow-control window and 256 KiB;
/// a writer waits while more than 128 KiB of it have not been accepted by the connection.
///
/// Its own work is done on an event loop; a chunk costs a lock and, where the task had to wait, a wake-up of the task.
/// A relay between two streams needs neither: use ``HBONEClient/openStream(to:through:headers:)`` and `Relay` for that.
public final class HBONEStream: Sendable {
    /// The other side, as its certificate proved: the server's identity for a client, the client's for a server.
    /// Through gateways it is the last hop.
    public let peer: SPIFFEID
    /// Which of its certificates the other side has shown; nil where the connection has none.
    package let peerCertificate: CertificateName?
    /// What was asked for: authority and header fields. On a server: text that the peer wrote.
    public let request: ConnectRequest
    /// What was answered, with the server's header fields.
    public let response: ConnectResponse
    /// The address at the other end of the connection, where that is known.
    public let remoteAddress: SocketAddress?

    private let mailbox: StreamMailbox
    private let pump: LoopBound<MailboxPump>
    /// The failure of the stream was thrown to whoever uses it.
    private let failureWasSeen = Lock(false)

    /// On the loop only. The stream must be open, and have no observer.
    init(_ stream: H2Stream, peer: SPIFFEID) {
        self.peer = peer
        peerCertificate = stream.connection?.peerCertificate
        request = stream.request
        response = stream.response ?? ConnectResponse(status: 200)
        remoteAddress = stream.transport?.remoteAddress
        mailbox = StreamMailbox()
        let pump = MailboxPump(stream, mailbox: mailbox)
        self.pump = LoopBound(pump, on: stream.loop)
        pump.start()
    }

    // MARK: Reading

    /// What the peer sends, in chunks as they come, until it finishes. One task at a time may iterate; who iterates
    /// anew goes on where the last one stopped.
    ///
    /// Throws ``Streams/StreamError``: `reset` when the peer aborted, `truncated` when the connection died, `cancelled`
    /// when the task was cancelled. An end without an error means that every byte has been read.
    public var inbound: Inbound { Inbound(stream: self) }

    /// The next chunk, never empty; nil at the end. See ``inbound``.
    public func read(isolation: isolated (any Actor)? = #isolation) async throws(StreamError) -> [UInt8]? {
        let result = await mailbox.receive(isolation: isolation) { onLoop { $0.read() } }
        do throws(StreamError) { return try result.get() } catch { throw seen(error) }
    }

    /// The chunks of a stream. See ``HBONEStream/inbound``.
    public struct Inbound: AsyncSequence, Sendable {
        let stream: HBONEStream

        public func makeAsyncIterator() -> Iterator { Iterator(stream: stream) }

        /// Reads one chunk after the other. A stream has one reader at a time.
        public struct Iterator: AsyncIteratorProtocol {
            let stream: HBONEStream

            public mutating func next() async throws(StreamError) -> [UInt8]? {
                try await stream.read(isolation: nil)
            }

            public mutating func next(
                isolation actor: isolated (any Actor)?
            ) async throws(StreamError) -> [UInt8]? {
                try await stream.read(isolation: actor)
            }
        }
    }

    // MARK: Writing

    /// Sends bytes, in order, after all that was written before. Returns when there is room for more, which is before
    /// the peer has them. The array is kept until then, not copied.
    ///
    /// Throws ``Streams/StreamError``: `closed` after ``finish()``, or where the peer reads no more (what it sends can
    /// still be read), `reset`, `truncated`. `cancelled` when the task was cancelled while it waited; the bytes are
    /// sent all the same.
    public func write(_ bytes: [UInt8]) async throws(StreamError) { try await write(bytes[...]) }

    /// Sends the bytes of a slice. See ``write(_:)-([UInt8])``.
    public func write(_ bytes: ArraySlice<UInt8>) async throws(StreamError) {
        do throws(StreamError) {
            let (mustTell, mustWait) = try mailbox.send(bytes)
            if mustTell { onLoop { $0.flush() } }
            if mustWait { try await mailbox.waitForRoom(StreamMailbox.outboundLimit) }
        } catch {
            throw seen(error)
        }
    }

    /// Sends text as UTF-8. See ``write(_:)-([UInt8])``.
    public func write(_ text: String) async throws(StreamError) { try await write(Array(text.utf8)) }

    /// Half-close: the peer reads the end after everything that was written. Reading goes on. Returns when the
    /// connection has accepted all bytes. Idempotent.
    ///
    /// Throws what ``write(_:)-([UInt8])`` throws.
    public func finish() async throws(StreamError) {
        if mailbox.finish() { onLoop { $0.flush() } }
        do throws(StreamError) { try await mailbox.waitForRoom(0) } catch { throw seen(error) }
    }

    /// Aborts both directions: the peer sees a reset, and whoever waits here gets `reason`.
    public func reset(_ reason: StreamError = StreamError(.closed, "the stream was reset by this side")) {
        mailbox.fail(reason)
        onLoop { $0.reset(reason) }
    }

    // MARK: The scope

    /// Runs `body`, and ends the stream as its outcome says.
    func scoped<Success>(
        isolation: isolated (any Actor)?,
        _ body: (HBONEStream) async throws -> Success
    ) async throws -> Success {
        do {
            let result = try await withTaskCancellationHandler(
                operation: {
                    let result = try await body(self)
                    try await leave()
                    return result
                },
                onCancel: { reset(StreamMailbox.cancelled) },
                isolation: isolation
            )
            onLoop { $0.close() }
            return result
        } catch {
            reset(StreamError(.closed, "the scope of the stream ended with an error: \(error)"))
            throw error
        }
    }

    private func leave() async throws(StreamError) {
        let wasSeen = failureWasSeen.withLock { $0 }
        do throws(StreamError) {
            try await finish()
        } catch {
            // A failure that `body` knew of was its own to judge. `closed` is none: the peer reads no more, by its own
            // choice, or `body` has reset the stream.
            if wasSeen || error.code == .closed { return }
            throw error
        }
    }

    private func seen(_ error: StreamError) -> StreamError {
        // A cancelled wait is no failure of the stream.
        if error.code != .cancelled { failureWasSeen.withLock { $0 = true } }
        return error
    }

    private func onLoop(_ body: @escaping @Sendable (MailboxPump) -> Void) {
        let pump = pump
        pump.loop.submit { pump.withValue(body) }
    }
}
