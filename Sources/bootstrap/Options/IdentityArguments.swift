import ArgumentParser
import MeshIdentity

/// An identity on the command line: `ns/NAMESPACE/sa/NAME`, or the whole SPIFFE ID.
struct IdentityArgument: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The identity: ns/NAMESPACE/sa/NAME in the CA's trust domain, or a whole SPIFFE ID.",
            valueName: "ns/NS/sa/NAME"
        )
    )
    var id: String

    @Flag(
        help: ArgumentHelp(
            "Let the identity be a reserved one: the namespace bootstrap, the name operator. Who has it is obeyed by devices, or let in as "
                + "the operator."
        )
    )
    var reserved = false

    func spiffeID(in trustDomain: TrustDomain) throws -> SPIFFEID {
        let found: SPIFFEID
        do throws(SPIFFEIDError) {
            found = try SPIFFEID(id.contains("://") ? id : "spiffe://\(trustDomain)/\(id)")
        } catch {
            throw fail("--id \(id): \(error.message). Example: --id ns/prod/sa/db", .usage)
        }
        if !reserved, let reservation = found.reservation {
            throw fail("--id \(id): \(reservation); choose another one, or say --reserved", .usage)
        }
        guard found.namespace != nil, found.serviceAccount != nil else {
            throw fail(
                "--id \(id): nothing else in the mesh has such an identity; write ns/NAMESPACE/sa/NAME, such as ns/prod/sa/db",
                .usage
            )
        }
        return found
    }

    /// `options` for this identity.
    func options(_ options: IssuanceOptions) -> IssuanceOptions {
        var options = options
        options.allowsReservedIdentity = reserved
        return options
    }
}

/// What a certificate has besides its identity.
struct IssuanceArguments: ParsableArguments {
    @Option(help: ArgumentHelp("A DNS name, for clients that know no SPIFFE IDs. May be repeated.", valueName: "NAME"))
    var dns: [String] = []

    @Option(help: ArgumentHelp("An IP address, for the same clients. May be repeated.", valueName: "ADDRESS"))
    var ip: [String] = []

    @Option(
        help: ArgumentHelp(
            "How long it is valid: 90m, 24h, 7d. (default: 24h; for `enroll` as before)",
            valueName: "TIME"
        )
    )
    var ttl: DurationArgument?

    var options: IssuanceOptions {
        IssuanceOptions(
            lifetime: ttl?.duration ?? IssuanceOptions.defaultLifetime,
            dnsNames: dns,
            ipAddresses: ip
        )
    }
}
