import Foundation
import MeshIdentity
import Synchronization
import TestDevices
import TestPeers
import Testing

@testable import Fleet
@testable import SSHSignal

/// A machine with nothing but busybox, and openssl where a test wants it: a directory that a shell is locked into.
struct BusyboxMachine {
    let root = TemporaryDirectory()

    init(openssl: Bool) async throws {
        for name in ["bin", "etc", "dev", "tmp", "root"] { try root.makeDirectory(name) }
        try root.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        let copy = """
            cd '\(root.path)'
            cp "$(command -v busybox)" bin/busybox
            for applet in $(bin/busybox --list); do [ $applet = busybox ] || ln -s busybox bin/$applet; done
            mknod dev/null c 1 3; chmod 666 dev/null
            mknod dev/urandom c 1 9
            """
        let tool = """
            cp "$(command -v openssl)" bin/
            for f in $(ldd bin/openssl | grep -o '/[^ )]*'); do mkdir -p ".${f%/*}"; cp "$f" ".$f"; done
            """
        let made = try await ChildProcess.run("sh", ["-ec", copy + "\n" + (openssl ? tool : "rm -f bin/openssl")])
        try #require(made.succeeded, "\(made.standardError)")
    }

    func shell() throws -> LocalChannel {
        try LocalChannel(
            "/usr/sbin/chroot",
            [root.path, "/bin/sh", "-s"],
            environment: ["HOME": "/root", "PATH": "/bin", "ENV": nil]
        )
    }
}

@Suite struct AgentlessTests {
    private let home = TemporaryDirectory()
    private let ca: EmbeddedCA
    private let id: SPIFFEID

    init() throws {
        let domain = try TrustDomain("test.example")
        ca = try EmbeddedCA.create(directory: home.path("ca"), trustDomain: domain)
        id = try SPIFFEID(trustDomain: domain, namespace: "default", name: "router")
    }

    private func enroll(
        over channel: any RemoteChannel,
        _ origin: Device.KeyOrigin = .openssl,
        directory: String? = "/etc/mesh",
        after: String? = nil,
        warn: @escaping @Sendable (String) -> Void = { _ in }
    ) async throws -> AgentlessEnrollment.Visit {
        let options = EnrollmentOptions(name: "router", id: id) { progress in
            if case .warning(let text) = progress { warn(text) }
        }
        let placement = AgentlessEnrollment.Placement(keyOrigin: origin, directory: directory, after: after)
        let enrollment = AgentlessEnrollment(options, placement, issuer: ca)
        return try await enrollment.enroll(over: channel)
    }

