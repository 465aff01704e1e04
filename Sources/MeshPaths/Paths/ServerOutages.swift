import Platform
import Streams

/// Which servers of which peers are down, for all event loops of a node: each has connections of its own, and the log
/// says once what becomes of a server, not once for each loop.
package final class ServerOutages: Sendable {
    private struct Server: Hashable, Sendable {
        let peer: String
        let address: Authority
    }

    private let down = Lock<Set<Server>>([])

    package init() {}

    /// It does not work.
    ///
    /// - Returns: Whether that is news.
    func began(_ peer: String, _ address: Authority) -> Bool {
        down.withLock { $0.insert(Server(peer: peer, address: address)).inserted }
    }

    /// It works, or nobody wants to know any more.
    ///
    /// - Returns: Whether that is news.
    @discardableResult
    func ended(_ peer: String, _ address: Authority) -> Bool {
        down.withLock { $0.remove(Server(peer: peer, address: address)) != nil }
    }
}
