package import MeshIdentity
import MeshPolicy
package import Platform
package import SSHSignal

/// What this side knows of its own about ways to a peer through gateways that the peer names.
///
/// A gateway is asked for the peer by a name that follows from the peer's identity, and never for one that the peer
/// has said: the gateway would carry this side's request wherever the peer likes.
package struct GatewayTerms: Hashable, Sendable {
    /// Who the peer is.
    package let peer: SPIFFEID
    /// What gateways call its HBONE server: `NAME.NAMESPACE` of `/ns/NAMESPACE/sa/NAME`, and the server's port.
    package let home: Authority

    /// nil: gateways have no name for such an identity.
    package init?(of peer: SPIFFEID, port: UInt16) {
        guard let namespace = peer.namespace, let name = peer.serviceAccount,
            let home = try? Authority(host: "\(name).\(namespace)", port: port), home.address == nil
        else { return nil }
        self.peer = peer
        self.home = home
    }

    /// Who a gateway must be; of one that the peer has not said who it is, a member of its namespace.
    ///
    /// - Throws: ``AddressError`` with why no connection to it is made.
    func expectation(of gateway: PeerOffer.Gateway) throws(AddressError) -> PeerExpectation {
        guard let text = gateway.id else {
            guard let namespace = peer.namespace else { throw AddressError("it does not say who the gateway is") }
            return .namespace(namespace, in: peer.trustDomain)
        }
        guard let id = try? SPIFFEID(text) else { throw AddressError("its identity is no SPIFFE ID") }
        guard id.trustDomain == peer.trustDomain else {
            throw AddressError("it is of another trust domain, \(id.trustDomain)")
        }
        guard id != peer else { throw AddressError("it has the identity of the peer itself") }
        return .identities([id])
    }

    /// A way through each of `gateways`, each one once, by this side's own word: nothing guards their addresses, and
    /// whoever proves to be somebody else there, or behind it, is refused on every path.
    ///
    /// - Throws: ``AddressError`` that names the gateway through which there is none.
    package func ways(through gateways: [PeerOffer.Gateway]) throws(AddressError) -> [PathWay] {
        var ways: [PathWay] = []
        for gateway in gateways {
            let path = OfferedGateways.path(through: gateway.address)
            guard !ways.contains(where: { $0.id == path }) else { continue }
            do throws(AddressError) {
                let found = Gateway(gateway.address, expecting: try expectation(of: gateway))
                ways.append(PathWay(path, .gateway(found, to: home)))
            } catch {
                throw AddressError("\(gateway.address): \(error.message)")
            }
        }
        return ways
    }

    /// A way through each gateway that the peer has named before: of these, the ones that would be dialled.
    ///
    /// - Parameter hbone: The recorded addresses of the peer.
    package func ways(recorded: [PeerOffer.Gateway], of hbone: [Authority]) -> [PathWay] {
        var addresses = PeerAddresses(hbone)
        addresses.own = PeerPaths.ownAddresses
        var offered = OfferedGateways()
        _ = offered.take(recorded, on: self) { addresses.objection(to: $0) }
        return offered.entries.map { PathWay($0.path, .gateway($0.gateway, to: home)) }
    }
}

/// The gateways through which a peer says that it is reached: which of them are tried, and why others are not. A value
/// without I/O.
///
/// What a peer names is dialled by this side: the rules for addresses are those of ``PeerAddresses``. Each gateway is a
/// path of its own, behind those that lead to the peer directly. It must prove to be who it was said to be, and the
/// peer must prove its identity behind it; where either does not, the path is none, which says nothing of the peer.
struct OfferedGateways {
    struct Entry: Hashable {
        let gateway: Gateway
        /// As the peer has said it.
        let told: PeerOffer.Gateway
        /// The peer has proven through it who it is, once at least.
        var isProven = false
        /// Why it did not lead to the peer, last.
        var failure: String?

        var path: PathID { OfferedGateways.path(through: gateway.address) }
    }

    static func path(through address: Authority) -> PathID { PathID(.h2ViaGateway, address.description) }

    private(set) var entries: [Entry] = []
    /// Named by the peer, and not dialled; with why not.
    private(set) var declined: [(address: Authority, reason: String)] = []
    /// Where somebody else has answered.
    private(set) var strangers = StrangerAddresses()

    /// The most that are paths at once: each is tried before SSH, and takes its head start.
    static let most = 4

    func entry(of path: PathID) -> Entry? { entries.first { $0.path == path } }

    /// The peer has named these, and no others.
    ///
    /// - Parameter objection: Why nothing is dialled at an address, or nil.
    /// - Returns: Those that are new, and those that are not named any more.
    mutating func take(
        _ told: [PeerOffer.Gateway],
        on terms: GatewayTerms,
        objection: (Authority) -> String?
    ) -> (new: [Entry], gone: [Entry]) {
        let before = entries
        entries = []
        declined = []
        for gateway in told where !entries.contains(where: { $0.gateway.address == gateway.address }) {
            do throws(AddressError) {
                if strangers.contains(gateway.address) { throw AddressError("the peer was not reached there") }
                if let reason = objection(gateway.address) { throw AddressError(reason) }
                let found = Gateway(gateway.address, expecting: try terms.expectation(of: gateway))
                guard entries.count < Self.most else { throw AddressError("\(Self.most) gateways are enough") }
                entries.append(before.first { $0.gateway == found } ?? Entry(gateway: found, told: gateway))
            } catch {
                declined.append((gateway.address, error.message))
            }
        }
        return (
            entries.filter { entry in !before.contains { $0.gateway == entry.gateway } },
            before.filter { entry in !entries.contains { $0.gateway == entry.gateway } }
        )
    }

    mutating func answered(_ path: PathID) {
        change(path) { ($0.isProven, $0.failure) = (true, nil) }
    }

    mutating func failed(_ path: PathID, _ reason: String) { change(path) { $0.failure = reason } }

    /// Somebody else has answered, at the gateway's address or behind it. Where the peer has never been reached through
    /// it, it is left aside from now on.
    mutating func wasAnother(_ path: PathID, _ reason: String) {
        guard let index = entries.firstIndex(where: { $0.path == path }) else { return }
        guard !entries[index].isProven else {
            entries[index].failure = reason
            return
        }
        let address = entries.remove(at: index).gateway.address
        declined.append((address, reason))
        strangers.insert(address)
    }

    private mutating func change(_ path: PathID, _ body: (inout Entry) -> Void) {
        for index in entries.indices where entries[index].path == path { body(&entries[index]) }
    }
}
