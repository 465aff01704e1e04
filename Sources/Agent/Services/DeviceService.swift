import Glibc
import MeshIdentity
import Platform
import SSHSignal

extension ServiceKind {
    /// In the order in which they are tried.
    static let preferred: [ServiceKind] = [.systemd, .systemdUser, .openrc, .procd, .cron]
}

/// What a service runs, and how it is called: one for each installation, so that several on a machine do not meet.
struct ServiceDescription: Hashable {
    /// `bootstrap-node`, for the usual places; else with the beginning of the root's hash behind it.
    let name: String
    /// Absolute: `ROOT/current/bootstrap`.
    let program: String
    /// Absolute.
    let state: String

    var arguments: [String] { [program, "supervise", "--state", state] }

    /// - Parameter state: absolute; its parent is what the installation's name is made of.
    init(program: String, state: String) {
        self.program = program
        self.state = state
        name = ServiceName(state: state).description
    }

    /// Unit files, crontabs and scripts each quote in their own way; a path that needs none is the same in all of them.
    var isPlain: Bool {
        (program + state).utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"):
                true
            default: "/._+-@:,".utf8.contains(byte)
            }
        }
    }
}

/// One way to have a service on this machine. What it does is done already, or done whole, or undone.
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
