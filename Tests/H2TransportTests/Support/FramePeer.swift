import Foundation
import H2Transport
import Streams
import TestPeers
import Testing

/// python-h2, moved by hand: see `Tests/Peers/h2/remote.py` for its commands. Exact about every frame it gets.
struct FramePeer: Sendable {
    struct Event: Sendable {
        let name: String
        let line: String
        fileprivate let numbers: [String: Int]
        let text: String
        let ends: Bool
        let headers: [[String]]
        let settings: [String: Int]

        subscript(_ key: String) -> Int? { numbers[key] }
    }

    let process: ChildProcess

    /// The header block of a request for a tunnel to 10.0.0.1:80, for what `hostile.py` sends.
    static let connect = "0207434f4e4e454354010b31302e302e302e313a3830"
    /// A header block without pseudo-header fields.
    static let trailers = "0005782d656e640131"

    /// A peer that plays the server, and our client connected to it.
    static func server(settings: [String] = []) async throws -> (FramePeer, SocketAddress) {
        let peer = try FramePeer(["server"], settings)
        let port = try await peer.event("listening")["port"] ?? 0
        return (peer, try SocketAddress(ip: "127.0.0.1", port: UInt16(port)))
    }

    /// A peer that plays the client of the server on `port`.
    static func client(port: UInt16, settings: [String] = []) throws -> FramePeer {
        try FramePeer(["client", String(port)], settings)
    }

    private init(_ arguments: [String], _ settings: [String]) throws {
        try self.init(script: "remote.py", arguments + (settings.isEmpty ? [] : ["--settings"] + settings))
    }

    private init(script: String, _ arguments: [String]) throws {
        process = try ChildProcess(
            TestTools.python,
            ["-u", TestTools.repository + "/Tests/Peers/h2/" + script] + arguments,
            keepsInputOpen: true
        )
    }

    /// A peer without rules that attacks the server on `port`: see `Tests/Peers/h2/hostile.py`. `settings` are
    /// NUMBER=VALUE.
    static func hostileClient(port: UInt16, settings: [String] = []) throws -> FramePeer {
        try FramePeer(script: "hostile.py", ["client", String(port)] + settings)
    }

    /// A peer without rules that attacks a client.
    static func hostileServer(settings: [String] = []) async throws -> (FramePeer, SocketAddress) {
        let peer = try FramePeer(script: "hostile.py", ["server"] + settings)
        let port = try await peer.event("listening")["port"] ?? 0
        return (peer, try SocketAddress(ip: "127.0.0.1", port: UInt16(port)))
    }

    func send(_ commands: String...) throws {
        for command in commands { try process.write(command + "\n") }
    }

    /// All events so far, in order.
    var events: [Event] {
        process.standardOutput.lines.compactMap { line in
            guard let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
                let name = object["event"] as? String
            else { return nil }
            return Event(
                name: name,
                line: line,
                numbers: object.compactMapValues { $0 as? Int },
                text: object["text"] as? String ?? "",
                ends: object["end"] as? Bool ?? false,
                headers: object["headers"] as? [[String]] ?? [],
                settings: object["settings"] as? [String: Int] ?? [:]
            )
        }
    }

    /// Waits for the first event of this kind that satisfies `condition`.
    @discardableResult
    func event(
        _ name: String,
        where condition: @escaping (Event) -> Bool = { _ in true }
    ) async throws -> Event {
        var found: Event?
        do {
            try await eventually(name) {
                let complete = process.standardOutput.isComplete
                found = events.first { $0.name == name && condition($0) }
                if found == nil && complete { throw DeadlineExceeded("the peer ended without \(name)") }
                return found != nil
            }
        } catch let error as DeadlineExceeded {
            throw DeadlineExceeded("\(error); it saw:\n\(process.standardOutput.text)\(process.standardError.text)")
        }
        guard let found else { throw DeadlineExceeded(name) }
        return found
    }

    /// Waits until the peer has done this command, and whatever it received before that has been printed.
    func done(_ command: String) async throws {
        try await event("done") { $0.line.contains("\"\(command)\"") }
    }

    /// Sends PING and waits for the answer: everything sent before has then been handled by our side.
    func roundTrip(_ name: String = "roundtrp") async throws {
        try send("ping \(name)")
        let data = name.utf8.map { String($0, radix: 16) }.joined()
        try await event("PingAckReceived") { $0.line.contains(data) }
    }

