import MeshIdentity
import Platform
package import SSHSignal
import YAML

/// A file with machines to enrol: YAML where its name says so (`.yaml`, `.yml`), else one destination a line.
package enum InventoryFile {
    package static func targets(_ file: String) throws(HostError) -> [EnrollmentTarget] {
        let bytes: [UInt8]
        do throws(IdentityError) {
            bytes = try fileWork(AtomicFile.read(file, limit: 64 << 20))
        } catch {
            throw HostError(.usage, error.message)
        }
        guard let text = String(validating: LocalFile.withoutByteOrderMark(bytes), as: UTF8.self) else {
            throw HostError(.usage, "\(file) is not UTF-8 text: save it as UTF-8")
        }
        return file.hasSuffix(".yaml") || file.hasSuffix(".yml") ? try yaml(text, file) : try plain(text, file)
    }

    private static func yaml(_ text: String, _ file: String) throws(HostError) -> [EnrollmentTarget] {
        let inventory: Inventory
        do throws(ConfigurationError) {
            inventory = try Inventory.parse(text, file: file)
        } catch {
            throw HostError(.usage, error.description)
        }
        var targets: [EnrollmentTarget] = []
        for host in inventory.hosts {
            do throws(HostError) {
                targets.append(try EnrollmentTarget(host))
            } catch {
                throw HostError(.usage, "\(file):\(host.position.line): \(error.message)")
            }
        }
        return targets
    }

    /// One destination a line, optionally followed by a name; `#` begins a comment.
    private static func plain(_ text: String, _ file: String) throws(HostError) -> [EnrollmentTarget] {
        var targets: [EnrollmentTarget] = []
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let words = line.prefix { $0 != "#" }.split(whereSeparator: \.isWhitespace).map(String.init)
            guard let destination = words.first else { continue }
            guard words.count <= 2 else {
                throw HostError(
                    .usage,
                    "\(file):\(index + 1): a destination and a name are all a line has; a file that ends in .yaml can say more"
                )
            }
            do throws(HostError) {
                targets.append(try EnrollmentTarget(destination, name: words.count == 2 ? words[1] : nil))
            } catch {
                throw HostError(.usage, "\(file):\(index + 1): \(error.message)")
            }
        }
        return targets
    }
}

extension EnrollmentTarget {
    fileprivate init(_ host: Inventory.Host) throws(HostError) {
        try self.init(host.host, name: host.name)
        namespace = host.namespace
        allowPorts = host.allowPorts
        labels = host.labels
        identityFile = host.identityFile
        jump = host.jump
        // What stands in the destination itself is nearer.
        if destination.user == nil, let user = host.user {
            do throws(SSHConfigurationError) {
                try Destination.check(user: user)
            } catch {
                throw HostError(.usage, "user \(error)")
            }
            destination.user = user
        }
        if destination.port == nil { destination.port = host.port }
        text = destination.description
    }

    /// The SSH flags for this machine: those of the command line, unless the inventory says something else.
    package func arguments(_ common: SSHArguments) -> SSHArguments {
        var arguments = common == SSHArguments() ? recorded ?? common : common
        if let identityFile { arguments.identityFiles = [identityFile] }
        if let jump { arguments.jump = jump }
        return arguments
    }
}
