import Foundation

/// PostgreSQL as Debian has it, with a database of its own on 127.0.0.1 that takes TLS connections only. Its
/// certificate is `certificate.pem` in ``directory``, for the name `db.mesh`.
public final class PostgreSQLServer: Sendable {
    public let port: UInt16
    public let directory: TemporaryDirectory
    public let process: ChildProcess

    /// Of the newest version.
    private static let programs: String? = {
        let root = "/usr/lib/postgresql"
        let versions = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
        return versions.sorted { (Int($0) ?? 0) > (Int($1) ?? 0) }.map { "\(root)/\($0)/bin" }
            .first { FileManager.default.isExecutableFile(atPath: "\($0)/initdb") }
    }()

    public static var isInstalled: Bool { programs != nil }

    public init() async throws {
        directory = TemporaryDirectory()
        port = FreePort.next()
        let command = try await Self.prepare(directory, address: "127.0.0.1", port: port)
        process = try ChildProcess(command[0], Array(command.dropFirst()))
        try await process.standardError.line(containing: "ready to accept connections")
    }

    public func stop() async {
        // Its clients are sent away.
        process.signal(SIGINT)
        await process.stop()
    }

    /// Makes a database, and returns the command that serves it.
    public static func prepare(_ directory: TemporaryDirectory, address: String, port: UInt16) async throws -> [String]
    {
        guard let programs else { throw DeadlineExceeded("PostgreSQL is not installed") }
        // It refuses to run as root.
        let account = getuid() == 0 ? ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] : []
        func run(_ command: [String]) async throws {
            let output = try await ChildProcess.run(command[0], Array(command.dropFirst()), directory: "/")
            guard output.succeeded else { throw DeadlineExceeded("\(command): \(output.standardError)") }
        }
        let (key, certificate) = (directory.path("key.pem"), directory.path("certificate.pem"))
        try await run([
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=db", "-addext", "subjectAltName=DNS:db.mesh", "-keyout", key, "-out", certificate,
        ])
        if getuid() == 0 { try await run(["chown", "-R", "postgres:postgres", directory.path]) }
        let data = directory.path("data")
        try await run(account + ["\(programs)/initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync"])
        try Data("hostssl all all all trust\n".utf8).write(to: URL(fileURLWithPath: "\(data)/pg_hba.conf"))
        return account + [
            "\(programs)/postgres", "-D", data, "-p", "\(port)", "-k", "", "-c", "listen_addresses=\(address)", "-c",
            "fsync=off", "-c", "ssl=on", "-c", "ssl_key_file=\(key)", "-c", "ssl_cert_file=\(certificate)",
        ]
    }
}
