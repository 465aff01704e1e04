package import SSHSignal

/// A machine that a command logs in to: an enrolled device, or whatever `ssh` would take.
package struct RemoteTarget: Sendable {
    /// For messages and file names.
    package let name: String
    private let destination: Destination
    private let recorded: SSHArguments?

    /// - Parameters:
    ///   - text: As the user wrote it.
    ///   - name: nil takes the device's, or what stands for the host.
    ///   - records: Where devices are looked for.
    package init(_ text: String, name: String? = nil, in records: DeviceDirectory) throws(HostError) {
        do {
            if let device = try records.device(for: text) {
                self.name = name ?? device.name
                destination = try Destination(parsing: device.destination)
                recorded = device.ssh.arguments
                return
            }
            let target = try EnrollmentTarget(text, name: name)
            self.name = target.name
            destination = target.destination
            recorded = nil
        } catch let error as DeviceDirectoryError {
            throw HostError(error.reason, error.message)
        } catch {
            throw HostError(.usage, "\(error)")
        }
    }

    /// As the command line says, or, where that is silent, as the device was enrolled.
    package func login(
        _ options: LoginOptions,
        warn: @escaping @Sendable (String) -> Void
    ) throws(SSHConfigurationError) -> SSHLogin {
        try options.login(to: destination, recorded: recorded, warn: warn)
    }
}
