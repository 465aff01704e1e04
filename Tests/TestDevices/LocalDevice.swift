package import Fleet
import Foundation
package import MeshIdentity
package import Platform
package import SSHSignal
package import TestPeers

/// A device on this machine: a directory, the real agent's `signal`, and the real node that it starts.
package final class LocalDevice: Sendable {
    package let directory = TemporaryDirectory()
    package var state: String { directory.path("state") }
    package let trustDomain: TrustDomain
    package let ca: EmbeddedCA
    package let id: SPIFFEID

    package init() throws {
        trustDomain = try TrustDomain("test.example")
        ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: trustDomain)
        id = try SPIFFEID(trustDomain: trustDomain, namespace: "default", name: "dev")
    }

    deinit { Self.stopNode(state: state) }

    /// Ends the node that runs there. It is no child of the tests: only its process number is known.
    package static func stopNode(state: String) {
        guard let text = try? String(contentsOfFile: state + "/node.pid", encoding: .utf8),
            let process = Int32(text.trimmingCharacters(in: .whitespacesAndNewlines)),
            let commandLine = try? String(contentsOfFile: "/proc/\(process)/cmdline", encoding: .utf8),
            commandLine.contains(state)
        else { return }
        kill(process, SIGKILL)
        // Until it is gone it counts as running. It dies at once; the deadline is for a kernel that does not get to it.
        let deadline = ContinuousClock.now + .seconds(20)
        while ContinuousClock.now < deadline,
            (try? String(contentsOfFile: "/proc/\(process)/cmdline", encoding: .utf8))?.contains(state) == true
        {
            usleep(1000)
        }
    }

    package func startSignal() throws -> LocalChannel {
        try LocalChannel(TestTools.bootstrap, ["signal", "--state", state])
    }

    package var nodeProcess: String? { try? directory.read("state/node.pid") }

    /// The credential as any reader finds it; nil where there is none yet.
    package func credential() throws -> Credential? {
        do {
            return try CredentialDirectory(state + "/identity").load()
        } catch let error where error.code == .notFound {
            return nil
        }
    }

    package func conversation(
        over channel: any RemoteChannel,
        clock: WallClock = .system
    ) -> EnrollmentConversation {
        EnrollmentConversation(
            channel: channel,
            name: "dev",
            certification: Certification(name: "dev", id: id, issuer: ca),
            clock: clock,
            warn: { _ in }
        )
    }

    package func order(ports: [UInt16] = [22]) -> EnrollmentOperator.Purpose {
        .enroll(.init(id: id.description, node: .init(bind: "127.0.0.1", port: 0, allowPorts: ports)))
    }
}

extension LocalDevice {
    /// Waits until no `signal` runs on this state any more: it holds the lock while it works.
    package func settled() async throws {
        try await eventually("the device's signal process is done") {
            let processes = try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { Int32($0) }
            return !processes.contains { process in
                guard let line = try? String(contentsOfFile: "/proc/\(process)/cmdline", encoding: .utf8) else {
                    return false
                }
                let words = line.split(separator: "\0")
                return words.contains("signal") && words.contains(Substring(state))
            }
        }
    }
}
