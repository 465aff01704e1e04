import Platform

/// Addresses that a peer has named, and where somebody else has answered. Only the last of them are known: a peer may
/// name others for as long as it lives. One that is forgotten may be dialled once more, as any that the peer names for
/// the first time.
struct StrangerAddresses {
    /// Eight offers of nothing else.
    static let most = 128

    private var known: Set<Authority> = []
    /// The oldest first.
    private var order: [Authority] = []

    var count: Int { known.count }

    func contains(_ address: Authority) -> Bool { known.contains(address) }

    mutating func insert(_ address: Authority) {
        guard known.insert(address).inserted else { return }
        order.append(address)
        guard order.count > Self.most else { return }
        known.remove(order.removeFirst())
    }
}
