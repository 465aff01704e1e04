/// What the issuer that renews certificates over the mesh (`bootstrap ca serve`) is called, by both sides.
package enum IssuerName {
    /// Of its identity in each trust domain, `spiffe://TRUST-DOMAIN/ns/bootstrap/sa/issuer`.
    package static let namespace = "bootstrap"
    /// The last part of that identity.
    package static let name = "issuer"
    /// What `:authority` says of a stream to it: a name of its own, which leads nowhere else.
    package static let authority = "issuer.bootstrap:15012"
}
