import Glibc

/// This program's own file.
enum Executable {
    /// Absolute, links resolved; nil without /proc.
    static var path: String? {
        var target = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &target, target.count)
        guard count > 0 else { return nil }
        return String(decoding: target.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// `path` from the root directory on.
func absolutePath(_ path: String) -> String {
    guard !path.hasPrefix("/"), let directory = getcwd(nil, 0) else { return path }
    defer { free(directory) }
    return "\(String(cString: directory))/\(path)"
}

extension Executable {
    static var processors: Int { max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }

    /// The static build for this machine's architecture: in the same directory, or in `dist` of the repository that this was built in.
    static func staticBuild(beside executable: String) -> String? {
        var machine = utsname()
        guard uname(&machine) == 0 else { return nil }
        let architecture = withUnsafeBytes(of: machine.machine) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        let name = "bootstrap-linux-\(architecture)"
        var directory = Substring(executable)
        // The directory itself, then up to the repository: .build/x86_64-unknown-linux-gnu/release.
        for depth in 0..<4 {
            guard let slash = directory.lastIndex(of: "/") else { return nil }
            directory = directory[..<slash]
            for candidate in (depth == 0 ? ["\(directory)/\(name)"] : []) + ["\(directory)/dist/\(name)"]
            where access(candidate, X_OK) == 0 { return candidate }
        }
        return nil
    }
}
