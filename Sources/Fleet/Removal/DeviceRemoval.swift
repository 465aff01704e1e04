import Platform
package import SSHSignal
package import Streams

/// Takes a device out of the mesh: its service, node, credential and agent go. Nothing of ours needs to work there but
/// a shell.
package struct DeviceRemoval: Sendable {
    /// As messages call it.
    package var name: String
    /// Where it may be installed; `~/` is the home directory there. All that is found is removed.
    package var bases: [String]
    /// Where others may be, which are looked for and left alone.
    package var otherBases: [String] = []
    /// The releases stay.
    package var keepsAgent: Bool
    /// Of a device that was enrolled without an agent; absolute.
    package var credentialDirectory: String?
    /// What was set up in its sshd.
    package var sshServer: SSHServerRecord?

    package init(name: String, bases: [String], keepsAgent: Bool = false) {
        self.name = name
        self.bases = bases
        self.keepsAgent = keepsAgent
    }

    package struct Outcome: Hashable, Sendable {
        /// Paths, processes and lines; for people.
        package var removed: [String] = []
        /// What is not ours, or could not be removed.
        package var left: [String] = []
        /// Installations that are there still: `BASE` of each.
        package var others: [String] = []
        /// Why its sshd still has what was set up there; the rest is gone.
        package var sshServerFailure: HostError?
    }

    /// Logs in and removes.
    package func run(_ login: SSHLogin, on loop: EventLoop) async throws(HostError) -> Outcome {
        try await login.visit(name, on: loop) { client in
            var outcome = try await remove(over: try await SSHProcessChannel(client, command: RemoteShell.command))
            guard let sshServer else { return outcome }
            do {
                let channel = try await SSHServerSetup.privilegedChannel(client, name: name)
                try await remove(sshServer, over: channel, &outcome)
            } catch {
                // The rest is gone all the same, and a key that is trusted still must not stay unnoticed.
                outcome.sshServerFailure = HostError(error, name: name)
            }
            return outcome
        }
    }

    /// Everything after the login.
    func remove(over channel: any RemoteChannel) async throws -> Outcome {
        defer { channel.close() }
        let shell = RemoteShell(channel, name: name)
        let found = try await shell.run(RemovalScript.find(bases: bases), step: "find")
        var outcome = Outcome()
        let roots = try roots(found, below: bases)
        for root in roots {
            _ = try await AgentInstaller(shell: shell, plan: InstallationPlan(root: root)).lock(checking: false)
            let script = RemovalScript.text(root: root, keepsAgent: keepsAgent)
            // Nodes may take their time to let streams end.
            let output = try await shell.run(script, step: "remove", timeout: .seconds(120))
            guard output.status == 0 else {
                let said = Printable.clean(output.lines.suffix(3).joined(separator: " "), limit: 300)
                throw SignalError(.refused, "\(name): remove: it ended with status \(output.status): \(said)")
            }
            note(output, in: &outcome)
        }
        if let credentialDirectory {
            let isThere = try await shell.run("[ -d \(ShellScript.quote(credentialDirectory)) ]", step: "find")
            // Who is enrolling it has the lock; the script takes it away with the rest.
            if isThere.status == 0 {
                let plan = InstallationPlan(root: credentialDirectory)
                _ = try await AgentInstaller(shell: shell, plan: plan).lock(checking: false)
            }
            let script = AgentlessScript.remove(directory: credentialDirectory)
            note(try await shell.run(script, step: "remove"), in: &outcome)
        }
        if !otherBases.isEmpty {
            // Also where nothing was to be removed, or the record is wrong about the place. Last, and of what was
            // removed nothing becomes undone where this fails.
            let found = try? await shell.run(RemovalScript.find(bases: otherBases), step: "find")
            let others = found.flatMap { try? self.roots($0, below: otherBases) } ?? []
            outcome.others = others.filter { !roots.contains($0) }
                .map { $0 == "/bootstrap" ? "/" : String($0.dropLast("/bootstrap".count)) }
        }
        return outcome
    }

    private func roots(_ output: RemoteShell.Output, below bases: [String]) throws(SignalError) -> [String] {
        var roots: [String] = []
        for line in output.lines where line.hasPrefix("root.") && line.hasSuffix("=1") {
            let root = String(line.dropFirst(5).dropLast(2))
            // The device's word: never a path that was not asked for.
            guard root.hasSuffix("/bootstrap"), root.hasPrefix("/"), !leadsUp(root),
                !root.contains("?"), bases.contains(where: { isBelow(root, $0) })
            else { throw SignalError(.malformed, "\(name): '\(Printable.clean(root, limit: 120))' is no installation") }
            if !roots.contains(root) { roots.append(root) }
        }
        return roots
    }

    /// Takes what was set up out of sshd again, for the shell of somebody who may.
    func remove(_ record: SSHServerRecord, over channel: any RemoteChannel, _ outcome: inout Outcome) async throws {
        defer { channel.close() }
        let shell = RemoteShell(channel, name: name)
        let found = try await shell.run(SSHServerScript.find(configuration: record.configuration), step: "sshd")
        let server = try SSHServerFacts(found, name: name)
        var changes = record.hostCertificates.map { SSHServerScript.Change.remove(path: $0.path) }
        if let file = record.userAuthorityFile { changes.append(.remove(path: file)) }
        // First the lines, then what they name.
        changes.insert(record.dropIn.map { .remove(path: $0) } ?? .block(nil), at: 0)
        let output = try await SSHServerSetup.apply(changes, effective: [], server, shell, name: name)
        try await SSHServerSetup.keep(server, shell)
        note(output, in: &outcome)
    }

    private func note(_ output: RemoteShell.Output, in outcome: inout Outcome) {
        for line in output.lines {
            if line.hasPrefix("removed=") { outcome.removed.append(Printable.clean(line.dropFirst(8), limit: 300)) }
            if line.hasPrefix("left=") { outcome.left.append(Printable.clean(line.dropFirst(5), limit: 300)) }
        }
    }

    private func isBelow(_ root: String, _ base: String) -> Bool {
        if base.hasPrefix("~") { return root.hasSuffix(base.dropFirst() + "/bootstrap") }
        return root == (base == "/" ? "" : base) + "/bootstrap"
    }
}
