import ArgumentParser
import Glibc
import Logging
import MeshPaths
import MeshPolicy
import Platform
import SSHSignal
import Streams

/// The master's side of a control socket: other processes of this user have their forwards and streams carried by this
/// one's paths. Confined to its loop.
final class ControlServer {
    /// What it lets others use.
    struct Shared {
        let loop: EventLoop
        let paths: PeerPaths
        let forwards: ForwardTable
        /// Whom the paths lead to, and how they were chosen.
        let peer: String
        let preference: PathPreference
        /// After so long without use the process ends (`ControlPersist`); nil: it does not.
        let idleLimit: Duration?
        /// Told when somebody has asked the process to end, or nobody uses it any more.
        let end: () -> Void
        let latest = Latest()
    }

    /// What became of the paths last, and when.
    final class Latest {
        fileprivate var change: (line: String, at: UInt64)?
    }

    private let shared: Shared
    private let logger: Logger
    private var listener: Listener?
    private var sessions: [ObjectIdentifier: ControlSession] = [:]
    private var idleness: Idleness?

    /// - Throws: ``StreamError``.
    init(
        adopting socket: ListeningSocket,
        on loop: EventLoop,
        logger: Logger,
        _ shared: Shared
    ) throws(StreamError) {
        self.shared = shared
        self.logger = logger
        if let limit = shared.idleLimit {
            idleness = Idleness(
                limit: limit,
                on: loop,
                isUsed: { [weak self] in self?.isUsed ?? false },
                end: { [logger, end = shared.end] in
                    logger.debug("nobody has used the paths for \(limit)")
                    end()
                }
            )
            shared.forwards.onUse = { [weak self] in self?.idleness?.used() }
        }
        let server = LoopBound(Weak(self), on: loop)
        listener = try Listener(adopting: socket, on: loop) { socket in
            server.withValue { server in
                if let server = server.value { server.accept(socket) } else { socket.close() }
            }
        }
    }

    private final class Weak {
        weak var value: ControlServer?
        init(_ value: ControlServer) { self.value = value }
    }

    private var isUsed: Bool { !sessions.isEmpty || shared.paths.hasStreams }

    /// From now on the time counts in which nobody uses the paths.
    ///
    /// - Parameter firstUse: For so long at least it waits for somebody to use them at all.
    func waitForUse(firstUse: Duration) { idleness?.begin(firstUse: firstUse) }

    /// The path is free from here on; what others have is cut by the paths.
    func close() {
        idleness?.stop()
        listener?.close()
        listener = nil
        for session in sessions.values { session.close() }
        sessions = [:]
    }

    /// To those whose forwards end with them: they print what this process prints.
    func say(_ line: String) {
        shared.latest.change = (line, shared.loop.now)
        for session in sessions.values { session.say(line) }
    }

    private func accept(_ socket: Socket) {
        guard let peer = socket.peerProcess, peer.isTrusted else {
            logger.warning("another user's process is refused at the control socket")
            return socket.close()
        }
        let session = ControlSession(socket, shared)
        sessions[ObjectIdentifier(session)] = session
        session.onEnd = { [weak self] session in
            self?.sessions[ObjectIdentifier(session)] = nil
            self?.idleness?.used()
        }
        session.start()
    }
}

/// One process that shares the paths. Confined to its loop, and kept by its server.
final class ControlSession {
    /// Told once, when the other process has gone, or has its stream.
    var onEnd: ((ControlSession) -> Void)?
    private let lines: ControlLines
    private let shared: ControlServer.Shared
    /// It has said whom it means.
    private var isOpen = false
    /// Forwards that end with it.
    private var bound: [Int] = []
    private var isOver = false

    init(_ socket: Socket, _ shared: ControlServer.Shared) {
        lines = ControlLines(socket)
        self.shared = shared
    }

    func start() {
        lines.onLine = { [weak self] in self?.received(ControlMessage.words($0)) }
        lines.onEnd = { [weak self] _ in self?.ended() }
        lines.send([ControlMessage.greeting, ControlMessage.version, "\(getpid())"])
        lines.start()
    }

    func say(_ line: String) { if !bound.isEmpty { lines.send(["say", line]) } }

    func close() {
        lines.close()
        isOver = true
    }

    private func ended() {
        guard !isOver else { return }
        isOver = true
        for id in bound { shared.forwards.close(id) }
        bound = []
        onEnd?(self)
    }

    private func refuse(_ message: String, _ code: ExitCode) { lines.send(["no", "\(code.rawValue)", message]) }

    private func received(_ words: [String]) {
        guard isOpen || words.first == "open" else { return refuse("say first whom you mean", .usage) }
        switch (words.first, words.count) {
        case ("open", 3): open(words[1], words[2])
        case ("check", 1):
            let latest = shared.latest.change.map { change in
                "for \((shared.loop.now &- change.at) / 1_000_000_000) s: \(change.line)"
            }
            let paths = shared.paths.report.flatMap { [$0.line] + $0.addresses.map(\.line) }
            let first = shared.paths.pathInUse?.description ?? ""
            let end = shared.idleLimit.map { "ends once nobody has used it for \($0.components.seconds) s" }
            let (count, time) = shared.paths.waitingStreams
            let streams = count == 1 ? "1 stream waits" : "\(count) streams wait"
            let waiting = count > 0 ? "\(streams) for a path to go on over, \(time.components.seconds) s at most" : nil
            let state = [latest, end, waiting].compactMap { $0 }
            lines.send(["ok", first] + state + paths + shared.forwards.lines)
        case ("paths", 1): lines.send(["ok", pathsPage] + shared.forwards.lines)
        case ("exit", 1):
            lines.send(["ok"])
            shared.end()
        case ("forward", 4): forward(words[1], words[2], isBound: words[3] == "bound")
        case ("cancel", 3): cancel(words[1], words[2])
        case ("stdio", 2): carry(words[1])
        default: refuse("this release does not know '\(words.joined(separator: " "))'", .usage)
        }
    }

