package import MeshIdentity
import Platform
package import SSHSignal

/// Drives ``EnrollmentOperator`` over a channel: frames in and out, the issuer, the time limits.
package struct EnrollmentConversation: Sendable {
    let channel: any RemoteChannel
    /// How the device is called in errors.
    let name: String
    let id: SPIFFEID
    let issuer: any CertificateIssuer
    let issuance: IssuanceOptions
    /// Clocks may be further apart than a quarter of the certificate's lifetime.
    let acceptsSkew: Bool
    /// Milliseconds since 1970.
    let clock: @Sendable () -> Int64
    let warn: @Sendable (String) -> Void

    package init(
        channel: any RemoteChannel,
        name: String,
        id: SPIFFEID,
        issuer: any CertificateIssuer,
        issuance: IssuanceOptions,
        acceptsSkew: Bool = false,
        clock: @escaping @Sendable () -> Int64,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.channel = channel
        self.name = name
        self.id = id
        self.issuer = issuer
        self.issuance = issuance
        self.acceptsSkew = acceptsSkew
        self.clock = clock
        self.warn = warn
    }

    /// The device answers at once but for one step, the start of its node: with limits of its own for the service, the new node, and
    /// the old one where the new one does not come up.
    private static let patience = Duration.seconds(120)

    /// An enrolment or a renewal.
    ///
    /// - Throws: ``SignalError``.
    package func run(
        _ purpose: EnrollmentOperator.Purpose
    ) async throws -> (ack: SignalMessage.Acknowledgement, certificate: SignalMessage.IssuedCertificate) {
        guard case .certified(let ack, let certificate) = try await converse(purpose) else {
            throw SignalError(.unexpected, "\(name): no certificate was asked for")
        }
        return (ack, certificate)
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
        case certified(SignalMessage.Acknowledgement, SignalMessage.IssuedCertificate)
        case delivered(changed: Bool)
    }

    private func converse(_ purpose: EnrollmentOperator.Purpose) async throws -> Outcome {
        let validity = EnrollmentOperator.Validity(
            lifetime: issuance.lifetime.components.seconds,
            acceptsSkew: acceptsSkew
        )
        var machine = EnrollmentOperator(purpose, validity: validity, software: AgentRelease.software)
        var decoder = SignalFrameDecoder()
        var certificate: SignalMessage.IssuedCertificate?
        var outcome: Result<Outcome, SignalError>?
        var event = EnrollmentOperator.Event.started
        while true {
            var next: EnrollmentOperator.Event?
            for action in machine.handle(event, now: clock()) {
                switch action {
                case .send(let message):
                    do {
                        let frame = try SignalFrame.encode(message)
                        try await channel.withDeadline(Self.patience, name) { try await channel.write(frame) }
                    } catch {
                        // Why the device is gone stands in what it said last, which is still to be read.
                    }
                case .issue(let csr, let skew):
                    next = await issue(csr, skew)
                    if case .issued(let issued) = next { certificate = issued }
                case .warn(let text): warn(text)
                case .succeeded(let ack):
                    outcome =
                        certificate.map { .success(.certified(ack, $0)) }
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

    private func issue(_ csr: String, _ skew: ClockSkew) async -> EnrollmentOperator.Event {
        do throws(IdentityError) {
            let request = try CertificateRequest(pem: Array(csr.utf8))
            let issued = try await issuer.issue(request, id: id, options: issuance.covering(skew))
            try issued.verify(for: request, id: id, skew: skew, now: clock())
            guard let leaf = issued.leaf else {
                throw IdentityError(.invalidCertificate, "the issuer sent no certificate")
            }
            return .issued(
                .init(
                    chain: String(decoding: issued.chain.flatMap(\.pem), as: UTF8.self),
                    roots: String(decoding: issued.roots.flatMap(\.pem), as: UTF8.self),
                    notBefore: leaf.notBefore,
                    notAfter: leaf.notAfter,
                    revocations: issued.revocationLists.map { String(decoding: $0, as: UTF8.self) }
                )
            )
        } catch {
            return .issueFailed(error.message)
        }
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
