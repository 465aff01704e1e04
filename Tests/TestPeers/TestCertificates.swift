import Foundation
public import MeshIdentity
import Platform
import Streams

/// Certificates, good and bad, made by Python's `cryptography`: an oracle that shares no code with ours.
///
/// Each leaf is a credential directory (`key.pem`, `cert-chain.pem`, `root-cert.pem`) named for its kind. All of them
/// come from one process, about half a second in all; `shared` makes them once for a test run and removes them at its
/// end.
public final class TestCertificates: Sendable {
    /// Holds one directory for each leaf, and `NAME.pem` for each CA.
    public var directory: String { temporary.path }
    private let temporary: TemporaryDirectory
    public let trustDomain: String

    public static let shared: TestCertificates = {
        do {
            let certificates = try TestCertificates()
            removedAtExit.withLock { $0 = certificates.directory }
            atexit { try? FileManager.default.removeItem(atPath: removedAtExit.withLock { $0 }) }
            return certificates
        } catch {
            fatalError("cannot make the test certificates: \(error)")
        }
    }()

    /// The leaves that every test needs; their IDs are of `mesh.example` unless said otherwise.
    public enum Kind: String, CaseIterable, Sendable {
        /// ns/prod/sa/client and ns/prod/sa/server: the good ones.
        case client, server
        /// ns/intruder/sa/client: a good certificate of another namespace.
        case intruder
        /// spiffe://other.example/ns/prod/sa/client, by that domain's own CA.
        case foreign
        /// The client's ID, signed by a CA that nobody trusts; its root-cert.pem has the right root.
        case rogue
        /// The client's ID, signed by other.example's CA; its root-cert.pem has mesh.example's root.
        case crossSigned
        /// The client's ID; ended three hours ago.
        case expired
        /// The client's ID; begins in a little more than five hours.
        case notYetValid
        case noSAN
        /// Two SPIFFE IDs.
        case twoSANs
        /// A SPIFFE ID and another URI.
        case otherURI
        case isCA
        case noKeyUsage, keyUsageNotCritical, keyUsageWithoutSignature, keyUsageCertSign
        case noExtendedKeyUsage, noClientAuth, noServerAuth
        /// spiffe://mesh.example with no path.
        case noPath
        /// spiffe://MESH.example/…
        case invalidID
        case weakKey
        /// The good client behind an intermediate CA, which is in its chain.
        case intermediate
        /// The same, without the intermediate.
        case missingIntermediate
        /// The client's ID, by an intermediate of our root that is bound to other.example.
        case foreignIntermediate
        /// The client's ID, by an intermediate that may vouch for clients, or servers, only.
        case clientsIntermediate, serversIntermediate
        /// The client's ID, signed by the next root; its root-cert.pem has both roots.
        case nextRoot
        /// The client's ID, signed with the good leaf `server` as if that were a CA.
        case signedByLeaf
        /// DNS and IP names beside the SPIFFE ID.
        case withNames
    }

    public func path(_ kind: Kind) -> String { "\(directory)/\(kind.rawValue)" }

    /// A CA's certificate file: `root`, `nextRoot`, `rogue`, `other`, `partner`, `nextPartner`, `intermediate`.
    public func caPath(_ name: String) -> String { "\(directory)/\(name).pem" }

    public func ca(_ name: String) throws -> Certificate {
        try Certificate(pem: [UInt8](Data(contentsOf: URL(fileURLWithPath: caPath(name)))))
    }

    public func chain(_ kind: Kind) throws -> [Certificate] { try Self.chain(at: path(kind)) }

    /// The credential as it is, verified by nobody: for a peer that is to be refused.
    package func credential(_ kind: Kind) throws -> Credential { try Self.credential(at: path(kind)) }

    /// The bundle of mesh.example: what a good peer trusts.
    public func bundle() throws -> TrustBundle {
        try TrustBundle(trustDomain: TrustDomain(trustDomain), roots: [ca("root")])
    }

