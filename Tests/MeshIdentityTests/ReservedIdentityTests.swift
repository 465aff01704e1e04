import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// Names that say what somebody is for are given to nobody else.
@Suite struct ReservedIdentityTests {
    @Test(
        arguments: [
            ("ns/bootstrap/sa/issuer", true), ("ns/bootstrap/sa/dev7", true), ("ns/bootstrap/x", true),
            ("ns/default/sa/operator", true), ("ns/prod/sa/operator", true), ("ns/prod/sa/issuer", false),
            ("ns/bootstrap2/sa/dev7", false), ("ns/default/sa/bootstrap", false), ("ns/prod/sa/operators", false),
            ("sa/operator", false),
        ]
    )
    func whichTheyAre(path: String, isReserved: Bool) throws {
        let id = try SPIFFEID("spiffe://mesh.example/\(path)")
        #expect((id.reservation != nil) == isReserved, "\(path)")
    }

    @Test func noIssuerSignsThemUnlessItIsSaid() async throws {
        let id = try SPIFFEID("spiffe://mesh.example/ns/bootstrap/sa/issuer")
        let ca = try EmbeddedCA(trustDomain: id.trustDomain, now: Int64(Date().timeIntervalSince1970))
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let home = TemporaryDirectory()
        let error = #expect(throws: IdentityError.self) { try ca.issue(request, id: id) }
        #expect(error?.code == .refused && error?.message.contains("is reserved") == true)
        // The program is not asked.
        let program = ExecIssuer(command: ["touch", home.path("asked")])
        await #expect(throws: IdentityError.self) {
            try await program.issue(request, id: id, options: IssuanceOptions())
        }
        #expect(!FileManager.default.fileExists(atPath: home.path("asked")))

        var options = IssuanceOptions()
        options.allowsReservedIdentity = true
        #expect(try ca.issue(request, id: id, options: options).leaf?.spiffeID() == id)
        #expect(try ca.issue(request, id: id, options: ca.optionsForAnyClock()).leaf?.spiffeID() == id)
    }
}
