import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// Signatures that the real `ssh-keygen -Y sign` makes, verified by us, and ours read by `ssh-keygen -Y verify`.
@Suite struct SSHSignatureTests {
    private let directory = TemporaryDirectory()
    private let message = Array("a request\n".utf8)

    private func key(_ type: String, bits: Int? = nil, name: String = "k") async throws -> SSHPublicKey {
        let path = directory.path(name)
        for file in [path, path + ".pub"] { try? FileManager.default.removeItem(atPath: file) }
        let made = try await ChildProcess.run(
            "ssh-keygen",
            ["-q", "-t", type, "-N", "", "-f", path] + (bits.map { ["-b", "\($0)"] } ?? [])
        )
        try #require(made.succeeded, "\(made.standardError)")
        return try SSHPublicKey(line: Array(try directory.read(name + ".pub").utf8))
    }

    private func sign(
        _ options: [String] = [],
        namespace: String = "test@x",
        name: String = "k"
    ) async throws -> [UInt8] {
        let signed = try await ChildProcess.run(
            "ssh-keygen",
            ["-Y", "sign", "-n", namespace, "-f", directory.path(name)] + options,
            input: message
        )
        try #require(signed.succeeded, "\(signed.standardError)")
        return Array(signed.standardOutput.utf8)
    }

    @Test(
        arguments: [
            ("ed25519", nil), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 3072),
        ] as [(String, Int?)],
        ["sha256", "sha512"]
    )
    func everyKindOfKey(kind: (type: String, bits: Int?), hash: String) async throws {
        let key = try await key(kind.type, bits: kind.bits)
        let armored = try await sign(["-O", "hashalg=\(hash)"])
        let signature = try SSHSignature(armored: armored)
        #expect(signature.key == key && signature.namespace == "test@x" && signature.hashAlgorithm == hash)
        #expect(Array(signature.armored.utf8) == armored)
        #expect(signature.refusal(of: message, namespace: "test@x", by: key) == nil)
        #expect(signature.refusal(of: message + [0], namespace: "test@x", by: key) == "it does not verify")
        #expect(
            signature.refusal(of: message, namespace: "test@y", by: key)?.contains("'test@x', not for 'test@y'") == true
        )
        let other = try await self.key("ed25519", name: "other")
        #expect(signature.refusal(of: message, namespace: "test@x", by: other)?.contains("of the key") == true)

        // What we write out again is what ssh-keygen takes.
        try directory.write("signature", signature.armored)
        try directory.write("signers", "me \(key.line)\n")
        let verified = try await ChildProcess.run(
            "ssh-keygen",
            [
                "-Y", "verify", "-n", "test@x", "-I", "me", "-f", directory.path("signers"), "-s",
                directory.path("signature"),
            ],
            input: message
        )
        #expect(verified.succeeded, "\(verified.standardError)")
    }

    /// The fields by hand: each that is wrong is named.
    @Test func malformed() async throws {
        let key = try await key("ed25519")
        func blob(
            magic: String = "SSHSIG",
            version: UInt32 = 1,
            namespace: String = "n",
            reserved: String = "",
            hash: String = "sha512",
            more: [UInt8] = []
        ) -> [UInt8] {
            var writer = SSHWireWriter()
            writer.raw(magic.utf8)
            writer.uint32(version)
            writer.string(key.blob)
            for text in [namespace, reserved, hash, "signature"] { writer.string(text) }
            return writer.bytes + more
        }
        func refusal(_ blob: [UInt8]) -> String? {
            do throws(IdentityError) {
                _ = try SSHSignature(blob: blob)
                return nil
            } catch {
                return error.message
            }
        }
        #expect(refusal(blob()) == nil)
        #expect(refusal(blob(magic: "SSHSIX"))?.contains("SSHSIG") == true)
        #expect(refusal(blob(version: 2))?.contains("version 2") == true)
        #expect(refusal(blob(namespace: ""))?.contains("no namespace") == true)
        #expect(refusal(blob(namespace: "a b"))?.contains("malformed") == true)
        #expect(refusal(blob(reserved: "x"))?.contains("reserved") == true)
        #expect(refusal(blob(hash: "sha1"))?.contains("SHA-256") == true)
        #expect(refusal(blob(more: [0]))?.contains("1 bytes follow") == true)
        #expect(refusal([UInt8](repeating: 0, count: 1 << 20))?.contains("too long") == true)
        let whole = blob()
        for length in whole.indices { #expect(refusal(Array(whole[..<length])) != nil, "\(length)") }
        for text in ["", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----", "U1NIU0lH"] {
            #expect(throws: IdentityError.self) { try SSHSignature(armored: Array(text.utf8)) }
        }
    }

    /// An error or a refusal, never a crash; and nothing that was changed is taken.
    @Test func fuzzed() async throws {
        var fuzzer = Fuzzer("SSHSIG")
        var keys: [SSHPublicKey] = []
        var corpus: [[UInt8]] = []
        for (name, type) in [("a", "ed25519"), ("b", "ecdsa"), ("c", "rsa")] {
            keys.append(try await key(type, name: name))
            corpus.append(try SSHSignature(armored: try await sign(name: name)).blob)
        }
        let armored = corpus.compactMap { try? SSHSignature(blob: $0).armored }.map { Array($0.utf8) }
        let dictionary =
            ["SSHSIG", "sha256", "ssh-rsa", "rsa-sha2-256", "-----END SSH SIGNATURE-----", "\n", "="]
            .map { Array($0.utf8) } + [[0, 0, 0, 0], [0, 0, 0, 1], [0xFF, 0xFF, 0xFF, 0xFF]]
        var done = 0
        while fuzzer.goesOn(done, of: 4000) {
            let bytes = fuzzer.mutate(done % 2 == 0 ? corpus : armored, dictionary: dictionary)
            let signature = done % 2 == 0 ? try? SSHSignature(blob: bytes) : try? SSHSignature(armored: bytes)
            done += 1
            guard let signature else { continue }
            for key in keys {
                #expect(signature.refusal(of: message + [1], namespace: "test@x", by: key) != nil)
                // An ECDSA signature may be written with more zeros in front of its numbers; the others have one form.
                if !corpus.contains(signature.blob), !key.algorithm.hasPrefix("ecdsa-") {
                    #expect(signature.refusal(of: message, namespace: "test@x", by: key) != nil)
                }
            }
        }
    }
}
