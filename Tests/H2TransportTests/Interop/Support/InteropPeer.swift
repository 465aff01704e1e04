import Foundation
import TestPeers

/// An HBONE client or server that is not ours: a program that `Tests/Peers/README.md` describes.
struct InteropPeer: Sendable {
    enum Program: Sendable {
        case node, go
        /// An emulation on python-h2.
        case ztunnel

        func start(_ arguments: [String]) async throws -> ChildProcess {
            let peers = TestTools.repository + "/Tests/Peers"
            switch self {
            case .node: return try ChildProcess("node", ["\(peers)/node/peer.js"] + arguments, keepsInputOpen: true)
            case .go:
                // Long only where `make deps` has not compiled it.
                let build = try await ChildProcess.run("\(peers)/go/build.sh", within: .seconds(300))
                guard build.succeeded, let binary = build.standardOutput.split(separator: "\n").last else {
                    throw DeadlineExceeded("Tests/Peers/go/build.sh failed:\n\(build.standardError)")
                }
                return try ChildProcess(String(binary), arguments, keepsInputOpen: true)
            case .ztunnel:
                let script = "\(peers)/ztunnel/peer.py"
                return try ChildProcess(TestTools.python, ["-u", script] + arguments, keepsInputOpen: true)
            }
        }
    }

    struct Event: Decodable, Sendable {
        var event: String
        var port: UInt16?
        var peer: String?
        var reason: String?
        var authority: String?
        var stream: Int?
        var status: Int?
        var count: Int?
        var sha256: String?
        var code: Int?
        /// Of the largest DATA frame.
        var sent: Int?
        var received: Int?
        var settings: [String: Int]?
        var headers: [String: String]?
    }

    let process: ChildProcess

    /// A server, and where it listens.
    static func server(
        _ program: Program,
        credential: TestCertificates.Kind = .server,
        options: [String] = []
    ) async throws -> (InteropPeer, port: UInt16) {
        let path = TestCertificates.shared.path(credential)
        let peer = InteropPeer(process: try await program.start(["server", path] + options))
        return (peer, try await peer.event("listening").port ?? 0)
    }

    /// A client of the server on `port`.
    static func client(
        _ program: Program,
        port: UInt16,
        credential: TestCertificates.Kind = .client,
        options: [String] = []
    ) async throws -> InteropPeer {
        let path = TestCertificates.shared.path(credential)
        return InteropPeer(process: try await program.start(["client", String(port), path] + options))
    }

    func send(_ commands: String...) throws {
        try process.write(commands.map { $0 + "\n" }.joined())
    }

    /// All events so far, in order.
    var events: [Event] {
        process.standardOutput.lines.compactMap { try? JSONDecoder().decode(Event.self, from: Data($0.utf8)) }
    }

    /// Waits for the first event of this kind, of one stream or of any, that satisfies `condition`.
    @discardableResult
    func event(
        _ name: String,
        _ stream: Int? = nil,
        within limit: Duration = .seconds(90),
        where condition: (Event) -> Bool = { _ in true }
    ) async throws -> Event {
        var found: Event?
        do {
            try await eventually("\(name) \(stream.map(String.init) ?? "")", within: limit) {
                let complete = process.standardOutput.isComplete
                found = events.first {
                    $0.event == name && (stream == nil || $0.stream == stream) && condition($0)
                }
                if found == nil && complete { throw DeadlineExceeded("the peer ended without \(name)") }
                return found != nil
            }
        } catch let error as DeadlineExceeded {
            let output = process.standardOutput.text + process.standardError.text
            throw DeadlineExceeded("\(error); the peer said:\n\(output)")
        }
        guard let found else { throw DeadlineExceeded(name) }
        return found
    }

    /// Ends it by the end of its standard input.
    func stop() async {
        process.closeInput()
        await process.stop()
    }
}
