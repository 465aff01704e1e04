/// Which way bytes go through a stream that a node carries.
public enum StreamDirection: Hashable, Sendable {
    /// From the client, who has asked for the stream, to its destination.
    case toDestination
    /// From the destination to the client.
    case toClient
}

/// What becomes of bytes that a ``StreamFilter`` was shown.
public enum FilterVerdict: Hashable, Sendable {
    /// This many of them, from the first and at least one, go on as they are. The others are shown again once these
    /// have gone on.
    case pass(Int)
    /// This many of them, from the first and at least one, were taken, and these bytes go on in their place: none to
    /// leave something out, or to keep it for later.
    case replace(Int, with: [UInt8])
    /// Nothing goes on now. The same bytes are shown again after this time; nil: when ``FilterControl/resume()`` is
    /// called. Until then nothing more is read in this direction, so that the sender has to wait, too.
    case wait(Duration?)
}

/// Sees what one stream carries, both ways, and may change, delay or end it. A node asks the program that it is part of
/// which filter a stream gets.
///
/// ```
///                 filter(_:_:), finish(_:)
///   client  ←──────────── filter ────────────→  destination
/// ```
///
/// - Ownership: the stream keeps its filter until it is over, and drops it after ``end(_:)``. One object for each
///   stream: nothing says which stream a call is about.
/// - Threading: all calls come on the stream's event loop, one after the other, so that a filter needs no lock for what
///   is its own. It must not wait for anything: the other streams of the loop wait with it.
/// - Back-pressure: bytes that wait, and bytes that the next hop does not take, stop the sender. What
///   ``FilterVerdict/replace(_:with:)`` gives is kept until it has gone on, and no more is shown meanwhile: a filter
///   that makes more of less bounds its own memory.
/// - Ends: a direction that ends is told by ``finish(_:)``, after its last byte, and the other goes on. A stream cannot
///   be ended as if it were complete: who ends it early does so by an error, and both sides see an abort.
public protocol StreamFilter: AnyObject {
    /// Called once, before everything else.
    ///
    /// - Parameter control: For a filter that decides later, or by itself. May be kept.
    func begin(_ control: FilterControl)

    /// Bytes are about to go on.
    ///
    /// - Parameters:
    ///   - bytes: Never empty, and valid until the call returns. How many come at once means nothing.
    ///   - direction: Which way.
    /// - Throws: To end the stream, with the reason: both sides are reset, and the access log has it.
    func filter(_ bytes: UnsafeRawBufferPointer, _ direction: StreamDirection) throws -> FilterVerdict

    /// One direction is complete: all its bytes were shown and have gone on.
    ///
    /// - Returns: What goes on before the end: what the filter has kept.
    /// - Throws: As ``filter(_:_:)``.
    func finish(_ direction: StreamDirection) throws -> [UInt8]

    /// The stream is over; nothing is called any more.
    ///
    /// - Parameter failure: Why it was cut; nil when both directions were complete.
    func end(_ failure: StreamError?)
}

extension StreamFilter {
    /// Does nothing.
    public func begin(_ control: FilterControl) {}

    /// Has kept nothing.
    public func finish(_ direction: StreamDirection) throws -> [UInt8] { [] }

    /// Does nothing.
    public func end(_ failure: StreamError?) {}
}

/// What a ``StreamFilter`` can do with its stream from outside of its own calls: by what it learns later, from
/// whichever thread. Without effect when the stream is over.
public struct FilterControl: Sendable {
    private final class Target {
        weak var stream: FilteredStream?
        init(_ stream: FilteredStream) { self.stream = stream }
    }

    private let target: LoopBound<Target>

    init(_ stream: FilteredStream) {
        target = LoopBound(Target(stream), on: stream.loop)
    }

    /// Where the stream lives, and the filter is called.
    public var loop: EventLoop { target.loop }

    /// The loop's clock: nanoseconds since some moment in the past, the same for all calls of one turn. On the loop
    /// only.
    public var now: UInt64 {
        loop.preconditionInLoop()
        return loop.now
    }

    /// Shows the bytes again, in both directions, for which the filter has said ``FilterVerdict/wait(_:)``. Soon, and
    /// never from inside this call. From any thread.
    public func resume() {
        loop.submit { [target] in target.withValue { $0.stream?.resumeFilter() } }
    }

    /// Ends the stream: both sides are reset. Soon, and never from inside this call. From any thread.
    ///
    /// - Parameter reason: For the access log.
    public func end(_ reason: StreamError) {
        loop.submit { [target] in target.withValue { $0.stream?.endByFilter(reason) } }
    }
}
