import CLinux
import Glibc
package import Streams

/// A node that starts takes the listening sockets over from the one that runs: no connection attempt is refused in
/// between, because the sockets, and the connections that wait in their queues, never close.
///
/// ```
///   new process                            running process
///     connect DIR/takeover.sock ────────→    same user? nobody else at it?
///     ←──────────────────────────────────    "listener NAME" with the socket (SCM_RIGHTS), for each; "end"
///     starts, accepts on them
///     "ready" ──────────────────────────→    stops to accept, lets the path go
///     ←──────────────────────────────────    "released"
///     listens on DIR/takeover.sock           GOAWAY; ends with its last stream
/// ```
///
/// Until "ready" the running process accepts as before; a new one that fails to start changes nothing.
package struct Takeover: Sendable {
    /// What the running process handed over.
    package let sockets: InheritedSockets
    /// Who it is.
    package var process: Int32 { receiver.peer.process }
    private let receiver: ListeningSocketReceiver

    /// How long the running process may take for an answer.
    private static let patience: Duration = .seconds(10)

    /// Where a node with this runtime directory can be taken over.
    package static func path(in directory: String) -> String { "\(directory)/takeover.sock" }

    /// Asks the node that runs with this runtime directory for its sockets; nil when none runs. Blocks: where another
    /// process takes it over right now, or it has just done so itself, until that is done.
    ///
    /// - Throws: ``Streams/StreamError``: `limit` when that takes too long.
    package static func begin(in directory: String) throws(StreamError) -> Takeover? {
        let deadline = ContinuousClock.now + patience
        while true {
            do throws(StreamError) {
                return try ask(in: directory)
            } catch {
                guard error.code == .limit, ContinuousClock.now < deadline else { throw error }
                usleep(100_000)
            }
        }
    }

    private static func ask(in directory: String) throws(StreamError) -> Takeover? {
        guard let receiver = try ListeningSocketReceiver(path: path(in: directory), timeout: patience) else {
            return nil
        }
        var sockets: [ListeningSocket] = []
        while let (line, socket) = try receiver.receive() {
            if let socket { sockets.append(socket) }
            if line == "end" { return Takeover(sockets: InheritedSockets(sockets), receiver: receiver) }
        }
        throw StreamError(
            .limit,
            "process \(receiver.peer.process) does not hand over its listeners: another process takes them over right now, "
                + "or it is ending. Try again in a moment"
        )
    }

    /// Tells the running process to stop accepting, and waits until it has let ``path(in:)`` go. Blocks.
    ///
    /// - Throws: ``Streams/StreamError`` when it ended meanwhile. The sockets are this process's all the same.
    package func finish() throws(StreamError) {
        try receiver.send("ready\n")
        while let (line, _) = try receiver.receive() {
            if line == "released" { return }
        }
    }

    /// Makes the runtime directory where it is missing, for this user only.
    ///
    /// - Throws: ``Streams/StreamError`` when that cannot be done, or others may write to it.
    package static func prepare(_ directory: String) throws(StreamError) {
        if mkdir(directory, 0o700) != 0, errno != EEXIST { throw .system(errno, "making the directory \(directory)") }
        var status = stat()
        guard stat(directory, &status) == 0 else { throw .system(errno, directory) }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw StreamError(.badRequest, "\(directory) is not a directory")
        }
        guard status.st_uid == geteuid() || status.st_uid == 0, status.st_mode & 0o022 == 0 else {
            throw StreamError(
                .denied,
                "others may write to \(directory), and could pretend to be this node: `chmod go-w` it, or choose another"
            )
        }
    }
}
