import H2Transport
import MeshIdentity
import MeshNode
import MeshPaths
import Platform
import SSHSignal
import Streams

/// Visits devices of the ledger, some at a time, and compares what they have with what the ledger says: `status --probe`.
struct DeviceProbing: Sendable {
    /// How many devices at a time.
    var parallel: Int
    var ssh: SSHOptionGroup
    /// Who asks over the mesh; nil where there is no CA to make an identity with.
    var authority: EmbeddedCA?

    /// - Returns: What was found, in the order of `devices`.
    func callAsFunction(_ devices: [DeviceRecord]) async -> [DeviceFindings] {
        guard !devices.isEmpty else { return [] }
        let loops = EventLoopGroup(count: min(devices.count, parallel, Executable.processors))
        let found = await withTaskGroup(of: (Int, DeviceFindings).self) { group in
            var found: [Int: DeviceFindings] = [:]
            var waiting = Array(devices.enumerated())[...]
            func startNext() {
                guard let (index, device) = waiting.popFirst() else { return }
                group.addTask { (index, await visit(device, on: loops.next())) }
            }
            for _ in 0..<parallel { startNext() }
            while let (index, findings) = await group.next() {
                found[index] = findings
                startNext()
            }
            return found
        }
        await loops.shutDown()
        return devices.indices.compactMap { found[$0] }
    }

    private func visit(_ device: DeviceRecord, on loop: EventLoop) async -> DeviceFindings {
        var findings = DeviceFindings(device: device)
        // Nobody is to have anything to do with it.
        guard device.revokedAt == nil else { return findings }
        let start = ContinuousClock.now
        do throws(EnrollmentError) {
            findings = try await device.login(ssh).visit(device.name, on: loop) { [findings] client in
                var findings = findings
                findings.ssh = .answers(milliseconds: Int((ContinuousClock.now - start) / .milliseconds(1)))
                do throws(EnrollmentError) {
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
    private func mesh(_ device: DeviceRecord, _ client: SSHClient) async -> DeviceFindings.Mesh {
        let direct = await mesh(device, on: client.loop)
        guard case .fails(let reason, let isRefusal) = direct, !isRefusal,
            let port = device.hbone.first.flatMap({ try? Authority(parsing: $0).port })
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

    private func mesh(_ device: DeviceRecord, on loop: EventLoop) async -> DeviceFindings.Mesh {
        guard !device.hbone.isEmpty else { return .unknown("it has no agent") }
        let context: TLSContext
        let expectation: PeerExpectation
        do {
            (context, expectation) = try credential(for: device)
        } catch {
            return .unknown("\(error)")
        }
        var failure: StreamError?
        for text in device.hbone {
            do throws(StreamError) {
                let authority = try StreamError.reading(Authority(parsing: text))
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
                if error.code == .authentication { return .fails("\(text): \(error.message)", isRefusal: true) }
                failure = failure ?? StreamError(error.code, "\(text): \(error.message)")
            }
        }
        return .fails(failure?.message ?? "", isRefusal: false)
    }

    private func credential(for device: DeviceRecord) throws -> (TLSContext, PeerExpectation) {
        guard let authority else { throw IdentityError(.notFound, "there is no CA here to ask with") }
        let peer = try SPIFFEID(device.identity)
        let known = Set(authority.roots.map(\.fingerprint))
        guard peer.trustDomain == authority.trustDomain, device.roots.map({ !known.isDisjoint(with: $0) }) ?? true
        else {
            throw IdentityError(.refused, "another CA than the one here vouches for it")
        }
        let id = try SPIFFEID(trustDomain: peer.trustDomain, namespace: peer.namespace ?? "default", name: "operator")
        let credential = try OperatorIdentity.issue(id, by: authority)
        return (try OperatorIdentity.context(credential), .identities([peer]))
    }
}
