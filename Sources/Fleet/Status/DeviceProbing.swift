import H2Transport
import MeshIdentity
import MeshPaths
import Platform
import SSHSignal
import Streams

/// Visits devices of the ledger, some at a time, and compares what they have with what the ledger says: `status
/// --probe`.
package struct DeviceProbing: Sendable {
    private let hosts: HostRun
    private let logins: LoginOptions
    private let authority: LiveCA?
    private let records: DeviceDirectory
    private let trust: OperatorTrust
    private let warn: @Sendable (String) -> Void

    /// - Parameters:
    ///   - parallel: How many devices at a time.
    ///   - logins: How to log in to them.
    ///   - authority: Who asks over the mesh; nil where there is no CA to make an identity with.
    ///   - records: The ledger.
    ///   - trust: Who is revoked.
    ///   - warn: What the user should know. Called from any task.
    package init(
        parallel: Int,
        logins: LoginOptions,
        authority: LiveCA?,
        records: DeviceDirectory,
        trust: OperatorTrust,
        warn: @escaping @Sendable (String) -> Void
    ) {
        hosts = HostRun(width: parallel)
        self.logins = logins
        self.authority = authority
        self.records = records
        self.trust = trust
        self.warn = warn
    }

    /// - Returns: What was found, in the order of `devices`.
    package func callAsFunction(_ devices: [Device]) async -> [DeviceFindings] {
        await hosts(devices) { (device, loop) async throws(HostError) in await visit(device, on: loop) }
            .compactMap(\.value)
    }

    private func visit(_ device: Device, on loop: EventLoop) async -> DeviceFindings {
        var findings = DeviceFindings(device: device)
        // Nobody is to have anything to do with it. It may have been revoked since the command began.
        if let now = try? records.record(named: device.name) {
            (findings.device.revokedAt, findings.device.certificateRevokedAt) = (
                now.revokedAt, now.certificateRevokedAt
            )
        }
        guard findings.device.revokedAt == nil else { return findings }
        if let refusal = (try? trust.refusal(ofDeviceNamed: device.name)) ?? nil {
            findings.ssh = .fails(refusal)
            return findings
        }
        let start = ContinuousClock.now
        do throws(HostError) {
            findings = try await device.login(logins, warn: warn).visit(device.name, on: loop) { [findings] client in
                var findings = findings
                findings.ssh = .answers(milliseconds: Int((ContinuousClock.now - start) / .milliseconds(1)))
                do throws(HostError) {
                    findings.reading = try await DeviceReading.read(device, on: client)
                } catch {
                    findings.ssh = .fails(error)
                }
                findings.mesh = await mesh(device, client)
                return findings
            }
        } catch {
            findings.ssh = .fails(error)
            findings.mesh = await mesh(device, on: loop)
        }
        return findings
    }

    // MARK: The mesh

    /// Straight to the addresses that the device has named, and else by SSH to the port on its loopback, as paths do.
    private func mesh(_ device: Device, _ client: SSHClient) async -> DeviceFindings.Mesh {
        let direct = await mesh(device, on: client.loop)
        guard case .fails(let reason, let isRefusal) = direct, !isRefusal,
            let port = device.hbone.first?.port
        else { return direct }
        do {
            let (context, expectation) = try credential(for: device)
            let channel = try await client.openDirectTCPIP(host: "127.0.0.1", port: port)
            let answer = try await TunnelProbe.run(over: channel, context: context, expecting: expectation)
            return .answers(path: "h2-over-ssh", serial: answer.certificate?.serial, remark: reason)
        } catch {
            return direct
        }
    }

    private func mesh(_ device: Device, on loop: EventLoop) async -> DeviceFindings.Mesh {
        guard !device.hbone.isEmpty else { return .unknown("it has no agent") }
        let context: TLSContext
        let expectation: PeerExpectation
        do {
            (context, expectation) = try credential(for: device)
        } catch {
            return .unknown("\(error)")
        }
        var failure: StreamError?
        for authority in device.hbone {
            do throws(StreamError) {
                let address = try SocketAddress(ip: authority.host, port: authority.port)
                let answer = try await TunnelProbe.run(
                    address,
                    context: context,
                    expecting: expectation,
                    timeout: .seconds(3),
                    on: loop
                )
                return .answers(path: "h2", serial: answer.certificate?.serial, remark: nil)
            } catch {
                if error.code == .authentication { return .fails("\(authority): \(error.message)", isRefusal: true) }
                failure = failure ?? StreamError(error.code, "\(authority): \(error.message)")
            }
        }
        return .fails(failure?.message ?? "", isRefusal: false)
    }

    private func credential(for device: Device) throws -> (TLSContext, PeerExpectation) {
        guard let authority else { throw IdentityError(.notFound, "there is no CA here to ask with") }
        let peer = device.identity
        let known = Set(try authority.roots().map(\.fingerprint))
        guard peer.trustDomain == authority.trustDomain, device.roots.map({ !known.isDisjoint(with: $0) }) ?? true
        else {
            throw IdentityError(.refused, "another CA than the one here vouches for it")
        }
        let identity = try OperatorIdentity(for: device, by: authority, records: records)
        return (try identity.context(identity.issue()), .identities([peer]))
    }
}
