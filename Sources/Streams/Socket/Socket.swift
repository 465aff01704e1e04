public import CLinux
import Glibc

/// A connected TCP or Unix stream socket.
///
/// Registered with edge-triggered epoll; what is known of its readiness saves the system calls that would find nothing.
/// No write waits for an acknowledgment (TCP_NODELAY). The loop retains a socket until it is closed or reset: whoever
/// owns it must do either.
///
/// A Unix socket has no reset: the peer of one that was reset, or closed before it had ended, reads an end, unless it
/// had sent bytes that were not read (unix(7)). Where an end must prove completeness, the bytes have to say so
/// themselves.
public final class Socket: ByteStream, PollHandler {
    /// −1 once closed.
    private(set) var descriptor: Int32
    /// Asked of the kernel when it is needed.
    public var localAddress: SocketAddress? { Self.address(of: descriptor, getsockname) }
    /// The other end's; nil where it has none.
    public private(set) var peerAddress: SocketAddress?

    /// The reader waits from the start: epoll says at once where there is something, and trying costs a system call
    /// that mostly finds nothing. Nothing is tried while the reader or the writer waits.
    private var ends = StreamEnds()
    private var sawReadHangup = false
    /// The loop says when there is room to write: from the first write on that found too little. Most streams are over
    /// before one does, and each would be told of its empty buffer.
    private var hearsOfRoom = false
    /// The stream has failed, and bytes that arrived before can still be read.
    private var hasUnread = false
    private var smallWrites = SmallWrites.leaveAtOnce
    /// The kernel would say reset, ``SocketOptions/resetsUnlessEnded``.
    private var resetsUnlessEnded = false

    /// Whether a small write may have to wait for the acknowledgment of the one before it (Nagle's algorithm).
    private enum SmallWrites {
        /// TCP_NODELAY is set, or there is no such thing.
        case leaveAtOnce
        /// Nothing was written yet, so that the first one has none to wait for. Connections that carry one small
        /// request save the system call.
        case firstOfAll
        /// TCP_NODELAY is set before the next one.
        case wouldWait
    }

    /// Takes over a connected, non-blocking descriptor.
    ///
    /// - Parameters:
    ///   - peer: Where it is known, which saves asking the kernel.
    ///   - reported: The loop watches the descriptor already, for another handler, which was told of these events. No
    ///     edge follows for what they said.
    init(
        descriptor: Int32,
        on loop: EventLoop,
        peer: SocketAddress? = nil,
        reported: PollEvents? = nil
    ) throws(StreamError) {
        self.descriptor = descriptor
        peerAddress = peer ?? Self.address(of: descriptor, getpeername)
        super.init(loop: loop)
        if peerAddress?.isUnix == false {
            smallWrites = .firstOfAll
            // Whoever had it before may have written.
            if peer == nil { letSmallWritesLeave() }
        }
        if let reported {
            sawReadHangup = !reported.isDisjoint(with: [.readHangup, .hangup])
            if sawReadHangup || reported.contains(.readable) { _ = ends.wakeReader() }
            hearsOfRoom = true
            loop.replaceHandler(of: descriptor, with: self)
        } else {
            try register()
        }
    }

    /// Takes over a connected, non-blocking descriptor: one end of a socket pair, what another program handed over.
    package convenience init(adopting descriptor: Int32, on loop: EventLoop) throws(StreamError) {
        try self.init(descriptor: descriptor, on: loop)
    }

    /// Takes over what a ``Listener`` accepted, which has the listener's options.
    init(
        accepted descriptor: Int32,
        from peer: SocketAddress?,
        on loop: EventLoop,
        resetsUnlessEnded: Bool = false
    ) throws(StreamError) {
        self.descriptor = descriptor
        peerAddress = peer
        self.resetsUnlessEnded = resetsUnlessEnded
        super.init(loop: loop)
        try register()
        // Not by the listening socket, which may be another process's as well.
        if resetsUnlessEnded { Self.setReset(true, of: descriptor) }
    }

    private func register() throws(StreamError) {
        do {
            try loop.register(descriptor, handler: self, for: .arrivals)
        } catch {
            _ = Glibc.close(descriptor)
            descriptor = -1
            throw error
        }
    }

    /// The other end is a proxy, and has said whose connection this is.
    package func speaks(for client: SocketAddress) { peerAddress = client }

    public override var peerDescription: String { peerAddress?.description ?? "a socket" }

    // MARK: Options

