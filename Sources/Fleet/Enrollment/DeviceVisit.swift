import MeshIdentity
package import Platform
package import SSHSignal
package import Streams

/// A visit to an enrolled device over SSH: to renew its certificate, to tell it what was revoked, or to change what
/// others may reach. Its agent is there already.
///
/// SSH needs no mesh certificate: a device whose certificate has expired is visited like any other.
package struct DeviceVisit: Sendable {
    private let record: Device
    private let warn: @Sendable (String) -> Void
    /// Milliseconds since 1970.
    private let clock: WallClock
    /// Told which revocation lists the device has, before anything is sent to it. Called from any task.
    package var learn: (@Sendable ([UInt8]) -> Void)?

    /// - Parameter record: The device that is visited.
    /// - Parameter clock: This machine's clock, milliseconds since 1970.
    /// - Parameter warn: For the user; called from any task.
    package init(
        _ record: Device,
        clock: WallClock = .system,
        warn: @escaping @Sendable (String) -> Void
    ) {
        self.record = record
        self.clock = clock
        self.warn = warn
    }

    /// Has the device make a new key, and `issuer` sign a certificate of the identity it was enrolled with.
    ///
    /// - Parameters:
    ///   - login: How to reach it.
    ///   - issuer: Whoever signs; its claim on the device has to hold to the end.
    ///   - terms: Of the certificate.
    ///   - loop: Where the SSH session lives.
    /// - Returns: The record, as it is now.
    package func renew(
        _ login: SSHLogin,
        issuer: RecordingIssuer,
        terms: IssuanceTerms,
        on loop: EventLoop
    ) async throws(HostError) -> Device {
        let certification = Certification(name: record.name, id: record.identity, issuer: issuer, terms: terms)
        let outcome = try await converse(login, certification, limits: .certifying, on: loop) { conversation in
            try await conversation.run(.renew(id: record.identity.description))
        }
        var renewed = record
        renewed.notAfter = outcome.certificate.notAfter
        renewed.renewedAt = clock.seconds
        renewed.hbone = try Device.addresses(outcome.ack, name: record.name)
        renewed.lifetime = terms.span
        if let allowed = outcome.ack.allowed { renewed.allowed = allowed }
        renewed.serial =
            try? Certificate.all(pem: Array(outcome.certificate.chain.utf8)).first?.serialNumber
        renewed.roots = try? Certificate.all(pem: Array(outcome.certificate.roots.utf8)).map(\.fingerprint)
        for warning in (outcome.ack.warnings ?? []).prefix(8) {
            warn("\(record.name): \(Printable.clean(warning, limit: 600))")
        }
        return renewed
    }

    /// Changes what members of the device's namespace may reach. Its certificate stays, and nothing is uploaded.
    ///
    /// - Parameters:
    ///   - allow: Ports, and `host:port` of what is reached through it.
    ///   - deny: The same that they may reach no more.
    ///   - login: How to reach it.
    ///   - loop: Where the SSH session lives.
    /// - Returns: What the device has become, and what others could reach before, as far as it is known; nil where its
    ///   agent is too old to change just that.
    package func change(
        allow: [String],
        deny: [String],
        _ login: SSHLogin,
        on loop: EventLoop
    ) async throws(HostError) -> (device: Device, before: [String]?)? {
        let order = SignalMessage.Access(id: record.identity.description, allow: allow, deny: deny)
        // Nothing is signed; but a node is started.
        let ack = try await converse(login, nil, limits: .certifying, on: loop) {
            (conversation) -> SignalMessage.Acknowledgement? in
            do {
                return try await conversation.change(order)
            } catch let error as SignalError where error.code == .version {
                return nil
            }
        }
        guard let ack else { return nil }
        for warning in (ack.warnings ?? []).prefix(8) {
            warn("\(record.name): \(Printable.clean(warning, limit: 600))")
        }
        var changed = record
        changed.hbone = try Device.addresses(ack, name: record.name)
        (changed.allowed, changed.renewFrom) = (ack.allowed, ack.renewFrom)
        changed.gateways = ack.gateways ?? record.gateways
        // The record may be behind; an older agent says at least where nothing was changed.
        let isIdle = ack.unchanged.contains("configuration")
        return (changed, ack.allowedBefore ?? (isIdle ? ack.allowed : record.allowed))
    }

    /// Gives the device the lists of what was revoked. It cuts what it has with those at once.
    ///
    /// - Parameter lists: In PEM form; asked for once ``learn`` was told what the device has.
    /// - Parameter login: How to reach it.
    /// - Parameter loop: Where the SSH session lives.
    /// - Returns: whether they were new to it.
    package func deliver(
        revocationLists lists: @Sendable () -> [UInt8],
        _ login: SSHLogin,
        on loop: EventLoop
    ) async throws(HostError) -> Bool {
        // Nothing is signed.
        try await converse(login, nil, limits: .brief, on: loop) { conversation in
            try await conversation.deliver(revocationLists: lists())
        }
    }

    private func converse<Outcome: Sendable>(
        _ login: SSHLogin,
        _ certification: Certification?,
        limits: ConversationLimits,
        on loop: EventLoop,
        _ body: (EnrollmentConversation) async throws -> Outcome
    ) async throws(HostError) -> Outcome {
        try await login.visit(record.name, on: loop) { client in
            if case .refused(let error) = EnrollmentAdmission().decide(
                record,
                destination: record.destination,
                hostKey: .init(client.hostKey)
            ) {
                throw error
            }
            let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
            defer { channel.close() }
            let shell = RemoteShell(channel, name: record.name)
            // Skips what the account's rc files print, and finds an agent that is gone before it is called. The one in
            // use is called, which another operator may have made a newer one: an older one would put itself in its
            // place.
            let inUse = ShellScript.quote(AtomicFile.split(record.agent.state).directory + "/current/bootstrap")
            let recorded = ShellScript.quote(record.agent.path)
            let found = try await shell.run(
                "if [ -x \(inUse) ]; then echo agent=current; elif [ -x \(recorded) ]; then echo agent=recorded; fi",
                step: "agent"
            )
            guard let which = found.values["agent"] else {
                throw HostError(
                    .failed,
                    "\(record.name): there is no agent at \(record.agent.path) any more; enroll the device again"
                )
            }
            let agent = which == "current" ? inUse : recorded
            let identity = "\(record.agent.state)/identity"
            let tell: @Sendable (String) -> Void = { [warn, name = record.name] in warn("\(name): \($0)") }
            if let learn, let lists = try await shell.revocationLists(in: identity, warn: tell) { learn(lists) }
            try await shell.replace(
                by: "\(agent) signal --state \(ShellScript.quote(record.agent.state))",
                after: ":"
            )
            let conversation = EnrollmentConversation(
                channel: channel,
                name: record.name,
                certification: certification,
                clock: clock,
                limits: limits,
                warn: tell
            )
            return try await body(conversation)
        }
    }
}
