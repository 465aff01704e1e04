import Platform

/// What an element of the configuration has in so many words, and not by a pattern: that may be dialled although it
/// would be refused to who is only told of it.
struct NamedHost: Hashable, Sendable {
    private var address: IPAddress?
    private var matched: IPAddress?
    /// It is a name of this machine.
    private(set) var isThisMachine = false
    /// The name, or the address, that is asked for is there as it is.
    private(set) var isExact = false

    init(isThisMachine: Bool = false) { self.isThisMachine = isThisMachine }

    init(_ authority: Authority, ownNames: Set<String>) {
        address = authority.address
        isThisMachine = ownNames.contains(authority.host)
        isExact = true
    }

    init(_ endpoint: Endpoint, ownNames: Set<String>) {
        if let target = endpoint.address { self.init(target, ownNames: ownNames) } else { self.init() }
        guard case .exact(let host) = endpoint.match.host else { return }
        matched = IPAddress(host)
        isThisMachine = isThisMachine || endpoint.address == nil && ownNames.contains(host)
        isExact = true
    }

    func has(_ address: IPAddress) -> Bool { address == self.address || address == matched }
}
