import Foundation
import Synchronization

/// A directory of its own for a test, removed with everything in it when the last reference goes.
public final class TemporaryDirectory: Sendable {
    /// Absolute path, mode 0700, no trailing slash. Short enough for Unix socket names (at most 107 bytes with the
    /// name).
    public let path: String

    public init() {
        var template = Array("/tmp/bootstrap-test.XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            preconditionFailure("cannot make a temporary directory: \(String(cString: strerror(errno)))")
        }
        path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    /// The absolute path of `name` in this directory; nothing is created.
    public func path(_ name: String) -> String {
        path + "/" + name
    }

    /// Writes a file with `permissions` and returns its absolute path. Folders on the way are created.
    @discardableResult
    public func write(_ name: String, _ contents: String, permissions: UInt32 = 0o644) throws -> String {
        try write(name, Array(contents.utf8), permissions: permissions)
    }

    /// Writes a file with `permissions` and returns its absolute path. Folders on the way are created.
    @discardableResult
    public func write(_ name: String, _ contents: [UInt8], permissions: UInt32 = 0o644) throws -> String {
        let file = path(name)
        try FileManager.default.createDirectory(
            atPath: (file as NSString).deletingLastPathComponent,
            withIntermediateDirectories: true
        )
        try Data(contents).write(to: URL(fileURLWithPath: file))
        chmod(file, permissions)
        return file
    }

    /// Makes a folder and returns its absolute path.
    @discardableResult
    public func makeDirectory(_ name: String, permissions: UInt32 = 0o755) throws -> String {
        let directory = path(name)
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        chmod(directory, permissions)
        return directory
    }

    /// The text of a file in this directory.
    public func read(_ name: String) throws -> String {
        try String(contentsOfFile: path(name), encoding: .utf8)
    }
}
