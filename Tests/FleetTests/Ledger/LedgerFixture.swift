import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import Fleet

/// A ledger of its own, and a CA whose certificates are recorded in it.
struct LedgerFixture {
    let home = TemporaryDirectory()
    let ca: EmbeddedCA
    var devices: DeviceDirectory { DeviceDirectory(home.path("devices")) }
    var ledger: Ledger { devices.ledger }

    init() throws {
        ca = try EmbeddedCA(trustDomain: TrustDomain("demo.example"), now: Int64(Date().timeIntervalSince1970))
    }
}

/// Tests that have one.
protocol LedgerSuite {
    var fixture: LedgerFixture { get }
}

extension LedgerSuite {
    var home: TemporaryDirectory { fixture.home }
    var ca: EmbeddedCA { fixture.ca }
    var devices: DeviceDirectory { fixture.devices }
    var ledger: Ledger { fixture.ledger }

    func recording(
        _ claim: DeviceClaim,
        by command: String = "enroll",
        in ledger: Ledger? = nil
    ) -> RecordingIssuer {
        RecordingIssuer(ca, ledger: ledger ?? self.ledger, command: command, claim: claim)
    }

    /// Returns the record with the certificate in it.
    func certify(_ device: Device, _ issuer: RecordingIssuer) async throws -> Device {
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: device.identity)
        let leaf = try #require(
            try await issuer.issue(request, id: device.identity, options: IssuanceOptions()).leaf
        )
        var device = device
        (device.serial, device.notAfter) = (leaf.serialNumber, leaf.notAfter)
        return device
    }

    func refusal(_ body: () async throws -> Void) async -> String {
        do {
            try await body()
            return "nothing is refused"
        } catch {
            return "\(error)"
        }
    }
}
