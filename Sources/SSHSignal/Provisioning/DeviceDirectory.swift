import FoundationEssentials
import Glibc
import MeshIdentity

/// A record that cannot be read, written or found.
public struct DeviceDirectoryError: Error, Hashable, Sendable, CustomStringConvertible {
    public var message: String
    public var description: String { message }
}

/// The enrolled devices: one `NAME.json` each in a directory, `$BOOTSTRAP_HOME/devices` of the operator.
public struct DeviceDirectory: Sendable {
    public let path: String

    public init(_ path: String) { self.path = path }

    /// Adds or replaces a record; a reader sees the old one or the new one.
    public func save(_ record: DeviceRecord) throws(DeviceDirectoryError) {
        let file = try file(of: record.name)
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            let json = try encoder.encode(record)
            try AtomicFile.createDirectory(path, mode: 0o700)
            try AtomicFile.write(Array(json) + [UInt8(ascii: "\n")], to: file)
        } catch {
            throw DeviceDirectoryError(message: "the device \(record.name) cannot be recorded: \(error)")
        }
    }

    /// nil when there is no device of this name.
    public func record(named name: String) throws(DeviceDirectoryError) -> DeviceRecord? {
        try read(try file(of: name))
    }

    /// The device that `text` means: its name, the destination it was enrolled with, or its SPIFFE ID. nil when there is none.
    ///
    /// - Throws: an error when several devices were enrolled with that destination.
    public func device(for text: String) throws(DeviceDirectoryError) -> DeviceRecord? {
        if (try? Self.check(name: text)) != nil, let record = try record(named: text) { return record }
        let matches = try all().filter { $0.destination == text || $0.identity == text }
        guard matches.count <= 1 else {
            throw DeviceDirectoryError(
                message:
                    "'\(text)' is several devices: \(matches.map(\.name).joined(separator: ", ")); use one of these names"
            )
        }
        return matches.first
    }

    /// Every record, ordered by name.
    public func all() throws(DeviceDirectoryError) -> [DeviceRecord] {
        guard let directory = opendir(path) else {
            if errno == ENOENT { return [] }
            throw DeviceDirectoryError(message: "\(path) cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            // A dot file is one that is being written.
            if name.hasSuffix(".json"), !name.hasPrefix(".") { names.append(name) }
        }
        var records: [DeviceRecord] = []
        for name in names.sorted() {
            if let record = try read("\(path)/\(name)") { records.append(record) }
        }
        return records
    }

    /// Forgets a device; nothing happens when there is none of this name.
    public func remove(named name: String) throws(DeviceDirectoryError) {
        let file = try file(of: name)
        guard unlink(file) == 0 || errno == ENOENT else {
            throw DeviceDirectoryError(message: "\(file) cannot be removed: \(String(cString: strerror(errno)))")
        }
    }

    private func read(_ file: String) throws(DeviceDirectoryError) -> DeviceRecord? {
        let bytes: [UInt8]
        do {
            bytes = try AtomicFile.read(file)
        } catch {
            if error.code == .notFound { return nil }
            throw DeviceDirectoryError(message: error.message)
        }
        do {
            return try JSONDecoder().decode(DeviceRecord.self, from: Data(bytes))
        } catch {
            throw DeviceDirectoryError(message: "\(file) is damaged; remove it and enroll the device again")
        }
    }

    private func file(of name: String) throws(DeviceDirectoryError) -> String {
        try Self.check(name: name)
        return "\(path)/\(name).json"
    }

    /// The characters of a SPIFFE path segment, which a device's name is; they keep it inside the directory, too.
    static func check(name: String) throws(DeviceDirectoryError) {
        let isValid =
            !name.isEmpty && name.utf8.count <= 200 && !name.hasPrefix(".")
            && name.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
                    true
                default: false
                }
            }
        guard isValid else {
            throw DeviceDirectoryError(
                message:
                    "'\(Printable.clean(name, limit: 80))' is no device name: letters, digits, '-', '_' and '.' are allowed"
            )
        }
    }
}
