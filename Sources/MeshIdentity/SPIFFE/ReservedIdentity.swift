/// Names in each trust domain that say what somebody is for, and so are no device's: who has them is obeyed, or let in,
/// by others.
package enum ReservedIdentity {
    /// The namespace of the mesh's own services: the issuer that renews certificates is `ns/bootstrap/sa/issuer`.
    package static let namespace = "bootstrap"
    /// The operator's name in every namespace.
    package static let operatorName = "operator"

    /// Whose signature the mesh's directory has; nobody shows a certificate for it in a handshake.
    package static func directory(of domain: TrustDomain) -> String {
        "spiffe://\(domain)/ns/\(namespace)/sa/directory"
    }
}

extension SPIFFEID {
    /// Why no device may have this identity; nil: one may.
    package var reservation: String? {
        let segments = path.split(separator: "/")
        if segments.count >= 2, segments[0] == "ns", segments[1] == ReservedIdentity.namespace {
            return
                "\(self) is reserved: the namespace '\(ReservedIdentity.namespace)' is for the mesh's own services, such as the issuer"
        }
        if serviceAccount == ReservedIdentity.operatorName {
            return
                "\(self) is reserved: '\(ReservedIdentity.operatorName)' is what the operator is called in each namespace"
        }
        return nil
    }
}
