/// How `ssh_config(5)` wants a user authenticated.
public struct AuthenticationPreferences: Hashable, Sendable {
    /// `publickey`, `keyboard-interactive` and `password` in the order of preference; what is left out is not used.
    public var methods = ["publickey", "keyboard-interactive", "password"]
    /// Nobody is asked anything (`BatchMode`).
    public var isBatch = false
    /// How often a person is asked for a password (`NumberOfPasswordPrompts`), at most 3.
    public var passwordPrompts = 3
    /// GSSAPI or host-based authentication is on, which only `ssh` can do.
    public var wantsSingleSignOn = false

    /// The defaults.
    public init() {}
}