    /// What is nil in `options` stays as it is.
    public func apply(_ options: SocketOptions) {
        guard peerAddress?.isUnix == false else { return }
        if options.resetsUnlessEnded, !resetsUnlessEnded {
            resetsUnlessEnded = true
            Self.setReset(true, of: descriptor)
        }
        if let bytes = options.unsentLimit {
            Self.set(descriptor, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, Int32(clamping: bytes))
        }
        guard let timeout = options.unacknowledgedLimit else {
            if options.probesWhenIdle { probe(after: options.idleBeforeProbe) }
            return
        }
        let milliseconds = Int32(clamping: max(1, timeout.nanoseconds / 1_000_000))  // 0 would mean the default
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_USER_TIMEOUT, milliseconds)
        Self.set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, Self.keepaliveSeconds(options.idleBeforeProbe))
        // With a user timeout the kernel gives up at the second probe: after `idle` and once more `timeout`.
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, Self.keepaliveSeconds(timeout))
    }

    private func probe(after idle: Duration) {
        Self.set(descriptor, SOL_SOCKET, SO_KEEPALIVE, 1)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPIDLE, Self.keepaliveSeconds(idle))
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPINTVL, 20)
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_KEEPCNT, 3)
    }

    /// The kernel refuses less than 1 and more than 32767 (MAX_TCP_KEEPIDLE).
    private static func keepaliveSeconds(_ duration: Duration) -> Int32 {
        Int32(min(32767, max(1, duration.nanoseconds / 1_000_000_000)))
    }

    // MARK: ByteStream

    public override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        // recv(2) answers 0 to an empty buffer, which would look like the end.
        precondition(!buffer.isEmpty, "reading into an empty buffer")
        guard failure == nil else { return descriptor >= 0 ? readUnread(into: buffer) : .failed }
        guard ends.reading == .open else { return .end }
        guard descriptor >= 0 else { return refuseRead() }
        guard !ends.readerWaits else { return .wouldBlock }
        while true {
            let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
            if count > 0 {
                // A short read means drained; the next byte is a new edge. Not so once the peer shut down: no edge
                // follows.
                if count < buffer.count && !sawReadHangup { _ = ends.blockReader() }
                return .bytes(count)
            }
            if count == 0 { return ends.deliverEnd() }
            switch errno {
            case EINTR: continue
            case EAGAIN: return ends.blockReader()
            case let number:
                fail(.system(number, "reading from \(peerDescription)"))
                return .failed
            }
        }
    }

    public override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, descriptor >= 0 else { return refuseWrite() }
        guard ends.writing == .open else {
            return refuseWrite(StreamError(.closed, "write after the end of the stream to \(peerDescription)"))
        }
        guard !ends.writerWaits else { return .wouldBlock }
        guard vectors.count > Self.vectorsPerCall else { return writeOnce(vectors) }
        // A short count promises a notice, which comes only when the kernel had no room: so offer it everything.
        var total = 0
        var start = 0
        while start < vectors.count {
            let piece = UnsafeBufferPointer(rebasing: vectors[start..<min(start + Self.vectorsPerCall, vectors.count)])
            switch writeOnce(piece) {
            case .bytes(let count): total += count
            case .wouldBlock: return total > 0 ? .bytes(total) : .wouldBlock
            case .failed: return .failed
            }
            guard !ends.writerWaits else { break }
            start += piece.count
        }
        return .bytes(total)
    }

    /// IOV_MAX: more in one call is EMSGSIZE.
    private static var vectorsPerCall: Int { 1024 }

    private func writeOnce(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        var offered = 0
        for vector in vectors { offered += vector.iov_len }
        guard offered > 0 else { return .bytes(0) }
        if smallWrites == .firstOfAll { smallWrites = .wouldWait } else { letSmallWritesLeave() }
        while true {
            let count = send(vectors)
            if count >= 0 {
                if count < offered { hearOfRoom() }
                return ends.accept(count, of: offered)
            }
            switch errno {
            case EINTR: continue
            case EAGAIN:
                hearOfRoom()
                return ends.blockWriter()
            case let number:
                broken(.system(number, "writing to \(peerDescription)"))
                return .failed
            }
        }
    }

    private func hearOfRoom() {
        guard !hearsOfRoom else { return }
        hearsOfRoom = true
        loop.registerWritable(descriptor)
    }

    private func letSmallWritesLeave() {
        guard smallWrites != .leaveAtOnce else { return }
        Self.set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        smallWrites = .leaveAtOnce
    }

    /// The connection is broken, but the kernel may still hold what the peer said before: the last words of a TLS peer
    /// are the alert that says why.
    private func broken(_ error: StreamError) {
        fail(error)
        var byte: UInt8 = 0
        hasUnread = recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)) > 0
    }

    private func readUnread(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard hasUnread else { return .failed }
        let count = recv(descriptor, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT))
        hasUnread = count > 0
        return count > 0 ? .bytes(count) : .failed
    }

    public override func finish() {
        guard descriptor >= 0, ends.finish() else { return }
        ends.sentEnd()
        if ends.areOver && failure == nil {
            // Both directions are over, and closing says so as well as a shutdown would.
            letEndReachPeer()
            release()
        } else {
            _ = shutdown(descriptor, Int32(SHUT_WR))
        }
    }

    public override func reset(_ reason: StreamError) {
        guard descriptor >= 0 else { return }
        fail(reason)
        if !resetsUnlessEnded { Self.setReset(true, of: descriptor) }
        release()
    }

    public override func close() {
        guard descriptor >= 0 else { return fail(.closedByOwner) }
        // Without finish() the peer must not take the close for a clean end.
        guard ends.writing == .finished || failure != nil else { return reset(.closed(self)) }
        let mayStillSend = failure == nil && ends.reading == .open
        if failure == nil { letEndReachPeer() }
        fail(.closedByOwner)
        // The peer may send on, and the kernel answers bytes for a closed socket with a reset that destroys what the
        // peer has yet to be sent: linger until it has everything.
        if mayStillSend, peerAddress?.isUnix == false, LingeringClose.unacknowledgedBytes(of: descriptor) > 0 {
            let descriptor = descriptor
            loop.unregister(descriptor)
            self.descriptor = -1
            LingeringClose(descriptor, on: loop).start()
        } else {
            release()
        }
    }

    // MARK: Before the stream is used

    /// The first byte that has arrived, which the next read still returns; nil when none has, and the observer is told
    /// when one does. At the end of the stream, and after a failure, there is nothing to look at: 0 stands for both.
    package func peek() -> UInt8? {
        guard failure == nil, descriptor >= 0 else { return 0 }
        guard !ends.readerWaits else { return nil }
        var byte: UInt8 = 0
        let count = recv(descriptor, &byte, 1, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
        if count < 0 && (errno == EAGAIN || errno == EINTR) {
            // Without an edge for what had come before there would be no other.
            if errno == EAGAIN { _ = ends.blockReader() }
            return nil
        }
        return byte
    }

    /// Gives the socket to whoever is called on `target`, with all its bytes. This object is over.
    ///
    /// - Parameters:
    ///   - target: Another loop.
    ///   - body: Called there with the socket anew; not at all when that loop has shut down, or has no room for it.
    package func move(to target: EventLoop, _ body: @escaping @Sendable (Socket) -> Void) {
        loop.preconditionInLoop()
        guard descriptor >= 0 else { return }
        letSmallWritesLeave()
        let (moved, peer, resets) = (descriptor, peerAddress, resetsUnlessEnded)
        loop.unregister(moved)
        descriptor = -1
        observer = nil
        fail(.closedByOwner)
        let isAccepted = target.submitIfRunning {
            let socket = try? Socket(accepted: moved, from: peer, on: target, resetsUnlessEnded: resets)
            if let socket { body(socket) }
        }
        if !isAccepted { _ = Glibc.close(moved) }
    }

    // MARK: PollHandler

    func pollReady(_ events: PollEvents) {
        if events.contains(.error) {
            var number: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length)
            if number != 0 {
                broken(.system(number, "connection to \(peerDescription)"))
                observer?.streamFailed(self)
                return
            }
        }
        if !events.isDisjoint(with: [.readHangup, .hangup]) { sawReadHangup = true }
        if !events.isDisjoint(with: [.readable, .readHangup, .hangup]) && ends.wakeReader() {
            observer?.streamReadable(self)
        }
        if events.contains(.writable) && descriptor >= 0 && ends.wakeWriter() {
            observer?.streamWritable(self)
        }
    }

    func loopStopped() {
        guard descriptor >= 0 else { return }
        fail(.closed(self))
        _ = Glibc.close(descriptor)
        descriptor = -1
    }

    // MARK: -

    private func send(_ vectors: UnsafeBufferPointer<iovec>) -> Int {
        if vectors.count == 1 {
            return Glibc.send(descriptor, vectors[0].iov_base, vectors[0].iov_len, Int32(MSG_NOSIGNAL))
        }
        var message = msghdr()
        message.msg_iov = UnsafeMutablePointer(mutating: vectors.baseAddress)
        message.msg_iovlen = vectors.count
        return sendmsg(descriptor, &message, Int32(MSG_NOSIGNAL))
    }

    private func release() {
        loop.unregister(descriptor, isClosing: true)
        _ = Glibc.close(descriptor)
        descriptor = -1
    }

    /// The end was said in order: closing must not take it back.
    private func letEndReachPeer() {
        guard resetsUnlessEnded else { return }
        resetsUnlessEnded = false
        Self.setReset(false, of: descriptor)
    }

    /// Whether closing a socket resets its connection, whoever closes it.
    static func setReset(_ isReset: Bool, of descriptor: Int32) {
        var linger = linger(l_onoff: isReset ? 1 : 0, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
    }

    static func set(_ descriptor: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    static func address(
        of descriptor: Int32,
        _ query: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { query(descriptor, $0, &length) }
        }
        return result == 0 ? SocketAddress(storage) : nil
    }
}
