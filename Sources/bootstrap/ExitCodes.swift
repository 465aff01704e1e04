import ArgumentParser
import Fleet
import Glibc
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

extension Bootstrap {
    /// As the argument parser does it, but a command line that makes no sense ends with 2, as everywhere, and not with 64.
    static func main() async {
        OpenSSLLifetime.untilTheProcessIsGone()
        do {
            var command = try parseAsRoot()
            if var asynchronous = command as? any AsyncParsableCommand {
                try await asynchronous.run()
            } else {
                try command.run()
            }
        } catch {
            guard exitCode(for: error) == .validationFailure else { exit(withError: error) }
            printError(fullMessage(for: error))
            exit(withError: ExitCode.usage)
        }
    }
}

/// Prints `error: MESSAGE` on stderr. `throw fail(…)` ends the command with the exit code.
func fail(_ message: String, _ code: ExitCode = .failed) -> ExitCode {
    printError("error: \(message)")
    return code
}

/// The same for what a host has failed with.
func fail(_ error: HostError) -> ExitCode { fail(error.message, error.reason.exitCode) }

/// Prints a line on stderr: whatever is not the result that a script reads.
func printError(_ line: String) {
    var line = line
    line.append("\n")
    // One write, so that lines of several tasks do not mix.
    line.withUTF8 { text in
        var rest = UnsafeRawBufferPointer(text)
        while !rest.isEmpty {
            let count = write(STDERR_FILENO, rest.baseAddress, rest.count)
            if count < 0 {
                if errno == EINTR { continue }
                return
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }
}
