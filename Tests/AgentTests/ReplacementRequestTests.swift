import Platform
import TestPeers
import Testing

@testable import Agent

/// What passes between `bootstrap signal` and a supervisor, which may be of another release: the files are a contract.
@Suite struct ReplacementRequestTests {
    private let directory = TemporaryDirectory()

    @Test func theFilesAreThoseOfTheFirstRelease() throws {
        let request = ReplacementRequest(program: "/opt/bootstrap/0.1.0-aaaaaaaaaaaa/bootstrap")
        try request.write(state: directory.path)
        #expect(try directory.read("node.request") == "\(request.id)\n/opt/bootstrap/0.1.0-aaaaaaaaaaaa/bootstrap\n")
        #expect(try request.outcome(state: directory.path) == nil)

        try directory.write("node.outcome", "\(request.id)\nready\n127.0.0.1:15008\n")
        #expect(try request.outcome(state: directory.path) == "127.0.0.1:15008")
        try directory.write("node.outcome", "\(request.id)\nfailed\nthe node ended at once\n")
        let failure = #expect(throws: NodeProcess.Failure.self) { try request.outcome(state: directory.path) }
        #expect(failure?.message == "the node ended at once")
        try directory.write("node.outcome", "another\nready\n127.0.0.1:15008\n")
        #expect(try request.outcome(state: directory.path) == nil, "the answer to another request")
    }

    @Test func itIsReadOnceAndAnsweredInThreeLines() throws {
        try directory.write("node.request", "word\n/opt/bootstrap/current/bootstrap\n")
        let request = try #require(ReplacementRequest.read(state: directory.path))
        #expect(request.id == "word")
        #expect(request.program == "/opt/bootstrap/current/bootstrap")
        #expect(ReplacementRequest.read(state: directory.path) == nil)
        request.answer(listener: "127.0.0.1:15008", state: directory.path)
        #expect(try directory.read("node.outcome") == "word\nready\n127.0.0.1:15008\n")
        request.answer(failure: "not ready:\nit logged nothing", state: directory.path)
        #expect(try directory.read("node.outcome") == "word\nfailed\nnot ready: it logged nothing\n")
    }

    @Test func halfARequestIsNone() throws {
        try directory.write("node.request", "word\n")
        #expect(ReplacementRequest.read(state: directory.path) == nil)
    }
}
