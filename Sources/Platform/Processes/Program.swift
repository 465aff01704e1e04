import CLinux
import Glibc

/// A program, and how it is to be started: its arguments, its environment, and how close it stays to this process.
///
/// What is started has default signals, none of them blocked, the three descriptors it is given and no other (before
/// Linux 5.9: none that is close-on-exec, as all of ours are).
package struct Program: Sendable {
    package enum Group: Int32, Sendable {
        /// This process's: it may ask at the terminal, and Ctrl-C there ends it too.
        case callers = 0
        /// Its own, so that ``StartedProgram/endGroup()`` ends also what it has started.
        case own = 1
        /// A session of its own: it outlives whoever starts it.
        case session = 2
    }

    /// Where it is; a path with a slash.
    package var path: String
    /// With its name, which comes first.
    package var arguments: [String]
    package var environment: [String: String]
    package var group: Group
    /// It is sent SIGTERM when the thread that has started it ends, however that happens.
    package var endsWithThread = false

    package init(_ path: String, _ arguments: [String], environment: [String: String], group: Group) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
        self.group = group
    }

    /// This process's environment, by name.
    package static var currentEnvironment: [String: String] {
        var result: [String: String] = [:]
        var next = environ
        while let entry = next.pointee {
            let text = String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                result[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            next += 1
        }
        return result
    }

    /// The directories of `$PATH`; what execvp(3) takes without one.
    package static var searchPath: [String] {
        (getenv("PATH").map { String(cString: $0) } ?? "/bin:/usr/bin").split(separator: ":").map(String.init)
    }

    /// Where `name` is executable in one of these directories; itself, if it has a slash.
    package static func find(_ name: String, in directories: [String] = searchPath) -> String? {
        if name.utf8.contains(UInt8(ascii: "/")) { return name }
        return directories.lazy.map { "\($0)/\(name)" }.first { path in
            var status = stat()
            return access(path, X_OK) == 0 && stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
        }
    }

    /// Starts it with these descriptors, which stay the caller's.
    ///
    /// - Throws: why not, which includes that there is no such program.
    package func start(input: Int32, output: Int32, errors: Int32) throws(SystemError) -> StartedProgram {
        // The child moves them to 0, 1 and 2: none may be one of those. A daemon may have closed them.
        var descriptors = [input, output, errors]
        var moved: [Int32] = []
        defer { for descriptor in moved { close(descriptor) } }
        for index in descriptors.indices where descriptors[index] <= 2 {
            let copy = fcntl(descriptors[index], F_DUPFD_CLOEXEC, 3)
            guard copy >= 0 else { throw SystemError(errno) }
            moved.append(copy)
            descriptors[index] = copy
        }
        let argv = arguments.map { strdup($0) } + [nil]
        let envp = environment.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for word in argv + envp { free(word) } }
        let pid = path.withCString { path in
            argv.withUnsafeBufferPointer { argv in
                envp.withUnsafeBufferPointer { envp in
                    var program = clinux_program()
                    program.path = path
                    program.arguments = argv.baseAddress
                    program.environment = envp.baseAddress
                    program.input = descriptors[0]
                    program.output = descriptors[1]
                    program.errors = descriptors[2]
                    program.group = group.rawValue
                    program.death_signal = endsWithThread ? SIGTERM : 0
                    return clinux_spawn(&program)
                }
            }
        }
        guard pid > 0 else { throw SystemError(errno) }
        return StartedProgram(pid: pid)
    }
}

/// What the system says about a call that failed.
package struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
    /// `errno`.
    package let number: Int32

    package init(_ number: Int32) { self.number = number }

    package var description: String { String(cString: strerror(number)) }
}
