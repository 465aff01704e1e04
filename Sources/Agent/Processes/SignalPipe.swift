import CLinux
import Glibc
import Synchronization

/// The signals of a supervisor, as something that can be waited for. One for the process: handlers know nothing but
/// globals.
enum SignalPipe {
    /// The pipe's ends; -1 before.
    private static let reader = Atomic<Int32>(-1)
    private static let writer = Atomic<Int32>(-1)
    private static let stops = Atomic(false)
    private static let requests = Atomic(false)

    /// SIGTERM or SIGINT has come.
    static var isStopping: Bool { stops.load(ordering: .acquiring) }

    /// Whether SIGUSR2 has come since the last call.
    static func takeRequest() -> Bool { requests.exchange(false, ordering: .acquiringAndReleasing) }

    static func open() -> Bool {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { return false }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        reader.store(ends[0], ordering: .releasing)
        writer.store(ends[1], ordering: .releasing)
        signal(SIGPIPE, SIG_IGN)
        // A login that ends is nothing to a service.
        signal(SIGHUP, SIG_IGN)
        for number in [SIGTERM, SIGINT, SIGUSR2, SIGCHLD] {
            signal(number) { number in SignalPipe.received(number) }
        }
        return true
    }

    /// In a signal handler: atomics and write(2) only.
    private static func received(_ number: Int32) {
        switch number {
        case SIGTERM, SIGINT: stops.store(true, ordering: .releasing)
        case SIGUSR2: requests.store(true, ordering: .releasing)
        default: break
        }
        let saved = errno
        var byte: UInt8 = 0
        _ = write(writer.load(ordering: .acquiring), &byte, 1)
        errno = saved
    }

    /// Until a signal comes, or for `limit`.
    static func wait(_ limit: Duration) {
        let descriptor = reader.load(ordering: .acquiring)
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let (seconds, attoseconds) = limit.components
        poll(&waiting, 1, Int32(max(0, min(seconds, 3600) * 1000 + attoseconds / 1_000_000_000_000_000)))
        var bytes = [UInt8](repeating: 0, count: 64)
        while read(descriptor, &bytes, bytes.count) > 0 {}
    }
}
