import Glibc
package import Streams

/// Sockets that listen already when a node starts: handed over by the process that it replaces, or by systemd. What no
/// listener claims is closed with the last reference.
public final class InheritedSockets: Sendable {
    private let sockets: Lock<[ListeningSocket]>

    package init(_ sockets: [ListeningSocket]) { self.sockets = Lock(sockets) }

    /// None.
    public convenience init() { self.init([]) }

    /// How many no listener has claimed yet.
    public var count: Int { sockets.withLock { $0.count } }

    /// The socket for a listener, once. With port 0, which any port satisfies, the name decides.
    func take(name: String, bind: SocketAddress) -> ListeningSocket? {
        sockets.withLock { sockets in
            let index = sockets.firstIndex { socket in
                bind.port == 0
                    ? socket.name == name && socket.address.address == bind.address
                    : socket.address == bind
            }
            return index.map { sockets.remove(at: $0) }
        }
    }

    /// Closes what nobody has claimed; returns their addresses.
    func closeRest() -> [SocketAddress] {
        let rest = sockets.withLock { sockets in
            defer { sockets = [] }
            return sockets
        }
        return rest.map(\.address)
    }

    /// Adds what another source has; the former come first.
    public func adding(_ others: InheritedSockets) -> InheritedSockets {
        let (first, second) = (sockets.withLock { $0 }, others.sockets.withLock { $0 })
        return InheritedSockets(first + second)
    }

    /// What systemd's socket activation passes (sd_listen_fds(3)): `LISTEN_FDS` descriptors from 3 on, meant for the
    /// process `LISTEN_PID`, called `LISTEN_FDNAMES`. The variables are removed, so that no child takes them for its
    /// own.
    ///
    /// - Parameter warn: Told of descriptors that are no listening TCP sockets; they stay as they are.
    public static func fromSystemd(warn: (String) -> Void) -> InheritedSockets {
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
        defer { for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) } }
        guard variable("LISTEN_PID") == "\(getpid())", let count = variable("LISTEN_FDS").flatMap(Int32.init),
            (1...1024).contains(count)
        else { return InheritedSockets() }
        let names = variable("LISTEN_FDNAMES")?.split(separator: ":", omittingEmptySubsequences: false) ?? []
        var sockets: [ListeningSocket] = []
        for index in 0..<count {
            let name = Int(index) < names.count ? String(names[Int(index)]) : ""
            do throws(StreamError) {
                sockets.append(try ListeningSocket(adopting: 3 + index, name: name))
            } catch {
                warn("passed by LISTEN_FDS: \(error)")
            }
        }
        return InheritedSockets(sockets)
    }
}
