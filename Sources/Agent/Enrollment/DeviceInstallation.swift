import Glibc
import MeshIdentity
import Platform
import SSHSignal
import Streams

/// What `bootstrap signal` does on the device: key, credential, configuration, node. All files are below one directory:
///
///     identity/      the credential directory
///     node.yaml      the node's configuration
///     node.pid       its process number
///     node.ready     its standard output: where it listens
///     node.log       its log
///     run/           where one node hands its sockets to the next
///     offer          what was said last of how it is reached (``DeviceOffer``)
///     outcome        what an operator has made of that
///     service        which kind of service keeps it; absent for none
struct DeviceInstallation {
    let state: String
    let executable: String
    /// `$SSH_CONNECTION`.
    let connection: String?

    /// Made and not used yet.
    private var pending: PendingCredential?
    /// One operator at a time. Held from the first order that changes something to the end of the conversation.
    private var lock: FileLock?

    init(state: String, executable: String, connection: String?) {
        self.state = state
        self.executable = executable
        self.connection = connection
    }

    private var credentials: CredentialDirectory { CredentialDirectory("\(state)/identity") }
    private var node: NodeProcess { NodeProcess(state: state, executable: executable) }
    private var deviceNode: DeviceNode { DeviceNode(state: state, executable: executable) }

    /// Makes the directory, readable by its owner only.
    private func prepare() throws(SignalError) {
        do throws(IdentityError) {
            try fileWork(AtomicFile.createDirectory(state, mode: 0o700))
        } catch {
            throw SignalError(.credential, error.message)
        }
    }

    private mutating func takeLock() throws(SignalError) {
        guard lock == nil else { return }
        do throws(IdentityError) {
            lock = try fileWork(FileLock(directory: state, patience: .seconds(5)))
        } catch {
            throw SignalError(.refused, "another enrolment of this device is under way (\(error.message))")
        }
    }

    /// The same for one that gives the device a certificate. What another operator has decided while this one waited
    /// stays: both would be told that theirs is the device's certificate.
    private mutating func takeLockForCertificate() throws(SignalError) {
        let before = try? LocalFile.read("\(credentials.path)/cert-chain.pem")
        try takeLock()
        guard before == (try? LocalFile.read("\(credentials.path)/cert-chain.pem")) else {
            lock = nil
            throw SignalError(
                .refused,
                "another enrolment of this device was under way, and has just given it a certificate; try again if it is to have another"
            )
        }
    }

    private func check(_ request: SignalMessage.NodeRequest) throws(SignalError) {
        guard NumericAddress.isNumeric(request.bind) else {
            throw SignalError(
                .refused,
                "'\(Printable.clean(request.bind, limit: 80))' is no numeric address to listen on"
            )
        }
    }

    /// Where an issuer that is offered is reached from here; nil where it is not.
    private func issuer(_ offer: String) -> String? {
        var place = offer
        if offer.hasPrefix("*:") {
            // "client port server port"
            guard let client = connection?.split(separator: " ").first, let port = UInt16(offer.dropFirst(2)) else {
                return nil
            }
            place = NumericAddress.text(String(client), port)
        }
        guard let (address, port) = NumericAddress.split(place) else { return nil }
        let isReached = (try? SocketAddress(ip: address, port: port))?.accepts(within: .seconds(2)) == true
        return isReached ? place : nil
    }

    /// nil: there is none, or it cannot be read.
    private func presentConfiguration() -> PresentConfiguration? {
        guard let file = try? LocalFile.read(node.configuration) else { return nil }
        return PresentConfiguration(
            file,
            path: node.configuration,
            identity: credentials.path,
            id: try? identity(of: .renew),
            listener: node.listener
        )
    }

    private func check(_ order: SignalMessage.Enroll, against present: PresentConfiguration?) throws(SignalError) {
        if let refusal = present?.refusal(of: order) { throw SignalError(.refused, refusal) }
    }

    /// Returns whether the file had this content already.
    private func writeConfiguration(_ request: SignalMessage.NodeRequest, id: SPIFFEID) throws(SignalError) -> Bool {
        let text = NodeConfigurationFile.text(identity: credentials.path, id: id, node: request)
        if let present = try? LocalFile.read(node.configuration), present == Array(text.utf8) { return true }
        do throws(IdentityError) {
            try fileWork(AtomicFile.write(Array(text.utf8), to: node.configuration))
        } catch {
            throw SignalError(.node, error.message)
        }
        return false
    }

