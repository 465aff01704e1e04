import ArgumentParser
import Fleet
import SSHSignal

/// How a machine proves that a certificate request is its own, beyond the session that it came in.
enum AttestationArgument: String, ExpressibleByArgument {
    case hostKey = "host-key"
}

/// What `enroll` is to do on a device beside giving it an identity.
struct DeviceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "What starts the node again after a crash or a reboot: auto (the first of the following that the device has), systemd, "
                + "systemd-user, openrc, procd, cron (a background process and an @reboot line), or none. (default: as before, or auto)",
            valueName: "KIND"
        )
    )
    var service: String?

    @Flag(
        help: ArgumentHelp(
            "Install no agent: the machine's own openssl makes the key, and certificate and bundle are put beside it with Istio's file names, "
                + "for the software that is there."
        )
    )
    var agentless = false

    @Flag(
        help: ArgumentHelp(
            "As --agentless, for a machine without openssl: the private key is made here and sent there. Only where that is acceptable."
        )
    )
    var pushKey = false

    @Option(
        help: ArgumentHelp(
            "Without an agent: the directory for key, certificate and bundle; {name} stands for the device's name. (default: as "
                + "before, or /etc/bootstrap/identity for root, else ~/.bootstrap/identity)",
            valueName: "DIR"
        )
    )
    var credentialDir: String?

    @Option(
        help: ArgumentHelp(
            "Without an agent: a shell command that is run there after each new certificate, with the directory in $BOOTSTRAP_CREDENTIALS; "
                + "'' for none. (default: as before)",
            valueName: "COMMAND"
        )
    )
    var after: String?

    @Option(
        help: ArgumentHelp(
            "host-key: the machine's SSH host key has to sign the certificate request (ssh-keygen -Y sign; root or sudo there), and the "
                + "ledger keeps the signature.",
            valueName: "HOW"
        )
    )
    var attest: AttestationArgument?

    /// Where the key is made when there is to be no agent; nil: as before, or on the device by an agent.
    var keyOrigin: Device.KeyOrigin? { pushKey ? .pushed : agentless ? .openssl : nil }

    func validate() throws {
        guard attest == nil || !pushKey else {
            throw ValidationError("--attest says that the machine made its key; with --push-key it did not")
        }
        guard keyOrigin != nil || (credentialDir == nil && after == nil) else {
            throw ValidationError("--credential-dir and --after are for --agentless and --push-key")
        }
        guard credentialDir?.hasPrefix("/") ?? true else { throw ValidationError("--credential-dir is absolute") }
        guard service.map({ $0 == ServiceKind.automatic || ServiceKind(rawValue: $0) != nil }) ?? true else {
            let kinds = ServiceKind.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--service is auto, \(kinds)")
        }
    }
}
