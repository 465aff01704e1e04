import ArgumentParser
import Fleet

/// Devices of the ledger, by name or all of them.
struct FleetSelection: ParsableArguments {
    @Argument(help: ArgumentHelp("Devices: names, destinations or SPIFFE IDs.", valueName: "DEST"))
    var destinations: [String] = []

    @Flag(help: "Every device that is not revoked.")
    var all = false

    @Option(help: ArgumentHelp("How many devices at a time.", valueName: "N"))
    var parallel = 16

    func validate() throws {
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
    }

    /// - Throws: the exit code; why was printed.
    func devices(in records: DeviceDirectory) throws -> [Device] {
        try Self.devices(destinations, all: all, in: records)
    }

    /// - Throws: the exit code; why was printed.
    static func devices(_ destinations: [String], all: Bool, in records: DeviceDirectory) throws -> [Device] {
        do throws(DeviceDirectoryError) {
            var found: [Device] = []
            for destination in destinations {
                guard let record = try records.device(for: destination) else {
                    throw DeviceDirectoryError(
                        message: "'\(destination)' is not enrolled; `bootstrap status` lists what is"
                    )
                }
                if !found.contains(where: { $0.name == record.name }) { found.append(record) }
            }
            if all {
                let names = Set(found.map(\.name))
                found += try records.all().filter { $0.revokedAt == nil && !names.contains($0.name) }
            }
            return found
        } catch {
            throw fail(error.message)
        }
    }
}