    /// As the administration of a node has it, with one peer.
    private var pathsPage: String {
        let traffic = shared.paths.traffic
        var json = JSONWriter()
        json.object { json in
            json.key("peers")
            json.array { json in
                json.object { json in
                    json.key("name")
                    json.string(shared.peer)
                    json.key("paths")
                    json.array { json in
                        for path in shared.paths.report {
                            path.write(carrying: traffic[path.path] ?? PathTraffic(), isShort: true, into: &json)
                        }
                    }
                }
            }
        }
        return json.text
    }

    private func open(_ peer: String, _ preference: String) {
        guard peer == shared.peer else { return refuse("its paths lead to \(shared.peer), and not to \(peer)", .usage) }
        guard preference == PathPreference.automatic.rawValue || preference == shared.preference.rawValue else {
            return refuse(
                "its paths are those of --path \(shared.preference.rawValue), and not of --path \(preference)",
                .usage
            )
        }
        isOpen = true
        lines.send(["ok", shared.paths.pathInUse?.description ?? ""])
    }

    private func forward(_ letter: String, _ text: String, isBound: Bool) {
        // What says how it went answers; the rest is said.
        var isAnswered = false
        do throws(StreamError) {
            let wanted = try Forward(letter, text)
            // As ssh: what is there is not asked for twice. One that ends with its process is that process's own.
            if !isBound, let line = shared.forwards.line(of: wanted) {
                lines.send(["ok", line, "it is there already"])
                return
            }
            let id = try shared.forwards.open(wanted) { [weak self] change in
                switch change {
                case .listening(let line, let note):
                    if isAnswered { self?.say(line) } else { self?.lines.send(["ok", line, note ?? ""]) }
                    isAnswered = true
                case .refused(let error):
                    self?.refuse(error.message, .denied)
                    isAnswered = true
                case .lost(let error):
                    let line = "-\(letter) \(text): \(error.message); trying again"
                    if isAnswered { self?.say(line) } else { self?.lines.send(["say", line]) }
                }
            }
            if isBound { bound.append(id) }
        } catch {
            refuse(error.message, error.code == .badRequest ? .usage : .failed)
        }
    }

    private func cancel(_ letter: String, _ text: String) {
        do throws(StreamError) {
            guard shared.forwards.cancel(try Forward(letter, text)) else {
                return refuse("-\(letter) \(text): there is no such forward", .failed)
            }
            lines.send(["ok"])
        } catch {
            refuse(error.message, .usage)
        }
    }

    /// From the answer on the connection is the stream.
    private func carry(_ text: String) {
        let destination: Authority
        do throws(AddressError) { destination = try Authority(parsing: text) } catch {
            return refuse(error.message, .usage)
        }
        let paths = shared.paths
        paths.openStream(to: destination) { [self] result in
            switch result {
            case .success(let opened):
                guard !isOver else { return opened.stream.reset(StreamError(.closed, "the client has gone")) }
                guard lines.send(["ok", "\(opened.path)"]), lines.isFlushed else {
                    opened.stream.reset(.closedByOwner)
                    lines.close()
                    return ended()
                }
                let early = lines.handOver()
                let framed = FramedStream(lines.socket, early: early)
                paths.join(framed, opened)
                ended()
            case .failure(let error):
                guard !isOver else { return }
                refuse(error.message, paths.exitCode(for: error))
            }
        }
    }
}

extension PathReport {
    /// For people.
    fileprivate var line: String {
        var parts = [state == .inUse ? "in use" : state.rawValue]
        if let roundTripTime {
            let tenths = Int64(roundTripTime / .microseconds(100))
            parts.append("RTT \(tenths / 10).\(tenths % 10) ms")
        }
        if let isMultipath { parts.append(isMultipath ? "multipath TCP" : "plain TCP") }
        if state == .up || state == .inUse { parts.append("\(streams) \(streams == 1 ? "stream" : "streams")") }
        if let peer { parts.append("\(peer)") }
        if let failure, state != .inUse { parts.append(failure) }
        return "path \(path): \(parts.joined(separator: ", "))"
    }
}

extension AddressReport {
    /// For people.
    var line: String {
        var parts: [String] = []
        if let handshake {
            parts.append("handshake \(Self.milliseconds(handshake))")
        } else if let connectTime {
            parts.append("connected after \(Self.milliseconds(connectTime))")
        }
        if let failure { parts.append(failure) }
        if parts.isEmpty { parts.append("not tried") }
        return "  \(address)\(isTold ? ", by its own word" : ""): \(parts.joined(separator: ", "))"
    }

    private static func milliseconds(_ time: Duration) -> String {
        let tenths = Int64(time / .microseconds(100))
        return "\(tenths / 10).\(tenths % 10) ms"
    }
}

extension PeerPaths {
    /// The same for the same cause, whichever part of the command it ends. A failed login says more than what it means
    /// for the paths.
    func exitCode(for error: StreamError) -> ExitCode {
        switch (error.code, loginError?.code) {
        case (.authentication, .hostKeyRefused?), (.unreachable, .hostKeyRefused?): .hostKeyRefused
        case (.authentication, _), (.unreachable, .authenticationRefused?): .authenticationRefused
        case (.unreachable, _): .unreachable
        case (.denied, _): .denied
        default: .failed
        }
    }
}
