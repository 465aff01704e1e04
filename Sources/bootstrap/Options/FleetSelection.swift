import ArgumentParser
import Fleet
import Glibc

/// Devices of the ledger, by name or all of them.
struct FleetSelection: ParsableArguments {
    @Argument(
        help: ArgumentHelp("Devices: names, destinations or SPIFFE IDs.", valueName: "DEST"),
        completion: .devices
    )
    var destinations: [String] = []

    @Flag(help: "Every device that is not revoked.")
    var all = false

    @Option(
        help: ArgumentHelp(
            "Every device with this label, which its inventory has given to it. Of several all must hold.",
            valueName: "KEY=VALUE"
        )
    )
    var label: [LabelArgument] = []

    var isEmpty: Bool { destinations.isEmpty && !all && label.isEmpty }

    @Option(help: ArgumentHelp("How many devices at a time.", valueName: "N"))
    var parallel = 16

    func validate() throws {
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
    }

    /// - Throws: the exit code; why was printed.
    func devices(in records: DeviceDirectory) throws -> [Device] {
        try Self.devices(destinations, all: all, labels: label, in: records)
    }

    /// - Throws: the exit code; why was printed.
    static func devices(
        _ destinations: [String],
        all: Bool,
        labels: [LabelArgument] = [],
        in records: DeviceDirectory
    ) throws -> [Device] {
        var found: [Device] = []
        do throws(HostError) {
            for destination in destinations {
                let record = try records.enrolled(destination)
                if !found.contains(where: { $0.name == record.name }) { found.append(record) }
            }
        } catch {
            throw fail(error)
        }
        do throws(DeviceDirectoryError) {
            if all || !labels.isEmpty {
                let names = Set(found.map(\.name))
                found += try records.all().filter { device in
                    device.revokedAt == nil && !names.contains(device.name)
                        && labels.allSatisfy { $0.holds(for: device.labels) }
                }
            }
            return found
        } catch {
            throw fail(error.message)
        }
    }
}

/// `KEY=VALUE`, as the labels of inventories have it.
struct LabelArgument: ExpressibleByArgument, Hashable {
    let key: String
    let value: String

    init?(argument: String) {
        guard let mark = argument.firstIndex(of: "="), mark != argument.startIndex else { return nil }
        key = String(argument[..<mark])
        value = String(argument[argument.index(after: mark)...])
    }

    func holds(for labels: [String: String]?) -> Bool { labels?[key] == value }
}

extension CompletionKind {
    /// The names of enrolled devices.
    static var devices: CompletionKind {
        .custom { (_: [String], _: Int, prefix: String) -> [String] in
            let names = (try? DeviceDirectory(Home.devices).all().map(\.name)) ?? []
            return names.filter { $0.hasPrefix(prefix) }
        }
    }

    /// Files of this machine, and `NAME:` for those of a device.
    static var filesAndDevices: CompletionKind {
        .custom { (_: [String], _: Int, prefix: String) -> [String] in
            let names = (try? DeviceDirectory(Home.devices).all().map(\.name)) ?? []
            return names.map { $0 + ":" }.filter { $0.hasPrefix(prefix) } + Self.files(prefix)
        }
    }

    /// The files whose path begins so; directories end with a slash.
    private static func files(_ prefix: String) -> [String] {
        let slash = prefix.lastIndex(of: "/").map { prefix.index(after: $0) } ?? prefix.startIndex
        let (directory, start) = (String(prefix[..<slash]), prefix[slash...])
        guard let stream = opendir(directory.isEmpty ? "." : directory) else { return [] }
        defer { closedir(stream) }
        var found: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            guard name.hasPrefix(start), start.hasPrefix(".") || !name.hasPrefix(".") else { continue }
            // Nothing but a directory can be followed by a slash.
            let isDirectory = access(directory + name + "/", F_OK) == 0
            found.append(directory + name + (isDirectory ? "/" : ""))
        }
        return found.sorted()
    }
}
