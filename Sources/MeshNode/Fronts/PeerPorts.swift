import MeshIdentity
import Platform
import Streams

/// The ports on which a node listens for its peers, of all event loops: how many, and whose they are. Safe from any
/// thread.
///
/// A port counts for as long as it is bound, also while its client is gone and may come back for it: so an identity
/// pays for its own ports, however many connections or machines it has.
final class PeerPorts: Sendable {
    private struct Port {
        let number: UInt64
        let address: SocketAddress
        let peer: SPIFFEID
        /// nil: it is about to be bound.
        var listener: LoopBound<PeerListener>?
    }

    private struct State {
        var lastNumber: UInt64 = 0
        /// The oldest first.
        var ports: [Port] = []
    }

    private let state = Lock(State())
    private let limits: (all: Int, each: Int)

    /// - Parameters:
    ///   - all: Ports for all peers.
    ///   - each: For one identity.
    init(all: Int = 256, each: Int = 64) { limits = (all, each) }

    /// Those that are bound, or about to be.
    var count: Int { state.withLock(\.ports.count) }

    /// Has a place for one more.
    ///
    /// - Returns: Its number, for ``release(_:)``.
    /// - Throws: ``Streams/StreamError`` that the peer is told of: `limit`.
    func take(_ address: SocketAddress, for peer: SPIFFEID) throws(StreamError) -> UInt64 {
        let number: UInt64? = state.withLock { state in
            guard state.ports.count < limits.all, state.ports.count(where: { $0.peer == peer }) < limits.each else {
                return nil
            }
            state.lastNumber += 1
            state.ports.append(Port(number: state.lastNumber, address: address, peer: peer))
            return state.lastNumber
        }
        if let number { return number }
        throw StreamError(.limit, problem(for: peer))
    }

    private func problem(for peer: SPIFFEID) -> String {
        guard count(of: peer) >= limits.each else {
            return
                "the node listens on \(limits.all) ports for its peers, the most for all together: one of them must be "
                + "let go first (its log says who has each: 'has this node listen')"
        }
        return
            "the node listens on \(limits.each) ports for this identity, the most for one: end a `connect -R` that has "
            + "one of them, here or on another machine with the same identity"
    }

    /// Those of one identity.
    func count(of peer: SPIFFEID) -> Int { state.withLock { $0.ports.count { $0.peer == peer } } }

    /// Who answers for a port from now on.
    func listens(_ listener: LoopBound<PeerListener>, on number: UInt64) {
        state.withLock { state in
            guard let index = state.ports.firstIndex(where: { $0.number == number }) else { return }
            state.ports[index].listener = listener
        }
    }

    /// It is not bound any more.
    func release(_ number: UInt64) { state.withLock { $0.ports.removeAll { $0.number == number } } }

    /// What keeps an identity from one more port, of its own: those where `address` is in use, or all where it has too
    /// many; the oldest first.
    func inTheWay(of address: SocketAddress, for peer: SPIFFEID, _ reason: StreamError) -> [LoopBound<PeerListener>] {
        state.withLock { state in
            state.ports.filter { port in
                guard port.peer == peer else { return false }
                return reason.code == .limit || port.address.overlaps(address)
            }.compactMap(\.listener)
        }
    }
}

extension IPAddress {
    /// Whether a listener there has what is meant for `other`: `::` is IPv4's as well.
    fileprivate func isEvery(like other: IPAddress) -> Bool { isUnspecified && (!isIPv4 || other.isIPv4) }
}

extension SocketAddress {
    /// Whether one cannot be bound while the other one is.
    fileprivate func overlaps(_ other: SocketAddress) -> Bool {
        guard port == other.port, let address, let otherAddress = other.address else { return false }
        return address == otherAddress || address.isEvery(like: otherAddress) || otherAddress.isEvery(like: address)
    }
}
