import CLibSSH2
import CLinux
import Glibc
import Platform
import Streams

/// One channel of an SSH connection (RFC 4254 §5) as a byte stream: a forwarded TCP connection, or the standard input
/// and output of a command.
///
/// Half-close is SSH's EOF, in both directions. SSH has no abort: ``reset(_:)`` closes the channel, and what the server
/// had connected it to sees an ordinary end. A lost SSH connection is told apart: reading fails with `.truncated`
/// unless the server's EOF had arrived before.
///
/// The receive window follows the reader: the server may send on when bytes were read, not when they arrived.
final class SSHChannel: ByteStream, SessionChannel {
    /// What libssh2 puts into one packet at most.
    private static let maximumWrite = 32700

    let raw: OpaquePointer
    /// A session channel, as against a connection that the server has made.
    var isCommand = false
    /// When the server has answered to what was to be started on it; on the loop's clock.
    var startedAt: UInt64?
    /// See ``isEndedByServer(wake:)``.
    private var endPatience: (timer: LoopTimer, until: UInt64)?
    private var hasSentEOF = false
    private var window: ChannelWindow
    /// What the server may send, and what has arrived and was not read: this channel's part of the session's budget.
    private(set) var announced = 0
    /// libssh2 enlarges the window by itself below three quarters of the one it was opened with. It must never:
    /// interrupted by a re-key, its count and the server's drift apart, and bytes are dropped. So channels open with
    /// half of the window, ``refill()`` keeps it above that mark, and reads stop short of it.
    private let ownAdjustmentLimit: Int
    private let library: LibSSH2Session
    private var session: SSHSession?
    private let peer: String

    var onExtendedData: ((UnsafeRawBufferPointer) -> Void)?
    private(set) var closure: ChannelClosure?
    var onClose: (() -> Void)?

    /// Accepted bytes that libssh2 could not take in the middle of a re-key; it must be offered the same bytes again.
    private var heldBack: [UInt8] = []
    private var traffic = TrafficMeter()
    private var ends = StreamEnds()
    var writerWaits: Bool { ends.writerWaits }
    private var closedByServer: Bool { if case .byServer = closure { true } else { false } }
    /// A window adjustment that libssh2 has begun to send; to be repeated with the same number.
    private var pendingAdjustment: UInt = 0

    /// - Parameter openedWith: What libssh2 opened the channel with; half of `window` where this side chose.
    init(_ raw: OpaquePointer, session: SSHSession, window: Int, openedWith: Int? = nil, peerDescription: String) {
        self.raw = raw
        self.session = session
        self.window = ChannelWindow(size: window)
        ownAdjustmentLimit = (openedWith ?? window / 2) / 4 * 3
        library = session.library
        peer = peerDescription
        super.init(loop: session.loop)
        account(for: openedWith ?? window / 2)
        refill()
    }

    override var peerDescription: String { peer }

