import ArgumentParser
import Fleet
import Glibc
import MeshNode
import MeshPaths
import Platform
import SSHSignal
import Streams

/// Shows what the administration of a node says, or a `connect` of its own paths, each second, until somebody stops
/// it. A node that has gone is waited for.
struct NodeWatch: Sendable {
    enum Place: Sendable {
        /// Where the administration listens.
        case here(SocketAddress)
        /// On a machine that is logged in to.
        case there(SocketAddress, SSHLogin)
        /// The control socket of a `connect`, and whom its paths lead to.
        case control(String, peer: String)
    }

    let place: Place
    /// For people.
    let name: String
    let isJSON: Bool

    private static let interval = Duration.seconds(1)

    /// - Throws: the exit code, where nobody answers at the beginning, or the `connect` has ended; why was printed.
    func run() async throws {
        let loop = EventLoop(name: "watch")
        let result: Result<Void, any Error>
        do { result = .success(try await untilStopped { try await watch(on: loop) }) } catch {
            result = .failure(error)
        }
        await loop.shutDown()
        do {
            try result.get()
        } catch is CancellationError {
            return
        }
    }

    private func watch(on loop: EventLoop) async throws {
        let live = LiveLines(isEnabled: !isJSON, descriptor: STDOUT_FILENO)
        let node = WatchedNode(place, on: loop)
        var rates = NodeRates()
        var identity: String?
        var lines: [String] = []
        var hasAnswered = false
        // What an answer takes over a long way is no silence.
        var patience = Self.interval
        // Whoever reads it may go.
        var since: Int64?
        while standardOutputFailure() == nil {
            var tick: NodeTick
            let asked = (at: ContinuousClock.now, time: WallClock.system.seconds)
            do {
                // A login may ask, and takes the time that it takes.
                if !hasAnswered { try await node.reach() }
                let page = try await ask(node, identity == nil, patience) {
                    since = since ?? asked.time
                    show(silence(identity, since: since ?? asked.time, why: nil), [], live)
                }
                patience = max(Self.interval, (ContinuousClock.now - asked.at) * 2)
                identity = identity ?? page.identity
                tick = rates.tick(page.peers, page.streams, node: identity ?? name)
                if page.lines != lines, !live.isEnabled, !isJSON { for line in page.lines { printLine(line) } }
                lines = page.lines
                (since, hasAnswered) = (nil, true)
            } catch {
                try Task.checkCancellation()
                guard hasAnswered, !isControl else { throw failure(error) }
                let beginning = since ?? asked.time
                since = beginning
                // Another one may come up in its place.
                tick = silence(identity, since: beginning, why: "\(error)")
                (rates, identity) = (NodeRates(), nil)
            }
            show(tick, lines, live)
            try await Task.sleep(for: Self.interval)
        }
    }

    private var isControl: Bool { if case .control = place { true } else { false } }

    private func failure(_ error: any Error) -> any Error {
        switch error {
        case ControlError.refused(let message, let code): fail("--watch: \(message)", code)
        case ControlError.gone: fail("--watch: the process that listened on \(name) has ended")
        case let code as ExitCode: code
        case _ where isControl: fail("--watch: \(error)")
        default:
            fail(
                "--watch: no node answers at \(name): \(error)",
                (error as? SSHError).map { HostError.Reason($0.code).exitCode } ?? .unreachable
            )
        }
    }

    /// Asks, and tells each second that there is no answer yet.
    private func ask(
        _ node: WatchedNode,
        _ wantsIdentity: Bool,
        _ patience: Duration,
        _ waiting: () -> Void
    ) async throws -> WatchedNode.Page {
        try await withThrowingTaskGroup(of: WatchedNode.Page?.self) { group in
            group.addTask { try await node.page(withIdentity: wantsIdentity) }
            var next = patience
            while true {
                group.addTask { [next] in
                    try await Task.sleep(for: next)
                    return nil
                }
                guard let result = try await group.next() else { throw CancellationError() }
                if let page = result {
                    group.cancelAll()
                    return page
                }
                waiting()
                next = Self.interval
            }
        }
    }

    private func silence(_ identity: String?, since: Int64, why: String?) -> NodeTick {
        var tick = NodeTick(node: identity ?? name)
        tick.error = "not answering since \(describe(time: since))\(why.map { ": \($0)" } ?? "")"
        return tick
    }

    private func show(_ tick: NodeTick, _ more: [String], _ live: LiveLines) {
        if isJSON { return printJSON(tick) }
        guard !live.isEnabled else { return live.show(tick.table + more) }
        // Names are a node's word: none of them ends the line.
        printLine(Printable.cleanLine(tick.line.utf8, limit: .max))
    }
}

