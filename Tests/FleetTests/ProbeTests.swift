import Foundation
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

@Suite struct ProbeTests {
    let home = TemporaryDirectory()

    private func probe(
        _ kind: FarShell = .dash,
        bases: [String]? = nil,
        setup: String = "",
        interpreter: String? = nil,
        libraries: [String] = []
    ) async throws -> DeviceFacts {
        let channel = try LocalChannel.shell(kind.command, home: home.path, setup: setup)
        defer { channel.close() }
        let script = ProbeScript.text(
            bases: bases ?? [home.path],
            release: "0.1.0-abc",
            interpreter: interpreter,
            libraries: libraries,
            libraryPaths: []
        )
        return try DeviceFacts(try await RemoteShell(channel, name: "dev").run(script, step: "probe"), name: "dev")
    }

    private func run(_ command: String, _ arguments: [String]) async throws -> String {
        try await ChildProcess.run(command, arguments).standardOutput.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    @Test(arguments: FarShell.allCases)
    func findsWhatThisMachineIs(kind: FarShell) async throws {
        let name = home.path("with space & 'quote'")
        try FileManager.default.createDirectory(atPath: name, withIntermediateDirectories: true)
        let facts = try await probe(kind, bases: [name, "~/deep/not/there", "~"])
        #expect(facts.operatingSystem == "Linux")
        #expect(facts.architecture == (try await run("uname", ["-m"])))
        #expect(facts.isLittleEndian == true)
        #expect(facts.userID == getuid())
        #expect(facts.home == home.path)
        #expect(abs(facts.clock - Int64(Date().timeIntervalSince1970)) < 60)
        #expect(facts.bootID == (try await run("cat", ["/proc/sys/kernel/random/boot_id"])))
        #expect(facts.libc == (try await run("getconf", ["GNU_LIBC_VERSION"])))
        #expect(facts.tools.isSuperset(of: ["sha256sum", "head", "gzip"]))
        #expect(facts.bases.map(\.path) == [name, home.path("deep/not/there"), home.path])
        for base in facts.bases {
            #expect(base.isWritable && base.isExecutable, "\(base)")
            #expect(try #require(base.freeKilobytes) > 1000)
            #expect(base.current == nil && base.installedHash == nil && base.nodeProcess == nil)
        }
        #expect(
            try FileManager.default.subpathsOfDirectory(atPath: home.path) == ["with space & 'quote'"],
            "nothing is left"
        )
    }

