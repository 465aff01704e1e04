import MeshIdentity
import Platform
import Synchronization
import TestPeers
import Testing

@testable import MeshNode
@testable import SSHSignal

/// What a device takes from an issuer over the mesh, who speaks for the CA and does not have its key.
@Suite(.timeLimit(.minutes(10))) struct CredentialRenewalTests {
    private let home = TemporaryDirectory()
    private let ca: EmbeddedCA
    private let id: SPIFFEID
    private let directory: CredentialDirectory

    init() throws {
        ca = try EmbeddedCA.create(directory: home.path("ca"), trustDomain: TrustDomain("mesh.example"))
        id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        directory = CredentialDirectory(home.path("identity"))
        let pending = try directory.prepare(id: id)
        let issued = try ca.issue(pending.request, id: id)
        _ = try pending.commit(chain: issued.chain, roots: issued.roots)
    }

    private func renew(_ sign: @escaping ScriptedIssuer.Signer) async throws -> (Credential, warnings: [String]) {
        let issuer = ScriptedIssuer(sign)
        let renewal = CredentialRenewal(directory: directory, id: id, listener: "127.0.0.1:15008")
        let credential = try await renewal.run(over: issuer)
        return (credential, issuer.warnings)
    }

    /// The certificate is in place, and what is left to say finds no room.
    @Test func anIssuerThatDoesNotReadHoldsNothingUp() async throws {
        let (ca, id) = (ca, id)
        let issuer = ScriptedIssuer(takesTheEnd: false) { try Self.message(ca.issue($0, id: id)) }
        var limits = ConversationLimits.ofDevice
        limits.finish = .milliseconds(20)
        let renewal = CredentialRenewal(directory: directory, id: id, listener: "127.0.0.1:15008", limits: limits)
        let renewed = try await renewal.run(over: issuer)
        #expect(try directory.load().leaf == renewed.leaf)
    }

    private static func message(
        _ issued: IssuedCertificate,
        roots: [Certificate]? = nil,
        lists: [UInt8]? = nil,
        vouchers: [Certificate] = []
    ) throws -> SignalMessage.IssuedCertificate {
        func text(_ pem: [UInt8]) -> String { String(decoding: pem, as: UTF8.self) }
        let leaf = try #require(issued.leaf)
        return SignalMessage.IssuedCertificate(
            chain: text(issued.chain.flatMap(\.pem)),
            roots: text((roots ?? issued.roots).flatMap(\.pem)),
            notBefore: leaf.notBefore,
            notAfter: leaf.notAfter,
            revocations: lists.map(text),
            vouchers: vouchers.isEmpty ? nil : text(vouchers.flatMap(\.pem))
        )
    }

    @Test func aRootComesWithTheCAsWordOnly() async throws {
        let (ca, id) = (ca, id)
        let stranger = try EmbeddedCA.create(directory: home.path("stranger"), trustDomain: ca.trustDomain)
        let before = try directory.load()
        // What an issuer could do whose certificate somebody has got hold of: bring a root of its own beside ours, or
        // in its place.
        for roots in [ca.roots + stranger.roots, stranger.roots] {
            let signer = roots == stranger.roots ? stranger : ca
            let error = await #expect(throws: SignalError.self) {
                try await renew { try Self.message(signer.issue($0, id: id), roots: roots) }
            }
            #expect(
                error?.message.contains("no root that is trusted here vouches for it") == true,
                "\(String(describing: error))"
            )
            #expect(try directory.load().leaf == before.leaf)
            #expect(try directory.load().bundle.roots == ca.roots)
        }
        // A rotation.
        let root = try RootRotation(directory: home.path("ca")).begin(ca, passphrase: nil)
        let (renewed, _) = try await renew { request in
            let issued = try ca.issue(request, id: id)
            return try Self.message(issued, vouchers: issued.vouchers)
        }
        #expect(Set(renewed.bundle.roots) == [ca.certificate, root])
    }

    @Test func anOlderListFailsNoRenewal() async throws {
        let (ca, id) = (ca, id)
        func list(_ serials: [String], _ number: Int64) throws -> [UInt8] {
            let entries = serials.map { RevokedCertificate(serial: $0, revokedAt: 1_700_000_000) }
            return try ca.revocationList(of: entries, number: number, nextUpdate: 4_000_000_000).pem
        }
        let (older, newer) = (try list([], 6), try list(["4f"], 7))
        try directory.write(revocationLists: newer)
        let (renewed, warnings) = try await renew { try Self.message(ca.issue($0, id: id), lists: older) }
        #expect(try directory.load().leaf == renewed.leaf)
        #expect(renewed.bundle.revocations.pem == newer)
        #expect(warnings.count == 1 && warnings[0].contains("number 6 is older"), "\(warnings)")
    }
}

/// The far end of a renewal, which answers as it is told.
private final class ScriptedIssuer: RemoteChannel {
    typealias Signer = @Sendable (CertificateRequest) throws -> SignalMessage.IssuedCertificate

    private let sign: Signer
    private let takesTheEnd: Bool
    private let decoder = Mutex(SignalFrameDecoder())
    private let heard = Mutex<[String]>([])
    private let answers: AsyncStream<[UInt8]>
    private let answer: AsyncStream<[UInt8]>.Continuation
    private let closing: AsyncStream<Void>
    private let closed: AsyncStream<Void>.Continuation

    var warnings: [String] { heard.withLock { $0 } }

    /// - Parameter takesTheEnd: false: what this side says at the end waits until the channel is closed.
    init(takesTheEnd: Bool = true, _ sign: @escaping Signer) {
        self.sign = sign
        self.takesTheEnd = takesTheEnd
        (answers, answer) = AsyncStream.makeStream()
        (closing, closed) = AsyncStream.makeStream()
    }

    func read() async throws -> [UInt8]? {
        for await bytes in answers { return bytes }
        return nil
    }

    func write(_ bytes: [UInt8]) async throws {
        let messages = try decoder.withLock { decoder in
            decoder.append(bytes)
            var messages: [SignalMessage] = []
            while let message = try decoder.next() { messages.append(message) }
            return messages
        }
        for message in messages {
            switch message {
            case .hello:
                let now = WallClock.system.milliseconds
                try send(SignalProtocol.hello(software: "test", now: now))
                try send(.renew(.init()))
            case .csr(let request):
                try send(.certificate(sign(CertificateRequest(pem: Array(request.csr.utf8)))))
            case .ack(let ack):
                heard.withLock { $0 += ack.warnings ?? [] }
                try send(.bye(.init()))
            default: answer.finish()
            }
        }
    }

    private func send(_ message: SignalMessage) throws { answer.yield(try SignalFrame.encode(message)) }

    func finish() async {
        guard !takesTheEnd else { return }
        for await _ in closing {}
    }

    func close() {
        answer.finish()
        closed.finish()
    }

    func standardErrorText() async -> String { "" }
}
