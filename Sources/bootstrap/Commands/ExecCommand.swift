import ArgumentParser
import Glibc
import SSHSignal
import Streams

struct ExecCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "exec",
        abstract: "Run a command on one machine, as ssh does, or on many.",
        discussion: """
            On one machine: standard input, output and error are the command's, and so is the exit status (255 when a signal ended \
            it). On many, over one connection each: every line of output has the machine's name before it, and the exit code is 0 when \
            the command succeeded everywhere. Files can go there before the command and come back after it; {name} in a path stands \
            for the machine's name.

              bootstrap exec dev7 -- uname -a
              bootstrap exec --inventory hosts --put app.conf:/etc/app.conf --get /var/log/app.log:logs/{name} -- systemctl restart app
            """
    )

    @Argument(help: ArgumentHelp("A device's name, or [user@]host[:port].", valueName: "DEST"))
    var destination: String?

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("What the account's shell is to run, after `--`.", valueName: "COMMAND")
    )
    var command: [String] = []

    @Option(help: ArgumentHelp("A file with destinations, as `enroll` takes it.", valueName: "FILE"))
    var inventory: String?

    @Option(help: ArgumentHelp("How many machines at a time.", valueName: "N"))
    var parallel = 16

    @Option(help: ArgumentHelp("Copy a file there first. May be repeated.", valueName: "LOCAL:REMOTE"))
    var put: [FileTransfer] = []

    @Option(help: ArgumentHelp("Copy a file back afterwards. May be repeated.", valueName: "REMOTE:LOCAL"))
    var get: [FileTransfer] = []

    @Option(
        help: ArgumentHelp(
            "How long the command may take on each of many machines. (default: no limit)",
            valueName: "TIME"
        )
    )
    var timeout: DurationArgument?

    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard destination != nil || inventory != nil else {
            throw ValidationError("name a destination, or an --inventory file")
        }
        guard !command.isEmpty || !put.isEmpty || !get.isEmpty else {
            throw ValidationError("give the command after `--`: bootstrap exec DEST -- uname -a")
        }
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
    }

    func run() async throws {
        let targets = try self.targets()
        // As ssh does: words joined by blanks, for the shell there.
        let line = command.joined(separator: " ")
        if targets.count == 1, inventory == nil, put.isEmpty, get.isEmpty {
            try await ForegroundCommand(target: targets[0], command: line, ssh: ssh).run()
        } else {
            let fleet = FleetCommand(
                command: line,
                put: put,
                get: get,
                timeout: timeout?.duration,
                ssh: ssh,
                nameWidth: targets.map(\.name.count).max() ?? 0
            )
            try await fleet(targets, parallel: parallel)
        }
    }

    private func targets() throws -> [RemoteTarget] {
        var targets = try destination.map { [try RemoteTarget($0)] } ?? []
        if let inventory {
            let listed: [EnrollmentTarget]
            do throws(EnrollmentError) {
                listed = try InventoryFile.targets(inventory)
            } catch {
                throw fail(error.message, error.reason.exitCode)
            }
            targets += try listed.map { try RemoteTarget($0.text, name: $0.name) }
        }
        return targets
    }
}

/// `FROM:TO`, where one side is on another machine.
struct FileTransfer: ExpressibleByArgument, Sendable {
    let source: String
    let target: String

    init?(argument: String) {
        guard let colon = argument.firstIndex(of: ":") else { return nil }
        source = String(argument[..<colon])
        target = String(argument[argument.index(after: colon)...])
        guard !source.isEmpty, !target.isEmpty else { return nil }
    }

    /// With the machine's name in the place of `{name}`.
    static func expand(_ path: String, for name: String) -> String {
        var parts: [Substring] = []
        var rest = path[...]
        let mark = "{name}"
        while let index = rest.indices.first(where: { rest[$0...].hasPrefix(mark) }) {
            parts.append(rest[..<index])
            rest = rest[rest.index(index, offsetBy: mark.count)...]
        }
        return (parts + [rest]).joined(separator: name)
    }
}
