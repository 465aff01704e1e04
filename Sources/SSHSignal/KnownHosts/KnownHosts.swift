import Platform

/// What the known_hosts files say about hosts. libssh2's own reader is not used: it knows neither wildcards nor
/// `@revoked` nor `@cert-authority`, and it rewrites whole files.
package struct KnownHosts: Sendable {
    /// What is known about a key that a host has shown.
    package enum Verdict: Hashable, Sendable {
        /// The host is recorded with this key.
        case match(file: String, line: Int)
        /// The host is not recorded with a key of this type. `algorithms` are the key types it is recorded with; when
        /// there are any, a different type is as suspicious as a different key.
        case unknown(algorithms: [String])
        /// The host is recorded with another key of this type.
        case changed(expected: String, file: String, line: Int)
        /// The key is marked `@revoked`.
        case revoked(file: String, line: Int)
    }

    private(set) var entries: [KnownHostsEntry] = []

    /// Lines that were skipped because they do not parse, with the reason.
    package private(set) var skippedLines: [SSHConfigurationError] = []

    /// Reads `files` in this order; those that do not exist are passed over.
    ///
    /// - Throws: an error for a file that exists and cannot be read: what it holds (a revoked key) must not be missed.
    package init(files: [String]) throws(SSHConfigurationError) {
        for file in files {
            do {
                if let contents = try LocalFile.read(file) { parse(contents, file: file) }
            } catch {
                throw SSHConfigurationError(file: file, "cannot be read: \(error.reason)")
            }
        }
    }

    /// The same, for a login: as with `ssh`, a file that cannot be read has nothing to say.
    ///
    /// - Parameter unreadable: Told of such a file, since what it may hold (a revoked key) is missed.
    init(files: [String], unreadable: (SSHConfigurationError) -> Void) {
        for file in files {
            do throws(SSHConfigurationError) {
                entries += try KnownHosts(files: [file]).entries
            } catch {
                unreadable(error)
            }
        }
    }

    /// Parses what was read from `file`, the name that verdicts give.
    package init(contents: [UInt8], file: String) {
        parse(contents, file: file)
    }

    private mutating func parse(_ contents: [UInt8], file: String) {
        for (number, text) in LocalFile.lines(of: contents) {
            do {
                if let entry = try KnownHostsEntry(parsing: text, file: file, line: number) { entries.append(entry) }
            } catch {
                skippedLines.append(error)
            }
        }
    }

    /// The name a host is recorded under: in lower case, `[host]:port` unless the port is 22.
    package static func name(host: String, port: UInt16) -> String {
        SSHClientConfiguration.withPort(host.lowercased(), port)
    }

    /// The key types that `name` is recorded with, in the order of the files: what the key exchange has to ask for
    /// first, so that a host is not taken for unknown because it showed its other key.
    package func algorithms(for name: String) -> [String] {
        var result: [String] = []
        for entry in entries where entry.marker == .none && !result.contains(entry.key.algorithm) && entry.matches(name)
        {
            result.append(entry.key.algorithm)
        }
        return result
    }

    /// The keys of the `@cert-authority` lines that cover `name`.
    package func authorities(for name: String) -> [HostKey] {
        entries.filter { $0.marker == .certificateAuthority && $0.matches(name) }.map(\.key)
    }

    /// What is known about `key` as the key of `name` (see ``name(host:port:)``). A revocation wins over every other
    /// line.
    package func verdict(for key: HostKey, of name: String) -> Verdict {
        let relevant = entries.filter { $0.matches(name) }
        if let revoked = relevant.first(where: { $0.marker == .revoked && $0.key == key }) {
            return .revoked(file: revoked.file, line: revoked.line)
        }
        let keys = relevant.filter { $0.marker == .none }
        if let match = keys.first(where: { $0.key == key }) {
            return .match(file: match.file, line: match.line)
        }
        if let other = keys.first(where: { $0.key.algorithm == key.algorithm }) {
            return .changed(expected: other.key.fingerprint, file: other.file, line: other.line)
        }
        var algorithms: [String] = []
        for entry in keys where !algorithms.contains(entry.key.algorithm) { algorithms.append(entry.key.algorithm) }
        return .unknown(algorithms: algorithms)
    }

    /// Whether `file`'s entries are hashed: what is added to it then is, too.
    func isHashed(_ file: String) -> Bool {
        entries.contains { entry in
            guard entry.file == file, case .hashed = entry.hosts else { return false }
            return true
        }
    }
}
