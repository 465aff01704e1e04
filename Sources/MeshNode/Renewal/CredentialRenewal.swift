package import MeshIdentity
package import SSHSignal

/// The device's side of a renewal without a login: over a stream that has shown the device's certificate.
///
/// Of the orders that the protocol has, it obeys `renew` and `revocations` only: whoever issues certificates over the mesh does not say
/// who this machine is, nor what its node does.
package struct CredentialRenewal: Sendable {
    private let directory: CredentialDirectory
    private let id: SPIFFEID
    private let listener: String
    private let clock: @Sendable () -> Int64

    /// How long the issuer may say nothing.
    private static let patience = Duration.seconds(60)

    /// - Parameters:
    ///   - directory: The credential that is renewed.
    ///   - id: Its identity.
    ///   - listener: What the node's HBONE listener is bound to: numeric `address:port`.
    ///   - clock: Milliseconds since 1970.
    package init(
        directory: CredentialDirectory,
        id: SPIFFEID,
        listener: String,
        clock: @escaping @Sendable () -> Int64 = SystemClock.milliseconds
    ) {
        self.directory = directory
        self.id = id
        self.listener = listener
        self.clock = clock
    }

    /// - Returns: The new credential, which is in place.
    /// - Throws: ``SignalError``; the credential is then what it was before, or already the new one.
    package func run(over channel: any RemoteChannel) async throws -> Credential {
        var machine = EnrollmentDevice(software: AgentRelease.software)
        var decoder = SignalFrameDecoder()
        var pending: PendingCredential?
        var renewed: Credential?
        var events: [EnrollmentDevice.Event] = [.started]
        while true {
            let event = events.isEmpty ? await receive(&decoder, channel) : events.removeFirst()
            for action in machine.handle(event, now: clock()) {
                do throws(SignalError) {
                    switch action {
                    case .send(let message): await send(message, channel)
                    case .prepareKey(let order):
                        let prepared = try prepare(order)
                        pending = prepared
                        let csr = String(decoding: prepared.request.pem, as: UTF8.self)
                        events.append(.prepared(.init(id: id.description, csr: csr)))
                    case .discardKey: pending = nil
                    case .install(let certificate, _):
                        guard let key = pending else {
                            throw SignalError(.credential, "there is no key for this certificate")
                        }
                        pending = nil
                        renewed = try commit(certificate, key)
                        events.append(.installed(acknowledgement))
                    case .takeRevocations(let lists):
                        events.append(.tookRevocations(changed: try take(lists)))
                    case .reportEndpoints: events.append(.endpoints(.init(hbone: [])))
                    case .close(let error):
                        await channel.finish()
                        if let renewed { return renewed }
                        throw error ?? SignalError(.refused, "the issuer ended the conversation without a certificate")
                    }
                } catch {
                    if case .close = action { throw error }
                    events.append(.failed(error))
                }
            }
        }
    }

    private var acknowledgement: SignalMessage.Acknowledgement {
        .init(
            id: id.description,
            listener: listener,
            hbone: [],
            node: "running",
            unchanged: ["configuration", "node"]
        )
    }

    private func prepare(_ order: EnrollmentDevice.Order) throws(SignalError) -> PendingCredential {
        guard case .renew = order else {
            throw SignalError(
                .refused,
                "over the mesh a certificate is renewed; who this device is, only a login may say"
            )
        }
        return try named { () throws(IdentityError) in try directory.prepare(id: id) }
    }

    private func commit(
        _ certificate: SignalMessage.IssuedCertificate,
        _ pending: PendingCredential
    ) throws(SignalError) -> Credential {
        try named { () throws(IdentityError) in
            try pending.commit(
                chain: Certificate.all(pem: Array(certificate.chain.utf8)),
                roots: Certificate.all(pem: Array(certificate.roots.utf8)),
                revocationLists: certificate.revocations.map { Array($0.utf8) }
            )
        }
    }

    private func take(_ lists: String) throws(SignalError) -> Bool {
        try named { () throws(IdentityError) in try directory.write(revocationLists: Array(lists.utf8)) }
    }

    private func named<Result>(_ body: () throws(IdentityError) -> Result) throws(SignalError) -> Result {
        do throws(IdentityError) {
            return try body()
        } catch {
            throw SignalError(.credential, error.message)
        }
    }

    private func send(_ message: SignalMessage, _ channel: any RemoteChannel) async {
        // An issuer that is gone shows itself at the next read.
        guard let frame = try? SignalFrame.encode(message) else { return }
        try? await channel.withDeadline(Self.patience, "the issuer") { try await channel.write(frame) }
    }

    private func receive(
        _ decoder: inout SignalFrameDecoder,
        _ channel: any RemoteChannel
    ) async -> EnrollmentDevice.Event {
        switch await decoder.receive(from: channel, within: Self.patience, "the issuer") {
        case .message(let message): .message(message)
        case .invalid(let error): .invalid(error)
        case .timedOut(let patience): .timedOut(patience)
        case .ended(let error): .ended(error)
        }
    }
}
