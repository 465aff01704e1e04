import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// A node that knows members of another trust domain: on both sides, and when that changes.
@Suite(.timeLimit(.minutes(10))) struct ForeignTrustTests {
    private static let ours = "spiffe://mesh.example/ns/prod/sa/server"
    private static let theirs = "spiffe://partner.example/ns/prod/sa/app"

    /// A node of mesh.example with an echo server behind it, which members of partner.example may reach.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let log = LogRecorder()
        let echo: EchoServer
        let file: String
        let node: Node
        let port: UInt16
        let adminPort = FreePort.next()

        init(trust: String = "trust: [{domain: partner.example, bundle: partner.pem}]") async throws {
            echo = try EchoServer()
            file = directory.path("node.yaml")
            try Self.write(file, trust, echo.port, adminPort)
            try Self.writeBundle("partner", directory)
            node = Node(try NodeConfiguration.check(file), configurationFile: file, loops: 1, logger: log.logger)
            port = try #require(try await node.start().first).address.port
        }

        static func writeBundle(_ root: String, _ directory: TemporaryDirectory) throws {
            let pem = try TestCertificates.shared.ca(root).pem
            _ = try directory.write("partner.pem", String(decoding: pem, as: UTF8.self))
        }

        private static func write(_ file: String, _ trust: String, _ echo: UInt16, _ admin: UInt16) throws {
            let text = """
                identity: \(TestCertificates.shared.path(.server))
                listeners:
                - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
                policy:
                - name: partner
                  action: ALLOW
                  rules:
                  - from: [{principals: ["partner.example/ns/prod/sa/app", "mesh.example/*"]}]
                    to: [{hosts: ["127.0.0.1"], ports: [\(echo)]}]
                admin: "127.0.0.1:\(admin)"
                \(trust)
                """
            try text.write(toFile: file, atomically: true, encoding: .utf8)
        }

        func write(trust: String) throws { try Self.write(file, trust, echo.port, adminPort) }

        /// Asks for the echo server with the credential in a directory.
        func echo(_ credential: String, foreign: [TrustBundle]) async throws -> [UInt8] {
            var source = CredentialSource.directory(credential)
            source.foreignBundles = foreign
            let client = try await HBONEClient(credentials: source, logger: Logger(label: "client"))
            let peer = HBONEPeer(
                try Authority(parsing: "127.0.0.1:\(port)"),
                expecting: .identities([try SPIFFEID(ForeignTrustTests.ours)])
            )
            let result: Result<[UInt8], any Error>
            do {
                let bytes = try await client.withStream(
                    to: Authority(parsing: "127.0.0.1:\(echo.port)"),
                    through: peer
                ) { stream in
                    try await stream.write("a")
                    try await stream.finish()
                    return try await stream.read() ?? []
                }
                result = .success(bytes)
            } catch {
                result = .failure(error)
            }
            await client.shutDown()
            return try result.get()
        }

        func stop() async { await node.drain(deadline: .zero) }
    }

    private static func leaf(_ id: String, by issuer: String, roots: [String]) throws -> String {
        try TestCertificates.shared.makeLeaf(id: id, issuer: issuer) { $0.roots = roots }
    }

    @Test func aServerLetsMembersOfAnotherDomainInByTheirOwnRoots() async throws {
        let bench = try await Bench()
        let certificates = TestCertificates.shared
        let our = [try certificates.bundle()]
        let good = try Self.leaf(Self.theirs, by: "partner", roots: ["partner"])
        #expect(try await bench.echo(good, foreign: our) == [97])
        // A good member whom no policy names.
        let other = try Self.leaf("spiffe://partner.example/ns/prod/sa/other", by: "partner", roots: ["partner"])
        let denied = await #expect(throws: ConnectFailure.self) { try await bench.echo(other, foreign: our) }
        #expect(denied?.response?.status == 403)

        #expect(try await bench.echo(certificates.path(.client), foreign: []) == [97])
        #expect(bench.echo.accepted == 2)
        await bench.stop()
    }

    /// The client shows what our CA would refuse to sign, or theirs.
    @Test(arguments: [
        ("spiffe://mesh.example/ns/prod/sa/client", "partner"), (theirs, "root"), (theirs, "nextPartner"),
        ("spiffe://third.example/ns/prod/sa/app", "partner"),
    ])
    func aServerTakesNoRootForAnother(id: String, issuer: String) async throws {
        let bench = try await Bench()
        let context = try TLSContext(
            role: .client,
            credential: TestCertificates.credential(at: Self.leaf(id, by: issuer, roots: ["root"])),
            trust: TrustBundleSet(TestCertificates.shared.bundle())
        )
        let loop = EventLoop(name: "client")
        let address = try SocketAddress(ip: "127.0.0.1", port: bench.port)
        let failure: StreamError? = try await withCheckedThrowingContinuation { continuation in
            loop.submit {
                Dialer.connect(to: .address(address), on: loop) { result in
                    guard case .success(let socket) = result else { return continuation.resume(returning: nil) }
                    let stream = TLSStream(over: socket, context: context, expecting: .anyTrusted)
                    stream.startHandshake { _ in
                        // A server of TLS 1.3 refuses when the client is done already: the first read says so.
                        let reader = EndReader(stream) { continuation.resume(returning: $0) }
                        reader.start()
                    }
                }
            }
        }
        #expect(failure?.code == .authentication, "\(failure as Any)")
        #expect(bench.echo.accepted == 0)
        await loop.shutDown()
        await bench.stop()
    }

    /// Reads until the stream fails or ends. Keeps itself until then.
    private final class EndReader: StreamObserver {
        private let stream: ByteStream
        private var completion: ((StreamError?) -> Void)?
        private var kept: EndReader?

        init(_ stream: ByteStream, _ completion: @escaping (StreamError?) -> Void) {
            self.stream = stream
            self.completion = completion
        }

        func start() {
            kept = self
            stream.observer = self
            read()
        }

        private func read() {
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
                case .bytes: continue
                case .wouldBlock: return
                case .end: return end(nil)
                case .failed: return end(stream.failure)
                }
            }
        }

        private func end(_ failure: StreamError?) {
            completion?(failure)
            completion = nil
            stream.reset(StreamError(.closed, "done"))
            kept = nil
        }

        func streamReadable(_ stream: ByteStream) { read() }
        func streamWritable(_ stream: ByteStream) {}
        func streamFailed(_ stream: ByteStream) { end(stream.failure) }
    }

    /// A node of mesh.example leads a local program to a server of partner.example, or of somebody who claims to be
    /// one.
    @Test(arguments: [
        (theirs, "partner", true), (theirs, "root", false), (theirs, "nextPartner", false), (ours, "partner", false),
    ])
    func aClientKnowsServersOfAnotherDomainByTheirOwnRoots(id: String, issuer: String, isGood: Bool) async throws {
        let certificates = TestCertificates.shared
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: .fixed(TestCertificates.credential(at: Self.leaf(id, by: issuer, roots: ["root"]))),
            logger: Logger(label: "listener")
        )
        let serving = Task {
            await listener.serve { _ in
                .admit
            } handler: { stream in
                for try await chunk in stream.inbound { try await stream.write(chunk) }
            }
        }
        let log = LogRecorder()
        let node = Node(
            try NodeConfiguration.parse(
                """
                identity: \(certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "app.partner:7"}
                endpoints:
                - match: "app.partner:7"
                  hbone: "127.0.0.1:\(listener.localAddress.port)"
                  identity: "\(id)"
                trust: [{domain: partner.example, bundle: "\(certificates.caPath("partner"))"}]
                """,
                file: "node"
            ),
            loops: 1,
            logger: log.logger
        )
        let entry = try #require(try await node.start().first).address.port
        let (received, ending) = try await TCPClient.exchange(port: entry, sending: [1, 2, 3])
        #expect(received == (isGood ? [1, 2, 3] : []))
        #expect(ending == (isGood ? .endOfStream : .broken(ECONNRESET)))
        if !isGood {
            #expect(log.lines.contains { $0.contains("is not signed by a root of") }, "\(log.lines)")
        }
        await node.drain(deadline: .zero)
        await listener.close()
        await serving.value
    }

    @Test func aBundleThatChangesIsTakenOver() async throws {
        let bench = try await Bench()
        let our = [try TestCertificates.shared.bundle()]
        let next = try Self.leaf(Self.theirs, by: "nextPartner", roots: ["nextPartner"])
        await #expect(throws: ConnectFailure.self) { try await bench.echo(next, foreign: our) }
        try Bench.writeBundle("nextPartner", bench.directory)
        await bench.node.reloadIfChanged()
        #expect(try await bench.echo(next, foreign: our) == [97])
        // One that is broken is told, and the one before goes on.
        _ = try bench.directory.write("partner.pem", "{}")
        await bench.node.reloadIfChanged()
        #expect(
            bench.log.lines.contains { $0.contains("the bundle of partner.example: ") && $0.contains("SPIFFE bundle") }
        )
        #expect(try await bench.echo(next, foreign: our) == [97])
        await bench.stop()
    }

    /// The streams of a domain that is not trusted any more end with the reload, and no others.
    @Test func aDomainThatIsRemovedLosesItsStreams() async throws {
        let bench = try await Bench()
        let certificates = TestCertificates.shared
        func client(_ identity: String, _ trust: String) async throws -> (node: Node, talk: TCPConversation) {
            let node = Node(
                try NodeConfiguration.parse(
                    """
                    identity: \(identity)
                    listeners:
                    - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(bench.echo.port)"}
                    endpoints:
                    - match: "127.0.0.1:\(bench.echo.port)"
                      hbone: "127.0.0.1:\(bench.port)"
                      identity: "\(Self.ours)"
                    \(trust)
                    """,
                    file: "client"
                ),
                loops: 1,
                logger: LogRecorder().logger
            )
            let entry = try #require(try await node.start().first).address.port
            let talk = try await TCPConversation(port: entry)
            #expect(try await talk.echo([1]) == [1])
            return (node, talk)
        }
        let theirs = try await client(
            Self.leaf(Self.theirs, by: "partner", roots: ["partner"]),
            "trust: [{domain: mesh.example, bundle: \"\(certificates.caPath("root"))\"}]"
        )
        let ours = try await client(certificates.path(.client), "")
        try bench.write(trust: "")
        await bench.node.reloadIfChanged()
        #expect(try await theirs.talk.end(finishing: false).1 == .broken(ECONNRESET))
        #expect(try await ours.talk.echo([2]) == [2])
        let foreign = try Self.leaf(Self.theirs, by: "partner", roots: ["partner"])
        await #expect(throws: ConnectFailure.self) {
            try await bench.echo(foreign, foreign: [try certificates.bundle()])
        }
        await theirs.node.drain(deadline: .zero)
        await ours.node.drain(deadline: .zero)
        await bench.stop()
    }

    @Test func theAdministrationShowsRootsOfAllDomains() async throws {
        let bench = try await Bench()
        let page = try await OperationClient.get("/certificates", bench.adminPort).object
        let trust = try #require(page["trust"] as? [[String: Any]])
        #expect(trust.map { $0["domain"] as? String } == ["mesh.example", "partner.example"])
        for domain in trust {
            let roots = try #require(domain["roots"] as? [[String: Any]])
            #expect(roots.count == 1 && (roots[0]["remaining"] as? Int ?? 0) > 86400)
        }
        #expect(try await OperationClient.get("/config", bench.adminPort).body.contains("\"partner.example\""))
        await bench.stop()
    }

    private func issues(_ text: String) -> [String] {
        do {
            try NodeConfiguration.parse(text, file: "f").validate()
            return []
        } catch {
            return error.issues.map(\.description)
        }
    }

    @Test func whatIsWrongIsToldWithItsPlace() throws {
        let certificates = TestCertificates.shared
        let head = """
            identity: \(certificates.path(.server))
            listeners: [{name: a, bind: "127.0.0.1:0", protocol: hbone}]

            """
        let root = certificates.caPath("partner")
        #expect(issues(head + "trust: [{domain: partner.example, bundle: \(root)}]") == [])
        let cases: [(String, [String])] = [
            (
                "trust:\n- {domain: a.example, bundle: \(root)}\n- {domain: a.example, bundle: \(root)}",
                ["f:5:3: 'trust': a.example is there twice, also at line 4: a trust domain has one bundle"]
            ),
            (
                "trust: [{domain: mesh.example, bundle: \(root)}]",
                ["f:3:9: 'trust': mesh.example is this node's own trust domain"]
            ),
            (
                "aliases: [old.example]\ntrust: [{domain: old.example, bundle: \(root)}]",
                ["f:4:9: 'trust': old.example is among 'aliases'"]
            ),
            (
                "trust: [{domain: a.example, bundle: \"https://a.example/bundle.json\"}]",
                ["f:3:37: 'bundle': https://a.example/bundle.json is a URL, and nothing here fetches one"]
            ),
            (
                "trust: [{domain: a.example, bundle: /nowhere}]",
                ["f:3:9: 'trust': the bundle of a.example: /nowhere: there is no such file"]
            ),
            (
                "trust: [{domain: a.example, bundle: \(certificates.caPath("root"))}]",
                ["f:3:9: 'trust': the bundle of a.example: \(certificates.caPath("root")): the root certificate"]
            ),
            ("trust: [{domain: A.example, bundle: b}]", ["f:3:18: 'domain': "]),
            (
                "trust: [{domain: a.example, roots: b}]",
                [
                    "f:3:9: an element of 'trust' needs the key 'bundle'",
                    "f:3:29: unknown key 'roots' in an element of 'trust'",
                ]
            ),
            ("trust: []", ["f:3:8: "]),
            (
                "trust: [{domain: a.example, bundle: \(root)}]\n"
                    + "policy: [{name: p, action: ALLOW, rules: [{from: [{namespaces: [prod]}]}]}]",
                [
                    "f:4:43: policy 'p': 'namespaces' say no trust domain, and with 'trust' there is a.example, too"
                ]
            ),
            (
                "trust: [{domain: a.example, bundle: \(root)}]\n"
                    + "policy: [{name: p, action: DENY, rules: [{from: [{namespaces: [prod]}]}]}]",
                []
            ),
        ]
        for (text, expected) in cases {
            let found = issues(head + text)
            #expect(found.count == expected.count, "\(text): \(found)")
            for (issue, beginning) in zip(found, expected) { #expect(issue.hasPrefix(beginning), "\(text): \(issue)") }
        }
    }

    /// Nobody of that trust domain would ever be believed.
    @Test func aReverseConnectionOfAnUnknownTrustDomainIsRefused() throws {
        let directory = TemporaryDirectory()
        func issues(_ identity: String, _ more: String = "") throws -> String {
            let file = try directory.write(
                "node.yaml",
                """
                identity: \(TestCertificates.shared.path(.server))
                reverse: [{gateway: "gw:15008", identity: "spiffe://\(identity)/ns/prod/sa/gw"}]
                endpoints:
                - {match: "cam:*", reverse: true, identity: "spiffe://\(identity)/ns/prod/sa/cam"}
                \(more)
                """
            )
            do {
                _ = try NodeConfiguration.check(file)
                return ""
            } catch {
                return "\(error)"
            }
        }
        #expect(try issues("mesh.example") == "")
        let typo = try issues("mesh.exmaple")
        #expect(typo.contains("node.yaml:2:") && typo.contains("'reverse': gw:15008 is to be spiffe://mesh.exmaple/"))
        #expect(typo.contains("endpoint 'cam'") && typo.contains("own trust domain is mesh.example"), "\(typo)")
        #expect(typo.contains("or add {domain: mesh.exmaple, bundle: FILE} to 'trust'"))
        #expect(try issues("old.example", "aliases: [old.example]") == "")
    }
}
