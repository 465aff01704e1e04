import MeshPolicy
import Streams

/// Where streams come in. An object: every stream keeps it.
final class FrontName: Hashable, Sendable {
    /// The listener, as the configuration names it.
    let listener: String
    /// What is spoken there, as the configuration names it.
    let `protocol`: String

    init(_ listener: String, protocol: String) {
        self.listener = listener
        self.protocol = `protocol`
    }

    static func == (one: FrontName, other: FrontName) -> Bool {
        one === other || one.listener == other.listener && one.protocol == other.protocol
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(listener)
        hasher.combine(`protocol`)
    }
}

/// What the streams of one front have come to. Counted on its loop in plain integers; a loop's are added to another's
/// when somebody asks.
///
/// Every label has a bound: listeners are those of the configuration, transports, reasons and parties are fixed sets.
struct FrontStatistics: Sendable {
    /// nil: dialled from here.
    typealias Way = Transport?

    struct End: Hashable, Sendable {
        let way: Way
        /// nil: cleanly.
        let code: StreamError.Code?
        let party: StreamParty
    }

    let front: FrontName
    /// By where they went on: a handful, and the same for nearly all streams, so that they are looked for one by one.
    private var ways: [WayStatistics] = []
    private var endings: [(end: End, count: UInt64)] = []
    private(set) var refused: [StreamError.Code: UInt64] = [:]
    /// Of TLS that ends at the front: why it did not begin.
    private(set) var failedHandshakes: [StreamError.Code: UInt64] = [:]
    /// Of those that have ended, and of those that are open where ``addLive(sent:received:)`` was told.
    private(set) var sent: UInt64 = 0
    private(set) var received: UInt64 = 0

    private struct WayStatistics: Sendable {
        let way: Way
        /// Open now.
        var live = 0
        var opened = Histogram()
    }

    init(_ front: FrontName) { self.front = front }

    /// Open now.
    var live: [Way: Int] { Dictionary(uniqueKeysWithValues: ways.map { ($0.way, $0.live) }) }
    var opened: [Way: Histogram] { Dictionary(uniqueKeysWithValues: ways.map { ($0.way, $0.opened) }) }
    var ended: [End: UInt64] { Dictionary(uniqueKeysWithValues: endings.map { ($0.end, $0.count) }) }

    mutating func open(over way: Way, after nanoseconds: UInt64) {
        let index = index(of: way)
        ways[index].live += 1
        ways[index].opened.record(nanoseconds: nanoseconds)
    }

    mutating func refuse(_ code: StreamError.Code) { refused[code, default: 0] &+= 1 }

    mutating func handshakeFailed(_ code: StreamError.Code) { failedHandshakes[code, default: 0] &+= 1 }

    mutating func end(over way: Way, _ code: StreamError.Code?, by party: StreamParty, sent: UInt64, received: UInt64) {
        ways[index(of: way)].live -= 1
        count(End(way: way, code: code, party: party), 1)
        addLive(sent: sent, received: received)
    }

    mutating func addLive(sent: UInt64, received: UInt64) {
        self.sent &+= sent
        self.received &+= received
    }

    mutating func add(_ other: FrontStatistics) {
        for statistics in other.ways {
            let index = index(of: statistics.way)
            ways[index].live += statistics.live
            ways[index].opened.add(statistics.opened)
        }
        for (end, number) in other.endings { count(end, number) }
        refused.merge(other.refused, uniquingKeysWith: &+)
        failedHandshakes.merge(other.failedHandshakes, uniquingKeysWith: &+)
        addLive(sent: other.sent, received: other.received)
    }

    private mutating func index(of way: Way) -> Int {
        for index in ways.indices where ways[index].way == way { return index }
        ways.append(WayStatistics(way: way))
        return ways.count - 1
    }

    private mutating func count(_ end: End, _ number: UInt64) {
        for index in endings.indices where endings[index].end == end {
            endings[index].count &+= number
            return
        }
        endings.append((end, number))
    }
}

/// Whose doing the end of a stream was.
enum StreamParty: String, CaseIterable, Hashable, Sendable {
    case client
    case destination
    /// This node: by policy, a limit, a timeout, its own end.
    case node
}

/// What becomes of the ways to peers.
enum PathChangeKind: Hashable, Sendable {
    /// The first path, or the first after none.
    case chosen(Transport)
    case switched(from: Transport, to: Transport)
    case unreachable
    /// The peer did not prove who it is.
    case refused
}
