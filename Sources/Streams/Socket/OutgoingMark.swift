import CLinux
import Glibc
import Synchronization

/// The mark of this process's own connections and questions to name servers (SO_MARK), by which rules of the packet
/// filter know them. One for the process, as those rules are about it.
package enum OutgoingMark {
    private static let current = Atomic<UInt32>(0)

    /// Sockets that are made from now on have it.
    ///
    /// - Throws: ``StreamError`` where this process may not mark sockets: without its mark, its own connections would
    ///   be captured, and led to itself.
    package static func set(_ mark: UInt32) throws(StreamError) {
        let probe = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard probe >= 0 else { throw .system(errno, "socket") }
        defer { close(probe) }
        guard apply(mark, to: probe) else {
            throw StreamError(
                .system,
                "marking own connections: \(StreamError.describe(errno: errno)). It needs root or CAP_NET_ADMIN; without, "
                    + "let 'capture' know the node by its user or its cgroup: 'node: {uid: NUMBER}'"
            )
        }
        current.store(mark, ordering: .relaxed)
    }

    static func apply(to descriptor: Int32) {
        let mark = current.load(ordering: .relaxed)
        if mark != 0 { _ = apply(mark, to: descriptor) }
    }

    private static func apply(_ mark: UInt32, to descriptor: Int32) -> Bool {
        var mark = mark
        return setsockopt(descriptor, SOL_SOCKET, SO_MARK, &mark, socklen_t(MemoryLayout<UInt32>.size)) == 0
    }
}
