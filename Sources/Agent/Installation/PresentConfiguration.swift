import MeshIdentity
import Platform
import SSHSignal

/// The node.yaml that is there when an order comes, and what of it stays. A value without I/O.
struct PresentConfiguration {
    let file: [UInt8]
    private let path: String
    /// nil for a file that no enrolment has written, of a node that does not run.
    private let request: SignalMessage.NodeRequest?
    /// Whom it lets in, as a policy names them; nil where nothing tells.
    private let members: String?
    /// The address that it was bound to; nil where nothing tells.
    private let listener: String?
    /// It is not what this release, or one before, has written.
    let isChangedByHand: Bool

    /// - Parameters:
    ///   - path: For people.
    ///   - identity: The credential directory that it is to name.
    ///   - id: Of the certificate that is there; nil: there is none.
    ///   - listener: Where its node says that it listens; nil: it does not.
    init(_ file: [UInt8], path: String, identity: String, id: SPIFFEID?, listener: String? = nil) {
        let text = String(decoding: file, as: UTF8.self)
        let named = NodeConfigurationFile.members(in: text)
        self.file = file
        self.path = path
        let written = NodeConfigurationFile.request(in: text)
        // Whoever has written it in his own way has meant what it does.
        let place = listener.flatMap(NumericAddress.split)
        request = written ?? place.map { .init(bind: $0.address, port: $0.port) }
        self.listener = place?.address ?? written?.bind
        // Other hosts without a port of the device need no policy: then it is about the certificate's namespace.
        members = named ?? id.flatMap { NodeConfigurationFile.members(of: $0) }
        isChangedByHand =
            written.map {
                Array(NodeConfigurationFile.text(identity: identity, members: named, node: $0).utf8) != file
            } ?? true
    }

    /// What others may reach; nil where it is not certain.
    var allowed: [String]? { isChangedByHand ? nil : request?.allowed }

    /// Why an order is refused that is about what is reached and nothing else; nil when it is not.
    func refusal(of order: SignalMessage.Enroll) -> String? {
        guard order.keepsEverything else { return nil }
        guard !isChangedByHand else {
            return "\(path) was changed by hand; change it there, or `bootstrap enroll` writes it anew"
        }
        guard let id = try? SPIFFEID(order.id), isOpenToOthers(than: id) else { return nil }
        return "\(path) is open to \(others), and the device is to be \(id); `bootstrap enroll` writes it anew"
    }

    /// What is left of it for a device of this identity, and what its operator has to know. What members of another
    /// namespace were allowed is not for those of this one.
    func remains(
        for order: SignalMessage.Enroll,
        id: SPIFFEID
    ) -> (
        request: SignalMessage.NodeRequest?, warnings: [String]
    ) {
        var warnings: [String] = []
        if isChangedByHand { warnings.append("\(path) was changed by hand, and is written anew without that") }
        guard isOpenToOthers(than: id), var rest = request else { return (request, warnings) }
        if order.node.keeps?.contains("allow") == true {
            warnings.append(
                """
                what \(others) could reach (\(rest.allowed.joined(separator: ", "))) is closed: the device is \(id) \
                now. `bootstrap allow` opens it to the new namespace
                """
            )
        }
        (rest.allowPorts, rest.allowHosts) = ([], nil)
        return (rest, warnings)
    }

    /// What its operator has to know where more machines can connect to it than could before; nil where not.
    ///
    /// - Parameter place: Where its node listens now, `address:port`.
    func exposure(listening place: String) -> String? {
        guard let listener, let before = IPAddress(listener),
            let now = NumericAddress.split(place).flatMap({ IPAddress($0.address) }), now != before,
            now.isUnspecified ? !before.isUnspecified : before.isLoopback && !now.isLoopback
        else { return nil }
        return """
            the node listened on \(listener) only, and listens on \(place) now: more machines can connect to it. `--hbone-address \
            \(listener)` takes that back
            """
    }

    /// For people.
    private var others: String { members ?? "members of another namespace" }

    /// Something is allowed, and not to the namespace of this identity.
    private func isOpenToOthers(than id: SPIFFEID) -> Bool {
        request?.allowed.isEmpty == false && members != NodeConfigurationFile.members(of: id)
    }
}

extension SignalMessage.Enroll {
    /// It adds to what is reached, or takes away from it, and leaves all else: `allow` and `deny`. An enrolment always
    /// says what is to start the node.
    fileprivate var keepsEverything: Bool {
        service == nil && Set(node.keeps ?? []).isSuperset(of: ["bind", "port", "renewFrom", "allow"])
    }
}
