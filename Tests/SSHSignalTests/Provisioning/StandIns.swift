import Foundation
import TestPeers

extension TemporaryDirectory {
    /// Writes a shell script that stands in for a program of the machine, and waits until it can be run: while another test starts a process,
    /// that may still hold the file open for writing (ETXTBSY). It is run once without arguments.
    @discardableResult
    func writeProgram(_ name: String, _ text: String) async throws -> String {
        let file = try write(name, "#!/bin/sh\n\(text)\n", permissions: 0o755)
        try await eventually("\(name) can be run") {
            try await ChildProcess.run("sh", ["-c", "'\(file)' </dev/null"]).status != .exited(126)
        }
        return file
    }
}
