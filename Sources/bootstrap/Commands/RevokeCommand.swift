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
            revoked device itself is not visited, and gets no new certificate. Where $BOOTSTRAP_HOME/config.yaml names a directory, the list is \
            written there first, and nodes that follow it refuse the device within a second.

              bootstrap revoke dev7 --reason stolen
              bootstrap revoke dev7                     the same where it was unenrolled, or its enrolment was cut
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
        for text in serial where SerialNumber.normalized(text) == nil {
            throw ValidationError(
                "--serial \(text) is not a serial number. One is hexadecimal, such as 5e5d6b073d0f or 5E:5D:6B:07:3D:0F; "
                    + "`bootstrap status DEST` shows a device's"
            )
        }
    }

    /// Everything is asked for and looked at before the first write: all that is named is revoked, or nothing is. The
    /// ledger comes first: whatever keeps the list from being written, who is marked there gets no certificate.
    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        let logins = try ssh.logins()
        let (devices, unrecorded) = try find(in: records)
        let opened = try openAuthority()
        let done = try mark(devices, unrecorded, in: records.ledger)
        let authority: LiveCA
        switch opened {
        case .success(let opened): authority = opened
        case .failure(let error): throw failure(error, done)
        }
        let publisher = RevocationPublisher(authority: authority, ledger: records.ledger)
        let (lists, isComplete) = try publish(publisher, done)
        // First: nodes that follow it know at once.
        let isPublished = await DirectoryPublication.publish(records, authority, output.report)
        if !listOnly { try await deliver(lists, publisher, records, logins) }
        if !isComplete || !isPublished { throw ExitCode.failed }
    }

    /// - Returns: the CA, or what is wrong with it.
    /// - Throws: the exit code, where only the passphrase is: nothing was revoked.
    private func openAuthority() throws -> Result<LiveCA, IdentityError> {
        do throws(IdentityError) {
            return .success(try access.openLive())
        } catch {
            let isUnlocked = access.passphraseFile.map { (try? Passphrase(file: $0)) != nil } ?? true
            guard isUnlocked, ![.passphraseRequired, .wrongPassphrase].contains(error.code) else { throw fail(error) }
            return .failure(error)
        }
    }

    /// - Returns: the devices that were named, and the others whose certificates are valid: unenrolled, of an enrolment
    ///   that was cut, or made by hand.
    private func find(in records: DeviceDirectory) throws -> (devices: [Device], unrecorded: [String]) {
        var (recorded, unrecorded) = ([String](), [String]())
        do throws(HostError) {
            for destination in destinations {
                if try records.enrolledIfAny(destination) == nil, let name = try records.unrecorded(destination) {
                    if !unrecorded.contains(name) { unrecorded.append(name) }
                } else {
                    recorded.append(destination)
                }
            }
        } catch {
            throw fail(error)
        }
        return (try FleetSelection.devices(recorded, all: false, in: records), unrecorded)
    }

    private func mark(_ devices: [Device], _ unrecorded: [String], in ledger: Ledger) throws -> [LedgerRevocation] {
        guard !devices.isEmpty || !unrecorded.isEmpty || !serial.isEmpty else { return [] }
        let order = RevocationOrder(
            devices: devices.map(\.name),
            serials: serial.compactMap(SerialNumber.normalized),
            unrecorded: unrecorded,
            reason: reason,
            by: "revoke"
        )
        let done: [LedgerRevocation]
        do throws(LedgerError) {
            done = try ledger.revoke(order)
        } catch {
            // No certificate has that number, or it is refused by everybody already.
            throw fail(error.message, error.code == .invalid ? .usage : .failed)
        }
        for revocation in done { say(revocation) }
        return done
    }

    private func say(_ revocation: LedgerRevocation) {
        guard let device = revocation.device else {
            for certificate in revocation.revoked {
                output.say("Revoked \(certificate.identity), serial \(certificate.serial)")
                output.tell(Revoked(certificate))
            }
            for certificate in revocation.before {
                let time = certificate.changedAt.map { " at \(describe(time: $0))" } ?? ""
                output.say("\(certificate.identity), serial \(certificate.serial), was revoked\(time)")
            }
            return
        }
        let before = revocation.before.isEmpty ? "" : ", and \(revocation.before.count) before"
        for certificate in revocation.revoked { output.tell(Revoked(certificate)) }
        if revocation.revoked.isEmpty, !revocation.before.isEmpty {
            output.say(
                "\(device.identity) was revoked before, with \(counted(revocation.before.count, "certificate")); nothing new"
            )
        } else {
            output.say("Revoked \(device.identity): \(counted(revocation.revoked.count, "certificate"))\(before)")
        }
        if device.serial == nil, device.notAfter > WallClock.system.seconds {
            printWarning(
                "\(device.name) was enrolled before there was a ledger: its certificate's number is not known, and it is "
                    + "accepted until \(describe(time: device.notAfter))"
            )
        }
    }

    /// There is no list without the CA's key.
    private func failure(_ error: IdentityError, _ done: [LedgerRevocation]) -> ExitCode {
        let certificates = done.flatMap(\.certificates)
        guard !certificates.isEmpty else { return fail(error) }
        if (try? EmbeddedCA.bundle(directory: access.location.path)) == nil,
            let remark = ListComparison.remark(onForeign: certificates)
        {
            return fail(remark)
        }
        let last = certificates.map(\.notAfter).max() ?? 0
        return fail(
            "\(error.message). \(Self.onlyMarked); the last of \(counted(certificates.count, "certificate")) ends "
                + "\(describe(time: last)). Once the CA can be opened: \(Self.remedy)"
        )
    }

    private static let onlyMarked =
        "What was named is marked as revoked in the ledger, and gets no certificate any more; but no list was written, and no device "
        + "refuses it yet"
    private static let remedy = "`bootstrap revoke`, without a name, writes the list and brings it to everybody"

    /// - Returns: the lists in PEM form, and whether everything that was named is on them.
    private func publish(
        _ publisher: RevocationPublisher,
        _ done: [LedgerRevocation]
    ) throws -> (lists: [UInt8], isComplete: Bool) {
        do throws(LedgerError) {
            let lists = try publisher.publish()
            output.say("Wrote \(publisher.path)")
            let foreign = try publisher.comparison().foreign
            guard !done.isEmpty else {
                if let remark = ListComparison.remark(onForeign: foreign) { printWarning(remark) }
                return (lists, true)
            }
            let named = Set(done.flatMap(\.certificates).map(\.name))
            guard let remark = ListComparison.remark(onForeign: foreign.filter { named.contains($0.name) }) else {
                return (lists, true)
            }
            printError("error: \(remark)")
            return (lists, false)
        } catch {
            guard !done.isEmpty else { throw fail(error.message) }
            throw fail("\(error.message). \(Self.onlyMarked). When that is over: \(Self.remedy)")
        }
    }

    private func deliver(
        _ lists: [UInt8],
        _ publisher: RevocationPublisher,
        _ records: DeviceDirectory,
        _ logins: LoginOptions
    ) async throws {
        let delivery = RevocationDelivery(
            parallel: parallel,
            records: records,
            publisher: publisher,
            logins: logins,
            report: output.report
        )
        let failures: HostFailures?
        do throws(DeviceDirectoryError) {
            failures = try await delivery(lists)
        } catch {
            throw fail(error.message)
        }
        guard let failures else { return }
        printError(
            "\(counted(failures.count, "device does", plural: "devices do")) not know yet: run `bootstrap revoke` again when "
                + "\(failures.count == 1 ? "it" : "they") can be reached, or leave it to the next renewal"
        )
        throw failures.reason.exitCode
    }

    private struct Revoked: Encodable {
        var revoked: String
        var serial: String

        init(_ certificate: LedgerCertificate) {
            revoked = certificate.identity
            serial = certificate.serial
        }
    }
}
