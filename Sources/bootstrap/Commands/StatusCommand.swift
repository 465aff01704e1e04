import ArgumentParser
import FoundationEssentials
import MeshIdentity
import SSHSignal

struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "What was enrolled, and how long its certificates last.",
        discussion: """
            Reads the ledger, $BOOTSTRAP_HOME/ledger.sqlite, and opens no connection. Without DEST one line for each device; with \
            DEST all that is known of it, and what happened to it last. A certificate that is past two thirds of its time and was \
            not renewed is marked.
            """
    )

    enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
        case text
        case json
    }

    @Argument(help: ArgumentHelp("A device's name, destination or SPIFFE ID.", valueName: "DEST"))
    var destination: String?

    @Option(help: ArgumentHelp("text, or json: an array of objects.", valueName: "FORMAT"))
    var output = OutputFormat.text

    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        do {
            let now = currentTime()
            guard let destination else {
                let devices = try records.all().map { DeviceStatus($0, at: now) }
                switch output {
                case .json: printJSON(devices)
                case .text where devices.isEmpty: printNothingEnrolled()
                case .text: DeviceStatus.table(devices, at: now).forEach(printLine)
                }
                return
            }
            guard let record = try records.device(for: destination) else {
                throw fail(
                    "'\(destination)' is not enrolled; `bootstrap status` lists what is, "
                        + "`bootstrap enroll \(destination)` changes it"
                )
            }
            let status = DeviceStatus(record, at: now)
            switch output {
            case .json: printJSON([status])
            case .text:
                status.details(at: now).forEach(printLine)
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

    private func printNothingEnrolled() {
        printLine("No device is enrolled yet (\(Home.ledger)).")
        if (try? EmbeddedCA.bundle(directory: Home.ca)) == nil {
            printLine("Next: bootstrap ca init --trust-domain TD    make the CA that vouches for identities")
        }
        printLine("Next: bootstrap enroll DEST                  give a machine an identity over SSH")
    }

    private func printJSON(_ devices: [DeviceStatus]) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        guard let bytes = try? encoder.encode(devices) else { return }
        printLine(String(decoding: bytes, as: UTF8.self))
    }
}
