import Platform
import YAML

/// The keys `via` and `viaIdentity` of an endpoint, and what contradicts them.
struct GatewayCheck {
    let diagnostics: Diagnostics

    /// More would be a tunnel in a tunnel in a tunnel: each one encrypts all bytes again.
    private static let mostGateways = 8

    func check(_ endpoint: NodeConfiguration.Endpoint, _ mapping: MappingDecoder) {
        let report = { (key: String, message: String) in
            diagnostics.report("endpoint '\(endpoint.match)': \(message)", at: mapping.position(of: key))
        }
        let via = endpoint.via
        if mapping["viaIdentity"] != nil, mapping["via"] == nil {
            report("viaIdentity", "'viaIdentity' is who the gateways of 'via' are, and there are none: remove it")
        }
        if via.count > Self.mostGateways {
            report("via", "'via' has \(via.count) gateways; \(Self.mostGateways) are allowed")
        }
        for (index, gateway) in via.enumerated() where via[..<index].contains(gateway) {
            report("via", "'via': \(gateway) is there twice, and the way would be a loop: remove one")
        }
        let identities = endpoint.viaIdentities.count
        if via.count > 1, identities > 1, identities != via.count {
            report(
                "viaIdentity",
                "'via' has \(via.count) gateways and 'viaIdentity' \(identities) identities: write one that all of them "
                    + "have, or one for each, in the order of 'via'"
            )
        }
    }
}
