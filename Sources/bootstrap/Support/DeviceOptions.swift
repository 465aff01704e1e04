import ArgumentParser
import SSHSignal

/// What `enroll` is to do on a device beside giving it an identity.
struct DeviceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What starts the node again after a crash or a reboot: auto (the first of the following that the device has), systemd, "
                + "systemd-user, openrc, procd, cron (a background process and an @reboot line), or none.",
            valueName: "KIND"
        )
    )
    var service = ServiceKind.automatic

    func validate() throws {
        guard service == ServiceKind.automatic || ServiceKind(rawValue: service) != nil else {
            let kinds = ServiceKind.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--service is auto, \(kinds)")
        }
    }
}
