import CLinux
import Foundation
import Streams

/// TCP ports on 127.0.0.1 for servers that must be told their port.
public enum FreePort {
    private static let given = Lock<Set<UInt16>>([])

    /// A port that was free a moment ago and is given to no one else in this process.
    ///
    /// It lies below the kernel's ephemeral range (32768 and up), so that an outgoing connection of another test never
    /// takes it between this call and the server's `bind`.
    public static func next() -> UInt16 {
        given.withLock { given in
            while true {
                let port = UInt16.random(in: 10_240..<32_768)
                if !given.contains(port), isFree(port) {
                    given.insert(port)
                    return port
                }
            }
        }
    }

    private static func isFree(_ port: UInt16) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        precondition(descriptor >= 0, "no socket: \(String(cString: strerror(errno)))")
        defer { close(descriptor) }
        var address = loopbackAddress(port: port)
        return withSocketAddress(&address) { bind(descriptor, $0, $1) } == 0
    }
}

/// 127.0.0.1 with a port in host byte order.
func loopbackAddress(port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return address
}

func withSocketAddress<Result>(
    _ address: inout sockaddr_in,
    _ body: (UnsafeMutablePointer<sockaddr>, socklen_t) -> Result
) -> Result {
    withUnsafeMutablePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}
