import Platform
import Streams

/// What a node does, at one moment.
struct NodeTick: Encodable {
    struct Peer: Encodable {
        /// As the configuration has its endpoint.
        var peer: String
        var path: String
        var state: String
        /// Who it has proved to be.
        var identity: String?
        /// In seconds.
        var roundTripTime: Double?
        /// In bytes; absent at first.
        var sentPerSecond: UInt64?
        var receivedPerSecond: UInt64?
        var streams: Int
        /// For so many seconds new streams have taken it.
        var age: Double?
        var why: String?
        var failure: String?
    }

    /// Others whose streams come in.
    struct Source: Encodable {
        var source: String
        var over: String?
        var sentPerSecond: UInt64?
        var receivedPerSecond: UInt64?
        var streams: Int
        /// Of its oldest stream.
        var age: Double
    }

    var time = describe(time: WallClock.system.seconds)
    var node: String
    var streams = 0
    var peers: [Peer] = []
    var sources: [Source] = []
    /// Peers and sources that were left out.
    var more: Int?
    /// The node does not answer.
    var error: String?

    /// Streams that are looked at one by one.
    static let streamLimit = 1000
    /// Peers, and sources, of one tick.
    static let rowLimit = 100
    /// Of both together on one line.
    static let wordLimit = 8

    init(node: String) { self.node = node }
}

/// Makes rates of what a node has carried: of two ticks.
struct NodeRates {
    private struct Count {
        var sent: UInt64 = 0
        var received: UInt64 = 0
    }

    private struct Key: Hashable {
        var peer: String
        var path: String
    }

    private var last: ContinuousClock.Instant?
    private var peers: [Key: Count] = [:]
    private var streams: [UInt64: Count] = [:]

    mutating func tick(_ peers: [NodePages.Peer], _ page: NodePages.Streams, node: String) -> NodeTick {
        let now = ContinuousClock.now
        let seconds = last.map { Double((now - $0).nanoseconds) / 1e9 }
        last = now
        var tick = NodeTick(node: node)
        tick.streams = page.total
        let (ways, carried) = Self.merged(peers)
        tick.peers = ways.map { key, peer in
            var peer = peer
            let count = carried[key] ?? Count()
            peer.sentPerSecond = Self.rate(count.sent, self.peers[key]?.sent, seconds)
            peer.receivedPerSecond = Self.rate(count.received, self.peers[key]?.received, seconds)
            return peer
        }
        self.peers = carried
        tick.sources = sources(page, seconds)
        let left = max(0, tick.peers.count - NodeTick.rowLimit) + max(0, tick.sources.count - NodeTick.rowLimit)
        tick.more = left > 0 ? left : nil
        tick.peers = Array(tick.peers.prefix(NodeTick.rowLimit))
        tick.sources = Array(tick.sources.prefix(NodeTick.rowLimit))
        return tick
    }

    /// Each event loop of a node has paths of its own: one row for all of them.
    private static func merged(_ peers: [NodePages.Peer]) -> ([(Key, NodeTick.Peer)], [Key: Count]) {
        let order = ["inUse", "up", "trying", "waiting", "idle"]
        func rank(_ state: String) -> Int { order.firstIndex(of: state) ?? order.count }
        var rows: [(Key, NodeTick.Peer)] = []
        var carried: [Key: Count] = [:]
        for peer in peers {
            for path in peer.paths where path.state != "idle" || path.streams > 0 {
                let key = Key(peer: peer.name, path: path.path)
                carried[key, default: Count()].sent &+= path.sent ?? 0
                carried[key, default: Count()].received &+= path.received ?? 0
                guard let index = rows.firstIndex(where: { $0.0 == key }) else {
                    rows.append(
                        (
                            key,
                            NodeTick.Peer(
                                peer: peer.name,
                                path: path.path,
                                state: path.state,
                                identity: path.peer,
                                roundTripTime: path.roundTripTime,
                                streams: path.streams,
                                age: path.age,
                                why: path.why,
                                failure: path.failure
                            )
                        )
                    )
                    continue
                }
                var row = rows[index].1
                row.streams &+= path.streams
                if rank(path.state) < rank(row.state) {
                    (row.state, row.failure) = (path.state, path.failure)
                }
                row.identity = row.identity ?? path.peer
                row.roundTripTime = [row.roundTripTime, path.roundTripTime].compactMap { $0 }.min()
                if let age = path.age, age > row.age ?? -1 { (row.age, row.why) = (age, path.why) }
                rows[index].1 = row
            }
        }
        // One place for each, whatever the order of the page.
        rows.sort { ($0.1.peer, rank($0.1.state), $0.1.path) < ($1.1.peer, rank($1.1.state), $1.1.path) }
        return (rows, carried)
    }

