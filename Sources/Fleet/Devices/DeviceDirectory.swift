import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// A record that cannot be read, written or found.
package struct DeviceDirectoryError: Error, Hashable, Sendable, CustomStringConvertible {
    package var message: String
    /// What kind of failure it is for the user.
    package var reason = HostError.Reason.failed
    package var description: String { message }

    package init(message: String) { self.message = message }
}

/// The enrolled devices, as the ledger has them.
package struct DeviceDirectory: Sendable {
    package let ledger: Ledger
    /// Where earlier releases had one `NAME.json` for each device. They are taken over once, and left as they are.
    private let files: String

    /// - Parameter path: `$BOOTSTRAP_HOME/devices`: the ledger is the file `ledger.sqlite` beside it.
    package init(_ path: String) {
        files = path
        ledger = Ledger("\(AtomicFile.split(path).directory)/ledger.sqlite")
    }

    /// Adds a device or replaces what is known of it, and has its earlier certificates count as superseded.
    ///
    /// - Parameters:
    ///   - record: What is known of it now.
    ///   - claim: What the enrolment stands on; nothing is recorded where it does not hold any more. nil: whatever is
    ///     there is replaced, but for a revocation.
    ///   - command: What did it, for the ledger's events.
    ///   - what: The same.
    ///   - reason: Why the earlier certificates are to be revoked instead; nil where they are not. Asked once, in the
    ///     transaction, with whether an alarm stands by now, which is settled with this.
    /// - Returns: The record, as it is now.
    @discardableResult
    package func save(
        _ record: Device,
        on claim: DeviceClaim? = nil,
        by command: String = "enroll",
        _ what: String = "enrolled",
        revokingEarlier reason: (_ isAlarmed: Bool) -> String? = { _ in nil }
    ) throws(DeviceDirectoryError) -> Device {
        try Self.check(name: record.name)
        do {
            try importFiles()
            let row = try ledger.save(
                try record.forLedger,
                on: claim,
                by: command,
                what,
                revokingEarlier: reason
            ) { (present, row) throws(LedgerError) in
                // What was set up in its sshd is no matter of its enrolment: the same machine keeps it.
                guard claim != nil, present.hostKey == row.hostKey else { return }
                var merged = record
                merged.sshServer = try Device(present, ledger: ledger.path).sshServer
                row = try merged.row()
            }
            return try Device(row, ledger: ledger.path)
        } catch {
            throw DeviceDirectoryError(message: "the device \(record.name) cannot be recorded: \(error)")
        }
    }

    /// Changes what is known of a device. What the ledger has by then is changed, whatever was read before.
    ///
    /// - Parameters:
    ///   - name: The device's.
    ///   - claim: What the change stands on; nothing is changed where it does not hold any more.
    ///   - hostKey: Of the machine that the change is about; nothing is changed where another one has the name by now.
    ///     nil: any.
    ///   - command: What did it, for the ledger's events.
    ///   - what: The same.
    ///   - reason: Where the change brings another certificate, why the earlier ones are to be revoked; nil where they
    ///     are not. Asked once, in the transaction, with whether an alarm stands by now, which is settled with this.
    ///   - change: Of the record; runs within the ledger's transaction.
    /// - Returns: The record, as it is now.
    @discardableResult
    package func update(
        _ name: String,
        on claim: DeviceClaim? = nil,
        of hostKey: Device.HostKeyRecord? = nil,
        by command: String,
        _ what: String,
        revokingEarlier reason: (_ isAlarmed: Bool) -> String? = { _ in nil },
        _ change: (inout Device) -> Void
    ) throws(DeviceDirectoryError) -> Device {
        do {
            try importFiles()
            let row = try ledger.updateDevice(
                named: name,
                on: claim,
                by: command,
                what,
                revokingEarlier: reason
            ) { (row) throws(LedgerError) in
                var record = try Device(row, ledger: ledger.path)
                guard hostKey == nil || record.hostKey == hostKey else {
                    throw LedgerError(.conflict, "another machine was enrolled under this name meanwhile")
                }
                change(&record)
                row = try record.row()
            }
            return try Device(row, ledger: ledger.path)
        } catch {
            throw DeviceDirectoryError(message: "the device \(name) cannot be recorded: \(error)")
        }
    }

    /// Tries whether something can be recorded, before something is done elsewhere that is to be.
    ///
    /// - Parameter consequence: What it means that nothing can be, for people.
    package func requireWritable(_ consequence: String) throws(HostError) {
        do throws(LedgerError) {
            try importFiles()
            try ledger.checkWritable()
        } catch {
            throw HostError(.failed, "\(consequence), since it could not be recorded: \(error.message)")
        }
    }

    /// The device of a name as it is now, and what a conversation about it stands on.
    package func claim(_ name: String) throws(DeviceDirectoryError) -> (device: Device?, claim: DeviceClaim) {
        try Self.check(name: name)
        do throws(LedgerError) {
            try importFiles()
            let claim = try ledger.claim(name)
            return (try claim.device.map { (row) throws(LedgerError) in try Device(row, ledger: ledger.path) }, claim)
        } catch {
            throw DeviceDirectoryError(message: error.message)
        }
    }

    /// nil when there is no device of this name.
    package func record(named name: String) throws(DeviceDirectoryError) -> Device? {
        try Self.check(name: name)
        return try reading { () throws(LedgerError) in
            try ledger.device(named: name).map { [$0] } ?? []
        }.first
    }

    /// The device that `text` means: its name, the destination it was enrolled with, or its SPIFFE ID. nil when there
    /// is none.
    ///
    /// - Throws: an error when several devices were enrolled with that destination.
    package func device(for text: String) throws(DeviceDirectoryError) -> Device? {
        if (try? Self.check(name: text)) != nil, let record = try record(named: text) { return record }
        let matches = try reading { () throws(LedgerError) in try ledger.devices(matching: text) }
        guard matches.count <= 1 else {
            var error = DeviceDirectoryError(
                message:
                    "'\(text)' is several devices: \(matches.map(\.name).joined(separator: ", ")); use one of these names"
            )
            error.reason = .usage
            throw error
        }
        return matches.first
    }

    /// Every record, ordered by name.
    package func all() throws(DeviceDirectoryError) -> [Device] {
        try reading { () throws(LedgerError) in try ledger.devices() }
    }

    /// Those that have shown this SSH host key, ordered by name.
    ///
    /// - Parameter fingerprint: `SHA256:…`.
    package func devices(withHostKey fingerprint: String) throws(DeviceDirectoryError) -> [Device] {
        try reading { () throws(LedgerError) in try ledger.devices(withHostKey: fingerprint) }
    }

    /// Who is known by the keys of a machine, or by the identity that it has, under other names.
    package func machines(
        like machine: MetMachine,
        besides name: String
    ) throws(DeviceDirectoryError) -> Set<KnownMachine> {
        do throws(LedgerError) {
            try importFiles()
            return try ledger.machines(like: machine, besides: name)
        } catch {
            throw DeviceDirectoryError(message: error.message)
        }
    }

    /// Forgets a device; nothing happens when there is none of this name. The ledger goes on to know its certificates,
    /// and that it was revoked.
    ///
    /// - Parameters:
    ///   - name: The device's.
    ///   - seen: What was known of it when its removal began: a machine that was enrolled under the name since then
    ///     stays.
    ///   - command: What does it, for the ledger's events.
    /// - Returns: Whether it was revoked.
    @discardableResult
    package func remove(
        named name: String,
        ifStill seen: Device? = nil,
        by command: String = "unenroll"
    ) throws(DeviceDirectoryError) -> Bool {
        try Self.check(name: name)
        do throws(LedgerError) {
            try importFiles()
            let seen = try seen.map { (seen) throws(LedgerError) in try seen.row() }
            return try ledger.removeDevice(named: name, ifStill: seen, by: command)
        } catch {
            throw DeviceDirectoryError(message: error.message)
        }
    }

    private func reading(
        _ body: () throws(LedgerError) -> [LedgerDevice]
    ) throws(DeviceDirectoryError) -> [Device] {
        do throws(LedgerError) {
            try importFiles()
            var records: [Device] = []
            for device in try body() { records.append(try Device(device, ledger: ledger.path)) }
            return records
        } catch {
            throw DeviceDirectoryError(message: error.message)
        }
    }

    // MARK: Records of earlier releases

    private func importFiles() throws(LedgerError) {
        guard access(files, F_OK) == 0 else { return }
        try ledger.importOnce(from: "devices") { () throws(LedgerError) in
            var devices: [LedgerDevice] = []
            for file in try fileNames() {
                let bytes: [UInt8]
                do throws(IdentityError) {
                    bytes = try fileWork(AtomicFile.read(file))
                } catch {
                    throw LedgerError(.file, error.message)
                }
                do {
                    devices.append(try JSONText.decode(Device.self, from: bytes).forLedger)
                } catch {
                    throw LedgerError(.invalid, "\(file) is damaged: \(error); remove it and enroll the device again")
                }
            }
            return devices
        }
    }

    private func fileNames() throws(LedgerError) -> [String] {
        guard let directory = opendir(files) else {
            throw LedgerError(.file, "\(files) cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            // A dot file is one that was being written.
            if name.hasSuffix(".json"), !name.hasPrefix(".") { names.append("\(files)/\(name)") }
        }
        return names.sorted()
    }

    /// The characters of a SPIFFE path segment, which a device's name is.
    static func check(name: String) throws(DeviceDirectoryError) {
        let isValid =
            !name.isEmpty && name.utf8.count <= 200 && !name.hasPrefix(".")
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
        guard isValid else {
            throw DeviceDirectoryError(
                message:
                    "'\(Printable.clean(name, limit: 80))' is no device name: letters, digits, '-', '_' and '.' are allowed"
            )
        }
    }
}

extension Device {
    /// The record, and beside it what the ledger looks for.
    fileprivate var forLedger: LedgerDevice {
        get throws {
            LedgerDevice(
                name: name,
                identity: identity.description,
                destination: destination,
                hostKeyAlgorithm: hostKey.algorithm,
                hostKey: hostKey.fingerprint,
                keyOrigin: (keyOrigin ?? .device).rawValue,
                agent: agent.release,
                serial: serial,
                notAfter: notAfter,
                enrolledAt: enrolledAt,
                renewedAt: renewedAt,
                revokedAt: revokedAt,
                revocationReason: revocationReason,
                certificateRevokedAt: certificateRevokedAt,
                record: String(decoding: try JSONText.encode(self), as: UTF8.self)
            )
        }
    }

    fileprivate func row() throws(LedgerError) -> LedgerDevice {
        do {
            return try forLedger
        } catch {
            throw LedgerError(.invalid, "\(error)")
        }
    }

    fileprivate init(_ device: LedgerDevice, ledger: String) throws(LedgerError) {
        do {
            self = try JSONText.decode(Device.self, from: device.record.utf8)
        } catch {
            throw LedgerError(
                .invalid,
                "the record of \(device.name) in \(ledger) cannot be read: \(error); a later release may have written it: "
                    + "use that release, or enroll the device again"
            )
        }
        // What the ledger itself changes.
        serial = device.serial
        notAfter = device.notAfter
        renewedAt = device.renewedAt
        revokedAt = device.revokedAt
        revocationReason = device.revocationReason
        certificateRevokedAt = device.certificateRevokedAt
    }
}
