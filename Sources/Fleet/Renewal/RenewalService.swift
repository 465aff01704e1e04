package import H2Transport
package import Logging
import MeshIdentity
import MeshPaths
import Platform
import SSHSignal
import Streams

/// Renews certificates of devices that ask for it over the mesh: what `ca serve` does.
///
/// A device shows the certificate it has; what is signed is the identity in that, for a new key of the device's, and nothing else. Who is
/// not in the ledger, or revoked there, is refused before it can say anything.
package struct RenewalService: Sendable {
    private let issuer: LiveCA
    private let records: DeviceDirectory
    private let terms: IssuanceTerms
    private let logger: Logger

    /// - Parameters:
    ///   - issuer: Who signs.
    ///   - records: Who is enrolled.
    ///   - terms: Of the certificates.
    ///   - logger: What happens.
    package init(
        issuer: LiveCA,
        records: DeviceDirectory,
        terms: IssuanceTerms,
        logger: Logger
    ) {
        self.issuer = issuer
        self.records = records
        self.terms = terms
        self.logger = logger
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
        do {
            let device = try device(request.peer)
            guard device.revokedAt == nil else { return .deny("\(device.name) is revoked") }
            if let reservation = device.identity.reservation { return .deny(reservation) }
            return .admit
        } catch {
            logger.warning("refused", metadata: ["peer": "\(request.peer)", "reason": "\(error)"])
            return .deny("\(request.peer) is not enrolled here")
        }
    }

    private func device(_ id: SPIFFEID) throws(DeviceDirectoryError) -> Device {
        guard let device = try records.device(for: id.description), device.identity == id else {
            throw DeviceDirectoryError(message: "it is not in the ledger")
        }
        return device
    }

    private func renew(_ stream: HBONEStream) async throws {
        let device = try device(stream.peer)
        let terms = terms.renewing(device)
        let name = device.name
        let conversation = EnrollmentConversation(
            channel: HBONEChannel(stream),
            name: name,
            certification: Certification(
                name: name,
                id: stream.peer,
                issuer: RecordingIssuer(issuer, ledger: records.ledger, command: "ca serve", device: name),
                terms: terms
            ),
            clock: .system,
            warn: { [logger] in logger.warning("\(name): \($0)") }
        )
        let (ack, certificate) = try await conversation.run(.renew(id: stream.peer.description))
        for warning in (ack.warnings ?? []).prefix(8) {
            logger.warning("\(name): \(Printable.clean(warning, limit: 600))")
        }
        let serial = try Certificate.all(pem: Array(certificate.chain.utf8)).first?.serialNumber
        let roots = try Certificate.all(pem: Array(certificate.roots.utf8)).map(\.fingerprint)
        let until = describe(time: certificate.notAfter)
        try records.update(name, by: "ca serve", "renewed over the mesh until \(until)") { device in
            device.notAfter = certificate.notAfter
            device.renewedAt = WallClock.system.seconds
            device.lifetime = terms.span
            device.serial = serial
            device.roots = roots
        }
        logger.notice("renewed", metadata: ["peer": "\(stream.peer)", "until": "\(until)"])
    }
}
