import Foundation
import TestPeers
import Testing

@testable import Fleet

/// How the agent travels: made once, kept, and never another build's. `/bin/true` plays the agent.
@Suite struct AgentFormsTests {
    private let directory = TemporaryDirectory()

    private var cache: String { directory.path("operator/cache") }

    private func agent(_ name: String = "agent", of program: String = "/bin/true") throws -> AgentBinary {
        let path = directory.path(name)
        if !FileManager.default.fileExists(atPath: path) {
            try FileManager.default.copyItem(atPath: program, toPath: path)
        }
        return try AgentBinary(path: path, cache: cache)
    }

    private func cached() -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: cache)) ?? []).sorted()
    }

    private func mode(_ path: String) throws -> mode_t {
        var status = stat()
        try #require(stat(path, &status) == 0, "\(path)")
        return status.st_mode & 0o7777
    }

    private func undone(_ form: UploadForm, _ bytes: [UInt8]) async throws -> String {
        let file = try directory.write("form", bytes)
        let output = try await ChildProcess.run("sh", ["-c", "\(form.decompression) <'\(file)' | sha256sum"])
        return String(output.standardOutput.prefix(64))
    }

    @Test func eachIsMadeOnceForAll() async throws {
        let agent = try agent()
        for form in [UploadForm.zstd, .gzip] {
            let all = await withTaskGroup(of: [UInt8].self) { group in
                for _ in 0..<50 { group.addTask { await agent.forms.first(of: [form])?.bytes ?? [] } }
                return await group.reduce(into: [[UInt8]]()) { $0.append($1) }
            }
            // One and the same memory, not fifty.
            let addresses = Set(all.map { $0.withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } })
            #expect(addresses.count == 1)
            #expect(try await undone(form, all[0]) == agent.sha256)
        }
    }

    /// The next run finds it; whatever is damaged is made again; nobody else reads it.
    @Test func theCacheIsUsedAndChecked() async throws {
        let first = try #require(await agent().forms.first(of: [.gzip]))
        let file = "\(cache)/agent-\(try agent().sha256).gz"
        #expect(cached() == [(file as NSString).lastPathComponent])
        #expect(try mode(file) == 0o600 && mode(cache) == 0o700)
        // A mark that no compression makes, with the digest that belongs to it: it comes from there.
        let other = Array("not gzip".utf8)
        try Data(other + digest(other)).write(to: URL(fileURLWithPath: file))
        #expect(try await agent().forms.first(of: [.gzip])?.bytes == other)
        try Data(other).write(to: URL(fileURLWithPath: file))
        #expect(try await agent().forms.first(of: [.gzip])?.bytes == first.bytes)
        #expect(try Data(contentsOf: URL(fileURLWithPath: file)).count == first.bytes.count + 32)
    }

    private func digest(_ bytes: [UInt8]) -> [UInt8] {
        let text = Array(Checksum.of(bytes))
        return stride(from: 0, to: 64, by: 2).compactMap { UInt8(String(text[$0..<($0 + 2)]), radix: 16) }
    }

    @Test func theCacheStaysSmall() async throws {
        let programs = try FileManager.default.contentsOfDirectory(atPath: "/bin").sorted()
        var made = 0
        for program in programs where made < 9 {
            // Scripts and links are none.
            guard let agent = try? agent("copy of \(program)", of: "/bin/\(program)") else { continue }
            #expect(await agent.forms.first(of: [.gzip]) != nil)
            made += 1
        }
        try #require(made == 9)
        #expect(cached().count <= 6, "\(cached())")
    }

    /// What was built beside a program counts, and only for that very build.
    @Test func whatWasBuiltBesideItComesFirst() async throws {
        let agent = try agent()
        let built = Array("built".utf8)
        let name = "agent.\(agent.sha256.prefix(12)).xz"
        #expect(await agent.forms.first(of: [.xz]) == nil)
        // Within a machine none is made.
        #expect(await agent.forms.first(of: UploadForm.allCases, making: false) == nil)
        try directory.write(name, built)
        #expect(try await self.agent().forms.first(of: UploadForm.allCases, making: false)?.bytes == built)
        let found = try await self.agent().forms.first(of: UploadForm.allCases.filter { $0 != .zstd })
        #expect(found?.form == .xz && found?.bytes == built)
        let other = try self.agent("other", of: "/bin/uname")
        try directory.write("other.\(agent.sha256.prefix(12)).xz", built)
        #expect(await other.forms.first(of: [.xz]) == nil)
    }

    /// A cache that cannot be written is no reason to fail.
    @Test func withoutACache() async throws {
        try directory.write("operator", "in its place")
        let agent = try agent()
        let made = try #require(await agent.forms.first(of: [.gzip]))
        #expect(try await undone(.gzip, made.bytes) == agent.sha256)
    }
}
