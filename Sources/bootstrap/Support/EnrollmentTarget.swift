import SSHSignal

/// A machine to enrol, and what it is to be called.
struct EnrollmentTarget: Sendable {
    /// As the user wrote it.
    var text: String
    var destination: Destination
    let name: String
    // What an inventory says of this machine alone; nil: as the command line says.
    var namespace: String?
    var allowPorts: [UInt16]?
    var identityFile: String?
    var jump: String?
    var labels: [String: String]?

    /// - Parameter name: nil takes the host's, as far as a SPIFFE ID can have its characters.
    init(_ text: String, name: String? = nil) throws(EnrollmentError) {
        self.text = text
        do throws(SSHConfigurationError) {
            destination = try Destination(parsing: text)
        } catch {
            throw EnrollmentError(.usage, "\(error)")
        }
        self.name = name ?? Self.name(of: destination.host)
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
    /// - Throws: the exit code, when they make no sense or two have the same name; why was printed.
    static func all(_ destinations: [String], name: String?, inventory file: String?) throws -> [EnrollmentTarget] {
        do throws(EnrollmentError) {
            var targets = try destinations.map { text throws(EnrollmentError) in try EnrollmentTarget(text, name: name)
            }
            if let file { targets += try InventoryFile.targets(file) }
            if name != nil, targets.count > 1 {
                throw EnrollmentError(
                    .usage,
                    "--name is for one device; give names in an inventory, one a line: DEST NAME"
                )
            }
            var seen: [String: EnrollmentTarget] = [:]
            for target in targets {
                if let other = seen.updateValue(target, forKey: target.name) {
                    throw EnrollmentError(
                        .usage,
                        "'\(other.text)' and '\(target.text)' would both be '\(target.name)'; give them names in an inventory"
                    )
                }
            }
            return targets
        } catch {
            throw fail(error.message, error.reason.exitCode)
        }
    }
}
