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
        let dialled: SocketAddress?
    }

    private var entries: [UInt64: Entry] = [:]
    private var nextKey: UInt64 = 0
    private var emptied: [() -> Void] = []

    var count: Int { entries.count }

    /// Joins a stream with its far end and keeps track of them until they are done.
    ///
    /// - Parameter early: What has been read from the stream already, which the far end gets first.
    func relay(
        _ first: ByteStream,
        early: [UInt8] = [],
        _ opened: StreamOpener.Opened,
        for request: StreamRequest,
        completion: @escaping (RelayResult) -> Void
    ) {
        let key = nextKey
        nextKey += 1
        let relay = Relay(first, opened.stream) { [self] result in
            entries[key] = nil
            completion(result)
            if entries.isEmpty {
                let waiting = emptied
                emptied = []
                for resume in waiting { resume() }
            }
        }
        // Where it came through was for opening it.
        entries[key] = Entry(relay: relay, request: request.withoutHops, path: opened.path, dialled: opened.dialled)
        relay.start(early: early)
    }

    /// Cuts every stream that policy no longer allows. Returns how many.
    func recheck(with planner: StreamPlanner) -> Int {
        let now = WallClock.system.seconds
        let losers = entries.values.compactMap { entry in
            let dialled = entry.dialled.flatMap { peer in peer.address.map { ($0, peer.port) } }
            return planner.refusal(of: entry.request.at(now), over: entry.path, dialled: dialled)
                .map { (entry.relay, $0) }
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
