import CLinux
import Glibc
import Platform
import SSHSignal

/// Runs programs of this machine to their end, for `bootstrap signal` on a device: `systemctl`, `crontab` and their
/// like. Blocks.
struct DeviceProgram {
    /// Added to this process's environment.
    var environment: [String: String] = [:]
    var timeout = Duration.seconds(20)

    struct Output {
        /// The exit status; 128 and the signal's number when one ended it.
        var status: Int32
        /// Standard output and error, in the order they came. At most ``DeviceProgram/outputLimit`` bytes.
        var bytes: [UInt8]

        /// For messages.
        var text: String { Printable.clean(bytes, limit: 300) }
    }

    struct Failure: Error {
        var message: String
        /// Nothing went wrong: the machine does not have it.
        var isAbsence = false
    }

    /// A crontab fits.
    static let outputLimit = 1 << 20

    /// Absolute; nil when there is none. Beside `$PATH` the directories are searched that are root's in a login shell
    /// only.
    static func find(_ name: String) -> String? {
        let directories = Program.searchPath.filter { $0.hasPrefix("/") }
        return Program.find(name, in: directories + ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"])
    }

    /// Fails unless it ends with status 0.
    @discardableResult
    func check(_ command: [String], input: [UInt8] = []) throws(Failure) -> [UInt8] {
        let output = try run(command, input: input)
        guard output.status == 0 else {
            let said = output.text.isEmpty ? "" : ": \(output.text)"
            throw Failure(message: "`\(command.joined(separator: " "))` failed (status \(output.status))\(said)")
        }
        return output.bytes
    }

    func run(_ command: [String], input: [UInt8] = []) throws(Failure) -> Output {
        let name = command.first ?? ""
        guard let path = name.hasPrefix("/") ? name : Self.find(name) else {
            throw Failure(message: "there is no program `\(name)`")
        }
        var variables = LocalAccount.current().environment
        variables.merge(environment) { $1 }
        variables["LC_ALL"] = "C"
        let program = Program(path, command, environment: variables, group: .own)
        var run = ProgramRun(program, timeout: timeout, errors: .withOutput)
        run.outputLimit = Self.outputLimit
        let outcome: ProgramRun.Outcome
        do throws(SystemError) {
            outcome = try run.run(input: input)
        } catch {
            throw Failure(message: "`\(path)` cannot be started: \(error)")
        }
        guard let status = outcome.status else {
            throw Failure(
                message: "`\(command.joined(separator: " "))` did not end within \(timeout.components.seconds) s"
            )
        }
        return Output(status: status.shellStatus, bytes: outcome.output)
    }
}
