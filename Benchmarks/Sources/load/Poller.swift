import CEpoll
import Glibc

/// A level-triggered epoll set keyed by descriptor.
final class Poller {
    private let descriptor = epoll_create1(Int32(EPOLL_CLOEXEC))
    private var events = [epoll_event](repeating: epoll_event(), count: 256)

    static let readable: UInt32 = 0x001
    static let writable: UInt32 = 0x004
    static let failed: UInt32 = 0x008 | 0x010

    func add(_ socket: Int32, _ interest: UInt32) {
        cepoll_control(descriptor, EPOLL_CTL_ADD, socket, interest)
    }

    func change(_ socket: Int32, _ interest: UInt32) {
        cepoll_control(descriptor, EPOLL_CTL_MOD, socket, interest)
    }

    func remove(_ socket: Int32) {
        cepoll_control(descriptor, EPOLL_CTL_DEL, socket, 0)
    }

    /// Waits at most `milliseconds` (-1: for ever) and calls `body` with each ready descriptor and what it is ready
    /// for.
    func wait(_ milliseconds: Int32, _ body: (Int32, UInt32) -> Void) {
        let count = epoll_wait(descriptor, &events, Int32(events.count), milliseconds)
        guard count > 0 else { return }
        for index in 0..<Int(count) {
            body(cepoll_descriptor(&events[index]), events[index].events)
        }
    }
}
