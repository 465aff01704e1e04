import CLinux
import Glibc
import Platform
import Synchronization
import TestPeers
import Testing

@testable import Streams

@Suite("names by c-ares") struct NameResolverTests {
    private let directory = TemporaryDirectory()

    /// A resolver whose name server is `server`.
    private func resolver(
        _ server: NameServer,
        sources: String = "hosts: files dns\n",
        getent: String? = nil,
        limits: LookupLimits = LookupLimits()
    ) throws -> NameResolver {
        var files = NameFiles()
        files.resolver = try directory.write("resolv.conf", "nameserver 127.0.0.1\noptions attempts:1 timeout:30\n")
        files.sources = try directory.write("nsswitch.conf", sources)
        files.port = server.port
        files.getent = getent
        return try NameResolver(files: files, limits: limits)
    }

    private func resolve(
        _ name: String,
        for requester: String = "",
        by resolver: NameResolver
    ) async -> Result<[String], StreamError> {
        await withCheckedContinuation { continuation in
            resolver.resolve(name, for: requester) { result in
                continuation.resume(returning: result.map { $0.map(\.ip) })
            }
        }
    }

    @Test("a name server is asked for a name; one that has none is told")
    func answers() async throws {
        let server = try NameServer { name, type in
            switch (name, type) {
            case ("web.test", .a): .answer([[192, 0, 2, 7]])
            case ("web.test", _), ("empty.test", _): .answer([])
            default: .noSuchName
            }
        }
        let resolver = try resolver(server)
        #expect(await resolve("Web.Test", by: resolver) == .success(["192.0.2.7"]))
        #expect(await resolve("no.test", by: resolver).failure?.code == .unreachable)
        let empty = await resolve("empty.test", by: resolver).failure
        #expect(empty?.code == .unreachable)
        #expect(empty?.message.contains("'empty.test' does not resolve: the name has no address") == true)
        await resolver.shutDown()
    }

    @Test("a thousand names at a silent name server take neither threads nor all the turns")
    func silence() async throws {
        let server = try NameServer { name, type in
            guard name == "good.test" else { return .silence }
            return type == .a ? .answer([[192, 0, 2, 7]]) : .answer([])
        }
        let resolver = try resolver(server)
        let before = threads()
        for number in 0..<1000 { resolver.resolve("name-\(number).test", for: "hostile") { _ in } }
        try await eventually("as many as may be at a time are asked for") {
            Set(server.names).count >= LookupLimits().atOnceEach
        }
        // Other tests of this process have some, too.
        #expect(threads() < before + 500)
        #expect(await resolve("good.test", for: "other", by: resolver) == .success(["192.0.2.7"]))
        await resolver.shutDown()
    }

    private func threads() -> Int {
        guard let directory = opendir("/proc/self/task") else { return 0 }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        return count
    }

    @Test("equal names are asked once, and everybody is answered")
    func equalNames() async throws {
        let server = try NameServer { _, type in type == .a ? .hold([[192, 0, 2, 7]]) : .answer([]) }
        let resolver = try resolver(server)
        let answers = Mutex<[Result<[String], StreamError>]>([])
        for number in 0..<50 {
            resolver.resolve("web.test", for: "peer \(number % 3)") { result in
                answers.withLock { $0.append(result.map { $0.map(\.ip) }) }
            }
        }
        try await eventually("the question is there") { server.held == 1 }
        server.release()
        try await eventually("all are answered") { answers.withLock(\.count) == 50 }
        #expect(answers.withLock { $0.allSatisfy { $0 == .success(["192.0.2.7"]) } })
        #expect(server.names.filter { $0 == "web.test" }.count <= 2)
        await resolver.shutDown()
    }

    @Test("a requester's questions are limited, and each has its time")
    func limits() async throws {
        let server = try NameServer { _, _ in .silence }
        var limits = LookupLimits()
        limits.questionsEach = 1
        limits.patience = .milliseconds(50)
        let resolver = try resolver(server, limits: limits)
        let answers = Mutex<[StreamError.Code?]>([])
        for name in ["a.test", "b.test"] {
            resolver.resolve(name, for: "peer") { result in answers.withLock { $0.append(result.failure?.code) } }
        }
        try await eventually("both are answered") { answers.withLock(\.count) == 2 }
        #expect(answers.withLock { $0 } == [.limit, .timedOut])
        await resolver.shutDown()
    }

