import Foundation
import TestPeers
import Testing

/// A node that takes what the world sends, behind it a node that has the service, and both are real processes:
///
///     client ─→ ingress ═ HBONE ═→ server ─→ backend
final class IngressNodes: Sendable {
    let directory = TemporaryDirectory()
    let ingress: ChildProcess
    let server: ChildProcess
    /// Of each listener of the ingress.
    let ports: [String: UInt16]
    let file: String

    /// Lets anybody reach whatever the routes lead to.
    static let everybody = """
        policy:
        - name: world
          action: ALLOW
          rules:
          - to: [{hosts: ["*"], ports: ["1-65535"]}]
        """

    /// - Parameters:
    ///   - listeners: Of the ingress, lines of YAML; `DIR` is ``directory``.
    ///   - names: What leads to which port behind the server.
    ///   - certificates: Server certificates to make before, by directory, with their DNS names.
    ///   - policy: Of the ingress.
    ///   - files: Written to ``directory`` before.
    ///   - loops: Of the ingress.
    ///   - drain: How long the ingress waits for its streams when it is stopped.
    init(
        _ listeners: String,
        names: [String: UInt16],
        certificates: [String: [String]] = [:],
        policy: String = IngressNodes.everybody,
        files: [String: String] = [:],
        loops: Int = 2,
        drain: String = "5s"
    ) async throws {
        let identities = TestCertificates.shared
        for (name, names) in certificates { try await Self.makeCertificate(directory.path(name), names) }
        for (name, text) in files { _ = try directory.write(name, text) }
        let far = try directory.write(
            "server.yaml",
            NodeFile.server(identity: identities.path(.server), ports: [1] + names.values)
        )
        let (server, farPorts) = try await Self.start(far, loops: 1, drain: drain)
        self.server = server
        let endpoints = names.map { name, port in
            """
            - match: "\(name)"
              address: "127.0.0.1:\(port)"
              hbone: "127.0.0.1:\(farPorts["hbone"] ?? 0)"
              identity: "spiffe://mesh.example/ns/prod/sa/server"
            """
        }
        file = try directory.write(
            "ingress.yaml",
            """
            identity: \(identities.path(.client))
            listeners:
            \(listeners.replacingOccurrences(of: "DIR", with: directory.path("")))
            endpoints:
            \(endpoints.joined(separator: "\n"))
            - {match: "nobody.mesh:80", hbone: "127.0.0.1:\(FreePort.next())"}
            \(policy)
            """
        )
        (ingress, ports) = try await Self.start(file, loops: loops, drain: drain)
    }

    func port(_ name: String) throws -> UInt16 { try #require(ports[name]) }

    /// Takes a change of the configuration over; what holds afterwards is for the caller to wait for.
    func reload(_ change: (String) -> String) throws {
        let text = try String(contentsOfFile: file, encoding: .utf8)
        _ = try directory.write("ingress.yaml", change(text))
        ingress.signal(SIGHUP)
    }

    func stop() async {
        await ingress.stop()
        await server.stop()
    }

    /// A key and a self-signed certificate for these names, as a credential directory that is there or not.
    static func makeCertificate(_ path: String, _ names: [String]) async throws {
        let fresh = "\(path).new"
        try? FileManager.default.removeItem(atPath: fresh)
        try FileManager.default.createDirectory(atPath: fresh, withIntermediateDirectories: true)
        let output = try await ChildProcess.run(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                "/CN=web", "-addext", "subjectAltName=" + names.map { "DNS:\($0)" }.joined(separator: ","), "-keyout",
                "\(fresh)/key.pem", "-out", "\(fresh)/cert-chain.pem",
            ]
        )
        try #require(output.succeeded, "\(output.standardError)")
        try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        for file in ["key.pem", "cert-chain.pem"] {
            try? FileManager.default.removeItem(atPath: "\(path)/\(file)")
            try FileManager.default.moveItem(atPath: "\(fresh)/\(file)", toPath: "\(path)/\(file)")
        }
    }

    /// A node, and the port of each of its listeners.
    static func start(
        _ file: String,
        loops: Int = 1,
        drain: String = "1s"
    ) async throws -> (ChildProcess, [String: UInt16]) {
        let process = try ChildProcess(
            TestTools.bootstrap,
            ["node", "--config", file, "--log-level", "info", "--loops", "\(loops)", "--drain", drain]
        )
        let text = try String(contentsOfFile: file, encoding: .utf8)
        // Those of policies come after.
        let listeners = text.components(separatedBy: "\nendpoints:")[0].components(separatedBy: "\npolicy:")[0]
        let names = listeners.split(separator: "\n").compactMap { line in
            line.wholeMatch(of: /- \{?name: ([a-z]+).*/).map { String($0.1) }
        }
        var ports: [String: UInt16] = [:]
        for name in names {
            do {
                let line = try await process.standardOutput.line(containing: "ready \(name) ")
                let port: UInt16 = try #require(UInt16(line.split(separator: ":").last ?? ""))
                ports[name] = port
            } catch {
                throw DeadlineExceeded("\(error); it said:\n\(process.standardError.text)")
            }
        }
        return (process, ports)
    }
}

/// A TLS client of the world: Python's.
enum WebClient {
    private static let program = """
        import hashlib, socket, ssl, sys
        port, name, roots, credential = sys.argv[1:5]
        context = ssl.create_default_context()
        context.check_hostname = roots != "-"
        context.verify_mode = ssl.CERT_REQUIRED if roots != "-" else ssl.CERT_NONE
        if roots != "-":
            context.load_verify_locations(roots)
        if credential != "-":
            context.load_cert_chain(credential + "/cert-chain.pem", credential + "/key.pem")
        connection = socket.create_connection(("127.0.0.1", int(port)), 30)
        try:
            stream = context.wrap_socket(connection, server_hostname=name or None)
            print(hashlib.sha256(stream.getpeercert(True)).hexdigest(), stream.version())
            stream.sendall(b"ping" * 50000)
            received = b""
            while len(received) < 200000:
                piece = stream.recv(65536)
                if not piece:
                    break
                received += piece
            print("echoed" if received == b"ping" * 50000 else "lost")
        except OSError as error:
            print("failed", error)
        """

    /// - Parameters:
    ///   - name: The server name; empty: none.
    ///   - roots: To verify the server with; nil: it is not verified.
    ///   - credential: The client's own directory.
    static func run(
        _ port: UInt16,
        name: String,
        roots: String? = nil,
        credential: String? = nil
    ) async throws -> String {
        let output = try await ChildProcess.run(
            TestTools.python,
            ["-c", program, "\(port)", name, roots ?? "-", credential ?? "-"]
        )
        return output.standardOutput + output.standardError
    }

    static func fingerprint(_ directory: String) async throws -> String {
        let output = try await ChildProcess.run(
            "openssl",
            ["x509", "-in", "\(directory)/cert-chain.pem", "-noout", "-fingerprint", "-sha256"]
        )
        let text = output.standardOutput.split(separator: "=").last ?? ""
        return text.filter { $0.isHexDigit }.lowercased()
    }
}
