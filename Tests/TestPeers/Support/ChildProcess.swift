import Foundation
import Streams

/// How a process ended.
public enum ExitStatus: Equatable, Sendable {
    case exited(Int32)
    case signalled(Int32)
}

/// A program that a test started. It never outlives the test: the last reference gone kills it, and so does the end
/// of the test process, however that ends.
public final class ChildProcess: Sendable {
    /// The process. Its number is not reused before the exit status was collected, which this object does.
    public let pid: Int32
    public let standardOutput: OutputLog
    public let standardError: OutputLog

    private let command: String
    private let input: Lock<Int32?>
    private let status: Lock<ExitStatus?>

    /// Starts `command` (found in `PATH` unless it has a slash) with its outputs captured.
    ///
    /// - Parameters:
    ///   - environment: added to the test's own; nil as a value removes a variable.
    ///   - directory: where it runs; the test's own by default.
    ///   - keepsInputOpen: true for a standard input that `write` feeds; otherwise it is `/dev/null`.
    public init(
        _ command: String,
        _ arguments: [String] = [],
        environment: [String: String?] = [:],
        directory: String? = nil,
        keepsInputOpen: Bool = false
    ) throws {
        var variables = ProcessInfo.processInfo.environment
        for (name, value) in environment {
            variables[name] = value
        }
        let started = try Spawner.shared.start(
            command: command,
            arguments: arguments,
            environment: variables.map { "\($0.key)=\($0.value)" },
            directory: directory,
            keepsInputOpen: keepsInputOpen
        )
        self.command = command
        pid = started.pid
        input = Lock(started.input)
        status = Lock(nil)
        standardOutput = OutputLog()
        standardError = OutputLog()
        standardOutput.follow(started.output)
        standardError.follow(started.error)
    }

    deinit {
        if collectStatus() == nil {
            kill(pid, SIGKILL)
            var ignored: Int32 = 0
            waitpid(pid, &ignored, 0)
        }
        closeInput()
    }

    /// How it ended, or nil while it runs.
    public var exitStatus: ExitStatus? {
        collectStatus()
    }

    public var isRunning: Bool {
        collectStatus() == nil
    }

    /// Sends `signal`, unless the process is gone.
    public func signal(_ signal: Int32) {
        status.withLock { status in
            guard status == nil else { return }
            _ = kill(pid, signal)
        }
    }

    /// Writes to its standard input, all of it. Blocks while the pipe is full.
    public func write(_ bytes: [UInt8]) throws {
        try input.withLock { descriptor in
            guard let descriptor else { throw DeadlineExceeded("the standard input of \(command) is closed") }
            try writeAll(descriptor, bytes)
        }
    }

    /// Writes to its standard input, all of it. Blocks while the pipe is full.
    public func write(_ text: String) throws {
        try write(Array(text.utf8))
    }

    /// The process reads the end of its standard input.
    public func closeInput() {
        input.withLock { descriptor in
            if let open = descriptor {
                close(open)
            }
            descriptor = nil
        }
    }

    /// Waits for its end.
    @discardableResult
    public func exit(within limit: Duration = .seconds(120)) async throws -> ExitStatus {
        do {
            try await eventually("\(command) ends", within: limit) { !isRunning }
        } catch let error as DeadlineExceeded {
            throw DeadlineExceeded("\(error)\nits output:\n\(standardOutput.text)\n\(standardError.text)")
        }
        return collectStatus() ?? .exited(-1)
    }

    /// Ends it: SIGTERM, and SIGKILL after `grace`.
    @discardableResult
    public func stop(grace: Duration = .seconds(5)) async -> ExitStatus {
        signal(SIGTERM)
        if let status = try? await exit(within: grace) {
            return status
        }
        signal(SIGKILL)
        return (try? await exit()) ?? .signalled(SIGKILL)
    }

    private func collectStatus() -> ExitStatus? {
        status.withLock { status in
            guard status == nil else { return status }
            var raw: Int32 = 0
            guard waitpid(pid, &raw, WNOHANG) == pid else { return nil }
            let signal = raw & 0x7f
            status = signal == 0 ? .exited((raw >> 8) & 0xff) : .signalled(signal)
            return status
        }
    }
}

extension ChildProcess {
    /// What a finished program left behind.
    public struct Output: Sendable {
        public var status: ExitStatus
        public var standardOutput: String
        public var standardError: String

        public var succeeded: Bool { status == .exited(0) }
    }

    /// Runs a program to its end and returns what it printed, whatever its status and however much of `input` it read.
    public static func run(
        _ command: String,
        _ arguments: [String] = [],
        input: [UInt8]? = nil,
        environment: [String: String?] = [:],
        directory: String? = nil,
        within limit: Duration = .seconds(240)
    ) async throws -> Output {
        let child = try ChildProcess(
            command,
            arguments,
            environment: environment,
            directory: directory,
            keepsInputOpen: input != nil
        )
        if let input {
            do {
                try child.write(input)
            } catch let error as POSIXError where error.code == .EPIPE {
                // It ended, or closed its input, without reading all of it: what it printed and its status tell the
                // rest.
            }
            child.closeInput()
        }
        let status = try await child.exit(within: limit)
        // A grandchild may hold the pipes open; what the program itself wrote is there once it is gone.
        let output = (try? await child.standardOutput.complete(within: .seconds(5))) ?? child.standardOutput.text
        let error = (try? await child.standardError.complete(within: .seconds(5))) ?? child.standardError.text
        return Output(status: status, standardOutput: output, standardError: error)
    }
}

func writeAll(_ descriptor: Int32, _ bytes: [UInt8]) throws {
    var offset = 0
    while offset < bytes.count {
        let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + offset, $0.count - offset) }
        if count > 0 {
            offset += count
        } else if errno != EINTR {
            throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
        }
    }
}
