package import MeshIdentity
package import Platform
package import SSHSignal

/// The device's side of a renewal without a login: over a stream that has shown the device's certificate.
///
/// Of the orders that the protocol has, it obeys `renew` and `revocations` only: whoever issues certificates over the
/// mesh does not say who this machine is, nor what its node does.
package struct CredentialRenewal: Sendable {
    private let directory: CredentialDirectory
    private let id: SPIFFEID
    private let listener: String
    private let clock: WallClock
    private let limits: ConversationLimits

    /// - Parameters:
    ///   - directory: The credential that is renewed.
    ///   - id: Its identity.
    ///   - listener: What the node's HBONE listener is bound to: numeric `address:port`.
    ///   - clock: Milliseconds since 1970.
    ///   - limits: What the issuer may take.
    package init(
        directory: CredentialDirectory,
        id: SPIFFEID,
        listener: String,
        clock: WallClock = .system,
        limits: ConversationLimits = .ofDevice
    ) {
        self.directory = directory
        self.id = id
        self.listener = listener
        self.clock = clock
        self.limits = limits
    }

    /// - Returns: The new credential, which is in place.
    /// - Throws: ``SignalError``; the credential is then what it was before, or already the new one.
    package func run(over channel: any RemoteChannel) async throws -> Credential {
        let device = RenewedDevice(directory: directory, id: id, listener: listener)
        var conversation = DeviceConversation(with: device, clock: clock)
        var inbox = SignalInbox(limits)
        let start = ContinuousClock.now
        while true {
            switch conversation.next() {
            case .send(let message): await send(message, channel, since: start)
            case .receive:
                let reception = await inbox.receive(from: channel, since: start, "the issuer")
                conversation.received(reception)
            case .close(let error):
                // Closed where that takes too long; else the end of the stream is its owner's.
                try? await channel.withDeadline(limits.finish, "the issuer") { await channel.finish() }
                if let renewed = conversation.device.renewed { return renewed }
                throw error ?? SignalError(.refused, "the issuer ended the conversation without a certificate")
            }
        }
    }

    private func send(
        _ message: SignalMessage,
        _ channel: any RemoteChannel,
        since start: ContinuousClock.Instant
    ) async {
        // An issuer that is gone shows itself at the next read.
        guard let frame = try? SignalFrame.encode(message) else { return }
        let time = limits.sendingTime(at: ContinuousClock.now - start, bytes: frame.count)
        try? await channel.withDeadline(time, "the issuer") {
            try await channel.write(frame)
        }
    }
}

/// What the issuer acts on.
private struct RenewedDevice: SignaledDevice {
    let directory: CredentialDirectory
    let id: SPIFFEID
    let listener: String
    private var pending: PendingCredential?
    private(set) var renewed: Credential?

    init(directory: CredentialDirectory, id: SPIFFEID, listener: String) {
        self.directory = directory
        self.id = id
        self.listener = listener
    }

    mutating func changeAccess(_ order: SignalMessage.Access) throws(SignalError) -> SignalMessage.Acknowledgement {
        throw SignalError(
            .refused,
            "over the mesh a certificate is renewed; what others may reach, only a login may say"
        )
    }

    mutating func prepareKey(_ order: EnrollmentDevice.Order) throws(SignalError) -> SignalMessage.SigningRequest {
        guard case .renew = order else {
            throw SignalError(
                .refused,
                "over the mesh a certificate is renewed; who this device is, only a login may say"
            )
        }
        let prepared = try named { () throws(IdentityError) in try directory.prepare(id: id) }
        pending = prepared
        return .init(id: id.description, csr: String(decoding: prepared.request.pem, as: UTF8.self))
    }

    mutating func discardKey() { pending = nil }

    mutating func install(
        _ certificate: SignalMessage.IssuedCertificate,
        for order: EnrollmentDevice.Order
    ) throws(SignalError) -> SignalMessage.Acknowledgement {
        guard let pending else { throw SignalError(.credential, "there is no key for this certificate") }
        self.pending = nil
        let lists = certificate.revocations.map { Array($0.utf8) }
        let remark = lists.flatMap { directory.remark(on: $0) }
        renewed = try named { () throws(IdentityError) in
            let roots = try Certificate.all(pem: Array(certificate.roots.utf8))
            let vouchers = try certificate.vouchers.map { text throws(IdentityError) in
                try Certificate.all(pem: Array(text.utf8))
            }
            // Only the CA's own word brings a new root: whoever renews certificates over the mesh does not have its
            // key.
            try directory.check(successors: roots, vouchers: vouchers ?? [], in: id.trustDomain)
            return try pending.commit(
                chain: Certificate.all(pem: Array(certificate.chain.utf8)),
                roots: roots,
                revocationLists: lists
            )
        }
        return .init(
            id: id.description,
            listener: listener,
            hbone: [],
            node: "running",
            unchanged: ["configuration", "node"],
            warnings: remark.map { [$0] }
        )
    }

    func takeRevocations(_ lists: String) throws(SignalError) -> Bool {
        try named { () throws(IdentityError) in try directory.write(revocationLists: Array(lists.utf8)) }
    }

    func endpoints() -> SignalMessage.Endpoints { .init(hbone: []) }

    /// Whoever renews certificates need not know how this device is reached.
    func offer(for offer: SignalMessage.Offer) -> SignalMessage.Offer { .init(id: id.description) }

    func note(_ outcome: SignalMessage.Outcome) {}

    private func named<Result>(_ body: () throws(IdentityError) -> Result) throws(SignalError) -> Result {
        do throws(IdentityError) {
            return try body()
        } catch {
            throw SignalError(.credential, error.message)
        }
    }
}
