import Foundation
import Synchronization
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// `/bin/true` plays the agent: it is a program, and `true --version` succeeds. `false --version` does not.
@Suite struct AgentInstallerTests {
    let base = TemporaryDirectory()

    private func agent(_ path: String = "/bin/true") throws -> AgentBinary { try AgentBinary(path: path) }

    private func plan(
        _ agent: AgentBinary,
        base: String? = nil,
        forms: [UploadForm] = []
    ) throws -> InstallationPlan {
        var plan = try InstallationPlan(
            ProbeTests.facts(["base.0=\(base ?? self.base.path)", "arch=\(agent.architecture)"]),
            agent: agent
        )
        plan.root = (base ?? self.base.path) + "/bootstrap"
        plan.uploadForms = forms
        return plan
    }

    /// One visit: lock, install, unlock by the shell's end.
    private func install(
        _ agent: AgentBinary,
        over channel: any RemoteChannel,
        base: String? = nil,
        forms: [UploadForm] = [],
        warn: @Sendable (String) -> Void = { _ in }
    ) async throws -> Bool {
        defer { channel.close() }
        let plan = try plan(agent, base: base, forms: forms)
        let installer = AgentInstaller(shell: RemoteShell(channel, name: "dev"), plan: plan)
        let recovered = try await installer.lock()
        try await installer.install(agent, warn: warn, progress: { _, _ in })
        return recovered
    }

