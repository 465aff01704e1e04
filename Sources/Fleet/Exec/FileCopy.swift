import CLinux
import Glibc
import Platform
package import SSHSignal

/// Copies files and directories between here and one server, as scp(1) names them: into a directory under their own
/// names, otherwise to that name; links are followed.
package struct FileCopy: Sendable {
    private let files: any RemoteFiles
    private let isRecursive: Bool
    private let report: Report

    /// Called from any task.
    package struct Report: Sendable {
        /// How many bytes of a file have arrived, and its size. Begins with 0 bytes.
        package var progress: @Sendable (_ name: String, _ done: UInt64, _ total: UInt64) -> Void
        package var finished: @Sendable (_ name: String) -> Void
        /// One of several has failed; the others go on.
        package var failed: @Sendable (HostError) -> Void

        package init(
            progress: @escaping @Sendable (_ name: String, _ done: UInt64, _ total: UInt64) -> Void,
            finished: @escaping @Sendable (_ name: String) -> Void,
            failed: @escaping @Sendable (HostError) -> Void
        ) {
            self.progress = progress
            self.finished = finished
            self.failed = failed
        }
    }

    /// - Parameters:
    ///   - files: Of the server.
    ///   - isRecursive: Whether directories are copied.
    ///   - report: Told of each file.
    package init(_ files: any RemoteFiles, isRecursive: Bool, report: Report) {
        self.files = files
        self.isRecursive = isRecursive
        self.report = report
    }

    // MARK: There

    /// - Parameters:
    ///   - sources: Here.
    ///   - target: There; empty: the account's home directory.
    /// - Throws: what ends all. What concerns one file was reported.
    package func send(_ sources: [String], to target: String) async throws(SSHError) {
        let path = target.isEmpty ? "." : target
        let isDirectory = try await files.status(of: path)?.kind == .directory
        guard isDirectory || (sources.count == 1 && !path.hasSuffix("/")) else {
            return report.failed(HostError(.usage, "\(path) is not a directory there"))
        }
        for source in sources {
            let name = Self.name(of: source)
            let isItself = name == "." || name == ".."
            try await send(source, to: isDirectory && !isItself ? Self.join(path, name) : path)
        }
    }

    private func send(_ source: String, to target: String) async throws(SSHError) {
        try await attempt { () async throws(SSHError) in
            var status = stat()
            guard stat(source, &status) == 0 else {
                throw SSHError(.system, "\(source): \(String(cString: strerror(errno)))")
            }
            switch status.st_mode & S_IFMT {
            case S_IFREG:
                let name = Self.name(of: source)
                report.progress(name, 0, UInt64(status.st_size))
                try await files.send(
                    .file(path: source),
                    to: target,
                    permissions: .ifNew(UInt32(status.st_mode & 0o777))
                ) { [report] in report.progress(name, $0, $1) }
                report.finished(name)
            case S_IFDIR:
                guard isRecursive else { throw SSHError(.system, "\(source) is a directory; -r copies it") }
                if try await files.status(of: target) == nil {
                    // What is put in it comes from here, whatever the permissions there.
                    try await files.makeDirectory(target, permissions: UInt32(status.st_mode & 0o777) | 0o700)
                }
                for name in try Self.names(in: source) {
                    try await send(Self.join(source, name), to: Self.join(target, name))
                }
            default: throw SSHError(.system, "\(source) is not a regular file")
            }
        }
    }

    // MARK: Here

    /// - Parameters:
    ///   - patterns: There: paths, in which `*`, `?` and `[…]` stand for names that there are.
    ///   - target: Here.
    /// - Throws: what ends all. What concerns one file was reported.
    package func fetch(_ patterns: [String], to target: String) async throws(SSHError) {
        var sources: [String] = []
        for pattern in patterns {
            try await attempt { () async throws(SSHError) in
                let found = try await expand(pattern.isEmpty ? "." : pattern)
                guard !found.isEmpty else { throw SSHError(.transferFailed, "\(pattern): no such file or directory") }
                sources += found
            }
        }
        guard !sources.isEmpty else { return }
        var status = stat()
        let isDirectory = stat(target, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
        guard isDirectory || (sources.count == 1 && !target.hasSuffix("/")) else {
            return report.failed(HostError(.usage, "\(target) is not a directory"))
        }
        for source in sources {
            let name = Self.name(of: source)
            let isItself = name == "." || name == ".."
            try await fetch(source, to: isDirectory && !isItself ? Self.join(target, name) : target)
        }
    }

    private func fetch(_ source: String, _ known: RemoteFileStatus? = nil, to target: String) async throws(SSHError) {
        try await attempt { () async throws(SSHError) in
            var found = known
            if found == nil { found = try await files.status(of: source) }
            guard let found else { throw SSHError(.transferFailed, "\(source): no such file or directory") }
            guard found.kind == .directory else {
                let name = Self.name(of: source)
                try await files.fetch(source, to: target) { [report] in report.progress(name, $0, $1) }
                return report.finished(name)
            }
            guard isRecursive else { throw SSHError(.transferFailed, "\(source) is a directory; -r copies it") }
            guard mkdir(target, mode_t(found.permissions & 0o777) | 0o700) == 0 || errno == EEXIST else {
                throw SSHError(.system, "\(target): \(String(cString: strerror(errno)))")
            }
            for child in try await files.children(of: source) {
                let name = try Self.checked(child, in: source)
                try await fetch(Self.join(source, name), child.status, to: Self.join(target, name))
            }
        }
    }

    /// The paths that a pattern stands for; itself where it is the name of a file.
    private func expand(_ pattern: String) async throws(SSHError) -> [String] {
        guard Self.isPattern(pattern) else { return [pattern] }
        if try await files.status(of: pattern) != nil { return [pattern] }
        var found = [pattern.hasPrefix("/") ? "/" : ""]
        let parts = pattern.split(separator: "/").map(String.init)
        for (index, part) in parts.enumerated() {
            let isLast = index == parts.count - 1
            var next: [String] = []
            for parent in found {
                guard Self.isPattern(part) else {
                    let path = Self.join(parent, part)
                    if isLast, try await files.status(of: path) == nil { continue }
                    next.append(path)
                    continue
                }
                guard try await files.status(of: parent.isEmpty ? "." : parent)?.kind == .directory else { continue }
                for child in try await files.children(of: parent.isEmpty ? "." : parent)
                where isLast || child.status.kind == .directory {
                    let name = try Self.checked(child, in: parent.isEmpty ? "." : parent)
                    if fnmatch(part, name, FNM_PERIOD | FNM_PATHNAME) == 0 { next.append(Self.join(parent, name)) }
                }
            }
            found = next.sorted()
        }
        return found
    }

    // MARK: -

    /// The name of something in a directory. A server names files; it does not choose where they go.
    private static func checked(_ child: RemoteChild, in directory: String) throws(SSHError) -> String {
        guard RemoteChild.isName(child.name) else {
            throw SSHError(.protocolViolation, "\(directory): the server has a file of the name '\(child.name)'")
        }
        return child.name
    }

    /// What goes wrong with one file does not concern the others. Begins nothing once the copy is stopped.
    private func attempt(_ body: () async throws(SSHError) -> Void) async throws(SSHError) {
        guard !Task.isCancelled else { throw .interrupted }
        do throws(SSHError) {
            try await body()
        } catch {
            guard !Task.isCancelled, error.code == .transferFailed || error.code == .system else { throw error }
            report.failed(HostError(.failed, error.message))
        }
    }

    private static func isPattern(_ text: String) -> Bool { text.contains { "*?[".contains($0) } }

    /// What stands behind the last slash, whatever character that is part of.
    private static func name(of path: String) -> String {
        path.utf8.split(separator: UInt8(ascii: "/")).last.map { String(Substring($0)) } ?? path
    }

    private static func join(_ directory: String, _ name: String) -> String {
        directory.isEmpty || directory.hasSuffix("/") ? directory + name : "\(directory)/\(name)"
    }

    private static func names(in directory: String) throws(SSHError) -> [String] {
        guard let stream = opendir(directory) else {
            throw SSHError(.system, "\(directory): \(String(cString: strerror(errno)))")
        }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }
}
