import Foundation
import MeshIdentity
import TestPeers
import Testing

@Suite struct ExecIssuers {
    private let directory = TemporaryDirectory()
    private let id: SPIFFEID
    private let request: CertificateRequest

    init() throws {
        id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
    }

    private func issue(_ script: String, timeout: Duration = .seconds(30)) async throws -> IssuedCertificate {
        let issuer = ExecIssuer(command: ["sh", "-c", script], timeout: timeout)
        return try await issuer.issue(
            request,
            id: id,
            options: IssuanceOptions(lifetime: .seconds(3600), dnsNames: ["db.example"])
        )
    }

    private func failure(_ script: String, timeout: Duration = .seconds(30)) async -> IdentityError? {
        await #expect(throws: IdentityError.self) { try await issue(script, timeout: timeout) }
    }

    /// A CA of openssl's own: what a user would plug in.
    private var opensslCA: String {
        let certificates = TestCertificates.shared
        return """
            set -e; cd '\(directory.path)'; cat > request.pem
            printf '%s\\n' 'keyUsage=critical,digitalSignature' 'basicConstraints=critical,CA:FALSE' \
                'extendedKeyUsage=serverAuth,clientAuth' \
                "subjectAltName=critical,URI:$BOOTSTRAP_SPIFFE_ID,DNS:$BOOTSTRAP_DNS_NAMES" > extensions
            openssl x509 -req -in request.pem -CA '\(certificates.caPath("root"))' \
                -CAkey '\(certificates.directory)/root.key' -extfile extensions -days 1 -set_serial 77
            """
    }

    @Test func aProgramSigns() async throws {
        let root = TestCertificates.shared.caPath("root")
        let issued = try await issue(opensslCA + "\ncat '\(root)'")
        #expect(try issued.chain.map { try $0.spiffeID() } == [id])
        #expect(issued.chain[0].serialNumber == "4d")
        #expect(issued.chain[0].dnsNames == ["db.example"])
        #expect(issued.roots == [try TestCertificates.shared.ca("root")])
    }

    @Test func theRootCanBeConfigured() async throws {
        let error = await failure(opensslCA)
        #expect(error?.code == .issuer)
        #expect(error?.message.contains("no root certificate") == true)
        let issuer = ExecIssuer(command: ["sh", "-c", opensslCA], roots: [try TestCertificates.shared.ca("root")])
        let issued = try await issuer.issue(request, id: id, options: IssuanceOptions(dnsNames: ["x"]))
        #expect(issued.chain.count == 1)
    }

    @Test func manyAtOnceDoNotHoldEachOther() async throws {
        let script = "cat > /dev/null; cat '\(TestCertificates.shared.caPath("root"))'"
        await withTaskGroup { group in
            for _ in 0..<20 {
                group.addTask {
                    // The root alone is no answer; that it is read shows that the program ran to its end.
                    #expect(await failure(script)?.message.contains("no root certificate after the chain") == true)
                }
            }
        }
    }

    @Test func failureIsToldWithTheProgramsWords() async {
        let error = await failure("echo 'quota \u{1b}[31m exceeded' >&2; exit 7")
        #expect(error?.code == .issuer)
        #expect(error?.message == "the issuer sh exited with status 7: quota ?[31m exceeded")
        let killed = await failure("kill -9 $$")
        #expect(killed?.message.contains("signal 9") == true)
    }

    @Test func aProgramThatIsNotThereIsNamed() async {
        let issuer = ExecIssuer(command: ["no-such-issuer"])
        let error = await #expect(throws: IdentityError.self) {
            try await issuer.issue(request, id: id, options: IssuanceOptions())
        }
        #expect(error?.message.contains("no-such-issuer") == true)
        await #expect(throws: IdentityError.self) {
            try await ExecIssuer(command: []).issue(request, id: id, options: IssuanceOptions())
        }
    }

    @Test func itIsKilledWithItsChildrenWhenTimeIsUp() async throws {
        let pidFile = directory.path("pid")
        let error = await failure(
            "sleep 600 & echo $! > '\(pidFile)'; echo waiting >&2; wait",
            timeout: .seconds(3)
        )
        #expect(error?.code == .timedOut)
        #expect(error?.message.contains("waiting") == true)
        let pid = try #require(Int32(directory.read("pid").trimmingCharacters(in: .whitespacesAndNewlines)))
        try await eventually("the issuer's child is gone") { !isAlive(pid) }
    }

    /// Whether the process runs; one that nobody has collected yet does not.
    private func isAlive(_ pid: Int32) -> Bool {
        guard let status = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8) else { return false }
        return !status.contains(") Z ")
    }

    @Test func whatItLeavesRunningDoesNotHoldUs() async {
        let error = await failure("sleep 5 & echo nothing; exit 0", timeout: .seconds(60))
        #expect(error?.message.contains("no usable certificate") == true)
    }

    @Test func endlessOutputIsCut() async {
        let error = await failure("cat > /dev/null; yes", timeout: .seconds(20))
        #expect(error?.code == .issuer)
    }

    @Test func wrongAnswersAreRefused() async throws {
        let certificates = TestCertificates.shared
        let root = certificates.caPath("root")
        let otherKey = await failure("cat '\(certificates.path(.client))/cert-chain.pem' '\(root)'")
        #expect(otherKey?.code == .keyMismatch)
        // Another identity for our key.
        let otherID = await failure(
            "BOOTSTRAP_SPIFFE_ID=spiffe://mesh.example/ns/prod/sa/x\n" + opensslCA + "\ncat '\(root)'"
        )
        #expect(otherID?.code == .invalidCertificate)
        #expect(otherID?.message.contains("is for spiffe://mesh.example/ns/prod/sa/x, not for \(id)") == true)
        // A root that did not sign it.
        let otherRoot = await failure(opensslCA + "\ncat '\(certificates.caPath("rogue"))'")
        #expect(otherRoot?.code == .invalidCertificate)
        #expect(await failure("cat > /dev/null")?.code == .issuer)
        #expect(await failure("cat")?.code == .issuer)
    }
}
