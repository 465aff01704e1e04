import MeshIdentity
import Streams

/// What the event loops of a process have in common that have resumable streams: where each stream is, and how much
/// memory all of them hold.
///
/// A peer that acknowledges nothing holds memory for as long as it likes. So each may hold as much as is left, and no
/// more: one alone at most half, two a third each, and whoever comes next finds something.
package final class ResumptionDirectory: Sendable {
    private struct State: Sendable {
        var loops: [UInt8: LoopBound<Resumptions>] = [:]
        var held = 0
        /// Of `held`, by peer; nothing of those that hold nothing.
        var heldOf: [SPIFFEID?: Int] = [:]
        var detached: [String: Int] = [:]
        var detachedCount = 0
    }

    private let state = Lock(State())
    private let memory: Int
    /// Streams without a carrier, of all peers together and of each.
    private let limits: (all: Int, each: Int)
    /// A stream may keep so much also where its peer's share is used up: it goes on, if slowly. That many bytes are
    /// acknowledged at once.
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

    /// How many more bytes a stream of `peer` may hold that holds `count` now.
    ///
    /// What each stream may hold at least ends where the peer's streams hold as much as is there for everybody: many
    /// small ones are no way around the share.
    func room(for peer: SPIFFEID?, holding count: Int) -> Int {
        state.withLock { state in
            let own = state.heldOf[peer, default: 0]
            return max(0, memory - state.held - own, own < memory ? Self.least - count : 0)
        }
    }

    /// The share of `peer` is used up.
    func isFull(for peer: SPIFFEID?) -> Bool {
        state.withLock { $0.held + $0.heldOf[peer, default: 0] >= memory }
    }

    /// Memory that is held now, in bytes.
    package var held: Int { state.withLock(\.held) }
    /// Streams that wait to be resumed.
    package var detached: Int { state.withLock(\.detachedCount) }

    func account(_ change: Int, of peer: SPIFFEID?) {
        state.withLock { state in
            state.held += change
            let own = state.heldOf[peer, default: 0] + change
            state.heldOf[peer] = own > 0 ? own : nil
        }
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
