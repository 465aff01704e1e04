import CLinux
import Glibc
import Platform
import SSHSignal
import Streams

/// Where the processes that share one connection meet: the path of a Unix socket, and what may be done with it.
struct ControlPlace: Sendable {
    let path: String
    /// A process that listens there already is used.
    let joins: Bool
    /// Where nobody listens there, this process does.
    let listens: Bool

    /// Behind a path that stands in a file of ssh's: what listens at the path itself is ssh's own master.
    static let suffix = ".bootstrap"

    /// nil: nothing is shared.
    ///
    /// - Parameters:
    ///   - isMaster: `-M`.
    ///   - isTyped: The path is that of `-S`, which alone makes the first process the master.
    init?(_ configuration: SSHClientConfiguration, isMaster: Bool, isTyped: Bool) {
        guard let path = configuration.controlPath else { return nil }
        self.path = configuration.controlPathIsTyped ? path : path + Self.suffix
        let master = isMaster ? .yes : configuration.controlMaster ?? (isTyped ? .auto : .no)
        joins = master != .yes
        listens = master == .yes || master == .auto
    }

    /// What those who share paths to a host that is no device call it.
    static func peer(_ configuration: SSHClientConfiguration) -> String {
        "\(configuration.user)@\(configuration.namedHost)"
    }

    /// Listens, as the only one: what is left of a process that is gone is removed.
    ///
    /// - Throws: ``StreamError``; ``StreamError/Code/addressInUse`` where another process listens there.
    func listen() throws(StreamError) -> ListeningSocket {
        let address = try SocketAddress(unixPath: path)
        let directory = try checkDirectory()
        // Two that find the same abandoned socket must not remove each other's new one.
        let lock: FileLock
        do throws(FileError) {
            lock = try FileLock(directory: directory, patience: .seconds(5))
        } catch {
            throw StreamError(.system, "the control socket \(path): \(error.message)")
        }
        defer { lock.unlock() }
        var options = ListenerOptions()
        options.unixPermissions = 0o600
        return try ListeningSocket(bind: address, named: "control", options: options)
    }

    /// Whoever can write to its directory can put another socket in the place of ours.
    ///
    /// - Returns: The directory.
    private func checkDirectory() throws(StreamError) -> String {
        let directory: String
        switch path.lastIndex(of: "/") {
        case nil: directory = "."
        case path.startIndex?: directory = "/"
        case let slash?: directory = String(path[..<slash])
        }
        var status = stat()
        guard stat(directory, &status) == 0 else {
            throw StreamError(.system, "the control socket \(path): \(directory): \(String(cString: strerror(errno)))")
        }
        guard status.st_uid == geteuid() || status.st_uid == 0, status.st_mode & 0o022 == 0 else {
            throw StreamError(
                .denied,
                "the control socket \(path): others can write to \(directory), and could put their own in its place. "
                    + "Use a directory that only you can write to: ~/.ssh, or $XDG_RUNTIME_DIR"
            )
        }
        return directory
    }
}