    private func versions(_ directory: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory).filter { $0.hasPrefix("..version-") }
    }

    private func mode(_ path: String) -> UInt32 {
        var status = stat()
        stat(path, &status)
        return UInt32(status.st_mode) & 0o777
    }

    /// What is run may name a password; everybody on the device can read the arguments of its processes.
    @Test func whatIsRunAfterwardsIsNoArgument() async throws {
        let script = AgentlessScript.after(
            "tr '\\0' ' ' </proc/$$/cmdline; echo \"in $BOOTSTRAP_CREDENTIALS\" >&2; exit 7",
            directory: "/etc/a b"
        )
        let output = try await ChildProcess.run("sh", ["-s"], input: Array(script.utf8))
        #expect(output.status == .exited(7))
        #expect(output.standardOutput == "sh -s in /etc/a b\n", "\(output)")
    }

    /// As for an agent: what root writes is not where others can put a link in its place.
    @Test(.enabled(if: getuid() == 0))
    func rootWritesNoKeyWhereOthersCanWrite() async throws {
        let machine = try await BusyboxMachine(openssl: true)
        try machine.root.makeDirectory("srv/open/mesh")
        chmod(machine.root.path("srv/open"), 0o757)
        for directory in ["/srv/open/mesh", "/srv/open/not/there"] {
            let error = await #expect(throws: HostError.self) {
                try await enroll(over: try machine.shell(), directory: directory)
            }
            #expect(error?.reason == .unfit)
            #expect(
                error?.message.contains("others than root can write into /srv/open ") == true,
                "\(error?.message ?? "")"
            )
            #expect(error?.message.contains("--credential-dir") == true)
        }
        #expect(
            try FileManager.default.subpathsOfDirectory(atPath: machine.root.path("srv")).sorted() == [
                "open", "open/mesh",
            ]
        )
        chmod(machine.root.path("srv/open"), 0o1777)
        _ = try await enroll(over: try machine.shell(), directory: "/srv/open/mesh")
    }

    @Test func busyboxWithOpenSSLMakesItsOwnKey() async throws {
        let machine = try await BusyboxMachine(openssl: true)
        let directory = machine.root.path("etc/mesh")
        let first = try await enroll(
            over: try machine.shell(),
            after:
                "cat \"$BOOTSTRAP_CREDENTIALS/cert-chain.pem\" \"$BOOTSTRAP_CREDENTIALS/key.pem\" >/etc/both.pem; echo reloaded"
        )
        #expect(first.afterFailure == nil)
        // The same files that a node or Istio's Envoy reads: verified, private, for this identity.
        let credential = try CredentialDirectory(directory).load()
        #expect(credential.id == id)
        #expect(credential.leaf.serialNumber == first.leaf.serialNumber)
        #expect(mode(directory + "/key.pem") == 0o600)
        #expect(mode(directory + "/" + (try versions(directory)[0])) == 0o700)
        #expect(try machine.root.read("etc/both.pem").contains("PRIVATE KEY"))
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
                == [
                    "..data", try versions(directory)[0], "cert-chain.pem", "key.pem", "root-cert.pem",
                ].sorted()
        )

        // Again: another key, and nothing of the first is left.
        let second = try await enroll(over: try machine.shell(), after: "echo 'no such service' >&2; exit 7")
        #expect(second.afterFailure?.contains("status 7: no such service") == true, "\(second.afterFailure ?? "")")
        let renewed = try CredentialDirectory(directory).load()
        #expect(renewed.leaf.serialNumber == second.leaf.serialNumber)
        #expect(try versions(directory).count == 1)

        var removal = DeviceRemoval(name: "router", bases: ["/opt"])
        removal.credentialDirectory = "/etc/mesh"
        let outcome = try await removal.remove(over: try machine.shell())
        #expect(outcome.removed.contains("/etc/mesh") && outcome.left == [], "\(outcome)")
        #expect(!FileManager.default.fileExists(atPath: directory))
    }

    @Test func withoutOpenSSLOnlyAKeyThatIsAskedForIsPushed() async throws {
        let machine = try await BusyboxMachine(openssl: false)
        let error = await #expect(throws: HostError.self) { try await enroll(over: try machine.shell()) }
        #expect(error?.reason == .unfit)
        #expect(error?.message.contains("--push-key") == true)
        #expect(!FileManager.default.fileExists(atPath: machine.root.path("etc/mesh")))
        let warnings = Mutex<[String]>([])
        _ = try await enroll(over: try machine.shell(), .pushed) { text in warnings.withLock { $0.append(text) } }
        #expect(warnings.withLock { $0.contains { $0.contains("PRIVATE KEY IS MADE HERE") } })
        #expect(try CredentialDirectory(machine.root.path("etc/mesh")).load().id == id)
        #expect(mode(machine.root.path("etc/mesh/key.pem")) == 0o600)
    }

    /// Wherever it is cut, the files are the old ones or the new ones, and the next run finishes.
    @Test func cutAnywhereLeavesTheOldOrTheNew() async throws {
        let machine = try await BusyboxMachine(openssl: true)
        let directory = machine.root.path("etc/mesh")
        func visit(_ limit: Int) async -> Int {
            let channel = CutChannel((try? machine.shell())!, sendLimit: limit)
            _ = try? await enroll(over: channel)
            return channel.sent
        }
        let whole = await visit(.max)
        var last = try CredentialDirectory(directory).load()
        for part in 1..<8 {
            _ = await visit(whole * part / 8)
            let now = try CredentialDirectory(directory).load()
            #expect(now.id == id)
            last = now
        }
        // A lock in a directory without /proc is nobody's.
        _ = try await enroll(over: try machine.shell())
        #expect(try CredentialDirectory(directory).load().leaf.serialNumber != last.leaf.serialNumber)
        try await eventually("what was cut is gone") { try versions(directory).count == 1 }
    }

    private func chain(of name: String) async throws -> String {
        let id = try SPIFFEID(trustDomain: id.trustDomain, namespace: "default", name: name)
        let issued = try await (ca as any CertificateIssuer).issue(
            try CertificateRequest.create(key: PrivateKey.generate(), id: id),
            id: id,
            options: IssuanceOptions()
        )
        return String(decoding: issued.chain.flatMap(\.pem), as: UTF8.self)
    }

    /// One identity was allowed to go; another enrolment has put a second there before this one had the lock.
    @Test func anIdentityThatCameBeforeTheLockIsJudgedToo() async throws {
        let (first, second) = (try await chain(of: "first"), try await chain(of: "second"))
        let directory = home.path("credential")
        try home.makeDirectory("credential")
        try home.write("credential/cert-chain.pem", first)
        var options = EnrollmentOptions(name: "router", id: id)
        options.occupied = { present in
            guard present.id.description.hasSuffix("/first") else { return HostError(.denied, "\(present.id) stays") }
            try? second.write(toFile: directory + "/cert-chain.pem", atomically: true, encoding: .utf8)
            return nil
        }
        let enrollment = AgentlessEnrollment(options, .init(keyOrigin: .pushed, directory: directory), issuer: ca)
        let channel = try LocalChannel.shell(FarShell.dash.command, home: home.path, setup: "")
        let error = await #expect(throws: HostError.self) { _ = try await enrollment.enroll(over: channel) }
        #expect(error?.message == "spiffe://test.example/ns/default/sa/second stays")
        #expect(!FileManager.default.fileExists(atPath: directory + "/.lock"))
        #expect(try home.read("credential/cert-chain.pem") == second)
    }

    /// Revoked, or removed, while the machine makes its key: it is cut, and says why.
    @Test(.timeLimit(.minutes(10)), arguments: [true, false])
    func anEnrolmentThatIsUnderWayIsCut(isRevoked: Bool) async throws {
        let devices = DeviceDirectory(home.path("devices"))
        var record = try DeviceDirectoryTests.record("router")
        record.identity = id
        try devices.save(record)
        try home.makeDirectory("tools")
        try await home.writeProgram(
            "tools/openssl",
            // Until the tests end: the shell waits for it.
            ": >'\(home.path("started"))'\nexec tail -f --pid=\(getpid()) /dev/null\n"
        )
        let recording = RecordingIssuer(
            ca,
            ledger: devices.ledger,
            command: "enroll",
            claim: try devices.ledger.claim("router")
        )
        let enrollment = AgentlessEnrollment(
            EnrollmentOptions(name: "router", id: id),
            .init(directory: home.path("credential")),
            issuer: recording
        )
        let channel = try LocalChannel.shell(
            FarShell.dash.command,
            home: home.path,
            setup: "export PATH='\(home.path("tools"))':\"$PATH\""
        )
        async let outcome: Void = {
            let error = await #expect(throws: SignalError.self) { _ = try await enrollment.enroll(over: channel) }
            #expect(error?.code == (isRevoked ? .revoked : .refused))
            #expect(error?.message.contains(isRevoked ? "was revoked at" : "was unenrolled") == true)
            // What the command ends with.
            if let error { #expect(HostError(error, name: "router").reason == (isRevoked ? .denied : .failed)) }
        }()
        try await eventually("the key is being made") { FileManager.default.fileExists(atPath: home.path("started")) }
        if isRevoked {
            _ = try devices.ledger.revokeDevice(named: "router", reason: "stolen", by: "revoke")
        } else {
            try devices.remove(named: "router")
        }
        await outcome
    }

    /// What the machine does not take does not count, as with an agent.
    @Test func aCertificateThatCannotBeWrittenIsRevoked() async throws {
        let devices = DeviceDirectory(home.path("devices"))
        let recording = RecordingIssuer(
            ca,
            ledger: devices.ledger,
            command: "renew",
            claim: try devices.ledger.claim("router")
        )
        // Its `printf` writes nothing into files, as with a full disk.
        let enrollment = AgentlessEnrollment(
            EnrollmentOptions(name: "router", id: id),
            .init(directory: home.path("credential")),
            issuer: recording
        )
        try home.makeDirectory("tools")
        try await home.writeProgram("tools/wc", "echo 0\n")
        let channel = try LocalChannel.shell(
            FarShell.dash.command,
            home: home.path,
            setup: "export PATH='\(home.path("tools"))':\"$PATH\""
        )
        let error = await #expect(throws: SignalError.self) { _ = try await enrollment.enroll(over: channel) }
        #expect(error?.message.contains("cannot be written") == true, "\(error?.message ?? "")")
        let certificate = try #require(try devices.ledger.certificates().first)
        #expect(certificate.state == .revoked && certificate.reason?.contains("cannot be written") == true)
    }

    /// The host keys that a machine has beside the one that it shows.
    @Test func theProbeFindsItsHostKeys() async throws {
        let machine = try await BusyboxMachine(openssl: true)
        try machine.root.makeDirectory("etc/ssh")
        var names: [MachineKey] = []
        for type in ["ed25519", "ecdsa"] {
            let path = machine.root.path("etc/ssh/ssh_host_\(type)_key")
            let made = try await ChildProcess.run("ssh-keygen", ["-q", "-t", type, "-N", "", "-f", path])
            try #require(made.succeeded, "\(made.standardError)")
            let key = try SSHPublicKey(line: Array(machine.root.read("etc/ssh/ssh_host_\(type)_key.pub").utf8))
            names.append(MachineKey(algorithm: key.algorithm, fingerprint: key.fingerprint))
        }
        var options = EnrollmentOptions(name: "router", id: id)
        let expected = Set(names)
        options.refusalOfKeys = { Set($0) == expected ? HostError(.denied, "known by both") : nil }
        let enrollment = AgentlessEnrollment(options, .init(directory: "/etc/mesh"), issuer: ca)
        let channel = try machine.shell()
        let error = await #expect(throws: HostError.self) { _ = try await enrollment.enroll(over: channel) }
        #expect(error?.message == "known by both")
    }

    /// A request that is not what was ordered, made by a device that replaces its openssl.
    @Test(arguments: [
        (
            "another identity",
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -addext subjectAltName=critical,URI:spiffe://test.example/ns/default/sa/admin",
            "instead of"
        ),
        ("no identity", "-newkey ec -pkeyopt ec_paramgen_curve:P-256", "asks for no identity"),
        (
            "two identities",
            "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -addext subjectAltName=URI:spiffe://test.example/ns/default/sa/router,URI:spiffe://test.example/ns/default/sa/admin",
            "certificate request"
        ),
        (
            "a weak RSA key",
            "-newkey rsa:1024 -addext subjectAltName=critical,URI:spiffe://test.example/ns/default/sa/router",
            "public key"
        ),
        (
            "a weak curve",
            "-newkey ec -pkeyopt ec_paramgen_curve:prime192v1 -addext subjectAltName=critical,URI:spiffe://test.example/ns/default/sa/router",
            "public key"
        ),
    ])
    func dishonestRequestsGetNothing(what: String, arguments: String, reason: String) async throws {
        let made = try await ChildProcess.run(
            "sh",
            [
                "-c",
                "openssl req -new -nodes -subj / -keyout '\(home.path("key"))' -out '\(home.path("csr"))' -config /dev/null \(arguments)",
            ]
        )
        try #require(made.succeeded, "\(made.standardError)")
        try await home.writeProgram(
            "tools/openssl",
            """
            out=; while [ $# -gt 1 ]; do [ "$1" = -out ] && out="$2"; case "$1" in version) echo 'OpenSSL 3.0';; esac; shift; done
            [ "$1" = version ] && echo 'OpenSSL 3.0 evil'
            case "$out" in */request.pem) cp '\(home.path("csr"))' "$out";; ?*) echo key >"$out";; esac
            """
        )
        let channel = try LocalChannel.shell(
            FarShell.dash.command,
            home: home.path,
            setup: "export PATH='\(home.path("tools"))':\"$PATH\""
        )
        let target = home.path("credential")
        let error = await #expect(throws: (any Error).self) {
            _ = try await enroll(over: channel, directory: target)
        }
        let message = error.map { HostError($0, name: "router").message } ?? ""
        #expect(message.contains(reason), "\(what): \(message)")
        #expect(!FileManager.default.fileExists(atPath: target + "/cert-chain.pem"))
        #expect(try versions(target) == [], "\(what): the key is left")
    }

    /// A file system without room for the files.
    @Test func fullDiskLeavesTheOldOnes() async throws {
        let mount = try home.makeDirectory("small")
        let setup = "mount -t tmpfs -o size=16k,nr_inodes=8 tmpfs '\(mount)'"
        let channel = try LocalChannel.shell(FarShell.dash.command, home: home.path, setup: setup)
        let error = await #expect(throws: SignalError.self) {
            _ = try await enroll(over: channel, directory: mount + "/mesh")
        }
        #expect(error?.code == .refused, "\(error?.message ?? "")")
    }

    /// HAProxy serves with what it was given, and serves the next certificate after its reload.
    @Test func haproxyUsesTheFiles() async throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/sbin/haproxy") else { return }
        let directory = home.path("mesh")
        let (both, port) = (home.path("both.pem"), FreePort.next())
        let after = "cat '\(directory)/cert-chain.pem' '\(directory)/key.pem' >'\(both)' && chmod 600 '\(both)'"
        _ = try await enroll(
            over: try LocalChannel.shell(FarShell.dash.command, home: home.path),
            directory: directory,
            after: after
        )
        let configuration = try home.write(
            "haproxy.cfg",
            """
            global
                stats socket \(home.path("s")) level admin
            defaults
                mode http
                timeout connect 5s
                timeout client 5s
                timeout server 5s
            frontend web
                bind 127.0.0.1:\(port) ssl crt \(both) ca-file \(directory)/root-cert.pem verify required
                http-request return status 200 content-type text/plain string hello

            """
        )
        let proxy = try ChildProcess("/usr/sbin/haproxy", ["-W", "-db", "-f", configuration])
        let client = home.path("client")
        let made = try CredentialDirectory(client).prepare(id: id)
        let issued = try ca.issue(made.request, id: id)
        _ = try made.commit(chain: issued.chain, roots: issued.roots)
        func serial() async throws -> String {
            let output = try await ChildProcess.run(
                "sh",
                [
                    "-c",
                    "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -verify_return_error -CAfile '\(directory)/root-cert.pem' -cert '\(client)/cert-chain.pem' -key '\(client)/key.pem' -connect 127.0.0.1:\(port) -showcerts 2>&1; "
                        + "openssl s_client -connect 127.0.0.1:\(port) -cert '\(client)/cert-chain.pem' -key '\(client)/key.pem' </dev/null 2>/dev/null | openssl x509 -noout -serial",
                ]
            )
            let parts = output.standardOutput.components(separatedBy: "helloserial=")
            return parts.count == 2 ? parts[1].trimmingCharacters(in: .whitespacesAndNewlines).lowercased() : ""
        }
        let first = try CredentialDirectory(directory).load().leaf.serialNumber
        try await eventually("HAProxy serves with it") { try await serial() == first }
        let second = try await enroll(
            over: try LocalChannel.shell(FarShell.dash.command, home: home.path),
            directory: directory,
            after: after + " && kill -USR2 \(proxy.pid)"
        )
        #expect(second.afterFailure == nil)
        #expect(second.leaf.serialNumber != first)
        try await eventually("and with the next one") { try await serial() == second.leaf.serialNumber }
        await proxy.stop()
    }
}