    /// Bytes of DATA received on a stream so far.
    func received(on stream: Int) -> Int {
        events.filter { $0.name == "DataReceived" && $0["stream_id"] == stream }.reduce(0) { $0 + ($1["length"] ?? 0) }
    }
}

/// Our side of a connection to a ``FramePeer``. Confined to its loop.
final class PeerSide {
    let connection: H2Connection
    let log: ConnectionLog
    var streams: [StreamEnd] = []
    var failures: [ConnectFailure] = []

    init(_ socket: Socket, role: H2Connection.Role, _ configuration: H2Configuration, _ log: ConnectionLog) throws {
        self.log = log
        connection = try H2Connection(over: socket, role: role, configuration: configuration, delegate: log)
    }

    func open(_ authority: String = "10.0.0.1:80", headers: HeaderFields = [:], readLimit: Int = .max) {
        connection.openStream(ConnectRequest(authority: authority, headers: headers)) { result in
            switch result {
            case .success(let stream): self.streams.append(StreamEnd(stream, readLimit: readLimit))
            case .failure(let failure): self.failures.append(failure)
            }
        }
    }

    func close() {
        for end in streams { end.stream.close() }
        connection.abort(StreamError(.closed, "the test is over"))
    }
}

/// Our client against python-h2 as a server.
func withClient(
    _ configuration: H2Configuration = .defaults,
    settings: [String] = [],
    _ body: (OnLoop<PeerSide>, FramePeer) async throws -> Void
) async throws {
    try await withLoop { loop in
        let (peer, address) = try await FramePeer.server(settings: settings)
        let side = try await Dialer.connect(to: .address(address), on: loop) { socket in
            LoopBound(try PeerSide(socket, role: .client, configuration, ConnectionLog()), on: loop)
        }
        let ours = OnLoop(side)
        try await body(ours, peer)
        try await ours { $0.close() }
        await peer.process.stop()
    }
}

/// Our server against python-h2 as a client. Requests wait in the log unless `onRequest` answers them.
func withServer(
    _ configuration: H2Configuration = .defaults,
    settings: [String] = [],
    onRequest: (@Sendable (PeerSide, PendingConnect) -> Void)? = nil,
    _ body: (OnLoop<PeerSide>, FramePeer) async throws -> Void
) async throws {
    try await withLoop { loop in
        let accepted = try await OnLoop<Accepted>(loop) {
            try Accepted(on: loop, configuration, onRequest)
        }
        let peer = try FramePeer.client(port: try await accepted { $0.port }, settings: settings)
        try await accepted.until("the peer connects") { $0.side != nil }
        let side = try await loop.execute {
            try accepted.value { LoopBound(try #require($0.side), on: loop) }
        }
        let ours = OnLoop(side)
        try await body(ours, peer)
        try await accepted {
            $0.side?.close()
            $0.listener?.close()
        }
        await peer.process.stop()
    }
}

private final class Accepted {
    var side: PeerSide?
    var listener: Listener?
    var port: UInt16 { listener?.localAddress.port ?? 0 }

    init(
        on loop: EventLoop,
        _ configuration: H2Configuration,
        _ onRequest: (@Sendable (PeerSide, PendingConnect) -> Void)?
    ) throws {
        let bound = LoopBound(WeakReference(self), on: loop)
        let address = try SocketAddress(ip: "127.0.0.1", port: 0)
        listener = try Listener(bind: address, on: loop) { (socket: Socket) -> Void in
            bound.withValue { $0.object?.accept(socket, configuration, onRequest) }
        }
    }

    private func accept(
        _ socket: Socket,
        _ configuration: H2Configuration,
        _ onRequest: (@Sendable (PeerSide, PendingConnect) -> Void)?
    ) {
        let log = ConnectionLog()
        guard let side = try? PeerSide(socket, role: .server, configuration, log) else { return }
        self.side = side
        guard let onRequest else { return }
        log.onRequest = { [weak side] pending in
            if let side { onRequest(side, pending) }
        }
    }
}

private final class WeakReference<Object: AnyObject> {
    weak var object: Object?
    init(_ object: Object) { self.object = object }
}
