import Glibc
import Platform

/// `bootstrap ca serve` as a systemd unit of this machine: the machine's for root, else of the user's own systemd.
package struct IssuerService {
    package struct Failure: Error, CustomStringConvertible {
        package var description: String
    }

    private let service: SystemdService

    /// - Parameters:
    ///   - program: This program, absolute.
    ///   - options: Behind `ca serve`.
    ///   - home: `$BOOTSTRAP_HOME`, absolute.
    ///   - authority: The CA's directory, absolute.
    package init(program: String, options: [String], home: String, authority: String) {
        service = SystemdService(
            description: ServiceDescription(issuer: program, options: options, home: home, authority: authority),
            isUser: geteuid() != 0
        )
    }

    /// Where it is, or would be.
    package var place: String { service.place }

    /// Where its messages are.
    package var logCommand: String { "journalctl \(service.isUser ? "--user " : "")-u \(service.unit)" }

    /// Writes it, and has it run from now on and with every start of the machine.
    ///
    /// - Returns: What the user should know.
    package func install() throws(Failure) -> [String] {
        guard service.description.isPlain else {
            throw Failure(description: "a path has characters that a unit cannot have as they are; move it")
        }
        if let obstacle = service.obstacle {
            throw Failure(
                description:
                    "\(obstacle): have what starts services there run `\(service.description.arguments.joined(separator: " "))`"
            )
        }
        do throws(DeviceProgram.Failure) {
            let warnings = try service.install().warnings
            try service.start()
            return warnings
        } catch {
            throw Failure(description: error.message)
        }
    }

    package func remove() throws(Failure) {
        do throws(DeviceProgram.Failure) {
            try service.remove()
        } catch {
            throw Failure(description: error.message)
        }
    }
}
