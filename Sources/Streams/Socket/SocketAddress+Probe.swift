import CLinux
import Glibc
import Platform

extension SocketAddress {
    /// Whether somebody accepts connections there. Blocks.
    ///
    /// - Parameter limit: What counts as nobody.
    package func accepts(within limit: Duration) -> Bool { attempt(within: limit) == 0 }

    /// Connects, and closes the connection again. Blocks.
    ///
    /// - Returns: 0 once connected, `errno` otherwise; `ETIMEDOUT` where nobody has answered within `limit`.
    package func attempt(within limit: Duration) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(family, type, 0)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        if withSockaddr({ connect(descriptor, $0, $1) }) == 0 { return 0 }
        guard errno == EINPROGRESS else { return errno }
        var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        guard poll(&waiting, 1, Int32(clamping: limit.nanoseconds / 1_000_000)) == 1 else { return ETIMEDOUT }
        var failure: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &failure, &length) == 0 ? failure : errno
    }

    /// Sends a datagram there, and waits for one from there. Blocks.
    ///
    /// - Returns: 0 once one has come, `errno` otherwise; `ETIMEDOUT` where nobody has answered within `limit`.
    package func exchange(_ datagram: [UInt8], within limit: Duration) -> Int32 {
        let type = Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(family, type, 0)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        guard withSockaddr({ connect(descriptor, $0, $1) }) == 0,
            send(descriptor, datagram, datagram.count, 0) == datagram.count
        else { return errno }
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&waiting, 1, Int32(clamping: limit.nanoseconds / 1_000_000)) == 1 else { return ETIMEDOUT }
        var answer = [UInt8](repeating: 0, count: 512)
        return recv(descriptor, &answer, answer.count, 0) >= 0 ? 0 : errno
    }
}
