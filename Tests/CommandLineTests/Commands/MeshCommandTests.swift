import Fleet
import Foundation
import MeshDirectory
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

/// `bootstrap mesh`, and the commands that write the directory.
@Suite(.serialized, .timeLimit(.minutes(10))) struct MeshCommandTests {
    private static let content = """
        # What people wrote.
        endpoints:
        - {match: "db.prod:5432", hbone: "10.0.0.7:15008"}

        """

    private func file(_ owner: Operator, _ name: String, _ text: String) throws -> String {
        try owner.home.write(name, text)
    }

    private func revision(_ text: String) -> Int64? {
        text.split(separator: "\n").first { $0.hasPrefix("# revision: ") }.flatMap { Int64($0.dropFirst(12)) }
    }

    /// Writes the first revision. Returns the file that has its content.
    private func putFirst(_ owner: Operator, _ place: [String] = []) async throws -> String {
        let first = try file(owner, "first.yaml", Self.content)
        let put = try await owner.run(["mesh", "put", first] + place)
        try #require(put.succeeded, "\(put.standardError)")
        return first
    }

    /// A credential `id` for a gateway that is no device, in the operator's home.
    private func issueGateway(_ owner: Operator) async throws {
        let out = owner.home.path("id")
        let issued = try await owner.run(["ca", "issue", "--id", "ns/default/sa/gateway", "--out", out])
        try #require(issued.succeeded, "\(issued.standardError)")
    }

    private func start(_ configuration: String) throws -> ChildProcess {
        try ChildProcess(TestTools.bootstrap, ["node", "--config", configuration])
    }

    private func port(of listener: String, _ node: ChildProcess) async throws -> UInt16 {
        let line = try await node.standardOutput.line(containing: "ready \(listener) ")
        return try #require(line.split(separator: ":").last.flatMap { UInt16($0) })
    }

    private func reaches(_ port: UInt16) async -> Bool {
        guard let stream = try? await TCPConversation(port: port) else { return false }
        return (try? await stream.echo(Array("ping".utf8))) == Array("ping".utf8)
    }

    @Test func putChecksSignsAndCompares() async throws {
        let owner = try await Operator()
        let place = ["--directory", owner.home.path("mesh.yaml")]
        let nothing = try await owner.run(["mesh", "get"] + place)
        #expect(nothing.status == .exited(1))
        #expect(nothing.standardError.contains("there is nothing there yet"))

        let first = try await putFirst(owner, place)
        let got = try await owner.run(["mesh", "get"] + place)
        #expect(got.standardOutput.hasPrefix("# bootstrap mesh directory 1\n# domain: test.example\n"))
        #expect(got.standardOutput.hasSuffix(Self.content))
        let json = try await owner.run(["mesh", "get", "--output", "json"] + place)
        let object = try JSONSerialization.jsonObject(with: Data(json.standardOutput.utf8)) as? [String: Any]
        #expect(object?["domain"] as? String == "test.example")
        #expect(((object?["content"] as? [String: Any])?["endpoints"] as? [Any])?.count == 1)

        // Two people get it, and both change it.
        let one = try file(owner, "one.yaml", got.standardOutput + "- {match: \"one:1\", direct: true}\n")
        let two = try file(owner, "two.yaml", got.standardOutput + "- {match: \"two:1\", direct: true}\n")
        let puts = try await [owner.run(["mesh", "put", one] + place), owner.run(["mesh", "put", two] + place)]
        #expect(puts[0].succeeded, "\(puts[0].standardError)")
        #expect(puts[1].status == .exited(1))
        #expect(puts[1].standardError.contains("`bootstrap mesh get` it again"), "\(puts[1].standardError)")
        let now = try await owner.run(["mesh", "get"] + place).standardOutput
        #expect(now.contains("one:1") && !now.contains("two:1"))
        #expect(try #require(revision(now)) > #require(revision(got.standardOutput)))

        // A mistake is told with the line of the file, and nothing is written.
        let bad = try file(owner, "bad.yaml", now + "- {match: \"three:1\"}\n- {match: \"four:1\", token: {file: x}}\n")
        let line = now.split(separator: "\n", omittingEmptySubsequences: false).count
        let refused = try await owner.run(["mesh", "put", bad] + place)
        #expect(refused.status == .exited(2))
        #expect(refused.standardError.contains("bad.yaml:\(line):11:"), "\(refused.standardError)")
        #expect(refused.standardError.contains("'four:1'"))
        #expect(try await owner.run(["mesh", "get"] + place).standardOutput == now)

        // What says nothing of its past takes nobody's place, unless it is told to.
        let blind = try await owner.run(["mesh", "put", first] + place)
        #expect(blind.status == .exited(1))
        #expect(blind.standardError.contains("--replace"))
        let replaced = try await owner.run(["mesh", "put", first, "--replace"] + place)
        #expect(replaced.succeeded, "\(replaced.standardError)")
        #expect(try await owner.run(["mesh", "get"] + place).standardOutput.hasSuffix(Self.content))
        // Nothing new is nothing written.
        let same = try file(owner, "same.yaml", try await owner.run(["mesh", "get"] + place).standardOutput)
        #expect(try await owner.run(["mesh", "put", same] + place).standardOutput.contains("says so already"))
    }

    /// Told where it is written; nodes that trust the domain by themselves may go there.
    @Test func aPeerOfATrustDomainThatNobodyVouchesForIsToldOf() async throws {
        let owner = try await Operator()
        let place = ["--directory", owner.home.path("mesh.yaml")]
        let endpoint =
            "- {match: \"far:1\", hbone: \"10.0.0.8:15008\", identity: \"spiffe://tset.example/ns/a/sa/b\"}\n"
        let wrong = try file(owner, "wrong.yaml", Self.content + endpoint)
        let put = try await owner.run(["mesh", "put", wrong] + place)
        #expect(put.succeeded, "\(put.standardError)")
        #expect(put.standardError.contains("wrong.yaml:4:"), "\(put.standardError)")
        let reason =
            "nobody here vouches for tset.example: the mesh's own trust domain is test.example. Correct the identity"
        #expect(put.standardError.contains(reason), "\(put.standardError)")
    }

    /// Whoever owns the directory puts an earlier copy back, or nothing: nobody signs that as the newest.
    @Test func anEarlierCopyIsNotSignedAnew() async throws {
        let owner = try await Operator()
        let path = owner.home.path("mesh.yaml")
        let place = ["--directory", path]
        let first = try await putFirst(owner, place)
        let earlier = try owner.home.read("mesh.yaml")
        let changed = try file(owner, "changed.yaml", earlier + "- {match: \"more:1\", direct: true}\n")
        let second = try await owner.run(["mesh", "put", changed] + place)
        try #require(second.succeeded, "\(second.standardError)")
        let last = try #require(revision(try owner.home.read("mesh.yaml")))

        let publication = DirectoryPublication(
            DirectorySettings(.file(path)),
            records: DeviceDirectory(owner.bootstrapHome + "/devices"),
            ca: owner.bootstrapHome + "/ca",
            authority: nil
        )
        try owner.home.write("mesh.yaml", earlier)
        let refused = await #expect(throws: DirectoryError.self) { try await publication() }
        #expect(refused?.code == .backwards)
        let again = try await owner.run(["mesh", "put", changed] + place)
        #expect(again.status == .exited(4))
        #expect(again.standardError.contains("goes backwards"), "\(again.standardError)")
        #expect(try owner.home.read("mesh.yaml") == earlier)

        try FileManager.default.removeItem(atPath: path)
        let wiped = await #expect(throws: DirectoryError.self) { try await publication() }
        #expect(wiped?.code == .backwards)
        #expect(!FileManager.default.fileExists(atPath: path))
        // A person says what is to hold.
        let anew = try await owner.run(["mesh", "put", first] + place)
        #expect(anew.succeeded, "\(anew.standardError)")
        let now = try #require(revision(try owner.home.read("mesh.yaml")))
        #expect(now > last)
        _ = try await publication()
    }

    /// A number that nobody has signed does not count: no later revision could follow it.
    @Test func aForgedRevisionIsNotContinued() async throws {
        let owner = try await Operator()
        let place = ["--directory", owner.home.path("mesh.yaml")]
        let first = try await putFirst(owner, place)
        let signed = try owner.home.read("mesh.yaml")
        let last = try #require(revision(signed))
        for forged in [DirectoryManifest.maximumRevision - 1, Int64.max] {
            let text = signed.replacing("# revision: \(last)\n", with: "# revision: \(forged)\n")
            try owner.home.write("mesh.yaml", text)
            let replaced = try await owner.run(["mesh", "put", first, "--replace"] + place)
            #expect(replaced.succeeded, "\(replaced.standardError)")
            let now = try #require(revision(try owner.home.read("mesh.yaml")))
            #expect(now > last && now < last + 1_000_000)
        }
    }

    /// What the errors say works.
    @Test func whatNobodyHasSignedIsReplaced() async throws {
        let owner = try await Operator()
        let path = owner.home.path("mesh.yaml")
        let place = ["--directory", path]
        let first = try await putFirst(owner, place)
        let signed = try owner.home.read("mesh.yaml")
        try owner.home.write("bootstrap/config.yaml", "directory: \(path)\n")
        for broken in [
            Self.content, signed + "- {match: \"more:1\", direct: true}\n",
            signed.replacing("10.0.0.7", with: "10.0.0.8"),
            signed.replacing("# time: 2", with: "# time: x"),
        ] {
            try owner.home.write("mesh.yaml", broken)
            let refused = try await owner.run(["mesh", "put", first] + place)
            #expect(!refused.succeeded)
            let remedy = "`bootstrap mesh put --replace FILE`"
            #expect(refused.standardError.contains(remedy), "\(refused.standardError)")
            // No other command puts it right.
            let revoked = try await owner.run(["revoke"])
            let condition = "Once that is put right, the next enroll"
            #expect(revoked.standardError.contains(condition), "\(revoked.standardError)")
            let replaced = try await owner.run(["mesh", "put", "--replace", first] + place)
            #expect(replaced.succeeded, "\(replaced.standardError)")
        }
        let full = try await ChildProcess.run(
            "sh",
            ["-c", "exec \"$0\" mesh get --directory \"$1\" >/dev/full", TestTools.bootstrap, path],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome]
        )
        #expect(full.status == .exited(1) && full.standardError.contains("stdout"), "\(full.standardError)")
    }

    @Test func theFileItselfIsEditedInItsPlace() async throws {
        let owner = try await Operator()
        let path = try file(owner, "mesh.yaml", Self.content)
        let place = ["--directory", path]
        #expect(try await owner.run(["mesh", "put", path] + place).succeeded)
        try owner.home.write("mesh.yaml", owner.home.read("mesh.yaml") + "- {match: \"more:1\", direct: true}\n")
        let changed = try await owner.run(["mesh", "get"] + place)
        #expect(changed.status == .exited(4))
        #expect(changed.standardError.contains("changed after it was signed"), "\(changed.standardError)")
        let put = try await owner.run(["mesh", "put", path] + place)
        #expect(put.succeeded, "\(put.standardError)")
        #expect(try await owner.run(["mesh", "get"] + place).standardOutput.contains("more:1"))
        // Of another mesh.
        let other = try await Operator(trustDomain: "other.example")
        let foreign = try await other.run(["mesh", "get"] + place)
        #expect(foreign.status == .exited(4))
        #expect(foreign.standardError.contains("of the mesh test.example"), "\(foreign.standardError)")
        // The key for it is the operator's alone.
        let key = owner.bootstrapHome + "/ca/directory-key.pem"
        #expect(try FileManager.default.attributesOfItem(atPath: key)[.posixPermissions] as? Int == 0o600)
    }

    @Test func commandsPublishWhatTheLedgerSays() async throws {
        let devices = try await TwoDevices()
        let owner = devices.owner
        try owner.home.write("bootstrap/config.yaml", "directory: {file: ../mesh.yaml}\n")
        let first = try await putFirst(owner)
        let watch = try ChildProcess(
            TestTools.bootstrap,
            ["mesh", "watch"],
            environment: ["HOME": owner.home.path, "BOOTSTRAP_HOME": owner.bootstrapHome]
        )
        _ = try await watch.standardOutput.line(containing: "+ - {match: \"db.prod:5432\"")

        // A gateway that knows the directory and nothing else.
        try await issueGateway(owner)
        let configuration = try file(
            owner,
            "node.yaml",
            """
            identity: id
            listeners:
            - {name: a, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "a:\(devices.backend.port)"}
            - {name: b, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "b:\(devices.backend.port)"}
            directory: {file: mesh.yaml}
            admin: "127.0.0.1:0"
            """
        )
        let check = try await owner.run(["node", "--config", configuration, "--check"])
        #expect(check.succeeded, "\(check.standardError)")
        let node = try start(configuration)
        let (a, b) = (try await port(of: "a", node), try await port(of: "b", node))
        #expect(await !reaches(a))
        let renewed = try await owner.run(["renew", "--all"])
        #expect(renewed.succeeded, "\(renewed.standardError)")
        _ = try await watch.standardOutput.line(containing: "+ - {name: \"b\"")
        try await eventually("both are reached by their names") {
            let reachesA = await reaches(a)
            let reachesB = await reaches(b)
            return reachesA && reachesB
        }
        let stream = try await TCPConversation(port: b)
        #expect(try await stream.echo(Array("ping".utf8)) == Array("ping".utf8))

        let revoked = try await owner.run(["revoke", "b", "--list-only"])
        #expect(revoked.succeeded, "\(revoked.standardError)")
        #expect(revoked.standardOutput.contains("mesh.yaml says so, from revision"), "\(revoked.standardOutput)")
        let (_, ending) = try await stream.end(finishing: false)
        #expect(ending != .endOfStream)
        #expect(await !reaches(b))
        #expect(await reaches(a))
        let text = try await owner.run(["mesh", "get"]).standardOutput
        #expect(text.contains("BEGIN X509 CRL") && text.contains("# What people wrote."))
        #expect(!text.contains("\"b\""))
        // A file that was written by hand says nothing of who was revoked.
        let byHand = try await owner.run(["mesh", "put", first, "--replace"])
        #expect(byHand.status == .exited(1), "\(byHand)")
        #expect(byHand.standardError.contains("--drop-revocations. Nothing was written"), "\(byHand.standardError)")
        #expect(try await owner.run(["mesh", "get"]).standardOutput == text)

        let forgotten = try await owner.run(["unenroll", "a", "--forget"])
        #expect(forgotten.succeeded, "\(forgotten.standardError)")
        #expect(try await !owner.run(["mesh", "get"]).standardOutput.contains("devices:"))
        try await eventually("the forgotten one is gone") { await !reaches(a) }
        let printed = try await owner.run(["node", "--config", configuration, "--print-config"])
        #expect(printed.standardOutput.contains("\"fromDirectory\""), "\(printed.standardOutput)")
        await watch.stop()
        await node.stop()
    }

    @Test func etcdGoesAndTheNodeStays() async throws {
        let owner = try await Operator()
        let backend = try EchoServer()
        let cluster = try EtcdCluster(members: 1)
        let place = [
            "--directory", "\(cluster.endpoints[0])/mesh/test.example/", "--credential", cluster.credential,
        ]
        let first = try file(
            owner,
            "first.yaml",
            "endpoints:\n- {match: \"echo.mesh:7\", direct: true, address: \"127.0.0.1:\(backend.port)\"}\n"
        )
        try await eventually("it is written") {
            try await owner.run(["mesh", "put", first] + place).succeeded
        }
        try await issueGateway(owner)
        let configuration = try file(
            owner,
            "node.yaml",
            """
            identity: id
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "echo.mesh:7"}
            directory: {etcd: ["\(cluster.endpoints[0])"], prefix: /mesh/test.example/, credential: \(cluster.credential)}
            """
        )
        let node = try start(configuration)
        let local = try await port(of: "in", node)
        try await eventually("it is reached") { await reaches(local) }
        _ = try await owner.run(["mesh", "get", "--config", configuration])

        // Wiped: an alarm, and it goes on. The operator writes it again.
        try await cluster.wipe()
        _ = try await node.standardError.line(containing: "somebody has wiped it")
        #expect(await reaches(local))
        try await eventually("it is written again") {
            try await owner.run(["mesh", "put", first] + place).succeeded
        }
        _ = try await node.standardError.line(containing: "is right again")

        // Away: a node that starts does not wait for it.
        await cluster.stop()
        await node.stop()
        let second = try start(configuration)
        #expect(try await reaches(port(of: "in", second)))
        _ = try await second.standardError.line(containing: "the directory's last good state holds")
        _ = try await second.standardError.line(containing: "etcd 127.0.0.1:")
        let away = try await owner.run(["mesh", "get"] + place)
        #expect(away.status == .exited(6))
        await second.stop()
    }
}
