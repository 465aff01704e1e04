import Glibc

extension AgentBinary {
    /// The program to upload: the one that was named, or the static build beside this one, or this one.
    ///
    /// - Parameters:
    ///   - path: nil: none was named.
    ///   - executable: This program's own file; nil: it is not known.
    ///   - cache: The directory in which compressed forms are kept from run to run.
    package static func find(
        _ path: String?,
        executable: String?,
        cache: String?
    ) throws(AgentBinaryError) -> AgentBinary {
        if let path { return try AgentBinary(path: path, cache: cache) }
        guard let executable else {
            throw AgentBinaryError(message: "the path of this program is not known; name it with --agent-binary")
        }
        return try AgentBinary(path: staticBuild(beside: executable) ?? executable, cache: cache)
    }

    /// The static build for this machine's architecture: in the same directory, or in `dist` of the repository that
    /// this was built in.
    private static func staticBuild(beside executable: String) -> String? {
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