    /// Reads a credential directory without verifying it.
    package static func credential(at path: String) throws -> Credential {
        let roots = try Certificate.all(pem: bytes("\(path)/root-cert.pem"))
        let chain = try chain(at: path)
        let rootDomain = try roots[0].spiffeID().trustDomain
        let id = try (try? chain[0].spiffeID()) ?? SPIFFEID("spiffe://\(rootDomain)/ns/none/sa/none")
        return try Credential(
            unverified: PrivateKey(pem: bytes("\(path)/key.pem")),
            chain: chain,
            bundle: TrustBundle(trustDomain: rootDomain, roots: roots),
            claiming: id
        )
    }

    private static func chain(at path: String) throws -> [Certificate] {
        try Certificate.all(pem: bytes("\(path)/cert-chain.pem"))
    }

    private static func bytes(_ path: String) throws -> [UInt8] {
        try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
    }

    public init(trustDomain: String = "mesh.example") throws {
        self.trustDomain = trustDomain
        temporary = TemporaryDirectory()
        try Self.make(Self.plan(trustDomain: trustDomain), in: directory)
    }

    /// Makes one more leaf with any ID by one of this object's CAs, in a new directory; returns its path.
    public func makeLeaf(
        id: String,
        issuer: String = "root",
        configure: (inout Leaf) -> Void = { _ in }
    ) throws -> String {
        var leaf = Leaf(name: "extra-\(UUID().uuidString)", uris: [id], issuer: issuer)
        configure(&leaf)
        try Self.make(Plan(authorities: [], leaves: [leaf]), in: directory)
        return "\(directory)/\(leaf.name)"
    }

    // MARK: What Python is told

    public struct Authority: Codable, Sendable {
        public var name: String
        public var uris: [String] = []
        /// Another authority; nil signs itself.
        public var issuer: String?
        /// Seconds from now.
        public var notBefore = -86400
        public var notAfter = 86400 * 3650
        /// What it may vouch for; nil leaves the extension out.
        public var extendedKeyUsage: [String]?
    }

    public struct Leaf: Codable, Sendable {
        public var name: String
        public var uris: [String]
        public var issuer = "root"
        public var dnsNames: [String] = []
        public var ipAddresses: [String] = []
        /// Seconds from now.
        public var notBefore = -120
        public var notAfter = 86400
        public var isCA: Bool? = false
        /// Nil leaves the extension out.
        public var keyUsage: [String]? = ["digital_signature"]
        public var isKeyUsageCritical = true
        /// Nil leaves the extension out.
        public var extendedKeyUsage: [String]? = ["serverAuth", "clientAuth"]
        /// P-256, P-384, secp256k1, RSA-1024, RSA-2048 or ED25519.
        public var keyType = "P-256"
        /// Authorities whose certificates follow the leaf's.
        public var chain: [String] = []
        /// Authorities in root-cert.pem.
        public var roots = ["root"]
    }

    struct Plan: Codable {
        var authorities: [Authority]
        var leaves: [Leaf]
    }

