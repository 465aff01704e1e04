import Glibc
import Platform

/// A program of the user's that is run once: input on stdin, result on stdout, complaints on stderr.
struct ChildProgram: Sendable {
    /// The program, found in PATH unless it has a slash, and its arguments.
    let command: [String]
    /// Added to our own environment.
    let environment: [String: String]
    let timeout: Duration

    /// More than this on stdout is an error.
    static let outputLimit = 1 << 20
    /// Of stderr the end is kept: that is where the reason is.
    private static let complaintLimit = 2048

    /// What it printed on stdout. Fails unless it exits with status 0 in time; the error has the end of its stderr.
    func run(input: [UInt8]) async throws(IdentityError) -> [UInt8] {
        guard let name = command.first, !name.isEmpty else {
            throw IdentityError(.issuer, "the issuer's command is empty")
        }
        guard let path = Program.find(name) else { throw failure(name, ENOENT) }
        let program = Program(
            path,
            command,
            environment: Program.currentEnvironment.merging(environment) { $1 },
            group: .own
        )
        var run = ProgramRun(program, timeout: timeout, errors: .tail(Self.complaintLimit))
        run.outputLimit = Self.outputLimit
        run.overflow = .close
        let outcome: ProgramRun.Outcome
        do throws(SystemError) {
            outcome = try await run.onThread(input: input)
        } catch {
            throw failure(name, error.number)
        }
        let said = complaint(outcome.errors)
        switch outcome.status {
        case nil: throw IdentityError(.timedOut, "the issuer \(name) did not end within \(timeout)\(said)")
        case .exited(0): break
        case .exited(let status):
            throw IdentityError(.issuer, "the issuer \(name) exited with status \(status)\(said)")
        case .signalled(let signal):
            throw IdentityError(.issuer, "the issuer \(name) was ended by signal \(signal)\(said)")
        }
        guard !outcome.isTooLong else {
            throw IdentityError(.issuer, "the issuer \(name) printed more than \(Self.outputLimit) bytes")
        }
        return outcome.output
    }

    private func failure(_ name: String, _ number: Int32) -> IdentityError {
        IdentityError(AtomicFile.failure("run the issuer", name, errno: number))
    }

    /// The end of stderr, fit for an error message.
    private func complaint(_ errors: [UInt8]) -> String {
        let text = errors.map { $0 >= 0x20 && $0 < 0x7F ? $0 : UInt8(ascii: " ") }
        let words = String(decoding: text, as: UTF8.self).split(separator: " ").joined(separator: " ")
        return words.isEmpty ? "" : ": \(words)"
    }
}
