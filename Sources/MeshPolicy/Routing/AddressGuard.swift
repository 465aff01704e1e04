package import Platform

/// Which addresses a node must not be talked into dialling, in whatever spelling they come.
///
/// A translator's or a tunnel's spelling of an address (``Platform/IPAddress/embeddedIPv4``) is that address. Loopback
/// in it is the translator's own.
package enum AddressGuard {
    /// Why nothing can be reached there, whoever asks for it.
    package static func impossible(_ address: IPAddress) -> String? {
        problem(address, impossible(plain:)) { impossible(plain: $0) }
    }

    /// Why nobody should be led there, unless the configuration names the very address: what listens there takes who
    /// reaches it for a part of the machine, or of its network.
    package static func restricted(_ address: IPAddress) -> String? {
        problem(address, restricted(plain:)) { $0.isLoopback ? "loopback" : restricted(plain: $0) }
    }

    /// Whether it is an address of a network that the internet does not lead to.
    static func isInternal(_ address: IPAddress) -> Bool {
        func isInternal(plain address: IPAddress) -> Bool {
            address.isLoopback || address.isUnspecified || restricted(plain: address) != nil
                || internalBlocks.contains { $0.contains(address) }
        }
        return isInternal(plain: address) || address.embeddedIPv4.contains(where: isInternal(plain:))
    }

    /// The block that `address` is in, of those that mean another network in each place; nil: it is in none.
    package static func internalBlock(of address: IPAddress) -> CIDR? {
        internalBlocks.first { $0.contains(address) }
    }

    private static func problem(
        _ address: IPAddress,
        _ plain: (IPAddress) -> String?,
        inside: (IPAddress) -> String?
    ) -> String? {
        if let problem = plain(address) { return problem }
        for inner in address.embeddedIPv4 {
            if let problem = inside(inner) { return "another spelling of \(inner), \(problem)" }
        }
        return nil
    }

    private static func impossible(plain address: IPAddress) -> String? {
        if address.isUnspecified { return "the unspecified address" }
        if address.isMulticast || address.isBroadcast { return "a group of machines" }
        return nil
    }

    /// Loopback is for ``Router`` to judge, which knows what of this machine may be reached.
    private static func restricted(plain address: IPAddress) -> String? {
        if address.isLinkLocal { return "link-local" }
        if metadataServices.contains(address) { return "a metadata service" }
        return nil
    }

    /// What hands out a machine's secrets to whoever asks from there. 169.254.169.254 is link-local.
    private static let metadataServices: Set<IPAddress> = Set(
        [
            // AWS and Google over IPv6, Alibaba, Oracle, Azure.
            "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16",
        ].compactMap { IPAddress($0) }
    )

    /// RFC 6890's blocks that are not global, those aside that are never a destination.
    private static let internalBlocks: [CIDR] = [
        "10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "fc00::/7", "fec0::/10",
    ].compactMap { try? CIDR(parsing: $0) }
}
