import MeshIdentity
import TestPeers
import Testing

@Suite struct SVIDVerification {
    @Test func goodCertificatesAreAccepted() throws {
        let bundle = try TestCertificates.shared.bundle()
        for kind in [TestCertificates.Kind.client, .server, .intruder, .intermediate, .withNames] {
            let chain = try TestCertificates.shared.chain(kind)
            let id = try bundle.verify(leaf: chain[0], intermediates: Array(chain.dropFirst()))
            #expect(id.trustDomain.name == "mesh.example")
        }
    }
}