    /// There is no lock to remove.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func aReadOnlyDiskIsNamed(kind: FarShell) async throws {
        let root = try base.makeDirectory("bootstrap")
        let setup = "mount --bind '\(root)' '\(root)'; mount -o remount,bind,ro '\(root)'"
        let channel = try shell(kind, setup: setup)
        defer { channel.close() }
        let installer = AgentInstaller(shell: RemoteShell(channel, name: "dev"), plan: InstallationPlan(root: root))
        let error = await #expect(throws: SignalError.self) { try await installer.lock(checking: false) }
        #expect(error?.message.contains("Read-only file system") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("by hand") == false, "\(error?.message ?? "")")
    }

    private func shell(_ kind: FarShell = .dash, setup: String = "") throws -> LocalChannel {
        try LocalChannel.shell(kind.command, home: base.path, setup: setup)
    }

    private func expectInstalled(_ agent: AgentBinary) throws {
        let release = base.path("bootstrap/\(agent.release)")
        let file = release + "/bootstrap"
        #expect(try Checksum.of(Array(Data(contentsOf: URL(fileURLWithPath: file)))) == agent.sha256)
        var status = stat()
        stat(file, &status)
        #expect(status.st_mode & 0o777 == 0o755)
        #expect(try FileManager.default.contentsOfDirectory(atPath: release) == ["bootstrap"], "no part is left")
        #expect(
            !FileManager.default.fileExists(atPath: base.path("bootstrap/current")),
            "which release is in use is decided when it is up"
        )
    }

    private func parts() -> [String] {
        (try? FileManager.default.subpathsOfDirectory(atPath: base.path))?.filter { $0.contains(".part.") } ?? []
    }

    private func error(_ body: () async throws -> Void) async -> SignalError? {
        await #expect(throws: SignalError.self) { try await body() }
    }

    @Test(arguments: FarShell.allCases)
    func installsAndUpgrades(kind: FarShell) async throws {
        let first = try agent()
        #expect(try await install(first, over: shell(kind)) == false)
        try expectInstalled(first)
        // Another release beside it; the old one stays for going back.
        let second = try agent("/bin/uname")
        #expect(
            try await install(second, over: shell(kind)) == true,
            "the first visit ended without taking its lock away"
        )
        try expectInstalled(second)
        #expect(FileManager.default.fileExists(atPath: base.path("bootstrap/\(first.release)/bootstrap")))
        let left = try FileManager.default.contentsOfDirectory(atPath: base.path("bootstrap")).filter {
            $0.hasPrefix(".lock.")
        }
        #expect(left == [])
    }

    /// The probe found nothing there; by now somebody else has made it, as a directory of theirs or as a link.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func rootTakesNoDirectoryThatSomebodyElseHasMade(kind: FarShell) async throws {
        let agent = try agent()
        let sticky = try base.makeDirectory("sticky", permissions: 0o1777)
        let theirs = try base.makeDirectory("sticky/theirs")
        chown(theirs, 4711, 0)
        let (fine, link) = (try base.makeDirectory("fine"), sticky + "/link")
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: fine)
        lchown(link, 4711, 0)
        for (place, why) in [
            (theirs, "others than root can write into \(theirs) "), (link, "the link \(link) is not root's"),
        ] {
            let error = await error { _ = try await install(agent, over: try shell(kind), base: place) }
            #expect(error?.message.contains(why) == true, "\(error?.message ?? "")")
            #expect(!FileManager.default.fileExists(atPath: place + "/bootstrap/.lock"))
        }
        #expect(try await install(agent, over: shell(kind), base: sticky + "/new/one") == false)
    }

    @Test(arguments: FarShell.allCases, [UploadForm.zstd, .gzip])
    func compressedUploadIsTheSameFile(kind: FarShell, form: UploadForm) async throws {
        let agent = try agent()
        // A shell that nobody refers to any more is collected: only then it does not count as alive.
        func visit(_ agent: AgentBinary, sendLimit: Int) async -> Result<Int, any Error> {
            await Result {
                let counter = CutChannel(try shell(kind), sendLimit: sendLimit)
                _ = try await install(agent, over: counter, forms: [form])
                return counter.sent
            }
        }
        let sent = try await visit(agent, sendLimit: .max).get()
        try expectInstalled(agent)
        #expect(sent < agent.size * 2 / 3, "\(sent) of \(agent.size) bytes")
        // A cut leaves what a cut of a plain upload leaves.
        let second = try self.agent("/bin/uname")
        let cut = await visit(second, sendLimit: 8000)
        #expect(throws: (any Error).self) { try cut.get() }
        #expect(!FileManager.default.fileExists(atPath: base.path("bootstrap/\(second.release)/bootstrap")))
        _ = try await install(second, over: shell(kind), forms: [form])
        try expectInstalled(second)
    }

    /// A file beside the program that is not its compressed form: the plain bytes travel, and it is said once.
    @Test(arguments: FarShell.allCases)
    func aDamagedFormIsNotTheEnd(kind: FarShell) async throws {
        let program = Array(try Data(contentsOf: URL(fileURLWithPath: "/bin/true")))
        let path = try base.write("agent", program, permissions: 0o755)
        let whole = AgentForms.gzip(program)
        let damages = [
            [UInt8](repeating: 0x55, count: 300_000), Array(whole.prefix(whole.count / 2)),
            AgentForms.gzip(Array(program.reversed())), AgentForms.gzip([UInt8](repeating: 0, count: 4 << 20)),
        ]
        for (number, damage) in damages.enumerated() {
            let agent = try AgentBinary(path: path)
            let file = AgentForms.built(.gzip, of: path, agent.sha256)
            try Data(damage).write(to: URL(fileURLWithPath: file))
            let warnings = Mutex<[String]>([])
            for device in ["\(number)/one", "\(number)/two"].map(base.path) {
                _ = try await install(agent, over: shell(kind), base: device, forms: [.gzip]) { text in
                    warnings.withLock { $0.append(text) }
                }
                let release = "\(device)/bootstrap/\(agent.release)"
                #expect(try FileManager.default.contentsOfDirectory(atPath: release) == ["bootstrap"])
                #expect(FileManager.default.contentsEqual(atPath: release + "/bootstrap", andPath: path))
            }
            let said = warnings.withLock { $0 }
            #expect(said.count == 1 && said[0].contains("\(file) seems damaged"), "\(said)")
        }
    }

    /// Bytes that unpack to far more than was announced, as an operator's damaged memory would send them: the device's
    /// disk is safe, and the plain bytes come after them.
    @Test(arguments: FarShell.allCases)
    func decompressionIsBounded(kind: FarShell) async throws {
        final class Bomb: RemoteChannel {
            let lower: LocalChannel
            let seen = Atomic(0)
            let payload: [UInt8]
            init(_ lower: LocalChannel, _ payload: [UInt8]) { (self.lower, self.payload) = (lower, payload) }
            func read() async throws -> [UInt8]? { try await lower.read() }
            func write(_ bytes: [UInt8]) async throws {
                // The first two writes are scripts; the first piece of the file is the bomb's beginning.
                let isPayload = seen.wrappingAdd(1, ordering: .relaxed).oldValue == 2
                try await lower.write(isPayload ? Array(payload.prefix(bytes.count)) : bytes)
            }
            func finish() async { await lower.finish() }
            func close() { lower.close() }
            func standardErrorText() async -> String { await lower.standardErrorText() }
        }
        let agent = try agent()
        let bomb = AgentForms.gzip([UInt8](repeating: 0, count: 64 << 20))
        let mount = try base.makeDirectory("small")
        let channel = try shell(kind, setup: "mount -t tmpfs -o size=1m tmpfs \(mount)")
        let warnings = Mutex<[String]>([])
        _ = try await install(agent, over: Bomb(channel, bomb), base: mount, forms: [.gzip]) { text in
            warnings.withLock { $0.append(text) }
        }
        let message = warnings.withLock { $0.first } ?? ""
        let arrived = message.split(separator: " ").compactMap { Int($0) }.first ?? 0
        #expect(message.contains("only \(arrived) of \(agent.size) bytes arrived"), "\(message)")
        // A file's limit is counted in blocks, of 512 bytes or of 1,024.
        #expect(arrived > agent.size && arrived <= 2 * (agent.size + 512), "\(message)")
    }

    @Test func uploadCutInTheMiddleIsRecovered() async throws {
        let agent = try agent()
        for cut in [2500, 10_000, agent.size] {
            let channel = CutChannel(try shell(), sendLimit: cut)
            await #expect(throws: (any Error).self) { _ = try await install(agent, over: channel) }
            #expect(!FileManager.default.fileExists(atPath: base.path("bootstrap/\(agent.release)/bootstrap")))
            #expect(!FileManager.default.fileExists(atPath: base.path("bootstrap/current")))
        }
        // What a machine that lost its power leaves: a part, and the lock of an earlier boot.
        try base.write("bootstrap/\(agent.release)/bootstrap.part.dead", "half")
        try base.write("bootstrap/.lock/owner", "1 00000000-0000-0000-0000-000000000000 0\n")
        #expect(try await install(agent, over: shell()) == true)
        try expectInstalled(agent)
        #expect(parts() == [])
    }

    @Test func changedBytesAreFound() async throws {
        final class Corrupting: RemoteChannel {
            let lower: LocalChannel
            let seen = Atomic(0)
            init(_ lower: LocalChannel) { self.lower = lower }
            func read() async throws -> [UInt8]? { try await lower.read() }
            func write(_ bytes: [UInt8]) async throws {
                var bytes = bytes
                // The first two writes are scripts.
                if seen.wrappingAdd(1, ordering: .relaxed).oldValue >= 2 { bytes[bytes.count / 2] ^= 1 }
                try await lower.write(bytes)
            }
            func finish() async { await lower.finish() }
            func close() { lower.close() }
            func standardErrorText() async -> String { await lower.standardErrorText() }
        }
        let agent = try agent()
        let error = await error { _ = try await install(agent, over: Corrupting(try shell())) }
        #expect(error?.message.contains("differs from what was sent") == true, "\(error?.message ?? "")")
        #expect(parts() == [])
        #expect(!FileManager.default.fileExists(atPath: base.path("bootstrap/current")))
    }

    @Test func agentThatDoesNotRunIsNotPutInPlace() async throws {
        let good = try agent()
        _ = try await install(good, over: shell())
        let bad = try agent("/bin/false")
        let error = await error { _ = try await install(bad, over: try shell()) }
        #expect(error?.message.contains("the agent does not run there (status 1)") == true, "\(error?.message ?? "")")
        try expectInstalled(good)
        #expect(!FileManager.default.fileExists(atPath: base.path("bootstrap/\(bad.release)")))
    }

    @Test func fullDiskIsSaidAndCleanedUp() async throws {
        let agent = try agent()
        let mount = try base.makeDirectory("small")
        for kind in FarShell.allCases {
            let channel = try shell(kind, setup: "mount -t tmpfs -o size=16k tmpfs \(mount)")
            let error = await error {
                defer { channel.close() }
                let shell = RemoteShell(channel, name: "dev")
                let installer = AgentInstaller(shell: shell, plan: try plan(agent, base: mount))
                _ = try await installer.lock()
                try await installer.install(agent, warn: { _ in }, progress: { _, _ in })
            }
            #expect(
                error?.message.contains("of \(agent.size) bytes arrived or could be written") == true,
                "\(error?.message ?? "")"
            )
            #expect(error?.message.contains("KiB") == true)
        }
    }

    @Test func readOnlyIsSaid() async throws {
        let agent = try agent()
        let channel = try shell(setup: "mount --bind \(base.path) \(base.path); mount -o remount,ro,bind \(base.path)")
        let error = await error { _ = try await install(agent, over: channel) }
        #expect(error?.message.contains("Read-only file system") == true, "\(error?.message ?? "")")
    }

    @Test func secondInstallerIsToldWhoHasTheLock() async throws {
        let agent = try agent()
        let first = try shell()
        defer { first.close() }
        let holder = AgentInstaller(shell: RemoteShell(first, name: "dev"), plan: try plan(agent))
        #expect(try await holder.lock() == false)
        let error = await error { _ = try await install(agent, over: try shell()) }
        #expect(
            error?.message.contains("another bootstrap (process \(first.process.pid)") == true,
            "\(error?.message ?? "")"
        )
        // It gives way once its shell is gone.
        first.close()
        try await eventually("the first shell ends") { !first.process.isRunning }
        #expect(try await install(agent, over: shell()) == true)
        try expectInstalled(agent)
    }
}
