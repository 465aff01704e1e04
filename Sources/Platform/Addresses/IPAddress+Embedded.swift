extension IPAddress {
    /// The IPv4 addresses that an IPv6 address may lead to, because a translator or a tunnel on the way reads them out
    /// of it. Empty for IPv4, and for most of IPv6.
    ///
    /// | form | prefix | defined in |
    /// |---|---|---|
    /// | NAT64 | `64:ff9b::/96`, `64:ff9b:1::/48` | RFC 6052, RFC 8215 |
    /// | 6to4 | `2002::/16` | RFC 3056 |
    /// | Teredo: server, and client | `2001::/32` | RFC 4380 |
    /// | ISATAP | any, then `:0:5efe:` or `:200:5efe:` | RFC 5214 |
    /// | IPv4-compatible | `::/96` | RFC 4291 §2.5.5.1 |
    /// | IPv4-translated | `::ffff:0:0:0/96` | RFC 2765 |
    ///
    /// IPv4-mapped addresses are IPv4 addresses from the start. Within `64:ff9b:1::/48` the operator of the translator
    /// chooses where the IPv4 address stands: there it is each of the four places. A translator's own prefix cannot be
    /// told from other addresses.
    package var embeddedIPv4: [IPAddress] {
        guard !isIPv4 else { return [] }
        func address(_ value: UInt64) -> IPAddress { IPAddress(high: 0, low: value & 0xffff_ffff, isIPv4: true) }
        // ISATAP's interface identifier stands behind any prefix, 6to4's as well.
        let isISATAP = low >> 32 & ~0x0200_0000 == 0x5efe
        let inside = isISATAP ? [address(low)] : []
        switch high {
        case 0 where low >> 32 == 0 && low > 1: return [address(low)]
        case 0 where low >> 32 == 0xffff_0000: return [address(low)]
        case 0x0064_ff9b_0000_0000 where low >> 32 == 0: return [address(low)]
        case _ where high >> 16 == 0x0064_ff9b_0001:
            // RFC 6052 §2.2, for prefixes of 48, 56, 64 and 96 bits; byte 8 is never part of it. Where it is not, there
            // are zeros, which are no address.
            let places = [
                (high & 0xffff) << 16 | low >> 40 & 0xffff, (high & 0xff) << 24 | low >> 32 & 0xff_ffff, low >> 24, low,
            ]
            return places.map(address).filter { !$0.isUnspecified } + inside
        case _ where high >> 48 == 0x2002: return [address(high >> 16)] + inside
        case _ where high >> 32 == 0x2001_0000: return [address(high), address(~low)]
        default: return inside
        }
    }
}
