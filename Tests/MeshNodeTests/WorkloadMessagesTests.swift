import Foundation
import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// What an agent may send: a good response, one that was changed, and any bytes at all.
@Suite struct WorkloadMessagesTests {
    private static let settings = WorkloadAPISettings(socket: "/run/agent.sock")

    private static func text(_ kind: TestCertificates.Kind, _ file: String) throws -> [UInt8] {
        try Array(Data(contentsOf: URL(fileURLWithPath: "\(TestCertificates.shared.path(kind))/\(file)")))
    }

    /// PKCS#8 in DER form, as the file has it.
    private static func key(_ kind: TestCertificates.Kind) throws -> [UInt8] {
        let lines = String(decoding: try text(kind, "key.pem"), as: UTF8.self).split(separator: "\n")
        return Array(try #require(Data(base64Encoded: lines.filter { !$0.hasPrefix("-") }.joined())))
    }

    private static func svid(_ kind: TestCertificates.Kind = .client, id: String? = nil) throws -> [UInt8] {
        let chain = try TestCertificates.shared.chain(kind)
        var writer = ProtobufWriter()
        writer.add(1, try id ?? chain[0].spiffeID().description)
        writer.add(2, chain.flatMap(\.der))
        writer.add(3, try key(kind))
        writer.add(4, try TestCertificates.shared.ca("root").der)
        writer.add(5, "hint")
        return writer.bytes
    }

    private static func federated(_ domain: String, _ roots: [UInt8]) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.add(1, domain)
        writer.add(2, roots)
        return writer.bytes
    }

    private static func response(_ svids: [[UInt8]], federated: [[UInt8]] = [], lists: [[UInt8]] = []) -> [UInt8] {
        var writer = ProtobufWriter()
        for svid in svids { writer.message(1, svid) }
        for list in lists { writer.message(2, list) }
        for bundle in federated { writer.message(3, bundle) }
        return writer.bytes
    }

    private static func identity(_ bytes: [UInt8], after former: WorkloadIdentity? = nil) throws -> WorkloadIdentity {
        try WorkloadIdentity(WorkloadResponse(decoding: bytes), for: settings, after: former)
    }

    @Test func aGoodResponse() throws {
        let partner = try TestCertificates.shared.ca("partner").der
        let good = try Self.identity(
            Self.response(
                [Self.svid(), Self.svid(.server)],
                federated: [Self.federated("spiffe://partner.example", partner), Self.federated("empty.example", [])]
            )
        )
        #expect(good.identity.credential.id.description == "spiffe://mesh.example/ns/prod/sa/client")
        #expect(good.identity.federated.map(\.trustDomain.name) == ["partner.example"])
        #expect(good.problems.isEmpty)
        // Behind an intermediate CA, which is in the chain.
        let behind = try Self.identity(Self.response([Self.svid(.intermediate)]))
        #expect(behind.identity.credential.chain.count == 2)
        #expect(!behind.isSame(as: good) && good.isSame(as: good))
    }

    /// A partner's bundle is no reason to be without an identity; it is told, and what was known of it holds.
    @Test func whatIsWrongWithAFederatedBundleIsTold() throws {
        let (partner, own) = try (TestCertificates.shared.ca("partner").der, TestCertificates.shared.ca("root").der)
        let good = Self.federated("partner.example", partner)
        let former = try Self.identity(Self.response([Self.svid()], federated: [good]))
        let cut = Self.federated("partner.example", Array(partner.dropLast()))
        let kept = try Self.identity(Self.response([Self.svid()], federated: [cut]), after: former)
        #expect(kept.identity.federated.count == 1 && kept.problems.count == 1)
        #expect(kept.problems[0].contains("partner.example") && kept.problems[0].hasSuffix("the one before goes on"))
        #expect(try Self.identity(Self.response([Self.svid()], federated: [cut])).identity.federated.isEmpty)
        for (bundles, problem) in [
            ([good, good], "two federated bundles of partner.example"),
            ([Self.federated("mesh.example", own)], "this node's own trust domain"),
            ([Self.federated("spiffe://a/b", partner)], "no trust domain"),
            ([Self.federated("\u{1b}[2J", partner)], "no trust domain"),
            ([Self.federated("partner.example", try TestCertificates.shared.chain(.server)[0].der)], "no CA"),
        ] {
            let identity = try Self.identity(Self.response([Self.svid()], federated: bundles))
            #expect(identity.problems.count == 1 && identity.problems[0].contains(problem), "\(identity.problems)")
            #expect(!identity.problems[0].contains("\u{1b}"))
        }
    }

