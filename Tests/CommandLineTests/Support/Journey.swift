import Foundation
import TestPeers
import Testing

/// The binary as an operator uses it, against a real sshd: a home of its own for the operator, a folder of its own for
/// what is installed on the "device".
final class Journey: Sendable {
    let directory = TemporaryDirectory()
    let sshd: OpenSSHServer
    let hbonePort = FreePort.next()

    /// - Parameter knowsHost: Whether the operator's known_hosts has the server's key.
    init(knowsHost: Bool = true, sshd server: OpenSSHServer? = nil) async throws {
        if let server { sshd = server } else { sshd = try await OpenSSHServer() }
        try directory.makeDirectory("home/.ssh", permissions: 0o700)
        try directory.makeDirectory("device", permissions: 0o755)
        let key = try sshd.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        try directory.write("home/.ssh/known_hosts", knowsHost ? "[127.0.0.1]:\(sshd.port) \(key)\n" : "")
        try directory.write("ssh_config", "")
    }

    var home: String { directory.path("home") }
    var destination: String { "\(OpenSSHServer.user)@127.0.0.1:\(sshd.port)" }
    var sshOptions: [String] {
        [
            "-F", directory.path("ssh_config"), "-i", sshd.userKey,
            "-o", "UserKnownHostsFile=\(directory.path("home/.ssh/known_hosts"))",
        ]
    }

    /// Runs a command to its end.
    ///
    /// - Parameter program: Another release, maybe.
    func run(
        _ arguments: [String],
        input: [UInt8]? = nil,
        program: String = TestTools.bootstrap
    ) async throws -> ChildProcess.Output {
        try await ChildProcess.run(program, arguments, input: input, environment: environment)
    }

    /// Starts a command that goes on.
    func start(_ arguments: [String], keepsInputOpen: Bool = false) throws -> ChildProcess {
        try ChildProcess(
            TestTools.bootstrap,
            arguments,
            environment: environment,
            keepsInputOpen: keepsInputOpen
        )
    }

    func makeAuthority(program: String = TestTools.bootstrap) async throws {
        let output = try await run(["ca", "init", "--trust-domain", "journey.example"], program: program)
        #expect(output.succeeded, "\(output.standardError)")
    }

    @discardableResult
    func enroll(
        allow port: UInt16,
        extra: [String] = [],
        program: String = TestTools.bootstrap
    ) async throws -> ChildProcess.Output {
        try await run(
            [
                "enroll", destination, "--name", "device1", "--allow-port", "\(port)", "--base",
                directory.path("device"),
                "--hbone-port", "\(hbonePort)", "--hbone-address", "127.0.0.1", "--agent-binary", program,
                // Not a service of the machine that the tests run on.
                "--service", "none",
            ] + sshOptions + extra,
            program: program
        )
    }

    /// The process of the node that enrolment started.
    var node: Int32? {
        let files = FileManager.default.enumerator(atPath: directory.path("device"))
        while let name = files?.nextObject() as? String {
            guard (name as NSString).lastPathComponent == "node.pid", let text = try? directory.read("device/" + name)
            else { continue }
            return Int32(text.prefix { $0.isNumber })
        }
        return nil
    }

    /// Has the device's node take over a `node.yaml` that was changed.
    func reloadNode() async throws {
        let node = try #require(node)
        func count() -> Int {
            ((try? directory.read("device/bootstrap/state/node.log")) ?? "").components(separatedBy: "reloaded").count
        }
        let before = count()
        kill(node, SIGHUP)
        try await eventually("the node has read its configuration again") { count() > before }
    }

    /// Also when a test ends early: the node is nobody's child.
    deinit {
        if let node { kill(node, SIGKILL) }
    }

    func stop() async {
        if let node { kill(node, SIGKILL) }
        await sshd.stop()
    }

    private var environment: [String: String?] {
        ["HOME": home, "BOOTSTRAP_HOME": directory.path("home/.bootstrap"), "SSH_AUTH_SOCK": nil]
    }
}
