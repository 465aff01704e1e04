import Foundation
import MeshIdentity
import TestPeers
import Testing

@testable import SSHSignal

/// Keys of every kind, made by ssh-keygen.
struct TestKeys {
    let directory = TemporaryDirectory()

    func make(_ name: String, type: String = "ed25519") async throws -> HostKey {
        let made = try await ChildProcess.run(
            "ssh-keygen",
            ["-q", "-t", type, "-N", "", "-C", "", "-f", directory.path(name)]
        )
        try #require(made.succeeded, "\(made.standardError)")
        return try key(name)
    }

    func key(_ name: String) throws -> HostKey {
        let fields = try directory.read(name + ".pub").split(whereSeparator: \.isWhitespace)
        return try #require(Base64.decode(fields[1]).flatMap { HostKey(blob: $0) })
    }
}

extension HostKey {
    var line: String { "\(algorithm) \(Base64.encode(blob))" }
}

@Suite struct KnownHostsTests {
    let keys = TestKeys()

    private func parse(_ text: String) -> KnownHosts { KnownHosts(contents: Array(text.utf8), file: "kh") }

    @Test func verdicts() async throws {
        let a = try await keys.make("a")
        let b = try await keys.make("b")
        let c = try await keys.make("c", type: "ecdsa")
        let known = parse(
            """
            # comment

            plain,10.0.0.7 \(a.line) a comment
            [port.lan]:2222\t\(a.line)
            *.wild,!not.wild \(a.line)
            two \(a.line)
            two \(c.line)
            @revoked * \(b.line)
            @cert-authority *.ca \(c.line)
            """
        )
        #expect(known.skippedLines.isEmpty)
        #expect(known.verdict(for: a, of: "plain") == .match(file: "kh", line: 3))
        #expect(known.verdict(for: a, of: "10.0.0.7") == .match(file: "kh", line: 3))
        #expect(known.verdict(for: a, of: "[port.lan]:2222") == .match(file: "kh", line: 4))
        #expect(known.verdict(for: a, of: "port.lan") == .unknown(algorithms: []))
        #expect(known.verdict(for: a, of: "x.wild") == .match(file: "kh", line: 5))
        #expect(known.verdict(for: a, of: "not.wild") == .unknown(algorithms: []))
        #expect(known.verdict(for: c, of: "two") == .match(file: "kh", line: 7))
        #expect(known.verdict(for: c, of: "plain") == .unknown(algorithms: ["ssh-ed25519"]))
        #expect(known.verdict(for: b, of: "anything") == .revoked(file: "kh", line: 8))
        #expect(known.verdict(for: c, of: "x.ca") == .unknown(algorithms: []), "a CA line is no host's key")
        #expect(known.authorities(for: "x.ca").count == 1)
        #expect(known.authorities(for: "plain").isEmpty)
        #expect(known.algorithms(for: "two") == ["ssh-ed25519", "ecdsa-sha2-nistp256"])
        #expect(known.algorithms(for: "x.ca") == [])
        let d = try await keys.make("d")
        #expect(known.verdict(for: d, of: "plain") == .changed(expected: a.fingerprint, file: "kh", line: 3))
    }

    @Test func revocationWinsOverAPlainLine() async throws {
        let a = try await keys.make("a")
        let known = parse("host \(a.line)\n@revoked host \(a.line)\n")
        #expect(known.verdict(for: a, of: "host") == .revoked(file: "kh", line: 2))
    }

    @Test func damagedLinesAreSkippedAndNamed() async throws {
        let a = try await keys.make("a")
        let known = parse(
            """
            host
            host ssh-ed25519
            host ssh-ed25519 !!!!
            host ssh-rsa \(a.line.split(separator: " ")[1])
            @odd host \(a.line)
            |1|xx|yy \(a.line)
            |2|\(Base64.encode([1, 2, 3]))|\(Base64.encode([UInt8](repeating: 0, count: 20))) \(a.line)
            host \(a.line)
            """
        )
        #expect(known.skippedLines.map(\.line) == [1, 2, 3, 4, 5, 6, 7])
        #expect(known.verdict(for: a, of: "host") == .match(file: "kh", line: 8))
    }

    @Test func fingerprintIsThatOfSSHKeygen() async throws {
        for type in ["ed25519", "ecdsa", "rsa"] {
            let key = try await keys.make(type, type: type)
            let output = try await ChildProcess.run("ssh-keygen", ["-lf", keys.directory.path(type)])
            #expect(output.standardOutput.split(separator: " ")[1] == key.fingerprint)
        }
    }

