import CLinux
import Glibc

/// Multipath TCP (RFC 8684): one connection over several addresses at once, as far as both kernels have it.
///
/// A socket of it is one of TCP for whoever uses it, and becomes a plain connection where the other side, or something
/// on the way, does not know it. What differs are options, by kernel: TCP_USER_TIMEOUT is refused. Whatever is set to a
/// socket here is a wish, and a no to it harms nothing.
package enum MultipathTCP {
    /// IPPROTO_MPTCP, which Swift does not import.
    private static let number: Int32 = 262
    /// SOL_MPTCP and MPTCP_INFO of linux/mptcp.h, and MPTCP_INFO_FLAG_FALLBACK of what that answers.
    private static let level: Int32 = 284
    private static let info: Int32 = 1
    private static let fallback: UInt32 = 1
    /// Where the flags are in `struct mptcp_info`.
    private static let flagsOffset = 8

    /// As `socket(2)`: of Multipath TCP, or of TCP where this kernel makes none of the other.
    ///
    /// - Parameter number: Of the protocol that is preferred.
    static func newSocket(_ family: Int32, _ type: Int32, preferring number: Int32 = MultipathTCP.number) -> Int32 {
        let descriptor = socket(family, type, number)
        return descriptor >= 0 ? descriptor : socket(family, type, 0)
    }

    /// Why this kernel has none now; nil: it has.
    package static var unavailability: String? {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), number)
        guard descriptor < 0 else {
            _ = Glibc.close(descriptor)
            return nil
        }
        let reason = String(cString: strerror(errno))
        return "this kernel has no Multipath TCP (\(reason)), so that plain TCP is used: "
            + "`sysctl net.mptcp.enabled` must be 1, in a kernel with CONFIG_MPTCP"
    }

    /// Whether it is a socket of Multipath TCP, listening or connected.
    static func isMultipath(_ descriptor: Int32) -> Bool {
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_PROTOCOL, &number, &length) == 0 && number == Self.number
    }

    /// Whether the other side of a connection does it, too.
    static func isUsed(_ descriptor: Int32) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 256)
        var length = socklen_t(bytes.count)
        guard getsockopt(descriptor, level, info, &bytes, &length) == 0, Int(length) >= flagsOffset + 4 else {
            return false
        }
        let flags = bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: flagsOffset, as: UInt32.self) }
        return flags & fallback == 0
    }
}

extension Socket {
    /// Whether the connection is one of Multipath TCP, which both sides do. Asked of the kernel.
    package var isMultipath: Bool { descriptor >= 0 && MultipathTCP.isUsed(descriptor) }
}
