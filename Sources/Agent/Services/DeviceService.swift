import Glibc
import MeshIdentity
import Platform
import SSHSignal

/// One way to have a service on this machine. What it does is done already, or done whole, or undone. Which there are:
/// ``SystemdService``, ``OpenRCService``, ``ProcdService``, ``CronService``; `ServiceKind.service(_:)` picks.
protocol DeviceService {
    var kind: ServiceKind { get }
    /// Why it cannot be had here; nil when it can.
    var obstacle: String? { get }
    /// Where its definition is, for people.
    var place: String { get }
    /// Writes its definition and has it started with the machine.
    ///
    /// - Returns: whether anything changed, and warnings.
    func install() throws(DeviceProgram.Failure) -> (changed: Bool, warnings: [String])
    /// Starts the supervisor, which does not run.
    func start() throws(DeviceProgram.Failure)
    /// Ends the supervisor and its node, and takes the definition away. What is not there is no error.
    func remove() throws(DeviceProgram.Failure)
}

extension DeviceService {
    /// Writes a definition; false when it was there already.
    func write(_ text: String, to path: String, mode: UInt32 = 0o644) throws(DeviceProgram.Failure) -> Bool {
        if let present = try? LocalFile.read(path), present == Array(text.utf8) { return false }
        do {
            let directory = AtomicFile.split(path).directory
            try AtomicFile.createDirectory(directory)
            try AtomicFile.write(Array(text.utf8), to: path, mode: mode)
            return true
        } catch {
            throw DeviceProgram.Failure(message: "\(error)")
        }
    }
}
