import Platform
package import SSHSignal

/// A look at a machine that one is logged in to: what enrolment would find there. Nothing is changed but for a file
/// that is written, run and removed in each candidate directory.
package struct DeviceInspection: Sendable {
    package let facts: DeviceFacts
    /// From the request to the answer: the start of the login shell, and the probe.
    package let duration: Duration
    /// The device's clock minus ours.
    package let skew: ClockSkew

    /// Runs the probe.
    ///
    /// - Parameters:
    ///   - client: The login.
    ///   - agent: What would be uploaded; nil leaves open what it needs.
    ///   - bases: Directories to look at, best first; `~/` is the home directory there.
    ///   - name: How the device is called in errors.
    /// - Throws: ``SSHError`` when no command can be started, ``SignalError`` when the shell's answer makes no sense.
    package static func run(
        on client: SSHClient,
        agent: AgentBinary?,
        bases: [String] = DeviceEnrollment.Installation.defaultBases,
        name: String
    ) async throws -> DeviceInspection {
        let start = ContinuousClock.now
        let channel = try await SSHProcessChannel(client, command: RemoteShell.command)
        defer { channel.close() }
        let script = ProbeScript.text(
            bases: bases,
            release: agent?.release ?? "none",
            interpreter: agent?.interpreter,
            libraries: agent?.libraries ?? [],
            libraryPaths: agent?.libraryPaths ?? []
        )
        let asked = WallClock.system.milliseconds
        let output = try await RemoteShell(channel, name: name).run(script, step: "probe")
        let facts = try DeviceFacts(output, name: name)
        return DeviceInspection(
            facts: facts,
            duration: .now - start,
            skew: facts.skew(asked: asked, answered: WallClock.system.milliseconds)
        )
    }

    /// Where `agent` would be installed.
    ///
    /// - Throws: ``HostError`` with ``HostError/Reason/unfit`` when it cannot be.
    package func place(for agent: AgentBinary) throws(HostError) -> String {
        do throws(InstallationPlan.Refusal) {
            return try InstallationPlan(facts, agent: agent).root
        } catch {
            throw HostError(.unfit, error.message)
        }
    }
}
