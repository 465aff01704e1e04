import Foundation
import Glibc
import Platform
import TestPeers
import Testing

@testable import MeshIdentity

/// Certificates that ssh-keygen makes are read here, and those made here are read by ssh-keygen.
@Suite struct SSHCertificateTests {
    private let directory = TemporaryDirectory()

    private func key(_ type: String, _ name: String) async throws -> String {
        let path = directory.path(name)
        var arguments = ["-q", "-t", type, "-N", "", "-C", "test", "-f", path]
        if type.hasPrefix("ecdsa"), type.count > 5 {
            arguments = ["-q", "-t", "ecdsa", "-b", String(type.dropFirst(5)), "-N", "", "-f", path]
        }
        let made = try await ChildProcess.run("ssh-keygen", arguments)
        try #require(made.succeeded, "\(made.standardError)")
        return path
    }

    private func sign(_ key: String, by ca: String, _ arguments: [String]) async throws -> SSHCertificate {
        let signed = try await ChildProcess.run(
            "ssh-keygen",
            ["-q", "-s", ca, "-I", "the id"] + arguments + [key + ".pub"]
        )
        try #require(signed.succeeded, "\(signed.standardError)")
        return try SSHCertificate(line: Array(Data(contentsOf: URL(fileURLWithPath: key + "-cert.pub"))))
    }

    @Test(arguments: [
        ("ed25519", "ecdsa"), ("ecdsa", "ed25519"), ("rsa", "rsa"), ("ecdsa384", "ecdsa521"), ("ecdsa521", "ecdsa384"),
    ])
    func sshKeygensCertificates(type: String, authority: String) async throws {
        let ca = try await key(authority, "ca")
        let path = try await key(type, "key")
        let host = try await sign(path, by: ca, ["-h", "-n", "dev7,10.0.0.7", "-V", "20260101Z:20270101Z", "-z", "42"])
        #expect(host.kind == .host)
        #expect(host.principals == ["dev7", "10.0.0.7"])
        #expect(host.serial == 42)
        #expect(host.keyID == "the id")
        #expect(host.validity == "from 2026-01-01T00:00:00Z until 2027-01-01T00:00:00Z")
        #expect(host.criticalOptions.isEmpty)
        #expect(host.isSigned)
        let plain = try SSHPublicKey(line: Array(Data(contentsOf: URL(fileURLWithPath: path + ".pub"))))
        #expect(host.keyBlob == plain.blob)
        #expect(host.authority == (try SSHPublicKey(line: Array(Data(contentsOf: URL(fileURLWithPath: ca + ".pub"))))))
        let fingerprint = try await ChildProcess.run("ssh-keygen", ["-l", "-f", path + ".pub"]).standardOutput
        #expect(fingerprint.contains(plain.fingerprint))

        let user = try await sign(path, by: ca, ["-n", "root", "-O", "force-command=true", "-O", "no-pty"])
        #expect(user.kind == .user)
        #expect(user.validBefore == .max)
        #expect(user.criticalOptions.map(\.name) == ["force-command"])
        #expect(user.extensions.map(\.name).contains("permit-port-forwarding"))
        #expect(user.isSigned)
    }

    @Test func everyChangedByteIsNoticed() async throws {
        let ca = try await key("ed25519", "ca")
        let path = try await key("ecdsa", "key")
        let certificate = try await sign(path, by: ca, ["-h", "-n", "dev7"])
        for index in certificate.blob.indices {
            var bytes = certificate.blob
            bytes[index] ^= 1
            let changed = try? SSHCertificate(blob: bytes)
            #expect(changed?.isSigned != true, "byte \(index)")
        }
        for length in 0..<certificate.blob.count {
            #expect((try? SSHCertificate(blob: Array(certificate.blob[..<length]))) == nil, "\(length) bytes")
        }
        #expect((try? SSHCertificate(blob: certificate.blob + [0])) == nil)
    }

