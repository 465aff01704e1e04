import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Everybody who must not get in, and what each side is told about it.
@Suite(.timeLimit(.minutes(10)))
struct TLSRefusalTests {
    struct BadCertificate: Sendable, CustomTestStringConvertible {
        let kind: TestCertificates.Kind
        /// Part of the reason on the side that refuses.
        let reason: String
        /// The alert on the other.
        let alert: String

        var testDescription: String { kind.rawValue }

        init(_ kind: TestCertificates.Kind, _ reason: String, alert: String) {
            self.kind = kind
            self.reason = reason
            self.alert = alert
        }
    }

    static let badCertificates = [
        BadCertificate(.rogue, "is not signed by a root of mesh.example", alert: "unknown_ca"),
        BadCertificate(.crossSigned, "is not signed by a root of mesh.example", alert: "unknown_ca"),
        BadCertificate(.missingIntermediate, "is not signed by a root of mesh.example", alert: "unknown_ca"),
        BadCertificate(.foreign, "trust domain other.example, which is not trusted here", alert: "unknown_ca"),
        BadCertificate(.expired, "expired 3 h", alert: "certificate_expired"),
        BadCertificate(.notYetValid, "is not valid before", alert: "certificate_expired"),
        BadCertificate(.noSAN, "SPIFFE ID", alert: "bad_certificate"),
        BadCertificate(.twoSANs, "2 URI", alert: "bad_certificate"),
        BadCertificate(.isCA, "is a CA certificate (CA:TRUE)", alert: "bad_certificate"),
        BadCertificate(.noKeyUsage, "has no key usage", alert: "unsupported_certificate"),
        BadCertificate(.noClientAuth, "lacks clientAuth", alert: "unsupported_certificate"),
    ]

    @Test(arguments: badCertificates, [LowerStreams.sockets, .tcp, .memory(nil)])
    func clientIsRefused(_ bad: BadCertificate, over lower: LowerStreams) async throws {
        // The client has much to say, so that its writes run into the server's refusal.
        let outcome = try await runPair(
            client: .client.with {
                $0.credential = bad.kind
                $0.job.bytesToSend = 100_000
            },
            over: lower
        )
        let refusal = try #require(outcome.server.refusal)
        #expect(refusal.code == .authentication)
        #expect(refusal.message.hasPrefix("refused "))
        #expect(refusal.message.contains(bad.reason), "\(refusal.message)")
        let told = try #require(outcome.client.failure)
        #expect(told.code == .authentication)
        #expect(told.message.contains("refused our certificate: \(bad.alert) ("), "\(told.message)")
    }

    @Test(arguments: badCertificates)
    func serverIsRefused(_ bad: BadCertificate) async throws {
        let outcome = try await runPair(server: .server.with { $0.credential = bad.kind })
        let refusal = try #require(outcome.client.refusal)
        #expect(refusal.code == .authentication)
        #expect(refusal.message.contains(bad.reason), "\(refusal.message)")
        let told = try #require(outcome.server.refusal)
        #expect(told.code == .authentication)
        #expect(told.message.contains("refused our certificate: \(bad.alert) ("), "\(told.message)")
    }

    @Test func clientWithoutCertificate() async throws {
        let outcome = try await runPair(client: .client.with { $0.credential = nil })
        #expect(outcome.server.refusal?.code == .authentication)
        #expect(outcome.server.refusal?.message.contains("sent no certificate; it needs a mesh identity") == true)
        #expect(outcome.client.failure?.code == .authentication)
        #expect(outcome.client.failure?.message.contains("certificate_required; check our credential") == true)
    }

    /// A good certificate of somebody else.
    @Test(arguments: [
        (
            PeerExpectation.namespace("prod", in: try! TrustDomain("mesh.example")), TestCertificates.Kind.intruder,
            "the peer is spiffe://mesh.example/ns/intruder/sa/client, expected was spiffe://mesh.example/ns/prod/sa/*"
        ),
        (
            .identities([try! SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")]), .client,
            "the peer is spiffe://mesh.example/ns/prod/sa/client, expected was spiffe://mesh.example/ns/prod/sa/db"
        ),
        (
            .trustDomain(try! TrustDomain("mesh.example")), .foreign,
            "the peer is spiffe://other.example/ns/prod/sa/client, expected was spiffe://mesh.example/*"
        ),
        (.identities([]), .client, "the peer is spiffe://mesh.example/ns/prod/sa/client, expected was nobody"),
    ])
    func wrongPeer(expectation: PeerExpectation, kind: TestCertificates.Kind, reason: String) async throws {
        let outcome = try await runPair(
            client: .client.with { $0.credential = kind },
            server: .server.with {
                $0.expecting = expectation
                $0.trust = try? bothDomains()
            }
        )
        #expect(outcome.server.refusal?.code == .authentication)
        #expect(
            outcome.server.refusal?.message.hasSuffix(": \(reason)") == true,
            "\(outcome.server.refusal?.message ?? "")"
        )
        #expect(outcome.client.failure?.code == .authentication)
        #expect(
            outcome.client.failure?.message.contains("refused our certificate: certificate_unknown (") == true,
            "\(outcome.client.failure?.message ?? "")"
        )
    }

