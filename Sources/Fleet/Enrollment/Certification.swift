package import MeshIdentity
import Platform
import SSHSignal

/// The step between a device's certificate request and its certificate: the host key signs the request where that is
/// asked for, the issuer signs the certificate, and what comes of it is verified, by the clock of the device as well.
package struct Certification: Sendable {
    /// Has the device's host key sign a request. Throws why there is no signature that proves anything.
    package typealias Attest = @Sendable (CertificateRequest) async throws -> HostKeyAttestation

    /// What the device is called, in errors.
    let name: String
    /// What the certificate says, whatever the request asks for.
    let id: SPIFFEID
    let issuer: any CertificateIssuer
    let terms: IssuanceTerms
    /// nil: no attestation is asked for.
    let attest: Attest?

    package init(
        name: String,
        id: SPIFFEID,
        issuer: any CertificateIssuer,
        terms: IssuanceTerms = IssuanceTerms(),
        attest: Attest? = nil
    ) {
        self.name = name
        self.id = id
        self.issuer = issuer
        self.terms = terms
        self.attest = attest
    }

    /// Why the conversation that asks for a certificate must not go on; nil where it may.
    var objection: SignalError? { (issuer as? RecordingIssuer)?.objection() }

    /// Writes down what became of the certificate, where it was not acknowledged.
    ///
    /// - Returns: Why that could not be done.
    func delivery(_ outcome: RecordingIssuer.Unacknowledged) -> LedgerError? {
        (issuer as? RecordingIssuer)?.delivery(outcome)
    }

    package struct Outcome: Sendable {
        package var issued: IssuedCertificate
        /// nil: none was asked for.
        package var attestation: HostKeyAttestation?
    }

    /// - Parameters:
    ///   - request: The device's, not verified yet.
    ///   - skew: Of the device's clock.
    ///   - clock: This machine's, milliseconds since 1970.
    func callAsFunction(
        _ request: CertificateRequest,
        _ skew: ClockSkew,
        clock: WallClock
    ) async throws(IdentityError) -> Outcome {
        if let reservation = id.reservation { throw IdentityError(.refused, "\(name): \(reservation)") }
        var attestation: HostKeyAttestation?
        if let attest {
            do {
                attestation = try await attest(request)
            } catch {
                // Nothing has been signed: a device that cannot prove it gets no certificate.
                throw IdentityError(.refused, "--attest: \(HostError(error, name: name).message)")
            }
        }
        let issued = try await issuer.issue(request, id: id, options: terms.options.covering(skew))
        try issued.verify(for: request, id: id, skew: skew, now: clock.milliseconds)
        attestation?.serial = issued.leaf?.serialNumber
        return Outcome(issued: issued, attestation: attestation)
    }
}