    @Test(
        "localhost and the names below it are this machine, and no name server is asked",
        arguments: [
            "localhost", "app.localhost", "LOCALHOST.",
        ]
    )
    func localNames(name: String) async throws {
        let server = try NameServer { _, _ in .answer([[192, 0, 2, 66]]) }
        let resolver = try resolver(server, sources: "hosts: dns\n")
        let addresses = try await resolve(name, by: resolver).get()
        #expect(!addresses.isEmpty)
        #expect(addresses.allSatisfy { $0 == "127.0.0.1" || $0 == "::1" })
        #expect(server.names.isEmpty)
        await resolver.shutDown()
    }

    @Test(
        "what is no name is refused without a question",
        arguments: [
            "", "-s", "fe80::1%none", "2001:db8::zz", "a b", "a\u{1b}[2J",
        ]
    )
    func noNames(name: String) async throws {
        let server = try NameServer { _, _ in .noSuchName }
        let resolver = try resolver(server)
        let error = await resolve(name, by: resolver).failure
        #expect(error?.code == .unreachable)
        #expect(error?.message.contains("\u{1b}") == false)
        #expect(server.names.isEmpty)
        await resolver.shutDown()
    }

    @Test("sources that c-ares does not know are asked by getent, which has their part of the line")
    func modules() async throws {
        let getent = try directory.write(
            "getent",
            """
            #!/bin/sh
            echo "$*" >> \(directory.path)/asked
            [ "$4" = printer.local ] || exit 2
            echo '192.0.2.9       STREAM printer.local'
            echo '192.0.2.9       DGRAM  '
            echo 'fe80::9%1       STREAM '
            """,
            permissions: 0o755
        )
        let server = try NameServer { _, type in type == .a ? .answer([[192, 0, 2, 7]]) : .answer([]) }
        let resolver = try resolver(
            server,
            sources: "hosts: files mdns4 dns\n",
            getent: getent
        )
        #expect(await resolve("printer.local", by: resolver) == .success(["192.0.2.9", "fe80::9%1"]))
        #expect(await resolve("web.test", by: resolver) == .success(["192.0.2.7"]))
        #expect(
            try directory.read("asked") == """
                -s hosts:mdns4 ahosts printer.local
                -s hosts:mdns4 ahosts web.test

                """
        )
        await resolver.shutDown()
    }

    @Test("what an action behind such a source makes of the rest of the line is for getent to know")
    func moduleWithAction() async throws {
        let getent = try directory.write(
            "getent",
            """
            #!/bin/sh
            echo "$*" >> \(directory.path)/asked
            exit 2
            """,
            permissions: 0o755
        )
        let server = try NameServer { _, type in type == .a ? .answer([[192, 0, 2, 7]]) : .answer([]) }
        let resolver = try resolver(
            server,
            sources: "hosts: files mdns4_minimal [NOTFOUND=return] dns\n",
            getent: getent
        )
        #expect(await resolve("printer.local", by: resolver).failure?.code == .unreachable)
        // The line has name servers in it, which are not asked for this.
        let local = try await resolve("web.localhost", by: resolver).get()
        #expect(!local.isEmpty && local.allSatisfy { ["127.0.0.1", "::1"].contains($0) })
        #expect(server.names.isEmpty)
        #expect(
            try directory.read("asked") == "-s hosts:mdns4_minimal [NOTFOUND=return] dns ahosts printer.local\n"
        )
        await resolver.shutDown()
    }

    @Test("another name server counts from the next name on")
    func changes() async throws {
        let first = try NameServer { _, _ in .noSuchName }
        let resolver = try resolver(first)
        #expect(await resolve("web.test", by: resolver).failure?.code == .unreachable)
        let second = try NameServer(address: "127.0.0.2", port: first.port) { _, type in
            type == .a ? .answer([[192, 0, 2, 8]]) : .answer([])
        }
        _ = try directory.write("resolv.conf", "nameserver 127.0.0.2\n")
        #expect(await resolve("web.test", by: resolver) == .success(["192.0.2.8"]))
        #expect(second.names.contains("web.test"))
        await resolver.shutDown()
    }

    @Test("an answer that is cut is asked for over TCP")
    func truncation() async throws {
        let server = try NameServer { name, type in
            type == .a ? .overTCP((1...40).map { [192, 0, 2, UInt8($0)] }) : .answer([])
        }
        let resolver = try resolver(server)
        #expect(try await resolve("many.test", by: resolver).get().count == 40)
        await resolver.shutDown()
    }
}

extension Result {
    fileprivate var failure: Failure? {
        if case .failure(let error) = self { error } else { nil }
    }
}
