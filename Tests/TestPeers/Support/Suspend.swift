import Foundation

/// Stops a process as one that hangs (SIGSTOP), and returns when it has: every thread of it, which on a busy machine
/// takes a while in which it still answers. SIGCONT lets it run again.
public func suspend(_ pid: Int32) async throws {
    guard kill(pid, SIGSTOP) == 0 else { throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .ESRCH) }
    try await eventually("process \(pid) has stopped") {
        let threads = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")
        return threads.allSatisfy { thread in
            // pid (name) state …
            guard let stat = try? String(contentsOfFile: "/proc/\(pid)/task/\(thread)/stat", encoding: .utf8) else {
                return true
            }
            return stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].dropFirst(2).first == "T"
        }
    }
}