    @Test(arguments: [
        (PeerExpectation.namespace("prod", in: try! TrustDomain("mesh.example")), TestCertificates.Kind.client),
        (.trustDomain(try! TrustDomain("mesh.example")), .intruder),
        (.anyTrusted, .foreign),
        (
            .identities(
                ["spiffe://mesh.example/ns/a/sa/b", "spiffe://mesh.example/ns/prod/sa/client"].map { try! SPIFFEID($0) }
            ), .client
        ),
        (.anyTrusted, .intermediate),
        (.anyTrusted, .withNames),
    ])
    func expectedPeer(expectation: PeerExpectation, kind: TestCertificates.Kind) async throws {
        let outcome = try await runPair(
            client: .client.with {
                $0.credential = kind
                $0.trust = try? bothDomains()
            },
            server: .server.with {
                $0.expecting = expectation
                $0.trust = try? bothDomains()
            }
        )
        #expect(outcome.server.failure == nil)
        #expect(outcome.client.failure == nil)
        #expect(try outcome.server.peer?.identity == TestCertificates.shared.chain(kind)[0].spiffeID())
    }

    /// While a root is replaced, both are trusted: certificates of the old and of the new one are accepted.
    @Test(arguments: [TestCertificates.Kind.client, .nextRoot])
    func twoRootsOverlap(kind: TestCertificates.Kind) async throws {
        let certificates = TestCertificates.shared
        let overlap = try TrustBundleSet(
            TrustBundle(
                trustDomain: TrustDomain("mesh.example"),
                roots: [certificates.ca("root"), certificates.ca("nextRoot")]
            )
        )
        let outcome = try await runPair(
            client: .client.with { $0.credential = kind },
            server: .server.with { $0.trust = overlap }
        )
        #expect(outcome.server.peer != nil)
        #expect(outcome.client.failure == nil)
    }

    /// Before the new root has reached the server, its certificates are refused.
    @Test func newRootBeforeTheOverlap() async throws {
        let outcome = try await runPair(client: .client.with { $0.credential = .nextRoot })
        #expect(outcome.server.refusal?.message.contains("is not signed by a root of mesh.example") == true)
        #expect(outcome.client.failure?.message.contains("a new root must reach every machine") == true)
    }

    // MARK: ALPN

    @Test func noProtocolInCommon() async throws {
        let outcome = try await runPair(
            client: .client.with { $0.options = .init(applicationProtocols: ["http/1.1", "h3"]) }
        )
        #expect(outcome.server.refusal?.code == .protocolViolation)
        #expect(outcome.server.refusal?.message.contains("HBONE clients offer h2") == true)
        #expect(outcome.client.refusal?.code == .protocolViolation)
        #expect(outcome.client.refusal?.message.contains("no_application_protocol; is that the HBONE port?") == true)
    }

    @Test(
        arguments: [
            (["istio"], "istio"), (["istio", "h2"], "h2"), (["http/1.1", "h2"], "h2"), ([], nil),
        ] as [([String], String?)]
    )
    func chosenProtocol(offered: [String], chosen: String?) async throws {
        let outcome = try await runPair(client: .client.with { $0.options = .init(applicationProtocols: offered) })
        #expect(outcome.client.peer != nil)
        #expect(outcome.client.peer?.applicationProtocol == chosen)
        #expect(outcome.server.peer?.applicationProtocol == chosen)
    }

    @Test func protocolNamesAreChecked() throws {
        #expect(throws: StreamError.self) { try TLSContext.wireFormat([""]) }
        #expect(throws: StreamError.self) { try TLSContext.wireFormat([String(repeating: "x", count: 256)]) }
        #expect(try TLSContext.wireFormat(["h2", "istio"]) == [2] + "h2".utf8 + [5] + "istio".utf8)
    }

    @Test func aesFirstWhereTheProcessorHasIt() {
        #expect(TLSContext.ciphersuites(hasAES: true).hasPrefix("TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"))
        #expect(TLSContext.ciphersuites(hasAES: false).hasPrefix("TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128"))
    }

    private func bothDomains() throws -> TrustBundleSet {
        let certificates = TestCertificates.shared
        return try TrustBundleSet(
            certificates.bundle(),
            TrustBundle(trustDomain: TrustDomain("other.example"), roots: [certificates.ca("other")])
        )
    }
}
