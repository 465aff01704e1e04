package import H2Transport
package import Logging
package import MeshIdentity
import MeshPaths
import Platform
package import SSHSignal
import Streams

/// Renews certificates of devices that ask for it over the mesh: what `ca serve` does.
///
/// A device shows the certificate it has; what is signed is the identity in that, for a new key of the device's, and
/// nothing else. Who is not in the ledger, or revoked there, is refused before it can say anything, and so is a
/// certificate that is not due, or that its device has replaced since (``CertificateLine``).
package struct RenewalService: Sendable {
    private let issuer: any CertificateIssuer
    private let records: DeviceDirectory
    private let terms: IssuanceTerms
    private let logger: Logger
    private let limits: ConversationLimits
    private let open = OpenRenewals()
    private let refusals = Lock(RefusalLog())

    private static let command = "ca serve"

    /// - Parameters:
    ///   - issuer: Who signs.
    ///   - records: Who is enrolled.
    ///   - terms: Of the certificates.
    ///   - logger: What happens.
    ///   - limits: What a device may take of our time.
    package init(
        issuer: any CertificateIssuer,
        records: DeviceDirectory,
        terms: IssuanceTerms,
        logger: Logger,
        limits: ConversationLimits = .brief
    ) {
        self.issuer = issuer
        self.records = records
        self.terms = terms
        self.logger = logger
        self.limits = limits
    }

    package func serve(on listener: HBONEListener) async {
        await listener.serve { request in
            admission(of: request)
        } handler: { stream in
            do {
                try await renew(stream)
            } catch {
                logger.warning("not renewed", metadata: ["peer": "\(stream.peer)", "reason": "\(error)"])
                throw error
            }
        }
    }

    private func admission(of request: HBONERequest) -> HBONEAdmission {
        guard request.destination.description == IssuerName.authority else {
            return .deny("certificates are renewed here; there is no way to \(request.destination)")
        }
        if let reservation = request.peer.reservation { return .deny(reservation) }
        do throws(LedgerError) {
            _ = try claim(request.peer, request.peerCertificate)
            return .admit
        } catch {
            let level: Logger.Level = error.code == .forked || error.code == .unknownCertificate ? .error : .warning
            let refusal = RefusalLog.Refusal(peer: request.peer, certificate: request.peerCertificate, code: error.code)
            let isNew = refusals.withLock { $0.admits(refusal, at: .now) }
            logger.log(
                level: isNew ? level : .debug,
                "refused",
                metadata: [
                    "peer": "\(request.peer)", "serial": "\(request.peerCertificate?.serial ?? "-")",
                    "reason": "\(error)",
                ]
            )
            // What the ledger says of other devices, or of itself, is no matter of the peer's.
            switch error.code {
            case .revoked, .limit, .forked, .unknownCertificate: return .deny(error.message)
            default: return .deny("\(request.peer) is not enrolled here")
            }
        }
    }

    private func claim(_ id: SPIFFEID, _ shown: CertificateName?) throws(LedgerError) -> DeviceClaim {
        guard let shown else { throw LedgerError(.invalid, "it has shown no certificate") }
        return try records.ledger.admitRenewal(of: id.description, showing: shown, by: Self.command)
    }

    private func renew(_ stream: HBONEStream) async throws {
        // Once more: what was decided before the answer may be over.
        let claim = try claim(stream.peer, stream.peerCertificate)
        let name = claim.name
        guard let device = try records.record(named: name), device.identity == stream.peer else {
            throw LedgerError(.invalid, "it is not in the ledger")
        }
        let terms = terms.renewing(device)
        let channel = HBONEChannel(stream)
        // A device speaks with one process at a time: the last that asks is the one that is there.
        let number = open.begin(name, channel)
        defer { open.end(name, number) }
        let recording = RecordingIssuer(issuer, ledger: records.ledger, command: Self.command, claim: claim)
        let conversation = EnrollmentConversation(
            channel: channel,
            name: name,
            certification: Certification(name: name, id: stream.peer, issuer: recording, terms: terms),
            clock: .system,
            limits: limits,
            warn: { [logger] in logger.warning("\(name): \($0)") }
        )
        let (ack, certificate) = try await conversation.run(.renew(id: stream.peer.description))
        for warning in (ack.warnings ?? []).prefix(8) {
            logger.warning("\(name): \(Printable.clean(warning, limit: 600))")
        }
        let serial = try Certificate.all(pem: Array(certificate.chain.utf8)).first?.serialNumber
        let roots = try Certificate.all(pem: Array(certificate.roots.utf8)).map(\.fingerprint)
        let until = describe(time: certificate.notAfter)
        let known = device.allowed
        var isOurs = false
        try records.update(
            name,
            on: recording.claim,
            by: Self.command,
            "renewed over the mesh until \(until)"
        ) { device in
            device.notAfter = certificate.notAfter
            device.renewedAt = WallClock.system.seconds
            device.lifetime = terms.span
            device.serial = serial
            device.roots = roots
            // What somebody has allowed or denied meanwhile is newer than what the device has said.
            isOurs = device.allowed == known
            if isOurs, let allowed = ack.allowed { device.allowed = allowed }
        }
        if isOurs, let remark = device.remark(allowing: ack.allowed) {
            logger.warning("\(name): \(remark.difference); that is recorded now. \(remark.remedy)")
        }
        logger.notice("renewed", metadata: ["peer": "\(stream.peer)", "until": "\(until)"])
    }
}

/// Which refusals were said lately: a peer that asks again and again does not fill the log. A value without a clock.
struct RefusalLog: Sendable {
    struct Refusal: Hashable, Sendable {
        var peer: SPIFFEID
        var certificate: CertificateName?
        var code: LedgerError.Code
    }

    /// How long one that comes again is not said.
    static let interval = Duration.seconds(60)

    private var said: [Refusal: ContinuousClock.Instant] = [:]

    /// Whether to say it now; then it counts as said.
    mutating func admits(_ refusal: Refusal, at now: ContinuousClock.Instant) -> Bool {
        if let last = said[refusal], now - last < Self.interval { return false }
        said = said.filter { now - $0.value < Self.interval }
        said[refusal] = now
        return true
    }
}

/// The conversations that are open, one for each device: a later one ends the one before it, which a device that lost
/// its connection has left, or which somebody keeps open.
private final class OpenRenewals: Sendable {
    private let channels = Lock<(next: Int, byDevice: [String: (number: Int, channel: HBONEChannel)])>((0, [:]))

    func begin(_ device: String, _ channel: HBONEChannel) -> Int {
        let (number, before) = channels.withLock { state in
            state.next += 1
            return (state.next, state.byDevice.updateValue((state.next, channel), forKey: device))
        }
        before?.channel.close()
        return number
    }

    func end(_ device: String, _ number: Int) {
        channels.withLock { state in
            if state.byDevice[device]?.number == number { state.byDevice[device] = nil }
        }
    }
}
