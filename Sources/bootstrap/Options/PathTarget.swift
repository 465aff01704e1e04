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
            let needsDevice = path != .automatic && path != .ssh
            return needsDevice ? try records.enrolled(destination) : try records.enrolledIfAny(destination)
        } catch {
            throw fail(
                HostError(
                    error.reason,
                    path == .automatic ? error.message : "--path \(path.rawValue): \(error.message)"
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
        var access = PeerAccess(
            name: device.name,
            transports: path.transports,
            hbone: device.hbone,
            expectation: .identities([device.identity]),
            login: login,
            agent: device.agent.path.isEmpty ? nil : device.agent.path
        )
        if path == .automatic {
            access.gatewayTerms = GatewayTerms(of: device.identity, port: device.hbone.first?.port ?? 15008)
            access.gateways = (device.gateways ?? []).compactMap { PeerOffer.Gateway(recorded: $0) }
        }
        return access
    }
}

extension PathPreference: ExpressibleByArgument {}
