import CLinux
import Glibc

/// `DEST:PATH`, where DEST may end with a port.
package struct RemoteFile: Equatable {
    package let destination: String
    package let path: String

    /// nil for a local path: without a colon, or with a slash before the first one.
    package init?(_ text: String) {
        var search = text.startIndex
        // The colons of an IPv6 address are inside of brackets.
        if let open = text.firstIndex(of: "["), let close = text[open...].firstIndex(of: "]"),
            !text[..<open].contains("/"), !text[..<open].contains(":")
        {
            search = close
        }
        guard let colon = text[search...].firstIndex(of: ":"), !text[..<colon].contains("/"), colon != text.startIndex
        else { return nil }
        var end = colon
        // A port is a part of the destination: host:2222:path.
        let behind = text.index(after: colon)
        if let next = text[behind...].firstIndex(of: ":"), next != behind,
            text[behind..<next].utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) })
        {
            end = next
        }
        destination = String(text[..<end])
        path = String(text[text.index(after: end)...])
    }
}

/// A path of the far side.
package enum RemotePath {
    /// Both SFTP and the shell start in the home directory, and neither expands `~` in what is quoted.
    package static func withoutHome(_ path: String) -> String {
        path == "~" ? "." : path.hasPrefix("~/") ? String(path.dropFirst(2)) : path
    }
}

/// Permissions of a local file.
package enum FileMode {
    package static func of(_ path: String) -> UInt32 {
        var status = stat()
        return stat(path, &status) == 0 ? UInt32(status.st_mode & 0o777) : 0o600
    }
}
