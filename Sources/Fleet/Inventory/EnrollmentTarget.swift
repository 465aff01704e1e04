package import SSHSignal

/// A machine to enrol, and what it is to be called.
package struct EnrollmentTarget: Sendable {
    /// As the user wrote it.
    package var text: String
    package var destination: Destination
    package let name: String
    // What an inventory says of this machine alone; nil: as the command line says.
    package var namespace: String?
    package var allowPorts: [UInt16]?
    package var identityFile: String?
    package var jump: String?
    package var labels: [String: String]?
    /// How the device was logged in to before: where the command line says nothing else.
    package var recorded: SSHArguments?

    /// - Parameter name: nil takes the host's, as far as a SPIFFE ID can have its characters.
    package init(_ text: String, name: String? = nil) throws(HostError) {
        self.text = text
        do throws(SSHConfigurationError) {
            destination = try Destination(parsing: text)
        } catch {
            throw HostError(.usage, "\(error)")
        }
        if let name { try Self.check(name) }
        self.name = name ?? Self.name(of: destination.host)
    }

    /// A name is for the ledger, and a part of the identity: not everything can be one.
    private static func check(_ name: String) throws(HostError) {
        do throws(DeviceDirectoryError) {
            try DeviceDirectory.check(name: name)
        } catch {
            throw HostError(.usage, error.message)
        }
    }

    /// A device that is enrolled already.
    package init(_ device: Device) throws(DeviceDirectoryError) {
        do throws(HostError) {
            try self.init(device.destination, name: device.name)
        } catch {
            throw DeviceDirectoryError(message: "the record of \(device.name): \(error.message)")
        }
        recorded = device.ssh.arguments
    }

    /// Letters, digits, `-`, `_` and `.` stay; the rest becomes `-`.
    private static func name(of host: String) -> String {
        let kept = host.lowercased().unicodeScalars.map { scalar -> Character in
            switch scalar {
            case "a"..."z", "0"..."9", "-", "_", ".": Character(scalar)
            default: "-"
            }
        }
        let trimmed = String(kept).drop { $0 == "." || $0 == "-" }
        return trimmed.isEmpty ? "device" : String(trimmed)
    }

    /// The destinations of the command line and of the inventory, each with its name.
    ///
    /// - Throws: when they make no sense, or two have the same name.
    package static func all(
        _ destinations: [String],
        name: String?,
        inventory file: String?,
        recorded records: DeviceDirectory? = nil
    ) throws(HostError) -> [EnrollmentTarget] {
        var targets = try destinations.map { text throws(HostError) in
            do throws(DeviceDirectoryError) {
                // Of an enrolled device, who logs in to it and how is known, as for every other command.
                if name == nil, let device = try records?.device(for: text) {
                    return try EnrollmentTarget(device)
                }
            } catch {
                throw HostError(error.reason, error.message)
            }
            return try EnrollmentTarget(text, name: name)
        }
        if let file { targets += try InventoryFile.targets(file) }
        if name != nil, targets.count > 1 {
            throw HostError(.usage, "--name is for one device; give names in an inventory, one a line: DEST NAME")
        }
        var seen: [String: EnrollmentTarget] = [:]
        for target in targets {
            // What was made of the host's may be too long.
            try check(target.name)
            if let other = seen.updateValue(target, forKey: target.name) {
                throw HostError(
                    .usage,
                    "'\(other.text)' and '\(target.text)' would both be '\(target.name)'; give them names in an inventory"
                )
            }
        }
        return targets
    }
}
