import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import SSHSignal

/// State machines and parsers of the session, by plain calls.
@Suite struct SessionFormatTests {
    @Test func anUploadGoesThroughItsSteps() {
        var state = SFTPUploadState(size: 70_000, part: "p", target: "t", permissions: 0o755)
        #expect(!state.isSpeaking)
        #expect(state.nextWrite() == nil)
        let opening = state.received(.version(3, extensions: [SFTPPacket.posixRename]))
        #expect(opening == .send(SFTPPacket.open(id: 1, path: "p", permissions: 0o600)))
        #expect(state.isSpeaking)
        #expect(state.received(.handle(id: 1, [7])) == .fill)
        var counts: [Int] = []
        while let (header, count) = state.nextWrite() {
            #expect(header.count == 26)
            counts.append(count)
        }
        #expect(counts == [32768, 32768, 4464])
        // Answers in any order.
        #expect(state.received(.status(id: 4, code: 0, message: "")) == .fill)
        #expect(state.acknowledged == 4464)
        #expect(state.received(.status(id: 2, code: 0, message: "")) == .fill)
        let permissions = SFTPPacket.setPermissions(id: 5, handle: [7], permissions: 0o755)
        #expect(state.received(.status(id: 3, code: 0, message: "")) == .send(permissions))
        #expect(state.received(.status(id: 5, code: 0, message: "")) == .send(SFTPPacket.status(id: 6, handle: [7])))
        #expect(state.received(.size(id: 6, 70_000)) == .send(SFTPPacket.close(id: 7, handle: [7])))
        #expect(
            state.received(.status(id: 7, code: 0, message: "")) == .send(SFTPPacket.rename(id: 8, from: "p", to: "t"))
        )
        #expect(state.received(.status(id: 8, code: 0, message: "")) == .done)
    }

    @Test func anUploadKeepsAtMostSixtyFourWritesInFlight() {
        var state = writing(size: 1 << 30)
        var count = 0
        while state.nextWrite() != nil { count += 1 }
        #expect(count == 64)
        #expect(state.received(.status(id: 2, code: 0, message: "")) == .fill)
        #expect(state.nextWrite() != nil)
        #expect(state.nextWrite() == nil)
    }

    @Test func anUploadThatFailsRemovesThePart() {
        var state = writing(size: 100_000)
        while state.nextWrite() != nil {}
        #expect(
            state.received(.status(id: 3, code: 4, message: "Failure")) == .send(SFTPPacket.remove(id: 6, path: "p"))
        )
        #expect(state.received(.status(id: 2, code: 0, message: "")) == .none)
        #expect(state.nextWrite() == nil)
        guard case .fail(let why) = state.received(.status(id: 6, code: 0, message: "")) else {
            Issue.record("it must fail")
            return
        }
        #expect(why.contains("disk is full"))
    }

    @Test func anUploadOfAnotherSizeFails() {
        var state = writing(size: 10)
        _ = state.nextWrite()
        _ = state.received(.status(id: 2, code: 0, message: ""))
        _ = state.received(.status(id: 3, code: 0, message: ""))
        #expect(state.received(.size(id: 4, 9)) == .fail("p has 9 bytes after the upload, not 10"))
    }

    @Test func answersThatDoNotFitEndTheUpload() {
        var early = SFTPUploadState(size: 1, part: "p", target: "t", permissions: 0)
        #expect(early.received(.handle(id: 1, [1])) == .unavailable)
        var state = writing(size: 10)
        for answer in [SFTPPacket.Answer?.none, .version(3, extensions: []), .status(id: 99, code: 0, message: "")] {
            var copy = state
            guard case .fail = copy.received(answer) else {
                Issue.record("\(String(describing: answer)) was accepted")
                return
            }
        }
        _ = state.nextWrite()
        #expect(state.received(.status(id: 2, code: 0, message: "")) != .fill)
    }

    private func writing(size: UInt64) -> SFTPUploadState {
        var state = SFTPUploadState(size: size, part: "p", target: "t", permissions: 0o600)
        _ = state.received(.version(3, extensions: []))
        _ = state.received(.handle(id: 1, [7]))
        return state
    }

    @Test func sftpAnswersAreDecodedStrictly() {
        #expect(
            SFTPPacket.decode([101, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 1, 120, 0, 0, 0, 0])
                == .status(id: 5, code: 3, message: "x")
        )
        #expect(SFTPPacket.decode([101, 0, 0, 0, 5, 0, 0]) == nil)
        #expect(SFTPPacket.decode([102, 0, 0, 0, 5, 0, 0, 0, 2, 1]) == nil)
        #expect(SFTPPacket.decode([102, 0, 0, 0, 5, 0, 0, 0, 2, 1, 2]) == .handle(id: 5, [1, 2]))
        #expect(SFTPPacket.decode([105, 0, 0, 0, 5, 0, 0, 0, 0]) == nil)
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

    @Test func shellWordsAreQuoted() async throws {
        for word in ["plain", "it's", "", "a b$c`d\"e\\f!", "'''", "ü\n"] {
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
