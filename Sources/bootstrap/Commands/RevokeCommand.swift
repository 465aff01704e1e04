import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal
import Streams

struct RevokeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke",
        abstract: "Have everybody refuse a device from now on, and cut what it has open.",
        discussion: """
            Every certificate that the device has goes on the CA's revocation list (ca-crl.pem beside the CA's certificate), and the \
            list goes to every other device over SSH, at once. Each refuses the revoked device at its next handshake and cuts its \
            streams. A device that cannot be reached gets the list with its next renewal, or when this command runs again. The \
            revoked device itself is not visited, and gets no new certificate.

              bootstrap revoke dev7 --reason stolen
              bootstrap revoke --serial 6f3c…           a certificate that `ca issue` or `ca sign` made
              bootstrap revoke                          nothing new: brings the list to every device again
            """
    )

    @Argument(
        help: ArgumentHelp("Devices: names, destinations or SPIFFE IDs.", valueName: "DEST"),
        completion: .devices
    )
    var destinations: [String] = []

    @Option(help: ArgumentHelp("One certificate, by its serial number. May be repeated.", valueName: "HEX"))
    var serial: [String] = []

    @Option(help: ArgumentHelp("Why, for the ledger.", valueName: "TEXT"))
    var reason = "revoked by the operator"

    @Flag(help: "Write the list and bring it to nobody: they get it with their next renewal.")
    var listOnly = false

    @Option(help: ArgumentHelp("How many devices at a time.", valueName: "N"))
    var parallel = 16

    @Option(
        help: ArgumentHelp(
            "text, or json: an object for each revoked certificate, and one for each device that was told, on stdout.",
            valueName: "FORMAT"
        )
    )
    var output = ResultFormat.text

    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    func validate() throws {
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
        for number in serial {
            guard !number.isEmpty, number.allSatisfy({ $0.isHexDigit || $0 == ":" }) else {
                throw ValidationError("--serial \(number): is no number in hexadecimal")
            }
        }
    }

    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        let publisher = RevocationPublisher(authority: try access.loadLive(), ledger: records.ledger)
        let devices = try FleetSelection.devices(destinations, all: false, in: records)
        let lists: [UInt8]
        do throws(LedgerError) {
            try publisher.takeOverPresent()
            for device in devices { try revoke(device, in: records.ledger) }
            for number in serial { try revoke(serial: number, in: records.ledger) }
            lists = try publisher.publish()
        } catch {
            throw fail(error.message)
        }
        output.say("Wrote \(publisher.path)")
        guard !listOnly else { return }
        let delivery = RevocationDelivery(
            parallel: parallel,
            records: records,
            publisher: publisher,
            logins: try ssh.logins(),
            report: output.report
        )
        let failures: HostFailures?
        do throws(DeviceDirectoryError) {
            failures = try await delivery(lists)
        } catch {
            throw fail(error.message)
        }
        if let failures {
            printError(
                "\(failures.count) devices do not know yet: run `bootstrap revoke` again when they can be reached, "
                    + "or leave it to their next renewal"
            )
            throw failures.reason.exitCode
        }
    }

    private func revoke(_ device: Device, in ledger: Ledger) throws(LedgerError) {
        let revoked = try ledger.revokeDevice(named: device.name, reason: reason, by: "revoke")
        output.say("Revoked \(device.identity): \(revoked.count) certificates")
        for certificate in revoked { output.tell(Revocation("\(certificate.identity)", certificate.serial)) }
        let now = WallClock.system.seconds
        if !revoked.contains(where: { $0.serial == device.serial }), device.serial == nil, device.notAfter > now {
            printError(
                "warning: \(device.name) was enrolled before there was a ledger: its certificate's number is not known, and it is "
                    + "accepted until \(describe(time: device.notAfter))"
            )
        }
    }

    private func revoke(serial text: String, in ledger: Ledger) throws(LedgerError) {
        // As `openssl x509 -serial` and certificate viewers show it, too.
        let number = text.filter { $0 != ":" }.lowercased()
        let revoked = try ledger.revokeCertificate(serial: number, reason: reason, by: "revoke")
        guard !revoked.isEmpty else {
            throw LedgerError(
                .invalid,
                "no certificate with the serial number \(number) is valid and not yet revoked; "
                    + "`bootstrap status DEST` shows a device's"
            )
        }
        for certificate in revoked {
            output.say("Revoked \(certificate.identity), serial \(certificate.serial)")
            output.tell(Revocation("\(certificate.identity)", certificate.serial))
        }
    }

    private struct Revocation: Encodable {
        var revoked: String
        var serial: String

        init(_ identity: String, _ serial: String) {
            revoked = identity
            self.serial = serial
        }
    }
}
