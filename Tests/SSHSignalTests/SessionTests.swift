import Foundation
import SSHSignal
import Streams
import TestPeers
import Testing

@Suite(.serialized) struct SessionTests {
    @Test func runsACommandOnOpenSSH() async throws {
        let server = try await OpenSSHServer()
        let client = try await server.connect()
        let result = try await client.run("printf out; printf err >&2; cat; exit 7", input: .bytes("in".utf8))
        #expect(result.text == "outin")
        #expect(result.standardErrorText == "err")
        #expect(result.exit == .status(7))
        #expect(client.serverVersion.hasPrefix("SSH-2.0-OpenSSH"))
        #expect(client.hostKey.fingerprint == (try await server.hostKeyFingerprint()))
        await client.close()
    }

    @Test func runsACommandOnDropbear() async throws {
        let server = try await DropbearServer()
        let client = try await server.connect()
        let result = try await client.run("printf out; printf err >&2; cat; kill -TERM $$", input: .bytes("in".utf8))
        #expect(result.text == "outin")
        #expect(result.standardErrorText == "err")
        #expect(result.exit == .signal("TERM"))
        await client.close()
    }
}
