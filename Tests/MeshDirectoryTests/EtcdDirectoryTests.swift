import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshDirectory

/// A directory in a real etcd.
@Suite(.serialized, .timeLimit(.minutes(10))) struct EtcdDirectoryTests {
    private let domain: TrustDomain
    private let signer: DirectorySigner

    init() throws {
        domain = try TrustDomain("mesh.example")
        signer = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds).makeDirectorySigner()
    }

    private func document(_ revision: Int64, lines: Int = 1) throws -> SignedDirectory {
        var text = "# \(revision)\nendpoints:\n"
        for line in 0..<lines { text += "- {match: \"host\(line).example:1\", hbone: \"10.0.0.1:15008\"}\n" }
        return try SignedDirectory(content: Array(text.utf8), domain: domain, revision: revision, signer: signer)
    }

    private func directory(in cluster: EtcdCluster, prefix: String = "/mesh/mesh.example/") throws -> EtcdDirectory {
        EtcdDirectory(
            EtcdSettings(
                endpoints: try cluster.endpoints.map { try EtcdSettings.endpoint($0) },
                prefix: prefix,
                credential: cluster.credential
            )
        )
    }

    private func ready(_ directory: EtcdDirectory) async throws {
        try await eventually("etcd answers") {
            do {
                _ = try await directory.read()
                return true
            } catch {
                return false
            }
        }
    }

    /// What somebody is told who follows.
    private final class Follower: Sendable {
        let told = Lock<[String]>([])
        private let task: Task<Void, Never>

        init(_ directory: EtcdDirectory) {
            let told = told
            task = Task {
                await directory.follow { event in
                    let text =
                        switch event {
                        case .document(let document): "\(document.revision)"
                        case .missing: "missing"
                        case .failed(let error): "failed: \(error.message)"
                        }
                    told.withLock { $0.append(text) }
                }
            }
        }

        func wait(for text: String, _ what: String) async throws {
            try await eventually("\(what): '\(text)' in \(told.withLock { $0 })") {
                told.withLock { $0.contains { $0.hasPrefix(text) } }
            }
        }

        func stop() async {
            task.cancel()
            await task.value
        }

        /// Revisions, as they came.
        var revisions: [Int64] { told.withLock { $0.compactMap { Int64($0) } } }
    }

    @Test func writingComparesAndReadingIsWhole() async throws {
        let cluster = try EtcdCluster(members: 1)
        let directory = try directory(in: cluster)
        try await ready(directory)
        let (one, two) = (try document(1, lines: 20_000), try document(2, lines: 20_010))
        try await directory.write(one, replacing: .nothing)
        #expect(try await directory.read() == one)
        for previous in [DirectoryStore.Previous.nothing, .manifest(two.manifest)] {
            let error = await #expect(throws: DirectoryError.self) {
                try await directory.write(two, replacing: previous)
            }
            #expect(error?.code == .conflict)
        }
        try await directory.write(two, replacing: .manifest(one.manifest))
        #expect(try await directory.read() == two)
        // Nothing is left of what nobody needs, and another mesh's keys are its own.
        let keys = try await cluster.control(["get", "--prefix", "/mesh/", "--keys-only"]).standardOutput
        #expect(keys.split(separator: "\n").count == Set(two.manifest.parts).count + 1)
        let other = try self.directory(in: cluster, prefix: "/mesh/other.example/")
        #expect(try await other.read() == nil)
        await cluster.stop()
    }

    @Test func twoWritersAtOnceAreOne() async throws {
        let cluster = try EtcdCluster(members: 1)
        let directory = try directory(in: cluster)
        try await ready(directory)
        let base = try document(1)
        try await directory.write(base, replacing: .nothing)
        let others = try (2...9).map { try document(Int64($0), lines: 300 + $0) }
        let results = await withTaskGroup(of: Bool.self) { group in
            for other in others {
                group.addTask { (try? await directory.write(other, replacing: .manifest(base.manifest))) != nil }
            }
            return await group.reduce(into: [Bool]()) { $0.append($1) }
        }
        #expect(results.filter { $0 }.count == 1)
        #expect(others.contains(try #require(try await directory.read())))
        await cluster.stop()
    }

    @Test func aFollowerHearsOfEachChange() async throws {
        let cluster = try EtcdCluster(members: 1)
        let directory = try directory(in: cluster)
        try await ready(directory)
        let follower = Follower(try self.directory(in: cluster))
        try await follower.wait(for: "missing", "nothing yet")
        var last = try document(1, lines: 500)
        try await directory.write(last, replacing: .nothing)
        for revision in 2...5 {
            let next = try document(Int64(revision), lines: 500 + revision)
            try await directory.write(next, replacing: .manifest(last.manifest))
            last = next
            try await follower.wait(for: "\(revision)", "the change")
        }
        #expect(follower.revisions == [1, 2, 3, 4, 5])
        await follower.stop()
        await cluster.stop()
    }

    /// Revisions that a watch would begin with are not known any more: everything is read again.
    @Test func compactionIsSurvived() async throws {
        let cluster = try EtcdCluster(members: 1)
        let directory = try directory(in: cluster)
        try await ready(directory)
        var last = try document(1)
        try await directory.write(last, replacing: .nothing)
        let follower = Follower(try self.directory(in: cluster))
        try await follower.wait(for: "1", "the start")
        await cluster.kill(0)
        try await follower.wait(for: "failed", "the outage")
        try cluster.start(0)
        try await ready(directory)
        for revision in 2...4 {
            let next = try document(Int64(revision))
            try await directory.write(next, replacing: .manifest(last.manifest))
            last = next
        }
        let status = try await cluster.control(["get", "/none", "-w", "json"]).standardOutput
        let revision = try #require(status.split(separator: "\"revision\":").last?.prefix { $0.isNumber })
        #expect(try await cluster.control(["compact", String(revision)]).succeeded)
        try await follower.wait(for: "4", "the last one")
        #expect(follower.revisions.sorted() == follower.revisions)
        await follower.stop()
        await cluster.stop()
    }

    @Test func oneOfThreeMembersDies() async throws {
        let cluster = try EtcdCluster(members: 3)
        let directory = try directory(in: cluster)
        try await ready(directory)
        var last = try document(1)
        try await directory.write(last, replacing: .nothing)
        let followers = try (0..<3).map { _ in Follower(try self.directory(in: cluster)) }
        for follower in followers { try await follower.wait(for: "1", "the start") }
        for revision in 2...12 {
            let next = try document(Int64(revision), lines: revision)
            if revision == 5 { await cluster.kill(0) }
            // What was not written for want of a leader is written again; what was, is there.
            try await eventually("revision \(revision) is written") {
                do {
                    try await directory.write(next, replacing: .manifest(last.manifest))
                    return true
                } catch {
                    return (try? await directory.read()) == next
                }
            }
            last = next
        }
        for follower in followers {
            try await follower.wait(for: "12", "the last one")
            #expect(follower.revisions.sorted() == follower.revisions)
            await follower.stop()
        }
        await cluster.stop()
    }

    /// A store that was made anew counts its revisions from the beginning, and a watch for a later one would wait for
    /// ever.
    @Test func aStoreThatWasWipedIsNoticed() async throws {
        let cluster = try EtcdCluster(members: 1)
        let directory = try directory(in: cluster)
        try await ready(directory)
        var last = try document(1)
        try await directory.write(last, replacing: .nothing)
        for revision in 2...6 {
            let next = try document(Int64(revision))
            try await directory.write(next, replacing: .manifest(last.manifest))
            last = next
        }
        let follower = Follower(try self.directory(in: cluster))
        try await follower.wait(for: "6", "the start")
        try await cluster.wipe()
        try await follower.wait(for: "missing", "the wiped store")
        try await directory.write(try document(7), replacing: .nothing)
        try await follower.wait(for: "7", "the new one")
        await follower.stop()
        await cluster.stop()
    }

    @Test func aMemberThatHangsIsLeft() async throws {
        let cluster = try EtcdCluster(members: 3)
        let directory = try directory(in: cluster)
        try await ready(directory)
        let one = try document(1)
        try await directory.write(one, replacing: .nothing)
        // Neither answers nor ends.
        cluster.signal(1, 19)
        let reading = try self.directory(in: cluster)
        for _ in 0..<3 {
            try await eventually("somebody answers") { (try? await reading.read()) == one }
        }
        cluster.signal(1, 18)
        await cluster.stop()
    }

    /// Everything is read anew each time, and after a pause. No bound from above: a busy machine takes longer.
    @Test func aMemberThatCancelsEachWatchIsNotAskedWithoutAPause() async throws {
        let files = try EtcdCluster(members: 0)
        let member = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/grpc/etcd.py", files.credential]
        )
        let port = try await member.standardOutput.line { (UInt16($0) ?? 0) > 1023 }
        let directory = EtcdDirectory(
            EtcdSettings(
                endpoints: [try EtcdSettings.endpoint("https://127.0.0.1:\(port)")],
                prefix: "/mesh/mesh.example/",
                credential: files.credential
            )
        )
        let start = ContinuousClock.now
        let follower = Follower(directory)
        // Ten pauses of half of 100 ms at the least.
        try await eventually("it is asked for eleven watches") {
            member.standardOutput.lines.count { $0 == "watch" } >= 11
        }
        #expect(ContinuousClock.now - start > .milliseconds(500))
        #expect(follower.told.withLock { $0.allSatisfy { $0 == "missing" } && $0.count >= 11 })
        await follower.stop()
        await member.stop()
    }

    @Test func nobodyIsAskedWithoutTheRightCertificates() async throws {
        let cluster = try EtcdCluster(members: 1)
        try await ready(try directory(in: cluster))
        let others = try EtcdCluster(members: 0)
        let directory = EtcdDirectory(
            EtcdSettings(
                endpoints: try cluster.endpoints.map { try EtcdSettings.endpoint($0) },
                prefix: "/mesh/mesh.example/",
                credential: others.credential
            )
        )
        let error = await #expect(throws: DirectoryError.self) { try await directory.read() }
        #expect(error?.code == .unreachable)
        #expect(error?.message.contains("root-cert.pem") == true, "\(error?.message ?? "")")
        await cluster.stop()
    }

    @Test(arguments: [
        ("https://a.example", "a.example:2379"), ("https://a.example:1", "a.example:1"),
        ("https://[::1]", "[::1]:2379"), ("https://[::1]:7/", "[::1]:7"), ("https://10.0.0.1:2379", "10.0.0.1:2379"),
    ])
    func endpoints(text: String, expected: String) throws {
        #expect(try EtcdSettings.endpoint(text).description == expected)
    }

    @Test(arguments: ["http://a.example:2379", "a.example:2379", "https://", "https://a/b", "https://user@a:1"])
    func noEndpoints(text: String) {
        #expect(throws: AddressError.self) { try EtcdSettings.endpoint(text) }
    }
}
