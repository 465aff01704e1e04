import MeshIdentity
import Platform
import SSHSignal
import Streams

/// What a login finds out about the machine.
extension DeviceChecks {
    func look(_ client: SSHClient, _ isTrusted: Bool) async {
        do {
            let usual = DeviceEnrollment.Installation.defaultBases
            let bases = device?.base.map { base in [base] + usual } ?? usual
            let name = device?.name ?? destination
            let inspection = try await DeviceInspection.run(on: client, agent: agent, bases: bases, name: name)
            shell(inspection)
            if hasAgent {
                fit(inspection)
                installation(inspection)
                service(inspection)
            }
            clock(inspection)
        } catch let error as SSHError {
            let explanation = SSHErrorExplanation(error, destination: destination, isLoggedIn: true)
            report(.failure("shell", error.message, fix: explanation.fix, explanation.reason))
            skip(["fit", "installation", "service", "clock"], because: "a shell")
        } catch {
            report(
                .failure(
                    "shell",
                    "\(error)",
                    fix:
                        "`ssh \(destination) 'exec sh -s' </dev/null` must run and print nothing: look at the account's rc files and its shell"
                )
            )
            skip(["fit", "installation", "service", "clock"], because: "a shell")
        }
        await sessions(client)
        if hasAgent { await forwarding(client) }
        if hasAgent, let device { await gateways(of: device, client) }
        guard isTrusted else { return skip(["certificate"], because: "a device that is not revoked") }
        await certificate(client)
    }

    private func shell(_ inspection: DeviceInspection) {
        let milliseconds = Int(inspection.duration / .milliseconds(1))
        let facts = inspection.facts
        let what = "\(facts.operatingSystem) \(facts.architecture), user \(facts.user), answered in \(milliseconds) ms"
        guard milliseconds > 3000 else { return report(.good("shell", what)) }
        report(
            .warning(
                "shell",
                what,
                fix: "the account's rc files are slow (.bashrc); leave them early where $- has no i"
            )
        )
    }

    private func fit(_ inspection: DeviceInspection) {
        guard let agent else { return report(.skipped("fit", because: "an agent to upload")) }
        do throws(HostError) {
            report(.good("fit", "the agent fits in \(try inspection.place(for: agent))"))
        } catch {
            report(
                .failure(
                    "fit",
                    error.message,
                    fix: "bootstrap enroll --agentless \(destination) needs no program there"
                )
            )
        }
    }

    /// What other installations do there, or have left.
    private func installation(_ inspection: DeviceInspection) {
        let bases = inspection.facts.bases
        if let base = bases.first(where: { $0.installer != nil }), let process = base.installer {
            report(
                .warning(
                    "installation",
                    "another bootstrap (process \(process) there) is installing in \(base.path)/bootstrap",
                    fix:
                        "wait for it; a connection that died holds the lock until the machine's sshd notices (ClientAliveInterval)"
                )
            )
        } else if let base = bases.first(where: \.hasLeftovers) {
            report(
                .warning(
                    "installation",
                    "one in \(base.path)/bootstrap was cut; nothing of it is in use",
                    fix: "bootstrap enroll \(device?.destination ?? destination) removes what it left, and finishes"
                )
            )
        } else {
            report(.good("installation", "none is under way, none was cut"))
        }
    }

    /// Whether the agent comes back after a reboot.
    private func service(_ inspection: DeviceInspection) {
        let found = inspection.facts.surroundings
        let isRoot = found.privilege == .root
        switch found.initSystem {
        case .systemd where isRoot, .openrc where isRoot, .procd where isRoot:
            report(.good("service", "\(found.initSystem.rawValue) starts it at boot"))
        case .systemd where found.hasUserBus && found.lingers:
            report(.good("service", "the account's own systemd starts it at boot"))
        case .systemd where found.hasUserBus:
            report(
                .warning(
                    "service",
                    "the account's systemd runs only while somebody is logged in",
                    fix: "there: loginctl enable-linger (as root: loginctl enable-linger \(inspection.facts.user))"
                )
            )
        case _ where found.runsCron:
            report(.good("service", "cron starts it at boot (@reboot)"))
        default:
            report(
                .warning(
                    "service",
                    "nothing is known there that starts a program at boot: a reboot ends the agent",
                    fix: "install cron, or log in as root where the machine has systemd, OpenRC or procd"
                )
            )
        }
    }