    private func identity(of order: EnrollmentDevice.Order) throws(IdentityError) -> SPIFFEID {
        switch order {
        case .enroll(let enroll):
            do throws(SPIFFEIDError) {
                return try SPIFFEID(enroll.id)
            } catch {
                throw IdentityError(
                    .refused,
                    "the operator's identity '\(Printable.clean(enroll.id, limit: 200))': \(error.message)"
                )
            }
        case .renew:
            // Not `load`: an expired certificate is exactly what is renewed.
            let chain = try Certificate.all(file: "\(credentials.path)/cert-chain.pem")
            do throws(SVIDError) {
                guard let leaf = chain.first else { throw SVIDError(.malformed, "it is empty") }
                return try leaf.spiffeID()
            } catch {
                throw IdentityError(.invalidCertificate, "\(credentials.path)/cert-chain.pem: \(error.message)")
            }
        }
    }
}

extension DeviceInstallation: SignaledDevice {
    mutating func prepareKey(_ order: EnrollmentDevice.Order) throws(SignalError) -> SignalMessage.SigningRequest {
        try prepare()
        try takeLockForCertificate()
        // Before anything is signed, too.
        if case .enroll(let enroll) = order { try check(enroll, against: presentConfiguration()) }
        do throws(IdentityError) {
            let prepared = try credentials.prepare(id: try identity(of: order))
            pending = prepared
            return .init(id: prepared.id.description, csr: String(decoding: prepared.request.pem, as: UTF8.self))
        } catch {
            throw SignalError(.credential, error.message)
        }
    }

    mutating func discardKey() { pending = nil }

    mutating func install(
        _ certificate: SignalMessage.IssuedCertificate,
        for order: EnrollmentDevice.Order
    ) throws(SignalError) -> SignalMessage.Acknowledgement {
        guard let pending else { throw SignalError(.credential, "there is no key for this certificate") }
        self.pending = nil
        // Before the credential is stored: whatever is refused with another code than `node` counts as not stored.
        // The configuration is read here, too: the certificate that it belongs to is still there.
        let present = presentConfiguration()
        if case .enroll(let enroll) = order {
            try check(enroll.node)
            try check(enroll, against: present)
        }
        let lists = certificate.revocations.map { Array($0.utf8) }
        let remark = lists.flatMap { credentials.remark(on: $0) }
        do throws(IdentityError) {
            _ = try pending.commit(
                chain: Certificate.all(pem: Array(certificate.chain.utf8)),
                roots: Certificate.all(pem: Array(certificate.roots.utf8)),
                revocationLists: lists
            )
        } catch {
            let isStored = (try? LocalFile.read("\(credentials.path)/cert-chain.pem")) == Array(certificate.chain.utf8)
            throw SignalError(isStored ? .node : .credential, error.message)
        }
        do throws(SignalError) {
            guard case .enroll(let enroll) = order else {
                var ack = try bringUp(nil, id: pending.id, present, service: nil)
                ack.warnings = (ack.warnings ?? []) + [remark].compactMap(\.self)
                ack.allowed = present?.allowed
                return ack
            }
            let remains = present?.remains(for: enroll, id: pending.id)
            let request = enroll.node.completed(by: remains?.request, reaching: issuer)
            var ack = try bringUp(
                request,
                id: pending.id,
                present,
                service: enroll.service,
                keepsService: enroll.node.keeps?.contains("service") == true
            )
            ack.warnings =
                (ack.warnings ?? []) + (remains?.warnings ?? [])
                + [enroll.node.remark(onGatewaysOf: remains?.request)].compactMap(\.self)
                + [present?.exposure(listening: ack.listener), remark].compactMap(\.self)
            return ack
        } catch {
            throw SignalError(error.code, "\(error.message). The new credential is stored")
        }
    }

