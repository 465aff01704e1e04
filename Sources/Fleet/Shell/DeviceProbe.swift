import MeshIdentity
import Platform
import SSHSignal

/// What the probe found out about a machine. Everything in it is the machine's own word.
package struct DeviceFacts: Hashable, Sendable {
    package var operatingSystem: String
    /// As `uname -m` says it.
    package var architecture: String
    package var kernel: String
    /// `glibc 2.36`, `musl`; nil when neither was found.
    package var libc: String?
    /// nil where it could not be told.
    package var isLittleEndian: Bool?
    package var userID: UInt32
    package var user: String
    package var home: String
    package var hostName: String
    /// Seconds since 1970.
    package var clock: Int64
    /// Changes with every start of the machine; nil where the kernel has none.
    package var bootID: String?
    /// `sha256sum`, `openssl`, `ssh-keygen`, `base64`, `gzip`, `xz`, `zstd`, `crontab`, `timeout`, `head`: those that
    /// are there.
    package var tools: Set<String>
    /// What would start a service there, and with which rights.
    package var surroundings: Surroundings
    /// The host keys in OpenSSH's directory; empty where there is none.
    var hostKeys: [MachineKey]
    /// What the agent needs and the machine does not have.
    package var missing: [String]
    package var bases: [Base]

    /// A directory that was considered for the installation.
    package struct Base: Hashable, Sendable {
        package var path: String
        package var isWritable: Bool
        /// Whether a file written there could be run.
        package var isExecutable: Bool
        /// nil when `df` did not say.
        package var freeKilobytes: UInt64?
        /// A file system in memory: a reboot empties it.
        package var isVolatile: Bool
        /// Why it is not writable or not executable, in the machine's words.
        package var reason: String
        /// SHA-256 of the agent of this very release that is installed there.
        package var installedHash: String?
        /// The release in use there.
        package var current: String?
        /// The process of the node that runs there.
        package var nodeProcess: Int32?
        /// The process of an installation that is under way there.
        package var installer: Int32?
        /// An installation there was cut, and left a lock or a part of the agent; the next one removes them. Also true
        /// while one is under way.
        package var hasLeftovers: Bool
    }

    /// - Throws: ``SignalError`` when something is missing or cannot be true: the answer decides where a program is
    ///   written.
    init(_ output: RemoteShell.Output, name: String) throws(SignalError) {
        let values = output.values
        func failure(_ what: String) -> SignalError { SignalError(.malformed, "\(name): probe: \(what)") }
        func required(_ key: String, limit: Int = 200) throws(SignalError) -> String {
            guard let value = values[key], !value.isEmpty, value.count <= limit else {
                throw failure("'\(key)' is missing")
            }
            return value
        }
        guard values["done"] == "1" else {
            throw failure(
                "it did not run to its end: \(Printable.clean(output.lines.suffix(3).joined(separator: " ")))"
            )
        }
        operatingSystem = try required("os")
        architecture = try required("arch")
        kernel = values["kernel"] ?? ""
        libc = values["libc"].map { String($0.prefix(80)) }
        isLittleEndian = values["endian"] == "1" ? true : values["endian"] == "2" ? false : nil
        guard let userID = UInt32(try required("uid")) else { throw failure("the user ID is no number") }
        self.userID = userID
        user = String((values["user"] ?? "").prefix(80))
        home = values["home"] ?? ""
        hostName = String((values["host"] ?? "").prefix(255))
        guard let clock = Int64(try required("epoch")) else { throw failure("the clock is no number") }
        self.clock = clock
        bootID = values["boot"].flatMap { $0.isEmpty ? nil : String($0.prefix(64)) }
        tools = Set(values.keys.filter { $0.hasPrefix("tool.") }.map { String($0.dropFirst(5)) })
        surroundings = Surroundings(values)
        hostKeys = output.lines.filter { $0.hasPrefix("hostkey=") }.prefix(16).compactMap { line in
            let key = try? SSHPublicKey(line: Array(line.dropFirst(8).utf8))
            return key.map { MachineKey(algorithm: $0.algorithm, fingerprint: $0.fingerprint) }
        }
        missing = values.keys.filter { $0.hasPrefix("missing.") }.sorted().map { key in
            key == "missing.interpreter" ? values[key] ?? "" : String(key.dropFirst(8))
        }
        bases = []
        // A few more than are ever asked for.
        for index in 0..<16 {
            let key = "base.\(index)"
            guard let path = values[key] else { break }
            guard Self.isPath(path) else { throw failure("'\(Printable.clean(path, limit: 80))' is no path") }
            bases.append(
                Base(
                    path: path,
                    isWritable: values["\(key).write"] == "1",
                    isExecutable: values["\(key).exec"] == "1",
                    freeKilobytes: values["\(key).free"].flatMap { UInt64($0) },
                    isVolatile: values["\(key).volatile"] == "1",
                    reason: String((values["\(key).why"] ?? "").prefix(200)),
                    installedHash: values["\(key).agent"].flatMap { $0.utf8.count == 64 ? $0 : nil },
                    current: values["\(key).current"],
                    nodeProcess: values["\(key).node"].flatMap { Int32($0) },
                    installer: values["\(key).installer"].flatMap { Int32($0) },
                    hasLeftovers: values["\(key).cut"] == "1"
                )
            )
        }
    }

    /// Absolute, nothing that was replaced in cleaning, no way out of itself.
    private static func isPath(_ path: String) -> Bool {
        path.hasPrefix("/") && path.utf8.count < 1024 && !path.contains("?") && !path.contains("…")
            && !leadsUp(path)
    }
}
