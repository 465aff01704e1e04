import ArgumentParser
import SSHSignal

/// A machine that a command logs in to: an enrolled device, or whatever `ssh` would take.
struct RemoteTarget: Sendable {
    /// For messages and file names.
    let name: String
    let destination: Destination
    private let recorded: SSHArguments?

    /// - Parameter name: nil takes the device's, or what stands for the host.
    /// - Throws: the exit code; why was said.
    init(_ text: String, name: String? = nil) throws {
        do {
            if let device = try DeviceDirectory(Home.devices).device(for: text) {
                self.name = name ?? device.name
                destination = try Destination(parsing: device.destination)
                recorded = device.ssh.arguments
                return
            }
            let target = try EnrollmentTarget(text, name: name)
            self.name = target.name
            destination = target.destination
            recorded = nil
        } catch {
            throw fail("\(error)", .usage)
        }
    }

    /// As the command line says, or, where that is silent, as the device was enrolled.
    func login(
        _ options: SSHOptionGroup,
        warn: @escaping @Sendable (String) -> Void
    ) throws(SSHConfigurationError) -> SSHLogin {
        var prompts = try options.prompts()
        prompts.warn = warn
        let arguments = options.isEmpty ? recorded ?? options.arguments : options.arguments
        return try SSHLogin(to: destination, arguments: arguments, prompts: prompts)
    }
}

extension SSHError {
    /// How a command ends that could not do its work because of this.
    var exitCode: ExitCode {
        switch code {
        case .hostKeyRefused: .hostKeyRefused
        case .authenticationRefused: .authenticationRefused
        case .connectionFailed, .timedOut, .busy, .negotiationFailed, .unsupported: .unreachable
        case .prohibited, .requestDenied: .denied
        default: .failed
        }
    }
}
