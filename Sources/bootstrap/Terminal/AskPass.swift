import Fleet
import Glibc
import MeshIdentity
import Platform

/// The program that asks the user where there is no terminal, or instead of it: `SSH_ASKPASS`, with the rules of `ssh`.
struct AskPass: Sendable {
    private let program: String

    /// A person may be away for a while.
    private static let timeout = Duration.seconds(600)
    private static let answerLimit = 4096

    /// nil where the terminal is to be asked, or nobody can be.
    static func wanted(
        hasTerminal: Bool,
        environment: [String: String] = Program.currentEnvironment
    ) -> AskPass? {
        func value(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
        let hasDisplay = value("DISPLAY") != nil || value("WAYLAND_DISPLAY") != nil
        let isWanted =
            switch value("SSH_ASKPASS_REQUIRE")?.lowercased() {
            case "force": true
            case "prefer": hasDisplay
            case "never": false
            default: hasDisplay && !hasTerminal
            }
        let program = value("SSH_ASKPASS") ?? "/usr/bin/ssh-askpass"
        guard isWanted, program.hasPrefix("/"), access(program, X_OK) == 0 else { return nil }
        return AskPass(program: program)
    }

    /// The first line that the program prints; nil when it fails.
    func answer(_ question: String) async -> Passphrase? {
        let start = Program(program, [program, question], environment: Program.currentEnvironment, group: .own)
        var run = ProgramRun(start, timeout: Self.timeout, errors: .tail(0))
        run.outputLimit = Self.answerLimit
        guard var outcome = try? await run.onThread(), outcome.status?.isSuccess == true, !outcome.isTooLong else {
            return nil
        }
        defer { for index in outcome.output.indices { outcome.output[index] = 0 } }
        return Passphrase(Array(outcome.output.prefix { $0 != UInt8(ascii: "\n") && $0 != UInt8(ascii: "\r") }))
    }
}