    @Test func whyACertificateDoesNotVouchForAHost() async throws {
        let ca = try await key("ecdsa", "ca")
        let other = try await key("ecdsa", "other")
        let path = try await key("ed25519", "key")
        let trusted = try [SSHPublicKey(line: Array(Data(contentsOf: URL(fileURLWithPath: ca + ".pub")))).blob]
        let now: Int64 = 1_780_000_000  // 2026-05-28
        func refusal(_ certificate: SSHCertificate, _ name: String = "dev7", at time: Int64 = now) -> String? {
            certificate.refusal(asHost: name, authorities: trusted, at: time) { $0 == $1 }
        }
        let dates = ["-V", "20260101Z:20270101Z"]
        let good = try await sign(path, by: ca, ["-h", "-n", "dev7,DEV8"] + dates)
        #expect(refusal(good) == nil)
        #expect(refusal(good, "dev8") == nil)
        #expect(refusal(good, "dev9")?.contains("is for dev7, DEV8, not for dev9") == true)
        #expect(refusal(good, at: 1_700_000_000)?.contains("is not valid yet") == true)
        #expect(refusal(good, at: 1_798_761_600)?.contains("has expired") == true)
        #expect(refusal(good, at: 1_798_761_599) == nil)
        #expect(
            good.refusal(asHost: "dev7", authorities: [], at: now) { $0 == $1 }?.contains("no @cert-authority") == true
        )
        let user = try await sign(path, by: ca, ["-n", "dev7"] + dates)
        #expect(refusal(user)?.contains("is a user's") == true)
        let stranger = try await sign(path, by: other, ["-h", "-n", "dev7"] + dates)
        #expect(refusal(stranger)?.contains("no @cert-authority line") == true)
        let anyone = try await sign(path, by: ca, ["-h"] + dates)
        #expect(refusal(anyone)?.contains("names no host") == true)
        let option = try await sign(path, by: ca, ["-h", "-n", "dev7", "-O", "critical:x@y=z"] + dates)
        #expect(refusal(option)?.contains("'x@y'") == true)
    }

    @Test(arguments: ["ed25519", "ecdsa", "rsa"]) func ourCertificatesAreThoseOfOpenSSH(type: String) async throws {
        let path = try await key(type, "key")
        let publicKey = try SSHPublicKey(line: Array(Data(contentsOf: URL(fileURLWithPath: path + ".pub"))))
        let authority = try SSHCertificateAuthority()
        for kind in [SSHCertificate.Kind.host, .user] {
            let request = SSHCertificateAuthority.Request(
                kind: kind,
                key: publicKey,
                principals: ["dev7", "10.0.0.7"],
                keyID: "an id",
                lifetime: .seconds(3600)
            )
            let certificate = try authority.issue(request)
            #expect(certificate.isSigned)
            #expect(certificate.authority == authority.publicKey(kind))
            #expect(authority.publicKey(.host) != authority.publicKey(.user))
            let file = try directory.write("issued-\(kind)-cert.pub", certificate.line + " comment\n")
            let listed = try await ChildProcess.run("ssh-keygen", ["-L", "-f", file])
            #expect(listed.succeeded, "\(listed.standardError)")
            #expect(listed.standardOutput.contains("\(kind.name) certificate"))
            #expect(listed.standardOutput.contains("Key ID: \"an id\""))
            #expect(listed.standardOutput.contains("Serial: \(certificate.serial)"))
            #expect(listed.standardOutput.contains("dev7"))
            #expect(listed.standardOutput.contains("permit-pty") == (kind == .user))
            #expect(listed.standardOutput.contains(authority.publicKey(kind).fingerprint))
            var again = request
            again.key = publicKey
            #expect(try authority.issue(again).serial != certificate.serial)
        }
    }

    @Test func requestsThatMakeNoSense() async throws {
        let path = try await key("ed25519", "key")
        let publicKey = try SSHPublicKey(line: Array(Data(contentsOf: URL(fileURLWithPath: path + ".pub"))))
        let authority = try SSHCertificateAuthority()
        func issue(_ change: (inout SSHCertificateAuthority.Request) -> Void) -> IdentityError? {
            var request = SSHCertificateAuthority.Request(
                kind: .host,
                key: publicKey,
                principals: ["dev7"],
                keyID: "x",
                lifetime: .seconds(60)
            )
            change(&request)
            do throws(IdentityError) {
                _ = try authority.issue(request)
                return nil
            } catch {
                return error
            }
        }
        #expect(issue { _ in } == nil)
        for wrong in [[], [""], ["a,b"], ["a b"], ["*.lan"], [String(repeating: "a", count: 256)]] {
            #expect(issue { $0.principals = wrong }?.code == .refused, "\(wrong)")
        }
        #expect(issue { $0.lifetime = .zero }?.code == .refused)
        #expect(issue { $0.lifetime = .seconds(11 * 365 * 86_400) }?.code == .refused)
        #expect(issue { $0.keyID = "a\nb" }?.code == .refused)
        #expect(issue { $0.key = authority.publicKey(.user) }?.code == .refused)
    }

    @Test func theKeysAreMadeOnceAndKept() async throws {
        let path = directory.path("ca")
        let passphrase = Passphrase("secret")
        _ = try EmbeddedCA.create(directory: path, trustDomain: try TrustDomain("mesh.example"), passphrase: passphrase)
        let first = try await withThrowingTaskGroup(of: SSHCertificateAuthority.self) { group in
            for _ in 0..<8 {
                group.addTask { try SSHCertificateAuthority.open(directory: path, passphrase: passphrase) }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        for kind in [SSHCertificate.Kind.user, .host] {
            #expect(Set(first.map { $0.publicKey(kind) }).count == 1)
            #expect(try SSHCertificateAuthority.publicKey(kind, directory: path) == first[0].publicKey(kind))
            let file = "\(path)/ssh-\(kind.name)-ca-key.pem"
            let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
            #expect(mode == 0o600)
            #expect(try String(contentsOfFile: file, encoding: .utf8).contains("BEGIN ENCRYPTED PRIVATE KEY"))
        }
        #expect(throws: IdentityError.self) { try SSHCertificateAuthority.open(directory: path) }
        #expect(throws: IdentityError.self) {
            try SSHCertificateAuthority.open(directory: path, passphrase: Passphrase("wrong"))
        }
        // The X.509 CA beside them still opens.
        _ = try EmbeddedCA.load(directory: path, passphrase: passphrase)
        chmod("\(path)/ssh-user-ca-key.pem", 0o644)
        #expect(throws: IdentityError.self) {
            try SSHCertificateAuthority.open(directory: path, passphrase: passphrase)
        }
    }
}