    /// As sshd's StrictModes: what root runs is not where others can put something else into its place.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func rootInstallsNothingWhereOthersCanWrite(kind: FarShell) async throws {
        for name in ["open/own", "group/own", "theirs/own", "sticky/own", "fine"] { try home.makeDirectory(name) }
        chmod(home.path("open"), 0o757)
        chmod(home.path("group"), 0o775)
        chown(home.path("theirs"), 4711, 0)
        chmod(home.path("sticky"), 0o1777)
        let facts = try await probe(
            kind,
            bases: ["open/own", "open", "group/own/not/there", "theirs/own", "sticky/own", "fine"].map(home.path)
        )
        #expect(facts.bases.map(\.isWritable) == [false, false, false, false, true, true])
        for (base, place) in zip(facts.bases, ["open", "open", "group", "theirs"]) {
            #expect(base.reason.contains("others than root can write into \(home.path(place)) "), "\(base.reason)")
        }
    }

    /// A link leads where its owner wants, and elsewhere tomorrow: those that are named by others count, too.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func rootFollowsNoLinksOfOthers(kind: FarShell) async throws {
        try home.makeDirectory("fine/own")
        for (name, target) in [
            ("theirs", home.path("fine")), ("hop", "fine/../theirs/own"), ("roots", home.path("fine")),
            ("again", "roots/./own"),
        ] { try FileManager.default.createSymbolicLink(atPath: home.path(name), withDestinationPath: target) }
        lchown(home.path("theirs"), 4711, 0)
        let facts = try await probe(kind, bases: ["theirs/own", "hop/not/there", "roots/own", "again"].map(home.path))
        #expect(facts.bases.map(\.isWritable) == [false, false, true, true])
        for base in facts.bases.prefix(2) {
            #expect(base.reason.contains("the link \(home.path("theirs")) is not root's"), "\(base.reason)")
        }
    }

    /// Where it cannot be looked, nothing says that the place is root's. (BusyBox has an ls of its own.)
    @Test(.enabled(if: getuid() == 0), arguments: [FarShell.dash, .bash])
    func rootInstallsNothingWhereItCannotLook(kind: FarShell) async throws {
        let tools = try home.makeDirectory("tools")
        try await home.writeProgram("tools/ls", "exit 1")
        let base = try home.makeDirectory("fine")
        let facts = try await probe(kind, bases: [base], setup: "export PATH='\(tools)':\"$PATH\"")
        #expect(facts.bases.map(\.isWritable) == [false])
        // Nobody has looked: it is not said that others can write there.
        #expect(facts.bases[0].reason == "who can write into / cannot be told: ls -ldn / says nothing")
    }

    /// The operator is gone while the probe's file is there (its output has no reader any more), and another one was
    /// killed before: neither file is there at the end. (BusyBox has a chmod of its own, which no stand-in can hold
    /// up.)
    @Test(arguments: [FarShell.dash, .bash])
    func aProbeThatIsCutLeavesNothing(kind: FarShell) async throws {
        let base = try home.makeDirectory("base")
        let ended = try ChildProcess("true", [])
        _ = try await ended.exit()
        try home.write("base/.bootstrap-probe.\(ended.pid)", "")
        // A chmod(1) that waits until the reader is gone.
        let tools = try home.makeDirectory("tools")
        try await home.writeProgram("tools/chmod", "read -r line <'\(home.path)/gate'; exec /bin/chmod \"$@\"")
        let script = ProbeScript.text(
            bases: [base],
            release: "0.1.0-abc",
            interpreter: nil,
            libraries: [],
            libraryPaths: []
        )
        try home.write("probe", "PATH='\(tools)':\"$PATH\"\n\(script)")
        let shell = kind.command.joined(separator: " ")
        let reader = "exec 3>'\(home.path)/gate'; exec 0<&-; echo gone >&3"
        let run = try await ChildProcess.run(
            "sh",
            ["-c", "mkfifo '\(home.path)/gate' && \(shell) '\(home.path)/probe' | sh -c \"\(reader)\""]
        )
        #expect(run.succeeded, "\(run.standardError)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: base) == [])
    }

    /// Some shells say `I/O error` of a disk that is full: whose agent is there is told to make room, and to no second
    /// place.
    @Test(.enabled(if: getuid() == 0), arguments: FarShell.allCases)
    func aFullDiskIsNamed(kind: FarShell) async throws {
        let base = try home.makeDirectory("base")
        let setup = """
            mount -t tmpfs -o size=64k none '\(base)'
            mkdir '\(base)/bootstrap'
            ln -s 0.1.0-old '\(base)/bootstrap/current'
            dd if=/dev/zero of='\(base)/ballast' bs=1k 2>/dev/null || true
            """
        let facts = try await probe(kind, bases: [base], setup: setup)
        #expect(facts.bases[0].reason.contains("No space left on device"), "\(facts.bases[0].reason)")
        let agent = try AgentBinary(path: TestTools.bootstrap)
        let refusal = #expect(throws: InstallationPlan.Refusal.self) { try InstallationPlan(facts, agent: agent) }
        #expect(refusal?.message.contains("make room") == true, "\(refusal?.message ?? "")")
        #expect(refusal?.message.contains("--base") == false, "\(refusal?.message ?? "")")
    }

    /// Stand-ins: nothing here can start systemd, and sudo would be the tester's.
    @Test(arguments: FarShell.allCases)
    func findsWhatIsAround(kind: FarShell) async throws {
        let tools = try home.makeDirectory("tools")
        // The directory that says that systemd is what runs here, in a mount namespace of its own.
        let booted = "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; "
        let path =
            booted
            + "export PATH='\(tools)':\"$PATH\" XDG_RUNTIME_DIR='\(home.path)' SSH_CONNECTION='10.0.0.1 4711 10.0.0.7 22'"
        try await home.writeProgram(
            "tools/systemctl",
            "[ \"$1\" = is-system-running ] && cat \(home.path("state")); exit 1"
        )
        try await home.writeProgram("tools/crontab", "exit 0")
        try home.write("state", "degraded\n")
        let nothing = try await probe(kind, setup: path).surroundings
        #expect(nothing.initSystem == .systemd)
        #expect(nothing.systemdState == "degraded")
        #expect(!nothing.hasUserBus && !nothing.isLoopback)
        #expect(nothing.privilege == .root)
        #expect(nothing.hasOpenSSL)
        #expect(nothing.hasSFTP)
        #expect(nothing.distribution?.isEmpty == false)
        let machine = try String(contentsOfFile: "/etc/machine-id", encoding: .utf8)
        #expect(nothing.machineID == machine.trimmingCharacters(in: .whitespacesAndNewlines))

        try home.write("state", "offline\n")
        try FileManager.default.createSymbolicLink(atPath: home.path("crond"), withDestinationPath: "/bin/sleep")
        let cron = try ChildProcess(home.path("crond"), ["600"])
        let bus = try ChildProcess(
            "python3",
            [
                "-c",
                "import socket,sys;s=socket.socket(socket.AF_UNIX);s.bind('\(home.path)/bus');print('on',flush=True);sys.stdin.read()",
            ],
            keepsInputOpen: true
        )
        try await eventually("both run") {
            bus.standardOutput.text == "on\n"
                && (try? String(contentsOfFile: "/proc/\(cron.pid)/comm", encoding: .utf8)) == "crond\n"
        }
        let some = try await probe(kind, setup: path.replacingOccurrences(of: "10.0.0.7", with: "10.0.0.1"))
            .surroundings
        #expect(some.systemdState == "offline")
        #expect(some.initSystem != .systemd)
        #expect(some.runsCron && some.hasUserBus && some.isLoopback)
        #expect(some.summary.contains("cron, sftp, openssl"), "\(some.summary)")
    }

    /// sudo is a stand-in that agrees, then one that wants a password.
    @Test func findsWhoTheAccountCanBe() async throws {
        try await home.writeProgram("tools/sudo", "[ \"$*\" = '-n true' ]")
        chmod(home.path, 0o755)
        chmod(home.path("tools"), 0o755)
        func privilege() async throws -> DeviceFacts.Surroundings.Privilege {
            let channel = try LocalChannel(
                "setpriv",
                ["--reuid=65534", "--regid=65534", "--clear-groups", "dash", "-s"],
                environment: ["HOME": home.path, "PATH": "\(home.path("tools")):/usr/bin:/bin"]
            )
            defer { channel.close() }
            let script = ProbeScript.text(bases: ["~"], release: "x", interpreter: nil, libraries: [], libraryPaths: [])
            let output = try await RemoteShell(channel, name: "dev").run(script, step: "probe")
            let facts = try DeviceFacts(output, name: "dev")
            #expect(facts.userID == 65534)
            return facts.surroundings.privilege
        }
        #expect(try await privilege() == .sudo)
        try await home.writeProgram("tools/sudo", "echo 'a password is required' >&2; exit 1")
        #expect(try await privilege() == .none)
        try await home.writeProgram("tools/doas", "[ \"$*\" = '-n true' ]")
        #expect(try await privilege() == .doas)
    }

    /// A bus that never answers costs five seconds, not the enrolment.
    @Test func hangingInitSystemDoesNotHangTheProbe() async throws {
        try await home.writeProgram("tools/systemctl", "[ $# = 0 ] || exec sleep 600")
        let path = "export PATH='\(home.path("tools"))':\"$PATH\""
        let booted = "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/system; "
        let facts = try await probe(setup: booted + path)
        #expect(facts.surroundings.initSystem != .systemd)
        #expect(facts.surroundings.systemdState == nil)
        // Where it does not run it is not asked.
        let other = try await probe(setup: "mount -t tmpfs tmpfs /run; " + path)
        #expect(other.surroundings.systemdState == "offline")
    }

    @Test func findsWhatIsInstalled() async throws {
        try home.write("bootstrap/0.1.0-abc/bootstrap", "agent")
        try home.write("bootstrap/state/node.pid", "\(getpid())\n")
        try FileManager.default.createSymbolicLink(
            atPath: home.path("bootstrap/current"),
            withDestinationPath: "0.1.0-abc"
        )
        for kind in FarShell.allCases {
            let base = try #require(try await probe(kind).bases.first)
            #expect(base.installedHash == Checksum.of(Array("agent".utf8)))
            #expect(base.current == "0.1.0-abc")
            #expect(base.nodeProcess == getpid())
        }
        try home.write("bootstrap/state/node.pid", "999999999\n")
        #expect(try await probe().bases.first?.nodeProcess == nil)
    }

    @Test func noexecIsFound() async throws {
        let facts = try await probe(setup: "mount -t tmpfs -o noexec,size=4m none \(home.path)")
        let base = try #require(facts.bases.first)
        #expect(base.isWritable)
        #expect(!base.isExecutable)
        #expect(base.reason.lowercased().contains("permission denied"))
        #expect(base.isVolatile || base.freeKilobytes ?? 0 > 0)
    }

    @Test func readOnlyIsFound() async throws {
        let base = try #require(
            try await probe(setup: "mount --bind \(home.path) \(home.path); mount -o remount,ro,bind \(home.path)")
                .bases.first
        )
        #expect(!base.isWritable)
        #expect(base.reason.contains("Read-only"))
    }

    @Test func fullIsFound() async throws {
        let setup =
            "mount -t tmpfs -o size=64k tmpfs \(home.path); head -c 100000 /dev/zero >\(home.path)/fill 2>/dev/null || true"
        for kind in FarShell.allCases {
            let base = try #require(try await probe(kind, setup: setup).bases.first)
            #expect(!base.isWritable, "\(kind) \(base)")
            #expect(base.freeKilobytes == 0)
            #expect(base.isVolatile)
        }
    }

    @Test func missingLibrariesAreFound() async throws {
        let facts = try await probe(
            interpreter: "/lib64/ld-linux-x86-64.so.2-not",
            libraries: ["libc.so.6", "libnothere.so.1"]
        )
        #expect(facts.missing == ["/lib64/ld-linux-x86-64.so.2-not", "libnothere.so.1"])
    }

    // MARK: What a hostile machine may answer

    private static let good = [
        "os=Linux", "arch=x86_64", "kernel=6.1", "uid=0", "user=root", "home=/root", "host=dev7", "epoch=1000000000",
        "boot=abc", "endian=1", "libc=glibc 2.36", "tool.head=1", "tool.sha256sum=1", "base.0=/opt", "base.0.write=1",
        "base.0.exec=1", "base.0.free=1000000", "done=1",
    ]

    static func facts(_ changes: [String] = []) throws -> DeviceFacts {
        try DeviceFacts(RemoteShell.Output(status: 0, lines: changes + good), name: "dev")
    }

    @Test(arguments: [
        "os=", "uid=-1", "uid=x", "epoch=", "epoch=99999999999999999999", "base.0=relative", "base.0=/opt/../etc",
        "base.0=/o?t",
        "done=0", "arch=\(String(repeating: "x", count: 300))",
    ])
    func nonsenseIsRefused(line: String) {
        #expect(throws: SignalError.self) { try Self.facts([line]) }
    }

    @Test func surroundingsAreWordsOfTheirList() throws {
        let facts = try Self.facts([
            "uid=7", "init=evil", "privilege=god", "distribution=\u{1B}[2J\(String(repeating: "x", count: 500))",
            "connection=a b c",
        ])
        #expect(facts.surroundings.initSystem == .other)
        #expect(facts.surroundings.privilege == .none)
        #expect(facts.surroundings.distribution?.count ?? 0 < 100)
        #expect(facts.surroundings.distribution?.contains("\u{1B}") == false)
        #expect(!facts.surroundings.isLoopback)
    }

    @Test func whatIsNotKnownIsIgnored() throws {
        let facts = try Self.facts(["base.0.free=-7", "base.0.node=x", "base.0.agent=short", "endian=9", "noise", "=x"])
        #expect(facts.bases[0].freeKilobytes == nil)
        #expect(facts.bases[0].nodeProcess == nil)
        #expect(facts.bases[0].installedHash == nil)
        #expect(facts.isLittleEndian == nil)
    }
}

