import Fleet
import Foundation
import SSHSignal
import TestDevices
import TestPeers
import Testing

/// An operator with a CA, a home of its own, and the real command line.
struct Operator {
    let home = TemporaryDirectory()
    /// Where devices of the tests install.
    let base = TemporaryDirectory()
    var bootstrapHome: String { home.path("bootstrap") }

    init(trustDomain: String = "test.example") async throws {
        try home.makeDirectory(".ssh", permissions: 0o700)
        let made = try await run(["ca", "init", "--trust-domain", trustDomain])
        try #require(made.succeeded, "\(made.standardError)")
    }

    /// Runs `bootstrap` without a terminal, as a script would.
    func run(_ arguments: [String], within limit: Duration = .seconds(240)) async throws -> ChildProcess.Output {
        try await ChildProcess.run(
            "setsid",
            ["--wait", TestTools.bootstrap] + arguments,
            environment: ["HOME": home.path, "BOOTSTRAP_HOME": bootstrapHome, "SSH_AUTH_SOCK": nil],
            within: limit
        )
    }

    func know(_ publicKeyFile: String, port: UInt16) throws {
        let fields = try String(contentsOfFile: publicKeyFile, encoding: .utf8).split(separator: " ")
        let old = (try? home.read(".ssh/known_hosts")) ?? ""
        try home.write(".ssh/known_hosts", old + "[127.0.0.1]:\(port) \(fields[0]) \(fields[1])\n", permissions: 0o600)
    }

    /// `enroll` for a device on a port of this machine.
    func enroll(
        port: UInt16,
        key: String,
        _ more: [String] = [],
        user: String = OpenSSHServer.user
    ) async throws -> ChildProcess.Output {
        try await run(
            [
                "enroll", "\(user)@127.0.0.1:\(port)", "-i", key, "-o", "IdentitiesOnly=yes", "--base", base.path,
                // Not a static build that `make demo` may have left beside it.
                "--agent-binary", TestTools.bootstrap,
            ]
                + ["--hbone-port", "0", "--hbone-address", "127.0.0.1", "--service", "none"] + more
        )
    }

    /// The host key of a server, as if somebody had checked it.
    func know(_ server: OpenSSHServer) throws {
        try know(server.directory.path("host_ed25519.pub"), port: server.port)
    }

    /// `enroll` of the machine that a server lets its user into.
    func enroll(
        _ server: OpenSSHServer,
        _ more: [String] = [],
        user: String = OpenSSHServer.user
    ) async throws -> ChildProcess.Output {
        try await enroll(port: server.port, key: server.userKey, more, user: user)
    }

    /// A device `dev7`, whose host key was not known before.
    @discardableResult func enrolled(on server: OpenSSHServer, _ more: [String] = []) async throws -> Device {
        try know(server)
        let output = try await enroll(server, ["--name", "dev7"] + more)
        try #require(output.succeeded, "\(output.standardOutput)\(output.standardError)")
        return try #require(try devices.record(named: "dev7"))
    }

    var devices: DeviceDirectory { DeviceDirectory(bootstrapHome + "/devices") }
    var state: String { base.path("bootstrap/state") }

    /// Ends the node that an enrolment left on the device.
    func stopNode() { LocalDevice.stopNode(state: state) }
}
