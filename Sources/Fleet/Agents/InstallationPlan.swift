import Platform
import SSHSignal

/// Where the agent goes on a machine, decided from what the probe found. Pure: nothing is uploaded before it exists.
package struct InstallationPlan: Hashable, Sendable {
    /// `BASE/bootstrap`, absolute.
    package var root: String
    /// The directory of the release in it.
    package var release: String
    /// Whether this very agent is there already.
    package var isInstalled: Bool
    /// The compressed forms that the machine can undo and that are worth it, best first.
    package var uploadForms: [UploadForm]
    /// Whether one of them is worth being made.
    package var makesForms: Bool
    /// For the user.
    package var warnings: [String]

    /// The program, once it is installed.
    package var agentPath: String { "\(root)/\(release)/bootstrap" }
    /// Credential, configuration, log and process number of the device's node.
    package var statePath: String { "\(root)/state" }

    /// A machine that the agent cannot run on, or has no room for it.
    package struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
        package var message: String
        package var description: String { message }
    }

    /// - Throws: a text that says what does not fit and what to do. Nothing has been written then.
    package init(_ facts: DeviceFacts, agent: AgentBinary) throws(Refusal) {
        try Self.checkFit(facts, agent: agent)
        if let base = facts.bases.first(where: \.isBrokenInstallation) { throw Refusal(message: Self.broken(base)) }
        release = agent.release
        let forms = UploadForm.allCases.filter { facts.tools.contains($0.rawValue) }
        // Within a machine only zstd takes less time to undo than the encryption of the bytes that it saves; to make it
        // takes longer.
        makesForms = !facts.surroundings.isLoopback
        uploadForms = makesForms ? forms : forms.filter { $0 == .zstd }
        let usable = facts.bases.filter { $0.isWritable && $0.isExecutable }
        if let installed = usable.first(where: { $0.installedHash == agent.sha256 }) {
            (root, isInstalled, warnings) = (Self.root(installed), true, Self.warnings(installed))
            return
        }
        // While it is uploaded and checked it is there once more, as `.part`; the release before it stays for going
        // back.
        let needed = UInt64(agent.size) / 1024 * 11 / 10 + 256
        let roomy = usable.filter { ($0.freeKilobytes ?? .max) >= needed }
        // Where it was before is where its state is.
        guard let base = roomy.first(where: { $0.current != nil }) ?? roomy.first else {
            throw Refusal(message: Self.noPlace(facts, needed: needed))
        }
        (root, isInstalled, warnings) = (Self.root(base), false, Self.warnings(base))
        guard facts.tools.contains("head") else {
            throw Refusal(message: "the machine has no 'head -c', which the upload needs (coreutils or busybox)")
        }
        guard !facts.tools.isDisjoint(with: ["sha256sum", "openssl"]) else {
            throw Refusal(
                message: "the machine has neither sha256sum nor openssl to check the upload with (coreutils or busybox)"
            )
        }
    }

    /// For what needs no more than a place.
    init(root: String) {
        self.root = root
        release = ""
        isInstalled = false
        (uploadForms, makesForms) = ([], false)
        warnings = []
    }

    private static func root(_ base: DeviceFacts.Base) -> String {
        (base.path == "/" ? "" : base.path) + "/bootstrap"
    }

    private static func warnings(_ base: DeviceFacts.Base) -> [String] {
        base.isVolatile ? ["\(base.path) is in memory: the agent and its credential are gone after a reboot"] : []
    }

    private static func checkFit(_ facts: DeviceFacts, agent: AgentBinary) throws(Refusal) {
        let machine = "the machine is \(facts.operatingSystem) \(facts.architecture)"
        guard facts.operatingSystem == "Linux" else {
            throw Refusal(message: "\(machine); the agent runs on Linux only. Nothing was uploaded")
        }
        let architecture = ["amd64": "x86_64", "arm64": "aarch64"][facts.architecture] ?? facts.architecture
        guard architecture == agent.architecture, facts.isLittleEndian != false else {
            throw Refusal(
                message: """
                    \(machine), and \(agent.path) is for \(agent.architecture). Nothing was uploaded; give a build for \
                    \(facts.architecture) with --agent-binary
                    """
            )
        }
        guard let interpreter = agent.interpreter else { return }
        var lacks: [String] = []
        if let needed = agent.glibcVersion, !provides(facts.libc, glibc: needed) {
            lacks.append("glibc \(needed) (it has \(facts.libc ?? "no known libc"))")
        }
        lacks += facts.missing
        guard lacks.isEmpty else {
            throw Refusal(
                message: """
                    \(agent.path) is linked dynamically (\(interpreter)) and needs what the machine lacks: \
                    \(lacks.joined(separator: ", ")). Nothing was uploaded; use the static build: make static, then \
                    --agent-binary dist/bootstrap-linux-\(agent.architecture)
                    """
            )
        }
    }

    private static func provides(_ libc: String?, glibc needed: String) -> Bool {
        guard let libc, libc.hasPrefix("glibc ") else { return false }
        func numbers(_ text: some StringProtocol) -> [Int] { text.split(separator: ".").map { Int($0) ?? 0 } }
        return !numbers(libc.dropFirst(6)).lexicographicallyPrecedes(numbers(needed))
    }

    private static func broken(_ base: DeviceFacts.Base) -> String {
        """
        the agent is installed in \(root(base)), which cannot be written (\(Printable.clean(base.reason, limit: 120))). \
        Nothing was uploaded: another one elsewhere would fight with it for its port. Make it writable, or make room
        """
    }

    private static func noPlace(_ facts: DeviceFacts, needed: UInt64) -> String {
        let reasons = facts.bases.map { base in
            let reason = base.reason.isEmpty ? "" : " (\(Printable.clean(base.reason, limit: 120)))"
            if !base.isWritable { return "\(base.path): not writable\(reason)" }
            if !base.isExecutable { return "\(base.path): programs cannot be run there (noexec?)\(reason)" }
            return "\(base.path): need \(megabytes(needed)), free \(megabytes(base.freeKilobytes ?? 0))"
        }
        // A second one elsewhere is no remedy.
        let installed = facts.bases.first { $0.current != nil }
        return """
            there is no place for the agent, for user \(facts.user): \(reasons.joined(separator: "; ")). Nothing was uploaded; \
            make room\(installed.map { " in \(root($0)), where it is installed" } ?? ", or name a directory with --base")
            """
    }

    private static func megabytes(_ kilobytes: UInt64) -> String {
        let tenths = kilobytes / 1024 * 10 + kilobytes % 1024 * 10 / 1024
        return "\(tenths / 10).\(tenths % 10) MiB"
    }
}

extension DeviceFacts.Base {
    /// There is an installation that nobody can write to now: its file system is read-only, or full.
    fileprivate var isBrokenInstallation: Bool {
        guard !isWritable, current != nil || nodeProcess != nil else { return false }
        return ["Read-only file system", "No space left on device"].contains { reason.contains($0) }
    }
}
