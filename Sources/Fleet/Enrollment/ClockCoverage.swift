import MeshIdentity
import Platform
import SSHSignal

extension IssuanceOptions {
    /// For a device with such a clock: NotBefore so far back that the certificate is valid there at once.
    func covering(_ skew: ClockSkew) -> IssuanceOptions {
        var options = self
        options.backdating = max(backdating, .seconds(skew.backdating))
        return options
    }
}

extension IssuedCertificate {
    /// Checks it as its issuer's peers do, and as the device will, by whose clock a CA certificate of the chain may not
    /// be valid yet.
    ///
    /// - Parameters:
    ///   - request: What the leaf must have been made for.
    ///   - id: What the leaf must say.
    ///   - skew: Of the device's clock.
    ///   - now: The operator's clock, milliseconds since 1970.
    func verify(for request: CertificateRequest, id: SPIFFEID, skew: ClockSkew, now: Int64) throws(IdentityError) {
        try verify(for: request, id: id)
        let there = now.addingSaturating(skew.milliseconds)
        if let leaf, let refusal = skew.refusal(notBefore: leaf.notBefore, notAfter: leaf.notAfter, device: there) {
            throw IdentityError(.refused, refusal.message)
        }
        // What holds here and not there, is a matter of dates.
        do throws(IdentityError) {
            try verify(for: request, id: id, at: there / 1000)
        } catch {
            throw IdentityError(
                .refused,
                "\(skew), and by it \(error.message): set the device's clock, then enroll again"
            )
        }
    }
}

extension DeviceFacts {
    /// How far the machine's clock is from the operator's.
    ///
    /// - Parameters:
    ///   - asked: The operator's clock before the probe was sent, milliseconds since 1970.
    ///   - answered: The same when its answer was there.
    func skew(asked: Int64, answered: Int64) -> ClockSkew {
        ClockSkew(deviceSeconds: clock, asked: asked, answered: answered)
    }
}

extension ClockSkew {
    /// - Parameters:
    ///   - terms: Of the certificate that is wanted.
    ///   - name: What the device is called in the error.
    /// - Throws: when no certificate is to be made for a device with such a clock.
    func check(_ terms: IssuanceTerms, name: String) throws(SignalError) {
        guard let refusal = refusal(lifetime: terms.span, isAccepted: terms.acceptsSkew) else { return }
        throw SignalError(.clock, "\(name): \(refusal.message)")
    }
}
