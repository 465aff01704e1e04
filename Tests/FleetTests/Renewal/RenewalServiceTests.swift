import Foundation
import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// `ca serve` from its listener on, and devices that do not do as they should.
@Suite(.timeLimit(.minutes(10))) struct RenewalServiceTests {
    /// An issuer with a ledger, and devices that were enrolled long enough ago to be due.
    struct Mesh: Sendable {
        let home = TemporaryDirectory()
        let ca: EmbeddedCA
        let listener: HBONEListener
        let serving: Task<Void, Never>
        var records: DeviceDirectory { DeviceDirectory(home.path("devices")) }
        var ledger: Ledger { records.ledger }
        private let issuerID: SPIFFEID

        init(limits: ConversationLimits = .brief) async throws {
            let domain = try TrustDomain("test.example")
            ca = try EmbeddedCA.create(directory: home.path("ca"), trustDomain: domain)
            issuerID = try SPIFFEID(trustDomain: domain, namespace: IssuerName.namespace, name: IssuerName.name)
            let pending = try CredentialDirectory(home.path("issuer")).prepare(id: issuerID)
            var options = IssuanceOptions()
            options.allowsReservedIdentity = true
            let issued = try await (ca as any CertificateIssuer).issue(pending.request, id: issuerID, options: options)
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
            listener = try await HBONEListener(
                bind: try SocketAddress(parsing: "127.0.0.1:0"),
                credentials: .directory(home.path("issuer"))
            )
            let service = RenewalService(
                issuer: ca,
                records: DeviceDirectory(home.path("devices")),
                terms: IssuanceTerms(),
                logger: Logger(label: "issuer"),
                limits: limits
            )
            serving = Task { [listener] in await service.serve(on: listener) }
        }

        func stop() async {
            serving.cancel()
            await listener.close()
        }

        /// The credential of a device that was enrolled half a day ago.
        func enroll(_ name: String) async throws -> Credential {
            let id = try SPIFFEID("spiffe://demo.example/ns/default/sa/\(name)".replacing("demo", with: "test"))
            let key = try PrivateKey.generate()
            var past = ledger
            past.clock = past.clock.advanced(by: -43_200)
            let recording = RecordingIssuer(ca, ledger: past, command: "enroll", claim: try past.claim(name))
            let issued = try await recording.issue(
                try CertificateRequest.create(key: key, id: id),
                id: id,
                options: IssuanceOptions()
            )
            let leaf = try #require(issued.leaf)
            let template = try DeviceDirectoryTests.record(name)
            let device = Device(
                name: name,
                destination: template.destination,
                ssh: template.ssh,
                hostKey: template.hostKey,
                identity: id,
                hbone: template.hbone,
                agent: template.agent,
                notAfter: leaf.notAfter,
                enrolledAt: past.clock.seconds,
                serial: leaf.serialNumber
            )
            try records.save(device, on: recording.claim)
            return try Credential(key: key, chain: issued.chain, roots: issued.roots)
        }

        /// Opens a stream to the issuer with a credential.
        func visit<Outcome: Sendable>(
            _ credential: Credential,
            _ body: @escaping @Sendable (Talk) async throws -> Outcome
        ) async throws -> Outcome {
            let client = try await HBONEClient(credentials: .fixed(credential))
            do {
                let peer = HBONEPeer(
                    try Authority(parsing: listener.localAddress.description),
                    expecting: .identities([issuerID])
                )
                let outcome = try await client.withStream(
                    to: Authority(parsing: IssuerName.authority),
                    through: peer
                ) { stream in try await body(Talk(stream)) }
                await client.shutDown()
                return outcome
            } catch {
                await client.shutDown()
                throw error
            }
        }

        /// A whole renewal. Returns the new credential.
        ///
        /// - Parameter acknowledging: false: the device is gone, without a word, as soon as it has the certificate.
        func renew(_ credential: Credential, acknowledging: Bool = true) async throws -> Credential {
            let key = try PrivateKey.generate()
            let certificate: SignalMessage.IssuedCertificate
            do {
                certificate = try await visit(credential) { talk in
                    try await talk.order()
                    try await talk.request(credential.id, key)
                    guard case .certificate(let certificate) = try await talk.next() else {
                        throw SignalError(.unexpected, "no certificate")
                    }
                    // A stream whose work fails is reset. One that is closed in order could still read the other
                    // side's complaint, or not, as the two meet.
                    guard acknowledging else { throw Gone(certificate: certificate) }
                    try await talk.acknowledge(credential.id)
                    while let message = try? await talk.next() { _ = message }
                    return certificate
                }
            } catch let gone as Gone {
                certificate = gone.certificate
            }
            let renewed = try Credential(
                key: key,
                chain: Certificate.all(pem: Array(certificate.chain.utf8)),
                roots: Certificate.all(pem: Array(certificate.roots.utf8))
            )
            if acknowledging {
                try await eventually("the acknowledgement is recorded") {
                    try ledger.certificates().contains {
                        $0.serial == credential.leaf.serialNumber && $0.state == .superseded
                    }
                }
            }
            return renewed
        }

        /// Why a renewal is refused.
        func refusal(_ credential: Credential) async -> String {
            do {
                _ = try await renew(credential)
                return "it is renewed"
            } catch {
                return "\(error)"
            }
        }
    }

    /// The device has its certificate, and is gone.
    private struct Gone: Error {
        let certificate: SignalMessage.IssuedCertificate
    }

    /// The device's half, by hand.
    final class Talk: Sendable {
        let stream: HBONEStream
        private let decoder = Lock(SignalFrameDecoder())

        init(_ stream: HBONEStream) { self.stream = stream }

        func send(_ message: SignalMessage) async throws { try await stream.write(SignalFrame.encode(message)) }

        /// nil: the other side has ended.
        func next() async throws -> SignalMessage? {
            while true {
                if let message = try decoder.withLock({ try $0.next() }) { return message }
                guard let bytes = try await stream.read() else { return nil }
                decoder.withLock { $0.append(bytes) }
            }
        }

        /// Up to the order to renew.
        func order() async throws {
            let now = Int64(Date().timeIntervalSince1970 * 1000)
            try await send(SignalProtocol.hello(software: "test", now: now))
            _ = try await next()
            guard case .renew = try await next() else { throw SignalError(.unexpected, "no order") }
        }

        func request(_ id: SPIFFEID, _ key: PrivateKey) async throws {
            let request = try CertificateRequest.create(key: key, id: id)
            try await send(.csr(.init(id: id.description, csr: String(decoding: request.pem, as: UTF8.self))))
        }

        func acknowledge(_ id: SPIFFEID) async throws {
            try await send(
                .ack(.init(id: id.description, listener: "127.0.0.1:1", hbone: [], node: "running", unchanged: []))
            )
        }
    }

    // MARK: Revoked, or gone, while the conversation is open

    enum Withdrawal: String, CaseIterable, Sendable {
        case revoked, unenrolled
    }

    private func withdraw(_ withdrawal: Withdrawal, _ name: String, _ ledger: Ledger) throws {
        switch withdrawal {
        case .revoked: _ = try ledger.revokeDevice(named: name, reason: "stolen", by: "revoke")
        case .unenrolled: try ledger.removeDevice(named: name, by: "unenroll")
        }
    }

    @Test(arguments: Withdrawal.allCases)
    func aConversationThatIsOpenGivesNothingToWhoWasWithdrawn(withdrawal: Withdrawal) async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let ledger = mesh.ledger
        let gotOne = try await mesh.visit(device) { talk in
            try await talk.order()
            try self.withdraw(withdrawal, "dev7", ledger)
            do {
                try await talk.request(device.id, PrivateKey.generate())
                while let message = try await talk.next() {
                    if case .certificate = message { return true }
                }
            } catch {}
            return false
        }
        #expect(!gotOne)
        let certificates = try ledger.certificates(of: "dev7")
        #expect(certificates.map(\.serial) == [device.leaf.serialNumber], "nothing was signed for it")
        switch withdrawal {
        case .revoked:
            #expect(try ledger.device(named: "dev7")?.revokedAt != nil, "it stays revoked")
            #expect(certificates.allSatisfy { $0.state == .revoked })
        case .unenrolled: #expect(try ledger.devices().isEmpty, "it stays away")
        }
        await mesh.stop()
    }

    /// After the certificate was sent: what the device acknowledges then changes nothing.
    @Test func anAcknowledgementDoesNotTakeARevocationBack() async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let ledger = mesh.ledger
        try await mesh.visit(device) { talk in
            try await talk.order()
            try await talk.request(device.id, PrivateKey.generate())
            guard case .certificate = try await talk.next() else {
                throw SignalError(.unexpected, "no certificate")
            }
            _ = try ledger.revokeDevice(named: "dev7", reason: "stolen", by: "revoke")
            try? await talk.acknowledge(device.id)
            while let message = try? await talk.next() { _ = message }
        }
        let after = try #require(try ledger.device(named: "dev7"))
        #expect(after.revokedAt != nil && after.serial == device.leaf.serialNumber)
        let states = try ledger.certificates(of: "dev7").map(\.state)
        #expect(states == [.revoked, .revoked], "the one that was sent as well")
        await mesh.stop()
    }

    /// Nobody says anything: the conversation is cut all the same, though another process has written the ledger.
    @Test(arguments: Withdrawal.allCases)
    func aConversationThatWaitsIsCut(withdrawal: Withdrawal) async throws {
        let mesh = try await Mesh(limits: ConversationLimits(step: .seconds(3600), total: .seconds(3600)))
        let device = try await mesh.enroll("dev7")
        let ledger = mesh.ledger
        try await mesh.visit(device) { talk in
            try await talk.order()
            try self.withdraw(withdrawal, "dev7", ledger)
            while let message = try? await talk.next() { _ = message }
        }
        await mesh.stop()
    }

    // MARK: Too long, too often

    @Test func aMessageOfAnUnknownTypeKeepsNothingOpen() async throws {
        let mesh = try await Mesh(limits: ConversationLimits(step: .seconds(2), total: .seconds(3600), frames: 1 << 30))
        let device = try await mesh.enroll("dev7")
        try await mesh.visit(device) { talk in
            try await talk.order()
            let chatter = Task {
                let json = Array(#"{"type":"future"}"#.utf8)
                while !Task.isCancelled {
                    try await talk.stream.write([0, 0, 0, UInt8(json.count)] + json)
                    try await Task.sleep(for: .milliseconds(100))
                }
            }
            while let message = try? await talk.next() { _ = message }
            chatter.cancel()
        }
        await mesh.stop()
    }

    @Test func aRenewalThatIsNotDueIsRefused() async throws {
        let mesh = try await Mesh()
        let first = try await mesh.enroll("dev7")
        let second = try await mesh.renew(first)
        let refusal = await mesh.refusal(second)
        #expect(refusal.contains("not due before 20"), "\(refusal)")
        #expect(try mesh.ledger.certificates(of: "dev7").count == 2)
        await mesh.stop()
    }

    /// Two hundred in a row, by a device that acknowledges none of them: each leaves a certificate that is valid.
    @Test func aDeviceCannotFillTheLedger() async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        var given = 0
        for _ in 0..<200 where (try? await mesh.renew(device, acknowledging: false)) != nil { given += 1 }
        #expect((1..<CertificateLimit.byItself).contains(given))
        #expect(try mesh.ledger.certificates(of: "dev7").count == CertificateLimit.byItself)
        let revoked = try mesh.ledger.revokeDevice(named: "dev7", reason: "greedy", by: "revoke")
        #expect(revoked.count == CertificateLimit.byItself)
        await mesh.stop()
    }

    /// - Returns: The serial number of the certificate that it was sent.
    private func renew(_ mesh: Mesh, _ device: Credential, answering code: SignalError.Code) async throws -> String {
        try await mesh.visit(device) { talk in
            try await talk.order()
            try await talk.request(device.id, PrivateKey.generate())
            guard case .certificate(let certificate) = try await talk.next() else {
                throw SignalError(.unexpected, "no certificate")
            }
            try await talk.send(.error(.init(code: code.rawValue, message: "no space left")))
            while let message = try? await talk.next() { _ = message }
            return try #require(try Certificate.all(pem: Array(certificate.chain.utf8)).first).serialNumber
        }
    }

    /// It may have kept the certificate after all: whoever has the key could fill a drawer with them.
    @Test func aCertificateThatTheDeviceRefusesIsRevokedAndSaid() async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let refused = try await renew(mesh, device, answering: .credential)
        try await eventually("it is revoked") {
            try mesh.ledger.certificates(of: "dev7").contains { $0.serial == refused && $0.state == .revoked }
        }
        #expect(try mesh.ledger.certificates(of: "dev7").first?.reason?.contains("no space left") == true)
        let alarm = try #require(try mesh.ledger.alarms(of: "dev7").first)
        #expect(alarm.kind == .refused && alarm.serial == device.leaf.serialNumber)
        #expect(alarm.text.contains("no space left") && alarm.text.contains("bootstrap doctor dev7"), "\(alarm.text)")
        let again = await mesh.refusal(device)
        #expect(again.contains("has not taken the last 1 certificates"), "\(again)")
        #expect(try mesh.ledger.certificates(of: "dev7").count == 2, "nothing was signed")
        await mesh.stop()
    }

    /// Its node does not come up: the credential was stored before.
    @Test func aCertificateThatWasStoredIsTheDevices() async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let stored = try await renew(mesh, device, answering: .node)
        try await eventually("it is the device's") { try mesh.ledger.device(named: "dev7")?.serial == stored }
        #expect(try mesh.ledger.alarms().isEmpty)
        await mesh.stop()
    }

    // MARK: Two who have the same key

    @Test func aCertificateThatWasReplacedRenewsNothingAndRaisesAnAlarm() async throws {
        let mesh = try await Mesh()
        let stolen = try await mesh.enroll("dev7")
        _ = try await mesh.renew(stolen)
        for _ in 0..<2 {
            let refusal = await mesh.refusal(stolen)
            #expect(refusal.contains("its key is in two places"), "\(refusal)")
        }
        let alarm = try #require(try mesh.ledger.alarms().first)
        #expect(alarm.device == "dev7" && alarm.serial == stolen.leaf.serialNumber && alarm.kind == .forked)
        #expect(try mesh.ledger.alarms().count == 1 && alarm.count == 1, "counted once a minute")
        let record = try #require(try mesh.records.record(named: "dev7"))
        let table = DeviceStatus.table([DeviceStatus(record, alarms: [alarm], at: 0)], at: 0)
        #expect(table[1].contains("dev7  ALARM"), "\(table)")
        #expect(table[2].hasPrefix("ALARM: dev7: ") && table[2].contains("bootstrap renew dev7"), "\(table)")
        let events = try mesh.ledger.events(of: "dev7").filter { $0.what.hasPrefix("ALARM") }
        #expect(events.count == 1, "once, however often it is tried")

        // Revoked, it needs nobody any more.
        _ = try mesh.ledger.revoke(RevocationOrder(serials: [alarm.serial], reason: "stolen", by: "revoke"))
        #expect(try mesh.ledger.alarms().isEmpty)
        await mesh.stop()
    }

    /// A new certificate for the machine with the recorded host key settles an alarm where somebody asked for it.
    @Test(arguments: [true, false]) func aRenewalSettlesAnAlarmWhereItIsToldTo(_ settles: Bool) async throws {
        let mesh = try await Mesh()
        let stolen = try await mesh.enroll("dev7")
        let present = try await mesh.renew(stolen)
        _ = await mesh.refusal(stolen)
        #expect(try mesh.ledger.alarms().count == 1)
        let seen = Lock<[Bool]>([])
        let reason = { (isAlarmed: Bool) -> String? in
            seen.withLock { $0.append(isAlarmed) }
            return isAlarmed && settles ? "used elsewhere" : nil
        }
        func renew(_ serial: String) throws {
            try mesh.records.update("dev7", by: "renew", "renewed", revokingEarlier: reason) { $0.serial = serial }
        }
        try renew("4f01")
        try renew("4f02")
        #expect(seen.withLock { $0 } == [true, !settles])
        #expect(try mesh.ledger.alarms().isEmpty == settles)
        let states = try mesh.ledger.certificates(of: "dev7").map { ($0.serial, $0.state) }
        for serial in [stolen, present].map(\.leaf.serialNumber) {
            #expect(states.first { $0.0 == serial }?.1 == (settles ? .revoked : .superseded))
        }
        await mesh.stop()
    }

    /// The certificate has arrived and its acknowledgement has not, or neither: both go on, as long as nobody has said
    /// which.
    @Test func aLostAcknowledgementStrandsNobody() async throws {
        let mesh = try await Mesh()
        let first = try await mesh.enroll("dev7")
        // It did not arrive: the device has what it had.
        let lost = try await mesh.renew(first, acknowledging: false)
        let arrived = try await mesh.renew(first, acknowledging: false)
        #expect(try mesh.ledger.device(named: "dev7")?.serial == first.leaf.serialNumber)
        // It did arrive: that it is shown says so. It is not due yet, which is another matter.
        #expect(await mesh.refusal(arrived).contains("not due before"))
        #expect(try mesh.ledger.device(named: "dev7")?.serial == arrived.leaf.serialNumber)
        for former in [first, lost] {
            #expect(await mesh.refusal(former).contains("its key is in two places"))
        }
        #expect(try mesh.ledger.alarms().count == 2)
        await mesh.stop()
    }

    @Test func aRefusalIsSaidOnceAMinute() throws {
        var log = RefusalLog()
        let now = ContinuousClock.now
        let refusal = RefusalLog.Refusal(
            peer: try SPIFFEID("spiffe://test.example/ns/default/sa/dev7"),
            certificate: CertificateName(issuer: "i", serial: "a"),
            code: .forked
        )
        var another = refusal
        another.code = .revoked
        let said = [
            log.admits(refusal, at: now), log.admits(refusal, at: now + .seconds(59)),
            // Another reason.
            log.admits(another, at: now + .seconds(59)),
            log.admits(refusal, at: now + .seconds(60)), log.admits(refusal, at: now + .seconds(61)),
        ]
        #expect(said == [true, false, true, true, false])
    }

    /// The first of two arrived and its acknowledgement was lost; the second was cut on its way.
    @Test func theFirstOfTwoThatWereNotAcknowledgedIsTheDevices() async throws {
        let mesh = try await Mesh()
        let first = try await mesh.enroll("dev7")
        let arrived = try await mesh.renew(first, acknowledging: false)
        let lost = try await mesh.renew(first, acknowledging: false)
        #expect(await mesh.refusal(arrived).contains("not due before"))
        #expect(try mesh.ledger.alarms().isEmpty)
        #expect(try mesh.ledger.device(named: "dev7")?.serial == arrived.leaf.serialNumber)
        #expect(try mesh.ledger.claim("dev7").lastIssued == lost.leaf.serialNumber)
        // Now the device has said which.
        for former in [first, lost] {
            #expect(await mesh.refusal(former).contains("its key is in two places"))
        }
        await mesh.stop()
    }

    @Test func aCertificateThatTheLedgerDoesNotKnowIsRefused() async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let key = try PrivateKey.generate()
        let issued = try await (mesh.ca as any CertificateIssuer).issue(
            try CertificateRequest.create(key: key, id: device.id),
            id: device.id,
            options: IssuanceOptions()
        )
        let forged = try Credential(key: key, chain: issued.chain, roots: issued.roots)
        let refusal = await mesh.refusal(forged)
        #expect(refusal.contains("is not in the ledger"), "\(refusal)")
        #expect(try mesh.ledger.alarms().map(\.kind) == [.unknown])
        // The device itself goes on.
        _ = try await mesh.renew(device)
        await mesh.stop()
    }
}
