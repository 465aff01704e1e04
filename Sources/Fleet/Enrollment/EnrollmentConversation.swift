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
    let limits: ConversationLimits
    /// Whoever runs it watches the channel already, from before the conversation on.
    private let isWatched: Bool

    /// - Parameters:
    ///   - channel: To the device.
    ///   - name: How the device is called in errors.
    ///   - certification: What becomes of a certificate request; nil where none is expected. Whether it may go on is
    ///     asked before each message that is sent, and again and again while it waits: the channel is cut where not.
    ///   - clock: Milliseconds since 1970.
    ///   - limits: What the device may take.
    ///   - isWatched: The caller looks itself whether it may go on.
    ///   - warn: For the user.
    package init(
        channel: any RemoteChannel,
        name: String,
        certification: Certification?,
        clock: WallClock,
        limits: ConversationLimits = .certifying,
        isWatched: Bool = false,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.limits = limits
        self.isWatched = isWatched
        self.channel = channel
        self.name = name
        self.certification = certification
        self.clock = clock
        self.warn = warn
    }

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

    /// Changes what others may reach; nothing else of the device changes.
    ///
    /// - Throws: ``SignalError``; ``SignalError/Code/version`` where its agent cannot.
    func change(_ access: SignalMessage.Access) async throws -> SignalMessage.Acknowledgement {
        guard case .changedAccess(let ack) = try await converse(.access(access)) else {
            throw SignalError(.unexpected, "\(name): it did not say what others may reach")
        }
        return ack
    }

    private enum Outcome {
        case certified(Certified)
        case changedAccess(SignalMessage.Acknowledgement)
        case delivered(changed: Bool)
    }

    private func converse(_ purpose: EnrollmentOperator.Purpose) async throws -> Outcome {
        try await channel.watched(for: isWatched ? nil : certification) {
            try await exchange(purpose)
        }
    }

    private func exchange(_ purpose: EnrollmentOperator.Purpose) async throws -> Outcome {
        let terms = certification?.terms ?? IssuanceTerms()
        let validity = EnrollmentOperator.Validity(lifetime: terms.span, acceptsSkew: terms.acceptsSkew)
        var machine = EnrollmentOperator(purpose, validity: validity, software: AgentRelease.software)
        var inbox = SignalInbox(limits)
        let start = ContinuousClock.now
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
                        let time = limits.sendingTime(at: ContinuousClock.now - start, bytes: frame.count)
                        inbox.willSend(frame.count)
                        try await channel.withDeadline(time, name) { try await channel.write(frame) }
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
                case .changedAccess(let ack): outcome = .success(.changedAccess(ack))
                case .failed(let error):
                    outcome = .failure(await explained(error))
                    if certificate != nil { note(error) }
                case .close:
                    try? await channel.withDeadline(limits.finish, name) { await channel.finish() }
                    channel.close()
                    guard let outcome else { throw SignalError(.truncated, "\(name): the conversation had no outcome") }
                    return try outcome.get()
                }
            }
            if let next {
                event = next
            } else {
                event = await receive(&inbox, since: start)
                if let objection = certification?.objection { event = .invalid(objection) }
            }
        }
    }

    /// What the device says of a certificate that it was sent.
    private func note(_ error: SignalError) {
        guard error.isFromPeer else { return }
        // Of all that can go wrong there, only its node comes after the credential was stored.
        let delivery = certification?.delivery(
            error.code == .node ? .stored : .refused(Printable.clean(error.message, limit: 200))
        )
        if let delivery { warn("what became of its certificate is not recorded: \(delivery.message)") }
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

    private func receive(
        _ inbox: inout SignalInbox,
        since start: ContinuousClock.Instant
    ) async -> EnrollmentOperator.Event {
        switch await inbox.receive(from: channel, since: start, name) {
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
