import Fleet
import Foundation
import MeshIdentity
import TestPeers
import Testing

/// `bootstrap ca`, as scripts and people run it.
@Suite struct CACommands {
    private let directory = TemporaryDirectory()

    private func bootstrap(_ arguments: [String], input: [UInt8]? = nil) async throws -> ChildProcess.Output {
        // `setsid`: a process without a terminal, wherever the tests run.
        try await ChildProcess.run(
            "setsid",
            ["--wait", TestTools.bootstrap, "ca"] + arguments,
            input: input,
            environment: ["BOOTSTRAP_HOME": directory.path("home")]
        )
    }

    private func makeCA() async throws {
        let made = try await bootstrap(["init", "--trust-domain", "mesh.example"])
        try #require(made.succeeded, "\(made.standardError)")
    }

    @Test func initMakesACAUnderHomeOnce() async throws {
        let made = try await bootstrap(["init", "--trust-domain", "mesh.example"])
        #expect(made.status == .exited(0))
        #expect(made.standardOutput.contains("Made the CA of mesh.example in \(directory.path("home/ca"))"))
        #expect(made.standardOutput.contains("bootstrap enroll"))
        #expect(try EmbeddedCA.load(directory: directory.path("home/ca")).trustDomain.name == "mesh.example")
        let again = try await bootstrap(["init", "--trust-domain", "mesh.example"])
        #expect(again.status == .exited(1))
        #expect(again.standardError.hasPrefix("error: \(directory.path("home/ca")) is there already"))
    }

    @Test func issueMakesACredentialDirectory() async throws {
        try await makeCA()
        let out = directory.path("db")
        let issued = try await bootstrap(
            ["issue", "--id", "ns/prod/sa/db", "--dns", "db.example", "--dns", "db2.example", "--ip", "10.0.0.7"]
                + ["--ttl", "1h30m", "--out", out]
        )
        try #require(issued.succeeded, "\(issued.standardError)")
        #expect(issued.standardOutput.contains(": 1 root of mesh.example"), "\(issued.standardOutput)")
        #expect(issued.standardOutput.contains("Issued spiffe://mesh.example/ns/prod/sa/db in \(out)"))
        let credential = try CredentialDirectory(out).load()
        #expect(credential.id.description == "spiffe://mesh.example/ns/prod/sa/db")
        #expect(credential.leaf.dnsNames == ["db.example", "db2.example"])
        #expect(credential.leaf.ipAddresses == ["10.0.0.7"])
        #expect(credential.notAfter - credential.notBefore == 5400 + 120)
        let root = directory.path("home/ca/ca-cert.pem")
        #expect(try await ChildProcess.run("openssl", ["verify", "-CAfile", root, "\(out)/cert-chain.pem"]).succeeded)
    }

    @Test func signAnswersARequest() async throws {
        try await makeCA()
        let request = try await ChildProcess.run(
            "openssl",
            ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/"]
                + ["-keyout", directory.path("key")]
        ).standardOutput
        let signed = try await bootstrap(
            ["sign", "--id", "spiffe://mesh.example/ns/prod/sa/device7"],
            input: Array(request.utf8)
        )
        try #require(signed.succeeded, "\(signed.standardError)")
        let certificates = try Certificate.all(pem: Array(signed.standardOutput.utf8))
        #expect(certificates.count == 2)
        #expect(try certificates[0].spiffeID().description == "spiffe://mesh.example/ns/prod/sa/device7")
        let bundle = try await bootstrap(["bundle"])
        #expect(try Certificate(pem: Array(bundle.standardOutput.utf8)) == certificates[1])
        let refused = try await bootstrap(["sign", "--id", "ns/prod/sa/db"], input: Array("no request".utf8))
        #expect(refused.status == .exited(1))
        #expect(refused.standardOutput.isEmpty)
        #expect(refused.standardError.hasPrefix("error: this is no certificate request"))
    }

    /// `ca sign` is itself a program that the `exec` issuer can run.
    @Test func signServesAsAnIssuerProgram() async throws {
        try await makeCA()
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        let issuer = ExecIssuer(command: [
            "sh", "-c",
            "BOOTSTRAP_HOME='\(directory.path("home"))' exec '\(TestTools.bootstrap)' ca sign --ca '\(directory.path("home/ca"))' --id \"$BOOTSTRAP_SPIFFE_ID\"",
        ])
        let pending = try CredentialDirectory(directory.path("out")).prepare(id: id)
        let issued = try await issuer.issue(pending.request, id: id, options: IssuanceOptions())
        #expect(try pending.commit(chain: issued.chain, roots: issued.roots).id == id)
    }

