import Glibc
import Platform
import Synchronization

/// What the queues of many connections may hold together. Shared by the connections of all event loops; ``process`` is
/// the one that everything uses unless told otherwise.
///
/// Once the limit is exceeded, a connection that holds more than its fair share (the limit divided by the connections
/// that hold something) resets its largest streams until it holds no more than that; connections below their share are
/// left alone. So no peer, however many streams it opens and does not serve, takes memory from the others.
///
/// Compared by identity. Safe from any thread.
public final class H2MemoryBudget: Sendable, Hashable {
    /// In bytes.
    public let limit: Int
    private let bytes = Atomic<Int>(0)
    private let connections = Atomic<Int>(0)
    /// The most that was held since memory was given back last.
    private let peak = Atomic<Int>(0)

    /// With less at the peak, nothing is given back: it will be wanted again.
    private static let leastPeak = 64 << 20

    /// A quarter of the machine's memory, at most 1 GiB.
    public static let process: H2MemoryBudget = {
        let memory = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
        return H2MemoryBudget(limit: memory > 0 ? min(memory / 4, 1 << 30) : 1 << 28)
    }()

    /// - Parameter limit: In bytes, positive.
    public init(limit: Int) {
        precondition(limit > 0, "a memory budget of \(limit) bytes")
        self.limit = limit
    }

    /// What is held now, in bytes, as far as the connections have said: each keeps up to 16 KiB to itself.
    public var held: Int { bytes.load(ordering: .relaxed) }

    var isExceeded: Bool { held > limit }

    /// What each connection may hold while the limit is exceeded.
    var fairShare: Int { limit / max(1, connections.load(ordering: .relaxed)) }

    /// A connection holds `change` more bytes than it said last, and then `total` of them.
    func changed(by change: Int, to total: Int) {
        let held = bytes.wrappingAdd(change, ordering: .relaxed).newValue
        if change > 0 {
            if held > peak.load(ordering: .relaxed) { peak.store(held, ordering: .relaxed) }
        } else if held < peak.load(ordering: .relaxed) / 8, peak.load(ordering: .relaxed) >= Self.leastPeak {
            peak.store(0, ordering: .relaxed)
            FreedMemory.giveBackSoon()
        }
        if total == change { connections.wrappingAdd(1, ordering: .relaxed) }
        if total == 0 { connections.wrappingSubtract(1, ordering: .relaxed) }
    }

    public static func == (one: H2MemoryBudget, other: H2MemoryBudget) -> Bool { one === other }

    public func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}
