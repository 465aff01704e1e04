import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import Platform
import Streams

/// The connections that one event loop of a node holds to gateways, as its configuration says. Confined to its loop.
final class GatewayConnections {
    /// What makes another connection necessary when it changes.
    private struct Key: Hashable {
        let gateway: Authority
        let expectation: PeerExpectation
    }

    private let loop: EventLoop
    private let place: (number: Int, count: Int)
    private let server: HBONEServer
    private let logger: Logger
    private var dialers: [Key: GatewayDialer] = [:]
    private var chain: [Certificate] = []
    private var isStopped = false

    /// - Parameters:
    ///   - loop: Where it lives.
    ///   - place: Of the loop, among those of the node.
    ///   - server: Serves what the gateways' peers ask for.
    ///   - logger: Told what becomes of the connections.
    init(on loop: EventLoop, place: (number: Int, count: Int), server: HBONEServer, logger: Logger) {
        self.loop = loop
        self.place = place
        self.server = server
        self.logger = logger
    }

    /// What holds from now on. A gateway that was named before is not dialled again for that, unless the certificate
    /// is another one.
    func use(_ snapshot: NodeSnapshot) {
        guard !isStopped else { return }
        let isRenewed = chain != snapshot.credential.chain
        chain = snapshot.credential.chain
        let settings = snapshot.configuration.connections
        var wanted: Set<Key> = []
        for element in snapshot.configuration.reverse {
            let key = Key(
                gateway: element.gateway,
                expectation: element.expectation(own: snapshot.credential.id)
            )
            guard let context = snapshot.reverse, isHere(element.gateway) else { continue }
            wanted.insert(key)
            if let dialer = dialers[key] {
                dialer.use(context, settings, isRenewed: isRenewed)
                continue
            }
            let dialer = GatewayDialer(
                to: key.gateway,
                expecting: key.expectation,
                context: context,
                settings: settings,
                on: loop,
                logger: logger
            ) { [weak server] in server?.serve(dialled: $0, $1) }
            dialers[key] = dialer
            dialer.start()
        }
        for (key, dialer) in dialers where !wanted.contains(key) {
            dialer.leave()
            dialers[key] = nil
        }
    }

    /// Addresses or routes of this machine have changed.
    func networkChanged(_ change: NetworkChange) {
        for dialer in dialers.values { dialer.networkChanged(change) }
    }

    /// One loop has the connection to a gateway, and another one perhaps that to the next: the same also after a
    /// reload that has changed their order.
    private func isHere(_ gateway: Authority) -> Bool {
        let sum = gateway.description.utf8.reduce(0) { ($0 &* 31 &+ Int($1)) & 0xFFFF_FFFF }
        return sum % max(1, place.count) == place.number
    }

    var reports: [GatewayDialer.Report] { dialers.values.map(\.report).sorted { $0.gateway < $1.gateway } }

    /// Dials no more; what is held is drained by the server.
    func stop() {
        isStopped = true
        for dialer in dialers.values { dialer.stop() }
    }
}
