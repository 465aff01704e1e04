import MeshPaths
import MeshPolicy
import Platform
import Streams

/// One of -L, -R and -D.
enum Forward: Hashable, Sendable, CustomStringConvertible {
    case local(PortForward)
    case remote(RemoteForward)
    case dynamic(DynamicForward)

    /// - Throws: ``StreamError`` that shows the form.
    init(_ letter: String, _ text: String) throws(StreamError) {
        switch letter {
        case "L": self = .local(try PortForward(parsing: text))
        case "R": self = .remote(try RemoteForward(parsing: text))
        case "D": self = .dynamic(try DynamicForward(parsing: text))
        default: throw StreamError(.badRequest, "there is no forward '-\(letter)'")
        }
    }

    var isRemote: Bool { if case .remote = self { true } else { false } }

    /// A port 0 is another one each time.
    var hasFixedPort: Bool {
        switch self {
        case .local(let forward): forward.bind.isUnix || forward.bind.port != 0
        case .remote(let forward): forward.port != 0
        case .dynamic(let forward): forward.bind.isUnix || forward.bind.port != 0
        }
    }

    var description: String {
        switch self {
        case .local(let forward): "-L \(forward)"
        case .remote(let forward): "-R \(forward)"
        case .dynamic(let forward): "-D \(forward.bind)"
        }
    }
}

/// What `connect` listens for, on this side and on the far one. Confined to its loop.
final class ForwardTable {
    enum Change: Sendable {
        /// It listens: a line that says where, and what else is to be known.
        case listening(String, note: String?)
        /// The far side says no.
        case refused(StreamError)
        /// The far side listens no more; it is asked again.
        case lost(StreamError)
    }

    fileprivate enum Listening {
        case here(Listener)
        case there(RemoteForwarding)
    }

    fileprivate struct Entry {
        let forward: Forward
        let listening: Listening
        /// Where it really listens, once that is known.
        var line: String
        var port: UInt16
    }

    private let paths: PeerPaths
    private let loop: EventLoop
    /// The far side's, for people.
    private let name: String
    private var entries: [(id: Int, entry: Entry)] = []
    private var next = 0
    /// Told of each connection that was accepted on this side.
    var onUse: () -> Void = {}

    init(_ paths: PeerPaths, on loop: EventLoop, name: String) {
        self.paths = paths
        self.loop = loop
        self.name = name
    }

    /// - Parameter onChange: Told on the loop; of -L and -D once, before this call returns.
    /// - Returns: What ``close(_:)`` takes.
    /// - Throws: ``StreamError`` where this side cannot listen.
    @discardableResult
    func open(_ forward: Forward, onChange: @escaping (Change) -> Void) throws(StreamError) -> Int {
        next += 1
        let id = next
        switch forward {
        case .local(let wanted):
            let paths = LoopBound(paths, on: loop)
            let listener = try listen(on: wanted.bind) { [used = usage] socket in
                used()
                paths.withValue { $0.carry(socket, to: wanted.destination) }
            }
            add(id, forward, listener, "→ \(wanted.destination) on \(name)", onChange)
        case .dynamic(let wanted):
            let paths = LoopBound(paths, on: loop)
            let listener = try listen(on: wanted.bind) { [used = usage] socket in
                used()
                paths.withValue { $0.serveSOCKS(socket) }
            }
            add(id, forward, listener, "→ SOCKS on \(name)", onChange)
        case .remote(let wanted):
            let forwarding = paths.forward(wanted) { [weak self] change in
                self?.changed(id, wanted, change, onChange)
            }
            entries.append((id, Entry(forward: forward, listening: .there(forwarding), line: "", port: wanted.port)))
        }
        return id
    }

    /// Where such a forward listens already; nil: there is none, or each has a port of its own.
    func line(of forward: Forward) -> String? {
        guard forward.hasFixedPort, let entry = entries.first(where: { $0.entry.forward == forward })?.entry else {
            return nil
        }
        return entry.line.isEmpty ? "\(forward): asked for" : entry.line
    }

    private var usage: @Sendable () -> Void {
        let table = LoopBound(Weak(self), on: loop)
        return { table.withValue { $0.value?.onUse() } }
    }

    private final class Weak {
        weak var value: ForwardTable?
        init(_ value: ForwardTable) { self.value = value }
    }

    private func listen(
        on address: SocketAddress,
        _ accept: @escaping @Sendable (Socket) -> Void
    ) throws(StreamError) -> Listener {
        var options = ListenerOptions.programs
        // A Unix socket is for this user alone (StreamLocalBindMask of ssh_config(5)).
        options.unixPermissions = 0o600
        return try Listener(bind: address, on: loop, options: options, accept: accept)
    }

    private func add(
        _ id: Int,
        _ forward: Forward,
        _ listener: Listener,
        _ end: String,
        _ onChange: (Change) -> Void
    ) {
        let line = "listening \(listener.localAddress) \(end)"
        let port = listener.localAddress.port
        entries.append((id, Entry(forward: forward, listening: .here(listener), line: line, port: port)))
        onChange(.listening(line, note: nil))
    }

    private func changed(
        _ id: Int,
        _ forward: RemoteForward,
        _ change: RemoteForwarding.Change,
        _ onChange: (Change) -> Void
    ) {
        // Told before `open` has noted it, or after it was cancelled.
        let index = entries.firstIndex { $0.id == id }
        switch change {
        case .listening(let port, let listener):
            let host = forward.bindHost.isEmpty ? "*" : forward.bindHost
            let line = "listening \(host):\(port) on \(name) → \(forward.destination)"
            if let index { (entries[index].entry.line, entries[index].entry.port) = (line, port) }
            let isLocal = ["localhost", "127.0.0.1", "::1"].contains(host)
            let note =
                "Other machines reach that port only where GatewayPorts in the sshd_config of \(name) allows it."
            onChange(.listening(line, note: isLocal || listener == .node ? nil : note))
        case .refused(let error):
            close(id)
            onChange(.refused(error))
        case .lost(let error):
            if let index { entries[index].entry.line = "" }
            onChange(.lost(error))
        }
    }

    /// Listens for it no more; connections that were accepted go on.
    func close(_ id: Int) {
        guard let index = entries.firstIndex(where: { $0.id == id }) else { return }
        switch entries.remove(at: index).entry.listening {
        case .here(let listener): listener.close()
        case .there(let forwarding): paths.cancel(forwarding)
        }
    }

    func closeAll() { for id in entries.map(\.id) { close(id) } }

    /// The same as ``close(_:)`` for one that was asked for in these words, or where it has chosen a port, with that.
    ///
    /// - Returns: Whether there was one.
    func cancel(_ forward: Forward) -> Bool {
        guard let found = entries.first(where: { $0.entry.forward == forward || $0.entry.matches(forward) }) else {
            return false
        }
        close(found.id)
        return true
    }

    /// What listens now, a line each.
    var lines: [String] { entries.map(\.entry.line).filter { !$0.isEmpty } }
}

extension ForwardTable.Entry {
    /// Whether `other` says the port that was chosen for this one.
    fileprivate func matches(_ other: Forward) -> Bool {
        switch (forward, other) {
        case (.local(let own), .local(let other)):
            own.destination == other.destination && own.bind.address == other.bind.address && port == other.bind.port
        case (.remote(let own), .remote(let other)):
            own.destination == other.destination && own.bindHost == other.bindHost && port == other.port
        case (.dynamic(let own), .dynamic(let other)):
            own.bind.address == other.bind.address && port == other.bind.port
        default: false
        }
    }
}
