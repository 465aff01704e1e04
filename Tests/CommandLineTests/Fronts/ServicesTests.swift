import Foundation
import TestPeers
import Testing

/// Services that people run, behind every kind of front: a database whose client upgrades to TLS inside and whose
/// server answers late, and SSH, whose server speaks first.
@Suite(.timeLimit(.minutes(10))) struct ServicesTests {
    /// The fronts on 127.0.0.1, and what leads a program that knows of none through them.
    private struct Fronts {
        let nodes: IngressNodes

        init(_ names: [String: UInt16]) async throws {
            let services = names.keys.map { name in
                let service = name.split(separator: ".")[0]
                return """
                    - {name: \(service)tcp, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(name)"}
                    - {name: \(service)tls, bind: "127.0.0.1:0", protocol: tls, forwardTo: "\(name)", credentials: ["DIR/web"]}
                    """
            }
            nodes = try await IngressNodes(
                """
                - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
                - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
                \(services.joined(separator: "\n"))
                """,
                names: names,
                certificates: ["web": ["web.example.org"]]
            )
        }

        /// A port that leads to a service by each of them.
        func ways(to name: String) async throws -> [(front: String, port: UInt16, ChildProcess)] {
            let service = name.split(separator: ".")[0]
            var ways: [(String, UInt16, ChildProcess)] = []
            for (front, listener, more) in [
                ("tcp", "\(service)tcp", []), ("socks5", "socks", [name]), ("http-proxy", "proxy", [name]),
                ("tls", "\(service)tls", ["web.example.org", nodes.directory.path("web/cert-chain.pem")]),
            ] {
                let shim = try ChildProcess(
                    TestTools.python,
                    [
                        TestTools.repository + "/Tests/Peers/network/through.py", front,
                        "\(try nodes.port(listener))",
                    ] + more
                )
                ways.append(
                    (front, try #require(UInt16(try await shim.standardOutput.line { UInt16($0) != nil })), shim)
                )
            }
            return ways
        }
    }

    /// What psql is told, and what it must say.
    private struct Queries {
        static let rows = 5000
        let text: String
        let answer: String
        let (file, copy): (String, String)
        static let downloaded = (1...rows).map { "\($0)\t\(String(repeating: "down", count: 250))\n" }.joined()

        init(_ directory: TemporaryDirectory) throws {
            let values = (1...Self.rows).map { String(repeating: "u\($0 % 10)", count: 500) }
            let lines = values.enumerated().map { "\($0.offset + 1)\t\($0.element)\n" }
            file = try directory.write("rows", lines.joined())
            copy = directory.path("copy")
            text = """
                SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid();
                SELECT 'late' FROM pg_sleep(0.3);
                CREATE TEMP TABLE t (n int, value text);
                \\copy t FROM '\(file)'
                SELECT count(*), sum(n), encode(sha256(string_agg(value, '' ORDER BY n)::bytea), 'hex') FROM t;
                \\copy (SELECT n, repeat('down', 250) FROM generate_series(1, \(Self.rows)) n ORDER BY n) TO '\(copy)'
                """
            let sum = Checksum.of(Array(values.joined().utf8))
            answer = "t|TLSv1.3\nlate\n\(Self.rows)|\(Self.rows * (Self.rows + 1) / 2)|\(sum)\n"
        }

        static func psql(address: String, port: UInt16, certificate: String) -> [String] {
            [
                "host=db.mesh hostaddr=\(address) port=\(port) user=test dbname=postgres sslmode=verify-full sslrootcert=\(certificate)",
                "-XAtq", "-v", "ON_ERROR_STOP=1",
            ]
        }
    }

    @Test(.enabled(if: PostgreSQLServer.isInstalled, "PostgreSQL is not installed"))
    func aDatabaseWorksThroughEveryFront() async throws {
        let database = try await PostgreSQLServer()
        let fronts = try await Fronts(["db.mesh:5432": database.port])
        let queries = try Queries(fronts.nodes.directory)
        for (front, port, shim) in try await fronts.ways(to: "db.mesh:5432") {
            let certificate = database.directory.path("certificate.pem")
            let output = try await ChildProcess.run(
                "psql",
                Queries.psql(address: "127.0.0.1", port: port, certificate: certificate),
                input: Array(queries.text.utf8)
            )
            #expect(output.standardOutput == queries.answer, "\(front): \(output) \(shim.standardError.text)")
            let copy = try String(contentsOfFile: queries.copy, encoding: .utf8)
            #expect(copy == Queries.downloaded, "\(front): \(copy.utf8.count) bytes")
            try? FileManager.default.removeItem(atPath: queries.copy)
            await shim.stop()
        }
        await fronts.nodes.stop()
        await database.stop()
    }

    @Test(
        .enabled(
            if: PostgreSQLServer.isInstalled && getuid() == 0,
            "it needs PostgreSQL, and namespaces"
        )
    )
    func aCapturedClientReachesItsDatabase() async throws {
        let machine = CapturedMachine()
        try machine.configure(["{name: out, bind: \"127.0.0.1:15001\", protocol: transparent, capture: {}}"])
        // Where nobody gets who is not captured.
        let directory = TemporaryDirectory()
        let server = try await PostgreSQLServer.prepare(directory, address: "198.51.100.2", port: 8080)
        let queries = try Queries(machine.directory)
        let psql = Queries.psql(address: "198.51.100.2", port: 5432, certificate: directory.path("certificate.pem"))
        try machine.directory.write("queries", queries.text)
        func quoted(_ words: [String]) -> String { words.map { "'\($0)'" }.joined(separator: " ") }
        try await machine.expect(
            queries.answer.split(separator: "\n").map(String.init),
            from: """
                cd /
                ip netns exec far \(quoted(server)) 2>"$W/database" &
                database=$!
                until_line "ready to accept connections" "$W/database"
                start_captured out
                psql \(quoted(psql)) <"$W/queries"
                kill -INT $database
                wait $database
                """
        )
        #expect(try String(contentsOfFile: queries.copy, encoding: .utf8) == Queries.downloaded)
    }

    @Test func whoseServerSpeaksFirstIsHeard() async throws {
        let server = try await OpenSSHServer()
        let fronts = try await Fronts(["ssh.mesh:22": server.port])
        let upload = Pattern.bytes(3_000_000)
        for (front, port, shim) in try await fronts.ways(to: "ssh.mesh:22") {
            // The client of this one waits for the server.
            let banner = try await ChildProcess.run(
                TestTools.python,
                [
                    "-c",
                    "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 30).recv(4))",
                    "\(port)",
                ]
            )
            #expect(banner.standardOutput == "b'SSH-'\n", "\(front): \(banner) \(shim.standardError.text)")
            let output = try await ChildProcess.run(
                "ssh",
                [
                    "-F", "none", "-i", server.userKey, "-p", "\(port)", "-o", "StrictHostKeyChecking=no", "-o",
                    "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "\(OpenSSHServer.user)@127.0.0.1",
                    "sha256sum",
                ],
                input: upload
            )
            #expect(output.standardOutput.hasPrefix(Checksum.of(upload)), "\(front): \(output)")
            await shim.stop()
        }
        await fronts.nodes.stop()
        await server.process.stop()
    }
}
