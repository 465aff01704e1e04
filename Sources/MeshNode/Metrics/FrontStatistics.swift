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
    /// Open now.
    private(set) var live: [Way: Int] = [:]
    private(set) var opened: [Way: Histogram] = [:]
    private(set) var refused: [StreamError.Code: UInt64] = [:]
    /// Of TLS that ends at the front: why it did not begin.
    private(set) var failedHandshakes: [StreamError.Code: UInt64] = [:]
    private(set) var ended: [End: UInt64] = [:]
    /// Of those that have ended, and of those that are open where ``addLive(sent:received:)`` was told.
    private(set) var sent: UInt64 = 0
    private(set) var received: UInt64 = 0

    init(_ front: FrontName) { self.front = front }

    mutating func open(over way: Way, after nanoseconds: UInt64) {
        live[way, default: 0] += 1
        opened[way, default: Histogram()].record(nanoseconds: nanoseconds)
    }

    mutating func refuse(_ code: StreamError.Code) { refused[code, default: 0] &+= 1 }

    mutating func handshakeFailed(_ code: StreamError.Code) { failedHandshakes[code, default: 0] &+= 1 }

    mutating func end(over way: Way, _ code: StreamError.Code?, by party: StreamParty, sent: UInt64, received: UInt64) {
        live[way, default: 0] -= 1
        ended[End(way: way, code: code, party: party), default: 0] &+= 1
        addLive(sent: sent, received: received)
    }

    mutating func addLive(sent: UInt64, received: UInt64) {
        self.sent &+= sent
        self.received &+= received
    }

    mutating func add(_ other: FrontStatistics) {
        live.merge(other.live, uniquingKeysWith: +)
        for (way, histogram) in other.opened { opened[way, default: Histogram()].add(histogram) }
        refused.merge(other.refused, uniquingKeysWith: &+)
        failedHandshakes.merge(other.failedHandshakes, uniquingKeysWith: &+)
        ended.merge(other.ended, uniquingKeysWith: &+)
        addLive(sent: other.sent, received: other.received)
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
