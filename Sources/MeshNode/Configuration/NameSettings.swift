package import Platform
package import Streams
import YAML

extension NodeConfiguration {
    /// `names:` of a `dns` listener.
    package struct NameSettings: Hashable, Sendable {
        /// Who is asked for what is not of the mesh; empty: the name servers of resolv.conf(5).
        package var upstreams: [SocketAddress] = []
        /// The addresses that names of the mesh get.
        package var blocks = VirtualBlocks.standard
        /// How long an answer holds, in seconds.
        package var lifetime: UInt32 = 5

        package init() {}
    }
}

/// Where the addresses lie that stand for names of the mesh.
package struct VirtualBlocks: Hashable, Sendable {
    package var ipv4: CIDR
    package var ipv6: CIDR

    package init(ipv4: CIDR, ipv6: CIDR) {
        self.ipv4 = ipv4
        self.ipv6 = ipv6
    }

    /// RFC 2544's, which no network on the way has, and one of RFC 4193.
    package static let standard = VirtualBlocks(
        ipv4: CIDR(containing: IPAddress(high: 0, low: 0xC612_0000, isIPv4: true), length: 15),
        ipv6: CIDR(containing: IPAddress(high: 0xFD6D_6573_6800_0000, low: 0, isIPv4: false), length: 64)
    )

    /// How many addresses are used of either block, of which names get a quarter, so that a free one is found soon. The
    /// first and the last address of a block are left out, and no block is so large that its names fill the memory.
    var places: UInt64 { (UInt64(1) << UInt64(min(32 - ipv4.prefixLength, 128 - ipv6.prefixLength, 18))) - 2 }
}

struct NameSettingsDecoder {
    let diagnostics: Diagnostics

    func decode(_ node: YAMLNode) -> NodeConfiguration.NameSettings {
        var settings = NodeConfiguration.NameSettings()
        let keys = ["upstreams", "ipv4", "ipv6", "ttl"]
        guard let mapping = MappingDecoder(node, what: "'names'", keys: keys, diagnostics) else { return settings }
        settings.upstreams =
            mapping["upstreams"]?.list("'upstreams'", diagnostics) {
                $0.parsed("'upstreams'", diagnostics, Self.upstream)
            } ?? []
        for (key, path, isIPv4, lengths) in [
            ("ipv4", \VirtualBlocks.ipv4, true, 8...24),
            ("ipv6", \VirtualBlocks.ipv6, false, 8...104),
        ] {
            let block = mapping.value(key) { text in
                let block = try CIDR(parsing: text)
                guard block.network.isIPv4 == isIPv4, lengths.contains(block.prefixLength) else {
                    throw StreamError(
                        .badRequest,
                        "\(block) is not a block of \(isIPv4 ? "IPv4" : "IPv6") with a prefix length from "
                            + "\(lengths.lowerBound) to \(lengths.upperBound)"
                    )
                }
                return block
            }
            if let block { settings.blocks[keyPath: path] = block }
        }
        let lifetime = mapping.value("ttl") { text -> UInt32 in
            guard let seconds = UInt32(text), text == "\(seconds)", (1...3600).contains(seconds) else {
                throw StreamError(.badRequest, "'\(text.prefix(80))' is not a number of seconds from 1 to 3600")
            }
            return seconds
        }
        settings.lifetime = lifetime ?? settings.lifetime
        return settings
    }

    /// `192.0.2.53` or `192.0.2.53:5353`.
    private static func upstream(_ text: String) throws -> SocketAddress {
        if let address = IPAddress(text) { return SocketAddress(address, port: 53) }
        let bind = try NodeConfiguration.BindAddress(parsing: text)
        guard bind.port != 0, !bind.address.isUnspecified else {
            throw StreamError(
                .badRequest,
                "'\(text.prefix(80))' is not where a name server listens: write 192.0.2.53:53"
            )
        }
        return bind.socketAddress
    }
}