    /// ssh-keygen hashes a file and looks hosts up in it: the same hosts must be found in the same lines.
    @Test func sameAsSSHKeygen() async throws {
        let a = try await keys.make("a")
        let b = try await keys.make("b", type: "ecdsa")
        let file = try keys.directory.write(
            "kh",
            """
            one,10.0.0.1 \(a.line)
            [two.lan]:2222 \(b.line)
            *.wild,!not.wild \(a.line)
            one \(b.line)
            UPPER.lan \(a.line)
            """ + "\n"
        )
        let names = ["one", "10.0.0.1", "[two.lan]:2222", "two.lan", "x.wild", "not.wild", "upper.lan", "missing"]
        for pass in ["plain", "hashed"] {
            if pass == "hashed" {
                let hashed = try await ChildProcess.run("ssh-keygen", ["-H", "-f", file])
                try #require(hashed.succeeded, "\(hashed.standardError)")
            }
            let known = try KnownHosts(files: [file])
            #expect(known.skippedLines.isEmpty)
            for name in names {
                let oracle = try await ChildProcess.run("ssh-keygen", ["-F", name, "-f", file])
                let lines = oracle.standardOutput.split(separator: "\n").compactMap { line -> Int? in
                    guard line.hasPrefix("# Host") else { return nil }
                    return line.split(separator: " ").last.flatMap { Int($0) }
                }
                let ours = known.entries.filter { $0.matches(name) }.map(\.line)
                #expect(ours == lines, "\(pass) \(name): \(oracle.standardOutput)")
            }
        }
    }
}

@Suite struct KnownHostsFileTests {
    let keys = TestKeys()

    /// What is appended is found by ssh-keygen, and what was there is there still, byte for byte.
    @Test(arguments: [false, true])
    func appendedEntryIsFoundBySSHKeygen(hashed: Bool) async throws {
        let a = try await keys.make("a")
        // No newline at the end: the new line must not be glued to the old one.
        let before = "# mine\nold ssh-ed25519 \(Base64.encode(a.blob))"
        let file = try keys.directory.write("kh", before, permissions: 0o640)
        try KnownHostsFile.append(a, name: "[new.lan]:2222", hashed: hashed, to: file)
        let after = try keys.directory.read("kh")
        #expect(after.hasPrefix(before + "\n"))
        #expect(after.hasSuffix("\n"))
        #expect(after.contains("new.lan") == !hashed)
        let found = try await ChildProcess.run("ssh-keygen", ["-F", "[new.lan]:2222", "-f", file])
        #expect(found.succeeded && found.standardOutput.contains("found: line 3"), "\(found.standardOutput)")
        #expect(try KnownHosts(files: [file]).verdict(for: a, of: "[new.lan]:2222") == .match(file: file, line: 3))
        var status = stat()
        stat(file, &status)
        #expect(status.st_mode & 0o777 == 0o640, "an existing file keeps its permissions")
    }

    @Test func newFileAndItsDirectoryArePrivate() async throws {
        let a = try await keys.make("a")
        let file = keys.directory.path("ssh/kh")
        try KnownHostsFile.append(a, name: "host", hashed: false, to: file)
        var status = stat()
        stat(file, &status)
        #expect(status.st_mode & 0o777 == 0o600)
        stat(keys.directory.path("ssh"), &status)
        #expect(status.st_mode & 0o777 == 0o700)
    }

    @Test func manyWritersLoseNothing() async throws {
        let a = try await keys.make("a")
        let file = keys.directory.path("kh")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<50 {
                group.addTask { try KnownHostsFile.append(a, name: "host\(index)", hashed: index % 2 == 0, to: file) }
            }
            try await group.waitForAll()
        }
        let known = try KnownHosts(files: [file])
        #expect(known.skippedLines.isEmpty)
        for index in 0..<50 { #expect(known.algorithms(for: "host\(index)") == ["ssh-ed25519"]) }
    }

    @Test func aDirectoryInTheFilesPlaceIsAnError() async throws {
        let a = try await keys.make("a")
        let error = #expect(throws: SSHConfigurationError.self) {
            try KnownHostsFile.append(a, name: "host", hashed: false, to: keys.directory.path)
        }
        #expect(error?.file == keys.directory.path)
        #expect(throws: SSHConfigurationError.self) { try KnownHosts(files: [keys.directory.path]) }
    }
}

@Suite struct Base64Tests {
    /// The test vectors of RFC 4648 §10.
    @Test(arguments: [
        ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ])
    func vectors(plain: String, encoded: String) {
        #expect(Base64.encode(Array(plain.utf8)) == encoded)
        #expect(Base64.decode(encoded) == Array(plain.utf8))
    }

    @Test(arguments: ["Z", "Zg", "Zg=", "Zg===", "Zh==", "Z===", "====", "Zm9v\n", "Zm 9", "Zm9-", "=Zm9", "Zg==Zm9v"])
    func damage(text: String) {
        #expect(Base64.decode(text) == nil)
    }

    @Test func sameAsFoundation() {
        for count in 0..<200 {
            let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max) }
            let text = Base64.encode(bytes)
            #expect(text == Data(bytes).base64EncodedString())
            #expect(Base64.decode(text) == bytes)
        }
    }
}