    private func clock(_ inspection: DeviceInspection) {
        let skew = inspection.skew
        let fix = "set it (date -u -s), or have it set (systemd-timesyncd, chrony, ntpd)"
        switch abs(skew.milliseconds) {
        case ..<ClockSkew.warningThreshold: report(.good("clock", "\(abs(skew.milliseconds)) ms apart at most"))
        case ..<ClockSkew.consequenceThreshold: report(.warning("clock", "\(skew)", fix: fix))
        case ..<(IssuanceOptions.defaultLifetime.components.seconds * 1000 / 4):
            report(
                .warning(
                    "clock",
                    "\(skew): certificates are dated back for it, but it refuses new ones of others",
                    fix: fix
                )
            )
        default: report(.failure("clock", "\(skew): it gets no certificate", fix: fix))
        }
    }

    /// Two commands at once: what `connect` and `renew` at the same time need.
    private func sessions(_ client: SSHClient) async {
        do throws(SSHError) {
            let first = try await client.execute("exec cat")
            defer { first.loop.submit { first.withValue { $0.close() } } }
            let second = try await client.execute("exec cat")
            second.loop.submit { second.withValue { $0.close() } }
            report(.good("sessions", "more than one at a time"))
        } catch {
            let explanation = SSHErrorExplanation(error, destination: destination, isLoggedIn: true)
            report(.warning("sessions", error.message, fix: explanation.fix))
        }
    }

    /// What the path `h2-over-ssh` rests on: a channel to the node's own port.
    private func forwarding(_ client: SSHClient) async {
        guard let port = device?.hbone.first?.port else {
            return report(.skipped("forwarding", because: "an enrolled device"))
        }
        do throws(StreamError) {
            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: port)
            client.loop.submit { channel.withValue { $0.reset(StreamError(.closed, "only a test")) } }
            report(.good("forwarding", "sshd connects to port \(port) there"))
        } catch {
            switch error.code {
            case .denied:
                report(
                    .warning(
                        "forwarding",
                        error.message,
                        fix:
                            "AllowTcpForwarding yes in sshd_config makes the fallback faster; without it streams go through the agent"
                    )
                )
            default:
                report(
                    .failure(
                        "forwarding",
                        "nothing listens on port \(port) of the machine: its node does not run (\(error.message))",
                        fix:
                            "bootstrap enroll \(device?.destination ?? destination) starts it; its log is \(device?.agent.state ?? "")/node.log"
                    )
                )
            }
        }
    }

    /// Those that it is reached through, where it has any.
    private func gateways(of device: Device, _ client: SSHClient) async {
        // Why it cannot be read, the other checks say.
        guard let reading = try? await DeviceReading.read(device, on: client) else { return }
        for gateway in reading.gateways {
            if let problem = gateway.problem(for: device.identity) {
                report(.warning("gateway", problem.text, fix: problem.fix))
            } else if gateway.state == .unknown {
                report(
                    .warning(
                        "gateway",
                        "the log of its node does not say whether it is reached through \(gateway.address)",
                        fix: "see its log, \(device.agent.state)/node.log"
                    )
                )
            } else {
                report(.good("gateway", "reached through \(gateway.description)"))
            }
        }
    }

    private func certificate(_ client: SSHClient) async {
        guard let device else { return report(.skipped("certificate", because: "an enrolled device")) }
        // Without an agent the directory is the credential's own.
        let file = hasAgent ? "\(device.agent.state)/identity/cert-chain.pem" : "\(device.agent.state)/cert-chain.pem"
        let renew = "bootstrap renew \(device.name)"
        do {
            let certificates = try Certificate.all(pem: try await client.download(file, limit: 1 << 20))
            guard let leaf = certificates.first else {
                return report(.failure("certificate", "\(file) is empty", fix: renew))
            }
            let now = WallClock.system.milliseconds / 1000
            let end = Timestamp.text(leaf.notAfter)
            let lifetime = max(1, leaf.notAfter - leaf.notBefore)
            if leaf.notAfter <= now {
                report(.failure("certificate", "it ended at \(end)", fix: renew))
            } else if leaf.notAfter - now < lifetime / 4 {
                report(.warning("certificate", "it ends at \(end)", fix: renew))
            } else {
                report(.good("certificate", "valid until \(end)"))
            }
        } catch {
            report(
                .failure(
                    "certificate",
                    "\(file): \(error)",
                    fix: hasAgent ? "bootstrap enroll \(device.destination)" : renew
                )
            )
        }
    }
}
