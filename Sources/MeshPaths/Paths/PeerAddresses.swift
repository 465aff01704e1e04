import MeshPolicy
import Platform
import Streams

/// The addresses of a peer's HBONE server: those that this side has on record, and those that the peer has named; what
/// became of each. A value without I/O.
///
/// What a peer names is dialled by this side, from where this side stands: a peer that names others' addresses would
/// have this side knock at them. So only those are taken that can be the peer's, nothing is sent but a TLS handshake
/// that expects the peer's identity, and the peer does not learn what answered otherwise.
struct PeerAddresses {
    struct Entry: Hashable {
        let address: Authority
        /// By the peer's word only.
        let isTold: Bool
        /// TCP's handshake.
        var connectTime: Duration?
        /// TCP's and TLS's, with the first answer over HTTP/2.
        var handshake: Duration?
        /// The peer has proven there who it is, once at least.
        var isProven = false
        /// Why it did not answer, last.
        var failure: String?

        init(_ address: Authority, isTold: Bool) {
            self.address = address
            self.isTold = isTold
        }
    }

    private(set) var entries: [Entry]
    /// Named by the peer, and not dialled; with why not.
    private(set) var declined: [(address: Authority, reason: String)] = []
    private let recorded: [Authority]
    /// Where somebody else has answered.
    private(set) var strangers = StrangerAddresses()
    /// Of this machine.
    var own: [IPAddress] = []

    /// The most that are dialled of what a peer has named.
    static let mostTold = 16

    init(_ recorded: [Authority]) {
        self.recorded = recorded
        entries = recorded.map { Entry($0, isTold: false) }
    }

    /// In the order in which they are dialled: one that has answered comes first, one that has failed last. What takes
    /// a connection and says nothing would else be in the way of the others for ever.
    var dialled: [Authority] {
        func rank(_ entry: Entry) -> Int { entry.handshake != nil ? 0 : entry.failure == nil ? 1 : 2 }
        return (0...2).flatMap { place in entries.filter { rank($0) == place }.map(\.address) }
    }

    var told: [Entry] { entries.filter(\.isTold) }

    /// The peer has named these, and no others.
    ///
    /// - Parameter own: The addresses of this machine.
    /// - Returns: Those that were not known before.
    mutating func take(_ told: [Authority], own: [IPAddress]) -> [Authority] {
        self.own = own
        let before = entries
        entries = before.filter { !$0.isTold }
        declined = []
        for address in told where !entries.contains(where: { $0.address == address }) {
            if strangers.contains(address) {
                declined.append((address, "another machine answers there"))
            } else if let reason = objection(to: address) {
                declined.append((address, reason))
            } else if self.told.count < Self.mostTold {
                entries.append(before.first { $0.address == address } ?? Entry(address, isTold: true))
            }
        }
        return entries.map(\.address).filter { address in !before.contains { $0.address == address } }
    }

    /// Why nothing is dialled there, or nil. A name is looked up later, and each of its addresses is asked about then.
    func objection(to authority: Authority) -> String? {
        guard let address = authority.address else {
            let name = authority.host
            let isLocal = name == "localhost" || name.hasSuffix(".localhost") || name.hasSuffix(".local")
            return isLocal || !name.contains(".") ? "it means another machine in each place" : nil
        }
        return objection(to: address)
    }

    /// The same for an address that is about to be dialled, by that authority's name.
    func objection(to address: IPAddress, of authority: Authority) -> StreamError? {
        guard !recorded.contains(authority), let reason = objection(to: address) else { return nil }
        return StreamError(.denied, "\(authority) is not dialled by a peer's word: \(address): \(reason)")
    }

    private func objection(to address: IPAddress) -> String? {
        let known = recorded.compactMap(\.address)
        if known.contains(address) { return nil }
        if let problem = AddressGuard.impossible(address) ?? AddressGuard.restricted(address) { return problem }
        let isThisMachine = known.contains(where: { $0.isLoopback || own.contains($0) })
        for spelled in [address] + address.embeddedIPv4 {
            if spelled.isLoopback { return isThisMachine ? nil : "it is this machine" }
            if own.contains(spelled) { return isThisMachine ? nil : "it is this machine" }
            guard let block = AddressGuard.internalBlock(of: spelled) else { continue }
            guard (known + own).contains(where: block.contains) else {
                return "of a private network (\(block)) that this machine is not in"
            }
        }
        return nil
    }

    // MARK: What became of them

    mutating func connected(_ address: Authority, after time: Duration) { change(address) { $0.connectTime = time } }

    mutating func failed(_ address: Authority, _ reason: String) {
        change(address) { entry in
            entry.failure = reason
            (entry.connectTime, entry.handshake) = (nil, nil)
        }
    }

    /// Somebody else has answered there. By the peer's word only, that is no reason to take the peer for another: in
    /// this side's network the address is another machine's. It is not dialled again.
    ///
    /// - Returns: Whether it was by the peer's word only.
    mutating func wasAnother(_ address: Authority) -> Bool {
        guard
            let index = entries.firstIndex(where: { $0.address == address && $0.isTold && !$0.isProven })
        else { return false }
        entries.remove(at: index)
        declined.append((address, "another machine answers there"))
        strangers.insert(address)
        return true
    }

    /// The peer has proven there who it is.
    mutating func answered(_ address: Authority, after time: Duration) {
        change(address) { entry in
            entry.handshake = time
            entry.isProven = true
            entry.failure = nil
        }
    }

    private mutating func change(_ address: Authority, _ body: (inout Entry) -> Void) {
        for index in entries.indices where entries[index].address == address { body(&entries[index]) }
    }
}
