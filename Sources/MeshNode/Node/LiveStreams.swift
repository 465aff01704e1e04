import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// The relays that run on one event loop, with what policy decided about them: so that a reload can decide again, a
/// drain can wait, and a status can count. Confined to its loop.
final class LiveStreams {
    private struct Entry {
        let relay: Relay
        let request: StreamRequest
        let path: PathID?
    }

    private var entries: [UInt64: Entry] = [:]
    private var nextKey: UInt64 = 0
    private var emptied: [() -> Void] = []

    var count: Int { entries.count }

    /// Joins two streams and keeps track of them until they are done.
    ///
    /// - Parameter path: What carries it to its peer; nil: it was dialled from here.
    func relay(
        _ first: ByteStream,
        _ second: ByteStream,
        for request: StreamRequest,
        over path: PathID?,
        completion: @escaping (RelayResult) -> Void
    ) {
        let key = nextKey
        nextKey += 1
        let relay = Relay(first, second) { [self] result in
            entries[key] = nil
            completion(result)
            if entries.isEmpty {
                let waiting = emptied
                emptied = []
                for resume in waiting { resume() }
            }
        }
        entries[key] = Entry(relay: relay, request: request, path: path)
        relay.start()
    }

    /// Cuts every stream that policy no longer allows. Returns how many.
    func recheck(with planner: StreamPlanner) -> Int {
        let now = WallClock.system.seconds
        let losers = entries.values.compactMap { entry in
            planner.refusal(of: entry.request.at(now), over: entry.path).map { (entry.relay, $0) }
        }
        for (relay, refusal) in losers { relay.cut(StreamError(.denied, "policy changed: \(refusal.message)")) }
        return losers.count
    }

    /// Calls `body` on the loop when no stream is left, at once if none is.
    func whenEmpty(_ body: @escaping () -> Void) {
        if entries.isEmpty { body() } else { emptied.append(body) }
    }

    func cutAll(_ reason: StreamError) {
        for entry in Array(entries.values) { entry.relay.cut(reason) }
    }
}
