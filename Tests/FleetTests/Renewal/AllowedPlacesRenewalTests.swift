import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// What a device says that it lets through, with a renewal over the mesh.
extension RenewalServiceTests {
    /// What somebody has allowed or denied while the device renewed is newer than what it has said.
    @Test(arguments: [false, true]) func whatTheDeviceAllowsIsRecorded(isChangedMeanwhile: Bool) async throws {
        let mesh = try await Mesh()
        let device = try await mesh.enroll("dev7")
        let records = mesh.records
        try records.update("dev7", by: "test", "allows") { $0.allowed = ["22"] }
        try await mesh.visit(device) { talk in
            try await talk.order()
            try await talk.request(device.id, PrivateKey.generate())
            guard case .certificate = try await talk.next() else {
                throw SignalError(.unexpected, "no certificate")
            }
            if isChangedMeanwhile {
                try records.update("dev7", by: "test", "allows more") { $0.allowed = ["22", "80"] }
            }
            let allowed = ["22", "10.0.0.7:443"]
            try await talk.send(
                .ack(
                    .init(
                        id: device.id.description,
                        listener: "127.0.0.1:1",
                        hbone: [],
                        node: "running",
                        unchanged: [],
                        allowed: allowed
                    )
                )
            )
            while let message = try? await talk.next() { _ = message }
        }
        try await eventually("the renewal is recorded") { try records.record(named: "dev7")?.renewedAt != nil }
        let recorded = try #require(try records.record(named: "dev7"))
        #expect(recorded.allowed == (isChangedMeanwhile ? ["22", "80"] : ["22", "10.0.0.7:443"]))
        #expect(recorded.serial != device.leaf.serialNumber)
        await mesh.stop()
    }
}
