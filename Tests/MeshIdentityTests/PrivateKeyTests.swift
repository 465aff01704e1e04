import MeshIdentity
import Platform
import TestPeers
import Testing

@Suite struct PrivateKeys {
    private let directory = TemporaryDirectory()

    /// The public key that the openssl program reads from a private key file.
    private func publicKey(_ path: String, passphrase: String? = nil) async throws -> String {
        let arguments = ["pkey", "-in", path, "-pubout"] + (passphrase.map { ["-passin", "pass:\($0)"] } ?? [])
        let output = try await ChildProcess.run("openssl", arguments)
        try #require(output.succeeded, "\(output.standardError)")
        return output.standardOutput
    }

    @Test func opensslReadsOurKey() async throws {
        let key = try PrivateKey.generate()
        let pem = try key.pem()
        #expect(String(decoding: pem, as: UTF8.self).hasPrefix("-----BEGIN PRIVATE KEY-----"))
        let clear = try directory.write("clear.pem", pem)
        let encrypted = try directory.write("encrypted.pem", key.pem(encryptedWith: Passphrase("correct horse")))
        #expect(try directory.read("encrypted.pem").hasPrefix("-----BEGIN ENCRYPTED PRIVATE KEY-----"))
        #expect(try await publicKey(clear) == publicKey(encrypted, passphrase: "correct horse"))
        let text = try await ChildProcess.run("openssl", ["pkey", "-in", clear, "-noout", "-text"]).standardOutput
        #expect(text.contains("P-256"))
        let details = try await ChildProcess.run("openssl", ["asn1parse", "-in", encrypted]).standardOutput
        #expect(details.contains("1.3.6.1.4.1.11591.4.11") || details.contains("scrypt"))
        #expect(details.contains("aes-256-cbc"))
    }

    @Test func weReadOurOwnEncryptedKey() throws {
        let key = try PrivateKey.generate()
        let pem = try key.pem(encryptedWith: Passphrase("pä ss"))
        #expect(try PrivateKey(pem: pem, passphrase: Passphrase("pä ss")).pem() == key.pem())
        #expect(throws: IdentityError.self) { try key.pem(encryptedWith: Passphrase("")) }
    }

    static let openSSLKeys: [[String]] = [
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
        ["genrsa", "-traditional", "2048"], ["genpkey", "-algorithm", "ED25519"],
    ]

    @Test(arguments: openSSLKeys)
    func weReadKeysOfOpenSSL(_ arguments: [String]) async throws {
        let pem = try await ChildProcess.run("openssl", arguments).standardOutput
        let path = try directory.write("key.pem", pem)
        let ours = try directory.write("ours.pem", PrivateKey(pem: Array(pem.utf8)).pem())
        #expect(try await publicKey(path) == publicKey(ours))
    }

    @Test(arguments: [["-aes256"], ["-aes256", "-traditional"], ["-aes-128-cbc"]])
    func aPassphraseIsNeededAndMustBeRight(_ cipher: [String]) async throws {
        let clear = try directory.write("clear.pem", PrivateKey.generate().pem())
        let output = try await ChildProcess.run(
            "openssl",
            ["pkey", "-in", clear, "-passout", "pass:right"] + cipher
        )
        let pem = Array(output.standardOutput.utf8)
        #expect(
            try PrivateKey(pem: pem, passphrase: Passphrase("right")).pem()
                == PrivateKey(pem: AtomicFile.read(clear)).pem()
        )
        let missing = #expect(throws: IdentityError.self) { try PrivateKey(pem: pem) }
        #expect(missing?.code == .passphraseRequired)
        for wrong in ["wrong", "right ", "", String(repeating: "x", count: 5000)] {
            let error = #expect(throws: IdentityError.self) { try PrivateKey(pem: pem, passphrase: Passphrase(wrong)) }
            #expect(error?.code == .wrongPassphrase)
            #expect(error?.message.contains("wrong") == false)
        }
    }

    @Test func whatIsNoKeyIsSaidSo() throws {
        let key = String(decoding: try PrivateKey.generate().pem(), as: UTF8.self)
        let certificate = String(decoding: try TestCertificates.shared.ca("root").pem, as: UTF8.self)
        for text in ["", "hello", certificate, String(key.dropLast(60)), key.replacing("A", with: "B")] {
            for passphrase in [nil, Passphrase("any")] {
                let error = #expect(throws: IdentityError.self) {
                    try PrivateKey(pem: Array(text.utf8), passphrase: passphrase)
                }
                #expect(error?.code == .invalidKey)
            }
        }
    }

    static let refusedKeys: [[String]] = [
        ["genrsa", "1024"], ["ecparam", "-name", "secp256k1", "-genkey", "-noout"],
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit"],
        ["genpkey", "-algorithm", "X25519"],
    ]

    @Test(arguments: refusedKeys)
    func keysThatNoPeerAcceptsAreRefused(_ arguments: [String]) async throws {
        let pem = try await ChildProcess.run("openssl", arguments).standardOutput
        let error = #expect(throws: IdentityError.self) { try PrivateKey(pem: Array(pem.utf8)) }
        #expect(error?.code == .invalidKey)
    }

    @Test func aKeyMatchesItsOwnCertificateOnly() throws {
        let certificates = TestCertificates.shared
        let key = try PrivateKey(pem: AtomicFile.read("\(certificates.path(.client))/key.pem"))
        #expect(try key.matches(certificates.chain(.client)[0]))
        #expect(try !key.matches(certificates.chain(.server)[0]))
    }

    @Test func passphrasesDoNotPrint() {
        #expect("\(Passphrase("geheim"))" == "(passphrase)")
        #expect(!String(reflecting: Passphrase("geheim")).contains("geheim"))
        #expect(Passphrase("a") == Passphrase("a"))
        #expect(Passphrase("a") != Passphrase("b"))
        #expect(Passphrase("a") != Passphrase("aa"))
    }
}
