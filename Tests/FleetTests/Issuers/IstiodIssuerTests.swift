import Foundation
import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import Fleet

extension IstiodServer {
    fileprivate func issuer(
        roots: String = "server-root.pem",
        token: String = "token",
        name: String? = IstiodServer.name,
        timeout: Duration = .seconds(60)
    ) throws -> IstiodIssuer {
        IstiodIssuer(
            try Authority(host: "127.0.0.1", port: port),
            serverName: name,
            tokenFile: directory.path(token),
            rootsFile: directory.path(roots),
            timeout: timeout
        )
    }
}

/// Against a stand-in for istiod (``IstiodServer``).
@Suite struct IstiodIssuerTests {
    private let id: SPIFFEID
    private let request: CertificateRequest

    init() throws {
        id = try SPIFFEID("spiffe://test.example/ns/default/sa/dev7")
        request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
    }

    private func failure(_ issuer: IstiodIssuer) async -> IdentityError? {
        await #expect(throws: IdentityError.self) {
            _ = try await issuer.issue(request, id: id, options: IssuanceOptions())
        }
    }

    @Test func aCertificateForTheTokensIdentity() async throws {
        let istiod = try await IstiodServer()
        let issuer = try istiod.issuer()
        let issued = try await issuer.issue(request, id: id, options: IssuanceOptions(lifetime: .seconds(7200)))
        #expect(issued.chain.count == 1)
        #expect(try issued.leaf?.spiffeID() == id)
        let root = try Certificate(pem: Array(istiod.directory.read("root.pem").utf8))
        #expect(issued.roots == [root])
        let left = try #require(issued.leaf?.notAfter) - Int64(Date().timeIntervalSince1970)
        #expect((6600...7200).contains(left))
        let call = try #require(try istiod.calls().first)
        #expect(call.authorization == "Bearer good-token" && call.seconds == 7200 && call.unknown == 0)
        // The server knows how long we wait.
        #expect((1...60).contains(call.left))

        // The file is read anew for each certificate.
        try istiod.directory.write("token", "another-token\n", permissions: 0o600)
        let refused = await failure(issuer)
        #expect(refused?.code == .issuer)
        #expect(try istiod.calls().last?.authorization == "Bearer another-token")
        for part in ["UNAUTHENTICATED: request authenticate failure", istiod.directory.path("token"), "get a new one"] {
            #expect(refused?.message.contains(part) == true, "\(refused?.message ?? "")")
        }
        #expect(refused?.message.contains("another-token") == false)
    }

    @Test func tokensThatAreNotSent() async throws {
        let istiod = try await IstiodServer()
        try istiod.directory.write("open", "good-token\n", permissions: 0o644)
        try istiod.directory.write("empty", " \n", permissions: 0o600)
        try istiod.directory.write("lines", "good-token\nx-other: 1\n", permissions: 0o600)
        try istiod.directory.write("large", String(repeating: "a", count: 20_000), permissions: 0o600)
        let expected = [
            "open": "chmod 600", "empty": "there is no token in", "lines": "there is no token in",
            "large": "is longer than",
            "missing": "missing",
        ]
        for (token, text) in expected {
            let error = await failure(try istiod.issuer(token: token))
            #expect(error?.message.contains(text) == true, "\(token): \(error?.message ?? "")")
            #expect(error?.message.contains("good-token") == false)
        }
        #expect(try istiod.calls().isEmpty)
    }

    /// A server that is not who it must be gets no token.
    @Test func serversThatAreNotTrusted() async throws {
        let istiod = try await IstiodServer()
        let stranger = await failure(try istiod.issuer(roots: "other-root.pem"))
        #expect(
            stranger?.message.contains("not signed by a root that is trusted") == true,
            "\(stranger?.message ?? "")"
        )
        #expect(stranger?.message.contains("--issuer-ca") == true)
        let other = await failure(try istiod.issuer(name: "istiod.example"))
        let text = "its certificate is for istiod.istio-system.svc, localhost, not for istiod.example"
        #expect(other?.message.contains(text) == true, "\(other?.message ?? "")")
        // Without a name it is the address, which the certificate does not have.
        let address = await failure(try istiod.issuer(name: nil))
        #expect(address?.message.contains("not for 127.0.0.1") == true, "\(address?.message ?? "")")
        #expect(try istiod.calls().isEmpty)
        _ = try await istiod.issuer(name: "localhost").issue(request, id: id, options: IssuanceOptions())
    }

    @Test(arguments: [
        ("wrong-identity", "is for spiffe://test.example/ns/default/sa/admin, not for"),
        ("wrong-key", "is for another key"), ("no-root", "no root certificate after the chain"),
        ("garbage", "sent no usable certificate"), ("damaged", "the message is damaged: it is cut"),
        ("empty", "no certificate"), ("huge", "answers with more than 1048576 bytes"),
        ("internal", "did not sign: INTERNAL: CSR signing error: the CA is?[31m gone"),
        ("echo", "did not sign: INTERNAL: cannot use ä(the token)"),
    ])
    func answersThatAreNoCertificate(mode: String, text: String) async throws {
        let istiod = try await IstiodServer(mode)
        let error = await failure(try istiod.issuer())
        #expect(error?.message.contains(text) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("istiod:127.0.0.1:\(istiod.port)") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("good-token") == false)
    }

    @Test func nobodyAnswers() async throws {
        let istiod = try await IstiodServer("hang")
        let late = await failure(try istiod.issuer(timeout: .milliseconds(1500)))
        #expect(late?.code == .timedOut, "\(late?.message ?? "")")
        // Nobody listens there.
        let port = FreePort.next()
        let nobody = IstiodIssuer(
            try Authority(host: "127.0.0.1", port: port),
            tokenFile: istiod.directory.path("token"),
            rootsFile: istiod.directory.path("server-root.pem")
        )
        let refused = await failure(nobody)
        #expect(refused?.message.contains("127.0.0.1:\(port)") == true, "\(refused?.message ?? "")")
        #expect(refused?.message.contains("port 15012") == true, "\(refused?.message ?? "")")
        // Somebody accepts, and says nothing.
        let silent = try SilentServer()
        let mute = IstiodIssuer(
            try Authority(host: "127.0.0.1", port: silent.port),
            tokenFile: istiod.directory.path("token"),
            rootsFile: istiod.directory.path("server-root.pem"),
            timeout: .seconds(1)
        )
        #expect(await failure(mute)?.code == .timedOut)
    }

    @Test func whatIstiodCannotGiveIsRefused() async throws {
        let issuer = IstiodIssuer(try Authority(host: "127.0.0.1", port: 1), tokenFile: "none", rootsFile: "none")
        let error = await #expect(throws: IdentityError.self) {
            _ = try await issuer.issue(request, id: id, options: IssuanceOptions(dnsNames: ["db.example"]))
        }
        #expect(error?.message.contains("leave out --dns") == true)
    }
}

/// A socket that listens and never accepts.
private final class SilentServer: Sendable {
    private let descriptor: Int32
    let port: UInt16

    init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = descriptor
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 8) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        try #require(isListening)
        port = UInt16(bigEndian: address.sin_port)
    }

    deinit { close(descriptor) }
}