    // MARK: ByteStream

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !ends.isReleased else { return refuseRead() }
        guard ends.reading != .delivered else { return .end }
        let count = readChannel(stream: 0, into: buffer)
        if count > 0 {
            note(count)
            return .bytes(count)
        }
        if count < 0 && count != LIBSSH2_ERROR_EAGAIN { return refuseRead() }
        drainExtendedData()
        if libssh2_channel_eof(raw) == 1 { return ends.deliverEnd() }
        // A lost session ends here once everything that had arrived has been read.
        if session == nil { return refuseRead() }
        return ends.blockReader()
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, let session, ends.isWritable, !closedByServer else {
            return refuseWrite(
                closedByServer ? .closedByServer(peer) : nil
            )
        }
        guard sendHeldBack() else { return failure == nil ? ends.blockWriter() : .failed }
        var accepted = 0
        var offered = 0
        for vector in vectors {
            offered += vector.iov_len
            // What is held back was accepted, but libssh2 must be offered it before anything else.
            guard accepted == offered - vector.iov_len, heldBack.isEmpty else { continue }
            accepted += write(vector, to: session)
        }
        session.scheduleFlush()
        if failure != nil { return .failed }
        if accepted > 0 { note(accepted) }
        return ends.accept(accepted, of: offered)
    }

    private func note(_ count: Int) {
        if let kind = traffic.count(count) { session?.onTraffic?(self, kind) }
    }

    override func finish() {
        guard ends.finish() else { return }
        sendFinish()
        session?.scheduleFlush()
    }

    override func reset(_ reason: StreamError) {
        guard ends.release() else { return }
        fail(reason)
        heldBack = []
        release()
    }

    override func close() {
        guard ends.release() else { return }
        fail(.closed(self))
        if ends.writing == .open { heldBack = [] }
        release()
    }

    // MARK: Writing

    private func write(_ vector: iovec, to session: SSHSession) -> Int {
        guard var bytes = vector.iov_base else { return 0 }
        var left = vector.iov_len
        while left > 0 {
            if !session.hasRoom(for: left) {
                session.flush()
                guard session.hasRoom(for: left) else { break }
            }
            let result = libssh2_channel_write_ex(raw, 0, bytes.assumingMemoryBound(to: CChar.self), left)
            if result > 0 {
                bytes += result
                left -= result
                continue
            }
            guard result == 0 || result == Int(LIBSSH2_ERROR_EAGAIN) else {
                broken(Int32(result))
                break
            }
            // With an open window libssh2 waits for a key exchange, has made the packet's header and must be offered
            // the same bytes again: they are kept here.
            if libssh2_channel_window_write_ex(raw, nil) > 0 {
                let count = min(left, Self.maximumWrite)
                heldBack = Array(UnsafeRawBufferPointer(start: bytes, count: count))
                left -= count
            }
            break
        }
        return vector.iov_len - left
    }

    /// Returns whether nothing is held back any more.
    private func sendHeldBack() -> Bool {
        while !heldBack.isEmpty {
            let result = heldBack.withUnsafeBytes {
                libssh2_channel_write_ex(raw, 0, $0.bindMemory(to: CChar.self).baseAddress, $0.count)
            }
            guard result > 0 else {
                if result < 0 && result != Int(LIBSSH2_ERROR_EAGAIN) { broken(Int32(result)) }
                return false
            }
            heldBack.removeFirst(result)
        }
        return true
    }

    private func sendFinish() {
        guard ends.writing == .finishing, !closedByServer, sendHeldBack(), session?.holdsEnd(of: self) != true else {
            return
        }
        switch libssh2_channel_send_eof(raw) {
        case 0: ends.sentEnd()
        case LIBSSH2_ERROR_EAGAIN: break
        case let result: broken(result)
        }
    }

    // MARK: Reading

    /// Reads what has arrived for one of the channel's streams (0, or 1 for standard error): a count, 0 at the end, or
    /// an error of libssh2.
    private func readChannel(stream: Int32, into buffer: UnsafeMutableRawBufferPointer) -> Int {
        let open = Int(libssh2_channel_window_read_ex(raw, nil, nil))
        let limit = min(buffer.count, open - ownAdjustmentLimit)
        // The window is as good as used up and its refill waits for a key exchange.
        guard limit > 0 else { return Int(LIBSSH2_ERROR_EAGAIN) }
        let result = libssh2_channel_read_ex(
            raw,
            stream,
            buffer.baseAddress?.assumingMemoryBound(to: CChar.self),
            limit
        )
        if result > 0 {
            fit(taken: result)
            refill()
        } else if result < 0 && result != Int(LIBSSH2_ERROR_EAGAIN) {
            broken(Int32(result))
        }
        return result
    }

    /// Fits the window to what the reader takes, within the session's budget.
    private func fit(taken count: Int) {
        guard let session else { return }
        let now = loop.now
        let fitting = window.took(count, at: now, roundTrip: session.roundTripTime)
        if let fitting, fitting > window.size {
            let wanted = fitting - window.size
            let more = session.windows.grant(wanted, at: now)
            window.resize(to: window.size + more)
            if more < wanted, let onWindowLimit = session.onWindowLimit { session.later(onWindowLimit) }
        } else if let fitting {
            window.resize(to: fitting)
        }
        if let share = session.windows.share(of: session.channels.count, at: now), window.size > share {
            window.resize(to: share)
        }
    }

    /// Lets the server send as much as has been read, once a quarter of the window is used.
    private func refill() {
        guard let session else { return }
        let open = Int(libssh2_channel_window_read_ex(raw, nil, nil))
        account(for: open)
        if pendingAdjustment == 0 {
            // Well before reads have to stop.
            guard open < max(window.size / 4 * 3, (window.size + ownAdjustmentLimit) / 2) else { return }
            pendingAdjustment = UInt(window.size - open)
        }
        let more = Int(pendingAdjustment)
        switch libssh2_channel_receive_window_adjust2(raw, pendingAdjustment, 1, nil) {
        case 0:
            pendingAdjustment = 0
            account(for: open + more)
        case LIBSSH2_ERROR_EAGAIN: break
        case let result: broken(result)
        }
        session.scheduleFlush()
    }

    private func account(for open: Int) {
        session?.windows.change(by: open - announced)
        announced = open
    }

    private func drainExtendedData() {
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
            while true {
                let count = readChannel(stream: SSH_EXTENDED_DATA_STDERR, into: buffer)
                guard count > 0 else { return }
                onExtendedData?(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            }
        }
    }

    // MARK: Called by the session

    /// Starts a command or subsystem; libssh2's result.
    func start(_ request: ProcessRequest) -> Int32 {
        let (type, argument) = (request.type, request.argument)
        return libssh2_channel_process_startup(
            raw,
            type,
            UInt32(type.utf8.count),
            argument,
            UInt32(argument.utf8.count)
        )
    }

    var exit: SSHExit {
        var name: UnsafeMutablePointer<CChar>?
        var length = 0
        libssh2_channel_get_exit_signal(raw, &name, &length, nil, nil, nil, nil)
        if let name {
            // libssh2 allocated it with the session's allocator, which is malloc.
            defer { free(name) }
            return .signal(Printable.clean(String(cString: name)))
        }
        return .status(libssh2_channel_get_exit_status(raw))
    }

    /// Lets libssh2 take in packets (of any channel) on behalf of this one. EAGAIN: everything has been taken in. 0: it
    /// would not, as the server has ended this channel.
    func takeIn() -> Int32 {
        let result = libssh2_channel_wait_eof(raw)
        return result == 0 ? libssh2_channel_wait_closed(raw) : result
    }

    /// After packets were taken in: goes on with what had to wait, and tells the observer what is new.
    func poll() {
        guard !ends.isReleased else { return }
        if pendingAdjustment > 0 { refill() }
        if !heldBack.isEmpty { _ = sendHeldBack() }
        if ends.writing == .finishing { sendFinish() }
        var available: UInt = 0
        libssh2_channel_window_read_ex(raw, &available, nil)
        if available > 0 && onExtendedData != nil { drainExtendedData() }
        let ended = libssh2_channel_wait_eof(raw) == 0
        if (available > 0 || ended) && ends.reading != .delivered && ends.wakeReader() {
            observer?.streamReadable(self)
        }
        if !ends.isReleased && ended && !closedByServer && libssh2_channel_wait_closed(raw) == 0 {
            closed(.byServer)
        }
        if ends.writerWaits && canWrite && ends.wakeWriter() { observer?.streamWritable(self) }
    }

    /// Whether a write would be accepted, or fail: either is worth a call.
    private var canWrite: Bool {
        if failure != nil || closedByServer { return true }
        return heldBack.isEmpty && session?.hasRoom == true && libssh2_channel_window_write_ex(raw, nil) > 0
    }

    /// The session is over. What has arrived can still be read when the server's end is among it.
    func sessionEnded(_ error: StreamError) {
        session = nil
        heldBack = []
        // Nothing of it is sent any more; it lets libssh2 hand out everything that has arrived.
        _ = libssh2_channel_receive_window_adjust2(raw, UInt(window.size), 1, nil)
        let complete = libssh2_channel_wait_eof(raw) == 0
        if complete { ends.receiveEnd() }
        if ends.reading == .ended && ends.wakeReader() { observer?.streamReadable(self) }
        if !ends.isReleased && failure == nil {
            fail(error)
            // A channel that had ended both ways has nothing to lose.
            if !ends.areOver { observer?.streamFailed(self) }
        }
        if closure == nil { closed(.sessionEnded(error)) }
    }

    private func closed(_ closure: ChannelClosure) {
        self.closure = closure
        let onClose = onClose
        self.onClose = nil
        onClose?()
    }

    /// Ends a command's input, and waits until the server has closed the channel, for a while.
    ///
    /// - Returns: Whether it need not be waited for any more.
    func isEndedByServer(wake: @escaping () -> Void) -> Bool {
        if closedByServer { return true }
        guard let until = endPatience?.until else {
            let timer = LoopTimer(on: loop, wake)
            timer.schedule(after: .seconds(1))
            endPatience = (timer, until: loop.now &+ 1_000_000_000)
            return false
        }
        guard loop.now < until else { return true }
        if ends.writing == .finishing {
            sendFinish()
            return false
        }
        if !hasSentEOF, ends.writing != .finished {
            let result = libssh2_channel_send_eof(raw)
            guard result != LIBSSH2_ERROR_EAGAIN else { return false }
            hasSentEOF = true
        }
        return libssh2_channel_wait_eof(raw) == 0 && libssh2_channel_wait_closed(raw) == 0
    }

    /// Goes on with the end of a channel that its owner has released. Returns whether it is over; libssh2 has then
    /// freed it.
    func stepClose() -> Bool {
        if ends.writing == .finishing && !closedByServer {
            sendFinish()
            // Accepted bytes first, unless the server has ended and takes none.
            if ends.writing == .finishing && libssh2_channel_wait_closed(raw) != 0 { return false }
        }
        return libssh2_channel_free(raw) != LIBSSH2_ERROR_EAGAIN
    }

    // MARK: -

    private func release() {
        onClose = nil
        onExtendedData = nil
        observer = nil
        let session = session
        self.session = nil
        session?.release(self)
    }

    /// libssh2 has given up on the connection.
    private func broken(_ code: Int32) {
        guard let session else { return }
        let error = session.error(code)
        fail(error.streamError)
        session.endLater(error)
    }
}
