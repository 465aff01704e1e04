import MeshIdentity
package import Platform
package import SSHSignal

/// Drives ``EnrollmentOperator`` over a channel: frames in and out, the certificate, the time limits.
package struct EnrollmentConversation: Sendable {
    let channel: any RemoteChannel
    /// How the device is called in errors.
    let name: String
    /// What becomes of a certificate request; nil where none is expected.
    let certification: Certification?
    /// Milliseconds since 1970.
    let clock: WallClock
    let warn: @Sendable (String) -> Void

    package init(
        channel: any RemoteChannel,
        name: String,
        certification: Certification?,
        clock: WallClock,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.channel = channel
        self.name = name
        self.certification = certification
        self.clock = clock
        self.warn = warn
    }

    /// The device answers at once but for one step, the start of its node: with limits of its own for the service, the new node, and
    /// the old one where the new one does not come up.
    private static let patience = Duration.seconds(120)

    /// What an enrolment or a renewal comes to.
    package struct Certified: Sendable {
        package var ack: SignalMessage.Acknowledgement
        package var certificate: SignalMessage.IssuedCertificate
        /// nil: none was asked for.
        package var attestation: HostKeyAttestation?
    }

    /// An enrolment or a renewal.
    ///
    /// - Throws: ``SSHSignal/SignalError``.
    package func certify(_ purpose: EnrollmentOperator.Purpose) async throws -> Certified {
        guard case .certified(let outcome) = try await converse(purpose) else {
            throw SignalError(.unexpected, "\(name): no certificate was asked for")
        }
        return outcome
    }

    /// The same where no attestation is asked for.
    package func run(
        _ purpose: EnrollmentOperator.Purpose
    ) async throws -> (ack: SignalMessage.Acknowledgement, certificate: SignalMessage.IssuedCertificate) {
        let outcome = try await certify(purpose)
        return (outcome.ack, outcome.certificate)
    }

    /// Tells the device what was revoked. Returns whether that was new to it.
    ///
    /// - Throws: ``SignalError``.
    func deliver(revocationLists lists: [UInt8]) async throws -> Bool {
        guard case .delivered(let changed) = try await converse(.revoke(lists: String(decoding: lists, as: UTF8.self)))
        else { throw SignalError(.unexpected, "\(name): it did not say whether it took the revocation lists") }
        return changed
    }

    private enum Outcome {
        case certified(Certified)
        case delivered(changed: Bool)
    }

    private func converse(_ purpose: EnrollmentOperator.Purpose) async throws -> Outcome {
        let terms = certification?.terms ?? IssuanceTerms()
        let validity = EnrollmentOperator.Validity(lifetime: terms.span, acceptsSkew: terms.acceptsSkew)
        var machine = EnrollmentOperator(purpose, validity: validity, software: AgentRelease.software)
        var decoder = SignalFrameDecoder()
        var certificate: SignalMessage.IssuedCertificate?
        var attestation: HostKeyAttestation?
        var outcome: Result<Outcome, SignalError>?
        var event = EnrollmentOperator.Event.started
        while true {
            var next: EnrollmentOperator.Event?
            for action in machine.handle(event, now: clock.milliseconds) {
                switch action {
                case .send(let message):
                    do {
                        let frame = try SignalFrame.encode(message)
                        try await channel.withDeadline(Self.patience, name) { try await channel.write(frame) }
                    } catch {
                        // Why the device is gone stands in what it said last, which is still to be read.
                    }
                case .issue(let csr, let skew):
                    do throws(IdentityError) {
                        let issued: SignalMessage.IssuedCertificate
                        (issued, attestation) = try await issue(csr, skew)
                        certificate = issued
                        next = .issued(issued)
                    } catch {
                        next = .issueFailed(error.message)
                    }
                case .warn(let text): warn(text)
                case .succeeded(let ack):
                    outcome =
                        certificate.map {
                            .success(.certified(.init(ack: ack, certificate: $0, attestation: attestation)))
                        }
                        ?? .failure(SignalError(.unexpected, "\(name): no certificate was asked for"))
                case .delivered(let changed): outcome = .success(.delivered(changed: changed))
                case .failed(let error): outcome = .failure(await explained(error))
                case .close:
                    await channel.finish()
                    channel.close()
                    guard let outcome else { throw SignalError(.truncated, "\(name): the conversation had no outcome") }
                    return try outcome.get()
                }
            }
            event = if let next { next } else { await receive(&decoder) }
        }
    }

    private func issue(
        _ csr: String,
        _ skew: ClockSkew
    ) async throws(IdentityError) -> (SignalMessage.IssuedCertificate, HostKeyAttestation?) {
        guard let certification else { throw IdentityError(.refused, "no certificate is given out here") }
        let request = try CertificateRequest(pem: Array(csr.utf8))
        let outcome = try await certification(request, skew, clock: clock)
        guard let leaf = outcome.issued.leaf else {
            throw IdentityError(.invalidCertificate, "the issuer sent no certificate")
        }
        let certificate = SignalMessage.IssuedCertificate(
            chain: String(decoding: outcome.issued.chain.flatMap(\.pem), as: UTF8.self),
            roots: String(decoding: outcome.issued.roots.flatMap(\.pem), as: UTF8.self),
            notBefore: leaf.notBefore,
            notAfter: leaf.notAfter,
            revocations: outcome.issued.revocationLists.map { String(decoding: $0, as: UTF8.self) },
            vouchers: outcome.issued.vouchers.isEmpty
                ? nil : String(decoding: outcome.issued.vouchers.flatMap(\.pem), as: UTF8.self)
        )
        return (certificate, outcome.attestation)
    }

    private func receive(_ decoder: inout SignalFrameDecoder) async -> EnrollmentOperator.Event {
        switch await decoder.receive(from: channel, within: Self.patience, name) {
        case .message(let message): .message(message)
        case .invalid(let error): .invalid(error)
        case .timedOut(let patience): .timedOut(patience)
        case .ended(let error): .ended(error)
        }
    }

    /// With what the agent wrote to its standard error, unless the device told the reason itself.
    private func explained(_ error: SignalError) async -> SignalError {
        var error = error
        let log = error.isFromPeer ? "" : Printable.clean(await channel.standardErrorText(), limit: 600)
        error.message = "\(name): \(error.message)\(log.isEmpty ? "" : " (the agent said: \(log))")"
        return error
    }
}
