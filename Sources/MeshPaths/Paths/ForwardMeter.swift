import MeshPolicy
import Streams

/// What streams to a peer have carried over one path.
package struct PathTraffic: Hashable, Sendable {
    /// From clients to the peer.
    package var sent: UInt64
    package var received: UInt64

    package init(sent: UInt64 = 0, received: UInt64 = 0) { (self.sent, self.received) = (sent, received) }

    package mutating func add(sent: UInt64, received: UInt64) {
        self.sent &+= sent
        self.received &+= received
    }
}

/// What the connections of this side have carried over each path, for who watches. Confined to the paths' loop.
final class ForwardMeter {
    private struct Entry {
        let relay: Relay
        let opened: OpenedStream
        var accounted = PathTraffic()

        /// A stream that outlives its path goes on over another.
        var path: PathID { (opened.stream as? ResumableStream)?.path ?? opened.path }
    }

    private var live: [ObjectIdentifier: Entry] = [:]
    private var totals: [PathID: PathTraffic] = [:]

    /// What is carried by now.
    var traffic: [PathID: PathTraffic] {
        for id in Array(live.keys) { account(id) }
        return totals
    }

    func began(_ relay: Relay, _ opened: OpenedStream) {
        live[ObjectIdentifier(relay)] = Entry(relay: relay, opened: opened)
    }

    func ended(_ id: ObjectIdentifier) {
        account(id)
        live[id] = nil
    }

    private func account(_ id: ObjectIdentifier) {
        guard var entry = live[id] else { return }
        let (sent, received) = entry.relay.progress
        totals[entry.path, default: PathTraffic()].add(
            sent: sent &- entry.accounted.sent,
            received: received &- entry.accounted.received
        )
        entry.accounted = PathTraffic(sent: sent, received: received)
        live[id] = entry
    }
}
