import MeshIdentity

/// What starts the node on a device again after a crash or a reboot.
package enum ServiceKind: String, Hashable, Sendable, CaseIterable {
    /// A system unit; for root.
    case systemd
    /// A unit of the user's own systemd, which lingers.
    case systemdUser = "systemd-user"
    /// An OpenRC script; for root.
    case openrc
    /// A procd script (OpenWrt); for root.
    case procd
    /// A background process that watches over the node, and an `@reboot` line in the account's crontab.
    case cron
    /// A background process; a reboot ends it.
    case none

    /// What `--service auto` means on the wire.
    package static let automatic = "auto"
}

/// What the service of an installation is called: one name for each, so that several on a machine do not meet.
///
/// `bootstrap-node`, for the usual place; else with the beginning of the hash of the state's path behind it.
package struct ServiceName: Hashable, Sendable, CustomStringConvertible {
    package let description: String

    /// - Parameter state: absolute; its parent is the installation.
    package init(state: String) {
        guard state != "/opt/bootstrap/state" else {
            description = "bootstrap-node"
            return
        }
        description = "bootstrap-node-\(hexadecimal(Digest.sha256(Array(state.utf8)).prefix(4)))"
    }
}
