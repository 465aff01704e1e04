import MeshIdentity
import Platform
import TestPeers
import Testing

@Suite struct PasswordHashTests {
    @Test func aHashMatchesItsPasswordAndIsReadAgain() throws {
        let hash = try PasswordHash(of: Array("secret".utf8), iterations: 10_000)
        #expect(hash.matches(Array("secret".utf8)))
        for other in ["", "Secret", "secret ", "secre"] { #expect(!hash.matches(Array(other.utf8)), "\(other)") }
        #expect(try PasswordHash(parsing: hash.description) == hash)
        #expect(try PasswordHash(of: Array("secret".utf8), iterations: 10_000) != hash, "salt")
    }

    /// What the documentation tells to make one with.
    @Test func pythonMakesThem() async throws {
        let script = """
            import base64, hashlib
            s = bytes(range(16)); b = lambda x: base64.b64encode(x).decode().rstrip("=")
            print(f"$pbkdf2-sha256$i=20000${b(s)}${b(hashlib.pbkdf2_hmac('sha256', 'sécret'.encode(), s, 20000))}")
            """
        let output = try await ChildProcess.run(TestTools.python, ["-c", script], environment: ["PYTHONUTF8": "1"])
        let hash = try PasswordHash(parsing: output.standardOutput.split(separator: "\n").first ?? "")
        #expect(hash.matches(Array("sécret".utf8)))
    }

    @Test(arguments: [
        "", "secret", "$1$abc$def", "$pbkdf2-sha256$10000$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$pbkdf2-sha256$i=9999$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$pbkdf2-sha256$i=10000$AAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$pbkdf2-sha256$i=10000$AAAAAAAAAAA$AAAA", "$pbkdf2-sha256$i=10000$AAAAAAAAAA!$AAAAAAAAAAAAAAAAAAAAAA",
        "$pbkdf2-sha256$i=10000$AAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA$",
        "$pbkdf2-sha256$i=99999999999999999999$AAAAAAAAAAA$AAAA",
    ])
    func whatIsNoHashIsRefused(text: String) {
        let error = #expect(throws: AddressError.self) { try PasswordHash(parsing: text) }
        #expect(text.isEmpty || error?.message.contains(text) == false, "it may be a password")
    }
}