@Suite struct InstallationPlanTests {
    /// A static program of one page, made by hand, and the system's own dynamic one.
    private static func agent(machine: UInt8 = 62, dynamic: Bool = false) throws -> AgentBinary {
        if dynamic { return try AgentBinary(path: "/bin/true") }
        let directory = TemporaryDirectory()
        var image = [UInt8](repeating: 0, count: 4096)
        image.replaceSubrange(0..<6, with: [0x7F, 0x45, 0x4C, 0x46, 2, 1])
        image[18] = machine
        image[32] = 64
        image[54] = 56
        return try AgentBinary(path: try directory.write("agent", image))
    }

    private func refusal(_ changes: [String], _ agent: AgentBinary) throws -> String {
        let error = #expect(throws: InstallationPlan.Refusal.self) {
            try InstallationPlan(ProbeTests.facts(changes), agent: agent)
        }
        return error?.message ?? ""
    }

    @Test func goesToTheFirstUsableDirectory() throws {
        let agent = try Self.agent()
        let plan = try InstallationPlan(ProbeTests.facts(), agent: agent)
        #expect(plan.root == "/opt/bootstrap")
        #expect(plan.agentPath == "/opt/bootstrap/\(AgentRelease.version)-\(agent.sha256.prefix(12))/bootstrap")
        #expect(!plan.isInstalled)
        let second = ["base.1=/home/me", "base.1.write=1", "base.1.exec=1", "base.1.free=9000"]
        #expect(
            try InstallationPlan(ProbeTests.facts(["base.0.exec=0"] + second), agent: agent).root
                == "/home/me/bootstrap"
        )
        #expect(
            try InstallationPlan(ProbeTests.facts(["base.0.write=0"] + second), agent: agent).root
                == "/home/me/bootstrap"
        )
        #expect(
            try InstallationPlan(ProbeTests.facts(["base.0.free=100"] + second), agent: agent).root
                == "/home/me/bootstrap"
        )
        #expect(
            try InstallationPlan(ProbeTests.facts(["base.1.current=x"] + second), agent: agent).root
                == "/home/me/bootstrap"
        )
        let installed = try InstallationPlan(
            ProbeTests.facts(["base.1.agent=\(agent.sha256)", "base.1.free=0"] + second.prefix(3)),
            agent: agent
        )
        #expect(installed.isInstalled && installed.root == "/home/me/bootstrap")
        #expect(try InstallationPlan(ProbeTests.facts(["base.0.volatile=1"]), agent: agent).warnings.count == 1)
    }

    /// An installation that cannot be written to for now is not joined by a second one, which would fight for its port.
    @Test(arguments: ["Read-only file system", "No space left on device"])
    func doesNotGoBesideAnInstallation(_ reason: String) throws {
        let agent = try Self.agent()
        let other = ["base.1=/home/me", "base.1.write=1", "base.1.exec=1", "base.1.free=9000"]
        let broken = ["base.0.write=0", "base.0.why=sh: cannot create x: \(reason)"]
        for present in ["base.0.current=x", "base.0.node=7"] {
            let error = try refusal(broken + other + [present], agent)
            #expect(error.contains("installed in /opt/bootstrap") && error.contains(reason), "\(error)")
        }
        // Without one, the next directory is as good; and another user's is not ours to write to.
        #expect(try InstallationPlan(ProbeTests.facts(broken + other), agent: agent).root == "/home/me/bootstrap")
        let forbidden = ["base.0.write=0", "base.0.why=Permission denied", "base.0.current=x"]
        #expect(try InstallationPlan(ProbeTests.facts(forbidden + other), agent: agent).root == "/home/me/bootstrap")
    }

    @Test func saysWhyThereIsNoPlace() throws {
        let agent = try Self.agent()
        #expect(
            try refusal(["base.0.write=0", "base.0.why=Read-only file system"], agent).contains(
                "/opt: not writable (Read-only"
            )
        )
        #expect(try refusal(["base.0.exec=0", "base.0.why=Permission denied"], agent).contains("noexec"))
        #expect(try refusal(["base.0.free=100"], agent).contains("need 0.2 MiB, free 0.0 MiB"))
        #expect(try refusal(["base.0.write=0"], agent).contains("Nothing was uploaded"))
    }

    @Test func saysWhatDoesNotFit() throws {
        let x86 = try Self.agent()
        let arm = try Self.agent(machine: 183)
        #expect(try refusal(["os=Darwin"], x86).contains("Darwin x86_64; the agent runs on Linux only"))
        #expect(try refusal(["arch=armv7l"], x86).contains("Linux armv7l"))
        #expect(try refusal([], arm).contains("is for aarch64"))
        #expect(try refusal(["endian=2"], x86).contains("Nothing was uploaded"))
        #expect(try InstallationPlan(ProbeTests.facts(["arch=aarch64"]), agent: arm).root == "/opt/bootstrap")
        // A static program needs no libc at all.
        #expect(throws: Never.self) { try InstallationPlan(ProbeTests.facts(["libc=musl"]), agent: x86) }
    }

    @Test func saysWhatADynamicAgentNeeds() throws {
        let agent = try Self.agent(dynamic: true)
        #expect(agent.interpreter?.contains("ld-linux") == true)
        #expect(agent.libraries.contains("libc.so.6"))
        let needed = try #require(agent.glibcVersion)
        let fitting = ["arch=\(agent.architecture)"]
        #expect(throws: Never.self) { try InstallationPlan(ProbeTests.facts(fitting), agent: agent) }
        #expect(
            try refusal(fitting + ["libc=musl"], agent).contains(
                "needs what the machine lacks: glibc \(needed) (it has musl)"
            )
        )
        #expect(try refusal(fitting + ["libc=glibc 2.3"], agent).contains("(it has glibc 2.3)"))
        #expect(try refusal(fitting + ["missing.libssl.so.3=1"], agent).contains("libssl.so.3"))
    }

    @Test func missingToolsAreNamed() throws {
        var facts = try ProbeTests.facts()
        facts.tools = ["head"]
        #expect(throws: InstallationPlan.Refusal.self) { try InstallationPlan(facts, agent: Self.agent()) }
        facts.tools = ["sha256sum"]
        #expect(throws: InstallationPlan.Refusal.self) { try InstallationPlan(facts, agent: Self.agent()) }
    }
}

