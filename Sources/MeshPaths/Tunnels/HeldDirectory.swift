import MeshIdentity
import Streams

/// The connections that peers hold to this node because they cannot be dialled, on whichever event loop each of them
/// is. Safe from any thread.
///
/// Whoever holds connections without end holds the newest few: an identity pays for its own flood, and a device whose
/// old connections are dead without a word gets in all the same.
package final class HeldDirectory: Sendable {
    /// Where a connection is.
    struct Place: Sendable {
        let id: UInt64
        let home: LoopBound<HeldConnections>
        /// That its peer has shown: which one it is of several of the same identity.
        var certificate: CertificateName?
        /// Its peer has shown that it speaks HTTP/2, and takes streams.
        var isReady = false
        /// What its peer has said by then of which process it is; 0: nothing.
        var process: UInt32 = 0
    }

    private struct State: Sendable {
        var lastID: UInt64 = 0
        /// Of each identity, the oldest first.
        var places: [SPIFFEID: [Place]] = [:]
        var count = 0
        var loops: [LoopBound<HeldConnections>] = []
    }

    private let state = Lock(State())
    private let limits: (all: Int, each: Int)

    /// - Parameters:
    ///   - all: Connections of all peers.
    ///   - each: Of one identity, which may have several machines.
    package init(all: Int = 10_000, each: Int = 8) { limits = (all, each) }

    func enter(_ connections: LoopBound<HeldConnections>) { state.withLock { $0.loops.append(connections) } }

    func leave(_ loop: EventLoop) { state.withLock { $0.loops.removeAll { $0.loop === loop } } }

    /// Connections that are held, or about to be.
    package var count: Int { state.withLock(\.count) }

    /// Has a place for one more. nil: there are too many, of all peers together.
    ///
    /// - Returns: Its number, and which one of the same identity makes room for it.
    func add(
        _ identity: SPIFFEID,
        _ certificate: CertificateName? = nil,
        at home: LoopBound<HeldConnections>
    ) -> (id: UInt64, insteadOf: Place?)? {
        state.withLock { state in
            var places = state.places[identity] ?? []
            var oldest: Place?
            if places.count >= limits.each {
                oldest = places.removeFirst()
            } else {
                guard state.count < limits.all else { return nil }
                state.count += 1
            }
            state.lastID += 1
            places.append(Place(id: state.lastID, home: home, certificate: certificate))
            state.places[identity] = places
            return (state.lastID, oldest)
        }
    }

    /// Streams may be opened on it from now on.
    ///
    /// - Parameter process: Which process its peer is; 0: it has not said.
    func isReady(_ id: UInt64, of identity: SPIFFEID, process: UInt32 = 0) {
        change(identity) { places in
            guard let index = places.firstIndex(where: { $0.id == id }) else { return false }
            places[index].isReady = true
            places[index].process = process
            return true
        }
    }

    /// It takes no more streams.
    func remove(_ id: UInt64, of identity: SPIFFEID) {
        change(identity) { places in
            let before = places.count
            places.removeAll { $0.id == id }
            return places.count < before
        }
    }

    /// It does not answer: streams that can go on elsewhere need not wait for it.
    func doubt(_ id: UInt64, of identity: SPIFFEID, _ reason: String) {
        for connections in state.withLock(\.loops) {
            connections.loop.submit { connections.withValue { $0.doubted(id, of: identity, reason) } }
        }
    }

    /// Whether it still takes streams, or is about to.
    func has(_ id: UInt64, of identity: SPIFFEID) -> Bool {
        state.withLock { $0.places[identity]?.contains { $0.id == id } ?? false }
    }

    private func change(_ identity: SPIFFEID, _ body: (inout [Place]) -> Bool) {
        let loops = state.withLock { state -> [LoopBound<HeldConnections>] in
            var places = state.places[identity] ?? []
            let before = places.count
            guard body(&places) else { return [] }
            state.count += places.count - before
            state.places[identity] = places.isEmpty ? nil : places
            return state.loops
        }
        for connections in loops {
            connections.loop.submit { connections.withValue { $0.changed(identity) } }
        }
    }

    /// The newest one of these identities that takes streams, wherever it is: the older may be what is left of a device
    /// that has come again.
    ///
    /// - Parameters:
    ///   - asked: Those that are left out.
    ///   - certificate: Whoever has shown it comes first.
    func choose(
        _ identities: [SPIFFEID],
        besides asked: [UInt64] = [],
        first certificate: CertificateName? = nil
    ) -> Place? {
        state.withLock { state in
            var best: Place?
            func isFirst(_ place: Place) -> Bool { certificate != nil && place.certificate == certificate }
            for identity in identities {
                for place in state.places[identity] ?? [] where place.isReady && !asked.contains(place.id) {
                    guard let present = best else {
                        best = place
                        continue
                    }
                    let isBetter = isFirst(place) == isFirst(present) ? place.id > present.id : isFirst(place)
                    if isBetter { best = place }
                }
            }
            return best
        }
    }
}
