import ArgumentParser
import Fleet
import MeshIdentity
import MeshNode
import MeshPaths
import Platform
import SSHSignal
import Streams

struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "What was enrolled, and how long its certificates last.",
        discussion: """
            Reads the ledger, $BOOTSTRAP_HOME/ledger.sqlite, and opens no connection unless --probe is given. Without DEST one line for each device; with \
            DEST all that is known of it, and what happened to it last. A certificate that is past two thirds of its time and was \
            not renewed is marked. ALARM: a certificate that the device has replaced was shown for a renewal: its key is in two places.

            With --probe every device is visited, or DEST: whether it answers by SSH, whether its node answers over the mesh, which \
            certificate it really has and its node shows, which agent runs, how far its clock is off. What needs somebody is said \
            with what to do, and the exit code is not 0 then (6: what was wrong is that devices cannot be reached).

            With --watch and --admin or --config, what a node does: its peers, over which path, since when and why, round trips, \
            bytes a second each way, streams, and who has streams to it. With DEST the node is on that machine, and asked by SSH. \
            On a terminal a table each second; elsewhere a line, or an object. A node that has gone is waited for. Ctrl-C ends it. \
            With -S the same for the paths of a running `connect -S PATH`, and what it listens for.

              bootstrap status --watch --config node.yaml
              bootstrap status --watch --admin 127.0.0.1:15000 --json
              bootstrap status gateway.lan --watch --admin /run/bootstrap/admin.sock

              bootstrap status --probe
              bootstrap status --probe dev7 --output json
            """
    )

    @Argument(help: ArgumentHelp("A device's name, destination or SPIFFE ID.", valueName: "DEST"), completion: .devices)
    var destination: String?

    @Option(
        help: ArgumentHelp("text, or json: an array of objects; with --watch an object a second.", valueName: "FORMAT")
    )
    var output = ResultFormat.text

    @Flag(help: "The same as --output json.")
    var json = false

    @Flag(help: "Visit the devices, and compare what they have with the ledger.")
    var probe = false

    @Option(help: ArgumentHelp("With --probe: how many devices at a time. (default: 16)", valueName: "N"))
    var parallel: Int?

    @Flag(help: "Show how the paths of the `connect` that listens at -S, or those of a node, stand; until you stop it.")
    var watch = false

    @Option(
        help: ArgumentHelp(
            "With --watch: where the administration of the node listens, ADDRESS:PORT or the path of its socket.",
            valueName: "PLACE"
        )
    )
    var admin: String?

    @Option(
        help: ArgumentHelp(
            "With --watch: the configuration of the node on this machine, which says the same.",
            valueName: "FILE"
        )
    )
    var config: String?

    @Option(
        name: [.customShort("S")],
        help: ArgumentHelp(
            "With --watch: the control socket; without it, that of ssh's ControlPath.",
            valueName: "PATH"
        )
    )
    var controlPath: String?

    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard watch || (admin == nil && config == nil) else {
            throw ValidationError("--admin and --config are for --watch")
        }
        if watch, admin != nil || config != nil {
            guard !probe, parallel == nil, access.isEmpty, controlPath == nil, admin == nil || config == nil else {
                throw ValidationError(
                    "--watch with --admin or --config takes one of the two, and neither -S nor --probe"
                )
            }
            guard destination == nil ? ssh.isEmpty : config == nil else {
                throw ValidationError(
                    "--config, and --admin without DEST, are for a node on this machine, which is not reached by SSH"
                )
            }
            return
        }
        if watch {
            guard destination != nil, !probe, parallel == nil, access.isEmpty else {
                throw ValidationError(
                    "--watch needs --admin or --config for a node, or DEST and -S, with the options of SSH, for a connect"
                )
            }
            return
        }
        guard controlPath == nil else { throw ValidationError("-S is for --watch") }
        guard probe || (parallel == nil && ssh.isEmpty && access.isEmpty) else {
            throw ValidationError("--parallel, and the options of SSH and of the CA, are for --probe")
        }
        guard (1...256).contains(parallel ?? 1) else { throw ValidationError("--parallel is from 1 to 256") }
    }

    private var format: ResultFormat { json ? .json : output }

    private func watchNode() async throws {
        let address = try administration()
        let place: NodeWatch.Place
        if let destination {
            place = .there(address, try login(to: destination))
        } else {
            place = .here(address)
        }
        let name = "\(address)\(destination.map { " of \($0)" } ?? "")"
        try await NodeWatch(place: place, name: name, isJSON: format == .json).run()
    }

    private func administration() throws -> SocketAddress {
        do {
            if let admin {
                return try admin.contains("/") ? SocketAddress(unixPath: admin) : SocketAddress(parsing: admin)
            }
            let configuration = try NodeConfiguration.load(config ?? "")
            if let path = configuration.adminSocket { return try SocketAddress(unixPath: path) }
            if let bind = configuration.admin, bind.port != 0 { return bind.socketAddress }
        } catch let error as StreamError {
            throw fail("--admin: \(error.message)", .usage)
        } catch let error as ConfigurationError {
            throw fail(error.description, .usage)
        }
        throw fail(
            "--config \(config ?? ""): it has no 'admin', or one with port 0: say with --admin where it is",
            .usage
        )
    }

    private func login(to destination: String) throws -> SSHLogin {
        let whom = PathTarget(destination: destination, path: .ssh, authority: access)
        let device = try whom.findDevice()
        if let device { try whom.check(device) }
        let watch = device == nil ? HostWatch(whom.trust) : nil
        guard let login = try whom.makeAccess(device, watch, try ssh.logins(), warn: { printNotice($0) }).login else {
            throw fail("\(destination): there is no SSH login", .usage)
        }
        return login
    }

    private func watch(_ destination: String) async throws {
        let device: Device?
        do throws(HostError) {
            device = try DeviceDirectory(Home.devices).enrolledIfAny(destination)
        } catch {
            throw fail(error)
        }
        let configuration = try ssh.logins().configuration(of: device, destination, controlPath: controlPath)
        guard let place = ControlPlace(configuration, isMaster: false, isTyped: controlPath != nil) else {
            throw fail("--watch needs -S PATH, or a ControlPath", .usage)
        }
        let peer = device?.name ?? ControlPlace.peer(configuration)
        let watch = NodeWatch(place: .control(place.path, peer: peer), name: place.path, isJSON: format == .json)
        try await watch.run()
    }

    func run() async throws {
        if watch, admin != nil || config != nil { return try await watchNode() }
        if watch, let destination { return try await watch(destination) }
        let records = DeviceDirectory(Home.devices)
        do {
            let alarms = Dictionary(grouping: try records.ledger.alarms(), by: \.device)
            if probe { return try await visit(try devices(in: records), alarms) }
            compare(records.ledger)
            for remark in try UnfinishedEnrolments(in: records.ledger).remarks { printWarning(remark) }
            let now = WallClock.system.seconds
            guard let destination else {
                let devices = try records.all().map { DeviceStatus($0, alarms: alarms[$0.name] ?? [], at: now) }
                switch format {
                case .json: printJSON(devices)
                case .text where devices.isEmpty: printNothingEnrolled()
                case .text: DeviceStatus.table(devices, at: now).forEach(printRow)
                }
                return
            }
            let record = try device(destination, in: records)
            let status = DeviceStatus(record, alarms: alarms[record.name] ?? [], at: now)
            switch format {
            case .json: printJSON([status])
            case .text:
                for line in status.details(at: now) { printLine(line) }
                let certificates = try records.ledger.certificates(of: record.name)
                let revoked = certificates.filter { $0.state == .revoked }.count
                printLine("  certificates  \(certificates.count) issued so far, \(revoked) of them revoked")
                for event in try records.ledger.events(of: record.name, limit: 10) {
                    let serial = event.serial.map { ", serial \($0)" } ?? ""
                    printLine(
                        "  \(describe(time: event.at))  \(event.command) by \(event.operatorName): \(event.what)\(serial)"
                    )
                }
            }
        } catch let error as DeviceDirectoryError {
            throw fail(error.message)
        } catch let error as LedgerError {
            throw fail(error.message)
        }
    }

    private func device(_ destination: String, in records: DeviceDirectory) throws -> Device {
        do throws(HostError) {
            return try records.enrolled(destination)
        } catch {
            throw fail(error)
        }
    }

    /// Says where the CA's list and the ledger differ.
    private func compare(_ ledger: Ledger) {
        guard (try? EmbeddedCA.bundle(directory: access.location.path)) != nil else { return }
        do throws(LedgerError) {
            let found = try ListComparison(directory: access.location.path, ledger: ledger)
            if let remark = found.remark { printWarning(remark) }
        } catch {
            printWarning(error.message)
        }
    }

    // MARK: --probe

    private func devices(in records: DeviceDirectory) throws -> [Device] {
        if let destination { return [try device(destination, in: records)] }
        return try records.all()
    }

    private func visit(_ devices: [Device], _ alarms: [String: [LedgerAlarm]]) async throws {
        let probing = DeviceProbing(
            parallel: parallel ?? 16,
            logins: try ssh.logins(),
            authority: try authority(),
            records: DeviceDirectory(Home.devices),
            trust: OperatorTrust(records: DeviceDirectory(Home.devices), authority: access.location.path),
            warn: HostReport.standard.warn
        )
        var found = await probing(devices)
        for index in found.indices { found[index].alarms = alarms[found[index].device.name] ?? [] }
        let now = WallClock.system.seconds
        switch format {
        case .json: printJSON(found.map { ProbedStatus($0, at: now) })
        case .text where found.isEmpty: printNothingEnrolled()
        case .text: DeviceFindings.table(found, at: now).forEach(printRow)
        }
        let reasons = found.flatMap { $0.attention(at: now).map(\.reason) }
        if let reason = HostError.Reason.common(of: reasons) { throw reason.exitCode }
    }

    /// nil where there is no CA to ask the mesh with.
    private func authority() throws -> LiveCA? {
        do throws(IdentityError) {
            _ = try EmbeddedCA.bundle(directory: access.location.path)
        } catch {
            guard error.code == .notFound else { throw fail(error) }
            return nil
        }
        return try access.loadLive()
    }

    /// A row of a table; what needs somebody in colour.
    private func printRow(_ row: String) {
        let marks = ["ALARM", "EXPIRED", "EXPIRING", "REVOKED", "CERT-REVOKED", "ATTENTION", "attention:"]
        let words = row.split(separator: " ").prefix(2)
        let isBad = words.contains { word in marks.contains { word.hasPrefix($0) } }
        printLine(row, isBad ? Colour.failed : nil)
    }

    private func printNothingEnrolled() {
        printLine("No device is enrolled yet (\(Home.ledger)).")
        if (try? EmbeddedCA.bundle(directory: Home.ca)) == nil {
            printDone("Next: bootstrap ca init --trust-domain TD    make the CA that vouches for identities")
        }
        printDone("Next: bootstrap enroll DEST                  give a machine an identity over SSH")
    }

    private func printJSON(_ devices: [some Encodable]) {
        guard let bytes = try? JSONText.encode(devices, isIndented: true) else { return }
        printLine(String(decoding: bytes, as: UTF8.self))
    }
}
