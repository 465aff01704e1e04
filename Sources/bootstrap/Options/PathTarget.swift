import ArgumentParser
import Fleet
import MeshIdentity
package import MeshPaths
import MeshPolicy
import Platform
import SSHSignal

/// Whom a command reaches over the paths of `connect`: an enrolled device by its name, or any host by SSH.
struct PathTarget {
    /// As it was given.
    let destination: String
    let path: PathPreference
    let authority: CAAccess
    /// Of `--gateway`.
    var gateways: [String] = []

    /// What `-W` names: also `[name]:port`, as ssh writes it for any host, with the brackets that only an IPv6 address
    /// needs.
    static func standardTarget(_ text: String) throws(AddressError) -> Authority {
        guard text.first == "[", let end = text.firstIndex(of: "]") else { return try Authority(parsing: text) }
        let host = text[text.index(after: text.startIndex)..<end]
        let isName = !host.contains(":")
        return try Authority(parsing: isName ? String(host + text[text.index(after: end)...]) : text)
    }

    /// - Returns: nil: a host that is no device, where one will do.
    /// - Throws: the exit code; why was printed.
    func findDevice() throws -> Device? {
        let records = DeviceDirectory(Home.devices)
        do throws(HostError) {
            let needsDevice = path != .automatic && path != .ssh || !gateways.isEmpty
            return needsDevice ? try records.enrolled(destination) : try records.enrolledIfAny(destination)
        } catch {
            throw fail(
                HostError(
                    error.reason,
                    path != .automatic
                        ? "--path \(path.rawValue): \(error.message)"
                        : gateways.isEmpty ? error.message : "--gateway: \(error.message)"
                )
            )
        }
    }

    var trust: OperatorTrust {
        OperatorTrust(records: DeviceDirectory(Home.devices), authority: authority.location.path)
    }

    /// Before anything is asked for.
    ///
    /// - Throws: the exit code; why was printed.
    func check(_ device: Device) throws {
        let refusal: HostError?
        do throws(DeviceDirectoryError) {
            refusal = try trust.refusal(of: device)
        } catch {
            throw fail(error.message)
        }
        if let refusal { throw fail(refusal) }
    }

    /// Who the operator is to the device.
    ///
    /// - Throws: the exit code; why was printed.
    func makeSession(_ device: Device) throws -> OperatorSession {
        let authority = try authority.loadLive()
        let identity: OperatorIdentity
        do throws(SPIFFEIDError) {
            identity = try OperatorIdentity(for: device, by: authority, records: DeviceDirectory(Home.devices))
        } catch {
            throw fail("the record of \(device.name) has no usable identity: \(error)")
        }
        do {
            return try OperatorSession(of: identity)
        } catch let error as HostError {
            throw fail(error)
        } catch let error as IdentityError {
            throw fail(error)
        } catch {
            throw fail("\(error)")
        }
    }

    /// - Parameters:
    ///   - watch: Of who is no device by this name.
    ///   - warn: Told what the user should know about the login.
    /// - Throws: the exit code; why was printed.
    func makeAccess(
        _ device: Device?,
        _ watch: HostWatch?,
        _ logins: LoginOptions,
        warn: @escaping @Sendable (String) -> Void
    ) throws -> PeerAccess {
        var login: SSHLogin
        do throws(SSHConfigurationError) {
            login = try logins.login(
                to: try Destination(parsing: device?.destination ?? destination),
                recorded: device?.ssh.arguments,
                warn: warn
            )
        } catch {
            throw fail("\(error)", .usage)
        }
        if let watch { login.objection = { watch.objection(to: $0) } }
        guard let device else {
            return PeerAccess(
                name: destination,
                transports: [.ssh],
                hbone: [],
                expectation: .identities([]),
                login: login
            )
        }
        let terms = GatewayTerms(of: device.identity, port: device.hbonePort)
        let named = try namedGateways(device, terms)
        let agent = device.agent.path.isEmpty ? nil : device.agent.path
        let expectation = PeerExpectation.identities([device.identity])
        guard path != .h2ViaGateway else {
            return PeerAccess(
                name: device.name,
                ways: named,
                expectation: expectation,
                login: login,
                agent: agent
            )
        }
        var access = PeerAccess(
            name: device.name,
            transports: path.transports,
            hbone: device.hbone,
            expectation: expectation,
            login: login,
            agent: agent
        )
        access.add(named)
        if path == .automatic {
            access.gatewayTerms = terms
            access.gateways = device.recordedGateways
        }
        return access
    }

    /// The ways through gateways that the operator has named: on the command line, or for all devices. Where nothing
    /// else is tried, those that the device has named, too.
    ///
    /// - Throws: the exit code; why was printed.
    private func namedGateways(_ device: Device, _ terms: GatewayTerms?) throws -> [PathWay] {
        guard path == .automatic || path == .h2ViaGateway else {
            guard gateways.isEmpty else {
                throw fail("--path \(path.rawValue) leaves --gateway out: remove one", .usage)
            }
            return []
        }
        let everywhere: [PeerOffer.Gateway]
        do throws(ConfigurationError) {
            everywhere = try OperatorConfiguration.gateways()
        } catch {
            throw fail("\(error)", .usage)
        }
        let named = try gateways.map(Self.gateway)
        guard let terms else {
            if named.isEmpty, path == .automatic { return [] }
            throw fail(
                "\(device.name) is \(device.identity), for which gateways have no name: they know /ns/NAMESPACE/sa/NAME only",
                .usage
            )
        }
        let ways: [PathWay]
        do throws(AddressError) {
            ways = try terms.ways(through: named)
        } catch {
            throw fail("--gateway \(error.message)", .usage)
        }
        // Those for all devices need not be for this one: it may be of another trust domain.
        let others = everywhere.compactMap { try? terms.ways(through: [$0]) }.joined()
        var all = ways + others.filter { way in !ways.contains { $0.id == way.id } }
        guard path == .h2ViaGateway else { return all }
        // Where other paths are tried, those of the device come and go with what it says.
        let recorded = terms.ways(recorded: device.recordedGateways, of: device.hbone)
        all += recorded.filter { way in !all.contains { $0.id == way.id } }
        guard !all.isEmpty else {
            throw fail(
                "--path \(path.rawValue) needs a gateway, and \(device.name) has named none: give --gateway HOST:PORT, or "
                    + "'gateways' in \(OperatorConfiguration.path)",
                .usage
            )
        }
        return all
    }

    /// `HOST:PORT`, or `HOST:PORT=SPIFFE-ID`.
    private static func gateway(_ text: String) throws -> PeerOffer.Gateway {
        let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        do {
            let id = try parts.count > 1 ? SPIFFEID(parts[1]).description : nil
            return PeerOffer.Gateway(address: try Authority(parsing: parts[0]), id: id)
        } catch {
            throw fail("--gateway \(Printable.escape(text)): \(error) (HOST:PORT, or HOST:PORT=SPIFFE-ID)", .usage)
        }
    }
}

extension Device {
    /// Through which it says that it is reached.
    fileprivate var recordedGateways: [PeerOffer.Gateway] {
        (gateways ?? []).compactMap { PeerOffer.Gateway(recorded: $0) }
    }
}

extension PathPreference: ExpressibleByArgument {}
