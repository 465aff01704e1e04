import ArgumentParser
import SSHSignal
import Streams

/// Brings revocation lists to every device over SSH, some at a time.
struct RevocationDelivery: Sendable {
    /// How many devices at a time.
    var parallel: Int
    var records: DeviceDirectory
    /// How to log in to a device.
    var login: @Sendable (DeviceRecord) throws(EnrollmentError) -> SSHLogin
    /// What came of it, for people.
    var say: @Sendable (String) -> Void = { printLine($0) }
    var warn: @Sendable (String) -> Void = { printError("warning: \($0)") }
    /// Why a device could not be told.
    var complain: @Sendable (String) -> Void = { printError("error: \($0)") }

    /// - Parameter lists: In PEM form.
    /// - Returns: how many could not be told, and the exit code for them; nil when everybody knows.
    func callAsFunction(_ lists: [UInt8]) async throws(DeviceDirectoryError) -> (failed: Int, code: ExitCode)? {
        let others = try records.all().filter(\.isRenewable)
        let silent = others.filter { ($0.keyOrigin ?? .device) != .device }.map(\.name)
        if !silent.isEmpty {
            warn("without an agent, nobody there reads a revocation list: \(silent.joined(separator: ", "))")
        }
        var run = FleetRun(parallel: parallel, done: "told")
        (run.say, run.complain) = (say, complain)
        return await run(others.filter { ($0.keyOrigin ?? .device) == .device }) {
            [login, warn] (device, loop) async throws(EnrollmentError) in
            let visit = DeviceVisit(device) { warn($0) }
            let isNew = try await visit.deliver(revocationLists: lists, try login(device), on: loop)
            return isNew ? "told" : "knew already"
        }
    }
}
