import H2Transport
import TestPeers
import Testing

/// What `--version` and a node's first line of log say of the cryptography that runs.
@Suite(.timeLimit(.minutes(10))) struct VersionTests {
    private func version(_ environment: [String: String?] = [:]) async throws -> [Substring] {
        let clean: [String: String?] = [AESGCM.variable: nil, "OPENSSL_ia32cap": nil]
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["--version"],
            environment: clean.merging(environment) { $1 }
        )
        #expect(output.succeeded, "\(output.standardError)")
        return output.standardOutput.split(separator: "\n")
    }

    @Test func namesLibcryptoAndTheAES() async throws {
        let lines = try await version()
        try #require(lines.count == 2)
        #expect(lines[0].allSatisfy { $0.isNumber || $0 == "." })
        #expect(lines[1].hasPrefix("OpenSSL 3.") && lines[1].contains(", AES-GCM: "))
        #expect(lines[1].contains("AES-GCM: built in (VAES, AVX") || lines[1].contains("AES-GCM: OpenSSL ("))
    }

    @Test func isChosenFromOutside() async throws {
        let fastest = try #require(try await version().last)
        let narrow = try await version([AESGCM.variable: "avx2"]).last
        if fastest.contains("built in") {
            #expect(narrow?.hasSuffix("AES-GCM: built in (VAES, AVX2)") == true)
        }
        #expect(
            try await version([AESGCM.variable: "openssl"]).last?.hasSuffix("OpenSSL (\(AESGCM.variable)=openssl)")
                == true
        )
        #expect(try await version([AESGCM.variable: "x"]).last?.contains("=x: not auto, avx2 or openssl") == true)
        // VAES is bit 9 of leaf 7's ECX.
        #expect(try await version(["OPENSSL_ia32cap": ":~0x20000000000"]).last?.hasSuffix("OpenSSL (no VAES)") == true)
        let directory = TemporaryDirectory()
        let fips = try directory.write(
            "openssl.cnf",
            "openssl_conf = start\n[start]\nalg_section = all\n[all]\ndefault_properties = fips=yes\n"
        )
        #expect(try await version(["OPENSSL_CONF": fips]).last?.hasSuffix("OpenSSL (FIPS mode)") == true)
    }

    @Test func isTheFirstThingThatANodeSays() async throws {
        let directory = TemporaryDirectory()
        let configuration = try directory.write(
            "node.yaml",
            NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [1])
        )
        let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", configuration])
        _ = try await node.standardOutput.line(containing: "ready hbone")
        let first = try #require(node.standardError.text.split(separator: "\n").first)
        #expect(first.contains("starting"), "\(first)")
        #expect(first.contains("libcrypto=\(AESGCM.ofThisProcess.description)"), "\(first)")
        #expect(await node.stop(grace: .seconds(60)) == .exited(0))
    }
}
