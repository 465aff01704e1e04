import Platform
import Streams

/// The clients of one loop that have connected and not said yet what they want. There is a limit of them, so that who
/// opens connections and says nothing holds no more than so many sockets; the one that has waited longest goes first,
/// since whoever means it says it at once. Confined to its loop.
final class Newcomers {
    typealias Key = UInt64

    private var drops: [Key: () -> Void] = [:]
    private var nextKey: Key = 0
    /// No key below is in use.
    private var oldest: Key = 0
    private let limit: Int
    /// The most that there were since memory was given back last.
    private var peak = 0
    /// With fewer at the peak, nothing is given back: it will be wanted again.
    private static let leastPeak = 500

    init(limit: Int = 4096) { self.limit = limit }

    var count: Int { drops.count }

    /// - Parameter drop: Called when the client must go; it calls ``remove(_:)``, or need not.
    /// - Returns: Whether somebody had to go for it, and what it is known by.
    func add(_ drop: @escaping () -> Void) -> (key: Key, isCrowded: Bool) {
        let isCrowded = drops.count >= limit
        if isCrowded { dropOldest() }
        let key = nextKey
        nextKey += 1
        drops[key] = drop
        peak = max(peak, drops.count)
        return (key, isCrowded)
    }

    func remove(_ key: Key) {
        drops[key] = nil
        // A client in its TLS handshake is 64 KiB.
        guard peak >= Self.leastPeak, drops.count < peak / 8 else { return }
        peak = 0
        FreedMemory.giveBackSoon()
    }

    private func dropOldest() {
        while oldest < nextKey {
            defer { oldest += 1 }
            guard let drop = drops.removeValue(forKey: oldest) else { continue }
            return drop()
        }
    }
}

extension StreamError {
    /// For a client that made room for others.
    static let crowdedOut = StreamError(.limit, "too many clients have connected and say nothing: the oldest went")
}