    private mutating func sources(_ page: NodePages.Streams, _ seconds: Double?) -> [NodeTick.Source] {
        var counts: [UInt64: Count] = [:]
        var rows: [NodeTick.Source] = []
        for stream in page.streams {
            counts[stream.id] = Count(sent: stream.sent, received: stream.received)
            // What local users ask for is seen at the peers.
            guard stream.source != "local user" else { continue }
            let before = streams[stream.id] ?? Count()
            let sent = Self.rate(stream.sent, before.sent, seconds)
            let received = Self.rate(stream.received, before.received, seconds)
            guard let index = rows.firstIndex(where: { $0.source == stream.source && $0.over == stream.over }) else {
                rows.append(
                    NodeTick.Source(
                        source: stream.source,
                        over: stream.over,
                        sentPerSecond: sent,
                        receivedPerSecond: received,
                        streams: 1,
                        age: stream.age
                    )
                )
                continue
            }
            rows[index].streams += 1
            rows[index].age = max(rows[index].age, stream.age)
            rows[index].sentPerSecond = sent.map { $0 &+ (rows[index].sentPerSecond ?? 0) }
            rows[index].receivedPerSecond = received.map { $0 &+ (rows[index].receivedPerSecond ?? 0) }
        }
        streams = counts
        return rows.sorted { ($0.source, $0.over ?? "") < ($1.source, $1.over ?? "") }
    }

    /// nil at first. A counter that has gone backwards is another one.
    private static func rate(_ count: UInt64, _ before: UInt64?, _ seconds: Double?) -> UInt64? {
        guard let seconds, seconds > 0, let before else { return nil }
        return count < before ? 0 : UInt64(exactly: (Double(count - before) / seconds).rounded()) ?? 0
    }
}

// For people.
extension NodeTick {
    /// A whole tick: what is most likely to be looked for comes first.
    var line: String {
        if let error { return "\(time) \(node): \(error)" }
        let ways = peers.filter { $0.state == "inUse" } + peers.filter { $0.state != "inUse" }
        var words = ways.map { peer in
            "\(peer.peer) \(peer.path) \(peer.cells.dropFirst(2).filter { !$0.isEmpty }.joined(separator: ", "))"
        }
        words += sources.map { source in
            "from \(source.cells[0]) \(source.cells.dropFirst(1).filter { !$0.isEmpty }.joined(separator: ", "))"
        }
        let left = max(0, words.count - Self.wordLimit) + (more ?? 0)
        words = Array(words.prefix(Self.wordLimit))
        if left > 0 { words.append("and \(left) more") }
        let total = "\(streams) \(streams == 1 ? "stream" : "streams")"
        return "\(time) \(node): \(([total] + words).joined(separator: "; "))"
    }

    /// For a screen.
    var table: [String] {
        let title = "\(node)  \(time)  \(streams) \(streams == 1 ? "stream" : "streams")"
        if let error { return [title, error] }
        var lines = [title]
        if !peers.isEmpty {
            let heading = ["peer", "path", "state", "RTT", "sent", "received", "streams", "since", "why"]
            lines += Self.aligned([heading] + peers.map { Array($0.cells.prefix(8)) + [$0.reason] })
        }
        if !sources.isEmpty {
            lines += Self.aligned([["from", "over", "sent", "received", "streams", "since"]] + sources.map(\.cells))
        }
        if let more { lines.append("and \(more) more") }
        return lines
    }

    private static func aligned(_ rows: [[String]]) -> [String] {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = zip(row, widths).map { text, width in
                text + String(repeating: " ", count: width - text.count)
            }.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }
    }

    fileprivate static func rate(_ count: UInt64?) -> String {
        guard let count else { return "" }
        var (value, unit) = (Double(count), 0)
        let units = ["B/s", "kB/s", "MB/s", "GB/s"]
        while value >= 1000, unit < units.count - 1 { (value, unit) = (value / 1000, unit + 1) }
        guard unit > 0 else { return "\(count) B/s" }
        let tenths = UInt64(value * 10)
        return "\(tenths / 10).\(tenths % 10) \(units[unit])"
    }

    fileprivate static func time(_ seconds: Double?) -> String {
        seconds.flatMap { Int64(exactly: $0.rounded(.down)) }.map { describe(seconds: $0) } ?? ""
    }
}

extension NodeTick.Peer {
    fileprivate var reason: String { state == "inUse" ? why ?? "" : failure ?? "" }

    fileprivate var cells: [String] {
        var round = ""
        if let roundTripTime {
            let hundredths = UInt64(exactly: (max(0, roundTripTime) * 100_000).rounded(.down)) ?? 0
            round = "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100) ms"
        }
        return [
            peer, path, state == "inUse" ? "in use" : state, round, NodeTick.rate(sentPerSecond),
            NodeTick.rate(receivedPerSecond), "\(streams) \(streams == 1 ? "stream" : "streams")", NodeTick.time(age),
            reason,
        ]
    }
}

extension NodeTick.Source {
    fileprivate var cells: [String] {
        [
            source, over ?? "", NodeTick.rate(sentPerSecond), NodeTick.rate(receivedPerSecond),
            "\(streams) \(streams == 1 ? "stream" : "streams")", NodeTick.time(age),
        ]
    }
}
