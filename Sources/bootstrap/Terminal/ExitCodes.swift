import ArgumentParser
import Fleet
import MeshIdentity

/// How `bootstrap` ends: scripts decide by these.
extension ExitCode {
    /// Something went wrong that none of the others names.
    static let failed = ExitCode(1)
    /// The command line or a configuration file makes no sense.
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
    default: fail(error.message)
    }
}
