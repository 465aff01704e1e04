import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// State machines and parsers of the session, by plain calls.
@Suite struct SessionFormatTests {
    @Test func writesAreAcknowledgedInAnyOrder() throws {
        var writes = SFTPWrites(to: "p", handle: [7], size: 70_000)
        var counts: [Int] = []
        var id: UInt32 = 2
        while let (header, count) = writes.next(id) {
            #expect(header.count == 26)
            counts.append(count)
            id += 1
        }
        #expect(counts == [32768, 32768, 4464])
        #expect(try !writes.received(.status(id: 4, code: 0, message: "")))
        #expect(writes.acknowledged == 4464)
        #expect(try !writes.received(.status(id: 2, code: 0, message: "")))
        #expect(try writes.received(.status(id: 3, code: 0, message: "")))
    }

    @Test func atMostSixtyFourWritesAreInFlight() throws {
        var writes = SFTPWrites(to: "p", handle: [7], size: 1 << 30)
        var count: UInt32 = 0
        while writes.next(count) != nil { count += 1 }
        #expect(count == 64)
        #expect(try !writes.received(.status(id: 2, code: 0, message: "")))
        #expect(writes.next(count) != nil)
        #expect(writes.next(count + 1) == nil)
    }

    @Test func answersThatDoNotFitEndTheTransfer() throws {
        for answer in [SFTPPacket.Answer.handle(id: 1, [1]), .status(id: 99, code: 0, message: "")] {
            var writes = SFTPWrites(to: "p", handle: [7], size: 10)
            _ = writes.next(1)
            #expect(throws: SSHError.self) { try writes.received(answer) }
            var reads = SFTPReads(of: "p", handle: [7], size: 10)
            _ = reads.next(1)
            #expect(throws: SSHError.self) { try reads.received(answer) }
        }
        var writes = SFTPWrites(to: "p", handle: [7], size: 10)
        _ = writes.next(1)
        let full = #expect(throws: SSHError.self) { try writes.received(.status(id: 1, code: 4, message: "Failure")) }
        #expect(full?.message.contains("disk is full") == true)
    }

    @Test func whatWasReadTooShortIsAskedForAgain() throws {
        var reads = SFTPReads(of: "p", handle: [7], size: 40_000)
        #expect(reads.next(1) != nil)
        #expect(reads.next(2) != nil)
        #expect(reads.next(3) == nil)
        let (bytes, offset) = try #require(try reads.received(.data(id: 1, [1, 2])))
        #expect(bytes == [1, 2])
        #expect(offset == 0)
        #expect(reads.next(3) == SFTPPacket.read(id: 3, handle: [7], offset: 2, count: 32766))
        _ = try reads.received(.data(id: 3, [UInt8](repeating: 0, count: 32766)))
        #expect(!reads.isDone)
        let (_, second) = try #require(try reads.received(.data(id: 2, [UInt8](repeating: 0, count: 7232))))
        #expect(second == 32768)
        #expect(reads.isDone)
    }

    @Test func namesAndAttributesAreDecoded() {
        let attributes: [UInt8] = [0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0x81, 0xA0]
        let found = SFTPPacket.Attributes(size: nil, owner: .init(user: 1, group: 2), mode: 0o100640)
        #expect(found.kind == .file)
        #expect(SFTPPacket.decode([105, 0, 0, 0, 5] + attributes) == .attributes(id: 5, found))
        #expect(
            SFTPPacket.decode([104, 0, 0, 0, 5, 0, 0, 0, 1, 0, 0, 0, 1, 120, 0, 0, 0, 0] + attributes)
                == .names(id: 5, [.init(name: "x", attributes: found)])
        )
        #expect(SFTPPacket.decode([104, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0, 1, 120, 0, 0, 0, 0] + attributes) == nil)
    }

    @Test func sftpAnswersAreDecodedStrictly() {
        #expect(
            SFTPPacket.decode([101, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 1, 120, 0, 0, 0, 0])
                == .status(id: 5, code: 3, message: "x")
        )
        #expect(SFTPPacket.decode([101, 0, 0, 0, 5, 0, 0]) == nil)
        #expect(SFTPPacket.decode([102, 0, 0, 0, 5, 0, 0, 0, 2, 1]) == nil)
        #expect(SFTPPacket.decode([102, 0, 0, 0, 5, 0, 0, 0, 2, 1, 2]) == .handle(id: 5, [1, 2]))
        #expect(SFTPPacket.decode([105, 0, 0, 0, 5, 0, 0, 0, 1]) == nil)
        #expect(SFTPPacket.decode([]) == nil)
    }

    @Test func agentAnswersAreBounded() {
        var list = SSHWireWriter()
        list.byte(12)
        list.uint32(2)
        var blob = SSHWireWriter()
        blob.string("ssh-ed25519")
        blob.string([UInt8](repeating: 1, count: 32))
        list.string(blob.bytes)
        list.string("a\u{1B}comment")
        list.string([1, 2])
        list.string("odd")
        let identities = AgentClient.parseIdentities(list.bytes)
        #expect(identities?.map(\.comment) == ["a?comment"])
        #expect(AgentClient.parseIdentities(Array(list.bytes.dropLast())) == nil)
        #expect(AgentClient.parseIdentities([12, 255, 255, 255, 255]) == nil)
        #expect(AgentClient.parseIdentities([5]) == nil)
        #expect(AgentClient.parseSignature([5]) == nil)
        #expect(AgentClient.parseSignature([14, 0, 0, 0, 9, 0, 0, 0, 1, 120, 0, 0, 0, 0]) == [])
        #expect(AgentClient.parseSignature([14, 0, 0, 0, 9, 0, 0, 0, 1, 120, 0, 0, 0, 7]) == nil)
    }

    @Test func keyFilesThatAreDamaged() async throws {
        let directory = TemporaryDirectory()
        let path = directory.path("key")
        try await OpenSSHServer.makeKey("ed25519", path, passphrase: "secret")
        let whole = try directory.read("key")
        let file = try PrivateKeyFile(path: path)
        #expect(file.isEncrypted)
        #expect(file.publicKey?.fingerprint == (try await OpenSSHServer.fingerprint(path)))
        for text in [
            "", "-----BEGIN", String(whole.prefix(60)), whole.replacingOccurrences(of: "b3Bl", with: "!!!!"),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            #expect(throws: PrivateKeyFile.Failure.self) {
                try PrivateKeyFile(contents: Array(text.utf8), name: "key")
            }
        }
    }

    /// A mark behind an apostrophe, or one before it that belongs to what follows, makes another character of it for
    /// Swift, not for a shell.
    @Test func shellWordsAreQuoted() async throws {
        let hostile = ["a'\u{301}; echo x; '\u{301}b", "\u{600}'; echo x; \u{600}'", "'\u{200D}$(echo x)'\u{FE0F}"]
        for word in ["plain", "it's", "", "a b$c`d\"e\\f!", "'''", "ü\n"] + hostile {
            let printed = try await ChildProcess.run("sh", ["-c", "printf %s \(ShellScript.quote(word))"])
            #expect(printed.standardOutput == word)
        }
    }

    @Test func knownKeyTypesAreAskedForFirst() {
        var configuration = SSHSessionConfiguration(user: "u")
        configuration.hostKeyAlgorithms = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
        #expect(
            configuration.hostKeyAlgorithms(preferring: ["ssh-rsa", "ssh-dss", "ecdsa-sha2-nistp256"]) == [
                "rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256", "ssh-ed25519",
            ]
        )
        #expect(configuration.hostKeyAlgorithms(preferring: []) == configuration.hostKeyAlgorithms)
    }
}
