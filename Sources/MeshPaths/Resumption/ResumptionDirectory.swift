import MeshIdentity
import Streams
import Synchronization

/// What the event loops of a process have in common that have resumable streams: where each stream is, and how much
/// memory all of them hold.
///
/// A peer that acknowledges nothing holds memory for as long as it likes. So each may hold as much as is left, and no
/// more: one alone at most half, two a third each, and whoever comes next finds something.
package final class ResumptionDirectory: Sendable {
    /// What the streams of one peer hold: each of them has it, and nobody looks for it with each frame.
    final class Share: Sendable {
        fileprivate let peer: SPIFFEID?
        /// In bytes.
        fileprivate let held = Atomic<Int>(0)
        /// Who has it. The last one takes it out of the directory.
        fileprivate let users = Atomic<Int>(0)

        fileprivate init(of peer: SPIFFEID?) { self.peer = peer }

        func isThat(of peer: SPIFFEID?) -> Bool { peer == self.peer }
    }

    private struct State: Sendable {
        var loops: [UInt8: LoopBound<Resumptions>] = [:]
        var shares: [SPIFFEID?: Share] = [:]
        var detached: [String: Int] = [:]
        var detachedCount = 0
    }

    /// Which process this is, among those that a node's clients meet one after the other: those of another one are not
    /// found here, and need not ask. Never 0.
    package let process = UInt32.random(in: 1...UInt32.max)
    private let state = Lock(State())
    /// By all peers, in bytes.
    private let heldByAll = Atomic<Int>(0)
    private let memory: Int
    /// Streams without a carrier, of all peers together and of each.
    private let limits: (all: Int, each: Int)
    /// A stream may keep so much also where its peer's share is used up: it goes on, if slowly. That many bytes are
    /// acknowledged soon.
    static let least = Int(ResumptionState.acknowledgementStep)

    /// - Parameters:
    ///   - memory: For bytes that wait for an acknowledgement, and those that wait for their reader.
    ///   - detached: Streams that wait to be resumed.
    ///   - detachedOfPeer: Of one peer.
    package init(memory: Int = 64 << 20, detached: Int = 16384, detachedOfPeer: Int = 4096) {
        self.memory = memory
        limits = (detached, detachedOfPeer)
    }

    func enter(_ resumptions: Resumptions, number: UInt8) {
        let bound = LoopBound(resumptions, on: resumptions.loop)
        state.withLock { $0.loops[number] = bound }
    }

    func leave(_ number: UInt8) { state.withLock { $0.loops[number] = nil } }

    /// The loop of the stream with that number.
    func loop(of id: UInt64) -> LoopBound<Resumptions>? {
        state.withLock { $0.loops[UInt8(truncatingIfNeeded: id >> 56)] }
    }

    /// The share of `peer`, until it is given back by ``giveBack(_:)``.
    func share(of peer: SPIFFEID?) -> Share {
        state.withLock { state in
            let share = state.shares[peer] ?? Share(of: peer)
            state.shares[peer] = share
            share.users.wrappingAdd(1, ordering: .sequentiallyConsistent)
            return share
        }
    }

    /// One more user of a share that has one.
    func again(_ share: Share) -> Share {
        share.users.wrappingAdd(1, ordering: .sequentiallyConsistent)
        return share
    }

    func giveBack(_ share: Share) {
        guard share.users.wrappingSubtract(1, ordering: .sequentiallyConsistent).newValue == 0 else { return }
        state.withLock { state in
            // Somebody may have taken it since.
            guard share.users.load(ordering: .sequentiallyConsistent) == 0 else { return }
            if state.shares[share.peer] === share { state.shares[share.peer] = nil }
        }
    }

    /// How many more bytes a stream may hold that holds `count` now.
    ///
    /// What each stream may hold at least ends where the peer's streams hold as much as is there for everybody: many
    /// small ones are no way around the share.
    func room(in share: Share, holding count: Int) -> Int {
        let own = share.held.load(ordering: .relaxed)
        return max(0, memory - held - own, own < memory ? Self.least - count : 0)
    }

    /// So much is free that nobody needs to save any.
    var isRoomy: Bool { held < memory / 4 }

    /// The share is used up.
    func isFull(_ share: Share) -> Bool { held + share.held.load(ordering: .relaxed) >= memory }

    /// Memory that is held now, in bytes.
    package var held: Int { heldByAll.load(ordering: .relaxed) }
    /// Peers that have a stream.
    var peers: Int { state.withLock(\.shares.count) }
    /// Streams that wait to be resumed.
    package var detached: Int { state.withLock(\.detachedCount) }

    func account(_ change: Int, in share: Share) {
        heldByAll.wrappingAdd(change, ordering: .relaxed)
        share.held.wrappingAdd(change, ordering: .relaxed)
    }

    /// Returns false where too many wait already.
    func detach(_ peer: String) -> Bool {
        state.withLock { state in
            guard state.detachedCount < limits.all, state.detached[peer, default: 0] < limits.each else { return false }
            state.detached[peer, default: 0] += 1
            state.detachedCount += 1
            return true
        }
    }

    func attach(_ peer: String) {
        state.withLock { state in
            state.detachedCount -= 1
            let left = state.detached[peer, default: 1] - 1
            state.detached[peer] = left > 0 ? left : nil
        }
    }
}
