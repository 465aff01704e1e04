import CLinux
import Foundation

/// Descriptors that a child which another test starts at the same time does not inherit: what is closed here would stay
/// open there.
public enum CloseOnExec {
    public static func pipe() throws -> (reader: Int32, writer: Int32) {
        var ends: [Int32] = [-1, -1]
        guard clinux_pipe(&ends) == 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EMFILE) }
        return (ends[0], ends[1])
    }

    /// As accept(2); the connection blocks.
    public static func accept(_ listener: Int32) -> Int32 {
        var peer = sockaddr_storage()
        let connection = clinux_accept(listener, &peer)
        if connection >= 0 { _ = fcntl(connection, F_SETFL, fcntl(connection, F_GETFL) & ~O_NONBLOCK) }
        return connection
    }
}