    private static func plan(trustDomain: String) -> Plan {
        let domain = "spiffe://\(trustDomain)"
        let client = "\(domain)/ns/prod/sa/client"
        var leaves: [Leaf] = []
        func add(_ kind: Kind, _ uris: [String]? = nil, _ configure: (inout Leaf) -> Void = { _ in }) {
            var leaf = Leaf(name: kind.rawValue, uris: uris ?? [client])
            configure(&leaf)
            leaves.append(leaf)
        }
        for kind in Kind.allCases {
            switch kind {
            case .client: add(kind)
            case .server: add(kind, ["\(domain)/ns/prod/sa/server"])
            case .intruder: add(kind, ["\(domain)/ns/intruder/sa/client"])
            case .foreign:
                add(kind, ["spiffe://other.example/ns/prod/sa/client"]) { ($0.issuer, $0.roots) = ("other", ["other"]) }
            case .rogue: add(kind) { $0.issuer = "rogue" }
            case .crossSigned: add(kind) { $0.issuer = "other" }
            case .expired: add(kind) { ($0.notBefore, $0.notAfter) = (-86400, -3 * 3600) }
            case .notYetValid: add(kind) { ($0.notBefore, $0.notAfter) = (5 * 3600 + 3000, 86400) }
            case .noSAN: add(kind, [])
            case .twoSANs: add(kind, [client, "\(domain)/ns/prod/sa/server"])
            case .otherURI: add(kind, [client, "https://example.org/"])
            case .isCA: add(kind) { $0.isCA = true }
            case .noKeyUsage: add(kind) { $0.keyUsage = nil }
            case .keyUsageNotCritical: add(kind) { $0.isKeyUsageCritical = false }
            case .keyUsageWithoutSignature: add(kind) { $0.keyUsage = ["key_agreement"] }
            case .keyUsageCertSign: add(kind) { $0.keyUsage = ["digital_signature", "key_cert_sign"] }
            case .noExtendedKeyUsage: add(kind) { $0.extendedKeyUsage = nil }
            case .noClientAuth: add(kind) { $0.extendedKeyUsage = ["serverAuth"] }
            case .noServerAuth: add(kind) { $0.extendedKeyUsage = ["clientAuth"] }
            case .noPath: add(kind, [domain])
            case .invalidID: add(kind, ["spiffe://MESH.example/ns/prod/sa/client"])
            case .weakKey: add(kind) { $0.keyType = "RSA-1024" }
            case .intermediate: add(kind) { ($0.issuer, $0.chain) = ("intermediate", ["intermediate"]) }
            case .missingIntermediate: add(kind) { $0.issuer = "intermediate" }
            case .foreignIntermediate, .clientsIntermediate, .serversIntermediate:
                add(kind) { ($0.issuer, $0.chain) = ("by-\(kind)", ["by-\(kind)"]) }
            case .nextRoot: add(kind) { ($0.issuer, $0.roots) = ("nextRoot", ["root", "nextRoot"]) }
            case .signedByLeaf: add(kind) { $0.issuer = "server" }
            case .withNames:
                add(kind) { ($0.dnsNames, $0.ipAddresses) = (["web.example.org"], ["127.0.0.1", "::1"]) }
            }
        }
        return Plan(
            authorities: [
                Authority(name: "root", uris: [domain]),
                Authority(name: "nextRoot", uris: [domain]),
                Authority(name: "rogue", uris: [domain]),
                Authority(name: "other", uris: ["spiffe://other.example"]),
                // Bound to no trust domain, as most are.
                Authority(name: "partner"), Authority(name: "nextPartner"),
                Authority(name: "intermediate", uris: [], issuer: "root"),
                Authority(name: "by-foreignIntermediate", uris: ["spiffe://other.example"], issuer: "root"),
                Authority(name: "by-clientsIntermediate", issuer: "root", extendedKeyUsage: ["clientAuth"]),
                Authority(name: "by-serversIntermediate", issuer: "root", extendedKeyUsage: ["serverAuth"]),
            ],
            leaves: leaves
        )
    }

    private static func make(_ plan: Plan, in directory: String) throws {
        let tested = TestTools.python
        let python = FileManager.default.isExecutableFile(atPath: tested) ? tested : "python3"
        let json = try String(decoding: JSONEncoder().encode(plan), as: UTF8.self)
        // Not Foundation's Process: its end is noticed by a thread of the pool, all of which may wait for `shared`.
        let variables = ProcessInfo.processInfo.environment.map { "\($0)=\($1)" }
        let command = ["env", "-i"] + variables + [python, "-W", "ignore", "-c", certificateMaker, directory, json]
        var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
        arguments.append(nil)
        defer { for argument in arguments { free(argument) } }
        var (process, status) = (pid_t(), Int32(-1))
        if posix_spawn(&process, "/usr/bin/env", nil, nil, &arguments, nil) == 0 {
            while waitpid(process, &status, 0) < 0 && errno == EINTR {}
        }
        guard status == 0 else {
            throw TestCertificateError(message: "python3 with `cryptography` is needed to make test certificates")
        }
    }
}

struct TestCertificateError: Error {
    let message: String
}

private let removedAtExit = Lock("")
