package import MeshIdentity
import SSHSignal

/// On which terms devices get certificates: what the command line says, carried whole to where it is decided.
package struct IssuanceTerms: Hashable, Sendable {
    /// How long certificates are valid; nil: as long as the device's was before, or the default.
    package var lifetime: Duration?
    /// DNS names for clients that know no SPIFFE IDs.
    package var dnsNames: [String]
    /// IP addresses, for the same clients.
    package var ipAddresses: [String]
    /// A certificate is given out even where the clocks are further apart than a quarter of its lifetime: `--skew-ok`.
    package var acceptsSkew: Bool
    /// The device's SSH host key has to sign the certificate request: `--attest host-key`.
    package var attests: Bool

    package init(
        lifetime: Duration? = nil,
        dnsNames: [String] = [],
        ipAddresses: [String] = [],
        acceptsSkew: Bool = false,
        attests: Bool = false
    ) {
        self.lifetime = lifetime
        self.dnsNames = dnsNames
        self.ipAddresses = ipAddresses
        self.acceptsSkew = acceptsSkew
        self.attests = attests
    }

    /// The same for a device that has a certificate already: what they leave open is as it was. A renewal is not
    /// attested.
    package func renewing(_ device: Device) -> IssuanceTerms {
        var terms = self
        terms.lifetime = lifetime ?? device.lifetime.map { .seconds($0) }
        terms.attests = false
        return terms
    }

    /// What the issuer is asked for.
    package var options: IssuanceOptions {
        IssuanceOptions(
            lifetime: lifetime ?? IssuanceOptions.defaultLifetime,
            dnsNames: dnsNames,
            ipAddresses: ipAddresses
        )
    }

    /// In seconds.
    var span: Int64 { options.lifetime.components.seconds }
}
