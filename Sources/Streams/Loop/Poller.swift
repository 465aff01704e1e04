import CLinux
import Glibc
import Platform

/// Which kinds of readiness a file descriptor reported.
struct PollEvents: OptionSet {
    let rawValue: UInt32

    static let readable = PollEvents(rawValue: clinux_EPOLLIN())
    static let writable = PollEvents(rawValue: clinux_EPOLLOUT())
    /// The peer shut down its writing half (or the connection is gone): a read returns what is left, then the end.
    static let readHangup = PollEvents(rawValue: clinux_EPOLLRDHUP())
    static let hangup = PollEvents(rawValue: clinux_EPOLLHUP())
    static let error = PollEvents(rawValue: clinux_EPOLLERR())
}

/// What a handler is told of its file descriptor.
enum PollInterest {
    /// That something can be read or accepted, in each turn as long as it can.
    case level
    /// That more can be read, once for each time that more has come (EPOLLET).
    case arrivals
    /// As ``arrivals``, and that there is room to write. It is said at once of a socket that is new: who writes before
    /// it waits for room spares the loop a turn.
    case bothWays

    var events: UInt32 {
        switch self {
        case .level: clinux_EPOLLIN()
        case .arrivals: clinux_EPOLLIN() | clinux_EPOLLRDHUP() | clinux_EPOLLET()
        case .bothWays: clinux_EPOLLIN() | clinux_EPOLLOUT() | clinux_EPOLLRDHUP() | clinux_EPOLLET()
        }
    }
}

/// Told by the event loop when its file descriptor is ready.
protocol PollHandler: AnyObject {
    func pollReady(_ events: PollEvents)
    /// The loop has shut down and let go of the handler: close the descriptor.
    func loopStopped()
}

/// The one place that knows how readiness is learnt from the kernel. epoll today; kqueue or io_uring would replace this
/// type.
///
/// Handlers are retained from ``add(_:handler:for:)`` to ``remove(_:)``. An event that was already fetched
/// for a descriptor closed meanwhile is recognised by its generation and dropped, also when the number was given out
/// again.
struct Poller: ~Copyable {
    private struct Entry {
        var handler: (any PollHandler)?
        var generation: UInt32 = 0
    }

    private let epoll: Int32
    private let events: UnsafeMutablePointer<epoll_event>
    private var entries = ContiguousArray<Entry>()
    /// Descriptors that are watched now.
    private(set) var count = 0
    /// 256 events fill one wake-up of a busy gateway; more only delays the flush at the end of the turn.
    private static var capacity: Int { 256 }

    init() throws(StreamError) {
        epoll = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard epoll >= 0 else { throw .system(errno, "epoll_create1") }
        events = .allocate(capacity: Self.capacity)
        events.initialize(repeating: epoll_event(), count: Self.capacity)
    }

    deinit {
        events.deallocate()
        _ = Glibc.close(epoll)
    }

    mutating func add(_ descriptor: Int32, handler: any PollHandler, for interest: PollInterest) throws(StreamError) {
        let index = Int(descriptor)
        while entries.count <= index { entries.append(Entry()) }
        var event = clinux_epoll_event(interest.events, data(of: descriptor))
        guard epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0 else {
            throw StreamError(.system, "epoll_ctl: \(StreamError.describe(errno: errno))")
        }
        entries[index].handler = handler
        count += 1
    }

    /// Its handler hears from now on when there is room, too; at once where there is some already.
    mutating func addWritable(_ descriptor: Int32) {
        var event = clinux_epoll_event(PollInterest.bothWays.events, data(of: descriptor))
        // Refused only for a descriptor that is not there.
        _ = epoll_ctl(epoll, EPOLL_CTL_MOD, descriptor, &event)
    }

    private func data(of descriptor: Int32) -> UInt64 {
        UInt64(entries[Int(descriptor)].generation) << 32 | UInt64(UInt32(descriptor))
    }

    /// What is reported from now on goes to `handler`; the registration stays as it is.
    mutating func replaceHandler(of descriptor: Int32, with handler: any PollHandler) {
        entries[Int(descriptor)].handler = handler
    }

    /// Must be called before the descriptor is closed.
    ///
    /// - Parameter isClosing: The descriptor is closed next, which makes the kernel forget it without being told.
    mutating func remove(_ descriptor: Int32, isClosing: Bool = false) {
        let index = Int(descriptor)
        guard index < entries.count, entries[index].handler != nil else { return }
        if !isClosing { _ = epoll_ctl(epoll, EPOLL_CTL_DEL, descriptor, nil) }
        entries[index].handler = nil
        entries[index].generation &+= 1
        count -= 1
    }

    /// Forgets every handler; returns them, so that the caller releases them.
    mutating func removeAll() -> [any PollHandler] {
        defer {
            entries = []
            count = 0
        }
        return entries.compactMap(\.handler)
    }

    /// Sleeps until something is ready or `milliseconds` passed (−1: no limit). Returns the number of events fetched.
    func wait(milliseconds: Int32) -> Int {
        let count = epoll_wait(epoll, events, Int32(Self.capacity), milliseconds)
        return count > 0 ? Int(count) : 0  // EINTR: the loop comes round again
    }

    /// The handler of one fetched event, if it is still the one the event was meant for.
    func handler(ofEvent index: Int) -> (handler: any PollHandler, events: PollEvents)? {
        let event = events + index
        let data = clinux_epoll_data(event)
        let entry = entries[Int(UInt32(truncatingIfNeeded: data))]
        guard entry.generation == UInt32(data >> 32), let handler = entry.handler else { return nil }
        return (handler, PollEvents(rawValue: event.pointee.events))
    }
}
