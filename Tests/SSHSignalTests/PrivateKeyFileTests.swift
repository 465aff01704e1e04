import Foundation
import TestPeers
import Testing

@testable import SSHSignal

/// Key files as OpenSSL and ssh-keygen write them, and as mail programs and editors leave them.
@Suite(.serialized) struct PrivateKeyFileTests {
    private static let passphrase = "secret"

    /// Runs openssl; `KEY` is the file to be made, `IN` one on P-256 as `ecparam` writes it.
    private func make(_ command: String, in directory: TemporaryDirectory) async throws -> String {
        let key = directory.path("key.pem")
        let made = try await ChildProcess.run(
            "openssl",
            ["ecparam", "-name", "prime256v1", "-genkey", "-out", directory.path("in.pem")]
        )
        try #require(made.succeeded, "\(made.standardError)")
        let words = command.split(separator: " ").map { word in
            word == "KEY" ? key : word == "IN" ? directory.path("in.pem") : String(word)
        }
        let result = try await ChildProcess.run("openssl", words)
        try #require(result.succeeded, "\(command): \(result.standardError)")
        chmod(key, 0o600)
        return key
    }

    /// Lets the key log in.
    private func authorize(_ key: String, _ server: OpenSSHServer) async throws {
        let half = try await ChildProcess.run("openssl", ["pkey", "-in", key, "-passin", "pass:secret", "-pubout"])
        try #require(half.succeeded, "\(half.standardError)")
        let pem = try server.directory.write("half.pem", half.standardOutput)
        let line = try await ChildProcess.run("ssh-keygen", ["-i", "-m", "PKCS8", "-f", pem])
        try #require(line.succeeded, "\(line.standardError)")
        try server.directory.write("authorized_keys", line.standardOutput, permissions: 0o600)
    }

    @Test(arguments: [
        "ecparam -name prime256v1 -genkey -out KEY", "ecparam -name secp384r1 -genkey -out KEY",
        "ecparam -name secp521r1 -genkey -out KEY", "ecparam -name prime256v1 -genkey -noout -out KEY",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes256 -pass pass:secret -out KEY",
        "ec -in IN -aes128 -passout pass:secret -out KEY", "ec -in IN -des3 -passout pass:secret -out KEY",
        "pkcs8 -topk8 -in IN -passout pass:secret -v2 aes-256-cbc -out KEY",
        "pkcs8 -topk8 -in IN -passout pass:secret -v1 PBE-SHA1-3DES -out KEY",
        "pkcs8 -topk8 -in IN -passout pass:secret -scrypt -out KEY", "pkcs8 -topk8 -nocrypt -in IN -out KEY",
    ])
    func asOpenSSLWritesThem(command: String) async throws {
        let server = try await OpenSSHServer()
        let key = try await make(command, in: server.directory)
        try await authorize(key, server)
        let text = try server.directory.read("key.pem")
        let spoilt = [
            text, text.replacingOccurrences(of: "\n", with: "\r\n"),
            "Bag Attributes\n    friendlyName: me\n\(text)\nsent from my telephone\n",
            "\u{FEFF}" + text.replacingOccurrences(of: "\n", with: "  \n"),
        ]
        for contents in spoilt {
            try server.directory.write("key.pem", contents, permissions: 0o600)
            let client = try await server.connect([.keyFile(path: key)]) {
                $0.passphrase = { _ in Array("secret".utf8) }
            }
            await client.close()
        }
        await server.stop()
    }

    @Test(arguments: ["ed25519", "ecdsa"]) func asSSHWritesThemAndOthersLeaveThem(type: String) async throws {
        let server = try await OpenSSHServer()
        let key = server.directory.path("key")
        try await OpenSSHServer.makeKey(type, key)
        try server.authorize(key + ".pub")
        let text = try server.directory.read("key")
        for contents in [text.replacingOccurrences(of: "\n", with: "\r\n"), "first\n\(text)last\n"] {
            try server.directory.write("key", contents, permissions: 0o600)
            let client = try await server.connect([.keyFile(path: key)])
            await client.close()
        }
        await server.stop()
    }

    /// OpenSSL writes PKCS#8, where the first line does not tell the type.
    @Test(arguments: [
        "genrsa -out KEY 2048", "genrsa -traditional -out KEY 2048", "genpkey -algorithm RSA -out KEY",
        "genrsa -traditional -aes128 -passout pass:secret -out KEY 2048",
    ])
    func rsaKeysAreLeftToSSH(command: String) async throws {
        let directory = TemporaryDirectory()
        let key = try await make(command, in: directory)
        #expect(try PrivateKeyFile(path: key).isRSA)
    }

    @Test func whatIsNoPrivateKey() async throws {
        let directory = TemporaryDirectory()
        _ = try await make("ecparam -name prime256v1 -out KEY", in: directory)
        #expect(throws: PrivateKeyFile.Failure.self) { try PrivateKeyFile(path: directory.path("key.pem")) }
        let whole = try directory.read("in.pem")
        try directory.write("half", String(whole.dropLast(20)), permissions: 0o600)
        #expect(throws: PrivateKeyFile.Failure.self) { try PrivateKeyFile(path: directory.path("half")) }
        try await OpenSSHServer.makeKey("ed25519", directory.path("id"))
        let half = try PrivateKeyFile(path: directory.path("id.pub"))
        #expect(!half.hasPrivateHalf)
        #expect(half.publicKey == (try PrivateKeyFile(path: directory.path("id")).publicKey))
    }
}
