package import H2Transport
import MeshIdentity
package import Platform

/// A proxy or a load balancer of the web that leads to a peer, and is trusted with nothing: how it is reached, how it
/// is verified, and what it is shown. TLS with the peer runs inside of the streams that it carries.
package struct ProxyAccess: Sendable {
    /// Where it listens; any will do.
    package var addresses: [Authority]
    /// Whose certificate it must show.
    package var name: String
    /// CONNECT, or POST.
    package var method: ConnectRequest.Method
    /// Who may vouch for its certificate, which is of the web's and never of the mesh's.
    package var context: TLSContext
    /// Where the tokens come from that it asks for; nil: it asks for none.
    package var token: ProxyTokenSource?

    package init(
        addresses: [Authority],
        name: String,
        method: ConnectRequest.Method,
        context: TLSContext,
        token: ProxyTokenSource?
    ) {
        self.addresses = addresses
        self.name = name
        self.method = method
        self.context = context
        self.token = token
    }

    /// What its requests have as `:authority`. CONNECT wants a port (RFC 9113 §8.5), whichever that is.
    var authority: String {
        let host = name.utf8.contains(UInt8(ascii: ":")) ? "[\(name)]" : name
        return method == .post ? host : "\(host):\(addresses.first?.port ?? 443)"
    }

    /// Whom tokens must be for.
    package var audience: String { "https://\(name)" }
}

/// What the ClientHello inside of a stream through a proxy names (SNI): the destination, so that whoever is on the way
/// and writes another one into `x-tun` is found out. The handshake fails where the name itself was changed.
package enum InnerName {
    /// RFC 6066 §3.
    private static let limit = 255

    /// In the form that Istio's gateways read: `outbound_.80_._.web.prod`; an address with dashes, since a server may
    /// refuse one that has the form of an address. nil: it has no room.
    package static func of(_ destination: Authority) -> String? {
        var host = destination.host
        if destination.address != nil {
            host = String(host.map { $0 == "." || $0 == ":" ? "-" : $0 })
        }
        let name = "outbound_.\(destination.port)_._.\(host)"
        return name.utf8.count <= limit ? name : nil
    }

    /// Why a stream for `destination` whose client has named `name` must not go on; nil if it may. Clients that name
    /// nothing, or something else, are of other implementations.
    package static func contradiction(_ name: String?, _ destination: Authority) -> String? {
        guard let name, name.hasPrefix("outbound_."), let expected = of(destination), name != expected else {
            return nil
        }
        return
            "x-tun says \(destination), and the client has asked for '\(Printable.escape(name))' inside: somebody on the "
            + "way has changed the destination"
    }
}
