import Foundation
package import TestPeers

extension TemporaryDirectory {
    /// Writes a shell script that stands in for a program of the machine. Another process makes the file: what this one
    /// has open for writing, a child that another test starts at that moment inherits, and the file cannot be run as
    /// long as it lives (ETXTBSY).
    @discardableResult
    package func writeProgram(_ name: String, _ text: String) async throws -> String {
        let source = try write(name + ".text", "#!/bin/sh\n\(text)\n")
        let file = path(name)
        let made = try await ChildProcess.run(
            "sh",
            [
                "-c",
                "cp '\(source)' '\(file).new' && chmod 755 '\(file).new' && mv '\(file).new' '\(file)' && rm '\(source)'",
            ]
        )
        guard made.succeeded else { throw DeadlineExceeded(made.standardError) }
        return file
    }
}