@Suite struct SSHCertificateFuzzTests {
    @Test func theCertificateParserTakesAnything() async throws {
        var fuzzer = Fuzzer("OpenSSH certificates")
        let authority = try SSHCertificateAuthority()
        let key = try SSHPublicKey(try PrivateKey.generate())
        let corpus = try [SSHCertificate.Kind.host, .user].map { kind in
            try authority.issue(
                .init(kind: kind, key: key, principals: ["dev7", "a"], keyID: "id", lifetime: .seconds(60))
            ).blob
        }
        let dictionary: [[UInt8]] = [
            [0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0, 0], [0x7F, 0xFF, 0xFF, 0xFF], Array("ssh-rsa".utf8),
            Array("ssh-ed25519-cert-v01@openssh.com".utf8), Array("ssh-rsa-cert-v01@openssh.com".utf8),
            Array("sk-ssh-ed25519-cert-v01@openssh.com".utf8),
        ]
        var done = 0
        var parsed = 0
        while fuzzer.goesOn(done, of: 20_000) {
            let bytes = fuzzer.mutate(corpus, dictionary: dictionary)
            done += 1
            guard let certificate = try? SSHCertificate(blob: bytes) else { continue }
            parsed += 1
            // What is read is what was written: nothing is lost or made up.
            #expect(certificate.blob == bytes)
            if !corpus.contains(bytes) {
                let refusal = certificate.refusal(
                    asHost: "dev7",
                    authorities: [authority.publicKey(.host).blob],
                    at: WallClock.system.seconds
                ) { $0 == $1 }
                #expect(refusal != nil, "a changed certificate was accepted")
            }
        }
        #expect(parsed > 0)
    }
}