/// What is watched: how it is reached, again and again.
private actor WatchedNode {
    struct Page: Sendable {
        /// nil: it was not asked for, or there is none.
        var identity: String?
        var peers: [NodePages.Peer]
        var streams: NodePages.Streams
        /// For people, beside all that.
        var lines: [String] = []
    }

    private let place: NodeWatch.Place
    private let loop: EventLoop
    private var session: SSHClient?
    private var hasLoggedIn = false
    private var control: ControlClient?

    init(_ place: NodeWatch.Place, on loop: EventLoop) {
        self.place = place
        self.loop = loop
    }

    /// Goes where it is, and asks who is logged in for what a login asks.
    func reach() async throws {
        switch place {
        case .here: return
        case .there(_, let login): _ = try await logIn(login)
        case .control(let path, let peer): _ = try await open(path, peer)
        }
    }

    func page(withIdentity: Bool) async throws -> Page {
        if case .control(let path, let peer) = place { return try await ask(try await open(path, peer)) }
        let client = try await client()
        let identity = withIdentity ? try NodePages.identity(try await client.get("/certificates")) : nil
        let peers = try NodePages.paths(try await client.get("/paths"))
        let streams = try NodePages.streams(try await client.get("/streams?limit=\(NodeTick.streamLimit)"))
        return Page(identity: identity, peers: peers, streams: streams)
    }

    private func ask(_ control: ControlClient) async throws -> Page {
        let answer: [String]
        do {
            answer = try await control.ask(["paths"])
        } catch ControlError.refused(_, let code) where code == .usage {
            let what = "the process that listens there is of an earlier release: end it (-O exit), and connect again"
            throw ControlError.refused(what, code)
        }
        let peers = try NodePages.paths(Array((answer.first ?? "").utf8))
        let count = peers.flatMap(\.paths).reduce(0) { $0 + $1.streams }
        return Page(
            identity: peers.first?.name,
            peers: peers,
            streams: NodePages.Streams(total: count, streams: []),
            lines: Array(answer.dropFirst())
        )
    }

    private func open(_ path: String, _ peer: String) async throws -> ControlClient {
        if let control { return control }
        guard let made = try await ControlClient.connect(to: path, on: loop) else {
            throw fail("--watch: no process listens on \(path)")
        }
        _ = try await made.ask(["open", peer, PathPreference.automatic.rawValue])
        control = made
        return made
    }

    private func client() async throws -> AdministrationClient {
        switch place {
        case .here(let address): return AdministrationClient(at: address, on: loop)
        case .control: throw CancellationError()
        case .there(let address, let login):
            let session = try await logIn(login)
            return AdministrationClient(at: address, on: loop) { loop, completion in
                session.connection.withValue { connection in
                    if address.isUnix {
                        connection.openDirectStreamLocal(path: address.ip, completion: completion)
                    } else {
                        connection.openDirectTCPIP(host: address.ip, port: address.port, completion: completion)
                    }
                }
            }
        }
    }

    private func logIn(_ login: SSHLogin) async throws -> SSHClient {
        if let session, await session.failure() == nil { return session }
        // Who was asked once is not asked each time that the network is back.
        let made = try await (hasLoggedIn ? login.withoutQuestions : login).connect(on: loop)
        session = made
        hasLoggedIn = true
        return made
    }
}

/// What the administration answers.
enum NodePages {
    struct Path: Decodable, Sendable {
        var path: String
        var state: String
        var streams: Int
        var sent: UInt64?
        var received: UInt64?
        var age: Double?
        var why: String?
        var roundTripTime: Double?
        var peer: String?
        var failure: String?
    }

    struct Peer: Decodable, Sendable {
        var name: String
        var paths: [Path]
    }

    struct Stream: Decodable, Sendable {
        var id: UInt64
        var source: String
        var over: String?
        var age: Double
        var sent: UInt64
        var received: UInt64
    }

    struct Streams: Decodable, Sendable {
        var total: Int
        var streams: [Stream]
    }

    private struct Peers: Decodable { var peers: [Peer] }
    private struct Certificates: Decodable { var identity: String }

    static func paths(_ page: [UInt8]) throws(StreamError) -> [Peer] { try decode(Peers.self, page).peers }
    static func streams(_ page: [UInt8]) throws(StreamError) -> Streams { try decode(Streams.self, page) }
    static func identity(_ page: [UInt8]) throws(StreamError) -> String {
        try decode(Certificates.self, page).identity
    }

    private static func decode<Page: Decodable>(_ type: Page.Type, _ bytes: [UInt8]) throws(StreamError) -> Page {
        do {
            return try JSONText.decode(type, from: bytes)
        } catch {
            throw StreamError(
                .protocolViolation,
                "what answers there is no node, or one of another release than this bootstrap: \(error)"
            )
        }
    }
}
