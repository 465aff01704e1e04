import ArgumentParser
import Fleet
import MeshIdentity
import Platform
import SSHSignal
import Streams

struct EnrollCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "enroll",
        abstract: "Turn SSH logins into mesh identities.",
        discussion: """
            Logs in as `ssh` would, finds out what the machine is, uploads this program, has it make a key (which never \
            leaves the machine) and a certificate request, signs that with the CA, and starts a node there. Nothing is \
            changed on a machine that does not fit. Run it again at any time: what is there already stays, the certificate is \
            renewed, and what a cut connection left half done is finished.

              bootstrap ca init --trust-domain mesh.example
              bootstrap enroll root@dev7 --allow-port 8080
              bootstrap connect dev7 -L 8080:localhost:8080

            An inventory has one destination a line, with a name behind it where the host's is not wanted:

              root@10.0.0.7:2222 dev7

            One that ends in .yaml or .yml can say more of each:

              defaults: {user: root, jump: gate.lan}
              hosts:
              - {host: 10.0.0.7, name: dev7, namespace: prod, port: 2222, allowPorts: [8080], labels: {site: berlin}}
            """
    )

    @Argument(
        help: ArgumentHelp("[user@]host[:port], or a Host alias of ssh_config.", valueName: "DEST"),
        completion: .devices
    )
    var destinations: [String] = []

    @Option(help: ArgumentHelp("The namespace of the identities. (default: as before, or default)", valueName: "NS"))
    var namespace: String?

    @Option(help: ArgumentHelp("The device's name. (default: its host)", valueName: "NAME"))
    var name: String?

    @Option(help: ArgumentHelp("A file with more destinations.", valueName: "FILE"))
    var inventory: String?

    @Flag(
        help:
            "Leave out devices that are enrolled with this agent already and whose certificates are not due: after a run in which some failed."
    )
    var resume = false

    @Option(help: ArgumentHelp("How many devices at a time.", valueName: "N"))
    var parallel = 16

    @Option(
        help: ArgumentHelp("The port of the device's HBONE listener. (default: as before, or 15008)", valueName: "PORT")
    )
    var hbonePort: UInt16?

    @Option(
        help: ArgumentHelp("The address that listener binds. (default: as before, or 0.0.0.0)", valueName: "ADDRESS")
    )
    var hboneAddress: String?

    @Option(
        help: ArgumentHelp(
            "Where the device is reached beside its own addresses: a port forward that leads to its HBONE listener. May be repeated; "
                + "none: nowhere. (default: as before)",
            valueName: "HOST:PORT"
        )
    )
    var advertise: [String] = []

    @Option(
        help: ArgumentHelp(
            "A port on the device that others of its namespace may reach, beside those that they may already. May be repeated.",
            valueName: "PORT"
        )
    )
    var allowPort: [UInt16] = []

    @Option(
        help: ArgumentHelp(
            "The same for another host, which they reach through the device. May be repeated.",
            valueName: "HOST:PORT"
        )
    )
    var allowHost: [String] = []

    @Option(
        help: ArgumentHelp(
            "Have the device renew its certificate over the mesh, from a `bootstrap ca serve` there. Numeric, or a name that the "
                + "device itself can resolve; none: not any more. (default: as before, or the one of `ca serve --install` if the device reaches it)",
            valueName: "HOST:PORT"
        )
    )
    var renewFrom: String?

    @Option(
        help: ArgumentHelp(
            "Have the device be reached through the gateway there, to which it holds a connection. With '=' and a SPIFFE ID where the "
                + "gateway is not of its namespace; none: through none any more. May be repeated. (default: as before)",
            valueName: "HOST:PORT"
        )
    )
    var reverse: [String] = []

    @Option(
        help: ArgumentHelp(
            "The program to upload. (default: the static build beside this one, or this one)",
            valueName: "PATH"
        )
    )
    var agentBinary: String?

    @Option(
        help: ArgumentHelp(
            "Install below this directory. (default: as before, or the first usable of /opt, ~/.local/share, ~)",
            valueName: "DIR"
        )
    )
    var base: String?

    @Flag(
        help: "Take a machine with another host key than the ledger has for its name; its old certificate is revoked."
    )
    var acceptNewHostKey = false

    @Flag(help: "Trust a device again that was revoked.")
    var reinstate = false

    @Flag(
        help: ArgumentHelp(
            "Take a machine that is known by another name: it has the host key of another device (the same machine, or one made of the same "
                + "image), or another identity where the new one is to go."
        )
    )
    var acceptKnownMachine = false

    @OptionGroup var device: DeviceOptions
    @OptionGroup var server: SSHServerOptions
    @OptionGroup var issuance: IssuanceArguments
    @OptionGroup var clock: ClockOptions
    @OptionGroup var issuers: IssuerOptions
    @OptionGroup var access: CAAccess
    @OptionGroup var ssh: SSHOptionGroup

    @Option(help: ArgumentHelp("text, or json: one object a device on stdout.", valueName: "FORMAT"))
    var output = ResultFormat.text

    func validate() throws {
        guard !destinations.isEmpty || inventory != nil else {
            throw ValidationError("name at least one destination, or an --inventory file")
        }
        guard (1...256).contains(parallel) else { throw ValidationError("--parallel is from 1 to 256") }
        if allowPort.contains(0) { throw ValidationError("--allow-port: '0' is no port: write 1 to 65535") }
        for host in allowHost {
            do { _ = try Authority(parsing: host) } catch { throw ValidationError("--allow-host: \(error)") }
        }
        if let hboneAddress, !NumericAddress.isNumeric(hboneAddress) {
            throw ValidationError("--hbone-address \(hboneAddress) is no numeric address, such as 0.0.0.0 or ::")
        }
        if let renewFrom, renewFrom != "none" {
            do { _ = try Authority(parsing: renewFrom) } catch { throw ValidationError("--renew-from: \(error)") }
        }
        for gateway in reverse where gateway != "none" {
            let parts = gateway.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            do {
                _ = try Authority(parsing: parts[0])
                if parts.count > 1 { _ = try SPIFFEID(parts[1]) }
            } catch {
                throw ValidationError("--reverse: \(error)")
            }
        }
        if reverse.count > 1, reverse.contains("none") {
            throw ValidationError("--reverse: none and a gateway contradict each other")
        }
        for place in advertise where advertise != ["none"] {
            do { _ = try Authority(parsing: place) } catch { throw ValidationError("--advertise: \(error)") }
        }
        guard advertise.count <= 8 else { throw ValidationError("--advertise: 8 places at most") }
        if let base, !base.hasPrefix("/"), base != "~", !base.hasPrefix("~/") {
            throw ValidationError("--base is absolute, or begins with ~/")
        }
    }

    func run() async throws {
        let records = DeviceDirectory(Home.devices)
        let targets: [EnrollmentTarget]
        do throws(HostError) {
            targets = try EnrollmentTarget.all(destinations, name: name, inventory: inventory, recorded: records)
        } catch {
            throw fail(error)
        }
        let (issuer, trustDomain) = try issuers.load(access)
        let report = EnrollmentOutput(
            format: output,
            names: targets.map(\.name),
            isReverse: reverse.contains { $0 != "none" }
        )
        var run = EnrollmentRun(
            try order(),
            server: try server.load(access),
            issuer: issuer,
            trustDomain: trustDomain,
            terms: terms(),
            logins: report.asking(for: try ssh.logins()),
            records: records,
            report: report
        )
        run.publisher = try RevocationPublisher.reconciled(issuer, with: records.ledger)
        run.admission = EnrollmentAdmission(
            acceptsNewHostKey: acceptNewHostKey,
            reinstates: reinstate,
            acceptsKnownMachine: acceptKnownMachine
        )
        run.resumes = resume
        let (begun, failures): (Int, [EnrollmentFailure])
        do throws(HostError) {
            (begun, failures) = try await run(targets, parallel: parallel)
        } catch {
            throw fail(error)
        }
        let remarks = HostReport(
            say: { printNotice($0) },
            warn: { printWarning($0) },
            complain: { printError("error: \($0)") }
        )
        _ = await DirectoryPublication.publish(records, issuer as? LiveCA, remarks)
        report.summary(failures, of: begun)
        if let reason = HostError.Reason.common(of: failures.map(\.error.reason)) { throw reason.exitCode }
    }

    private func order() throws -> EnrollmentOrder {
        var order = EnrollmentOrder(
            namespace: namespace,
            node: node(),
            bases: base.map { [$0] },
            agent: try agent(),
            service: device.service ?? ServiceKind.automatic,
            keyOrigin: device.keyOrigin,
            credentialDirectory: device.credentialDir,
            after: device.after
        )
        order.declinesRenewal = renewFrom.map { $0 == "none" }
        order.namesAgent = base != nil || device.service != nil || agentBinary != nil
        return order
    }

    /// Where the issuer that was installed is reached; nil without one.
    private static var installedIssuer: String? {
        (try? AtomicFile.read(Home.issuerAddress)).map { bytes in
            String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
        }
    }

    /// What is not named stays.
    private func node() -> SignalMessage.NodeRequest {
        var keeps = ["allow"]
        if hboneAddress == nil { keeps.append("bind") }
        if hbonePort == nil { keeps.append("port") }
        if renewFrom == nil { keeps.append("renewFrom") }
        if advertise.isEmpty { keeps.append("advertise") }
        if device.service == nil { keeps.append("service") }
        return .init(
            bind: hboneAddress ?? "0.0.0.0",
            port: hbonePort ?? 15008,
            allowPorts: allowPort,
            renewFrom: renewFrom == "none" ? nil : renewFrom,
            allowHosts: allowHost.isEmpty ? nil : allowHost.map { (try? Authority(parsing: $0))?.description ?? $0 },
            keeps: keeps,
            offersRenewal: renewFrom == nil ? Self.installedIssuer : nil,
            reverse: reverse.isEmpty ? nil : reverse.filter { $0 != "none" },
            advertise: advertise.isEmpty || advertise == ["none"] ? nil : advertise
        )
    }

    private func terms() -> IssuanceTerms {
        IssuanceTerms(
            lifetime: issuance.ttl?.duration,
            dnsNames: issuance.dns,
            ipAddresses: issuance.ip,
            acceptsSkew: clock.skewOk,
            attests: device.attest != nil
        )
    }

    private func agent() throws -> AgentBinary {
        do throws(AgentBinaryError) {
            return try AgentBinary.find(agentBinary, executable: Executable.path, cache: Home.cache)
        } catch {
            throw fail(error.message, .usage)
        }
    }
}
