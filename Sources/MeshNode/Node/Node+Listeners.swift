import MeshPaths
import Platform
import Streams

// The sockets that a node listens on. All of them are bound before any accepts, so that one that cannot be had changes
// nothing:
//
//     bind, or go on with a socket ─→ every loop has the new snapshot ─→ accept ─→ close what is not wanted any more
extension Node {
    /// A socket that listens, for a listener of the configuration.
    struct NamedListener: Sendable {
        /// As configured, without its position.
        let configuration: NodeConfiguration.Listener
        let address: SocketAddress
        let listener: LoopBound<Listener>
        /// Of a `dns` listener.
        var datagrams: LoopBound<DatagramSocket>?

        var name: String { configuration.name }

        /// On its loop.
        func close() {
            listener.withValue { $0.close() }
            datagrams?.withValue { $0.close() }
        }

        /// On its loop: who is connected already, for the kernel, is served.
        func finish() {
            listener.withValue { $0.finish() }
            datagrams?.withValue { $0.close() }
        }
    }

    /// Listeners that are bound, and do not accept yet.
    struct PreparedListeners: Sendable {
        /// All that are to listen, in the order of the configuration.
        var all: [NamedListener]
        /// Those of them that do not accept yet.
        var opening: [NamedListener] = []
        /// Their sockets go on with others.
        var replaced: [NamedListener] = []
        var removed: [NamedListener] = []
        /// Those that listen where they did not before.
        var ready: [ReadyListener] = []

        /// Where they really listen, by name: port 0 has become a real one, which the loop guard must know.
        var addresses: [String: NodeConfiguration.BindAddress] {
            let pairs = all.compactMap { listener in
                listener.address.address.map {
                    (listener.name, NodeConfiguration.BindAddress(address: $0, port: listener.address.port))
                }
            }
            return Dictionary(pairs, uniquingKeysWith: { first, _ in first })
        }
    }

    /// Binds what is not bound yet; nothing is accepted there before ``open(_:)``.
    ///
    /// - Parameters:
    ///   - configuration: Whose listeners are wanted.
    ///   - current: What listens now, and goes on as before.
    ///   - inherited: Sockets that listen already. Each goes to the listener that it fits.
    ///   - workers: Whom connections are given to.
    /// - Throws: ``Streams/StreamError`` for the listener that cannot be had; nothing has changed then.
    func prepare(
        _ configuration: NodeConfiguration,
        beside current: [NamedListener],
        adopting inherited: InheritedSockets = InheritedSockets(),
        _ workers: [LoopBound<Worker>]
    ) async throws -> PreparedListeners {
        let wanted = configuration.sockets.map(\.withoutPosition)
        let multipath = configuration.connections.multipath
        let changes = ListenerChanges(from: current.map { ($0.configuration, $0.address) }, to: wanted)
        var prepared = PreparedListeners(all: [])
        prepared.removed = changes.removed.map { current[$0] }
        do {
            for (listener, source) in zip(wanted, changes.sources) {
                let old: NamedListener?
                switch source {
                case .kept(let index):
                    prepared.all.append(current[index])
                    continue
                case .handedOver(let index): old = current[index]
                case .bound: old = nil
                }
                let socket = old == nil ? inherited.take(name: listener.name, bind: listener.bind.socketAddress) : nil
                let bound = try await bind(listener, on: socket, insteadOf: old, besides: current, multipath, workers)
                prepared.opening.append(bound)
                prepared.all.append(bound)
                if let old { prepared.replaced.append(old) }
                if old?.name != bound.name { prepared.ready.append(.init(name: bound.name, address: bound.address)) }
            }
        } catch {
            await close(prepared.opening)
            throw error
        }
        return prepared
    }

    private func bind(
        _ listener: NodeConfiguration.Listener,
        on inherited: ListeningSocket?,
        insteadOf old: NamedListener?,
        besides current: [NamedListener],
        _ multipath: Bool,
        _ workers: [LoopBound<Worker>]
    ) async throws -> NamedListener {
        let (first, loops) = (group.loops[0], group.loops)
        let address = listener.bind.socketAddress
        var options = listener.socketOptions
        options.multipath = multipath && listener.protocol == .hbone
        return try await first.execute { [options, shortage] in
            do {
                let socket =
                    if let inherited {
                        inherited
                    } else if let old {
                        try old.listener.withValue { try $0.duplicate(named: old.name) }
                    } else {
                        try ListeningSocket(
                            bind: address,
                            named: listener.name,
                            options: options,
                            replacing: current.map { $0.listener.withValue(\.self) }
                        )
                    }
                let bound = try Listener(
                    adopting: socket,
                    on: first,
                    options: options,
                    spreadOver: loops,
                    isPaused: true
                ) { socket in
                    workers.first { $0.loop === socket.loop }?.withValue { $0.accept(socket, by: listener) }
                }
                bound.shortage = shortage
                var named = NamedListener(
                    configuration: listener,
                    address: bound.localAddress,
                    listener: LoopBound(bound, on: first)
                )
                guard listener.protocol == .dns else { return named }
                // Questions to a name server come as datagrams, too, all to the first loop.
                do {
                    let datagrams = try workers[0].withValue {
                        try $0.answerDatagrams(at: bound.localAddress, for: listener)
                    }
                    named.datagrams = LoopBound(datagrams, on: first)
                } catch {
                    bound.close()
                    throw error
                }
                return named
            } catch let error as StreamError {
                throw StreamError(error.code, "listener '\(listener.name)': \(error.message)")
            }
        }
    }

    /// Accepts where ``prepare(_:beside:adopting:_:)`` has bound, and closes what listens for nobody any more; accepted
    /// connections go on.
    func open(_ prepared: PreparedListeners) async throws {
        try await group.loops[0].execute {
            for listener in prepared.opening {
                listener.listener.withValue { $0.startAccepting(listener.configuration.socketOptions) }
            }
            for listener in prepared.replaced { listener.close() }
            for listener in prepared.removed { listener.finish() }
        }
    }

    func close(_ listeners: [NamedListener]) async {
        for listener in listeners {
            try? await listener.listener.loop.execute { listener.close() }
        }
    }
}
