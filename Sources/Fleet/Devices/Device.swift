package import MeshIdentity
import MeshPolicy
package import Platform
package import SSHSignal

/// What the operator's side remembers of an enrolled device: enough to reach it, and to notice when it is not the same
/// any more. No secret is in it.
package struct Device: Hashable, Sendable, Codable {
    /// The name it was enrolled under; unique in its directory.
    package var name: String
    /// As it was given to `enroll`: `[user@]host[:port]` or an alias.
    package var destination: String
    /// What `-F`, `-o`, `-i`, `-p` and `-J` said then, so that `connect` reaches it the same way.
    package var ssh: SSHOptions
    /// `SHA256:…` of the key it showed, and the key's type.
    package var hostKey: HostKeyRecord
    /// Its SPIFFE ID.
    @Recorded package var identity: SPIFFEID
    /// Where its HBONE server can be reached, best first: numeric, but for names that it was told to be
    /// reached at (`--advertise`).
    @RecordedList package var hbone: [Authority]
    package var agent: Agent
    /// When its certificate ends, in seconds since 1970.
    package var notAfter: Int64
    /// When it was enrolled last, in seconds since 1970.
    package var enrolledAt: Int64
    /// The certificate's serial number in lower-case hexadecimal; nil in records of earlier releases.
    package var serial: String?
    /// Where its private key was made; nil is on the device, by the agent.
    package var keyOrigin: KeyOrigin?
    /// What is run on a device without an agent after its credential was replaced.
    package var after: String?
    /// How long its certificates are valid, in seconds; nil is the default.
    package var lifetime: Int64?
    /// SHA-256 fingerprints of the roots it has, by its own word, in lower-case hexadecimal; nil when it did not say.
    package var roots: [String]?
    /// Ports and `host:port` that members of its namespace may reach, by its own word; nil: it did not say (it was
    /// enrolled by an earlier release, or has no agent).
    package var allowed: [String]?
    /// Where its HBONE listener was bound when it was enrolled last, by its own word: `address:port`; nil: it did not
    /// say, or has none.
    package var listener: String?
    /// Gateways through which it is reached, by its own word: `host:port`, or `host:port=SPIFFE-ID` for one that is not
    /// of its namespace; nil: it did not say.
    package var gateways: [String]?
    /// `host:port` of who renews its certificate over the mesh, by its own word; nil: nobody, as far as is known.
    package var renewFrom: String?
    /// The user has said that nobody is to renew it over the mesh (`--renew-from none`): no issuer is offered to it
    /// until another is named.
    package var declinesRenewal: Bool?
    /// What the inventory says of it, for people.
    package var labels: [String: String]?
    /// Its host key's signature over the request of its enrolment; nil: that was not asked for.
    package var attestation: HostKeyAttestation?
    /// What was set up in its sshd; nil: nothing.
    package var sshServer: SSHServerRecord?
    /// When its certificate was renewed last since it was enrolled, in seconds since 1970.
    package var renewedAt: Int64?
    /// When it was revoked, in seconds since 1970; nil: it is not.
    package var revokedAt: Int64?
    package var revocationReason: String?
    /// When its present certificate was revoked, in seconds since 1970; nil: it is not. The device may be trusted: then
    /// it needs another.
    package var certificateRevokedAt: Int64?

    package enum KeyOrigin: String, Hashable, Sendable, Codable {
        /// On the device, by the agent.
        case device
        /// On the device, by its own OpenSSL: no agent fits there.
        case openssl
        /// Elsewhere: it was sent there, because somebody asked for it by name.
        case pushed
    }

    package struct SSHOptions: Hashable, Sendable, Codable {
        package var configurationFile: String?
        package var options: [String]
        package var identityFiles: [String]
        package var port: UInt16?
        package var jump: String?
        /// nil stands for ``SSHEngine/automatic``.
        package var engine: SSHEngine?

        package init(_ arguments: SSHArguments) {
            configurationFile = arguments.configurationFile
            options = arguments.options
            identityFiles = arguments.identityFiles
            port = arguments.port
            jump = arguments.jump
            engine = arguments.engine == .automatic ? nil : arguments.engine
        }

        package var arguments: SSHArguments {
            SSHArguments(
                configurationFile: configurationFile,
                options: options,
                identityFiles: identityFiles,
                port: port,
                jump: jump,
                engine: engine ?? .automatic
            )
        }
    }

    package typealias HostKeyRecord = MachineKey

    package struct Agent: Hashable, Sendable, Codable {
        /// On the device, absolute.
        package var path: String
        /// On the device, absolute: where credential, configuration and log of its node are; without an agent (``path``
        /// is empty then) the credential directory itself.
        package var state: String
        /// Lower-case hexadecimal.
        package var sha256: String

        /// Version and beginning of the hash: the directory it is in.
        package var release: String? {
            let parts = path.split(separator: "/")
            return parts.count >= 2 ? String(parts[parts.count - 2]) : nil
        }

        package init(path: String, state: String, sha256: String) {
            self.path = path
            self.state = state
            self.sha256 = sha256
        }
    }

    package init(
        name: String,
        destination: String,
        ssh: SSHOptions,
        hostKey: HostKeyRecord,
        identity: SPIFFEID,
        hbone: [Authority],
        agent: Agent,
        notAfter: Int64,
        enrolledAt: Int64,
        serial: String? = nil,
        lifetime: Int64? = nil,
        roots: [String]? = nil
    ) {
        self.name = name
        self.destination = destination
        self.ssh = ssh
        self.hostKey = hostKey
        _identity = Recorded(wrappedValue: identity)
        _hbone = RecordedList(wrappedValue: hbone)
        self.agent = agent
        self.notAfter = notAfter
        self.enrolledAt = enrolledAt
        self.serial = serial
        self.lifetime = lifetime
        self.roots = roots
    }
}

