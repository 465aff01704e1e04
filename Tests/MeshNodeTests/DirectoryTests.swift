import Foundation
import Logging
import MeshDirectory
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// What a directory adds to nodes, and what it cannot do to them.
@Suite(.timeLimit(.minutes(10))) struct DirectoryTests {
    /// A device with an echo server, and a node that knows nothing but the directory.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let log = LogRecorder()
        let echo: EchoServer
        let ca: EmbeddedCA
        let device: Node
        let near: Node
        let store: FileDirectory
        let entry: UInt16
        let hbone: UInt16
        private let following: [Task<Void, Never>]

        init(_ settings: String = "{file: mesh.yaml}", content: (UInt16) -> String? = { _ in nil }) async throws {
            ca = try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: TrustDomain("mesh.example"))
            for name in ["near", "dev7"] {
                let pending = try CredentialDirectory(directory.path(name))
                    .prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
                let issued = try ca.issue(pending.request, id: pending.id)
                _ = try pending.commit(chain: issued.chain, roots: issued.roots)
            }
            echo = try EchoServer()
            store = FileDirectory(directory.path("mesh.yaml"))
            let deviceFile = try directory.write(
                "dev7.yaml",
                """
                identity: dev7
                listeners:
                - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
                policy:
                - name: enrolled
                  action: ALLOW
                  rules:
                  - from: [{principals: ["mesh.example/ns/prod/sa/*"]}]
                    to: [{ports: [\(echo.port)]}]
                directory: {file: mesh.yaml, state: dev7.saved}
                """
            )
            device = Node(
                try NodeConfiguration.load(deviceFile),
                configurationFile: deviceFile,
                loops: 1,
                logger: log.logger
            )
            hbone = try #require(try await device.start().first).address.port
            if let text = content(hbone) {
                let bytes = try SignedDirectory(
                    content: Array(text.utf8),
                    domain: ca.trustDomain,
                    revision: 1,
                    signer: ca.directorySigner()
                ).file
                _ = try directory.write("mesh.yaml", bytes)
            }
            let nearFile = try directory.write(
                "near.yaml",
                """
                identity: near
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "dev7:\(echo.port)"}
                directory: \(settings)
                """
            )
            near = Node(
                try NodeConfiguration.check(nearFile),
                configurationFile: nearFile,
                loops: 1,
                logger: log.logger
            )
            entry = try #require(try await near.start().first).address.port
            following = [near, device].map { node in Task { await node.followDirectory() } }
        }

        /// Signs, and replaces whatever is there.
        func put(
            _ text: String,
            _ revision: Int64,
            signer: DirectorySigner? = nil,
            domain: String = "mesh.example"
        ) throws {
            let document = try SignedDirectory(
                content: Array(text.utf8),
                domain: TrustDomain(domain),
                revision: revision,
                signer: signer ?? ca.directorySigner()
            )
            try store.write(document, replacing: .anything)
        }

        var devices: String { Self.devices(hbone) }

        static func devices(_ hbone: UInt16) -> String {
            """
            devices:
            - {name: "dev7", identity: "spiffe://mesh.example/ns/prod/sa/dev7", hbone: ["127.0.0.1:\(hbone)"]}

            """
        }

        func reaches() async -> Bool { await failure() == nil }

        /// Why the device is not reached, with what the nodes say; nil: it is.
        func failure() async -> String? {
            do {
                let stream = try await TCPConversation(port: entry)
                let answer = try await stream.echo(Array("ping".utf8))
                return answer == Array("ping".utf8) ? nil : "\(answer)"
            } catch {
                return "\(error): \(log.lines)"
            }
        }

        func stop() async {
            for task in following { task.cancel() }
            for task in following { await task.value }
            await near.drain(deadline: .zero)
            await device.drain(deadline: .zero)
        }
    }

    @Test func aDeviceIsReachedByItsName() async throws {
        let bench = try await Bench()
        #expect(await !bench.reaches())
        try bench.put(bench.devices, 1)
        try await eventually("the device is reached") { await bench.reaches() }
        // And not any more once it is gone from there.
        try bench.put("# nothing\n", 2)
        try await eventually("the device is gone") { await !bench.reaches() }
        await bench.stop()
    }

    @Test func whatIsRevokedThereIsCutEverywhere() async throws {
        let bench = try await Bench(content: Bench.devices)
        let stream = try await TCPConversation(port: bench.entry)
        #expect(try await stream.echo(Array("ping".utf8)) == Array("ping".utf8))
        let leaf = try CredentialDirectory(bench.directory.path("near")).load().leaf
        let now = WallClock.system.seconds
        let list = try bench.ca.revocationList(
            of: [RevokedCertificate(serial: leaf.serialNumber, revokedAt: now)],
            number: 1,
            nextUpdate: now + 3600
        )
        let pem = String(decoding: list.pem, as: UTF8.self).split(separator: "\n").map { "  \($0)\n" }.joined()
        try bench.put(bench.devices + "revocations: |\n\(pem)", 2)
        // The device cuts the stream of the revoked node.
        let (_, ending) = try await stream.end(finishing: false)
        #expect(ending != .endOfStream)
        try await eventually("nothing new is let in") { await !bench.reaches() }
        // What was revoked stays so, whatever a later revision leaves out.
        try bench.put(bench.devices, 3)
        try await eventually("both nodes have it") {
            bench.log.lines.count { $0.contains("\"revision\": 3") } == 2
        }
        #expect(await !bench.reaches())
        await bench.stop()
    }

    @Test func aPolicyThereHoldsForEverybody() async throws {
        let bench = try await Bench(content: Bench.devices)
        #expect(await bench.failure() == nil)
        let deny = """
            policy:
            - name: nobody
              action: DENY
              rules:
              - to: [{ports: [\(bench.echo.port)]}]

            """
        try bench.put(bench.devices + deny, 2)
        // A stream that is open when the policy comes is cut, which is told without its name: another one is refused.
        try await eventually("it is denied, and the log says by what") {
            await !bench.reaches() && bench.log.lines.contains { $0.contains("directory/nobody") }
        }
        // Where it stands is no line of the node's own file.
        for node in [bench.near, bench.device] {
            var places: [String?] = []
            try await eventually("the node has the policy") {
                let body = Data(await node.policyPage().body)
                let page = try JSONSerialization.jsonObject(with: body) as? [String: Any]
                let policies = page?["policies"] as? [[String: Any]] ?? []
                let rules = policies.first { $0["name"] as? String == "directory/nobody" }?["rules"]
                places = (rules as? [[String: Any]] ?? []).map { $0["place"] as? String }
                return !places.isEmpty
            }
            #expect(places == ["directory"])
        }
        await bench.stop()
    }

    /// Each is refused whole and told, and what held before holds.
    @Test func hostileContentChangesNothing() async throws {
        let bench = try await Bench(content: Bench.devices)
        #expect(await bench.failure() == nil)
        var start = 0
        func refused(_ text: String) async throws {
            try await bench.log.line(containing: text, after: start)
            start = bench.log.lines.count
            #expect(await bench.reaches(), "after: \(text)")
        }
        let path = bench.directory.path("mesh.yaml")
        // Unsigned.
        try AtomicFile.write(Array("endpoints:\n- {match: \"*\", direct: true}\n".utf8), to: path)
        try await refused("it is not signed")
        // Changed after it was signed.
        let good = try SignedDirectory(
            content: Array(bench.devices.utf8),
            domain: bench.ca.trustDomain,
            revision: 5,
            signer: bench.ca.directorySigner()
        )
        try AtomicFile.write(good.file + Array("# more\n".utf8), to: path)
        try await refused("changed after it was signed")
        // Of another mesh.
        let other = try EmbeddedCA.create(
            directory: bench.directory.path("other"),
            trustDomain: TrustDomain("other.example")
        )
        try bench.put("# other\n", 9, signer: other.directorySigner(), domain: "other.example")
        try await refused("of the mesh other.example")
        // Signed by somebody else's CA.
        try bench.put("# other\n", 9, signer: other.directorySigner())
        try await refused("nothing of it is taken")
        // Backwards, and twice the same.
        try bench.put("# same\n", 1)
        try await refused("with the same revision 1")
        try bench.put("# old\n", 0 + 1)
        // What a person has signed by mistake: bad, cyclic, deep, of files.
        let mistakes = [
            ("endpoints: &a [*a]\n", "not supported"),
            ("endpoints:\n- {match: \"x:1\"}\n", "needs 'hbone'"),
            ("endpoints:\n- {match: \"x:1\", direct: true, tls: {roots: /etc/passwd}}\n", "names a file"),
            (
                "endpoints:\n- {match: \"x:1\", hbone: \"a:1\", labels: {tun: POST}, proxy: {roots: /etc/passwd}}\n",
                "'proxy: {roots}' names a file"
            ),
            ("policy: {istio: /etc/passwd}\n", "no file can be named"),
            ("policy:\n- {name: a, action: ALLOW, rules: [{to: [{methods: [GET]}]}]}\n", "read requests only"),
            (String(repeating: "[", count: 100), "nested deeper"),
            (
                "devices:\n- {name: d, identity: \"spiffe://x.example/ns/a/sa/b\", hbone: [\"a:1\"]}\n",
                "not of the trust domain"
            ),
            (
                "devices:\n- {name: localhost, identity: \"spiffe://mesh.example/ns/a/sa/b\", hbone: [\"a:1\"]}\n",
                "means itself"
            ),
            ("revocations: |\n  -----BEGIN X509 CRL-----\n  AAAA\n  -----END X509 CRL-----\n", "damaged"),
            ("bundles:\n- {domain: mesh.example, roots: \"-----BEGIN \"}\n", "own trust domain"),
            ("unknown: 1\n", "unknown key"),
        ]
        for (index, (text, message)) in mistakes.enumerated() {
            try bench.put(text, Int64(20 + index))
            try await refused(message)
        }
        // And what is right again is taken, whatever was refused.
        try bench.put("# empty\n", 40)
        try await eventually("the good one holds") { await !bench.reaches() }
        await bench.stop()
    }

    /// Nothing changes in its store: it is the reload that makes it right.
    @Test func whatWasRefusedIsTakenOnceItsRootIsTrusted() async throws {
        let bench = try await Bench()
        let next = try EmbeddedCA.create(directory: bench.directory.path("next"), trustDomain: bench.ca.trustDomain)
        try bench.put(bench.devices, 1, signer: next.directorySigner())
        try await eventually("both nodes refuse it") {
            bench.log.lines.count { $0.contains("nothing of it is taken") } >= 2
        }
        #expect(await !bench.reaches())
        let old = try bench.directory.read("near/root-cert.pem")
        let new = try bench.directory.read("next/root-cert.pem")
        _ = try bench.directory.write("near/root-cert.pem", old + new)
        _ = try await bench.near.reload()
        #expect(await bench.reaches(), "\(bench.log.lines)")
        await bench.stop()
    }

    @Test func aNodeStartsWithWhatHeldLast() async throws {
        let bench = try await Bench("{file: mesh.yaml, state: near.saved}", content: Bench.devices)
        #expect(await bench.failure() == nil)
        // Also what it has started with: who takes the file away brings nobody back who was revoked in it.
        try await eventually("what it started with is saved") {
            (try? bench.directory.read("near.saved"))?.contains("revision: 1") == true
        }
        try bench.put(bench.devices + "# two\n", 2)
        try await eventually("it is saved") {
            (try? bench.directory.read("near.saved"))?.contains("revision: 2") == true
        }
        let attributes = try FileManager.default.attributesOfItem(atPath: bench.directory.path("near.saved"))
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        let present = bench.log.lines.count
        try FileManager.default.removeItem(atPath: bench.directory.path("mesh.yaml"))
        try await bench.log.line(containing: "somebody has wiped it", after: present)
        #expect(await bench.failure() == nil)
        let file = bench.directory.path("near.yaml")
        let log = LogRecorder()
        let again = Node(
            try NodeConfiguration.load(file),
            configurationFile: file,
            loops: 1,
            logger: log.logger
        )
        let port = try #require(try await again.start().first).address.port
        let stream = try await TCPConversation(port: port)
        #expect(try await stream.echo(Array("ping".utf8)) == Array("ping".utf8))
        // An earlier one that somebody has put in its place is not taken.
        let task = Task { await again.followDirectory() }
        try bench.put("# back\n", 1)
        try await log.line(containing: "it goes backwards: revision 1 comes after 2")
        task.cancel()
        await task.value
        await again.drain(deadline: .zero)
        await bench.stop()
    }

    @Test func aChangeLeavesOtherStreamsAlone() async throws {
        let bench = try await Bench(content: Bench.devices)
        let stream = try await TCPConversation(port: bench.entry)
        for revision in 2...6 {
            let more =
                "- {name: \"dev\(revision + 10)\", identity: \"spiffe://mesh.example/ns/prod/sa/x\", hbone: [\"127.0.0.1:1\"]}\n"
            try bench.put(bench.devices + more, Int64(revision))
            try await bench.log.line(containing: "\"revision\": \(revision)")
            #expect(try await stream.echo(Array("\(revision)".utf8)) == Array("\(revision)".utf8))
        }
        await bench.stop()
    }

    /// It is the same peer, and is reached at its new addresses.
    @Test func aDeviceWithSeveralAddressesMoves() async throws {
        func device(_ addresses: String) -> String {
            "devices:\n- {name: \"dev7\", identity: \"spiffe://mesh.example/ns/prod/sa/dev7\", hbone: [\(addresses)]}\n"
        }
        let bench = try await Bench(content: { _ in device("\"127.0.0.1:1\", \"127.0.0.1:2\"") })
        #expect(await !bench.reaches())
        try bench.put(device("\"127.0.0.1:1\", \"127.0.0.1:\(bench.hbone)\""), 2)
        try await eventually("the device is reached where it is now") { await bench.reaches() }
        await bench.stop()
    }

    @Test func theConfigurationInEffectSaysWhereItComesFrom() async throws {
        let bench = try await Bench(content: Bench.devices)
        let file = bench.directory.path("near.yaml")
        let configuration = try NodeConfiguration.load(file)
        let bundle = try CredentialDirectory(bench.directory.path("near")).bundle()
        let known = configuration.knownDirectory(beside: file, bundle: bundle) { Issue.record("\($0)") }
        let text = try #require(configuration.inEffect(beside: known))
        #expect(text.contains("\"fromDirectory\""))
        #expect(text.contains("mesh.yaml, revision 1\""))
        // A node that has saved it changes nothing about that, before the file goes.
        let saved = try #require(configuration.savedDirectory(beside: file))
        try await eventually("the node has saved what holds") { access(saved, F_OK) == 0 }
        func source() -> String? {
            configuration.knownDirectory(beside: file, bundle: bundle) { Issue.record("\($0)") }?.source
        }
        #expect(source() == "the directory \(bench.directory.path("mesh.yaml"))")
        try #require(unlink(bench.directory.path("mesh.yaml")) == 0)
        #expect(source()?.hasSuffix("mesh.yaml, as it was saved in \(saved)") == true)
        #expect(text.contains("\"name\": \"dev7\""))
        // It is a configuration itself that means the same.
        let again = try NodeConfiguration.parse(text, file: file)
        #expect(again.endpoints == configuration.endpoints)
        #expect(again.directory == configuration.directory)
        await bench.stop()
    }

    /// An expired credential still says whom it trusts, and what was revoked.
    @Test func whatWasRevokedStaysSoWhenTheCredentialHasExpired() throws {
        let place = TemporaryDirectory()
        let now = WallClock.system.seconds
        let ca = try EmbeddedCA(trustDomain: TrustDomain("mesh.example"), now: now)
        let signer = try ca.makeDirectorySigner()
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/near")
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: id)
        let options = IssuanceOptions(lifetime: .seconds(1))
        let issued = try ca.issue(request, id: id, options: options, now: now - 3600)
        let list = try ca.revocationList(
            of: [RevokedCertificate(serial: signer.certificate.serialNumber, revokedAt: now)],
            number: 1,
            nextUpdate: now + 3600
        )
        try AtomicFile.write(key.pem(), to: place.path("key.pem"), mode: 0o600)
        try AtomicFile.write(issued.chain[0].pem, to: place.path("cert-chain.pem"))
        try AtomicFile.write(ca.roots[0].pem, to: place.path("root-cert.pem"))
        let before = try CredentialDirectory(place.path).bundle()
        try before.verify(directoryKey: signer.certificate)
        try AtomicFile.write(list.pem, to: place.path("ca-crl.pem"))
        let after = try CredentialDirectory(place.path).bundle()
        #expect(throws: IdentityError.self) { try after.verify(directoryKey: signer.certificate) }
    }

    @Test(arguments: [
        ("{}", "needs either 'file'"), ("{file: a, etcd: [\"https://a\"]}", "needs either 'file'"),
        ("{file: a, prefix: /a/}", "'prefix' is for 'etcd'"),
        ("{etcd: [\"http://a:1\"], prefix: /a/, credential: c}", "TLS only"),
        ("{etcd: [\"https://a:1\"], prefix: a, credential: c}", "must begin and end with '/'"),
        ("{etcd: [\"https://a:1\"]}", "needs the key 'prefix'"), ("{fil: a}", "did you mean 'file'"),
    ])
    func mistakesAreTold(settings: String, message: String) throws {
        let text =
            "identity: x\nlisteners:\n- {name: a, bind: \"127.0.0.1:0\", protocol: socks5}\ndirectory: \(settings)\n"
        let error = #expect(throws: ConfigurationError.self) { try NodeConfiguration.parse(text, file: "node.yaml") }
        #expect(error?.description.contains(message) == true, "\(error?.description ?? "")")
        #expect(error?.description.contains("node.yaml:4:") == true)
    }

    /// Nothing of it is taken for a comment.
    @Test func linesOfADirectoryMayEndWithACarriageReturn() throws {
        let text = "# What people wrote.\r\npolicy:\r\n- {name: none, action: DENY, rules: [{}]}\r\n"
        let bundle = try TestCertificates.shared.bundle()
        let content = try DirectoryContent(parsing: Array(text.utf8), file: "f", bundle: bundle)
        #expect(content.policies.map(\.name) == ["directory/none"])
    }
}
