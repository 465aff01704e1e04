import Platform
import Streams

/// What another list of listeners means for the sockets that listen already. A listener is known by its name. Pure.
struct ListenerChanges: Hashable {
    /// Where the socket of a listener comes from.
    enum Source: Hashable {
        /// It stays as it is: the listener has not changed.
        case kept(Int)
        /// The address stays, and what is done there changes: the socket goes on with its queue.
        case handedOver(Int)
        case bound
    }

    /// For each listener that is wanted; the numbers are those of the current ones.
    private(set) var sources: [Source] = []
    /// Current ones that listen for nobody any more.
    private(set) var removed: [Int] = []

    /// - Parameters:
    ///   - current: What listens now: as configured, and the address that it really has.
    ///   - wanted: Without their positions.
    init(
        from current: [(listener: NodeConfiguration.Listener, address: SocketAddress)],
        to wanted: [NodeConfiguration.Listener]
    ) {
        var free = Set(current.indices)
        var sources = wanted.map { listener -> Source? in
            // The same name with the same `bind` keeps a port that the kernel has chosen.
            let index = current.indices.first { index in
                let other = current[index].listener
                return free.contains(index) && other.name == listener.name && other.bind == listener.bind
                    && Self.canShare(other, listener)
            }
            guard let index else { return nil }
            free.remove(index)
            return current[index].listener == listener ? .kept(index) : .handedOver(index)
        }
        for (place, listener) in wanted.enumerated() where sources[place] == nil {
            let index = current.indices.first { index in
                free.contains(index) && listener.bind.port != 0
                    && current[index].address == listener.bind.socketAddress
                    && Self.canShare(current[index].listener, listener)
            }
            if let index { free.remove(index) }
            sources[place] = index.map { .handedOver($0) } ?? .bound
        }
        self.sources = sources.map { $0 ?? .bound }
        removed = free.sorted()
    }

    var isNothing: Bool {
        removed.isEmpty && sources.allSatisfy { if case .kept = $0 { true } else { false } }
    }

    /// Whether an IPv6 socket leaves IPv4 alone is settled when it is bound.
    private static func canShare(_ one: NodeConfiguration.Listener, _ other: NodeConfiguration.Listener) -> Bool {
        one.bind.address.isIPv4 || one.socketOptions.isIPv6Only == other.socketOptions.isIPv6Only
    }
}

extension NodeConfiguration.Listener {
    /// Where it stands in the file does not make it another listener, nor does what each loop looks up when it is
    /// needed.
    var withoutPosition: NodeConfiguration.Listener {
        var listener = self
        listener.position = nil
        listener.ingress = NodeConfiguration.Ingress()
        listener.capture?.position = nil
        return listener
    }
}