    /// Has the node run, with another configuration where there is a request for one.
    ///
    /// - Parameter present: What is there; it is put back where the node does not come up with the new one.
    private func bringUp(
        _ request: SignalMessage.NodeRequest?,
        id: SPIFFEID,
        _ present: PresentConfiguration?,
        service: String?,
        keepsService: Bool = false
    ) throws(SignalError) -> SignalMessage.Acknowledgement {
        var unchanged = ["configuration"]
        if let request, try !writeConfiguration(request, id: id) { unchanged = [] }
        do throws(NodeProcess.Failure) {
            let report = try deviceNode.bringUp(
                configurationChanged: unchanged.isEmpty,
                service: service,
                keepsService: keepsService
            )
            if report.outcome == "running" { unchanged.append("node") }
            return .init(
                id: id.description,
                listener: report.listener,
                hbone: DeviceAddresses.reachable(listener: report.listener, connection: connection),
                node: report.outcome,
                unchanged: unchanged,
                service: report.service,
                warnings: report.warnings,
                allowed: request?.allowed,
                renewFrom: request?.renewFrom,
                gateways: request.map { $0.reverse ?? [] }
            )
        } catch {
            // What the node that runs was started with is what the next start finds, too.
            if unchanged.isEmpty, let present { try? AtomicFile.write(present.file, to: node.configuration) }
            throw SignalError(.node, error.message)
        }
    }

    mutating func changeAccess(_ order: SignalMessage.Access) throws(SignalError) -> SignalMessage.Acknowledgement {
        try takeLock()
        let id: SPIFFEID
        do throws(IdentityError) {
            id = try identity(of: .renew)
        } catch {
            throw SignalError(.credential, error.message)
        }
        guard id.description == order.id else {
            throw SignalError(
                .refused,
                "the device is \(id) by now, and not \(Printable.clean(order.id, limit: 200)); `bootstrap enroll` takes it over"
            )
        }
        guard let present = presentConfiguration() else {
            throw SignalError(.refused, "there is no \(node.configuration); `bootstrap enroll` writes one")
        }
        let enroll = SignalMessage.Enroll(id: order.id, node: try SignalMessage.NodeRequest(order))
        try check(enroll, against: present)
        var ack = try bringUp(
            enroll.node.completed(by: present.remains(for: enroll, id: id).request),
            id: id,
            present,
            service: nil
        )
        ack.allowedBefore = present.allowed
        return ack
    }

    mutating func takeRevocations(_ lists: String) throws(SignalError) -> Bool {
        try takeLock()
        do throws(IdentityError) {
            let changed = try credentials.write(revocationLists: Array(lists.utf8))
            if changed, let process = node.runningProcess { node.reload(process) }
            return changed
        } catch {
            throw SignalError(.credential, error.message)
        }
    }

    func offer(for offer: SignalMessage.Offer) -> SignalMessage.Offer {
        let listener = node.runningProcess == nil ? nil : node.listener
        let text = (try? LocalFile.read(node.configuration)).map { String(decoding: $0, as: UTF8.self) }
        let configured = text.map { NodeConfigurationFile.advertised(in: $0) } ?? []
        let gateways = text.map { NodeConfigurationFile.gateways(in: $0) } ?? []
        // Not in the order of who asks: all are told the same.
        let own = listener.map { DeviceAddresses.reachable(listener: $0, connection: nil) } ?? []
        let facts = SignalMessage.Offer(
            id: try? identity(of: .renew).description,
            alpn: ["h2"],
            reverse: !gateways.isEmpty,
            // Of what is not its own, such as a login, it does not speak.
            transports: listener == nil ? [] : ["h2", "h2-over-ssh"],
            candidates: listener == nil
                ? []
                : configured.map { .init(address: $0, source: "configured") }
                    + own.map { .init(address: $0, source: "interface") },
            gateways: gateways
        )
        return DeviceOffer(state: state, now: WallClock.system.seconds).answer(to: offer, saying: facts)
    }

    func note(_ outcome: SignalMessage.Outcome) {
        DeviceOffer(state: state, now: WallClock.system.seconds).note(outcome)
    }

    func endpoints() -> SignalMessage.Endpoints {
        let listener = node.runningProcess == nil ? nil : node.listener
        return .init(hbone: listener.map { DeviceAddresses.reachable(listener: $0, connection: connection) } ?? [])
    }
}
