import Platform
import SSHSignal

/// Where a device was installed by its record. What is there is not left behind: another installation elsewhere would
/// run beside it, and nobody would know of it any more.
package struct FormerPlace: Hashable, Sendable {
    /// Absolute: `BASE/bootstrap`, or the credential directory of a device without an agent.
    let path: String
    let hasAgent: Bool
    /// Of the machine.
    let hostKey: MachineKey
    /// As its record has it.
    let destination: String

    /// nil for a record that does not say.
    package init?(_ record: Device) {
        (hostKey, destination) = (record.hostKey, record.destination)
        if record.agent.path.isEmpty {
            guard record.agent.state.hasPrefix("/") else { return nil }
            (path, hasAgent) = (record.agent.state, false)
        } else {
            guard let base = record.base else { return nil }
            (path, hasAgent) = ((base == "/" ? "" : base) + "/bootstrap", true)
        }
    }

    /// Throws where it still has what was installed there, and that is not `place`.
    ///
    /// - Parameter place: Where this enrolment installs; absolute.
    func check(against place: String, name: String, _ shell: RemoteShell) async throws {
        guard path != place else { return }
        let marks = hasAgent ? ["current", "state/node.yaml"] : ["cert-chain.pem"]
        let script = marks.map { mark in
            let file = ShellScript.quote("\(path)/\(mark)")
            return "if [ -e \(file) ] || [ -L \(file) ]; then echo former=1; fi"
        }
        let output = try await shell.run(script.joined(separator: "\n") + "\ntrue", step: "former")
        guard output.values["former"] != nil else { return }
        throw HostError(
            .usage,
            """
            \(name): it has \(hasAgent ? "an agent" : "a credential without an agent") in \(path), and gets no other one in \(place) beside \
            it. Nothing was changed; leave out what names another place or kind, and it is enrolled again as it is. To move it: bootstrap \
            unenroll \(name), then bootstrap enroll \(destination) --name \(name) with all that it is to have
            """
        )
    }
}
