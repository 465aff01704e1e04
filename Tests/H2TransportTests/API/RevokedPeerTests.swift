import Foundation
import H2Transport
import MeshIdentity
import Streams
import Synchronization
import TestPeers
import Testing

/// A connection that stands is cut when its peer's certificate is revoked, without another connection that comes or a
/// stream that is opened.
@Suite(.timeLimit(.minutes(10))) struct RevokedPeerTests {
    private let directory = TemporaryDirectory()
    private let ca: EmbeddedCA

    init() throws {
        ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
    }

    private func credential(_ name: String) throws -> (CredentialDirectory, Certificate) {
        let identity = CredentialDirectory(directory.path(name))
        let pending = try identity.prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
        let issued = try ca.issue(pending.request, id: pending.id)
        let credential = try pending.commit(chain: issued.chain, roots: issued.roots)
        return (identity, credential.leaf)
    }

    private func list(_ certificate: Certificate) throws -> [UInt8] {
        let now = Int64(Date().timeIntervalSince1970)
        let entry = RevokedCertificate(serial: certificate.serialNumber, revokedAt: now)
        return try ca.revocationList(of: [entry], number: 1, nextUpdate: now + 3600).pem
    }

    /// Opens a stream, revokes while it is idle, and waits for its end.
    private func isCut(
        client: CredentialSource,
        server: CredentialSource,
        by revoke: @escaping @Sendable () throws -> Void
    ) async throws -> Bool {
        let wasCut = Mutex(false)
        try await MeshPair.with(client: client, server: server, handler: MeshPair.echo) { pair in
            let error = await #expect(throws: (any Error).self) {
                try await pair.withStream { stream in
                    try await stream.write("a")
                    #expect(try await stream.read() == [97])
                    try revoke()
                    while try await stream.read() != nil {}
                }
            }
            wasCut.withLock { $0 = error is StreamError }
            // Nor does another connection come up.
            await #expect(throws: (any Error).self) {
                try await pair.withStream { stream in
                    try await stream.write("a")
                    guard try await stream.read() == [97] else { throw StreamError(.closed, "no answer") }
                }
            }
        }
        return wasCut.withLock { $0 }
    }

    @Test func theServerCutsAClient() async throws {
        let (client, leaf) = try credential("client")
        let (server, _) = try credential("server")
        let lists = try list(leaf)
        #expect(
            try await isCut(client: .directory(client.path), server: .directory(server.path)) {
                try server.write(revocationLists: lists)
            }
        )
    }

    @Test func theClientCutsAServer() async throws {
        let (client, _) = try credential("client")
        let (server, leaf) = try credential("server")
        let lists = try list(leaf)
        #expect(
            try await isCut(client: .directory(client.path), server: .directory(server.path)) {
                try client.write(revocationLists: lists)
            }
        )
    }

    /// What the program knows itself, with a credential that has no list.
    @Test(arguments: ["client", "server"]) func theProgramSaysWhoIsRevoked(_ judge: String) async throws {
        let (client, clientLeaf) = try credential("client")
        let (server, serverLeaf) = try credential("server")
        let revoked = Revoked()
        var (clients, servers) = (CredentialSource.fixed(try client.load()), CredentialSource.fixed(try server.load()))
        if judge == "client" {
            clients.alsoRevoked = { revoked.names }
        } else {
            servers.alsoRevoked = { revoked.names }
        }
        let name = judge == "client" ? serverLeaf.name : clientLeaf.name
        #expect(try await isCut(client: clients, server: servers) { revoked.add(name) })
    }

    /// The next credential cannot be read at the same moment: the one in use refuses whoever is revoked.
    @Test func aBrokenRenewalHidesNoRevocation() async throws {
        let (client, leaf) = try credential("client")
        let (server, _) = try credential("server")
        let revoked = Revoked()
        var servers = CredentialSource.directory(server.path)
        servers.alsoRevoked = { revoked.names }
        let file = directory.path("server/..data/cert-chain.pem")
        let wasCut = try await isCut(client: .directory(client.path), server: servers) {
            try Data("no certificate".utf8).write(to: URL(fileURLWithPath: file))
            revoked.add(leaf.name)
        }
        #expect(wasCut)
    }

    private final class Revoked: Sendable {
        private let all = Mutex<Set<CertificateName>>([])
        func add(_ name: CertificateName) { all.withLock { _ = $0.insert(name) } }
        var names: Set<CertificateName> { all.withLock { $0 } }
    }
}
