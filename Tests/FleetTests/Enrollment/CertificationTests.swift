import MeshIdentity
import Platform
import SSHSignal
import Synchronization
import TestPeers
import Testing

@testable import Fleet

/// The step between a certificate request and the certificate.
@Suite struct CertificationTests {
    /// Counts how often it was asked, and for how long a certificate.
    private final class Counting: CertificateIssuer {
        let authority: EmbeddedCA
        private let requests = Mutex<[IssuanceOptions]>([])
        var asked: [IssuanceOptions] { requests.withLock { $0 } }

        init(_ authority: EmbeddedCA) { self.authority = authority }

        func issue(
            _ request: CertificateRequest,
            id: SPIFFEID,
            options: IssuanceOptions
        ) async throws(IdentityError) -> IssuedCertificate {
            requests.withLock { $0.append(options) }
            return try await (authority as any CertificateIssuer).issue(request, id: id, options: options)
        }
    }

    private let directory = TemporaryDirectory()
    private let issuer: Counting
    private let id: SPIFFEID
    private let request: CertificateRequest

    init() throws {
        let domain = try TrustDomain("test.example")
        issuer = Counting(try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: domain))
        id = try SPIFFEID(trustDomain: domain, namespace: "default", name: "dev")
        request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
    }

    private func attestation(_ request: CertificateRequest) -> HostKeyAttestation {
        HostKeyAttestation(
            request: String(decoding: request.pem, as: UTF8.self),
            signature: "",
            namespace: HostKeyAttestation.namespace(id.trustDomain),
            hostKey: "",
            verifiedAt: 1
        )
    }

    private func certify(
        _ terms: IssuanceTerms = IssuanceTerms(),
        skew: ClockSkew = ClockSkew(milliseconds: 0),
        attest: Certification.Attest? = nil
    ) async throws -> Certification.Outcome {
        let certification = Certification(name: "dev", id: id, issuer: issuer, terms: terms, attest: attest)
        return try await certification(request, skew, clock: .system)
    }

    @Test func theAttestationIsKeptWithTheCertificateItIsFor() async throws {
        let outcome = try await certify { attestation($0) }
        #expect(outcome.attestation?.serial == outcome.issued.leaf?.serialNumber)
        #expect(outcome.attestation?.request == String(decoding: request.pem, as: UTF8.self))
        #expect(try await certify().attestation == nil)
    }

    @Test func withoutTheProofNothingIsSigned() async throws {
        let error = await #expect(throws: IdentityError.self) {
            try await certify { _ in throw HostError(.denied, "dev: the signature is refused") }
        }
        #expect(error?.code == .refused)
        #expect(error?.message == "--attest: dev: the signature is refused")
        #expect(issuer.asked.isEmpty)
    }

    @Test func nobodyIsAskedForAReservedIdentity() async throws {
        let reserved = try SPIFFEID(trustDomain: id.trustDomain, namespace: "bootstrap", name: "issuer")
        let certification = Certification(name: "dev", id: reserved, issuer: issuer)
        let error = await #expect(throws: IdentityError.self) {
            try await certification(request, ClockSkew(milliseconds: 0), clock: .system)
        }
        #expect(error?.code == .refused && error?.message.contains("is reserved") == true)
        #expect(issuer.asked.isEmpty)
    }

    @Test func theTermsAreWhatTheIssuerIsAskedFor() async throws {
        let terms = IssuanceTerms(lifetime: .seconds(3600), dnsNames: ["dev.example"])
        _ = try await certify(terms, skew: ClockSkew(milliseconds: -600_000))
        let options = try #require(issuer.asked.first)
        #expect(options.lifetime == .seconds(3600))
        #expect(options.dnsNames == ["dev.example"])
        // Ten minutes behind, and a minute more: valid there at once.
        #expect(options.backdating == .seconds(660))
    }

    @Test func aRenewalKeepsWhatTheTermsLeaveOpen() throws {
        var device = try DeviceDirectoryTests.record("dev")
        device.lifetime = 7200
        #expect(IssuanceTerms().renewing(device).options.lifetime == .seconds(7200))
        #expect(IssuanceTerms(lifetime: .seconds(60)).renewing(device).options.lifetime == .seconds(60))
        device.lifetime = nil
        #expect(IssuanceTerms().renewing(device).options.lifetime == IssuanceOptions.defaultLifetime)
        #expect(!IssuanceTerms(attests: true).renewing(device).attests)
    }
}
