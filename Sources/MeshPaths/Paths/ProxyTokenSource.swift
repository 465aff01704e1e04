import Glibc
import MeshIdentity
import Platform
import Streams

/// Where the tokens come from that a proxy asks for. What it says is a secret: never in arguments, in the environment,
/// in a log or in an error.
package enum ProxyTokenSource: Hashable, Sendable, CustomStringConvertible {
    /// Somebody else replaces it before its token ends.
    case file(String)
    /// A program that prints one, and its arguments.
    case program([String])

    /// More is no token that a server would take: the whole head of a request has 16 KiB.
    package static let limit = 12 << 10
    private static let timeout = Duration.seconds(30)
    /// Of stderr the end is kept, so many bytes: that is where the reason is.
    private static let complaintLimit = 1024

    package var description: String {
        switch self {
        case .file(let path): path
        case .program(let command): "the program \(command.first ?? "")"
        }
    }

    /// - Parameter audience: Whom it must be for: a program finds it as `BOOTSTRAP_TOKEN_AUDIENCE`.
    func load(for audience: String) async throws(StreamError) -> String {
        let bytes: [UInt8]
        switch self {
        case .file(let path): bytes = try Self.read(path)
        case .program(let command): bytes = try await Self.run(command, audience)
        }
        let text = String(decoding: bytes, as: UTF8.self).trimmingASCIISpace
        guard !text.isEmpty else { throw StreamError(.unreachable, "token: \(self) has none") }
        guard text.utf8.count <= Self.limit else {
            throw StreamError(.unreachable, "token: what \(self) has is longer than \(Self.limit >> 10) KiB")
        }
        guard text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw StreamError(.unreachable, "token: what \(self) has is not one word of ASCII")
        }
        return text
    }

    private static func read(_ path: String) throws(StreamError) -> [UInt8] {
        let bytes: [UInt8]?
        do throws(LocalFile.Failure) {
            // Spaces around it, and one byte that says that it is too long.
            bytes = try LocalFile.read(path, limit: 2 * limit, allowsPipe: false)
        } catch {
            throw StreamError(.unreachable, "token: \(path): \(error.reason)")
        }
        guard let bytes else { throw StreamError(.unreachable, "token: \(path): there is no such file") }
        return bytes
    }

    private static func run(_ command: [String], _ audience: String) async throws(StreamError) -> [UInt8] {
        guard let name = command.first, let path = Program.find(name) else {
            throw StreamError(.unreachable, "token: the program \(command.first ?? "") cannot be found")
        }
        let environment = Program.currentEnvironment.merging(["BOOTSTRAP_TOKEN_AUDIENCE": audience]) { $1 }
        let program = Program(path, command, environment: environment, group: .own)
        var run = ProgramRun(program, timeout: timeout, errors: .tail(complaintLimit))
        run.outputLimit = 2 * limit
        run.overflow = .close
        let outcome: ProgramRun.Outcome
        do throws(SystemError) { outcome = try await run.onThread() } catch {
            throw StreamError(.unreachable, "token: the program \(name) cannot be run: \(error)")
        }
        let complaint = Printable.clean(outcome.errors, limit: complaintLimit)
        let said = complaint.isEmpty ? "" : ": \(complaint)"
        guard let status = outcome.status else {
            throw StreamError(.timedOut, "token: the program \(name) did not end within \(timeout)\(said)")
        }
        guard status.isSuccess else { throw StreamError(.unreachable, "token: the program \(name): \(status)\(said)") }
        return outcome.output
    }
}

extension String {
    fileprivate var trimmingASCIISpace: String {
        let isSpace = { (byte: UInt8) in byte == 0x20 || (0x09...0x0D).contains(byte) }
        var bytes = utf8[...].drop(while: isSpace)
        while let last = bytes.last, isSpace(last) { bytes = bytes.dropLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
}