    @Test func anEncryptedKeyNeedsItsPassphrase() async throws {
        let file = try directory.write("passphrase", "open sesame\n", permissions: 0o600)
        let wrong = try directory.write("wrong", "sesame\n", permissions: 0o600)
        let made = try await bootstrap(["init", "--trust-domain", "mesh.example", "--passphrase-file", file])
        try #require(made.succeeded, "\(made.standardError)")
        let issue = ["issue", "--id", "ns/prod/sa/db", "--out", directory.path("db")]
        #expect(try await bootstrap(issue + ["--passphrase-file", file]).succeeded)
        let refused = try await bootstrap(issue + ["--passphrase-file", wrong])
        #expect(refused.status == .exited(4))
        #expect(refused.standardError.contains("the passphrase does not open the private key"))
        let missing = try await bootstrap(issue)
        #expect(missing.status == .exited(4))
        #expect(missing.standardError.contains("--passphrase-file"))
        #expect(try await bootstrap(["bundle"]).succeeded)
        #expect(
            try await bootstrap(["init", "--trust-domain", "b.example", "--ca", directory.path("b"), "--encrypt"])
                .status == .exited(4)
        )
    }

    @Test func theTerminalIsAskedWithoutEcho() async throws {
        // Python's pty plays the terminal and the person at it.
        let script = """
            import os, pty, sys, termios
            pid, terminal = pty.fork()
            if pid == 0:
                os.execv(sys.argv[1], sys.argv[1:])
            seen, answers = b"", [b"open sesame\\n", b"open sesame\\n"]
            while True:
                try:
                    data = os.read(terminal, 4096)
                except OSError:
                    break
                if not data:
                    break
                seen += data
                if data.rstrip(b" ").endswith(b":") and answers:
                    if termios.tcgetattr(terminal)[3] & termios.ECHO:
                        sys.exit("the terminal echoes")
                    os.write(terminal, answers.pop(0))
            status = os.waitpid(pid, 0)[1]
            sys.stdout.write(seen.decode())
            sys.exit(os.waitstatus_to_exitcode(status))
            """
        let ca = directory.path("ca")
        let made = try await ChildProcess.run(
            "python3",
            [
                "-c", script, TestTools.bootstrap, "ca", "init", "--trust-domain", "mesh.example", "--encrypt", "--ca",
                ca,
            ]
        )
        #expect(made.succeeded, "\(made.standardOutput) \(made.standardError)")
        #expect(made.standardOutput.contains("New passphrase for the CA's key: "))
        #expect(!made.standardOutput.contains("sesame"))
        #expect(throws: Never.self) { try EmbeddedCA.load(directory: ca, passphrase: Passphrase("open sesame")) }
        let issued = try await ChildProcess.run(
            "python3",
            [
                "-c", script, TestTools.bootstrap, "ca", "issue", "--id", "ns/a/sa/b", "--out", directory.path("b"),
                "--ca", ca,
            ]
        )
        #expect(issued.succeeded, "\(issued.standardOutput) \(issued.standardError)")
    }

    static let misuses: [[String]] = [
        ["init", "--trust-domain", "Mesh.example"], ["init", "--trust-domain", ""], ["init"], ["frobnicate"],
        ["issue", "--id", "ns/../sa/x", "--out", "x"], ["issue", "--id", "https://mesh.example/x", "--out", "x"],
        ["issue", "--id", "ns/a/sa/b", "--out", "x", "--ttl", "24"],
        ["issue", "--id", "ns/a/sa/b", "--out", "x", "--ttl", "0h"],
        ["issue", "--id", "ns/a/sa/b", "--out", "x", "--ttl", "h"], ["issue", "--id", "ns/a/sa/b"],
        ["issue", "--id", "ns/a/sa/b", "--out", "x", "--ttl", "99999999999999999999d"],
        ["issue", "--id", "ns/a/sa/b", "--out", "x", "--ttl", "200000000000000d"],
        ["init", "--trust-domain", "x", "--encrypt", "--passphrase-file", "f"],
    ]

    @Test(arguments: misuses)
    func aBadCommandLineEndsWithTwo(_ arguments: [String]) async throws {
        try await makeCA()
        let output = try await bootstrap(arguments)
        #expect(output.status == .exited(2), "\(output.standardError)")
        #expect(output.standardError.hasPrefix("error: "))
        #expect(!FileManager.default.fileExists(atPath: "x"))
    }

    @Test func withoutACATheRemedyIsNamed() async throws {
        for arguments in [["issue", "--id", "ns/a/sa/b", "--out", directory.path("b")], ["bundle"]] {
            let output = try await bootstrap(arguments)
            #expect(output.status == .exited(2))
            #expect(output.standardError.contains("bootstrap ca init --trust-domain"))
        }
    }

    /// Two operators, the real command: every certificate that was given out is known, whoever was faster.
    @Test func twoOperatorsAtOnceLoseNothing() async throws {
        let environment = ["BOOTSTRAP_HOME": directory.path("home")]
        try await makeCA()
        let serials = try await withThrowingTaskGroup(of: [String].self) { group in
            for worker in 0..<2 {
                group.addTask {
                    var serials: [String] = []
                    for round in 0..<4 {
                        let out = directory.path("out\(worker)-\(round)")
                        let output = try await ChildProcess.run(
                            TestTools.bootstrap,
                            ["ca", "issue", "--id", "ns/prod/sa/x", "--out", out],
                            environment: environment
                        )
                        try #require(output.succeeded, "\(output.standardError)")
                        serials.append(try CredentialDirectory(out).load().leaf.serialNumber)
                    }
                    return serials
                }
            }
            return try await group.reduce(into: Set<String>()) { $0.formUnion($1) }
        }
        let ledger = Ledger(directory.path("home/ledger.sqlite"))
        #expect(serials.count == 8)
        #expect(Set(try ledger.certificates().map(\.serial)) == serials)
        #expect(try ledger.events().count == 8)
    }
}