@Suite struct AgentBinaryTests {
    /// The same as binutils say.
    @Test func sameAsReadelf() async throws {
        for path in ["/bin/sh", "/usr/bin/ssh", "/usr/bin/openssl"] {
            let agent = try AgentBinary(path: path)
            let output = try await ChildProcess.run("readelf", ["-dVW", path]).standardOutput
            let needed = output.split(separator: "\n").filter { $0.contains("(NEEDED)") }.map { line in
                String(line.split(separator: "[")[1].dropLast())
            }
            #expect(agent.libraries == needed)
            let versions = output.matches(of: /Name: GLIBC_([0-9.]+)/).map {
                $0.output.1.split(separator: ".").compactMap { Int($0) }
            }
            let newest = versions.max { $0.lexicographicallyPrecedes($1) }.map {
                $0.map(String.init).joined(separator: ".")
            }
            #expect(agent.glibcVersion == newest)
            #expect(agent.sha256 == Checksum.of(Array(try Data(contentsOf: URL(fileURLWithPath: path)))))
        }
    }

    @Test func whatIsNoProgramIsRefused() throws {
        let directory = TemporaryDirectory()
        #expect(throws: AgentBinaryError.self) { try AgentBinary(path: directory.path("missing")) }
        #expect(throws: AgentBinaryError.self) { try AgentBinary(path: directory.path) }
        let text = try directory.write("text", "#!/bin/sh\n")
        let error = #expect(throws: AgentBinaryError.self) { try AgentBinary(path: text) }
        #expect(error?.message.contains("no 64-bit little-endian Linux program") == true)
    }

    @Test func damageDoesNotTrap() throws {
        let whole = Array(try Data(contentsOf: URL(fileURLWithPath: "/bin/true")))
        for length in stride(from: 0, to: whole.count, by: 97) { check(Array(whole[..<length])) }
        for _ in 0..<500 {
            var damaged = whole
            for _ in 0..<8 { damaged[Int.random(in: 6..<1024)] = UInt8.random(in: .min ... .max) }
            check(damaged)
        }
    }

    private func check(_ bytes: [UInt8]) {
        guard let image = ELFImage(bytes) else { return }
        _ = (image.interpreter, image.neededLibraries, image.libraryPaths, image.newestVersion(prefix: "GLIBC_"))
    }
}