extension MachineKey {
    package init(_ key: HostKey) { self.init(algorithm: key.algorithm, fingerprint: key.fingerprint) }
}

extension Device {
    /// What to do about a destination that it denies; nil where that is not for want of permission, as far as is known.
    ///
    /// - Parameter destination: As it was asked for.
    package func remedy(forDenied destination: Authority) -> String? {
        guard let allowed else { return nil }
        let host = destination.host.description
        let isItself = ["localhost", "127.0.0.1", "::1", "[::1]"].contains(host)
        let words = isItself ? "\(destination.port)" : destination.description
        guard !allowed.contains(words) else { return nil }
        let list = allowed.isEmpty ? "nothing" : allowed.joined(separator: ", ")
        if host == PeerListening.host {
            return
                "\(name) does not allow others to listen on port \(destination.port) (allowed: \(list)). Add it: bootstrap allow "
                + "\(name) --listen \(destination.port)"
        }
        return
            "\(name) does not allow \(isItself ? "port \(words)" : words) (allowed: \(list)). Add it: bootstrap allow \(name) \(words)"
    }

    /// Where it lets others reach something else than is recorded, what, and what to do; nil where not, as far as is
    /// known.
    ///
    /// - Parameter actual: What it allows, by its own word.
    package func remark(allowing actual: [String]?) -> (difference: String, remedy: String)? {
        guard let allowed, let actual, Set(allowed) != Set(actual) else { return nil }
        func list(_ places: [String]) -> String { places.isEmpty ? "nothing" : places.joined(separator: ", ") }
        let (more, less) = (actual.filter { !allowed.contains($0) }, allowed.filter { !actual.contains($0) })
        var remedies: [String] = []
        if !more.isEmpty {
            let words = "\(name) \(more.joined(separator: " "))"
            remedies.append("bootstrap deny \(words) closes it, bootstrap allow \(words) keeps it")
        }
        if !less.isEmpty { remedies.append("bootstrap allow \(name) \(less.joined(separator: " ")) opens it again") }
        return (
            "it allows \(list(actual)), and the ledger has \(list(allowed))", remedies.joined(separator: "; ")
        )
    }

    /// Of what it allows, what streams lead to: not where it may be had to listen.
    package var reachable: [String]? { allowed?.filter { !$0.hasPrefix("\(PeerListening.host):") } }

    /// What to do with it once it is enrolled: commands that work as they stand here, and what they are for.
    package var advice: [(command: String, what: String)] {
        guard (keyOrigin ?? .device) == .device else { return [] }
        if let place = reachable?.first {
            let target = UInt16(place) == nil ? place : "localhost:\(place)"
            return [("bootstrap connect \(name) -L 8080:\(target)", "reach at port 8080 here what it allows")]
        }
        // Its sshd is there in any case.
        let port = (try? Destination(parsing: destination))?.port ?? ssh.port ?? 22
        return [
            (
                "bootstrap allow \(name) \(port)",
                "let you, and others of its namespace, reach a port of it: here its sshd's"
            ),
            ("bootstrap connect \(name) -L 8080:localhost:\(port)", "then reach it at port 8080 here"),
        ]
    }

    /// The port of its HBONE server on its own machine: a port forward that leads there may have another one.
    package var hbonePort: UInt16 {
        listener.flatMap { try? Authority(parsing: $0) }?.port ?? hbone.first?.port ?? 15008
    }

    /// The directory that the agent was installed below; nil without an agent.
    package var base: String? {
        // BASE/bootstrap/state
        let parts = agent.state.split(separator: "/")
        guard !agent.path.isEmpty, parts.count >= 2, parts.suffix(2) == ["bootstrap", "state"] else { return nil }
        return "/" + parts.dropLast(2).joined(separator: "/")
    }
}
