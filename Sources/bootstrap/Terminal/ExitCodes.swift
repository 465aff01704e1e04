import ArgumentParser
import Fleet
import Glibc
import MeshIdentity

/// How `bootstrap` ends: scripts decide by these.
extension ExitCode {
    /// Something went wrong that none of the others names.
    static let failed = ExitCode(1)
    /// The command line, or a file that it names, makes no sense or is not there.
    static let usage = ExitCode(2)
    /// The host key is unknown, changed or revoked.
    static let hostKeyRefused = ExitCode(3)
    /// A login, certificate or passphrase was not accepted.
    static let authenticationRefused = ExitCode(4)
    /// Policy says no.
    static let denied = ExitCode(5)
    /// No path leads there.
    static let unreachable = ExitCode(6)
    /// Somebody answered a question with Ctrl-C.
    static let interrupted = ExitCode(PromptSignals.interruptedStatus)
}

extension HostError.Reason {
    var exitCode: ExitCode {
        switch self {
        case .usage: .usage
        case .hostKeyRefused: .hostKeyRefused
        case .authenticationRefused: .authenticationRefused
        case .unreachable: .unreachable
        case .denied: .denied
        case .unfit, .interrupted, .failed: .failed
        }
    }
}

/// Prints `error: MESSAGE` on stderr. `throw fail(…)` ends the command with the exit code.
///
/// What fails because a question was answered with Ctrl-C needs no explanation.
func fail(_ message: String, _ code: ExitCode = .failed) -> ExitCode {
    guard !PromptSignals.wereInterrupted else { return .interrupted }
    printError("error: \(message)")
    return code
}

/// The same for what a host has failed with.
func fail(_ error: HostError) -> ExitCode { fail(error.message, error.reason.exitCode) }

/// Ends a command because of an identity error, with the exit code that fits.
func fail(_ error: IdentityError) -> ExitCode {
    switch error.code {
    case .passphraseRequired, .wrongPassphrase: fail(error.message, .authenticationRefused)
    case .notFound: fail(error.message, .usage)
    default: fail(error.message)
    }
}

/// Before anybody is asked for anything: a file of this machine that the command line names has to be there.
///
/// - Throws: the exit code; why was printed.
func requireFile(_ path: String, _ what: String = "") throws {
    guard access(path, R_OK) != 0 else { return }
    throw fail("\(what.isEmpty ? "" : "\(what): ")\(path): \(String(cString: strerror(errno)))", .usage)
}
