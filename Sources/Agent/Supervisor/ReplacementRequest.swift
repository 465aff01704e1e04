import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// `node.request` and `node.outcome`: what `bootstrap signal` asks of a supervisor, and the answer.
struct ReplacementRequest {
    /// A fresh word that the answer repeats.
    let id: String
    let program: String

    private static func requestFile(_ state: String) -> String { "\(state)/node.request" }
    private static func outcomeFile(_ state: String) -> String { "\(state)/node.outcome" }

    init(program: String) {
        id = AtomicFile.randomName()
        self.program = program
    }

    private init(id: String, program: String) { (self.id, self.program) = (id, program) }

    func write(state: String) throws(IdentityError) {
        unlink(Self.outcomeFile(state))
        try fileWork(AtomicFile.write(Array("\(id)\n\(program)\n".utf8), to: Self.requestFile(state), mode: 0o600))
    }

    static func read(state: String) -> ReplacementRequest? {
        guard let lines = lines(requestFile(state)), lines.count == 2 else { return nil }
        unlink(requestFile(state))
        return ReplacementRequest(id: lines[0], program: lines[1])
    }

    func answer(listener: String, state: String) { write("ready", listener, state) }

    func answer(failure: String, state: String) { write("failed", failure, state) }

    private func write(_ word: String, _ text: String, _ state: String) {
        let text = text.split(separator: "\n").joined(separator: " ")
        try? AtomicFile.write(Array("\(id)\n\(word)\n\(text)\n".utf8), to: Self.outcomeFile(state), mode: 0o600)
    }

    /// The listener of the new node; nil while there is no answer.
    func outcome(state: String) throws(NodeProcess.Failure) -> String? {
        guard let lines = Self.lines(Self.outcomeFile(state)), lines.count == 3, lines[0] == id else { return nil }
        guard lines[1] == "ready" else { throw NodeProcess.Failure(message: lines[2]) }
        return lines[2]
    }

    private static func lines(_ file: String) -> [String]? {
        guard let bytes = try? LocalFile.read(file, limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }
}
