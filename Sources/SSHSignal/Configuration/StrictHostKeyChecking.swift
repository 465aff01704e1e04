/// What a new host key does to a connection: `StrictHostKeyChecking` of `ssh_config(5)`. A changed or revoked key is
/// refused in every mode.
package enum StrictHostKeyChecking: String, Hashable, Sendable, CaseIterable {
    /// Only hosts that known_hosts names.
    case yes
    /// Asks on a terminal; refuses where there is none. The default.
    case ask
    /// Records the key of a host seen for the first time.
    case acceptNew = "accept-new"
    /// As ``acceptNew``, with a warning: unlike `ssh`, a changed key is refused all the same.
    case no
}
