import Glibc
import Platform
import SSHSignal

/// The processes of this machine, as /proc shows them.
package enum ProcessList {
    package static var all: [Int32] {
        guard let directory = opendir("/proc") else { return [] }
        defer { closedir(directory) }
        var found: [Int32] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { String(cString: $0) }
            }
            if let process = Int32(name) { found.append(process) }
        }
        return found
    }

    /// The first 15 characters of the program's name.
    package static func name(of process: Int32) -> String? {
        text("/proc/\(process)/comm").map { String($0.prefix { $0 != "\n" }) }
    }

    /// Empty for one that is gone, or was not collected yet.
    package static func arguments(of process: Int32) -> [String] {
        text("/proc/\(process)/cmdline")?.split(separator: "\0").map(String.init) ?? []
    }

    /// The file it was started from; nil when that was replaced or removed since, or may not be seen.
    package static func program(of process: Int32) -> String? {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/\(process)/exe", &target, target.count)
        guard count > 0 else { return nil }
        return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The number in a process number file, if that process still is one whose arguments hold all of `words`, and that
    /// sees the file's directory: numbers are used again.
    static func process(in file: String, with words: [String]) -> pid_t? {
        guard let text = text(file), let process = pid_t(text.prefix { $0.isNumber }), process > 1 else { return nil }
        let arguments = arguments(of: process)
        guard words.allSatisfy(arguments.contains), sees(AtomicFile.split(file).directory, process) else { return nil }
        return process
    }

    /// Ends a process that is no child: gently, then not.
    ///
    /// - Returns: whether it is gone.
    static func end(_ process: pid_t, patience: Duration, isOurs: (pid_t) -> Bool) -> Bool {
        for (signal, limit) in [(SIGTERM, patience), (SIGKILL, .seconds(5))] {
            guard kill(process, signal) == 0 || errno == ESRCH else { return false }
            let deadline = ContinuousClock.now + limit
            while isOurs(process), ContinuousClock.now < deadline { usleep(10_000) }
            if !isOurs(process) { return true }
        }
        return false
    }

    static func text(_ path: String) -> String? {
        guard let bytes = try? LocalFile.read(path, limit: 64 << 10) else { return nil }
        return String(decoding: bytes, as: UTF8.self)
    }
}
