import ArgumentParser
import Fleet

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

    @Argument(help: ArgumentHelp("A device's name, or [user@]host[:port].", valueName: "DEST"), completion: .devices)
    var destination: String?

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("What the account's shell is to run, after `--`.", valueName: "COMMAND")
    )
    var command: [String] = []

    @Option(help: ArgumentHelp("A file with destinations, as `enroll` takes it.", valueName: "FILE"))
    var inventory: String?

    @Flag(help: "Every enrolled device that is not revoked.")
    var all = false

    @Option(
        help: ArgumentHelp(
            "Every enrolled device, or with --inventory every machine of it, that has this label. Of several all must hold.",
            valueName: "KEY=VALUE"
        )
    )
    var label: [LabelArgument] = []

    @Option(help: ArgumentHelp("text, or json: one object a machine on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    @Option(help: ArgumentHelp("How many machines at a time.", valueName: "N"))
    var parallel = 16

    @Option(help: ArgumentHelp("Copy a file there first. May be repeated.", valueName: "LOCAL:REMOTE"))
    var put: [FileTransfer] = []

    @Option(help: ArgumentHelp("Copy a file back afterwards. May be repeated.", valueName: "REMOTE:LOCAL"))
    var get: [FileTransfer] = []

    @Option(
        help: ArgumentHelp(
            "How long the command may take on each of many machines, or with --output json. (default: no limit)",
            valueName: "TIME"
        )
    )
    var timeout: DurationArgument?

    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard destination != nil || inventory != nil || all || !label.isEmpty else {
            throw ValidationError("name a destination, an --inventory file, --label KEY=VALUE, or --all")
        }
        guard !command.isEmpty || !put.isEmpty || !get.isEmpty else {
            throw ValidationError("give the command after `--`: bootstrap exec DEST -- uname -a")
        }
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
        let isAlone = destination != nil && inventory == nil && !all && label.isEmpty
        guard timeout == nil || !isAlone || output == .json else {
            throw ValidationError(
                "--timeout is for many machines, or for --output json: on one, the command has your terminal for as "
                    + "long as it runs. Write `timeout 30 bootstrap exec …`, or `-- timeout 30 COMMAND`"
            )
        }
    }

    func run() async throws {
        let targets = try self.targets()
        let logins = try ssh.logins()
        // As ssh does: words joined by blanks, for the shell there.
        let line = command.joined(separator: " ")
        guard !targets.isEmpty else {
            throw fail(label.isEmpty ? "there is no machine to run it on" : "no machine has these labels", .usage)
        }
        for transfer in put {
            for target in targets { try requireFile(NameTemplate.expand(transfer.source, for: target.name), "--put") }
        }
        let transfers = FileTransfers(put: put, get: get)
        // An inventory may have one machine, or none.
        if destination != nil, targets.count == 1, output == .text, timeout == nil {
            return try await ForegroundCommand(
                target: targets[0],
                command: line,
                transfers: transfers,
                logins: logins
            ).run()
        }
        let fleet = FleetCommand(
            line,
            transfers,
            timeout: timeout?.duration,
            logins: logins,
            // One write, so that the lines of several machines do not mix.
            output: .init(
                standard: { [output] in if output == .text { _ = writeStandardOutput(Array($0.utf8)) } },
                error: { printError($0) },
                warning: { printNotice($0) },
                outcome: { [output] in output.tell($0) }
            )
        )
        // Files that are on their way are taken away again.
        try await stoppable { [parallel] in
            if let failures = await fleet(targets, parallel: parallel) { throw failures.reason.exitCode }
        }
    }

    private func targets() throws -> [RemoteTarget] {
        let records = DeviceDirectory(Home.devices)
        do throws(HostError) {
            var targets: [RemoteTarget] = []
            if let destination { targets.append(try RemoteTarget(destination, in: records)) }
            if let inventory {
                for target in try InventoryFile.targets(inventory)
                where label.allSatisfy({ $0.holds(for: target.labels) }) {
                    targets.append(try RemoteTarget(target.text, name: target.name, in: records))
                }
            }
            guard all || (!label.isEmpty && inventory == nil) else { return targets }
            let known = Set(targets.map(\.name))
            for device in try everyDevice(in: records) where !known.contains(device.name) {
                targets.append(try RemoteTarget(device.name, in: records))
            }
            return targets
        } catch {
            throw fail(error)
        }
    }

    private func everyDevice(in records: DeviceDirectory) throws(HostError) -> [Device] {
        do throws(DeviceDirectoryError) {
            return try records.all().filter { device in
                device.revokedAt == nil && label.allSatisfy { $0.holds(for: device.labels) }
            }
        } catch {
            throw HostError(.failed, error.message)
        }
    }
}

extension FileTransfer: ExpressibleByArgument {
    init?(argument: String) { self.init(parsing: argument) }
}