    @Test func whatContradictsItselfIsRefused() throws {
        func refusal(_ svid: [UInt8], lists: [[UInt8]] = []) -> String {
            let error = #expect(throws: IdentityError.self) {
                try Self.identity(Self.response([svid], lists: lists))
            }
            return error?.message ?? ""
        }
        let good = try WorkloadResponse(decoding: Self.response([Self.svid()])).svids[0]
        func changed(_ change: (inout WorkloadResponse.SVID) -> Void) -> [UInt8] {
            var svid = good
            change(&svid)
            var writer = ProtobufWriter()
            writer.add(1, svid.id)
            writer.add(2, svid.chain)
            writer.add(3, svid.key)
            writer.add(4, svid.bundle)
            return writer.bytes
        }
        let (key, other) = try (Self.key(.server), TestCertificates.shared.ca("other").der)
        #expect(refusal(changed { $0.key = key }).contains("do not belong together"))
        #expect(refusal(changed { $0.key = [] }).contains("no private key"))
        #expect(refusal(changed { $0.key += [0] }).contains("no private key"))
        #expect(refusal(changed { $0.chain = [] }).contains("there is no certificate"))
        #expect(refusal(changed { $0.chain += [0] }).contains("no certificates in DER form"))
        #expect(
            refusal(changed { $0.chain = Array(repeating: $0.chain, count: 18).flatMap { $0 } }).contains("more than")
        )
        #expect(refusal(changed { $0.bundle = [] }).contains("there is no certificate"))
        #expect(refusal(changed { $0.bundle = other }).contains("cannot be a root of mesh.example"))
        #expect(refusal(changed { $0.id = "spiffe://mesh.example/ns/prod/sa/other" }).contains("its certificate is of"))
        #expect(refusal(changed { $0.id = "x\u{1b}" }).contains("which is no SPIFFE ID"))
        #expect(refusal(changed { _ in }, lists: [[0x30]]).contains("revocation list 1"))
        for kind in [TestCertificates.Kind.expired, .rogue, .crossSigned, .isCA, .noSAN, .twoSANs, .weakKey] {
            let svid = try Self.svid(kind, id: good.id)
            #expect(!refusal(svid).isEmpty, "\(kind)")
        }
    }

    @Test func noResponseHasThousandsOfParts() throws {
        for tag: UInt8 in [0x0A, 0x12, 0x1A] {
            func many(_ count: Int) -> [UInt8] { (0..<count).flatMap { _ in [tag, 0x00] } }
            _ = try WorkloadResponse(decoding: many(WorkloadResponse.mostElements))
            let tooMany = #expect(throws: StreamError.self) {
                try WorkloadResponse(decoding: many(WorkloadResponse.mostElements + 1))
            }
            #expect(tooMany?.code == .limit)
        }
    }

    /// Whatever comes is refused, or is an identity that the roots beside it vouch for, with its own key.
    @Test func anyBytes() throws {
        var fuzzer = Fuzzer("responses of a Workload API")
        let partner = Self.federated("spiffe://partner.example", try TestCertificates.shared.ca("partner").der)
        let corpus = [
            try Self.response([Self.svid()]), try Self.response([Self.svid(.intermediate)], federated: [partner]),
            try Self.response([Self.svid(.server), Self.svid()], lists: [[0x30, 0x00]]),
        ]
        let dictionary: [[UInt8]] = [
            [0x0A, 0x00], [0x12, 0x00], [0x1A, 0x00], [0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF], [0x30, 0x80],
            [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
        ]
        let signed = try [TestCertificates.Kind.client, .intermediate, .server].map {
            try TestCertificates.shared.chain($0)[0].spiffeID()
        }
        var (done, taken) = (0, 0)
        while fuzzer.goesOn(done, of: 5000) {
            done += 1
            let input = fuzzer.mutate(corpus, dictionary: dictionary)
            guard let identity = try? Self.identity(input) else { continue }
            taken += 1
            let credential = identity.identity.credential
            if !signed.contains(credential.id) || !credential.key.matches(credential.leaf) {
                Issue.record("input \(done): \(credential.id) was never signed")
            }
        }
        // A changed hint, and what stands behind a response, change nothing.
        #expect(taken > 0)
    }
}
