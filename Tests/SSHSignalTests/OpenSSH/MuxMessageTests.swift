import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// The master's own messages, as PROTOCOL.mux of OpenSSH has them.
@Suite struct MuxMessageTests {
    @Test func requests() {
        #expect(MuxMessage.hello == [0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 4])
        #expect(MuxMessage.aliveCheck(id: 2) == [0, 0, 0, 8, 0x10, 0, 0, 4, 0, 0, 0, 2])
        #expect(MuxMessage.proxy(id: 3) == [0, 0, 0, 8, 0x10, 0, 0, 0xF, 0, 0, 0, 3])
    }

    @Test func answers() throws {
        #expect(try MuxMessage.decode([0, 0, 0, 1, 0, 0, 0, 4]) == .hello(version: 4))
        #expect(try MuxMessage.decode([0x80, 0, 0, 5, 0, 0, 0, 9, 0, 0, 1, 1]) == .alive(request: 9))
        #expect(try MuxMessage.decode([0x80, 0, 0, 0xF, 0, 0, 0, 3]) == .proxied(request: 3))
        let refusal: [UInt8] = [0x80, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 5] + Array("no\u{1B}[m".utf8.prefix(5))
        #expect(try MuxMessage.decode(refusal) == .refused(request: 1, reason: "no?[m"))
        #expect(try MuxMessage.decode([0x80, 0, 0, 8, 0, 0, 0, 1]) == .other(0x8000_0008))
    }

    @Test(arguments: [[0, 0], [0, 0, 0, 1, 0], [0x80, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 9, 1]])
    func malformed(bytes: [UInt8]) {
        #expect(throws: SSHError.self) { try MuxMessage.decode(bytes) }
    }
}

@Suite struct OpenSSHLogTests {
    private func log(_ text: String) -> OpenSSHLog {
        let log = OpenSSHLog()
        Array(text.utf8).withUnsafeBytes { log.append($0) }
        return log
    }

    @Test(arguments: [
        ("u@h: Permission denied (publickey).\r\n", SSHError.Code.authenticationRefused),
        ("Received disconnect from 1.2.3.4 port 22:2: Too many authentication failures\r\n", .authenticationRefused),
        ("Host key verification failed.\r\n", .hostKeyRefused),
        ("ssh: connect to host h port 22: Connection refused\r\n", .connectionFailed),
        ("ssh: connect to host h port 22: Connection timed out\r\n", .timedOut),
        ("ssh: Could not resolve hostname h: Name or service not known\r\n", .connectionFailed),
        (
            "kex_exchange_identification: Connection closed by remote host\nConnection closed by 1.2.3.4 port 22\n",
            .busy
        ),
        ("Unable to negotiate with 1.2.3.4 port 22: no matching cipher found. Their offer: x\n", .negotiationFailed),
        ("/x/config: line 1: Bad configuration option: foo\n/x/config: terminating\n", .system),
        ("", .connectionLost),
    ])
    func failures(text: String, code: SSHError.Code) {
        #expect(log(text).loginFailure(of: "h", isDirect: true, program: "/ssh").code == code)
    }

    /// What the server says before is not the last word.
    @Test func theLastLineCounts() {
        let text = "Host key verification failed.\nu@h: Permission denied (publickey).\n"
        #expect(log(text).loginFailure(of: "h", isDirect: true, program: "/ssh").code == .authenticationRefused)
    }

    @Test func isBounded() {
        let log = log(
            String(repeating: String(repeating: "x", count: 5000) + "\n", count: 200) + "\u{1B}]0;evil\u{07}\n"
        )
        #expect(log.lines.count == 40)
        #expect(log.lines.allSatisfy { $0.utf8.count <= 1000 + 3 })
        #expect(log.lines.last == "?]0;evil?")
    }

    @Test func versions() {
        #expect(OpenSSHProgram.version(of: "OpenSSH_9.2p1 Debian-2+deb12u3").map { [$0, $1] } == [9, 2])
        #expect(OpenSSHProgram.version(of: "OpenSSH_10.0p2").map { [$0, $1] } == [10, 0])
        #expect(OpenSSHProgram.version(of: "Dropbear v2022.83") == nil)
    }

    @Test func keysOfCertificates() async throws {
        let directory = TemporaryDirectory()
        for type in ["ed25519", "ecdsa", "rsa"] {
            let (ca, key) = (directory.path("ca_\(type)"), directory.path("key_\(type)"))
            try await OpenSSHServer.makeKey("ed25519", ca)
            try await OpenSSHServer.makeKey(type, key)
            let signed = try await ChildProcess.run("ssh-keygen", ["-q", "-s", ca, "-h", "-I", "x", key + ".pub"])
            #expect(signed.succeeded)
            func read(_ name: String) throws -> HostKey {
                let words = try directory.read(name).split(separator: " ")
                let blob = try #require(Base64.decode(words[1]))
                return try #require(HostKey(blob: blob))
            }
            let certificate = try read("key_\(type)-cert.pub")
            #expect(certificate.algorithm.hasSuffix("-cert-v01@openssh.com"))
            #expect(certificate.withoutCertificate == (try read("key_\(type).pub")))
        }
    }
}
